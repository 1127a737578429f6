"""The Compare tab in a real browser, on a tiny model that is pruned once: what the figures mean, the next
step, where it broke, what it forgot, answers side by side, speed."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator

import pytest

from tests.support.serving import JOB
from tests.support.visitor import BROWSER, THEMES, Browser, Page, Visitor, against_axe, expect, settled
from ui.session.registry import REGISTRY
from ui.session.session import Session
from ui.tabs.compare import topics_panel

pytestmark = BROWSER
CONTRAST = """() => {
  const light = (text) => {
    const [r, g, b] = (text.match(/[\\d.]+/g) || []).map(Number).map((x) => {
      const part = text.startsWith('color(') ? x : x / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = {};
  for (const token of document.querySelectorAll('.tk-legend .tk, .answer mark')) {
    const style = getComputedStyle(token);
    if (style.backgroundColor === 'rgba(0, 0, 0, 0)') continue;
    const both = [light(style.color), light(style.backgroundColor)].sort((a, b) => b - a);
    found[token.className || 'mark'] = (both[0] + 0.05) / (both[1] + 0.05);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def visitor(
    browser: Browser, address: str, text_file: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Visitor]:
    """A person whose model is pruned already."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLIMLLM_HOME", str(tmp_path_factory.mktemp("home")))
        visitor = Visitor(browser, address)
        visitor.load()
        visitor.analyse(text_file)
        visitor.tab("Compare")
        visitor.set("compare-text", text_file)
        visitor.set("compare-window", "32")
        visitor.set("compare-limit", "256")
        visitor.set("compare-prompt", "A model")
        visitor.set("compare-length", "6")
        visitor.page.click("#compare-button")
        expect(visitor.page.locator("#compare-progress")).to_contain_text("done", timeout=JOB)
        yield visitor
        assert visitor.complaints == []
        visitor.close()


def session_of(page: Page) -> Session:
    return REGISTRY.open(page.evaluate("localStorage.getItem('slimllm-browser')"))


def finished(page: Page, name: str) -> None:
    expect(page.locator(f"#compare-{name}-progress")).to_contain_text("done", timeout=JOB)


def test_every_figure_is_told_in_plain_words(visitor: Visitor) -> None:
    page = visitor.page
    expect(page.locator("#compare-verdict .note")).to_contain_text("smaller")
    table = page.locator("#compare-table")
    for words in ("In plain words", "of all weights", "It needs", "tokens/s", "on text held out"):
        expect(table).to_contain_text(words)
    expect(page.locator("#compare-errors-words")).to_contain_text("lost most")
    expect(page.locator("#compare-errors .main-svg").first).to_be_visible()


def test_results_of_another_plan_are_marked_until_the_plan_is_back(visitor: Visitor) -> None:
    page = visitor.page
    expect(page.locator("#compare-next")).to_be_visible()
    visitor.tab("Tune")
    page.locator("#tune-target input[type=number]").fill("0.35")
    page.keyboard.press("Enter")
    expect(page.locator("#tune-undo")).to_be_enabled()
    visitor.tab("Compare")
    said = page.locator("#compare-verdict")
    expect(said).to_contain_text("These results belong to Run 1")
    expect(said).to_contain_text("The plan has changed since")
    expect(page.locator("#compare-table .outdated")).to_be_visible()
    expect(page.locator("#compare-next")).to_be_hidden()
    expect(page.locator("#compare-steps button")).to_have_count(0)
    assert against_axe(visitor) == []
    visitor.tab("Tune")
    page.click("#tune-undo")
    visitor.tab("Compare")
    expect(said).not_to_contain_text("These results belong")
    expect(page.locator("#compare-table .outdated")).to_have_count(0)
    expect(page.locator("#compare-next")).to_be_visible()


def test_where_it_broke_by_pointer_and_by_keys(visitor: Visitor) -> None:
    page = visitor.page
    visitor.set("compare-passage-own", "Every <b>layer</b> reads.")
    page.click("#compare-passage-button")
    finished(page, "passage")
    shown = page.locator("#compare-passage")
    expect(shown.locator(".tk-text")).to_have_text("Every <b>layer</b> reads.")
    expect(shown).to_contain_text("Half of all that was lost sits in")
    tokens = shown.locator(".tk[data-i]")
    tokens.nth(3).hover()
    detail = shown.locator(".tk-detail")
    expect(detail.locator("strong")).to_have_text("“y”")
    expect(detail).to_contain_text("likely")
    assert "%" in detail.locator("tbody").inner_text()
    tokens.nth(3).click()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(detail.locator("strong")).to_have_text("“<”")
    expect(tokens.nth(5)).to_be_focused()
    expect(tokens.nth(5)).to_have_attribute("aria-selected", "true")
    page.locator("#compare-passage-against").get_by_text("Pruned", exact=True).click()
    expect(shown.locator(".tk-words")).to_contain_text("Pruned: ")
    visitor.set("compare-passage-own", "x" * 500)
    page.click("#compare-passage-button")
    expect(page.locator("#compare-passage-progress")).to_contain_text("at most 400")
    expect(shown.locator(".tk-text")).to_have_text("Every <b>layer</b> reads.")
    page.click("#compare-passage-worst")
    finished(page, "passage")
    expect(shown).to_contain_text("page.txt, passage")


@pytest.mark.skipif(bool(topics_panel.missing_kit()), reason="the starter kit is not installed")
def test_what_it_forgot_is_sorted_by_topic(visitor: Visitor) -> None:
    page = visitor.page
    visitor.set("compare-topics-limit", "64")
    page.click("#compare-topics-button")
    finished(page, "topics")
    table = page.locator("#compare-topics")
    expect(table).to_contain_text(re.compile("hardest hit is|no topic stands out"))
    expect(table.locator("tbody tr")).to_have_count(12)
    expect(table.locator(".bar-line .fill").first).to_be_visible()


def test_prompts_are_answered_side_by_side(visitor: Visitor) -> None:
    page = visitor.page
    page.click("#compare-ours-0")
    expect(page.locator("#compare-prompt textarea")).to_have_value("A model\nThe capital of France is")
    page.click("#compare-answer")
    expect(page.locator("#answer-1-recovered")).to_be_visible()
    expect(page.locator("#compare-progress")).to_contain_text("Answering: done", timeout=JOB)
    answers = page.locator("#compare-generations .answers")
    expect(answers).to_have_count(2)
    expect(answers.nth(1)).to_contain_text("The capital of France is")
    expect(answers.nth(1).locator(".answer")).to_have_count(3)
    said = re.compile("Word for word the same|The same for the first|Different from the first word")
    expect(answers.nth(1).locator("small").last).to_contain_text(said)
    page.click("#compare-ours-0")
    expect(page.locator("#compare-prompt textarea")).to_have_value("A model")


def test_speed_is_measured_on_request(visitor: Visitor) -> None:
    page = visitor.page
    for name, value in (("length", "16"), ("new", "4"), ("rounds", "2")):
        visitor.set(f"compare-pace-{name}", value)
    page.click("#compare-pace-button")
    finished(page, "pace")
    for words in ("Reading", "Writing", "16 tokens read", "took turns", "on cpu in float32"):
        expect(page.locator("#compare-pace")).to_contain_text(words)


def test_axe_has_nothing_against_filled_panels_and_nothing_overflows(visitor: Visitor) -> None:
    page = visitor.page
    for theme in THEMES:
        visitor.leaving = True
        page.goto(f"{visitor.address}?__theme={theme}")
        visitor.leaving = False
        visitor.tab("Compare")
        expect(page.locator(".tk-legend .tk").first).to_be_visible()
        expect(page.locator("#compare-pace table")).to_be_visible()
        settled(visitor)
        found = page.evaluate(CONTRAST)
        assert len(found) >= 5
        assert {name: round(ratio, 1) for name, ratio in found.items() if ratio < 4.5} == {}
        assert against_axe(visitor) == []
    for width in (390, 1024, 1600):
        page.set_viewport_size({"width": width, "height": 900})
        over = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert over <= 0, width
    page.set_viewport_size({"width": 1200, "height": 900})


def test_a_ruined_run_offers_the_next_step(visitor: Visitor) -> None:
    page = visitor.page
    session = session_of(page)
    last = session.comparison
    assert last is not None
    before = last.plan.ratio_achieved
    for name in ("pruned", "recovered"):
        last.columns[name] = dataclasses.replace(last.columns[name], perplexity=math.inf)
    session.mark("table")
    visitor.open()
    visitor.tab("Compare")
    expect(page.locator("#compare-verdict")).to_contain_text("ruined the model")
    step = page.locator("#compare-step-0")
    expect(step).to_have_text("Try a smaller cut: 10 %")
    step.click()
    expect(page.locator("#compare-progress")).to_contain_text("comparing: done", timeout=JOB)
    expect(page.locator("#compare-verdict")).not_to_contain_text("ruined")
    assert session.plan.ratio_achieved < before
    expect(page.locator("#compare-passage")).to_contain_text("A passage appears here")


def test_recovery_that_did_harm_is_told_and_more_text_is_one_press_away(visitor: Visitor) -> None:
    page = visitor.page
    session = session_of(page)
    last = session.comparison
    assert last is not None
    plan = dataclasses.replace(last.plan, recovery="least-squares")
    for name, perplexity in (("dense", 20.0), ("pruned", 31.6), ("recovered", 40.2)):
        last.columns[name] = dataclasses.replace(last.columns[name], perplexity=perplexity, losses=())
    session.take_plan(plan)
    session.results.comparison = dataclasses.replace(last, plan=session.plan)
    session.mark("table")
    visitor.open()
    visitor.tab("Compare")
    said = page.locator("#compare-verdict")
    expect(said).to_contain_text("Recovery made the model worse: perplexity 40.20, and 31.60 without it.")
    expect(said).to_contain_text("too little text: 2.7 tokens per channel")
    expect(page.locator("#compare-verdict .note.bad")).to_be_visible()
    expect(page.locator("#compare-step-0")).to_have_text("Use regression")
    more = page.locator("#compare-step-1")
    expect(more).to_have_text("Read more text: 768 tokens")
    box = more.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(page.locator("#analyse-samples input")).to_have_value("24")
    expect(page.locator("#analyse-preflight")).to_contain_text("768 tokens")
