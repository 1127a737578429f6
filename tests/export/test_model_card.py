"""Claims about what an exported folder says of itself: README.md in five lines, and where the model
came from."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import transformers

import slimllm
from slimllm.cli import main
from slimllm.export import checkpoint, export_reading
from slimllm.models import loading
from tests.export.test_tiers import equal, prune, uneven
from tests.support.tiny_models import tiny_subject


@pytest.fixture(autouse=True)
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports that skip the fresh process."""
    monkeypatch.setattr(checkpoint, "reload_elsewhere", lambda *_, **__: [None])
    monkeypatch.setattr(checkpoint, "compare_reload", lambda *_: 0.0)


def lines(folder: Path) -> list[str]:
    return [line for line in (folder / "README.md").read_text().splitlines() if line.startswith("- ")]


@pytest.mark.parametrize("tier", ["shim", "native", "padded"])
def test_an_export_is_labelled_in_five_lines(
    tier: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    subject = tiny_subject()
    pruned = prune(subject, equal(4)(subject), bias=False) if tier == "native" else uneven()
    slimllm.save(pruned, tmp_path / "my small", wanted=tier)
    removed, stored, here, elsewhere, licence = lines(tmp_path / "my small")
    assert removed.startswith("- **Removed** from tiny-llama:")
    assert f"{sum(pruned.plan.heads)} of 18 attention heads" in removed
    assert f"as {tier}" in stored
    assert "tiny-llama" in licence
    monkeypatch.chdir(tmp_path)
    model = eval(elsewhere.split("`")[1], {"transformers": transformers})  # as it stands there
    assert model.num_parameters() >= pruned.subject.shape.parameters
    assert ("trust_remote_code=True" in elsewhere) == (tier == "shim")
    words = shlex.split(here.split("`")[1])
    assert words[:3] == ["python", "-m", "slimllm"]
    assert main.main([*words[3:], "--max-new-tokens", "2", "--dtype", "float32"]) == 0
    assert "tokens: 2" in capsys.readouterr().out


def test_value_columns_are_not_called_heads(tmp_path: Path) -> None:
    pruned = uneven()
    plan = dataclasses.replace(pruned.plan, unit="value-column", heads=(5, 8, 2))
    slimllm.save(dataclasses.replace(pruned, plan=plan), tmp_path / "small")
    assert (
        "kept are 15 value columns in all heads and 200 of 288 MLP channels" in lines(tmp_path / "small")[0]
    )


def facts(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "slimllm.json").read_text())


def again(folder: Path) -> loading.Pruned:
    """What is stored there, pruned once more."""
    subject = loading.load_model(str(folder), device="cpu", dtype="float32")
    return prune(subject, [([0, 1], 32)] * 3)


def test_an_export_knows_what_it_was_pruned_from(tmp_path: Path) -> None:
    first = uneven()
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    slimllm.save(first, one)
    assert facts(one)["ancestors"] == []
    second = again(one)
    slimllm.save(second, two)
    (row,) = facts(two)["ancestors"]
    assert (row["model"], row["tier"], row["parameters"]) == (
        str(one),
        "shim",
        first.subject.shape.parameters,
    )
    assert row["plan"]["model"] == "tiny-llama"
    assert row["plan"]["channels"] == list(first.plan.channels)
    removed, *_, licence = lines(two)
    assert removed.startswith(f"- **Removed** from {one} (itself pruned, from tiny-llama)")
    assert "original model, tiny-llama," in licence
    slimllm.save(again(two), three)
    assert [row["model"] for row in facts(three)["ancestors"]] == [str(one), str(two)]
    assert [row["plan"]["model"] for row in facts(three)["ancestors"]] == ["tiny-llama", str(one)]


def test_an_export_stored_anew_or_trained_keeps_its_past(tmp_path: Path) -> None:
    one, two, copy = (tmp_path / name for name in ("one", "two", "copy"))
    slimllm.save(uneven(), one)
    slimllm.save(again(one), two)
    same = export_reading.as_pruned(loading.load_model(str(two), device="cpu", dtype="float32"))
    slimllm.save(same, copy)
    assert facts(copy)["ancestors"] == facts(two)["ancestors"]


@pytest.mark.parametrize(
    "damage", ["{", "[]", '{"tier": "shim"}', '{"ancestors": 3, "tier": "", "parameters": 1}']
)
def test_an_unreadable_past_stops_nothing(damage: str, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    slimllm.save(uneven(), one)
    second = again(one)
    (one / "slimllm.json").write_text(damage)
    slimllm.save(second, two)
    assert facts(two)["ancestors"] == [{"model": str(one)}]
    assert "Licence" in lines(two)[4]
