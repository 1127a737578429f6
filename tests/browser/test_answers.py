"""Nothing that somebody does while another answer arrives is lost, not its answer and not the movement; every
event is carried out once, and in order, also over a bad connection."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from tests.support.servers.bad_connection import Weather, bad_connection
from tests.support.serving import JOB, drag, shown, spot
from tests.support.visitor import BROWSER, Browser, Visitor, expect
from ui.tabs.tune import tune_tab

pytestmark = BROWSER


@pytest.fixture(scope="module")
def noted() -> Iterator[tuple[str, list[str]]]:
    """A page of three buttons, and the list in which the server notes what it was asked for; the first one
    takes long."""
    heard: list[str] = []

    def note(name: str) -> str:
        time.sleep(0.6 if name == "one" else 0)
        heard.append(name)
        return " ".join(heard)

    with gr.Blocks() as page:
        told = gr.Textbox(elem_id="told", label="told")
        for name in ("one", "two", "three"):
            button = gr.Button(name, elem_id=name)
            button.click(lambda name=name: note(name), None, told, queue=False, trigger_mode="multiple")
    with shown(page) as url:
        yield url, heard


@pytest.mark.parametrize("bad", [0.0, 0.1], ids=["good", "bad"])
def test_events_are_carried_out_once_and_in_order(
    browser: Browser, noted: tuple[str, list[str]], bad: float
) -> None:
    url, heard = noted
    heard.clear()
    pressed = [("one", "two", "three")[i % 3] for i in range(15)]
    weather = Weather(unheard=bad, unanswered=bad, torn=bad)
    with bad_connection(url, weather) as detour:
        page = browser.new_page()
        page.goto(detour)
        for name in pressed:
            page.click(f"#{name}")
        expect(page.locator("#told textarea")).to_have_value(" ".join(pressed), timeout=JOB)
        page.wait_for_timeout(500)
        expect(page.locator("#told textarea")).to_have_value(" ".join(pressed))
        page.close()
    assert heard == pressed
    assert (sum(weather.happened.values()) > len(pressed)) == bool(bad)


def test_a_page_that_cannot_reach_the_server_says_so_and_comes_back(
    browser: Browser, noted: tuple[str, list[str]]
) -> None:
    weather = Weather()
    with bad_connection(noted[0], weather) as detour:
        page = browser.new_page()
        page.goto(detour)
        page.click("#two")
        expect(page.locator("#told textarea")).not_to_have_value("")
        weather.change(unheard=1.0)
        page.click("#three")
        expect(page.locator("[data-testid=toast-body]")).to_contain_text(
            "connection", ignore_case=True, timeout=JOB
        )
        weather.change(unheard=0.0)
        expect(page.locator("[data-testid=toast-body]")).to_have_count(0, timeout=JOB)  # it has loaded anew
        page.click("#two")
        expect(page.locator("#told textarea")).not_to_have_value("")
        page.close()


def test_what_the_hand_does_while_an_answer_is_under_way_stays(
    visitor: Visitor, text_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = visitor.page
    visitor.load()
    visitor.analyse(text_file)
    page.click("#analyse-next")
    expect(page.locator("#tune-forecast")).to_have_attribute("data-exact", "true")
    value_of = tune_tab.value_of

    def slowly(*given: Any, **named: Any) -> Any:
        time.sleep(0.3)
        return value_of(*given, **named)

    monkeypatch.setattr(tune_tab, "value_of", slowly)
    visitor.fader("mlp", 0).press("Home")
    visitor.fader("mlp", 1).press("l")
    page.wait_for_timeout(200)  # the first answer is being made
    visitor.fader("attention", 0).press("Home")
    visitor.fader("mlp", 2).scroll_into_view_if_needed()
    drag(page, spot(page, "mlp", 2, 0.9), spot(page, "mlp", 2, 0.5))
    expect(page.locator("#tune-forecast")).to_have_attribute("data-exact", "true")
    page.wait_for_timeout(1000)
    found = {
        site: [int(visitor.fader(site, i).get_attribute("aria-valuenow") or -1) for i in range(3)]
        for site in ("attention", "mlp")
    }
    assert (found["mlp"][0], found["attention"][0], found["mlp"][2]) == (8, 3, 48)
    expect(visitor.fader("mlp", 1)).to_have_attribute("aria-disabled", "true")
    with page.expect_download() as download:
        page.click("#tune-save")
    plan = json.loads(Path(download.value.path()).read_text())
    assert [plan["heads"], plan["channels"]] == [found["attention"], found["mlp"]]
