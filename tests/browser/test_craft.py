"""The craft of the page in a real browser: nothing for axe-core to complain of, nothing that jumps, words
explained, the keyboard seen, motion only where it is wanted, and presenter mode."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.browser.each_tab.test_tour_road import take
from tests.support.visitor import BROWSER, THEMES, Browser, Visitor, against_axe, dress, expect, settled

pytestmark = BROWSER
TABS = ("Load", "Analyse", "Tune", "Compare", "History")
JUMPS = """
window.jumped = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.jumped += entry.value;
}).observe({type: 'layout-shift', buffered: true});
"""
MOST_JUMPING = 0.1


@pytest.fixture(scope="module")
def guest(browser: Browser, address: str) -> Iterator[Visitor]:
    """Somebody who has taken the tour, so that every tab is full; the console stays free of errors."""
    visitor = Visitor(browser, address)
    visitor.context.add_init_script(JUMPS)
    take(visitor.page, patience=120)
    visitor.page.click("#tour-onward")
    yield visitor
    visitor.close()


@pytest.mark.parametrize("theme", THEMES)
def test_axe_has_nothing_against_the_empty_page(visitor: Visitor, theme: str) -> None:
    dress(visitor, theme)
    found = {}
    for tab in TABS:
        visitor.tab(tab)
        settled(visitor)
        found[tab] = against_axe(visitor)
    visitor.page.click("#tour-start")
    expect(visitor.page.locator("#tour-onward")).to_be_enabled()
    settled(visitor)
    found["tour"] = against_axe(visitor)
    assert {tab: said for tab, said in found.items() if said} == {}


@pytest.mark.parametrize("theme", THEMES)
def test_axe_has_nothing_against_the_full_page(guest: Visitor, theme: str) -> None:
    dress(guest, theme)
    found = {}
    for tab in TABS:
        guest.tab(tab)
        settled(guest)
        found[tab] = against_axe(guest)
    assert {tab: said for tab, said in found.items() if said} == {}


def test_nothing_jumps_while_the_page_loads(guest: Visitor, visitor: Visitor) -> None:
    visitor.context.add_init_script(JUMPS)
    for person in (visitor, guest):
        person.open()
        settled(person)
        jumped = person.page.evaluate("window.jumped")
        print(f"cumulative layout shift {jumped:.3f}")
        assert jumped < MOST_JUMPING


def test_words_are_explained_to_pointer_keys_and_screen_readers(guest: Visitor) -> None:
    page = guest.page
    guest.tab("Compare")
    mark = page.locator("#compare-table .term", has_text="Perplexity").first
    mark.scroll_into_view_if_needed()
    mark.hover()
    tip = page.locator("#glossary")
    expect(tip).to_be_visible()
    expect(tip).to_contain_text("Lower is better")
    page.keyboard.press("Escape")
    expect(tip).to_be_hidden()
    mark.focus()
    expect(tip).to_contain_text("Lower is better")
    name = mark.get_attribute("aria-describedby")
    assert "Lower is better" in page.locator(f"#{name}").text_content()
    marks = page.locator("#compare-table .term").all_text_contents()
    assert len(marks) == len({text.lower() for text in marks}), "only the first use is marked"
    page.locator("h1").click()
    expect(tip).to_be_hidden()
    guest.tab("Analyse")
    page.locator("#analyse-layers .term-all").click()
    expect(tip).to_contain_text("Cosine")


def test_keyboard_walks_and_is_seen(visitor: Visitor) -> None:
    page = visitor.page
    seen = []
    for _ in range(8):
        page.keyboard.press("Tab")
        seen.append(
            page.evaluate(
                "() => { const e = document.activeElement, s = getComputedStyle(e); "
                "return [e.id || e.textContent.trim() || e.tagName, s.outlineStyle, s.boxShadow]; }"
            )
        )
    names = [name for name, _, _ in seen]
    assert "tour-start" in names
    assert "Load" in names
    assert [name for name, outline, shadow in seen if outline == "none" and shadow == "none"] == []


def test_motion_stops_where_that_is_asked_for(browser: Browser, address: str) -> None:
    visitor = Visitor(browser, address)
    visitor.page.emulate_media(reduced_motion="reduce")
    lasts = visitor.page.evaluate(
        "getComputedStyle(document.querySelector('#load-button')).transitionDuration"
    )
    assert max(float(part.strip(" s")) for part in lasts.split(",")) < 0.001
    visitor.close()


def test_presenter_mode_is_large_and_bare_and_steps_by_keys(guest: Visitor) -> None:
    page = guest.page
    guest.tab("Load")
    size = "parseFloat(getComputedStyle(document.querySelector('.purpose')).fontSize)"
    before = page.evaluate(size)
    page.click("#present-start")
    assert page.evaluate(size) >= 1.3 * before
    expect(page.locator("#load-button")).to_be_hidden()
    expect(page.locator("#load-card")).to_be_visible()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Analyse")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#analyse-button")).to_be_hidden()
    page.keyboard.press("PageUp")
    expect(page.get_by_role("tab", name="Load")).to_have_attribute("aria-selected", "true")
    page.keyboard.press("Escape")
    expect(page.locator("#load-button")).to_be_visible()
    assert page.evaluate(size) == before
    page.click("#tour-start")
    expect(page.locator("#tour")).to_contain_text("Step 1 of")
    page.keyboard.press("Shift+P")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#tour")).to_contain_text("Step 2 of")
    page.keyboard.press("Escape")
    page.click("#tour-close")
