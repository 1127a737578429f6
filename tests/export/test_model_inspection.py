"""The card: what can be done with a model, known from its config and headers, or why nothing can."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from slimllm.cli import main
from slimllm.core.errors import Refusal
from slimllm.export import checkpoint, formats
from slimllm.export import model_inspection as cards
from slimllm.models import loading
from tests.support.tiny_models import (
    FAMILY_CONFIGS,
    MORE_CONFIGS,
    tiny_config,
    tiny_model,
    tiny_subject,
    tiny_tokenizer,
)
from tests.unit.models.test_families import plan_of, prune

FAMILIES = [*FAMILY_CONFIGS, *MORE_CONFIGS]


def saved(
    folder: Path, family: str = "llama", *, shard: str = "1GB", dtype: Any = None, **changes: Any
) -> Path:
    model = tiny_model(family, **changes)
    (model.to(dtype) if dtype else model).save_pretrained(folder, max_shard_size=shard)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights may not be loaded."""

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(transformers.PreTrainedModel, "from_pretrained", never)
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", never)


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize("family", FAMILIES)
def test_families_card_says_what_the_loaded_model_is(family: str, tmp_path: Path) -> None:
    found = cards.inspect_model(str(saved(tmp_path / "m", family)), offline=True)
    shape = tiny_subject(family).shape
    assert found.supported, found.reason
    assert (found.family, found.layers, found.heads, found.groups) == (
        family,
        3,
        shape.heads,
        shape.groups,
    )
    assert found.parameters["all"] == shape.parameters
    assert sum(found.parameters.values()) == 2 * shape.parameters
    assert (found.dtype, found.files) == ("float32", 1)
    assert found.bytes == (tmp_path / "m/model.safetensors").stat().st_size
    steps = {step.unit: step.steps for step in found.attention}
    if family in ("olmo2", "olmo3"):
        assert steps == {"value-column": 8}
        assert found.attention_words.startswith("Heads stay")
    else:
        assert steps["kv-group"] == shape.groups
    text = "\n".join(cards.card_lines(found))
    assert "can be pruned" in text
    assert "transformers" in text


@pytest.mark.parametrize("family", FAMILIES)
def test_families_card_foresees_how_it_will_be_stored(family: str, tmp_path: Path) -> None:
    """What the card says of a kind of plan is what happens to such a plan."""
    subject = tiny_subject(family)
    found = cards.inspect_model(str(saved(tmp_path / "m", family)), offline=True)
    said = {way.plan: way for way in found.exports}
    for recovery, words in (
        ("none", "recovery none"),
        ("regression", "any other recovery"),
    ):
        plan = dataclasses.replace(
            plan_of(subject, "kv-group", recovery), heads=(subject.shape.heads,) * 3, channels=(64, 64, 64)
        )
        form = formats.choose_format(prune(subject, plan))
        way = said[f"Fewer channels, all layers alike, {words}"]
        assert (way.tier, way.stored_as) == (form.tier, formats.name_of(form.model))
        uneven = prune(subject, dataclasses.replace(plan, channels=(64, 96, 80)))
        assert (
            said[f"Layers of different width, {words}"].tier == formats.choose_format(uneven).tier == "shim"
        )
        try:
            padded = formats.choose_format(uneven, "padded").tier == "padded"
        except Refusal:
            padded = False
        assert said[f"Layers of different width, {words}"].padded is padded


def test_the_card_names_the_head_counts_that_need_no_code(tmp_path: Path) -> None:
    changes = {"num_attention_heads": 9, "hidden_size": 72}
    found = cards.inspect_model(str(saved(tmp_path / "m", "llama", **changes)), offline=True)
    step = next(step for step in found.attention if step.unit == "kv-group")
    assert step.heads == (3, 6, 9)
    subject = tiny_subject("llama", **changes)
    for heads in step.heads:
        plan = dataclasses.replace(plan_of(subject, "kv-group"), heads=(heads,) * 3, channels=(48,) * 3)
        assert (formats.choose_format(prune(subject, plan)).tier != "shim") == (heads in step.plain_heads)


@pytest.mark.parametrize("unit", ["kv-group", "value-column"])
def test_the_card_of_a_pruned_model(unit: str, tmp_path: Path) -> None:
    pruned = prune(tiny_subject(), plan_of(tiny_subject(), unit, "regression"))
    checkpoint.write_checkpoint(formats.choose_format(pruned), pruned, tmp_path)
    found = cards.inspect_model(str(tmp_path), offline=True)
    assert found.supported
    assert found.parameters["all"] == pruned.subject.shape.parameters
    assert [way.tier for way in found.exports] == ["shim"]
    assert found.attention[-1].unit == "value-column"
    assert found.attention[-1].steps == pruned.subject.shape.layers[0].values


@pytest.mark.usefixtures("no_weights")
def test_the_card_reads_shards_and_dtypes(tmp_path: Path) -> None:
    folder = saved(tmp_path / "m", "llama", shard="60KB", dtype=torch.bfloat16)
    found = cards.inspect_model(str(folder), offline=True)
    assert found.files > 2
    assert found.dtype == "bfloat16"
    next(folder.glob("*-00002-of-*.safetensors")).unlink()
    found = cards.inspect_model(str(folder), offline=True)
    assert not found.supported
    assert "lacks 1 of its weight files, model-00002" in found.reason


# Refused before weights are read ----------------------------------------------------------------------------


def folder_of(folder: Path, settings: Any) -> Path:
    """A folder with this config.json and a weights file that cannot be read."""
    folder.mkdir(parents=True, exist_ok=True)
    text = settings if isinstance(settings, str) else json.dumps(settings)
    (folder / "config.json").write_text(text)
    (folder / "model.safetensors").write_bytes(b"not weights")
    return folder


def like(kind: str, **settings: Any) -> Callable[[Path], Path]:
    """The default config of a kind of model, as a user has it."""
    return lambda p: folder_of(p, {**transformers.AutoConfig.for_model(kind).to_dict(), **settings})


def llama(**settings: Any) -> Callable[[Path], Path]:
    return lambda p: folder_of(p, {**tiny_config("llama").to_dict(), **settings})


def pickled(folder: Path) -> Path:
    folder_of(folder, tiny_config("llama").to_dict())
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    return folder


def config_only(folder: Path) -> Path:
    (folder_of(folder, tiny_config("llama").to_dict()) / "model.safetensors").unlink()
    return folder


def without_config(folder: Path) -> Path:
    (folder_of(folder, {}) / "config.json").unlink()
    return folder


def worded(folder: Path) -> Path:
    tiny_tokenizer().save_pretrained(folder)
    return folder


CODE = {"AutoConfig": "configuration_zorg.ZorgConfig", "AutoModelForCausalLM": "modeling_zorg.Zorg"}
BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "mixtral": (like("mixtral"), "mixture-of-experts"),
    "qwen3_moe": (like("qwen3_moe"), "mixture-of-experts"),
    "olmoe": (like("olmoe"), "mixture-of-experts"),
    "deepseek_v3": (like("deepseek_v3"), "mixture-of-experts"),
    "4-bit": (
        llama(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
        "unquantised",
    ),
    "gptq": (llama(quantization_config={"quant_method": "gptq", "bits": 4}), "unquantised"),
    "gemma3": (like("gemma3"), "multimodal"),
    "qwen2_vl": (like("qwen2_vl"), "multimodal"),
    "llava": (like("llava"), "multimodal"),
    "bert": (like("bert"), "encoder, which does not write"),
    "roberta": (like("roberta"), "encoder, which does not write"),
    "modernbert": (like("modernbert"), "encoder, which does not write"),
    "t5": (like("t5"), "encoder-decoder"),
    "bart": (like("bart"), "encoder-decoder"),
    "whisper": (like("whisper"), "encoder-decoder"),
    "gpt2": (like("gpt2"), "not described yet"),
    "mamba": (like("mamba"), "not described yet"),
    "unknown": (lambda p: folder_of(p, {"model_type": "zorg"}), "not described yet"),
    "remote code": (lambda p: folder_of(p, {"model_type": "zorg", "auto_map": CODE}), "never run here"),
    "no config": (without_config, "has no config.json"),
    "broken config": (lambda p: folder_of(p, "{"), "not a valid JSON"),
    "a list": (lambda p: folder_of(p, "[1]"), "not a valid JSON object"),
    "nothing in it": (lambda p: folder_of(p, "{}"), "names no model type"),
    "number as type": (lambda p: folder_of(p, {"model_type": 7}), "names no model type"),
    "word as size": (llama(hidden_size="big"), "hidden_size"),
    "no heads": (llama(num_attention_heads=0), "no possible size"),
    "pickles": (pickled, "pickled weights, which can run code"),
    "no weights": (config_only, "no .safetensors weights"),
    "damaged weights": (lambda p: worded(llama()(p)), "damaged or cut off|cannot be loaded"),
    "bad index": (
        lambda p: (llama()(p), (p / "model.safetensors.index.json").write_text("{"))[0],
        "index of the weights",
    ),
}


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize("case", BAD)
def test_bad_input_card_refuses_in_one_sentence(case: str, tmp_path: Path) -> None:
    make, words = BAD[case]
    found = cards.inspect_model(str(make(tmp_path / "m")), offline=True)
    assert not found.supported
    assert re.search(words, found.reason)
    assert "\n" not in found.reason
    assert len(found.reason) < 600
    assert "Traceback" not in found.reason


@pytest.mark.parametrize("case", [name for name in BAD if name != "damaged weights"])
def test_bad_input_load_refuses_as_the_card_does(case: str, tmp_path: Path) -> None:
    folder = str(BAD[case][0](tmp_path / "m"))
    with pytest.raises(Refusal) as caught:
        loading.load_model(folder, offline=True)
    assert " ".join(str(caught.value).split()) == cards.inspect_model(folder, offline=True).reason


def test_cards_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = str(saved(tmp_path / "good", "qwen3")), str(like("mixtral")(tmp_path / "bad"))
    assert main.main(["card", good, "--json", "--offline"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["supported"], answer["family"], answer["layers"]) == (True, "qwen3", 3)
    assert {"exports", "runtimes", "attention", "parameters", "dtype"} <= answer.keys()
    assert main.main(["card", good, "--offline"]) == 0
    assert "can be stored" in capsys.readouterr().out
    assert main.main(["card", bad, "--json", "--offline"]) == 2
    said = capsys.readouterr()
    assert json.loads(said.out)["supported"] is False
    assert "mixture-of-experts" in said.err
    assert main.main(["card", str(tmp_path / "none"), "--offline"]) == 2
    said = capsys.readouterr()
    assert not said.out
    assert said.err.count("\n") == 1
