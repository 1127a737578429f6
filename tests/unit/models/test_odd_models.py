"""Claims about odd models: what the card calls fine is loaded, analysed, pruned, exported and writes; what
cannot is refused by the card in one sentence, and by every command with the same one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from slimllm.calibration import texts
from slimllm.cli import main
from slimllm.core.errors import Refusal
from slimllm.evaluation import evaluate
from slimllm.export import checkpoint, model_inspection
from slimllm.models import loading, offload_loading
from tests.support.tiny_models import tiny_tokenizer

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
HELLO = "A model is a long chain of layers."


def save(tensors: dict[str, Tensor], file: Path) -> None:
    save_file(tensors, file, metadata={"format": "pt"})


def alter(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Other tensors in the weights file."""
    tensors = load_file(folder / SINGLE)
    change(tensors)
    save(tensors, folder / SINGLE)


def shard(folder: Path, index: str = INDEX) -> None:
    """The weights in two files and an index; "" for no index."""
    tensors = load_file(folder / SINGLE)
    (folder / SINGLE).unlink()
    where = {name: f"model-{1 + place % 2:05d}-of-00002.safetensors" for place, name in enumerate(tensors)}
    for file in set(where.values()):
        save({name: tensor for name, tensor in tensors.items() if where[name] == file}, folder / file)
    if index:
        (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": where}))


def doubled(folder: Path) -> None:
    """Two sets of weights that differ."""
    tensors = load_file(folder / SINGLE)
    shard(folder)
    save({name: tensor + 1 for name, tensor in tensors.items()}, folder / SINGLE)


def mixed_up(folder: Path) -> None:
    """An index that says of a tensor that it is in the other file."""
    shard(folder)
    index = json.loads((folder / INDEX).read_text())
    files = sorted(set(index["weight_map"].values()))
    index["weight_map"]["model.norm.weight"] = files[index["weight_map"]["model.norm.weight"] == files[0]]
    (folder / INDEX).write_text(json.dumps(index))


def adapt(folder: Path) -> None:
    """An adapter beside its base model."""
    settings = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    save_file({"base_model.model.lora_A.weight": torch.ones(2, 48)}, folder / "adapter_model.safetensors")


def only_adapter(folder: Path) -> None:
    adapt(folder)
    for name in (SINGLE, "config.json"):
        (folder / name).unlink()


def add_tokens(folder: Path, *, special: bool, key: str = "") -> None:
    """Two tokens that the embedding has no rows for, or one that stands for a picture."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<one>"] if key else ["<one>", "<two>"], special_tokens=special)
    tokenizer.save_pretrained(folder)
    if key:
        file = folder / "tokenizer_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), key: "<one>"}))


def old_words(folder: Path, name: str = "", *, made_up: bool = False, added: int = 0) -> None:
    """A tokenizer as it was before tokenizer.json: a vocabulary, merges, and perhaps a class, which makes up
    special tokens where none are named."""
    vocabulary = {**tiny_tokenizer().get_vocab()}
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).unlink()
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    if name:
        ends = {} if made_up else {"unk_token": "a", "eos_token": "a", "bos_token": "a"}
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name, **ends}))
    if added:
        tokens = {f"<{place}>": 256 + place for place in range(added)}
        (folder / "added_tokens.json").write_text(json.dumps(tokens))


def remove(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink() for name in names][:0] and None


def packed(folder: Path, *names: str) -> None:
    (folder / SINGLE).unlink()
    for name in names:
        (folder / name).write_bytes(b"GGUF")


def words_of_another(folder: Path) -> None:
    alter(
        folder, lambda t: t.update({n: t[n][:200] for n in ("model.embed_tokens.weight", "lm_head.weight")})
    )
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 200}))


def eight_bit(tensors: dict[str, Tensor], dtype: torch.dtype) -> None:
    tensors.update({name: tensor.to(dtype) for name, tensor in tensors.items() if tensor.ndim == 2})


FINE: dict[str, Callable[[Path], object]] = {
    "as it is": Path.is_dir,
    "in shards": shard,
    "in shards, the index mixed up": mixed_up,
    "without the name of its maker": lambda f: save_file(load_file(f / SINGLE), f / SINGLE),
    "without the prefix of its names": lambda f: save(
        {name.removeprefix("model."): tensor for name, tensor in load_file(f / SINGLE).items()}, f / SINGLE
    ),
    "pickled weights beside": lambda f: torch.save({}, f / "pytorch_model.bin"),
    "a GGUF beside": lambda f: (f / "small.gguf").write_bytes(b"GGUF"),
    "other tensors beside": lambda f: save({"state": torch.ones(3)}, f / "optimizer.safetensors"),
    "a second index": lambda f: (
        shard(f),
        shutil.copy(f / INDEX, f / "model.fp16.safetensors.index.json"),
    ),
    "an old tokenizer with its class": lambda f: old_words(f, "GPT2Tokenizer"),
    "no generation config": remove("generation_config.json"),
    "an end that the tokenizer's class makes up": lambda f: old_words(f, "GPT2Tokenizer", made_up=True),
    "a token for pictures": lambda f: add_tokens(f, special=True, key="image_token"),
}
REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "an adapter beside": (adapt, "holds an adapter"),
    "only an adapter": (only_adapter, "holds an adapter"),
    "added tokens": (lambda f: add_tokens(f, special=False), "2 added tokens, such as <one>"),
    "added special tokens": (lambda f: add_tokens(f, special=True), "2 added tokens, such as <one>"),
    "tokens added to an old tokenizer": (
        lambda f: old_words(f, "GPT2Tokenizer", added=2),
        "2 added tokens, such as <0>",
    ),
    "words of another model": (words_of_another, "256 words and the model knows 200"),
    "weights twice": (doubled, "holds its weights twice"),
    "shards without an index": (lambda f: shard(f, ""), "2 files of weights and no"),
    "weights of another name": (
        lambda f: (f / SINGLE).rename(f / "weights.safetensors"),
        "are in weights.safetensors; call that file",
    ),
    "only a variant": (lambda f: shard(f, "model.fp16.safetensors.index.json"), "2 files of weights and no"),
    "two GGUFs": (lambda f: packed(f, "a.gguf", "b.gguf"), "holds 2 GGUF files; name one"),
    "an old tokenizer without its class": (old_words, "tokenizer of .* cannot be read"),
    "no tokenizer": (remove("tokenizer.json", "tokenizer_config.json"), "tokenizer of .* cannot be read"),
    "a tokenizer.model of nonsense": (
        lambda f: (
            remove("tokenizer.json", "tokenizer_config.json")(f),
            (f / "tokenizer.model").write_bytes(b"nonsense"),
        ),
        "tokenizer of .* cannot be read",
    ),
    "settings of the tokenizer that are cut off": (
        lambda f: (f / "tokenizer_config.json").write_text("{"),
        "'tokenizer_config.json' of .* cannot be loaded",
    ),
    "whole numbers": (lambda f: alter(f, lambda t: eight_bit(t, torch.int8)), "weights of type I8"),
    "eight bits": (lambda f: alter(f, lambda t: eight_bit(t, torch.float8_e4m3fn)), "weights of type F8"),
}


@pytest.fixture
def folder(tmp_path: Path, tiny_folder: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "odd"))


@pytest.fixture(autouse=True)
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports skip the fresh process, which other tests pay for."""
    monkeypatch.setattr(checkpoint, "reload_elsewhere", lambda *_, **__: [None])
    monkeypatch.setattr(checkpoint, "compare_reload", lambda *_: 0.0)


@pytest.mark.parametrize("case", FINE)
def test_what_the_card_calls_fine_goes_all_the_way(
    case: str, folder: Path, tiny_folder: Path, page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FINE[case](folder)
    assert model_inspection.inspect_model(str(folder)).supported
    reading = ["--model", folder, "--text", page, "--samples", 4, "--length", 32]
    assert main.main([*map(str, ["analyse", *reading, "--out", tmp_path / "A"])]) == 0
    assert main.main([*map(str, ["prune", *reading, "--ratio", 0.3, "--out", tmp_path / "small"])]) == 0
    assert model_inspection.inspect_model(str(tmp_path / "small")).supported
    for place in (folder, tmp_path / "small"):
        assert main.main(["generate", "--model", str(place), "--prompt", HELLO, "--max-new-tokens", "4"]) == 0
    plain, odd = (
        loading.load_model(str(place), device="cpu", dtype="float32") for place in (tiny_folder, folder)
    )
    ids = plain.tokenizer(HELLO, return_tensors="pt").input_ids
    assert torch.equal(odd.model(ids).logits, plain.model(ids).logits)
    monkeypatch.setattr(offload_loading, "too_large", lambda *_: True)
    if case != "without the prefix of its names":  # which is told to need a larger memory
        offloaded = loading.load_model(str(folder), device="cpu", dtype="float32")
        assert torch.allclose(offloaded.model(ids).logits, plain.model(ids).logits, atol=1e-5)


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_card_refuses_every_command_refuses_with_the_same_sentence(
    case: str, folder: Path, page: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, words = REFUSED[case]
    change(folder)
    found = model_inspection.inspect_model(str(folder))
    assert not found.supported
    assert "\n" not in found.reason
    with pytest.raises(Refusal, match=words) as told:
        loading.load_model(str(folder), device="cpu")
    assert str(told.value) == found.reason
    out = tmp_path / "new"
    for line in (
        f"card {folder}",
        f"analyse --model {folder} --text {page} --samples 2 --length 8 --out {out}",
        f"prune --model {folder} --text {page} --samples 2 --length 8 --ratio 0.3 --out {out}",
        f"generate --model {folder} --prompt hello",
    ):
        capsys.readouterr()
        assert main.main(line.split()) == 2
        assert capsys.readouterr().err.splitlines()[-1] == f"slimllm: {found.reason}"
    assert not list(out.glob("*"))


def test_a_token_for_pictures_is_refused_where_a_text_has_it(folder: Path, tmp_path: Path) -> None:
    add_tokens(folder, special=True, key="image_token")
    subject = loading.load_model(str(folder), device="cpu", dtype="float32")
    (tmp_path / "page.txt").write_text("See <one> here. " * 50)
    ids = texts.evaluation_tokens(texts.find_text(str(tmp_path / "page.txt")), subject.tokenizer)
    for read in (
        lambda: next(evaluate.measure_perplexity(subject, ids, 16)),
        lambda: next(evaluate.generate_text(subject, "See <one>")),
    ):
        with pytest.raises(Refusal, match="holds '<one>', a token that this model has no row for"):
            read()
