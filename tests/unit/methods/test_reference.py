"""The naive reference and the product agree: scores, kept sets, repaired weights, and the whole model."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from benchmarks import reference
from slimllm import pipeline
from slimllm.calibration import texts
from slimllm.core.types import Calibration, Plan, Ranking
from slimllm.methods.table import METHODS
from slimllm.models.families import linear_of
from slimllm.models.loading import Subject
from slimllm.planning import plan_making
from slimllm.planning.rules import PlanRules
from tests.support.tiny_models import tiny_subject

CALIBRATION = Calibration(samples=6, length=48)
CLOSE = {"rtol": 1e-5, "atol": 1e-6}  # our moments are summed in float32

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def text(tmp_path: Path) -> texts.Text:
    """Random characters: the tiny models read single bytes, and the first layer's output has full rank only
    where more of them differ than in plain words."""
    file = tmp_path / "characters.txt"
    letters = torch.randint(33, 127, (2000,), generator=torch.Generator().manual_seed(0))
    file.write_text("".join(map(chr, letters.tolist())), encoding="utf-8")
    return texts.find_text(str(file))


@pytest.fixture
def rankings(monkeypatch: pytest.MonkeyPatch) -> list[Ranking]:
    """Every ranking that the product makes by SlimLLM, in order."""
    made: list[Ranking] = []
    row = METHODS["slimllm"]

    def heads(*given: object) -> Ranking:
        made.append(row.heads(*given))  # type: ignore[arg-type]
        return made[-1]

    def channels(*given: object) -> Ranking:
        made.append(row.channels(*given))  # type: ignore[arg-type]
        return made[-1]

    monkeypatch.setitem(METHODS, "slimllm", dataclasses.replace(row, heads=heads, channels=channels))
    return made


def plan_of(subject: Subject, text: texts.Text, unit: str, ratio: float) -> Plan:
    analysis = pipeline.finish_job(pipeline.analyse_model(subject, text, CALIBRATION))
    return plan_making.make_plan(
        analysis, PlanRules(ratio, unit=unit, recovery="regression", allocation="uniform", align=1)
    )


def calibration_tokens(subject: Subject, text: texts.Text) -> torch.Tensor:
    return texts.calibration_tokens(text, subject.tokenizer, CALIBRATION, max_length=subject.shape.max_length)


CASES = [
    *((family, unit) for family in ("llama", "qwen2", "phi3") for unit in ("kv-group", "query-head")),
    ("phi", "kv-group"),  # no groups are shared there, so the other unit offers no choice
]


@pytest.mark.parametrize("ratio", [0.25, 0.5])
@pytest.mark.parametrize(("family", "unit"), CASES)
def test_oracle_pruning_by_slimllm(
    family: str, unit: str, ratio: float, text: texts.Text, rankings: list[Ranking]
) -> None:
    # 4 query heads in each of 3 groups, so that the search has something to swap
    changes = {} if family == "phi" else {"num_attention_heads": 12}
    subject = tiny_subject(family, **changes)
    plan = plan_of(subject, text, unit, ratio)
    rankings.clear()
    ours = pipeline.finish_job(pipeline.prune_model(subject, plan, text))
    masked, naive = reference.prune(subject, plan, calibration_tokens(subject, text))
    expected = list(naive)
    sites = [site for layer in expected for site in (layer.attention, layer.mlp) if site is not None]
    assert len(sites) == len(rankings) >= 3
    for site, ranking in zip(sites, rankings, strict=True):
        torch.testing.assert_close(ranking.scores, site.scores, **CLOSE)
    for index, (report, layer) in enumerate(zip(ours.layers, expected, strict=True)):
        attention, mlp = subject.family.attention.reader, subject.family.mlp.reader
        check_site(report.kept_heads, layer.attention, subject, ours.subject, index, attention)
        check_site(report.kept_channels, layer.mlp, subject, ours.subject, index, mlp)
    ids = texts.evaluation_tokens(text, subject.tokenizer, limit=64)[None]
    with torch.inference_mode():
        logits, naive_logits = (each.model(input_ids=ids).logits for each in (ours.subject, masked))
    torch.testing.assert_close(logits, naive_logits, rtol=1e-3, atol=1e-3)


def check_site(
    kept: tuple[int, ...],
    found: reference.Found | None,
    dense: Subject,
    pruned: Subject,
    index: int,
    name: str,
) -> None:
    """The units kept, and the reader's weight and bias, are the reference's."""
    reader, before = linear_of(pruned.layers[index], name), linear_of(dense.layers[index], name)
    if found is None:
        assert torch.equal(reader.weight, before.weight)
        return
    assert list(kept) == found.kept.tolist()
    torch.testing.assert_close(reader.weight.double(), found.weight, **CLOSE)
    old = before.bias.double() if before.bias is not None else 0.0
    torch.testing.assert_close(reader.bias.double(), found.bias + old, **CLOSE)


def test_the_search_swaps_here_at_all(text: texts.Text, rankings: list[Ranking]) -> None:
    """Else the oracle above would say nothing about it."""
    swaps = 0
    for seed in range(4):
        subject = tiny_subject("llama", num_attention_heads=12, seed=seed)
        rankings.clear()
        plan = plan_of(subject, text, "query-head", 0.5)
        plain = dataclasses.replace(plan, options=(("greedy", False), ("keep_lowest", False)))
        kept = [
            [
                report.kept_heads
                for report in pipeline.finish_job(pipeline.prune_model(subject, each, text)).layers
            ]
            for each in (plan, plain)
        ]
        _, naive = reference.prune(subject, plan, calibration_tokens(subject, text))
        first = next(naive).attention
        assert first is not None
        assert tuple(first.kept.tolist()) == kept[0][0]
        swaps += kept[0] != kept[1]
    assert swaps


def test_constant_outputs_count_zero_and_get_the_whole_mean() -> None:
    """Broken input: an output that never varies has no correlation and no slope."""
    x = torch.randn(40, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weight = torch.tensor([[0.0, 0, 0, 1], [1, 1, 1, 1]], dtype=torch.float64)
    fitted, bias = reference.fit(x, weight, torch.tensor([0, 1]))
    assert fitted[0].tolist() == [0.0, 0.0]
    assert float(bias[0]) == pytest.approx(float(x[:, 3].mean()))
    outputs = [weight[:, h : h + 1] @ x[:, h : h + 1].T for h in range(4)]
    whole = torch.stack(outputs).sum(0)
    assert 0 < reference.similarity(outputs, whole, [0, 1]) < 1
    assert reference.similarity(outputs, whole, [0, 1, 2, 3]) == pytest.approx(2)
