"""Fine-tuning on the page, without a browser: what may be asked for, how many steps that takes, what is kept
of it and said about it."""

from __future__ import annotations

import importlib.util
import json
import math
from typing import Any

import pytest

from slimllm.core.errors import Refusal
from slimllm.planning import plan_making
from slimllm.planning.rules import PlanRules
from slimllm.pruning import finetuning
from slimllm.pruning.finetuning import Tuning
from tests.support.made_up_analyses import synthetic_analysis
from ui.charts import training_charts
from ui.facts.runs import Column, Protocol, Run, run_from_dict, run_to_dict
from ui.session.finetuning_state import (
    BATCH,
    LENGTH,
    FineTuning,
    Measured,
    TuningRequest,
    lineage_words,
    read_tuning_request,
    reads_better,
    table_of,
    tuning_of,
)
from ui.session.forms import TuningForm
from ui.session.session import Session
from ui.tabs.history import finetuning_panel
from ui.tasks.finetuning_run import measuring_protocols


def request(text: str = "encyclopedia", steps: int = 100) -> TuningRequest:
    return TuningRequest(text, steps, 1e-3)


@pytest.mark.parametrize("steps", [1, 7, 12, 100, 101])
@pytest.mark.parametrize("batches", [1, 3, 50, 1000])
def test_a_tuning_takes_exactly_the_wished_steps_and_reads_what_there_is(steps: int, batches: int) -> None:
    tokens = batches * BATCH * LENGTH + 17
    wanted = tuning_of(request("some", steps), tokens, 512)
    assert finetuning.count_steps(wanted.samples, wanted) == steps
    assert wanted.samples * wanted.length <= tokens
    if batches >= steps:
        assert wanted.epochs == 1


def test_a_model_that_reads_little_at_once_gets_short_pieces() -> None:
    assert tuning_of(request(steps=3), 10_000, 40).length == 40


def test_a_text_shorter_than_one_step_is_refused() -> None:
    with pytest.raises(Refusal, match="choose a longer text"):
        tuning_of(request("short"), BATCH * LENGTH - 1, 512)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (("", 100, 1e-3), "no text"),
        ((None, 100, 1e-3), "no text"),
        (("encyclopedia", 0, 1e-3), "Steps must be"),
        (("encyclopedia", 2.5, 1e-3), "Steps must be"),
        (("encyclopedia", None, 1e-3), "Steps must be"),
        (("encyclopedia", 100, 0), "learning rate"),
        (("encyclopedia", 100, math.nan), "learning rate"),
        (("encyclopedia", 100, 2.0), "learning rate"),
        (("encyclopedia", 100, None), "learning rate"),
        (("encyclopedia", 100, True), "learning rate"),
    ],
)
def test_what_cannot_be_tuned_is_one_sentence(asked: tuple[Any, ...], words: str) -> None:
    with pytest.raises(Refusal, match=words):
        read_tuning_request(TuningForm(*asked))


def test_without_peft_the_panel_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    session = Session("someone-without-peft")
    assert "pip install peft==" in finetuning_panel.draw_tuning_words(session)
    assert not finetuning_panel.can_finetune(session)
    with pytest.raises(Refusal, match="pip install peft=="):
        read_tuning_request(TuningForm("encyclopedia", 100, 1e-3))


def tuned_run() -> Run:
    plan = plan_making.make_plan(synthetic_analysis(layers=3), PlanRules(0.2))
    columns = {
        "dense": Column(100, 200, 10.0),
        "pruned": Column(80, 160, 30.0),
        "recovered": Column(81, 162, 20.0),
        "tuned": Column(81, 162, 15.0),
    }
    return Run(
        2,
        "2026-11-26T01:00:00+00:00",
        plan,
        Protocol(),
        columns,
        parent=1,
        told=lineage_words(request(steps=12)),
        tunings=(Tuning(samples=48, epochs=1), Tuning(text="a.txt", rate=5e-4)),
    )


def test_a_tuned_run_is_kept_with_its_tunings_and_stands_for_the_tuned_model() -> None:
    run = tuned_run()
    again = run_from_dict(json.loads(json.dumps(run_to_dict(run))))
    assert again == run
    assert (again.best_name, again.best.perplexity) == ("tuned", 15.0)
    assert again.told == "fine-tuned 12 steps on encyclopedia"


def test_a_run_kept_before_there_was_tuning_is_still_read() -> None:
    data = run_to_dict(tuned_run())
    for name in ("told", "tunings"):
        del data[name]
    del data["columns"]["tuned"]
    run = run_from_dict(data)
    assert (run.told, run.tunings, run.best_name) == ("", (), "recovered")


def test_it_is_measured_as_the_run_was_and_on_what_it_learns() -> None:
    run = tuned_run()
    assert measuring_protocols(run, request("encyclopedia")) == [Protocol()]
    assert [one.text for one in measuring_protocols(run, request("own.txt"))] == ["encyclopedia", "own.txt"]


def test_the_table_fills_up_and_is_harmless() -> None:
    row = Measured(Protocol("<b>.txt"), 20.0)
    shown = FineTuning(1, request(), measured=[row])
    table = table_of(shown, True)
    assert "&lt;b&gt;.txt" in table
    assert "<td>20.00</td><td>…</td>" in table
    assert "measured on what it learned" in table
    shown.measured = [Measured(Protocol(), 20.0, 15.0)]
    assert "−25.0 %" in table_of(shown, False)
    assert reads_better(shown.measured[0])
    assert not reads_better(row)
    assert not reads_better(Measured(Protocol(), 20.0, math.inf))


def test_the_loss_curve_is_as_long_as_the_training_will_be_and_smooths_it() -> None:
    figure = training_charts.loss_chart([4.0, 2.0, 3.0], 20)
    raw, mean = figure.data
    assert list(raw.y) == [4.0, 2.0, 3.0]
    assert list(mean.y) == [4.0, 3.0, 2.5]
    assert tuple(figure.layout.xaxis.range) == (1, 20)
    assert len(training_charts.loss_chart([1.0] * 5000, 5000).data[0].x) <= 450
