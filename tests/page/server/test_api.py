"""The page's actions for programs, on a tiny model: the whole road by gradio_client, bad inputs, and who may
ask."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import math
import socket
import types
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from slimllm.core.errors import Refusal
from slimllm.core.types import Calibration
from slimllm.methods.interface import Option
from slimllm.methods.recovery import RECOVERIES
from slimllm.methods.table import METHODS, fill_options
from slimllm.planning import plan_making
from slimllm.planning.allocation import ALLOCATIONS
from slimllm.planning.plan_json import save_plan
from slimllm.planning.rules import PlanRules
from tests.support.made_up_analyses import synthetic_analysis
from tests.support.serving import by_columns, columns_analysis, text_of
from ui.app import Settings, check_settings, launch_options
from ui.facts import combinations
from ui.facts.comparison import Comparison
from ui.facts.runs import Budget, Column, Entry, Protocol, Run
from ui.html import report, tables
from ui.session.forms import ColoursForm, OverlayForm, named_options
from ui.session.registry import REGISTRY, Registry
from ui.session.session import Session
from ui.tabs.analyse import overlay
from ui.tabs.compare import methods_panel
from ui.tabs.history import history_tab
from ui.tabs.tune import plan_file, tune_tab

pytestmark = pytest.mark.filterwarnings("ignore:.*(no_silent_downcasting|copy keyword)")  # Gradio's own
NAMES = {"load", "analyse", "plan", "prune", "evaluate", "generate", "export"}
Call = Callable[..., Any]


@pytest.fixture(scope="module")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    return text_of(tmp_path_factory.mktemp("texts"), 8)


def client(address: str) -> Call:
    """A client with a session of its own."""
    with contextlib.redirect_stdout(io.StringIO()):
        made = Client(address, verbose=False)
    return lambda name, **values: made.predict(api_name=f"/{name}", **values)


def refused(call: Call, name: str, **values: Any) -> str:
    with pytest.raises(AppError) as caught:
        call(name, **values)
    return str(caught.value)


def test_whole_road(address: str, tiny_folder: Path, text_file: str) -> None:
    call = client(address)
    card = call("load", model=str(tiny_folder))
    assert (card["family"], card["layers"], card["heads"], card["kv_groups"]) == ("llama", 3, 6, 3)
    found = call("analyse", text=text_file, samples=4, length=32)
    assert found["tokens"] == 128
    assert (len(found["layer_cosine"]), len(found["head_scores"][0])) == (3, 6)
    plan = call("plan", ratio=0.3, align=1)
    assert plan["ratio_achieved"] == pytest.approx(0.3, abs=0.01)
    assert len(plan["forecast"]["error"]) == 3
    plan["channels"] = [64, 64, 64]
    by_hand = call("plan", plan={key: plan[key] for key in plan if key != "forecast"})
    assert by_hand["channels"] == [64, 64, 64]
    pruned = call("prune", text=text_file, window=32, limit=512)
    dense, bare, recovered = pruned["models"]
    assert [m["name"] for m in pruned["models"]] == ["dense", "pruned", "recovered"]
    assert bare["parameters"] < recovered["parameters"] < dense["parameters"]
    assert all(m["perplexity"] > 1 and m["tokens_per_second"] > 0 for m in pruned["models"])
    assert len(pruned["layers"]) == 3
    assert recovered["error_measured"] < bare["error_measured"]
    again = call("evaluate", text=text_file, window=16, limit=512)
    assert again["protocol"]["window"] == 16
    assert again["models"][0]["perplexity"] != dense["perplexity"]
    assert again["models"][0]["tokens_per_second"] == dense["tokens_per_second"]
    answers = call("generate", prompt="A model", max_new_tokens=5)
    assert set(answers) == {"prompt", "dense", "pruned", "recovered"}
    assert answers == call("generate", prompt="A model", max_new_tokens=5)


@pytest.mark.slow
def test_run_is_exported_from_its_plan_alone(address: str, tiny_folder: Path, text_file: str) -> None:
    call = client(address)
    call("load", model=str(tiny_folder))
    call("analyse", text=text_file, samples=4, length=32)
    call("plan", ratio=0.3)
    call("prune", text=text_file, window=32, limit=256)
    for session in list(REGISTRY._sessions.values()):  # as after a restart: only the plan is left
        session.results.weights.clear()
    made = call("export", tier="auto")
    assert made["verified"] is True
    assert made["max_logit_difference"] < 1e-4
    assert (Path(made["folder"]) / "plan.json").is_file() or (Path(made["folder"]) / "slimllm.json").is_file()
    assert "cannot be stored as gguf: its tokenizer is no BPE" in refused(call, "export", tier="gguf")


def test_clients_do_not_share_what_they_do(address: str, tiny_folder: Path, text_file: str) -> None:
    one, two = client(address), client(address)
    one("load", model=str(tiny_folder))
    one("analyse", text=text_file, samples=4, length=32)
    assert "No model is loaded" in refused(two, "analyse", text=text_file, samples=4, length=32)
    assert "not analysed" in refused(two, "plan", ratio=0.2)


def test_programs_are_offered_seven_actions(address: str) -> None:
    config = json.load(urllib.request.urlopen(f"{address}config"))
    named = {d["api_name"] for d in config["dependencies"] if d["api_visibility"] == "public"}
    assert named == NAMES


def test_port_in_use_is_refused() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(Refusal, match="Port"):
            check_settings(Settings(port=other.getsockname()[1]))


def test_a_port_is_not_shared_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Probe(socket.socket):
        def setsockopt(self, level: int, option: int, *more: Any) -> None:
            asked.append(option)
            super().setsockopt(level, option, *more)

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
    monkeypatch.setattr(socket, "socket", Probe)
    check_settings(Settings(port=port))
    assert asked == [socket.SO_REUSEADDR]
    monkeypatch.setattr("ui.app.sys", types.SimpleNamespace(platform="win32"))
    check_settings(Settings(port=port))
    assert asked == [socket.SO_REUSEADDR], "there it would take the port away from another program"


def test_everything_that_calls_out_is_off() -> None:
    options = launch_options(Settings())
    assert (options["share"], options["run_history"], options["enable_monitoring"]) == (False, False, False)
    assert options["server_name"] == "127.0.0.1"
    assert "http" not in options["head"]


# Handlers as plain functions --------------------------------------------------------------------------------


@pytest.fixture
def planned() -> Session:
    session = Registry().open(None)
    analysis = synthetic_analysis(layers=4, channels=256)
    session.set_analysis(analysis, plan_making.make_plan(analysis, PlanRules(0.2)))
    return session


def test_faders_move_a_layer_and_hold_the_size(planned: Session) -> None:
    before = planned.plan
    value = {"heads": list(before.heads), "channels": list(before.channels), "locked": [False] * 4}
    wanted = before.channels[1] - 32
    value["channels"][1] = wanted
    tune_tab.move_faders(planned, value, False)
    assert planned.plan.channels[1] == wanted
    assert planned.plan.ratio_achieved > before.ratio_achieved
    tune_tab.undo_step(planned)
    value["locked"] = [False, False, True, False]
    tune_tab.move_faders(planned, value, True)
    assert planned.plan.channels[1] == wanted
    assert planned.plan.channels[2] == before.channels[2], "a locked layer does not give way"
    assert abs(planned.plan.ratio_achieved - before.ratio_achieved) < 0.02
    assert planned.locked == {2}


def test_saved_plan_comes_back(planned: Session, tmp_path: Path) -> None:
    mine = planned.plan
    save_plan(mine, tmp_path / "plan.json")
    planned.push(plan_making.make_plan(planned.known, PlanRules(0.5)))
    plan_file.load_plan(planned, str(tmp_path / "plan.json"))
    assert planned.plan == mine


def columns(perplexity: float) -> dict[str, Column]:
    return {
        "dense": Column(100, 200, 10.0, 64, 5.0),
        "pruned": Column(80, 160, perplexity * 2, 64, 6.0, 0.1, 0.2),
        "recovered": Column(81, 162, perplexity, 64, 6.0, 0.1, 0.1),
    }


@pytest.mark.parametrize(
    ("perplexity", "words"),
    [
        (10.2, "almost as well"),
        (13.0, "noticeably"),
        (30.0, "fluency"),
        (90.0, "damaged"),
        (1e9, "ruined"),
        (math.inf, "ruined"),
    ],
)
def test_verdict_says_what_the_figures_mean(planned: Session, perplexity: float, words: str) -> None:
    assert words in tables.verdict_html(Comparison(planned.plan, columns=columns(perplexity)))


def test_table_tells_units_protocol_and_changes() -> None:
    html = tables.table_of(columns(13.0), Protocol("<b>odd</b>.txt", 128, 64), "regression")
    for words in (
        "Dense",
        "Pruned + recovery",
        "200 B",
        "−20.0 %",
        "+30.0 %",
        "tokens/s",
        "windows of 128",
        "64 tokens",
    ):
        assert words in html
    assert "<b>odd" not in html


# Choices, several methods, a second method ------------------------------------------------------------------


def dropping() -> Session:
    """A session whose method drops whole layers."""
    session = Registry().open(None)
    analysis = dataclasses.replace(synthetic_analysis(layers=6, channels=96), method="block-influence")
    session.set_analysis(analysis, plan_making.make_plan(analysis, PlanRules(0.3)))
    return session


def test_every_method_offers_what_combines_and_says_why_the_rest_does_not() -> None:
    for name, row in METHODS.items():
        recoveries = combinations.possible_keys(combinations.recoveries_for(name))
        allocations = combinations.possible_keys(combinations.allocations_for(name))
        assert [c.key for c in combinations.recoveries_for(name)] == list(RECOVERIES)
        assert [c.key for c in combinations.allocations_for(name)] == list(ALLOCATIONS)
        assert row.recovery in recoveries
        assert row.allocation in allocations
        gone = (len(RECOVERIES) - len(recoveries)) + (len(ALLOCATIONS) - len(allocations))
        told = " ".join(combinations.left_out(name))
        assert bool(told) == bool(gone)
        assert all(row.title in told for key, row in RECOVERIES.items() if key not in recoveries)


def test_units_that_a_method_cannot_cut_stay_with_the_reason() -> None:
    usual = synthetic_analysis(layers=2, channels=96)
    whys = {c.key: c.why for c in combinations.units_for(usual)}
    assert whys == {"auto": "", "kv-group": "", "query-head": "", "value-column": "only with FASP"}
    columns = columns_analysis()
    whys = {c.key: c.why for c in combinations.units_for(columns)}
    assert whys["value-column"] == ""
    assert whys["kv-group"] == whys["query-head"] == "FASP is scored for value columns of every head"


def test_what_no_longer_combines_falls_back_and_says_so(planned: Session) -> None:
    plan = dataclasses.replace(planned.plan, recovery="least-squares", allocation="error")
    recovery, allocation, said = combinations.carry_choices(plan, "block-influence")
    assert (recovery, allocation) == (None, None)
    assert said.count("instead") == 2
    assert combinations.carry_choices(plan, "wanda-sp") == ("least-squares", "error", "")
    assert combinations.carry_choices(planned.plan, "wanda-sp") == (None, None, ""), "defaults are no choice"


def test_an_option_out_of_range_is_refused_by_its_name() -> None:
    number = Option("sharp_ness", 3, "How sharp.", 1, 9)
    assert combinations.check_option(number, 9.0) == 9
    for bad in (10, 2.5, None, True):
        with pytest.raises(Refusal, match="Sharp ness must be"):
            combinations.check_option(number, bad)
    for name in METHODS:
        assert combinations.options_of(name, named_options()) == fill_options(name, {})


def test_a_plan_that_drops_layers_is_told_drawn_and_moved() -> None:
    session = dropping()
    gone = [i for i, width in enumerate(session.plan.heads) if not width]
    assert gone
    assert f"{gone[-1]} are dropped whole" in tune_tab.draw_summary(session) or len(gone) == 1
    value = {"heads": [*session.plan.heads], "channels": [*session.plan.channels], "locked": [False] * 6}
    mine = next(i for i in range(6) if i not in gone)
    value["channels"][mine] -= 16
    for hold in (False, True):
        tune_tab.move_faders(session, value, hold)
        assert [i for i, width in enumerate(session.plan.channels) if not width] == gone
        assert session.plan.channels[mine] == value["channels"][mine]
        tune_tab.undo_step(session)
    value["heads"][gone[0]], value["channels"][gone[0]] = 9, 96
    tune_tab.move_faders(session, value, False)
    assert (session.plan.heads[gone[0]], session.plan.channels[gone[0]]) == (9, 96)
    run = Run(1, "2026-01-01T12:00:00", dropping().plan, Protocol(), columns(13.0))
    assert "dropped whole" in report.report_page(run)
    assert "dropped whole" in history_tab.about_run(run)


def test_undo_across_methods_brings_the_analysis_of_the_plan_back(planned: Session) -> None:
    first, plan = planned.known, planned.plan
    other = by_columns(first)
    planned.set_analysis(other, plan_making.make_plan(other, PlanRules(0.2, align=1)))
    assert planned.plan.unit == "value-column"
    tune_tab.undo_step(planned)
    assert (planned.known, planned.plan) == (first, plan)
    assert "smaller" in tune_tab.draw_summary(planned)
    tune_tab.redo_step(planned)
    assert planned.known is other
    stranger = dataclasses.replace(plan, method="fasp", unit="value-column")
    empty = Registry().open(None)
    empty.set_analysis(first, plan)
    with pytest.raises(Refusal, match="method FASP first"):
        empty.suit(stranger)


def test_a_second_method_is_laid_over_and_taken_away(planned: Session) -> None:
    assert overlay.draw_chart(planned) is None
    second = dataclasses.replace(synthetic_analysis(layers=4, channels=256, seed=1), method="wanda-sp")
    planned.keep_analysis(second)
    overlay.choose_overlay(planned, {0: "wanda-sp", 1: ""})
    assert planned.analyses.second is second
    assert "SlimLLM and Wanda-sp agree on" in overlay.draw_agreement_words(planned)
    for figure in (overlay.heads_picture(planned), overlay.channels_picture(planned, True)):
        assert [trace.name for trace in figure.data[1:]][1:3] == ["only by SlimLLM", "only by Wanda-sp"]
    ColoursForm("difference").fill_in(planned)
    for figure in (overlay.heads_picture(planned), overlay.channels_picture(planned, True)):
        assert "How differently" in figure.layout.title.text
    ColoursForm("second").fill_in(planned)
    assert overlay.channels_picture(planned, True) is None
    assert overlay.shown_layers(planned) is second.layers
    for name, text in (("slimllm", ""), ("", ""), ("", "encyclopedia")):
        with pytest.raises(Refusal, match="Choose a second"):
            overlay.press_overlay(planned, name, text)
    overlay.choose_overlay(planned, {0: "", 1: ""})
    assert planned.analyses.second is None


def test_a_second_text_is_laid_over_by_the_same_method(planned: Session) -> None:
    text = "/a/folder/poems.txt"
    other = synthetic_analysis(layers=4, channels=256, seed=2)
    other = dataclasses.replace(other, calibration=dataclasses.replace(other.calibration, text=text))
    planned.keep_analysis(other)
    overlay.choose_overlay(planned, {0: "", 1: text})
    assert planned.analyses.second is other
    assert "and “poems.txt” agree on" in overlay.draw_agreement_words(planned)
    assert "only by “poems.txt”" in [trace.name for trace in overlay.heads_picture(planned).data]
    assert OverlayForm.of_session(planned) == OverlayForm("", text)
    both = dataclasses.replace(other, method="wanda-sp")
    assert overlay.names_of(planned.known, both)[1] == "Wanda-sp on “poems.txt”"
    planned.show_analysis(both)
    assert planned.analyses.second is other, "the same text read by another method is still one step away"
    planned.show_analysis(dataclasses.replace(planned.known, method="wanda-sp", calibration=Calibration("x")))
    assert planned.analyses.second is None


def entry(planned: Session, method: str, perplexity: float, **more: Any) -> Entry:
    budget = Budget(0.2, "decoder", planned.known.calibration, Protocol())
    dense, column = Column(100, 200, 10.0, 64), Column(80, 160, perplexity, 64)
    return Entry(method, budget, dense, planned.plan, column, 3.0, **more)


def test_the_table_of_methods_is_sorted_escaped_and_leads_to_tune(planned: Session) -> None:
    assert "appear here" in methods_panel.draw_entries(planned)
    assert methods_panel.draw_scatter(planned) is None
    planned.put_entry(entry(planned, "magnitude", 30.0))
    planned.put_entry(entry(planned, "slimllm", 12.0))
    planned.put_entry(entry(planned, "slimllm", 13.0, present=True))
    refused = Entry(
        "random", planned.results.entries[0].budget, Column(100, 200, 10.0), refusal="No <b>luck</b>."
    )
    planned.put_entry(refused)
    planned.put_entry(entry(planned, "magnitude", 29.0))
    html = methods_panel.draw_entries(planned)
    assert html.index("Dense") < html.index("SlimLLM") < html.index("Magnitude") < html.index("No &lt;b&gt;")
    assert (html.count("Magnitude</th>"), html.count("To Tune"), html.count("29.00")) == (1, 3, 1)
    assert f"{math.log(2.9):.3f}" in html
    assert len(methods_panel.draw_scatter(planned).layout.annotations) == 3
    row = next(i for i, e in enumerate(planned.results.entries) if e.method == "magnitude")

    def pressed(data: Any) -> Any:
        return methods_panel.take_plan(planned, types.SimpleNamespace(_data=data))  # type: ignore[arg-type]

    assert pressed({"row": row}) == "tune"
    for bad in ({"row": 99}, {"row": "x"}, {}, {"row": -1}):
        with pytest.raises(Refusal, match="no plan"):
            pressed(bad)
    other = dataclasses.replace(entry(planned, "random", 50.0).budget, ratio=0.4)
    planned.put_entry(dataclasses.replace(entry(planned, "random", 50.0), budget=other))
    assert "40.0 % of the layers" in methods_panel.draw_entries(planned)
    assert len(methods_panel.draw_scatter(planned).layout.annotations) == 1
