"""One session in several tabs of a browser, and after a reload: forms and plan stay what people made them,
what is changed in one tab is told and shown in the others, and a running job is seen everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from slimllm.methods.recovery import RECOVERIES
from tests.support.serving import JOB, drag, fader, spot, text_of
from tests.support.visitor import BROWSER, Browser, Page, Visitor, expect
from ui.page.notice import CHANGED
from ui.session.forms import AnalyseForm
from ui.session.registry import REGISTRY
from ui.session.session import Session

pytestmark = BROWSER
DEAF = "window.BroadcastChannel = class { postMessage() {} addEventListener() {} };"  # hears of no other tab
FORM = {"samples": "12", "length": "128"}


@pytest.fixture(scope="module")
def long_text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A text that takes minutes to measure on."""
    return text_of(tmp_path_factory.mktemp("texts"), 3000)


@pytest.fixture(scope="module")
def person(browser: Browser, address: str, text_file: str) -> Iterator[Visitor]:
    """Somebody whose model is loaded and analysed with SlimLLM on 12 × 128 tokens."""
    visitor = Visitor(browser, address)
    visitor.load()
    visitor.page.click("#load-next")
    visitor.choose("analyse-method", "SlimLLM")
    for id, value in {"text": text_file, **FORM}.items():
        visitor.set(f"analyse-{id}", value)
    visitor.page.click("#analyse-button")
    expect(visitor.page.locator("#analyse-progress")).to_contain_text("done", timeout=JOB)
    yield visitor
    visitor.close()


def session_of(visitor: Visitor) -> Session:
    return REGISTRY.open(visitor.page.evaluate("localStorage.getItem('slimllm-browser')"))


def another_tab(visitor: Visitor, tab: str = "", script: str = "") -> Page:
    """One more tab of the same browser."""
    page = visitor.context.new_page()
    if script:
        page.add_init_script(script)
    page.goto(visitor.address)
    page.wait_for_function("document.querySelector('#load-intro')?.textContent.includes('language model')")
    if tab:
        page.get_by_role("tab", name=tab, exact=True).click()
    return page


def form_says(page: Page, text: str) -> None:
    for id, value in FORM.items():
        expect(page.locator(f"#analyse-{id} input")).to_have_value(value)
    expect(page.locator("#analyse-text input")).to_have_value(text)
    expect(page.locator("#analyse-method input")).to_have_value("SlimLLM")
    expect(page.locator("#analyse-method-words")).to_contain_text("resembles")
    expect(page.locator("#analyse-preflight")).to_contain_text("Reads 1,536 tokens")
    for map in ("layers", "heads", "channels"):
        words = f"SlimLLM on {Path(text).name}, 12 × 128 = 1,536 tokens"
        expect(page.locator(f"#analyse-{map} .pv-plot")).to_contain_text(words)


def test_a_reload_and_a_second_tab_leave_the_form_as_it_was(person: Visitor, text_file: str) -> None:
    page, session = person.page, session_of(person)
    stored = AnalyseForm.of_session(session)
    assert (stored.samples, stored.length, stored.method) == (12, 128, "slimllm")
    page.reload()
    form_says(page, text_file)  # on the tab that was open
    second = another_tab(person, "Analyse")
    form_says(second, text_file)
    second.close()
    page.wait_for_timeout(1500)  # whatever drawing raises has come by now
    form_says(page, text_file)
    assert AnalyseForm.of_session(session) == stored


def test_what_is_entered_in_one_tab_is_shown_in_the_other(person: Visitor) -> None:
    page = person.page
    second = another_tab(person, "Compare")
    person.tab("Compare")
    for id, value in (("window", "48"), ("prompt", "One\nTwo"), ("temperature", "0.5")):
        person.set(f"compare-{id}", value)
    expect(second.locator("#compare-window input")).to_have_value("48")
    expect(second.locator("#compare-prompt textarea")).to_have_value("One\nTwo")
    second.locator("#compare-window input").fill("64")
    expect(page.locator("#compare-window input")).to_have_value("64")
    expect(page.locator("#compare-prompt textarea")).to_have_value("One\nTwo")
    page.reload()
    for each in (page, second):
        expect(each.locator("#compare-window input")).to_have_value("64")
        expect(each.locator("#compare-prompt textarea")).to_have_value("One\nTwo")
        expect(each.locator("#compare-temperature input")).to_have_value("0.5")
    second.close()


def kept(page: Page, layer: int) -> int:
    return int(fader(page, "mlp", layer).get_attribute("aria-valuenow") or -1)


def pull(page: Page, layer: int, share: float) -> int:
    """Drags a fader by the mouse; what it keeps then."""
    fader(page, "mlp", layer).scroll_into_view_if_needed()
    drag(page, spot(page, "mlp", layer, 0.9), spot(page, "mlp", layer, share))
    expect(page.locator("#tune-forecast")).to_have_attribute("data-exact", "true")
    return kept(page, layer)


def test_a_plan_changed_in_one_tab_is_told_and_shown_in_the_other(person: Visitor) -> None:
    page = person.page
    person.tab("Tune")
    second = another_tab(person, "Tune")
    expect(fader(second, "mlp", 0)).to_be_visible()
    moved = pull(page, 0, 0.3)
    expect(fader(second, "mlp", 0)).to_have_attribute("aria-valuenow", str(moved), timeout=3000)
    expect(second.locator("#notice p")).to_have_text(CHANGED)
    expect(page.locator("#notice p")).to_have_count(0)
    second.wait_for_timeout(2000)  # it is read
    other = pull(second, 1, 0.5)
    expect(second.locator("#notice p")).to_have_count(0)
    expect(fader(page, "mlp", 1)).to_have_attribute("aria-valuenow", str(other), timeout=3000)
    expect(page.locator("#notice p")).to_have_text(CHANGED)
    assert (kept(page, 0), kept(page, 1)) == (kept(second, 0), kept(second, 1)) == (moved, other)
    second.close()


def test_a_hand_in_a_tab_that_shows_an_old_plan_throws_nothing_away(person: Visitor) -> None:
    page = person.page
    person.tab("Tune")
    stale = another_tab(person, "Tune", DEAF)
    expect(fader(stale, "mlp", 0)).to_be_visible()
    moved = pull(page, 0, 0.6)
    assert kept(stale, 0) != moved, "it has heard of nothing"
    other = pull(stale, 2, 0.4)
    expect(stale.locator("#notice p")).to_have_text(CHANGED)
    expect(fader(stale, "mlp", 0)).to_have_attribute("aria-valuenow", str(moved))
    plan = session_of(person).plan
    assert (plan.channels[0], plan.channels[2]) == (moved, other)
    page.locator("#tune-target input[type=number]").fill("0.1")
    page.locator("#tune-target input[type=number]").press("Tab")
    expect(page.locator("#tune-summary")).to_contain_text("smaller")
    page.wait_for_timeout(500)
    stale.locator("#tune-rules").get_by_text("By which rules").click()
    stale.locator("#tune-recovery select").select_option("none")
    expect(stale.locator("#tune-target input[type=number]")).to_have_value("0.1")
    expect(stale.locator("#tune-words")).to_contain_text(RECOVERIES["none"].words)
    expect(stale.locator("#tune-recovery select")).to_have_value("none")
    plan = session_of(person).plan
    assert (plan.ratio_requested, plan.recovery) == (0.1, "none")
    stale.close()


def test_a_running_job_is_seen_after_a_reload_and_in_another_tab(
    person: Visitor, long_text: str, text_file: str
) -> None:
    page = person.page
    person.tab("Compare")
    if page.locator("#notice p").count():  # of the test before
        page.locator("#notice button").click()
    person.set("compare-text", long_text)
    person.set("compare-window", "32")
    person.set("compare-limit", "0")
    page.click("#compare-button")
    expect(page.locator("#compare-progress")).to_contain_text("so far")
    page.reload()
    expect(page.locator("#compare-progress")).to_be_visible()
    expect(page.locator("#compare-progress")).to_contain_text("so far")
    expect(page.locator("#compare-stop")).to_be_enabled()
    second = another_tab(person)
    expect(second.locator("#load-progress")).to_contain_text("Pruning and comparing is going on")
    expect(second.locator("#load-progress")).to_contain_text("so far")
    second.get_by_role("tab", name="Compare", exact=True).click()
    expect(second.locator("#compare-progress")).to_contain_text("so far")
    second.click("#compare-stop")
    for each in (second, page):
        expect(each.locator("#compare-progress")).to_contain_text("stopped after")
        expect(each.locator("#compare-button")).to_be_enabled()
        expect(each.locator("#compare-stop")).to_be_disabled()
    person.set("compare-text", text_file)
    second.close()


def test_nothing_can_be_pressed_before_the_server_knows_the_page(browser: Browser, address: str) -> None:
    """Whoever sees a button may press it: what is pressed as soon as it is seen is heard."""
    page = browser.new_context().new_page()
    page.add_init_script(
        "new MutationObserver((_, watch) => { const button = document.getElementById('load-button');"
        " if (!button?.checkVisibility({visibilityProperty: true})) return; watch.disconnect();"
        " button.click(); })"
        ".observe(document, {subtree: true, childList: true, attributes: true})"
    )
    page.route("**/gradio_api/run/**", lambda route: (page.wait_for_timeout(300), route.continue_()))
    page.goto(address)
    expect(page.locator("#load-card")).to_contain_text("6 in 3 KV groups", timeout=JOB)
    page.context.close()
