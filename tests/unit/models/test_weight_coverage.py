"""Claims about what weight files hold: one answer in every way of loading, and nothing is dropped without a
word."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from slimllm import pipeline
from slimllm.core.errors import Refusal
from slimllm.evaluation import evaluate
from slimllm.export import checkpoint, formats, model_card, model_inspection
from slimllm.files import rope_scaling
from slimllm.models import loading, offload_loading
from slimllm.models.gguf_fields import FREQUENCIES
from slimllm.models.layer_offload import is_offloaded
from slimllm.models.loading import Subject
from tests.export.test_gguf import worded
from tests.export.test_tiers import LLAMA3_ROPE, by_groups, equal, prune
from tests.support.tiny_models import tiny_model, tiny_tokenizer

IDS = torch.arange(200) * 7 % 256


def folder_of(
    root: Path, change: Callable[[dict[str, Tensor]], None], family: str = "llama", **how: Any
) -> Path:
    """A tiny checkpoint whose tensors were changed."""
    place = root / family
    tiny_model(family, **how).save_pretrained(place)
    tiny_tokenizer().save_pretrained(place)
    tensors = load_file(place / "model.safetensors")
    change(tensors)
    save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
    return place


def whole(place: Path, say: Callable[[str], object] = str) -> Subject:
    return loading.load_model(str(place), dtype="float32", device="cpu", say=say)


@pytest.fixture
def offloaded(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Subject]:
    """Loads as on a machine with too little memory."""

    def load(place: Path, say: Callable[[str], object] = str) -> Subject:
        with monkeypatch.context() as patch:
            patch.setattr(offload_loading, "available_mib", lambda _: 0.1)
            subject = whole(place, say)
        assert is_offloaded(subject.model)
        return subject

    return load


def perplexity(subject: Subject, window: int = 64) -> float:
    ids = IDS.repeat(12)[: max(2 * window, 200)]
    return pipeline.finish_job(evaluate.measure_perplexity(subject, ids, window)).perplexity


# An output matrix of its own --------------------------------------------------------------------------------


def own_head(tensors: dict[str, Tensor]) -> None:
    dice = torch.Generator().manual_seed(3)
    tensors["lm_head.weight"] = torch.randn(256, 48, generator=dice) * 0.2


def test_an_own_head_is_used_however_it_is_loaded(tmp_path: Path, offloaded: Callable[..., Subject]) -> None:
    place, said = folder_of(tmp_path, own_head, tie_word_embeddings=True), []
    one, other = whole(place, said.append), offloaded(place)
    assert perplexity(one) == pytest.approx(perplexity(other), rel=1e-6)
    tied = tiny_model("llama", tie_word_embeddings=True)
    assert perplexity(one) != pytest.approx(perplexity(loading.make_subject("tied", tied, None)), rel=1e-2)
    for subject in (one, other):
        assert torch.equal(
            subject.model.lm_head.weight, load_file(place / "model.safetensors")["lm_head.weight"]
        )
        assert not subject.model.config.tie_word_embeddings
    assert [words for words in said if "another one (lm_head.weight)" in words] == list(one.notes)
    assert one.shape == other.shape
    assert model_inspection.inspect_model(str(place)).parameters["all"] == one.shape.parameters


def test_a_head_that_is_the_embedding_stays_tied(tmp_path: Path, offloaded: Callable[..., Subject]) -> None:
    def same(tensors: dict[str, Tensor]) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

    place = folder_of(tmp_path, same, tie_word_embeddings=True)
    for subject in (whole(place), offloaded(place)):
        assert subject.model.config.tie_word_embeddings
        assert subject.notes == ()
        assert subject.model.lm_head.weight is subject.model.model.embed_tokens.weight


@pytest.mark.parametrize("tier", ["native", "shim", "padded"])
def test_an_export_says_what_it_holds(tier: str, tmp_path: Path) -> None:
    subject = whole(folder_of(tmp_path, own_head, tie_word_embeddings=True))
    made = prune(subject, (equal(4) if tier == "native" else by_groups)(subject), bias=False)
    (tmp_path / "out").mkdir()
    checkpoint.write_checkpoint(formats.choose_format(made, tier), made, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    assert perplexity(whole(tmp_path / "out")) == pytest.approx(perplexity(made.subject), rel=1e-4)


def test_a_model_that_was_untied_in_memory_is_stored_so(tmp_path: Path) -> None:
    model = tiny_model("llama", tie_word_embeddings=True)
    model.lm_head.weight = torch.nn.Parameter(torch.randn(256, 48))
    subject = loading.make_subject("mine", model, tiny_tokenizer())
    made = prune(subject, equal(4)(subject), bias=False)
    checkpoint.write_checkpoint(formats.choose_format(made), made, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["tie_word_embeddings"] is False
    assert perplexity(whole(tmp_path)) == pytest.approx(perplexity(made.subject), rel=1e-4)


# Tensors over, tensors missing ------------------------------------------------------------------------------


def with_tensor(name: str, like: Tensor | None = None) -> Callable[[dict[str, Tensor]], None]:
    return lambda tensors: tensors.update({name: torch.ones(48) if like is None else like})


def loaded_in_every_way(place: Path, offloaded: Callable[..., Subject]) -> list[str]:
    """What loading whole, layer by layer and the card say of the files."""
    said: list[list[str]] = []
    for load in (whole, offloaded):
        try:
            said.append(list(load(place).notes))
        except Refusal as refusal:
            said.append([str(refusal)])
    found = model_inspection.inspect_model(str(place))
    said.append([found.reason or found.notes] if found.reason or found.notes else [])
    assert said[0] == said[1] == said[2]
    return said[0]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model.layers.0.self_attn.q_proj.bias", "has no place"),
        ("model.layers.1.mlp.down_proj.weight_scale", "has no place"),
        ("model.layers.7.input_layernorm.weight", "has no place"),
        ("model.layers.0.self_attn.sinks", "has no place"),
        ("lm_head.bias", "has no place"),
        ("vision_tower.patch.weight", "is not used: this program reads the text model only"),
        ("score.weight", "is not used"),
        ("model.layers.0.self_attn.rotary_emb.inv_freq", ""),
    ],
)
def test_an_extra_tensor_is_refused_or_told(
    name: str, words: str, tmp_path: Path, offloaded: Callable[..., Subject]
) -> None:
    said = loaded_in_every_way(folder_of(tmp_path, with_tensor(name)), offloaded)
    assert len(said) == bool(words)
    assert all(name in line and words in line and line.count(". ") == 0 for line in said)


@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight", "lm_head.weight"])
def test_a_missing_tensor_is_refused(name: str, tmp_path: Path, offloaded: Callable[..., Subject]) -> None:
    def without(tensors: dict[str, Tensor]) -> None:
        del tensors[name]

    place = folder_of(tmp_path, without)
    for load in (whole, offloaded):
        with pytest.raises(Refusal, match=name):
            load(place)
    assert name in model_inspection.inspect_model(str(place)).reason


def test_weights_that_are_codes_are_refused(tmp_path: Path, offloaded: Callable[..., Subject]) -> None:
    key = "model.layers.0.mlp.up_proj.weight"
    place = folder_of(tmp_path, with_tensor(key, torch.ones(96, 48, dtype=torch.int8)))
    assert "which say nothing by themselves; give it unquantised" in loaded_in_every_way(place, offloaded)[0]


def test_tensors_of_other_sizes_are_refused(tmp_path: Path, offloaded: Callable[..., Subject]) -> None:
    key = "model.layers.2.mlp.up_proj.weight"
    place = folder_of(tmp_path, with_tensor(key, torch.ones(80, 48)))
    for load in (whole, offloaded):
        with pytest.raises(Refusal, match=key):
            load(place)
    assert (
        "[96, 48], and the weight files give it [80, 48]" in model_inspection.inspect_model(str(place)).reason
    )


# GGUF -------------------------------------------------------------------------------------------------------

FAR = {**LLAMA3_ROPE, "original_max_position_embeddings": 64}


def exported(root: Path, turn: dict[str, Any]) -> Path:
    """The folder of a GGUF export of a model with this encoding of positions."""
    how = {"max_position_embeddings": 2048, "initializer_range": 0.4}
    subject = worded("llama", rope_parameters=dict(turn), **how)
    made = prune(subject, equal(4)(subject), bias=False)
    folder = root / "packed"
    folder.mkdir()
    checkpoint.write_checkpoint(formats.choose_format(made, "gguf"), made, folder)
    (folder / model_card.FACTS).write_text("{}")
    return folder


def alone(folder: Path) -> Path:
    """The file of an export, in a folder of its own."""
    place = folder.with_name("alone")
    place.mkdir()
    return Path(shutil.copy(folder / "model.gguf", place / "model.gguf"))


@pytest.mark.parametrize(
    "turn", [FAR, {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e4}], ids=["llama3", "linear"]
)
def test_a_gguf_alone_encodes_positions_as_with_its_folder(turn: dict[str, Any], tmp_path: Path) -> None:
    folder = exported(tmp_path, turn)
    one, other = whole(folder), whole(alone(folder))
    assert other.model.config.rope_parameters["rope_type"] == turn["rope_type"]
    assert perplexity(other, 1024) == pytest.approx(perplexity(one, 1024), rel=1e-5)
    plain = {**turn, "rope_type": "default"}
    other.model.config.rope_parameters = plain
    other.model.model.rotary_emb = type(other.model.model.rotary_emb)(other.model.config)
    assert perplexity(other, 1024) != pytest.approx(perplexity(one, 1024), rel=1e-2)


def test_llama3s_settings_are_read_off_their_factors() -> None:
    for theta, size, original, factor in ((5e5, 128, 8192, 8.0), (5e5, 64, 8192, 32.0), (1e4, 8, 64, 8.0)):
        turn = {**LLAMA3_ROPE, "rope_theta": theta, "factor": factor}
        turn["original_max_position_embeddings"] = original
        factors = rope_scaling.llama3_factors(turn, size)
        found = rope_scaling.fit_llama3(factors, theta)
        assert found is not None
        torch.testing.assert_close(rope_scaling.llama3_factors(found, size), factors)
        if size > 8:
            assert found == turn
    assert rope_scaling.fit_llama3(torch.tensor([1.0, 3.0, 2.0, 8.0]), 1e4) is None


def rewritten(
    file: Path, fields: Sequence[tuple[str, Any]] = (), tensors: dict[str, Tensor] | None = None
) -> Path:
    """The file with further or other fields and tensors."""
    reader, made = gguf.GGUFReader(file), file.with_name("other.gguf")
    writer = gguf.GGUFWriter(made, "llama")
    changed = {name for name, _ in fields}
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture" or name in changed:
            continue
        inner = field.types[1] if len(field.types) > 1 else None
        writer.add_key_value(name, field.contents(), field.types[0], inner)
    for name, value in fields:
        kind = {str: "STRING", float: "FLOAT32", int: "UINT32"}[type(value)]
        writer.add_key_value(name, value, gguf.GGUFValueType[kind])
    for tensor in reader.tensors:
        if tensor.name not in (tensors or {}):
            writer.add_tensor(tensor.name, tensor.data)
    for name, values in (tensors or {}).items():
        writer.add_tensor(name, values.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file.unlink()
    return made


@pytest.mark.parametrize(
    ("fields", "tensors", "words"),
    [
        ((), {FREQUENCIES: torch.tensor([1.0, 3.0, 2.0, 8.0])}, "in no way that is known here"),
        ((), {"blk.0.attn_q.bias": torch.ones(32)}, "biases that get lost"),
        ((), {"blk.0.attn_sinks.weight": torch.ones(4)}, "which no part of the model reads"),
        ([("llama.rope.scaling.type", "yarn")], None, "scales its positions by 'yarn'"),
        ([("llama.attention.scale", 0.3)], None, "says attention.scale, which is not read here"),
        ([("llama.rope.dimension_count", 4)], None, "rotates 4 of the 8 numbers"),
        ([("llama.attn_logit_softcapping", 20.0)], None, "has no place"),
    ],
)
def test_what_a_gguf_says_and_nothing_reads_is_refused(
    fields: Sequence[tuple[str, Any]], tensors: dict[str, Tensor] | None, words: str, tmp_path: Path
) -> None:
    file = rewritten(alone(exported(tmp_path, {"rope_type": "default", "rope_theta": 5e4})), fields, tensors)
    with pytest.raises(Refusal, match=words):
        whole(file)


def test_a_gguf_with_harmless_fields_is_read(tmp_path: Path) -> None:
    folder = exported(tmp_path, {"rope_type": "default", "rope_theta": 5e4})
    known = perplexity(whole(folder))
    fields = [("llama.rope.scaling.type", "none"), ("llama.tensor_data_layout", "Meta AI original pth")]
    assert perplexity(whole(rewritten(alone(folder), fields))) == pytest.approx(known, rel=1e-6)
