"""Claims about exports read by transformers 4.57 in an environment of its own (`make elsewhere`): the same
logits, greedy tokens and words as by the present one, in every family and tier that 4.57 knows."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, processors
from tokenizers import models as kinds
from transformers import PreTrainedTokenizerFast

from slimllm.core.errors import Refusal
from slimllm.export import checkpoint, formats, model_card, transformers_versions, verification
from slimllm.models import loading
from slimllm.models.loading import Pruned
from tests.export.test_gguf import worded
from tests.export.test_tiers import LLAMA3_ROPE, by_groups, equal, prune
from tests.support.tiny_models import FAMILY_CONFIGS, MORE_CONFIGS, tiny_subject

PYTHON = (
    str(Path(os.environ.get("SLIMLLM_ELSEWHERE", "")).absolute())
    if os.environ.get("SLIMLLM_ELSEWHERE")
    else ""
)
FAR = {"rope_type": "default", "rope_theta": 123_456.0}
NEAR = {"rope_type": "default", "rope_theta": 777.0}
LINEAR = {"rope_type": "linear", "rope_theta": 70_000.0, "factor": 2.5}
LONG = {"short_factor": [1.0, 1.5, 2.0, 3.0], "long_factor": [2.0, 3.0, 4.0, 8.0]}
LONGROPE = {"rope_type": "longrope", "rope_theta": 50_000.0, **LONG, "original_max_position_embeddings": 16}
YARN = {"rope_type": "yarn", "rope_theta": 5e4, "factor": 4.0, "original_max_position_embeddings": 128}
NESTED = {"sliding_attention": NEAR, "full_attention": FAR}
SAME = {"sliding_attention": FAR, "full_attention": FAR}


def far(family: str) -> dict[str, Any]:
    """A base of positions that is no version's default."""
    return {"gemma3_text": NESTED, "olmo3": SAME}.get(family, FAR)


def pruned(family: str, tier: str, **changes: Any) -> Pruned:
    """A tiny model of the family, cut so that the tier can hold it."""
    subject = tiny_subject(family, **copy.deepcopy({"rope_parameters": far(family), **changes}))
    if subject.family.whole:  # heads stay
        cuts = [(list(range(6)), 40 + 8 * layer * (tier == "shim")) for layer in range(3)]
        return prune(subject, cuts, bias=False)
    if family == "stablelm" and tier == "native":  # which 4 and 5 read at all of its heads only
        return prune(subject, [(list(range(6)), 40)] * 3, bias=False)
    cut = by_groups if tier in ("shim", "padded") else equal(4)
    return prune(subject, cut(subject), bias=tier in ("shim", "twin"))


ROPES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama llama3": ("llama", "native", {"rope_parameters": LLAMA3_ROPE}),
    "llama linear": ("llama", "native", {"rope_parameters": LINEAR}),
    "qwen3 yarn": ("qwen3", "native", {"rope_parameters": YARN}),
    "gemma longrope": ("gemma", "shim", {"rope_parameters": LONGROPE}),
    "phi3 longrope": (
        "phi3",
        "padded",
        {
            "rope_parameters": {"rope_type": "longrope", "rope_theta": 5e4, **LONG},
            "original_max_position_embeddings": 64,
        },
    ),
    "gemma3 linear": (
        "gemma3_text",
        "native",
        {"rope_parameters": {"sliding_attention": NEAR, "full_attention": LINEAR}},
    ),
    "olmo2 linear": ("olmo2", "native", {"rope_parameters": LINEAR}),
    "olmo3 llama3": (
        "olmo3",
        "native",
        {"rope_parameters": {"sliding_attention": {**FAR, "rope_theta": 1e4}, "full_attention": LLAMA3_ROPE}},
    ),
    "glm linear": ("glm", "shim", {"rope_parameters": {**LINEAR, "partial_rotary_factor": 0.5}}),
    "llama tied": ("llama", "native", {"tie_word_embeddings": True}),
}
TIERS = ("native", "twin", "shim", "padded")
EVERY = {
    **{f"{family} {tier}": (family, tier, {}) for family in FAMILY_CONFIGS | MORE_CONFIGS for tier in TIERS},
    **{f"{family} gguf": (family, "gguf", {}) for family in ("llama", "mistral", "qwen2", "qwen3")},
    "llama uneven gguf": ("llama", "uneven gguf", {}),
    **ROPES,
}


def write(root: Path, name: str) -> tuple[Pruned, Path] | None:
    """A case and the folder that it was exported to; None where the tier cannot hold its family."""
    family, tier, changes = EVERY[name]
    if tier.endswith("gguf"):
        subject = worded(family)
        made = prune(subject, by_groups(subject) if "uneven" in tier else equal(4)(subject), bias=False)
    else:
        made = pruned(family, tier, **changes)
    try:
        form = formats.choose_format(made, tier.removeprefix("uneven "))
    except Refusal:
        return None
    folder = root / name.replace(" ", "-")
    folder.mkdir()
    checkpoint.write_checkpoint(form, made, folder)
    return made, folder


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Pruned, Path]]:
    """The cases that can be stored, all written."""
    root = tmp_path_factory.mktemp("older")
    return {name: case for name in EVERY if (case := write(root, name))}


def settings_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


@pytest.mark.slow
@pytest.mark.elsewhere
@pytest.mark.skipif(not PYTHON, reason="SLIMLLM_ELSEWHERE names no python with transformers 4.57")
def test_every_family_and_tier_is_read_alike(exports: dict[str, tuple[Pruned, Path]]) -> None:
    readable = {
        n: c for n, c in exports.items() if not transformers_versions.version_hindrance(settings_of(c[1]))
    }
    assert {tier for _, tier, _ in map(EVERY.__getitem__, exports)} == {*TIERS, "gguf", "uneven gguf"}
    assert {EVERY[name][0] for name in exports} == set(FAMILY_CONFIGS | MORE_CONFIGS)
    assert {EVERY[name][0] for name in exports.keys() - readable.keys()} == {"ministral3", "apertus"}
    found = verification.reload_elsewhere([folder for _, folder in readable.values()], python=PYTHON)
    off = {}
    for (name, (made, _)), reload in zip(readable.items(), found, strict=True):
        off[name] = verification.compare_reload(made.subject, reload)
        assert off[name] <= (1e-4 if "padded" in name else 1e-5), name
    print(f"\n{len(off)} exports, logits differ by at most {max(off.values()):.1e}")


@pytest.mark.slow
@pytest.mark.elsewhere
@pytest.mark.skipif(not PYTHON, reason="SLIMLLM_ELSEWHERE names no python with transformers 4.57")
@pytest.mark.parametrize("name", ["ministral3 native", "apertus native"])
def test_what_needs_a_newer_version_says_so(exports: dict[str, tuple[Pruned, Path]], name: str) -> None:
    """And is not read alike indeed, so that the sentence is no excuse."""
    made, folder = exports[name]
    assert "transformers 5 or newer" in transformers_versions.reader_versions(settings_of(folder))
    with pytest.raises(Refusal, match=r"does not load|gives other results"):
        verification.compare_reload(made.subject, verification.reload_elsewhere([folder], python=PYTHON)[0])


# Tokenizers -------------------------------------------------------------------------------------------------

SAID = ["What remains must say it.", "", "  two  blanks\n\nand lines\t", "<bos>éß 😀", "<extra>a<pad>"]
ASK = """
import json, sys
import transformers
transformers.logging.set_verbosity_error()
for folder in sys.argv[2:]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer(words).input_ids for words in json.loads(sys.argv[1])]
    print(json.dumps([ids, [tokenizer.decode(row) for row in ids], tokenizer.all_special_tokens,
        sorted(tokenizer("a"))]))
"""


def pieces(begins: bool) -> Any:
    """A tokenizer like Llama's or Gemma's: words begin with a sign for a blank, unknown letters are bytes."""
    signs = ["<pad>", "<bos>", "<eos>", "<unk>", "<extra>", *(f"<0x{n:02X}>" for n in range(256)), "▁"]
    signs += [*"abcdefghijklmnopqrstuvwxyzW.", "th", "at"]
    merges = [("t", "h"), ("a", "t")]
    vocabulary = {sign: n for n, sign in enumerate(signs)}
    made = Tokenizer(kinds.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>"))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.add_special_tokens([AddedToken(sign, special=True) for sign in signs[:5]])
    if begins:
        made.post_processor = processors.TemplateProcessing(
            single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", 1)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens=["<extra>"],
        add_bos_token=begins,
    )


@pytest.mark.elsewhere
@pytest.mark.skipif(not PYTHON, reason="SLIMLLM_ELSEWHERE names no python with transformers 4.57")
def test_tokenizers_give_the_same_tokens(tmp_path: Path) -> None:
    folders = []
    for begins in (True, False):
        folder = tmp_path / str(begins)
        pieces(begins).save_pretrained(folder)
        transformers_versions.complete_tokenizer(folder)
        (folder / "config.json").write_text('{"model_type": "llama"}')
        folders.append(str(folder))
    given = ["-c", ASK, json.dumps(SAID), *folders]
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    mine, theirs = (
        subprocess.run([python, *given], text=True, capture_output=True, check=True, env=env).stdout
        for python in (sys.executable, PYTHON)
    )
    assert [json.loads(line) for line in mine.splitlines()] == [
        json.loads(line) for line in theirs.splitlines()
    ]
    for line, begins in zip(mine.splitlines(), (True, False), strict=True):
        ids = json.loads(line)[0]
        assert ids == [pieces(begins)(words).input_ids for words in SAID]
        assert all((row[:1] == [1]) == begins for row in ids[:3])


# The starter ------------------------------------------------------------------------------------------------

CONTINUE = """
import json, sys
import torch, transformers
transformers.logging.set_verbosity_error()
folder, words = sys.argv[1:]
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
ids = tokenizer(words, return_tensors="pt")
with torch.inference_mode():
    logits = model(**ids).logits[0, -1]
    made = model.generate(**ids, max_new_tokens=12, do_sample=False)
print(json.dumps([ids.input_ids.tolist(), logits.double().sum().item(), logits.topk(9).indices.tolist(),
    tokenizer.decode(made[0]), getattr(model.config, "rope_theta", None)]))
"""


@pytest.mark.slow
@pytest.mark.elsewhere
@pytest.mark.skipif(not PYTHON, reason="SLIMLLM_ELSEWHERE names no python with transformers 4.57")
def test_the_starter_writes_the_same(tmp_path: Path) -> None:
    subject = loading.load_model("smollm2", dtype="float32", device="cpu")
    cuts = [(list(range(9)), 1200)] * len(subject.layers)
    made = prune(subject, cuts, bias=False)
    checkpoint.write_checkpoint(formats.choose_format(made, "native"), made, tmp_path)
    given = ["-c", CONTINUE, str(tmp_path), "Water boils when"]
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    mine, theirs = (
        json.loads(
            subprocess.run([python, *given], text=True, capture_output=True, check=True, env=env).stdout
        )
        for python in (sys.executable, PYTHON)
    )
    assert theirs[4] == 100_000
    assert mine[0] == theirs[0]
    assert theirs[1] == pytest.approx(mine[1], rel=1e-5)
    assert mine[2:4] == theirs[2:4]
    print(f"\n{mine[3]!r}, rope_theta {theirs[4]:,.0f}")


# Without another environment --------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "phi", "olmo3", "qwen3"])
def test_a_config_says_the_same_in_both_schemas(family: str, tmp_path: Path) -> None:
    """Each schema alone leads to the same settings, and the older one names what version 4 looks for."""
    made = pruned(family, "shim")
    checkpoint.write_checkpoint(formats.choose_format(made, "shim"), made, tmp_path)
    settings = settings_of(tmp_path)
    assert settings["torch_dtype"] == settings["dtype"] == "float32"
    assert settings["rope_theta"] == 123_456.0
    assert settings.get("rope_local_base_freq") == (777.0 if family == "gemma3_text" else None)
    kind = type(made.subject.model.config)
    older = {key: value for key, value in settings.items() if key != "rope_parameters"}
    newer = made.subject.model.config.to_dict()["rope_parameters"]
    assert kind.from_dict(settings).rope_parameters == newer
    if family != "olmo3":  # whose base version 5 takes from the older schema for one kind of layers only
        assert kind.from_dict(older).rope_parameters == newer


def test_the_readme_says_which_version_reads_an_export(tmp_path: Path) -> None:
    for family, said in (
        ("llama", "read by transformers 4.57 or newer"),
        ("ministral3", "read by transformers 5 or newer, as 4.57 does not know the family ministral3"),
        ("gemma2", "attn_implementation='eager'"),
    ):
        made = pruned(family, "native")
        done = model_card.Export("native", str(tmp_path / family), 1, 1, True, 0.0, "Stored.")
        assert said in model_card.write_readme(done, made, "", ())
