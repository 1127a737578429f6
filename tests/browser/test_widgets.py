"""The fader bank and the plots in a real browser: what the hand does, what Python hears, what the eye reads.

Run alone: .venv/bin/python -m pytest tests/browser/test_widgets.py -m browser
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr
import pytest

from slimllm.core.types import Analysis, Plan
from slimllm.planning.forecast import forecast_plan
from slimllm.planning.plan_making import make_plan
from slimllm.planning.rules import PlanRules
from tests.support.made_up_analyses import synthetic_analysis
from tests.support.serving import ANSWER, columns_analysis, drag, fader, shown, spot, without_layers
from tests.support.visitor import BROWSER, expect
from ui.charts import heads_map
from ui.page.faders import Faders, bank_json, value_of
from ui.page.plotview import PlotView

pytestmark = BROWSER

LAYERS, GROUPS, CHANNELS = 12, 8, 1024


@dataclasses.dataclass
class Heard:
    """What Python was told, newest last."""

    inputs: list[Any] = dataclasses.field(default_factory=list)
    releases: list[Any] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class App:
    url: str
    analysis: Analysis
    plan: Plan
    heard: Heard


def build(analysis: Analysis, plan: Plan, heard: Heard) -> gr.Blocks:
    """A page with a bank, two maps and buttons that act like the Tune page."""
    other = synthetic_analysis(layers=4, heads=9, groups=3, head_size=8, channels=96, seed=1)
    other_plan = make_plan(other, PlanRules(0.01, unit="query-head", count="all", recovery="none", align=1))

    def show(which: Analysis, plan: Plan) -> Any:
        return gr.update(value=value_of(plan), bank=bank_json(which, plan))

    def clicked(event: gr.EventData) -> str:
        return json.dumps({"x": event.x, "y": event.y, "curve": event.curve, "i": event.i})

    with gr.Blocks() as page:
        faders = Faders()
        start = gr.Button("start", elem_id="start")
        reset = gr.Button("reset", elem_id="reset")
        swap = gr.Button("swap", elem_id="swap")
        columns = gr.Button("columns", elem_id="columns")
        told = gr.Textbox(elem_id="told", label="told")
        plot = PlotView(
            height=300, label="Heads of every layer", placeholder="Nothing here yet.", elem_id="map"
        )
        again = gr.Button("again", elem_id="again")
        click = gr.Textbox(elem_id="clicked", label="clicked")
        with gr.Tabs():
            with gr.Tab("first"):
                gr.Markdown("first")
            with gr.Tab("second"):
                hidden = PlotView(height=200, label="hidden", placeholder="Empty.", elem_id="hidden")
        start.click(lambda: show(analysis, plan), None, faders)
        reset.click(lambda: gr.update(value=value_of(plan)), None, faders)
        columns.click(lambda: show(*of_columns()), None, faders)
        swap.click(lambda: show(other, other_plan), None, faders)
        faders.input(heard.inputs.append, faders, None, trigger_mode="always_last", show_progress="hidden")
        faders.release(
            lambda value: heard.releases.append(value) or json.dumps(value),
            faders,
            told,
            trigger_mode="always_last",
        )
        gr.on([start.click, again.click], lambda: [heads(analysis)] * 2, None, [plot, hidden])
        plot.click(clicked, None, click)
    return page


def of_columns() -> tuple[Analysis, Plan]:
    """Value columns instead of heads, and one layer dropped whole."""
    analysis = columns_analysis()
    return analysis, without_layers(make_plan(analysis, PlanRules(0.3, recovery="regression", align=1)), 2)


def heads(analysis: Analysis) -> Any:
    return heads_map.heads_map(analysis.layers, len(analysis.layers), analysis.shape)


@pytest.fixture(scope="module")
def app() -> Iterator[App]:
    analysis = synthetic_analysis(layers=LAYERS, heads=16, groups=GROUPS, head_size=8, channels=CHANNELS)
    plan, heard = make_plan(analysis, PlanRules(0.2)), Heard()
    with shown(build(analysis, plan, heard)) as url:
        yield App(url, analysis, plan, heard)


Open = Callable[..., Any]


@pytest.fixture
def visit(app: App, browser: Any) -> Iterator[Open]:
    """Opens the page; afterwards nothing may have been complained about or asked of another machine."""
    complaints: list[str] = []
    contexts: list[Any] = []

    def go(query: str = "", width: int = 1100, started: bool = True, **context: Any) -> Any:
        contexts.append(browser.new_context(viewport={"width": width, "height": 1100}, **context))
        page = contexts[-1].new_page()
        page.set_default_timeout(ANSWER)
        page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e: complaints.append(str(e)))
        page.on("request", lambda r: None if local(r.url) else complaints.append(f"asked {r.url}"))
        page.goto(app.url + query)
        if started:
            page.locator("#start").click()
            page.locator("#tune-faders [role=slider]").first.wait_for()
        app.heard.inputs.clear()
        app.heard.releases.clear()
        return page

    yield go
    for context in contexts:
        context.close()
    assert complaints == []


def local(url: str) -> bool:
    return url.startswith(("http://127.0.0.1", "ws://127.0.0.1", "data:", "blob:", "about:"))


def kept(page: Any, site: str, layer: int) -> int:
    return int(fader(page, site, layer).get_attribute("aria-valuenow"))


def released(page: Any, app: App) -> dict[str, list]:
    """The value Python got at the last release, which is what the faders show."""
    shown = page.evaluate(
        "['attention', 'mlp'].map((site) => "
        "[...document.querySelectorAll(`[role=slider][data-site=${site}]`)]"
        ".map((node) => Number(node.getAttribute('aria-valuenow'))))"
    )
    locked = page.locator(".fd-lock").evaluate_all("nodes => nodes.map((n) => n.ariaPressed === 'true')")
    wanted = {"heads": shown[0], "channels": shown[1], "locked": locked}
    for _ in range(100):
        last = app.heard.releases[-1] if app.heard.releases else {}
        if last.items() >= wanted.items():
            return wanted
        page.wait_for_timeout(50)
    raise AssertionError(f"Python heard {app.heard.releases[-1:]}, the faders show {wanted}")


def figures(page: Any) -> dict[str, float]:
    """The exact numbers behind #tune-forecast."""
    return page.evaluate(
        "Object.fromEntries([...document.querySelectorAll('#tune-forecast [data-key]')]"
        ".map((node) => [node.dataset.key, Number(node.dataset.value)]))"
    )


def same_as_forecast(shown: dict[str, float], analysis: Analysis, plan: Plan) -> None:
    view = forecast_plan(analysis, plan)
    assert shown["parameters"] == view.parameters
    assert shown["bytes"] == view.bytes
    assert shown["kv"] == view.kv_bytes_per_token
    assert shown["flops"] == view.flops_per_token
    assert shown["ratio"] == pytest.approx(view.ratio, abs=1e-12)
    assert shown["error"] == pytest.approx(view.total_error, rel=1e-3)


def moved(app: App, value: dict[str, list]) -> Plan:
    return dataclasses.replace(app.plan, heads=tuple(value["heads"]), channels=tuple(value["channels"]))


# The bank ---------------------------------------------------------------------------------------------------


def test_without_a_bank_it_says_what_is_missing(visit: Open) -> None:
    page = visit(started=False)
    expect(page.locator("#tune-faders")).to_contain_text("Analyse a model first")
    expect(page.locator("#map")).to_contain_text("Nothing here yet.")


def test_one_fader_per_layer_and_site_with_the_plans_widths(visit: Open, app: App) -> None:
    page = visit()
    assert page.locator("[role=slider][data-site]").count() == 2 * LAYERS
    assert tuple(kept(page, "mlp", i) for i in range(LAYERS)) == app.plan.channels
    assert tuple(kept(page, "attention", i) for i in range(LAYERS)) == app.plan.heads
    five = fader(page, "mlp", 5)
    assert five.get_attribute("aria-valuemax") == str(CHANNELS)
    assert five.get_attribute("aria-valuetext").startswith(
        f"layer 5 MLP: {app.plan.channels[5]:,} of 1,024 channels kept, predicted error "
    )


def test_the_readout_equals_the_forecast(visit: Open, app: App) -> None:
    page = visit()
    same_as_forecast(figures(page), app.analysis, app.plan)
    expect(page.locator("#tune-forecast")).to_contain_text("of the layers")


def test_dragging_moves_the_number_at_once_and_tells_python_on_release(visit: Open, app: App) -> None:
    page = visit()
    before = figures(page)["parameters"]
    page.mouse.move(*spot(page, "mlp", 5, 0.9))
    page.mouse.down()
    page.mouse.move(*spot(page, "mlp", 5, 0.5), steps=6)
    page.wait_for_timeout(80)
    assert figures(page)["parameters"] < before
    assert app.heard.releases == []
    page.mouse.up()
    value = released(page, app)
    assert abs(value["channels"][5] - 512) <= 8
    assert value["channels"][5] % 8 == 0
    assert value["channels"][4] == app.plan.channels[4]
    same_as_forecast(figures(page), app.analysis, moved(app, value))
    assert len(app.heard.releases) == 1
    assert any(heard.items() >= value.items() for heard in app.heard.inputs)


def test_heads_snap_to_feasible_steps(visit: Open, app: App) -> None:
    page = visit()
    page.mouse.click(*spot(page, "attention", 3, 0.4))
    value = released(page, app)
    assert value["heads"][3] == 6  # 0.4 of 16 is 6.4; groups of two heads
    same_as_forecast(figures(page), app.analysis, moved(app, value))


def test_a_fast_stroke_paints_the_columns_it_jumps_over(visit: Open, app: App) -> None:
    page = visit()
    drag(page, spot(page, "mlp", 2, 0.9), spot(page, "mlp", 9, 0.2), steps=1)
    painted = released(page, app)["channels"][2:10]
    straight = [CHANNELS * (0.9 - 0.1 * i) for i in range(8)]
    assert all(abs(p - s) <= 10 for p, s in zip(painted, straight, strict=True)), painted


def test_shift_holds_one_fader(visit: Open, app: App) -> None:
    page = visit()
    page.keyboard.down("Shift")
    drag(page, spot(page, "mlp", 2, 0.9), spot(page, "mlp", 9, 0.3), steps=3)
    page.keyboard.up("Shift")
    value = released(page, app)
    assert abs(value["channels"][2] - 0.3 * CHANNELS) <= 8
    assert value["channels"][3:] == list(app.plan.channels[3:])


def test_escape_puts_back_what_the_drag_changed(visit: Open, app: App) -> None:
    page = visit()
    page.mouse.move(*spot(page, "mlp", 4, 0.9))
    page.mouse.down()
    page.mouse.move(*spot(page, "mlp", 6, 0.3), steps=3)
    page.keyboard.press("Escape")
    page.mouse.up()
    assert tuple(kept(page, "mlp", i) for i in range(LAYERS)) == app.plan.channels


def test_every_key(visit: Open, app: App) -> None:
    page = visit()
    five, start = fader(page, "mlp", 5), app.plan.channels[5]
    five.focus()
    for key, expected in (
        ("ArrowDown", start - 8),
        ("ArrowUp", start),
        ("PageDown", start - 80),
        ("PageUp", start),
        ("End", CHANNELS),
        ("Home", 56),
        ("ArrowDown", 56),
    ):
        page.keyboard.press(key)
        page.wait_for_timeout(40)
        assert kept(page, "mlp", 5) == expected, key
    page.keyboard.press("ArrowRight")
    expect(fader(page, "mlp", 6)).to_be_focused()
    page.keyboard.press("ArrowLeft")
    expect(five).to_be_focused()
    assert page.locator("[role=slider][data-site=mlp][tabindex='0']").count() == 1
    value = released(page, app)
    assert value["channels"][5] == 56
    same_as_forecast(figures(page), app.analysis, moved(app, value))


def test_the_tab_key_goes_from_lane_to_lane(visit: Open) -> None:
    page = visit()
    fader(page, "attention", 0).focus()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Solo MLP")).to_be_focused()
    page.keyboard.press("Tab")
    expect(fader(page, "mlp", 0)).to_be_focused()


def test_locked_layers_do_not_move(visit: Open, app: App) -> None:
    page = visit()
    page.get_by_role("button", name="lock layer 5", exact=True).click()
    fader(page, "attention", 6).focus()
    page.keyboard.press("l")
    value = released(page, app)
    assert [i for i, locked in enumerate(value["locked"]) if locked] == [5, 6]
    drag(page, spot(page, "mlp", 4, 0.4), spot(page, "mlp", 7, 0.4), steps=4)
    page.keyboard.press("End")
    value = released(page, app)
    assert value["channels"][5:7] == list(app.plan.channels[5:7])
    assert value["channels"][4] != app.plan.channels[4]
    assert fader(page, "mlp", 5).get_attribute("aria-disabled") == "true"
    page.get_by_role("button", name="unlock layer 5", exact=True).click()
    assert released(page, app)["locked"][5] is False


def test_double_click_is_harmless(visit: Open, app: App) -> None:
    page = visit()
    page.mouse.dblclick(*spot(page, "mlp", 5, 0.5))
    assert abs(released(page, app)["channels"][5] - 512) <= 8
    assert page.evaluate("getSelection().toString()") == ""


def test_python_does_not_take_a_fader_out_of_the_hand(visit: Open, app: App) -> None:
    page = visit()
    page.mouse.click(*spot(page, "mlp", 9, 0.5))
    page.mouse.move(*spot(page, "mlp", 5, 0.9))
    page.mouse.down()
    page.mouse.move(*spot(page, "mlp", 5, 0.4), steps=4)
    page.evaluate("document.querySelector('#reset').click()")
    page.wait_for_timeout(600)
    page.mouse.move(*spot(page, "mlp", 5, 0.3), steps=2)
    page.wait_for_timeout(60)
    assert abs(kept(page, "mlp", 5) - 0.3 * CHANNELS) <= 8
    page.mouse.up()
    value = released(page, app)
    assert abs(value["channels"][5] - 0.3 * CHANNELS) <= 8


def test_python_can_set_the_faders_and_change_the_model(visit: Open, app: App) -> None:
    page = visit()
    page.mouse.click(*spot(page, "mlp", 9, 0.5))
    released(page, app)
    page.locator("#reset").click()
    page.wait_for_function(
        f"document.querySelector('[data-testid=fader-mlp-9]').ariaValueNow == {app.plan.channels[9]}"
    )
    page.locator("#swap").click()
    page.wait_for_function("document.querySelectorAll('#tune-faders [role=slider]').length === 8")
    other = synthetic_analysis(layers=4, heads=9, groups=3, head_size=8, channels=96, seed=1)
    plan = make_plan(other, PlanRules(0.01, unit="query-head", count="all", recovery="none", align=1))
    same_as_forecast(figures(page), other, plan)
    expect(page.locator("#tune-forecast")).to_contain_text("of the whole model")
    page.mouse.click(*spot(page, "mlp", 2, 0.5))
    assert released(page, app)["channels"][2] in (47, 48, 49)


def test_value_columns_and_a_dropped_layer(visit: Open, app: App) -> None:
    page, (analysis, plan) = visit(), of_columns()
    page.locator("#columns").click()
    page.wait_for_function("document.querySelectorAll('#tune-faders [role=slider]').length === 8")
    expect(page.locator(".fd-title").first).to_contain_text("Attention value columns")
    assert "value columns kept" in fader(page, "attention", 0).get_attribute("aria-valuetext")
    same_as_forecast(figures(page), analysis, plan)
    assert "dropped whole" in fader(page, "mlp", 2).get_attribute("aria-valuetext")
    page.mouse.click(*spot(page, "attention", 0, 0.5))
    value = released(page, app)
    assert (value["heads"][0], value["heads"][2], value["channels"][2]) == (4, 0, 0)
    moved_plan = dataclasses.replace(plan, heads=tuple(value["heads"]), channels=tuple(value["channels"]))
    same_as_forecast(figures(page), analysis, moved_plan)
    page.mouse.click(*spot(page, "mlp", 2, 0.5))
    value = released(page, app)
    assert (value["heads"][2], value["channels"][2]) == (8, 48), "a layer comes back whole on its other site"


def slide(page: Any, start: tuple[float, float], by: float) -> None:
    """Puts a finger down, moves it up (below 0) or down, and lifts it."""
    hand = page.context.new_cdp_session(page)
    x, y = start
    for i in range(9):
        kind = "touchMove" if i else "touchStart"
        hand.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y + by * i / 8}]})
    hand.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


# Comes back once the page has not scrolled for half a second.
STOOD = """() => new Promise((done) => {
  let [at, since] = [scrollY, performance.now()];
  const look = () => {
    if (scrollY !== at) [at, since] = [scrollY, performance.now()];
    if (performance.now() - since > 500) done(); else requestAnimationFrame(look);
  };
  look();
})"""


def test_a_finger_that_scrolls_over_the_faders_edits_nothing(visit: Open, app: App) -> None:
    page = visit(width=390, has_touch=True, is_mobile=True)
    fader(page, "mlp", 1).scroll_into_view_if_needed()
    before = page.evaluate("[...document.querySelectorAll('[role=slider]')].map((f) => f.ariaValueNow)")
    for layer, share in ((1, 0.3), (2, 0.7), (0, 0.2)):
        at = page.evaluate("scrollY")
        slide(page, spot(page, "mlp", layer, share), -60)
        page.wait_for_function(f"scrollY > {at}")
    page.evaluate(STOOD)
    page.touchscreen.tap(*spot(page, "mlp", 2, 0.1))
    expect(page.locator(".fd-selected")).to_have_text("Layer 2, MLP")
    now = page.evaluate("[...document.querySelectorAll('[role=slider]')].map((f) => f.ariaValueNow)")
    assert now == before
    assert app.heard.releases == []


def test_a_finger_moves_a_fader_and_nothing_is_cut_off_on_a_phone(visit: Open, app: App) -> None:
    page = visit(width=390, has_touch=True, is_mobile=True)
    fader(page, "mlp", 1).scroll_into_view_if_needed()
    page.touchscreen.tap(*spot(page, "mlp", 1, 0.2))
    handle = page.locator("[data-site=mlp][data-layer='1'] .fd-handle")
    box = handle.bounding_box()
    assert min(box["width"], box["height"]) >= 28, "as large as a fingertip"
    place, height = page.evaluate("scrollY"), fader(page, "mlp", 1).bounding_box()["height"]
    start = kept(page, "mlp", 1)
    slide(page, (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2), height / 4)
    assert abs(released(page, app)["channels"][1] - (start - CHANNELS / 4)) <= 24
    assert page.evaluate("scrollY") == place
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    width = fader(page, "mlp", 1).bounding_box()["width"]
    assert width >= 24


# Plots ------------------------------------------------------------------------------------------------------


def drawn(page: Any, where: str = "#map") -> None:
    page.locator(f"{where} .gtitle").first.wait_for()


def test_a_click_on_a_map_gives_head_and_layer(visit: Open) -> None:
    page = visit()
    drawn(page)
    page.locator("#map").scroll_into_view_if_needed()
    box = page.locator("#map .nsewdrag").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 3.5 / 16, box["y"] + box["height"] * 7.5 / LAYERS)
    expect(page.locator("#clicked textarea, #clicked input")).not_to_have_value("")
    told = json.loads(page.locator("#clicked textarea, #clicked input").input_value())
    assert told == {"x": 3, "y": 7, "curve": 0, "i": [7, 3]}


def test_a_map_can_be_walked_and_clicked_with_keys(visit: Open) -> None:
    page = visit()
    drawn(page)
    page.locator("#map .pv-plot").focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowRight", "ArrowDown", "ArrowDown", "ArrowLeft"):
        page.keyboard.press(key)
        page.wait_for_timeout(60)
    expect(page.locator("#map .pv-voice")).to_have_text("Query head 1, Layer 2")
    page.keyboard.press("Enter")
    expect(page.locator("#clicked textarea, #clicked input")).not_to_have_value("")
    told = json.loads(page.locator("#clicked textarea, #clicked input").input_value())
    assert (told["x"], told["y"]) == (1, 2)


def test_what_a_tap_shows_of_a_plot_stays_until_the_next_tap(visit: Open) -> None:
    """Where there is a mouse as well, as on a tablet, the browser says after a tap that the pointer has left;
    the words of a chart went with it."""
    page = visit(width=1200, has_touch=True)
    page.mouse.move(1, 1)
    drawn(page)
    plot, words = page.locator("#map .nsewdrag").first, page.locator("#map .hoverlayer .hovertext")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    for x, y in ((0.3, 0.25), (0.7, 0.75)):
        page.touchscreen.tap(box["x"] + x * box["width"], box["y"] + y * box["height"])
        page.wait_for_timeout(700)
        expect(words).to_contain_text("Layer")
        expect(words).to_be_visible()
    page.evaluate("document.activeElement.blur()")  # as a tap elsewhere does
    expect(words).to_have_count(0)


def test_zoom_survives_an_update(visit: Open) -> None:
    page = visit()
    drawn(page)
    page.evaluate("Plotly.relayout(document.querySelector('#map .js-plotly-plot'), {'xaxis.range': [2, 6]})")
    page.locator("#again").click()
    page.wait_for_timeout(600)
    assert page.evaluate("document.querySelector('#map .js-plotly-plot').layout.xaxis.range") == [2, 6]


def test_a_plot_in_a_hidden_tab_is_whole_when_shown(visit: Open) -> None:
    page = visit()
    page.get_by_role("tab", name="second").click()
    drawn(page, "#hidden")
    box = page.locator("#hidden .main-svg").first.bounding_box()
    assert box["height"] == 200
    assert box["width"] > 300


def test_plots_follow_the_theme(visit: Open) -> None:
    page = visit()
    drawn(page)
    ink = "getComputedStyle(document.querySelector('#map .gtitle')).fill"
    light = page.evaluate(ink)
    page.evaluate("document.body.classList.add('dark')")
    page.wait_for_function(f"{ink} !== '{light}'")
    page.evaluate("document.body.classList.remove('dark')")
    page.wait_for_function(f"{ink} === '{light}'")


def test_dark_from_the_start(visit: Open) -> None:
    page = visit(query="?__theme=dark")
    drawn(page)
    assert (
        page.evaluate("getComputedStyle(document.querySelector('#map .gtitle')).fill") == "rgb(243, 240, 237)"
    )
    ground = page.evaluate("getComputedStyle(document.querySelector('.faders')).backgroundColor")
    assert ground == "rgb(28, 26, 25)"


def test_enter_presses_a_button_of_a_plot_also_after_the_arrows(visit: Open) -> None:
    page = visit()
    drawn(page)
    page.locator("#map .pv-plot").press("ArrowRight")
    pan = page.locator("#map .modebar-btn[data-title=Pan]")
    pan.press("Enter")
    expect(pan).to_have_class(re.compile("active"))
    expect(page.locator("#clicked textarea")).to_have_value("")
    page.locator("#map .pv-plot").press("Enter")
    expect(page.locator("#clicked textarea")).not_to_have_value("")


def test_the_chart_has_a_name_and_offers_no_upload(visit: Open) -> None:
    page = visit()
    drawn(page)
    expect(page.get_by_role("group", name="Heads of every layer")).to_be_visible()
    titles = page.locator("#map .modebar-btn").evaluate_all("nodes => nodes.map(n => n.dataset.title || '')")
    assert titles
    assert not [t for t in titles if any(word in t.lower() for word in ("share", "cloud", "chart studio"))]
