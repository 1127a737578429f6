"""Runs without a page: kept on disk, deleted and brought back, told in words, drawn beside each other, made
again from a command line."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slimllm import pipeline
from slimllm.calibration import texts
from slimllm.cli import commands, main, terminal
from slimllm.core.errors import Refusal
from slimllm.core.types import Analysis, Calibration, Pin, Plan
from slimllm.planning.plan_json import plan_text, read_plan
from slimllm.planning.plan_making import adjust_plan, make_plan
from slimllm.planning.rules import PlanRules
from slimllm.pruning.finetuning import Tuning
from tests.support.made_up_analyses import synthetic_analysis
from tests.support.made_up_runs import family, reports_of, run_of
from tests.support.serving import by_columns, without_layers
from tests.support.tiny_models import tiny_subject
from ui.charts import result_charts
from ui.charts.chart_style import payload_bytes
from ui.charts.plan_difference_map import difference_chart
from ui.facts.command_line import command_line, plan_name, rules_of
from ui.facts.plan_changes import summarise_changes, told_change, uncut_plan
from ui.facts.run_maps import CELLS, portrait_of
from ui.facts.runs import Protocol, Run, run_from_dict, run_to_dict
from ui.html import runs_table
from ui.look import formatting
from ui.session.kept.run_history import PRESENT, Archive, complete_run
from ui.session.kept.run_store import KEPT_DELETED, RunStore
from ui.session.registry import Registry
from ui.session.session import Session
from ui.tabs.history import downloads, history_tab, plan_difference

OWNER = "a" * 24


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return synthetic_analysis(layers=6, heads=9, groups=3, head_size=8, channels=256)


@pytest.fixture(scope="module")
def runs(analysis: Analysis) -> list[Run]:
    return family(analysis)


@pytest.fixture
def session(runs: list[Run]) -> Session:
    """A session that finds four runs on disk."""
    for run in runs:
        RunStore(OWNER).put(run)
    return Registry().open(OWNER)


# On disk ----------------------------------------------------------------------------------------------------


def test_a_run_survives_json_whole(runs: list[Run]) -> None:
    run = dataclasses.replace(runs[1], note="<b>", pinned=True, exported={"tier": "shim"})
    assert run_from_dict(json.loads(json.dumps(run_to_dict(run)))) == run


def test_a_run_of_an_older_version_is_read(runs: list[Run]) -> None:
    data = run_to_dict(runs[0])
    for later in ("told", "rules", "dtype", "note", "pinned", "answers", "portrait", "found"):
        del data[later]
    found = run_from_dict(data)
    assert (found.plan, found.portrait, found.note) == (runs[0].plan, None, "")


def test_runs_outlive_the_session_and_belong_to_one_browser(session: Session, runs: list[Run]) -> None:
    session.archive.amend(2, note="keep", pinned=True)
    again = Registry().open(OWNER)
    assert [run.number for run in again.runs] == [1, 2, 3, 4]
    assert (again.run(2).note, again.run(2).pinned, again.archive.chosen) == ("keep", True, 4)
    assert again.run(3) == runs[2]
    assert Registry().open(None).runs == []


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"format": 1, "plan": {}}', '{"format": 9}', "\x00" * 99, "[" * 9999]
)
def test_a_damaged_file_costs_only_its_run(session: Session, text: str) -> None:
    session.archive.store.file(2).write_text(text)
    again = Registry().open(OWNER)
    assert [run.number for run in again.runs] == [1, 3, 4]
    assert "run-0002.json cannot be read" in runs_table.damaged_line([f.name for f in again.archive.damaged])
    assert again.archive.store.next_number() == 5
    assert session.archive.store.file(2).read_text() == text, "it is left for repair"


@pytest.mark.parametrize("wrong", [7, {}, {"passage": {"source": 1, "pieces": []}}, {"topics": {"Arts": 3}}])
def test_findings_of_another_form_are_damage(session: Session, wrong: Any) -> None:
    data = json.loads(session.archive.store.file(2).read_text())
    data["found"] = wrong if not wrong or wrong == 7 else {**data["found"], **wrong}
    session.archive.store.file(2).write_text(json.dumps(data))
    assert [run.number for run in Registry().open(OWNER).runs] == [1, 3, 4]


def test_a_portrait_of_another_size_is_damage(session: Session) -> None:
    data = json.loads(session.archive.store.file(2).read_text())
    data["portrait"]["mlp"]["rows"] = 7
    session.archive.store.file(2).write_text(json.dumps(data))
    assert [run.number for run in Registry().open(OWNER).runs] == [1, 3, 4]


def test_a_write_that_fails_leaves_the_old_file(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(
            Refusal, match=r"Run 2 could not be kept on disk \(No space left.*free space or set SLIMLLM_HOME"
        ):
            session.archive.amend(2, note="new")
    assert RunStore(OWNER).runs()[0][1].note == ""
    assert [file.name for file in RunStore(OWNER).folder.iterdir() if file.name.startswith(".")] == []


def test_deleted_runs_come_back_also_after_a_restart(session: Session) -> None:
    archive = session.archive
    archive.choose(3)
    archive.delete(3)
    assert ([run.number for run in archive.runs], archive.chosen) == ([1, 2, 4], 4)
    archive.delete(4)
    assert archive.chosen == 2
    assert archive.store.next_number() == 5, "no number is used twice"
    again = Archive(OWNER, lambda: None)
    assert again.store.deleted() == [3, 4]
    again.bring_back(3)
    assert ([run.number for run in again.runs], again.chosen, again.store.deleted()) == ([1, 2, 3], 3, [4])
    with pytest.raises(Refusal, match="Run 9 cannot be brought back"):
        again.bring_back(9)
    with pytest.raises(Refusal, match="deleted already"):
        again.delete(9)


def test_only_the_latest_deleted_runs_are_held(runs: list[Run]) -> None:
    shelf = RunStore(OWNER)
    for number in range(1, KEPT_DELETED + 4):
        shelf.put(dataclasses.replace(runs[0], number=number))
        shelf.delete(number)
    assert shelf.deleted() == list(range(4, KEPT_DELETED + 4))


def test_a_change_to_a_deleted_run_is_dropped(session: Session) -> None:
    session.archive.delete(2)
    session.archive.amend(2, note="late")
    assert [run.number for run in Registry().open(OWNER).runs] == [1, 3, 4]


# In words ---------------------------------------------------------------------------------------------------


def moved(plan: Plan, analysis: Analysis, **channels: int) -> Plan:
    changes = {int(layer[1:]): (plan.heads[int(layer[1:])], kept) for layer, kept in channels.items()}
    return adjust_plan(analysis, plan, changes)


def test_what_changed_is_told(analysis: Analysis) -> None:
    plan = make_plan(analysis, PlanRules(0.2))
    kept = plan.channels[3]
    assert told_change(plan, plan) == "the same plan"
    assert told_change(plan, moved(plan, analysis, l3=kept + 16)) == "layer 3 keeps 6.2 % more channels"
    fewer = moved(plan, analysis, l3=kept - 16, l2=plan.channels[2] - 8)
    assert (
        told_change(plan, fewer) == "layer 2 keeps 3.1 % fewer channels; layer 3 keeps 6.2 % fewer channels"
    )
    many = moved(plan, analysis, l1=plan.channels[1] - 8, l2=120, l3=200)
    assert told_change(plan, many) == "3 layers changed, most layer 2"
    heads = adjust_plan(analysis, plan, {2: (3, plan.channels[2])})
    assert told_change(plan, heads).startswith(f"layer 2 keeps {plan.heads[2] - 3} fewer heads")
    assert told_change(plan, make_plan(analysis, PlanRules(0.3))) == "20.0 % → 30.0 %"
    other = make_plan(analysis, PlanRules(0.2, recovery="bias", allocation="error"))
    assert told_change(plan, other) == "recovery Bias; cut by predicted error"
    assert told_change(plan, without_layers(moved(plan, analysis, l3=kept + 8), 3)) == "layer 3 dropped whole"
    more = dataclasses.replace(plan, calibration=Calibration(samples=8, length=32))
    assert told_change(plan, more) == "reads 8 samples of 32 tokens"
    pinned = make_plan(analysis, PlanRules(0.2, protected=(Pin(1, "mlp", 0),)))
    assert "1 unit protected" in told_change(plan, pinned)
    assert told_change(plan, make_plan(synthetic_analysis(layers=3), PlanRules(0.2))) == "another model"
    assert "cuts value columns" in told_change(plan, make_plan(by_columns(analysis), PlanRules(0.2, align=1)))


def test_two_plans_are_summed_up(analysis: Analysis) -> None:
    plan = make_plan(analysis, PlanRules(0.2))
    names = ("Run 1", "Run 2")
    assert "same number of heads and channels" in summarise_changes(plan, plan, names)
    more = moved(plan, analysis, l3=plan.channels[3] + 16)
    assert summarise_changes(plan, more, names) == "Run 2 keeps 16 more channels than Run 1; 1 layer differs."
    assert "different models" in summarise_changes(
        plan, make_plan(synthetic_analysis(layers=3), PlanRules(0.2)), names
    )
    columns = make_plan(by_columns(analysis), PlanRules(0.2, align=1))
    assert "only their channels compare" in summarise_changes(plan, columns, names)
    dense = uncut_plan(plan)
    assert summarise_changes(dense, plan, ("Dense", "Run 1")).startswith("Run 1 keeps ")


def test_the_table_says_all_and_escapes_what_people_write(session: Session) -> None:
    archive = session.archive
    archive.amend(2, pinned=True, note="<script>alert(1)</script>")
    archive.choose(3)
    html = history_tab.draw_runs(session)
    assert [html.index(f">Run {n}</button>") for n in (2, 4, 3, 1)] == sorted(
        html.index(f">Run {n}</button>") for n in (1, 2, 3, 4)
    ), "pinned first, then the newest"
    assert "<script>" not in html
    for words in ("a fresh start", "from Run 1: 10.0 % → 20.0 %", "from Run 3: layer 3 keeps", "SlimLLM"):
        assert words in html
    assert html.count('aria-current="true"') == 1
    assert '<tr data-run="3" aria-current="true">' in html
    strange = dataclasses.replace(session.run(1), plan=dataclasses.replace(session.run(1).plan, model="<b>"))
    assert "<b>" not in history_tab.about_run(strange)
    assert formatting.format_time("nonsense <b>")[:8] == "nonsense"
    assert runs_table.deleted_line([]) == runs_table.damaged_line([]) == ""


# In pictures ------------------------------------------------------------------------------------------------


def test_only_runs_measured_alike_are_in_one_picture(session: Session) -> None:
    archive = session.archive
    archive.amend(1, protocol=Protocol("ptb"))
    archive.choose(4)
    figure = history_tab.draw_scatter(session)
    assert sorted(i for trace in figure.data[:2] for i in trace.customdata) == [0, 1, 2]
    assert [trace.name for trace in figure.data[2:]] == ["dense", "chosen"]
    assert "1 run is not in the picture" in history_tab.draw_others(session)
    archive.choose(1)
    assert "3 runs are not" in history_tab.draw_others(session)
    point = type("Event", (), {"_data": {"custom": 0}})()
    history_tab.choose_point(session, point)
    assert archive.chosen == 1


def test_two_plans_are_drawn_beside_each_other(session: Session, analysis: Analysis) -> None:
    old, new, names = plan_difference.plan_pair(session) or pytest.fail("no pair")
    assert names == ("Run 3", "Run 4")
    figure = difference_chart(old, new, names)
    assert payload_bytes(figure) < 30_000
    gains = [trace for trace in figure.data if trace.type == "bar" and len(trace.x)]
    assert [(list(trace.x), trace.name) for trace in gains] == [([3], "more kept")]
    plan_difference.lay_beside(session, {0: plan_difference.DENSE})
    assert plan_difference.plan_pair(session)[2] == ("Dense", "Run 4")
    assert session.archive.against == plan_difference.DENSE
    columns = make_plan(by_columns(analysis), PlanRules(0.2, align=1))
    mixed = difference_chart(old, columns, ("a", "<b>b</b>"))
    assert [len(trace.x) for trace in mixed.data if trace.yaxis == "y"] == [0, 0]
    assert "<b>" not in mixed.layout.title.text
    large = synthetic_analysis(layers=80, heads=64, groups=8, head_size=128, channels=28_672)
    plans = [make_plan(large, PlanRules(ratio)) for ratio in (0.2, 0.3)]
    assert payload_bytes(difference_chart(*plans, ("a", "b"))) < 30_000


def test_a_plan_that_moves_in_tune_draws_the_comparison_only_where_it_is_in_it(
    session: Session, analysis: Analysis
) -> None:
    for against, moves in ((plan_difference.DENSE, False), (PRESENT, True)):
        session.push(make_plan(analysis, PlanRules(0.1)))
        plan_difference.lay_beside(session, {0: against})
        before = plan_difference.pair_token(session)
        session.push(make_plan(analysis, PlanRules(0.15)))
        assert (plan_difference.pair_token(session) != before) is moves


def test_labels_of_the_scatter_do_not_lie_on_each_other() -> None:
    rows = [{"name": f"Run {i}", "parameters": 100e6, "perplexity": 20 + i / 1000} for i in range(5)]
    rows.append({"name": "Run 9", "parameters": 120e6, "perplexity": 15.0})
    figure = result_charts.history_chart(rows, None, 2)
    shown = [text for trace in figure.data[:2] for text in trace.text if text]
    assert sorted(shown) == ["Run 2", "Run 9"]


def test_a_portrait_keeps_what_the_maps_show(analysis: Analysis) -> None:
    plan = make_plan(analysis, PlanRules(0.3))
    reports = reports_of(analysis, plan)
    portrait = portrait_of(analysis, plan, reports)
    assert portrait is not None
    grid = portrait.attention
    kept = np.frombuffer(grid.kept, np.uint8).reshape(grid.rows, grid.cells)
    assert [set(np.flatnonzero(row)) for row in kept] == [set(r.kept_heads) for r in reports]
    shades = np.frombuffer(grid.shades, np.uint8).reshape(grid.rows, grid.cells)
    assert shades.max(axis=1).tolist() == [200] * 6
    channels = np.frombuffer(portrait.mlp.kept, np.uint8).reshape(6, -1)
    assert (channels == 200).sum(axis=1).tolist() == list(plan.channels)
    assert portrait_of(analysis, plan, reports[:2]) is None
    large = synthetic_analysis(layers=4, heads=8, groups=8, head_size=8, channels=5000)
    wide = portrait_of(
        large, make_plan(large, PlanRules(0.2)), reports_of(large, make_plan(large, PlanRules(0.2)))
    )
    assert wide is not None
    assert wide.mlp.cells == CELLS


# Made again -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    file = tmp_path_factory.mktemp("a text") / "page one.txt"
    file.write_text("Every layer reads a stream of numbers and writes what it found. " * 60)
    return file


def parsed(run: Run) -> Any:
    """The run's command line, as the program would read it."""
    words = shlex.split(command_line(run))
    assert words[:4] == ["python", "-m", "slimllm", "prune"]
    return main.build_parser().parse_args(words[3:])


CHOICES: list[dict[str, Any]] = [
    {},
    {"recovery": "least-squares", "allocation": "error", "align": 1, "count": "all"},
    {"unit": "query-head", "allocation": "uniform"},
    {"same_width": True},
]


@pytest.mark.parametrize("rules", CHOICES, ids=lambda rules: " ".join(rules) or "usual")
def test_the_command_line_leads_to_the_same_plan(text_file: Path, rules: dict[str, Any]) -> None:
    subject = tiny_subject()
    read = Calibration(str(text_file), 4, 32, 7)
    options = {"greedy": False}
    made = pipeline.finish_job(
        pipeline.analyse_model(
            subject, texts.find_text(read.text), read, method_name="slimllm", options=options
        )
    )
    plan = make_plan(made, PlanRules(0.3, **rules))
    run = run_of(made, plan, rules=rules_of(made, plan), dtype="float32")
    given = parsed(run)
    assert given.plan is None
    assert given.dtype == "float32"
    again = commands.run_analysis(subject, given, terminal.Report())
    assert make_plan(again, commands.rules_from(given)) == plan


def test_a_plan_by_hand_is_repeated_from_its_file(
    session: Session, analysis: Analysis, tmp_path: Path
) -> None:
    run = session.run(4)
    assert run.rules == ""
    given = parsed(run)
    assert (str(given.plan), given.ratio) == (plan_name(run), None)
    _, file, *_ = downloads.draw_downloads(session)
    assert Path(file.value["path"]).name == plan_name(run)
    assert read_plan(Path(file.value["path"])) == run.plan
    pinned = make_plan(analysis, PlanRules(0.2, forced=(Pin(1, "mlp", 0),)))
    assert rules_of(analysis, pinned) == "", "the command line knows no pins"
    (tmp_path / "plan.json").write_text(plan_text(pinned))
    assert read_plan(tmp_path / "plan.json") == pinned


def test_an_export_is_repeated_in_its_tier(runs: list[Run]) -> None:
    shim = dataclasses.replace(runs[1], exported={"tier": "shim"})
    assert parsed(shim).export == "shim"
    native = dataclasses.replace(runs[1], exported={"tier": "native"})
    assert parsed(native).export == "auto", "native would change the plan to equal widths"


def test_a_tuned_run_is_repeated_in_two_steps(session: Session) -> None:
    wanted = Tuning(text="my notes.txt", samples=8)
    tuned = dataclasses.replace(
        session.run(1), number=5, parent=1, tunings=(wanted,), told="fine-tuned", portrait=None, answers=()
    )
    known = {"analysis": None, "loaded": None, "answers": ()}
    kept = complete_run(tuned, {}, parent=session.run(1), **known)
    assert (kept.portrait, kept.told) == (session.run(1).portrait, "fine-tuned")
    first, second = (shlex.split(line) for line in command_line(kept).splitlines())
    assert first[-2:] == ["--out", "out/run5-step1"]
    given = main.build_parser().parse_args(second[3:])
    assert (given.model, given.text, given.samples, str(given.out)) == (
        "out/run5-step1",
        "my notes.txt",
        8,
        "out/run5",
    )
