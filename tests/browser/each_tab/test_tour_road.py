"""The tour in a real browser: a few clicks from nothing to what the cut cost; and presenter mode."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.serving import ANSWER, FACTOR, served
from tests.support.visitor import BROWSER, Browser, Page, expect
from ui.tour.story import STEPS

pytestmark = BROWSER
MOST_CLICKS, MOST_SECONDS = 6, 180.0


def opened(browser: Browser, address: str) -> Page:
    page = browser.new_context(viewport={"width": 1200, "height": 900}).new_page()
    page.set_default_timeout(ANSWER)
    page.goto(address)
    page.wait_for_function("document.querySelector('#load-intro')?.textContent.includes('language model')")
    return page


def take(page: Page, patience: float) -> tuple[int, float]:
    """Takes the tour as somebody who presses the one bright button; clicks and seconds until the last
    sentence stands there."""
    began, clicks = time.monotonic(), 1
    page.click("#tour-start")
    for number, step in enumerate(STEPS, 1):
        card = page.locator("#tour")
        expect(card).to_contain_text(f"Step {number} of {len(STEPS)}", timeout=ANSWER)
        onward = page.locator("#tour-onward")
        expect(onward).to_be_enabled(timeout=1000 * patience * FACTOR)
        expect(onward).to_have_text(step.onward)
        expect(page.get_by_role("tab", name=step.tab.capitalize(), exact=True)).to_have_attribute(
            "aria-selected", "true"
        )
        expect(card).to_contain_text(step.after[0].split("{")[0])
        expect(card.locator("svg.sketch")).to_have_count(1)
        if step is STEPS[-1]:
            expect(card).to_contain_text(step.after[-1])
        else:
            onward.click()
            clicks += 1
    return clicks, time.monotonic() - began


def test_tour_shrinks_a_model_in_a_few_clicks(browser: Browser, address: str) -> None:
    page = opened(browser, address)
    clicks, _ = take(page, patience=120)
    assert clicks <= MOST_CLICKS
    card = page.locator("#tour")
    expect(card).to_contain_text("smaller: it has")
    expect(card.locator(".tour-answers dd")).to_have_count(2)
    expect(page.locator("#compare-table")).to_contain_text("Perplexity")
    page.click("#tour-back")
    expect(card.locator(".cross").first).to_be_visible()
    expect(card).to_contain_text("heads and")
    page.reload()
    expect(card).to_contain_text("Step 4 of 5")
    page.click("#tour-close")
    expect(card).to_have_count(0)
    page.context.close()


def test_tour_says_what_went_wrong_and_tries_again(browser: Browser, tmp_path: Path) -> None:
    with served(str(tmp_path / "nothing-here")) as address:
        page = opened(browser, address)
        page.click("#tour-start")
        expect(page.locator("#tour")).to_contain_text("There is no folder", timeout=ANSWER)
        expect(page.locator("#tour-onward")).to_have_text("Try again")
        page.click("#tour-onward")
        expect(page.locator("#tour")).to_contain_text("Step 1 of")
        page.context.close()


@pytest.mark.slow
@pytest.mark.timed
def test_tour_on_the_starter_model(browser: Browser, capsys: pytest.CaptureFixture[str]) -> None:
    with served("smollm2", threads=2) as address:
        page = opened(browser, address)
        clicks, seconds = take(page, patience=600)
        said = page.locator("#tour .tour-words").inner_text()
        page.context.close()
    with capsys.disabled():
        print(f"\nThe tour on the starter model: {clicks} clicks, {seconds:.0f} s.\n{said}")
    assert clicks <= MOST_CLICKS
    assert seconds <= MOST_SECONDS
