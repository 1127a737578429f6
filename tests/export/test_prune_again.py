"""Claims about pruning again what is pruned already: any tier can be loaded, analysed, pruned and exported
once more, and a model whose heads have lost value columns weighs what one with silent columns does."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import slimllm
from slimllm import pipeline
from slimllm.calibration import texts
from slimllm.core.types import Analysis, Calibration, Plan
from slimllm.export import checkpoint
from slimllm.export.model_inspection import inspect_model
from slimllm.models import loading
from slimllm.models.families import shape_of
from slimllm.models.loading import Pruned, Subject
from slimllm.planning import plan_making
from slimllm.planning.rules import PlanRules
from slimllm.pruning import masking
from tests.export.test_gguf import worded
from tests.export.test_tiers import by_groups, equal, prune
from tests.support.tiny_models import tiny_subject
from tests.unit.pruning.test_value_columns import KEPT, choices, masked, narrowed


@pytest.fixture
def text(page: Path) -> texts.Text:
    return slimllm.text(str(page))


def analysis_of(subject: Subject, text: texts.Text, method: str = "slimllm", **options: Any) -> Analysis:
    job = pipeline.analyse_model(
        subject, text, Calibration(text.name, 6, 32), method_name=method, options=options
    )
    return pipeline.finish_job(job)


def pruned_to(subject: Subject, plan: Plan, text: texts.Text) -> Pruned:
    return pipeline.finish_job(pipeline.prune_model(subject, plan, text))


# Any tier --------------------------------------------------------------------------------------------------


def first_of(tier: str) -> Pruned:
    if tier == "gguf":
        subject = worded(num_key_value_heads=6)
        return prune(subject, equal(4)(subject))
    subject = tiny_subject(num_key_value_heads=6 if tier in ("native", "twin") else 3)
    return prune(
        subject,
        equal({"native": 4, "twin": 5}[tier])(subject) if tier in ("native", "twin") else by_groups(subject),
    )


@pytest.mark.parametrize("tier", ["native", "twin", "shim", "padded", "gguf"])
def test_an_export_of_any_tier_is_pruned_again(
    tier: str, tmp_path: Path, text: texts.Text, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "reload_elsewhere", lambda *_, **__: [None])
    monkeypatch.setattr(checkpoint, "compare_reload", lambda *_: 0.0)
    given = first_of(tier)
    slimllm.save(given, tmp_path / "first", wanted=tier)
    subject = slimllm.load(str(tmp_path / "first"), device="cpu", dtype="float32")
    assert subject.shape.widths == given.subject.shape.widths  # padding is left out
    found = analysis_of(subject, text)
    second = pruned_to(subject, plan_making.make_plan(found, PlanRules(0.3, align=1)), text)
    done = slimllm.save(second, tmp_path / "second")
    assert done.parameters < 0.9 * given.subject.shape.parameters
    again = loading.load_model(str(tmp_path / "second"), device="cpu", dtype="float32")
    ids = torch.arange(20)[None] * 7 % 256
    with torch.inference_mode():
        assert (again.model(ids).logits - second.subject.model(ids).logits).abs().max() < 1e-5
    facts = json.loads((tmp_path / "second/slimllm.json").read_text())
    assert [row["tier"] for row in facts["ancestors"]] == [tier]
    assert json.loads((tmp_path / "second/plan.json").read_text())["model"] == str(tmp_path / "first")


# Narrow values ---------------------------------------------------------------------------------------------


def both(family: str) -> tuple[Subject, Subject]:
    """One model with narrow values: cut out, and as a dense one with silent columns."""
    subject = tiny_subject(family)
    kept = choices(subject, KEPT)
    deaf = dataclasses.replace(subject, model=masked(subject, kept))
    deaf.model.requires_grad_(False)
    return narrowed(subject, kept), dataclasses.replace(deaf, shape=shape_of(deaf.model, deaf.family))


METHODS = ["slimllm", "wanda-sp", "llm-pruner", "magnitude", "block-influence"]


@pytest.mark.parametrize("family", ["llama", "phi3"])
@pytest.mark.parametrize("method", METHODS)
def test_narrow_values_weigh_what_silent_columns_do(method: str, family: str, text: texts.Text) -> None:
    slim, deaf = both(family)
    one, other = analysis_of(slim, text, method), analysis_of(deaf, text, method)
    for a, b in zip(one.layers, other.layers, strict=True):
        assert a.attention.keys() == b.attention.keys()
        for unit, site in a.attention.items():
            torch.testing.assert_close(
                site.ranking.scores, b.attention[unit].ranking.scores, rtol=1e-3, atol=1e-5
            )
            for recovery in ("none", "bias", "regression"):
                torch.testing.assert_close(
                    site.error[recovery], b.attention[unit].error[recovery], rtol=1e-3, atol=1e-4
                )
        torch.testing.assert_close(a.mlp.ranking.scores, b.mlp.ranking.scores, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "phi3"])
@pytest.mark.parametrize("method", ["slimllm", "llm-pruner", "best", "slimgpt", "flap", "fasp"])
def test_narrow_values_are_pruned_again(method: str, family: str, text: texts.Text) -> None:
    slim, _ = both(family)
    found = analysis_of(slim, text, method)
    plan = plan_making.make_plan(found, PlanRules(0.3, align=1))
    done = pruned_to(slim, plan, text).subject
    assert done.shape.parameters < slim.shape.parameters
    assert done.shape == shape_of(done.model, done.family)
    values = [layer.values for layer in done.shape.layers]
    if method == "fasp":
        assert values == list(plan.heads)
        assert all(now <= before for now, before in zip(values, KEPT, strict=True))
        assert sum(values) < sum(KEPT)
    else:
        assert values == list(KEPT)
        assert done.shape.widths == tuple(
            (h, g, c) for (h, g, _), c in zip(done.shape.widths, plan.channels, strict=True)
        )
    if found.layers[0].sensitivity:
        assert all(layer.sensitivity["attention"] >= 0 for layer in found.layers)


@pytest.mark.parametrize("unit", ["kv-group", "query-head", "value-column"])
def test_narrow_values_pruned_again_equal_silent_columns_pruned(unit: str, text: texts.Text) -> None:
    slim, deaf = both("llama")
    method = "fasp" if unit == "value-column" else "wanda-sp"
    found = analysis_of(slim, text, method)
    heads = {"kv-group": (4, 6, 2), "query-head": (3, 6, 3), "value-column": (3, 5, 1)}[unit]
    plan = dataclasses.replace(
        plan_making.make_plan(found, PlanRules(0.2, align=1)),
        heads=heads,
        channels=(60, 96, 40),
        unit=unit,
        recovery="regression",
        allocation="hand",
    )
    one, other = (pruned_to(subject, plan, text) for subject in (slim, deaf))
    if unit != "value-column":
        assert [layer.kept_heads for layer in one.layers] == [layer.kept_heads for layer in other.layers]
    for a, b in zip(one.layers, other.layers, strict=True):
        assert a.error_measured == pytest.approx(b.error_measured, rel=1e-3)
    ids = torch.arange(40).view(2, 20) * 7 % 256
    with torch.inference_mode():
        torch.testing.assert_close(
            one.subject.model(ids).logits, other.subject.model(ids).logits, rtol=1e-3, atol=1e-3
        )
    silent = masking.mask_units(slim, masking.masks_of(found, dataclasses.replace(plan, recovery="none")))
    whole = masking.mask_units(
        deaf, masking.masks_of(analysis_of(deaf, text, method), dataclasses.replace(plan, recovery="none"))
    )
    with torch.inference_mode():
        torch.testing.assert_close(silent.model(ids).logits, whole.model(ids).logits, rtol=1e-3, atol=1e-3)
    assert not torch.equal(silent.model(ids).logits, slim.model(ids).logits)


def test_the_card_says_how_narrow_values_can_be_pruned_in_an_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "reload_elsewhere", lambda *_, **__: [None])
    monkeypatch.setattr(checkpoint, "compare_reload", lambda *_: 0.0)
    slim, _ = both("llama")
    whole = prune(tiny_subject(), by_groups(tiny_subject()))
    slimllm.save(dataclasses.replace(whole, subject=slim), tmp_path / "small")
    found = inspect_model(str(tmp_path / "small"))
    assert [step.unit for step in found.attention] == ["kv-group", "query-head", "value-column"]
    assert "they can lose more" in found.attention_words
