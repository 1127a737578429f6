"""The long jobs, end to end on tiny models."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from slimllm import pipeline
from slimllm.calibration import texts
from slimllm.core.errors import Refusal
from slimllm.core.types import Analysis, Calibration, Pin, Plan, Progress
from slimllm.evaluation import evaluate
from slimllm.methods.recovery import RECOVERIES
from slimllm.models.loading import Subject
from slimllm.planning import forecast, plan_making, rules
from slimllm.planning.rules import PlanRules
from tests.support.tiny_models import FAMILY_CONFIGS, tiny_subject

CALIBRATION = Calibration(samples=6, length=32)


@pytest.fixture
def text(page: Path) -> texts.Text:
    return texts.find_text(str(page))


def analysis_of(subject: Subject, text: texts.Text, **settings: object) -> Analysis:
    return pipeline.finish_job(pipeline.analyse_model(subject, text, CALIBRATION, **settings))  # type: ignore[arg-type]


def weights(subject: Subject) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in subject.model.state_dict().items()}


@pytest.mark.parametrize("family", list(FAMILY_CONFIGS))
def test_families_analyse_plan_prune(family: str, text: texts.Text) -> None:
    subject = tiny_subject(family)
    analysis = analysis_of(subject, text)
    for unit in subject.shape.units:
        plan = plan_making.make_plan(analysis, PlanRules(0.3, unit=unit, align=1, allocation="uniform"))
        pruned = pipeline.finish_job(pipeline.prune_model(subject, plan, text))
        shape = pruned.subject.shape
        assert tuple(layer.heads for layer in shape.layers) == plan.heads
        assert tuple(layer.channels for layer in shape.layers) == plan.channels
        assert shape.parameters == forecast.forecast_plan(analysis, plan).parameters
        assert all(math.isfinite(layer.error_measured) for layer in pruned.layers)
        ids = texts.evaluation_tokens(text, subject.tokenizer, limit=300)
        assert math.isfinite(
            pipeline.finish_job(evaluate.measure_perplexity(pruned.subject, ids, 32)).perplexity
        )


@pytest.mark.parametrize("method", ["slimllm", "best", "fasp"])
def test_an_analysis_of_one_recovery_leads_to_the_same_plan(method: str, text: texts.Text) -> None:
    subject = tiny_subject("llama")
    whole = analysis_of(subject, text, method_name=method)
    _, recovery = rules.check_combination(method, None, None)
    short = analysis_of(subject, text, method_name=method, recoveries=[recovery])
    assert recovery in short.layers[0].mlp.error
    assert len(short.layers[0].mlp.error) < len(RECOVERIES) == len(whole.layers[0].mlp.error)
    assert plan_making.make_plan(short, PlanRules(0.3)) == plan_making.make_plan(whole, PlanRules(0.3))


@pytest.mark.parametrize("name", list(RECOVERIES))
def test_first_layers_forecast_is_what_is_measured(name: str, text: texts.Text) -> None:
    """Where nothing upstream is damaged: the first layer's MLP, its attention left whole."""
    subject = tiny_subject("llama")
    analysis = analysis_of(subject, text)
    plan = plan_making.make_plan(analysis, PlanRules(0.3, recovery=name, allocation="uniform", align=1))
    plan = forecast.fill_forecast(analysis, dataclasses.replace(plan, heads=(6, 6, 6)))
    first = next(pipeline.prune_model(subject, plan, text)).result
    assert first.error_measured == pytest.approx(first.error_predicted, rel=1e-3)
    assert first.kept_channels == tuple(analysis.layers[0].mlp.ranking.kept(plan.channels[0]).tolist())


def test_ratio_zero_gives_the_dense_model_back_bit_for_bit(any_subject: Subject, text: texts.Text) -> None:
    analysis = analysis_of(any_subject, text)
    pruned = pipeline.finish_job(
        pipeline.prune_model(any_subject, plan_making.make_plan(analysis, PlanRules(0)), text)
    )
    for name, value in pruned.subject.model.state_dict().items():
        assert torch.equal(value, any_subject.model.state_dict()[name])
    assert [layer.error_measured for layer in pruned.layers] == [0.0] * 3


def test_same_plan_same_bits(text: texts.Text) -> None:
    subject = tiny_subject("qwen3")
    plan = plan_making.make_plan(
        analysis_of(subject, text), PlanRules(0.25, recovery="least-squares", align=1)
    )
    first, second = (pipeline.finish_job(pipeline.prune_model(subject, plan, text)) for _ in range(2))
    for name, value in first.subject.model.state_dict().items():
        assert torch.equal(value, second.subject.model.state_dict()[name])


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_cancelling_after_any_step_leaves_nothing_behind(steps: int, text: texts.Text) -> None:
    subject = tiny_subject("phi3")
    before = weights(subject)
    plan = plan_making.make_plan(analysis_of(subject, text), PlanRules(0.3))
    for job in (
        pipeline.prune_model(subject, plan, text),
        pipeline.analyse_model(subject, text, CALIBRATION),
    ):
        for _ in range(steps):
            next(job)
        job.close()
    for name, value in subject.model.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in subject.model.modules())


def test_moments_on_disk_are_used_again_and_only_when_they_fit(tmp_path: Path, text: texts.Text) -> None:
    subject = tiny_subject("llama")
    folder = tmp_path / "moments"
    first = analysis_of(subject, text, folder=folder)
    stamp = (folder / "layer_000.safetensors").stat().st_mtime_ns
    again = analysis_of(subject, text, folder=folder, method_name="wanda-sp")
    assert (folder / "layer_000.safetensors").stat().st_mtime_ns == stamp
    assert again.cosine == first.cosine
    other = dataclasses.replace(CALIBRATION, seed=1)
    pipeline.finish_job(pipeline.analyse_model(subject, text, other, folder=folder))
    assert (folder / "layer_000.safetensors").stat().st_mtime_ns != stamp


def test_an_interrupted_analysis_is_never_taken_for_a_whole_one(tmp_path: Path, text: texts.Text) -> None:
    subject, folder = tiny_subject("llama"), tmp_path / "moments"
    whole = analysis_of(subject, text, folder=folder)
    other = dataclasses.replace(CALIBRATION, seed=5)
    undisturbed = pipeline.finish_job(pipeline.analyse_model(subject, text, other))
    for finished in range(3):
        job = pipeline.analyse_model(subject, text, other, folder=folder)
        for _ in range(min(1, finished) + 1):  # what is told first, and a layer
            step = next(job)
        assert step.done == 1
        job.close()
    seen: list[Progress] = []
    again = pipeline.finish_job(
        pipeline.analyse_model(subject, text, CALIBRATION, folder=folder), seen.append
    )
    assert seen[0].words == "The moments are on disk from an earlier analysis and are used again."
    assert again.cosine == whole.cosine
    job = pipeline.analyse_model(subject, text, other, folder=folder)
    assert "the moments of 1 of 3 layers are used again" in next(job).words
    resumed = pipeline.finish_job(job)
    for here, there in zip(resumed.layers, undisturbed.layers, strict=True):
        assert torch.equal(here.mlp.ranking.scores, there.mlp.ranking.scores)
        assert here.cosine == there.cosine
    assert [path.name for path in tmp_path.glob("*moments*")] == ["moments"]


def test_moments_never_take_the_place_of_other_things(tmp_path: Path, text: texts.Text) -> None:
    thesis = tmp_path / "mine" / "thesis.txt"
    thesis.parent.mkdir()
    thesis.write_text("years of work")
    with pytest.raises(Refusal, match="holds other things than moments"):
        analysis_of(tiny_subject("llama"), text, folder=thesis.parent)
    assert list(thesis.parent.iterdir()) == [thesis]


def test_pins_are_kept_and_cut(text: texts.Text) -> None:
    subject = tiny_subject("llama")
    analysis = analysis_of(subject, text)
    lowest = int(analysis.layers[1].mlp.ranking.order[-1])
    highest = int(analysis.layers[1].mlp.ranking.order[0])
    plan = plan_making.make_plan(
        analysis,
        PlanRules(
            0.3,
            allocation="uniform",
            align=1,
            protected=(Pin(1, "mlp", lowest), Pin(0, "attention", 5)),
            forced=(Pin(1, "mlp", highest),),
        ),
    )
    pruned = pipeline.finish_job(pipeline.prune_model(subject, plan, text))
    assert lowest in pruned.layers[1].kept_channels
    assert highest not in pruned.layers[1].kept_channels
    assert 5 in pruned.layers[0].kept_heads


def test_pruning_what_is_pruned_already(text: texts.Text) -> None:
    subject = tiny_subject("mistral")
    plan = plan_making.make_plan(
        analysis_of(subject, text), PlanRules(0.2, align=1, allocation="logarithmic")
    )
    once = pipeline.finish_job(pipeline.prune_model(subject, plan, text)).subject
    analysis = analysis_of(once, text)
    twice = pipeline.finish_job(
        pipeline.prune_model(once, plan_making.make_plan(analysis, PlanRules(0.2, align=1)), text)
    )
    assert twice.subject.shape.decoder <= 0.8 * once.shape.decoder
    assert once.shape.widths == analysis.shape.widths


def test_progress_counts_every_layer(text: texts.Text) -> None:
    seen: list[Progress] = []
    pipeline.finish_job(pipeline.analyse_model(tiny_subject("llama"), text, CALIBRATION), seen.append)
    assert [p.done for p in seen] == [1, 2, 3]
    assert all(p.total == 3 and p.result is not None for p in seen)


def test_a_plan_for_another_model_is_refused(text: texts.Text) -> None:
    plan: Plan = plan_making.make_plan(analysis_of(tiny_subject("llama"), text), PlanRules(0.2))
    with pytest.raises(Refusal, match="another model"):
        pipeline.finish_job(pipeline.prune_model(tiny_subject("mistral"), plan, text))
