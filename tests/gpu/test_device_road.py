"""The whole road on an accelerator, beside the same road on the processor: load, analyse, prune, recover,
evaluate, generate, offload, tune. Both keep the same units.

`pytest -m gpu tests/gpu` runs it on the accelerator that is here, with the starter model and with two random
layers of a 7B model, and skips itself where there is none. The first model, a tiny one, runs everywhere: on a
machine without an accelerator it compares the processor with itself, which shows that the tests work.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.memory import Made, write
from slimllm import pipeline
from slimllm.calibration import texts
from slimllm.core.devices import CPU, find_accelerator, kind_of
from slimllm.core.memory import available_mib, watch_peak
from slimllm.core.types import Analysis, Calibration, LayerReport, Plan
from slimllm.evaluation import evaluate
from slimllm.export import export_reading
from slimllm.models import offload_loading
from slimllm.models.layer_offload import is_offloaded
from slimllm.models.loading import Pruned, Subject
from slimllm.planning import plan_making
from slimllm.planning.rules import PlanRules
from slimllm.pruning import finetuning

LAYERS_OF_7B = Made(layers=2, hidden=4096, heads=32, groups=32, channels=11008, vocabulary=32_000)
PROMPT = "A model is"
# Two float32 computations may order units differently whose scores differ by less than this share.
TIE = 1e-3
TUNING = finetuning.Tuning(samples=4, length=64, epochs=2, batch=2)


@dataclass(frozen=True, eq=False)
class Walked:
    """What one device made of a model; the plan is the same on both."""

    subject: Subject
    analysis: Analysis
    pruned: dict[str, Pruned]
    reports: dict[str, list[LayerReport]]


@dataclass(frozen=True, eq=False)
class Roads:
    """The road of one model on the processor and on the device."""

    source: str
    text: texts.Text
    plan: Plan
    here: Walked
    there: Walked


def walk_road(
    subject: Subject, text: texts.Text, wanted: Calibration, plan: Plan | None
) -> tuple[Walked, Plan]:
    """Analyse a model and prune it with two recoveries; make the plan unless there is one already."""
    analysis = pipeline.finish_job(
        pipeline.analyse_model(subject, text, wanted, recoveries=("none", "regression"))
    )
    plan = plan or plan_making.make_plan(analysis, PlanRules(0.3, allocation="uniform", align=1))
    pruned, reports = {}, {}
    for name in ("none", "regression"):
        job = pipeline.prune_model(subject, replace(plan, recovery=name, fingerprints=()), text)
        pruned[name] = pipeline.finish_job(job)
        reports[name] = list(pruned[name].layers)
    return Walked(subject, analysis, pruned, reports), plan


def find_device(name: str) -> torch.device:
    """Return the accelerator; where there is none, the processor for the tiny model, and skip the others."""
    found = find_accelerator()
    if found is None and name != "tiny":
        pytest.skip("there is no accelerator here")
    return found or CPU


def source_of(name: str, tiny_folder: Path, place: Path) -> str:
    """Return the model of a case: the tiny one, the starter, or random layers written to a folder."""
    if name == "starter":
        return "smollm2"
    if name == "tiny":
        return str(tiny_folder)
    write(LAYERS_OF_7B, place)
    return str(place)


@pytest.fixture(
    scope="module",
    params=[
        "tiny",
        pytest.param("starter", marks=pytest.mark.gpu),
        pytest.param("7B layers", marks=pytest.mark.gpu),
    ],
)
def roads(
    request: pytest.FixtureRequest,
    tiny_folder: Path,
    text_file: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Roads]:
    device = find_device(request.param)
    if request.param == "tiny":
        request.getfixturevalue("one_thread")
    place = tmp_path_factory.mktemp("road")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLIMLLM_HOME", str(place / "home"))
        source = source_of(request.param, tiny_folder, place)
        text = texts.find_text(text_file)
        wanted = Calibration(text_file, samples=8, length=64)
        here, plan = walk_road(open_model(source, CPU), text, wanted, None)
        there, _ = walk_road(open_model(source, device), text, wanted, plan)
        yield Roads(source, text, plan, here, there)


def open_model(source: str, device: torch.device) -> Subject:
    """Load a model in float32, in which both devices compute alike."""
    return export_reading.load_export(source, device=str(device), dtype="float32", offline=True)


def exchanged_units(one: Iterable[int], other: Iterable[int]) -> list[int]:
    """Return the units that only one of two kept sets holds."""
    return sorted(set(one) ^ set(other))


def check_same_kept(roads: Roads, recovery: str) -> None:
    """Check that both devices keep the same units, but for units whose scores are equal up to rounding."""
    rows = zip(roads.here.reports[recovery], roads.there.reports[recovery], strict=True)
    for index, (one, other) in enumerate(rows):
        assert (one.heads, one.channels) == (other.heads, other.channels)
        assert one.kept_heads == other.kept_heads
        scores = roads.here.analysis.layers[index].mlp.ranking.scores
        if differing := exchanged_units(one.kept_channels, other.kept_channels):
            spread = float(scores[differing].max() - scores[differing].min())
            assert spread <= TIE * float(scores.abs().max()), (index, differing)


def test_device_computes_where_the_model_is(roads: Roads) -> None:
    where = roads.there.subject.device
    for each in roads.there.pruned.values():
        assert {parameter.device for parameter in each.subject.model.parameters()} == {where}
        assert each.peak_memory_mib > 0
    assert 0 < available_mib(where) < float("inf")
    assert watch_peak(where)() > 0
    assert kind_of(where).read_title(where)


def test_device_finds_the_same_scores(roads: Roads) -> None:
    for one, other in zip(roads.here.analysis.layers, roads.there.analysis.layers, strict=True):
        for unit, site in one.attention.items():
            theirs = other.attention[unit].ranking.scores
            torch.testing.assert_close(theirs.cpu(), site.ranking.scores, rtol=1e-2, atol=1e-3)
        torch.testing.assert_close(
            other.mlp.error["regression"].cpu(), one.mlp.error["regression"], rtol=1e-2, atol=1e-4
        )


@pytest.mark.parametrize("recovery", ["none", "regression"])
def test_device_keeps_the_same_units(roads: Roads, recovery: str) -> None:
    check_same_kept(roads, recovery)


def test_device_that_kept_other_units_would_be_noticed(roads: Roads) -> None:
    first, *rest = roads.there.reports["none"]
    others = set(range(len(roads.here.analysis.layers[0].mlp.ranking.scores))) - set(first.kept_channels)
    wrong = replace(first, kept_channels=(*first.kept_channels[1:], max(others)))
    there = replace(roads.there, reports={"none": [wrong, *rest]})
    with pytest.raises(AssertionError):
        check_same_kept(replace(roads, there=there), "none")


def losses_of(walked: Walked, tokens: torch.Tensor) -> dict[str, float]:
    """Return the loss in nats per token of the dense model and of both pruned ones."""
    subjects = {"dense": walked.subject, **{name: each.subject for name, each in walked.pruned.items()}}
    return {
        name: pipeline.finish_job(evaluate.measure_perplexity(subject, tokens, 64)).nll
        for name, subject in subjects.items()
    }


def test_device_measures_the_same_losses(roads: Roads) -> None:
    tokens = texts.evaluation_tokens(roads.text, roads.here.subject.tokenizer, limit=512)
    assert losses_of(roads.there, tokens) == pytest.approx(losses_of(roads.here, tokens), rel=2e-3)


def test_device_generates_text(roads: Roads) -> None:
    subject = roads.there.pruned["regression"].subject
    pieces = list(evaluate.generate_text(subject, PROMPT, max_new_tokens=8, temperature=0.5, seed=1))
    assert pieces
    again = list(evaluate.generate_text(subject, PROMPT, max_new_tokens=8, temperature=0.5, seed=1))
    assert pieces == again
    speed = pipeline.finish_job(evaluate.measure_speed(subject, length=32, new_tokens=4, repeats=2))
    assert speed.prefill_tokens_per_second > 0


def test_device_reads_offloaded_layers(roads: Roads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offload_loading, "available_mib", lambda _: 0.1)
    subject = open_model(roads.source, roads.there.subject.device)
    assert is_offloaded(subject.model)
    plan = replace(roads.plan, recovery="regression", fingerprints=())
    pruned = pipeline.finish_job(pipeline.prune_model(subject, plan, roads.text))
    ids = torch.arange(40, device=subject.device)[None]  # (1, T)
    whole = roads.there
    with torch.inference_mode():
        for one, other in (
            (subject, whole.subject),
            (pruned.subject, whole.pruned["regression"].subject),
        ):
            torch.testing.assert_close(one.model(ids).logits, other.model(ids).logits, rtol=1e-3, atol=1e-3)
    assert [layer.kept_channels for layer in pruned.layers] == [
        layer.kept_channels for layer in whole.reports["regression"]
    ]


def losses_while_tuning(pruned: Pruned, tokens: torch.Tensor) -> tuple[list[float], Any]:
    """Return the loss of every step in nats per token, and the tuned model."""
    losses: list[float] = []
    tuned = pipeline.finish_job(
        finetuning.finetune_model(pruned, tokens, TUNING), lambda step: losses.append(step.result)
    )
    return losses, tuned


def test_device_tunes_the_same_way(roads: Roads) -> None:
    pytest.importorskip("peft")
    tokens = texts.calibration_tokens(
        roads.text,
        roads.here.subject.tokenizer,
        Calibration(roads.text.name, TUNING.samples, TUNING.length),
        max_length=TUNING.length,
    )
    one, _ = losses_while_tuning(roads.here.pruned["regression"], tokens)
    other, tuned = losses_while_tuning(roads.there.pruned["regression"], tokens)
    assert len(one) == 4
    assert other == pytest.approx(one, rel=1e-2)
    assert tuned.subject.device == roads.there.subject.device
