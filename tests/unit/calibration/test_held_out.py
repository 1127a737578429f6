"""Claims about calibration tokens that are held out: which they are, and that errors are told on them, of
repairs fitted to the others."""

from __future__ import annotations

import dataclasses
import random
import string
from pathlib import Path

import pytest
import torch
from torch import Tensor

from slimllm import pipeline
from slimllm.calibration import moments as streaming
from slimllm.calibration import texts
from slimllm.core import held_out
from slimllm.core.held_out import HeldOut, HeldOutReader, choose_held_out, join_held_out
from slimllm.core.shapes import Grouping
from slimllm.core.types import Analysis, Calibration, Drift, Moments
from slimllm.methods.recovery import RECOVERIES
from slimllm.models import loading
from slimllm.models.families import linear_of
from slimllm.models.loading import Subject
from slimllm.planning import forecast, plan_making
from slimllm.planning.rules import PlanRules
from tests.support.tiny_models import tiny_subject

CALIBRATION = Calibration(samples=6, length=32)
HELD = choose_held_out(6, 32)


@pytest.fixture
def text(page: Path) -> texts.Text:
    return texts.find_text(str(page))


def analysis_of(subject: Subject, text: texts.Text, method: str) -> Analysis:
    return pipeline.finish_job(pipeline.analyse_model(subject, text, CALIBRATION, method_name=method))


def caught(subject: Subject, index: int, reader: str, tokens: Tensor) -> Tensor:
    """What a reader reads at every token (S, T, d), in float64."""
    found: list[Tensor] = []
    handle = linear_of(subject.layers[index], reader).register_forward_pre_hook(
        lambda _, x: found.append(x[0])
    )
    with torch.inference_mode():
        subject.model(input_ids=tokens, use_cache=False)
    handle.remove()
    return found[0].double()


def moments_of(x: Tensor, weights: Tensor | None = None) -> Moments:
    w = torch.ones(len(x), dtype=x.dtype) if weights is None else weights.to(x)
    return Moments(w @ x / w.sum(), (x * w[:, None]).T @ x / w.sum(), len(x), float(w.mean()))


def naive(x: Tensor, weight: Tensor, kept: Tensor, recovery: str, weights: Tensor | None = None) -> float:
    """The error (S, T, d) of a repair fitted to the tokens that are kept in, token by token on the others."""
    w = torch.ones(x.shape[:2]) if weights is None else weights
    repair = RECOVERIES[recovery].repair(weight, moments_of(x[~HELD], w[~HELD]), kept)
    lost = energy = 0.0
    for row, count in zip(x[HELD], w[HELD].tolist(), strict=True):
        y = weight @ row
        guess = repair.weight @ row[kept] + (0 if repair.bias is None else repair.bias)
        lost, energy = lost + count * float((y - guess) @ (y - guess)), energy + count * float(y @ y)
    return lost / energy


# Which -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [1, 2, 3, 4, 5, 9, 12, 64, 400])
@pytest.mark.parametrize("length", [2, 3, 128, 256, 5000])
def test_some_tokens_are_held_out_and_more_are_left(samples: int, length: int) -> None:
    held = choose_held_out(samples, length)
    assert held.shape == (samples, length)
    assert 1 <= held.sum() <= held_out.MOST_HELD_OUT
    assert held.sum() <= max(1, held.numel() // 2)
    if samples > 1 and length <= held_out.MOST_HELD_OUT:
        assert all(row.all() or not row.any() for row in held)  # no sample on both sides
    if samples >= 5:
        assert held.sum() <= samples * length // held_out.HELD_OUT_SHARE


def test_samples_held_out_are_spread_over_all() -> None:
    assert choose_held_out(12, 128).any(1).nonzero().flatten().tolist() == [3, 9]
    assert choose_held_out(64, 256).any(1).nonzero().flatten().tolist() == [8, 24, 40, 56]


# Moments ---------------------------------------------------------------------------------------------------


def test_oracle_fitted_moments_are_those_of_the_other_tokens() -> None:
    g = torch.Generator().manual_seed(0)
    x, e = (torch.randn(40, n, generator=g, dtype=torch.float64) + 1 for n in (6, 3))
    weights, held = torch.rand(40, generator=g) + 0.1, torch.arange(40) % 5 == 2

    def drift(chosen: Tensor) -> Drift:
        w = weights[chosen].double()
        lack = e[chosen] * w[:, None]
        return Drift(lack.sum(0) / w.sum(), lack.T @ x[chosen] / w.sum())

    everything = torch.ones(40, dtype=torch.bool)
    parts = [HeldOut(x[i : i + 1], weights[i : i + 1], e[i : i + 1]) for i in held.nonzero().flatten()]
    whole = dataclasses.replace(moments_of(x, weights), drift=drift(everything), held=join_held_out(parts))
    found, expected = whole.fitted, moments_of(x[~held], weights[~held])
    assert found.tokens == expected.tokens
    assert found.held is None
    torch.testing.assert_close(found.mean, expected.mean)
    torch.testing.assert_close(found.gram, expected.gram)
    assert found.weight == pytest.approx(expected.weight, rel=1e-6)
    assert found.drift is not None
    torch.testing.assert_close(found.drift.mean, drift(~held).mean)
    torch.testing.assert_close(found.drift.cross, drift(~held).cross)


@pytest.mark.parametrize("weighted", [False, True])
def test_holding_out_changes_no_moment(weighted: bool) -> None:
    """The weights are fitted to all tokens, in the same order of summation as ever."""
    subject, tokens = tiny_subject("llama"), torch.arange(96).view(6, 16) % 60
    one, two = (streaming.embed_tokens(subject, tokens, held) for held in (None, choose_held_out(6, 16)))
    mine, theirs = (streaming.collect_moments(subject, stream, 0, weighted) for stream in (one, two))
    assert mine.mlp.held is None
    assert theirs.mlp.held is not None
    assert len(theirs.mlp.held.inputs) == 16
    for a, b in ((mine.attention, theirs.attention), (mine.mlp, theirs.mlp)):
        assert torch.equal(a.gram, b.gram)
        assert torch.equal(a.mean, b.mean)
        assert a.weight == b.weight


# Forecast --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["slimllm", "fasp", "best"])
def test_oracle_curves_are_the_errors_on_samples_held_out(method: str, text: texts.Text) -> None:
    """Every recovery, every unit of attention and the channels, beside one fit per width on activations."""
    subject = tiny_subject("llama")
    analysis = analysis_of(subject, text, method)
    tokens = texts.calibration_tokens(text, subject.tokenizer, CALIBRATION, max_length=512)
    with torch.inference_mode():
        hidden = subject.model(input_ids=tokens, use_cache=False, output_hidden_states=True).hidden_states
    for index, layer in enumerate(analysis.layers[:2]):
        shape, family = subject.shape.layers[index], subject.family
        weights = 1 / hidden[index + 1].float().square().sum(-1) if method == "best" else None
        x = caught(subject, index, family.attention.reader, tokens)
        weight = linear_of(subject.layers[index], family.attention.reader).weight.double()
        for unit, site in layer.attention.items():
            grouping = Grouping(shape.heads, shape.groups, unit, shape.values)
            widest, steps = shape.widest(unit), shape.steps(unit)
            for step in range(steps + 1):
                kept = grouping.inputs_of(site.ranking.kept(step * widest // steps, widest), shape.values)
                for name, curve in site.error.items():
                    exact = naive(x, weight, kept, name, weights)
                    assert float(curve[step]) == pytest.approx(exact, rel=1e-3, abs=1e-5), (unit, step, name)
        x = caught(subject, index, family.mlp.reader, tokens)
        weight = linear_of(subject.layers[index], family.mlp.reader).weight.double()
        for width in (0, 1, shape.channels // 2, shape.channels - 1, shape.channels):
            for name, curve in layer.mlp.error.items():
                exact = naive(x, weight, layer.mlp.ranking.kept(width), name, weights)
                assert float(curve[width]) == pytest.approx(exact, rel=1e-3, abs=1e-5), (width, name)


@pytest.mark.parametrize(("samples", "better"), [(6, "regression"), (64, "least-squares")])
def test_the_forecast_orders_recoveries_as_other_text_does(samples: int, better: str, tmp_path: Path) -> None:
    """2 tokens per channel are too few for least squares, 21 are enough; on what was learned it looks better
    both times."""
    dice, page = random.Random(0), tmp_path / "words.txt"
    words = ["".join(dice.choices(string.ascii_lowercase, k=dice.randint(2, 8))) for _ in range(300)]
    page.write_text(" ".join(dice.choices(words, k=8000)))
    subject, text, calibration = (
        tiny_subject("llama"),
        texts.find_text(str(page)),
        Calibration("", samples, 32),
    )
    analysis = pipeline.finish_job(pipeline.analyse_model(subject, text, calibration))
    learned = texts.calibration_tokens(text, subject.tokenizer, calibration, max_length=512)
    fresh = texts.evaluation_tokens(text, subject.tokenizer, limit=4096).view(-1, 32)
    reader = subject.family.mlp.reader
    for index, layer in enumerate(analysis.layers[:2]):
        weight = linear_of(subject.layers[index], reader).weight.double()
        kept = layer.mlp.ranking.kept(76)  # of 96
        seen, unseen = (caught(subject, index, reader, t).flatten(0, 1) for t in (learned, fresh))
        errors: dict[str, tuple[float, float, float]] = {}
        for name in ("regression", "least-squares"):
            repair = RECOVERIES[name].repair(weight, moments_of(seen), kept)
            told = float(layer.mlp.error[name][76])
            mine, other = (
                HeldOutReader(weight, HeldOut(x, torch.ones(len(x)))).error(kept, repair.weight, repair.bias)
                for x in (seen, unseen)
            )
            errors[name] = mine, other, told
        in_sample, true, forecast = (
            min(errors, key=lambda name, place=place: errors[name][place]) for place in range(3)
        )
        assert in_sample == "least-squares"
        assert forecast == true == better


@pytest.mark.slow
def test_the_forecast_of_the_starter_orders_recoveries_as_perplexity_does() -> None:
    """From 12 × 128 tokens, at 20 %: perplexity 35.3 with regression, 51.0 with least squares."""
    subject, text = loading.load_model("smollm2", offline=True), texts.find_text("encyclopedia")
    names, calibration = ("regression", "least-squares"), Calibration(samples=12, length=128)
    analysis = pipeline.finish_job(pipeline.analyse_model(subject, text, calibration, recoveries=names))
    errors = [
        forecast.forecast_plan(
            analysis, plan_making.make_plan(analysis, PlanRules(0.2, recovery=name))
        ).total_error
        for name in names
    ]
    assert errors[0] < 0.8 * errors[1]


@pytest.mark.parametrize("recovery", ["none", "regression", "least-squares"])
def test_oracle_measured_error_is_that_of_a_fit_that_has_not_seen_the_tokens(
    recovery: str, text: texts.Text
) -> None:
    """The last layer's MLP in the pruned stream, beside a fit on its activations."""
    subject = tiny_subject("gemma2")
    plan = plan_making.make_plan(
        analysis_of(subject, text, "slimllm"), PlanRules(0.3, recovery=recovery, align=1)
    )
    plan = dataclasses.replace(plan, heads=(6, 6, 6), channels=(96, 96, 40))
    pruned = pipeline.finish_job(pipeline.prune_model(subject, plan, text))
    tokens = texts.calibration_tokens(text, subject.tokenizer, CALIBRATION, max_length=512)
    readers, energy = (subject.family.mlp.reader, subject.family.attention.reader), []
    for reader in readers:  # what reaches the last layer is dense, as it is the only one that is cut
        x, weight = caught(subject, 2, reader, tokens), linear_of(subject.layers[2], reader).weight.double()
        energy.append(float((x @ weight.T).square().sum()))
    x, weight = (
        caught(subject, 2, readers[0], tokens),
        linear_of(subject.layers[2], readers[0]).weight.double(),
    )
    exact = naive(x, weight, torch.tensor(pruned.layers[2].kept_channels), recovery)
    measured = pruned.layers[2].error_measured
    assert measured == pytest.approx(exact * energy[0] / sum(energy), rel=1e-3)
