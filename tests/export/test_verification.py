"""Claims about the proof that every export goes through: it reads the checkpoint in every way that programs
do, and sees what goes wrong in one of them only; and what was exported can be stored again, byte for byte."""

from __future__ import annotations

import dataclasses
import types
from pathlib import Path

import pytest

import slimllm
from slimllm.core.errors import Refusal
from slimllm.export import checkpoint, export_reading, formats, verification
from slimllm.methods.table import fill_options
from slimllm.models import loading, modeling_slim
from slimllm.models.loading import Pruned
from tests.export.test_gguf import worded
from tests.export.test_tiers import balanced, by_groups, equal, prune, reload_here, uneven
from tests.support.tiny_models import tiny_subject

WAYS = {
    f"{kind} attention, a padded batch and {cache}"
    for kind in ("eager", "sdpa")
    for cache in ("a cache", "no cache")
}


def all_tiers() -> dict[str, Pruned]:
    """One pruned model for every tier, with all that a plan says."""
    odd = tiny_subject("llama", num_key_value_heads=6)
    words = worded("llama", num_key_value_heads=6)
    shim = tiny_subject("llama", attention_bias=True)
    found = {
        "native": prune(tiny_subject(), [([0, 1, 2, 3], 40)] * 3),
        "twin": prune(odd, equal(5)(odd)),
        "shim": prune(shim, by_groups(shim)),
        "padded": uneven(),
        "gguf": prune(words, equal(4)(words)),
    }
    options = tuple(sorted(fill_options("slimllm", {}).items()))
    return {
        tier: dataclasses.replace(pruned, plan=dataclasses.replace(pruned.plan, options=options))
        for tier, pruned in found.items()
    }


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Pruned, Path, verification.Reload]]:
    """Every tier, written, and read in one fresh process."""
    root, given = tmp_path_factory.mktemp("proof"), all_tiers()
    for tier, pruned in given.items():
        (root / tier).mkdir()
        done, form = (
            checkpoint.write_checkpoint(formats.choose_format(pruned, tier), pruned, root / tier),
            formats.choose_format(pruned, tier),
        )
        assert form.tier == tier
        made = checkpoint.Export(tier, str(root / tier), *done, True, 0.0, form.words)
        checkpoint.write_description(made, pruned, root / tier, "", ())
    found = verification.reload_elsewhere([root / tier for tier in given])
    return {
        tier: (pruned, root / tier, reload)
        for (tier, pruned), reload in zip(given.items(), found, strict=True)
    }


@pytest.mark.parametrize("tier", formats.FORMS)
def test_an_export_is_read_in_every_way(
    shelf: dict[str, tuple[Pruned, Path, verification.Reload]], tier: str
) -> None:
    pruned, _, reload = shelf[tier]
    assert verification.compare_reload(pruned.subject, reload) <= 1e-4
    assert set(reload.off) == WAYS
    assert max(reload.off.values()) <= 1e-4


@pytest.mark.parametrize("tier", formats.FORMS)
def test_an_export_stored_again_is_the_same_byte_for_byte(
    shelf: dict[str, tuple[Pruned, Path, verification.Reload]], tier: str, tmp_path: Path
) -> None:
    _, folder, _ = shelf[tier]
    again = export_reading.as_pruned(loading.load_model(str(folder), device="cpu", dtype="float32"))
    wanted = "native" if tier == "twin" else tier  # the twin is what it is now
    (second := tmp_path / "again").mkdir()
    checkpoint.write_checkpoint(formats.choose_format(again, wanted), again, second)
    files = {file.name for file in folder.iterdir()} - {"slimllm.json", "README.md"}
    assert files == {file.name for file in second.iterdir()}
    assert {"config.json", "plan.json", "tokenizer.json"} < files
    for file in sorted(files - {"tokenizer_config.json"}):  # where transformers notes how it was opened
        assert (second / file).read_bytes() == (folder / file).read_bytes(), file


@pytest.mark.slow
def test_an_export_that_fails_in_one_way_only_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Head groups as they were before pruning: sdpa does without a mask, eager attention stumbles."""
    code, line = (
        Path(modeling_slim.__file__).read_text(),
        "    attention.num_key_value_groups = heads // groups\n",
    )
    assert line in code
    (tmp_path / "stale.py").write_text(code.replace(line, ""))
    monkeypatch.setattr(
        checkpoint, "modeling_slim", types.SimpleNamespace(__file__=str(tmp_path / "stale.py"))
    )
    subject = tiny_subject()
    with pytest.raises(Refusal, match=r"does not load in a fresh process .*so nothing was written"):
        slimllm.save(prune(subject, balanced(subject)), tmp_path / "small")
    assert not (tmp_path / "small").exists()


def test_an_export_that_differs_in_one_way_is_named() -> None:
    subject = tiny_subject()
    subject = prune(subject, by_groups(subject)).subject
    good = reload_here(subject)
    for off in (0.01, float("nan")):
        bad = dataclasses.replace(good, off={"sdpa attention": 1e-5, "eager attention": off})
        with pytest.raises(Refusal, match=f"other results with eager attention .logits off by {off}"):
            verification.compare_reload(subject, bad)
