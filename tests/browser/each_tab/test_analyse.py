"""The Analyse tab in a real browser, on a tiny model: looking into a layer, hands on the maps by mouse and by
key, channels in every order, figures as files."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.serving import JOB, fader, text_of
from tests.support.visitor import BROWSER, Browser, Page, Visitor, expect

pytestmark = BROWSER
LAYERS, HEADS, CHANNELS = 3, 6, 96


@pytest.fixture(scope="module")
def visitor(browser: Browser, address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visitor]:
    """A person whose model is analysed by SlimLLM; the tests of this file share the page."""
    visitor = Visitor(browser, address, 1400)
    visitor.load()
    visitor.page.click("#load-next")
    visitor.choose("analyse-method", "SlimLLM")
    visitor.tab("Load")
    visitor.analyse(text_of(tmp_path_factory.mktemp("texts"), 12))
    yield visitor
    visitor.close()


@pytest.fixture
def page(visitor: Visitor) -> Page:
    visitor.tab("Analyse")
    expect(visitor.page.locator("#analyse-heads .gtitle").first).to_be_visible()
    return visitor.page


def cell(page: Page, id: str, across: float, down: float) -> tuple[float, float]:
    """Where this share of a map's width and height is on the screen."""
    area = page.locator(f"#{id} .nsewdrag").first
    area.scroll_into_view_if_needed()
    box = area.bounding_box()
    return box["x"] + across * box["width"], box["y"] + down * box["height"]


def press_head(page: Page, head: int, layer: int) -> None:
    page.mouse.click(*cell(page, "analyse-heads", (head + 0.5) / HEADS, (layer + 0.5) / LAYERS))
    expect(page.locator("#analyse-picked")).to_contain_text(f"Layer {layer}, head {head} of KV group")


def undo(page: Page) -> None:
    """One step back, after which nothing is held any more."""
    page.click("#analyse-undo")
    expect(page.locator("#analyse-picked")).not_to_contain_text("In the plan")


def test_a_layer_opens_with_scores_curves_spectrum_and_swaps(page: Page) -> None:
    press_head(page, 1, 2)
    for id in ("analyse-curves", "analyse-scores", "analyse-spectrum"):
        expect(page.locator(f"#{id} .gtitle")).to_contain_text("Layer 2")
    expect(page.locator("#analyse-about")).to_contain_text("The plan keeps")
    expect(page.locator("#analyse-swaps")).to_contain_text("the search")
    expect(page.locator("#analyse-swaps")).to_contain_text("directions carry 90")
    expect(page.locator("#analyse-curves")).to_contain_text("the plan")


def test_one_picture_has_cosine_implied_and_chosen_ratio(page: Page) -> None:
    for words in ("cosine of input and output", "implied by the cosine", "removed by the plan"):
        expect(page.locator("#analyse-layers .legend")).to_contain_text(words)


def test_a_head_is_protected_by_key_shown_and_undone(page: Page) -> None:
    page.locator("#analyse-heads .pv-plot").focus()
    for key in ("ArrowRight", "ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
    expect(page.locator("#analyse-heads .pv-cursor")).to_be_visible()
    page.keyboard.press("Enter")
    expect(page.locator("#analyse-picked")).to_contain_text("head")
    page.keyboard.press("p")
    expect(page.locator("#analyse-picked")).to_contain_text("Protected.")
    expect(page.locator("#analyse-picked")).to_contain_text("In the plan: 1 head protected.")
    expect(page.locator("#analyse-heads .legend")).to_contain_text("protected")
    undo(page)
    expect(page.locator("#analyse-picked")).to_contain_text("Free: the plan decides.")
    expect(page.locator("#analyse-heads .legend")).to_have_count(0)


def test_letters_after_a_mouse_click_act_on_the_map(page: Page) -> None:
    """With the focus on the plot, and with the focus on a button pressed since."""
    said = page.locator("#analyse-picked")
    press_head(page, 1, 1)
    page.keyboard.press("p")
    expect(said).to_contain_text("In the plan: 1 head protected.")
    undo(page)
    page.keyboard.press("f")
    expect(said).to_contain_text("In the plan: 1 head forced out.")
    page.keyboard.press("c")
    expect(said).not_to_contain_text("In the plan")
    page.keyboard.press("l")
    expect(said).to_contain_text("Layer 1, all of it")
    assert not page.evaluate("document.documentElement.classList.contains('presenting')")


def test_a_dragged_stretch_of_channels_is_forced_out_and_kept_in_the_plan(
    page: Page, visitor: Visitor
) -> None:
    page.locator("#analyse-order").get_by_text("in place").click()
    expect(page.locator("#analyse-channels .xtitle")).to_have_text("Channel")
    page.mouse.move(*cell(page, "analyse-channels", 0.25, 0.4))
    page.mouse.down()
    page.mouse.move(*cell(page, "analyse-channels", 0.5, 0.6), steps=4)
    page.mouse.up()
    expect(page.locator("#analyse-picked")).to_contain_text("Layer 1, channels 2")
    page.click("#analyse-force")
    expect(page.locator("#analyse-picked")).to_contain_text("channels forced out")
    expect(page.locator("#analyse-channels .legend")).to_contain_text("forced out")
    visitor.tab("Tune")
    expect(fader(page, "mlp", 1)).to_have_attribute("aria-valuemax", re.compile(r"^([1-6]?\d|7[0-2])$"))
    visitor.tab("Analyse")
    undo(page)


def test_a_whole_layer_goes_and_comes_back(page: Page, visitor: Visitor) -> None:
    press_head(page, 0, 1)
    page.click("#analyse-whole")
    expect(page.locator("#analyse-picked")).to_contain_text("all of it: 6 heads and 96 channels")
    page.click("#analyse-force")
    expect(page.locator("#analyse-about")).to_contain_text("The plan drops it whole.")
    visitor.tab("Tune")
    expect(fader(page, "mlp", 1)).to_have_attribute(
        "aria-valuetext",
        "layer 1: dropped whole, MLP included; forced out on Analyse; clear it there to bring it back",
    )
    visitor.tab("Analyse")
    page.click("#analyse-clear")
    expect(page.locator("#analyse-about")).to_contain_text("of 96 channels")
    expect(page.locator("#analyse-picked")).to_contain_text("Free")


def test_channels_add_up_and_one_layer_is_shown_in_full(page: Page) -> None:
    page.locator("#analyse-order").get_by_text("adding up").click()
    expect(page.locator("#analyse-channels .gtitle")).to_contain_text("adding up")
    page.locator("#analyse-zoom").get_by_text("one layer").click()
    expect(page.locator("#analyse-channels .gtitle")).to_contain_text("every channel")
    press_head(page, 2, 0)
    expect(page.locator("#analyse-channels .gtitle")).to_contain_text("Layer 0: every channel")
    page.locator("#analyse-channels .pv-plot").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("f")
    expect(page.locator("#analyse-picked")).to_contain_text("Layer 0, the channels ranked 1 to 2 (2 in all).")
    expect(page.locator("#analyse-picked")).to_contain_text("Forced out.")
    undo(page)
    page.locator("#analyse-zoom").get_by_text("all layers").click()
    expect(page.locator("#analyse-channels .gtitle")).to_have_text(
        "Importance of the MLP channels, adding up"
    )
    page.locator("#analyse-order").get_by_text("sorted").click()
    expect(page.locator("#analyse-channels .gtitle")).to_have_text("Importance of the MLP channels")


def test_a_figure_is_saved_as_a_picture_and_as_a_table(page: Page) -> None:
    page.locator("#analyse-heads .plotview").hover()
    with page.expect_download() as saved:
        page.get_by_role("button", name="PNG: download “Importance of the heads”").click()
    assert saved.value.suggested_filename.endswith(".png")
    assert Path(saved.value.path()).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    rows = table(page, "Importance of the heads")
    assert list(rows[0]) == ["Query head", "Layer", "score", "rank"]
    assert len(rows) == LAYERS * HEADS
    assert {(int(r["Layer"]), int(r["Query head"])) for r in rows} == {
        (i, h) for i in range(3) for h in range(6)
    }
    assert sorted(int(r["rank"]) for r in rows if r["Layer"] == "0") == [1, 2, 3, 4, 5, 6]
    curves = table(page, "What pruning this layer would cost")
    assert {row["trace"] for row in curves} >= {"None", "Regression", "the plan"}
    assert {row["panel"] for row in curves} == {"Heads kept", "Channels kept"}


def table(page: Page, caption: str) -> list[dict[str, Any]]:
    """The rows of a figure's CSV."""
    button = page.get_by_role("button", name=f"CSV: download “{caption}”")
    button.scroll_into_view_if_needed()
    with page.expect_download() as saved:
        button.click()
    with Path(saved.value.path()).open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_another_text_is_laid_over_with_difference_and_rank_correlation(
    page: Page, visitor: Visitor, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("texts") / "poems.txt"
    other.write_text(
        "Roses are red, violets are blue; sugar is sweet, and so are you.\n" * 90, encoding="utf-8"
    )
    visitor.set("analyse-second-text", str(other))
    page.click("#analyse-second-button")
    expect(page.locator("#analyse-agreement-words")).to_contain_text("“poems.txt” agree on", timeout=JOB)
    expect(page.locator("#analyse-agreement .ytitle")).to_have_text("Rank correlation")
    expect(page.locator("#analyse-heads .legend")).to_contain_text("only by “poems.txt”")
    page.locator("#analyse-overlay").get_by_text("difference in rank").click()
    for id in ("analyse-heads", "analyse-channels"):
        expect(page.locator(f"#{id} .gtitle")).to_contain_text("How differently")
    visitor.choose("analyse-second-text", "The same text")
    expect(page.locator("#analyse-heads .gtitle")).to_contain_text("Importance of each head")
    expect(page.locator("#analyse-agreement")).to_contain_text("lay it over")


def test_a_failed_analysis_says_so_in_the_place_of_the_maps(browser: Browser, address: str) -> None:
    visitor = Visitor(browser, address, 1000)
    visitor.load()
    visitor.page.click("#load-next")
    visitor.set("analyse-text", "/nowhere/at/all.txt")
    visitor.page.click("#analyse-button")
    for id in ("analyse-layers", "analyse-heads", "analyse-channels"):
        expect(visitor.page.locator(f"#{id} .pv-wrong")).to_contain_text("Nothing to draw yet.")
    visitor.close()
