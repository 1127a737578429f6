"""Nothing that somebody does while another answer arrives is lost, not its answer and not the movement; and
answers are shown in the order in which they were made."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from tests.serving import drag, shown, spot
from tests.visiting import BROWSER, Browser, Visitor, expect
from ui import tune

pytestmark = BROWSER
# The end of a stream comes late, as on a busy machine: Gradio's client still takes it for open.
LATE_END = """
const ask = window.fetch.bind(window);
const body = (answer, held) => answer.body
  .pipeThrough(new TextDecoderStream()).pipeThrough(held).pipeThrough(new TextEncoderStream());
window.ends = 0;
window.fetch = async (...given) => {
  const answer = await ask(...given);
  if (!String(given[0].url ?? given[0]).includes('/queue/data')) return answer;
  const held = new TransformStream({
    async transform(part, controller) {
      for (const message of part.split(/(?<=\\n\\n)/)) {
        if (message.includes('close_stream')) {
          window.ends += 1;
          await new Promise((go) => setTimeout(go, 700));
        }
        controller.enqueue(message);
      }
    },
  });
  return new Response(body(answer, held), answer);
};
"""


@pytest.fixture(scope="module")
def two_buttons() -> Iterator[str]:
    with gr.Blocks() as page:
        told = gr.Textbox(elem_id="told", label="told")
        for name in ("one", "two"):
            gr.Button(name, elem_id=name).click(lambda name=name: name, None, told)
    with shown(page) as url:
        yield url


def test_what_is_asked_while_a_stream_ends_is_answered(browser: Browser, two_buttons: str) -> None:
    page = browser.new_page()
    page.add_init_script(LATE_END)
    page.goto(two_buttons)
    for name in ("one", "two", "one", "two"):
        page.click(f"#{name}")
        expect(page.locator("#told textarea")).to_have_value(name, timeout=5_000)
    assert page.evaluate("window.ends") >= 2
    page.close()


@pytest.fixture(scope="module")
def numbered() -> Iterator[str]:
    """A page whose answers have numbers: the first one takes long, the third one never comes."""

    def answer(number: int) -> tuple[str, str]:
        time.sleep(0.6 if number == 1 else 0)
        return f"answer {number}", str(number)

    with gr.Blocks() as page:
        order, told = gr.Textbox(visible=False), gr.Textbox(elem_id="told", label="told")
        for number in (1, 2, 4):
            gr.Button(str(number), elem_id=f"make-{number}").click(
                lambda number=number: answer(number), None, [order, told], concurrency_limit=None
            )
    with shown(page) as url:
        yield url


def test_no_answer_overtakes_one_that_was_made_before_it(browser: Browser, numbered: str) -> None:
    page = browser.new_page()
    page.goto(numbered)
    told = page.locator("#told textarea")
    page.click("#make-1")
    page.click("#make-2")
    expect(told).to_have_value("2")
    page.wait_for_timeout(1200)  # the first answer would be there by now, had the second not waited for it
    expect(told).to_have_value("2")
    page.click("#make-4")
    expect(told).to_have_value("4", timeout=5_000)  # one that never comes is not waited for for ever
    page.click("#make-2")
    expect(told).to_have_value("2")
    page.close()


def test_what_the_hand_does_while_an_answer_is_under_way_stays(
    visitor: Visitor, text_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = visitor.page
    visitor.load()
    visitor.analyse(text_file)
    page.click("#analyse-next")
    expect(page.locator("#tune-forecast")).to_have_attribute("data-exact", "true")
    value_of = tune.value_of

    def slowly(*given: Any, **named: Any) -> Any:
        time.sleep(0.3)
        return value_of(*given, **named)

    monkeypatch.setattr(tune, "value_of", slowly)
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
