"""The page in a real browser, on a tiny model: all ids, the whole road, reload in the middle of a job, stop,
two people."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import pytest

from tests.support.serving import ANSWER, JOB, drag, spot, text_of
from tests.support.visitor import BROWSER, Browser, Visitor, expect

pytestmark = BROWSER
TABS = ("Load", "Analyse", "Tune", "Compare", "History")
IDS = [
    "load-model",
    "load-button",
    "load-card",
    "analyse-text",
    "analyse-button",
    "analyse-layers",
    "analyse-heads",
    "analyse-channels",
    "analyse-detail",
    "analyse-second",
    "analyse-agreement",
    "tune-target",
    "tune-faders",
    "tune-undo",
    "tune-redo",
    "tune-save",
    "tune-load",
    "compare-button",
    "compare-stop",
    "compare-progress",
    "compare-table",
    "compare-text",
    "compare-prompt",
    "compare-generations",
    "compare-methods",
    "compare-methods-button",
    "compare-methods-table",
    "compare-methods-scatter",
    "history-table",
    "history-scatter",
    "history-export",
    "history-report",
    "tour-start",
]


@pytest.fixture(scope="module")
def long_text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A text that takes minutes to measure on: however slow the machine, a job on it still runs after a
    reload."""
    return text_of(tmp_path_factory.mktemp("texts"), 3000)


def test_whole_road(visitor: Visitor, text_file: str) -> None:
    page = visitor.page
    assert [tab.inner_text() for tab in page.get_by_role("tab").all()] == list(TABS)
    for name in TABS:
        visitor.tab(name)
        for id in IDS:
            if id.startswith(f"{name.lower()}-") or id == "tour-start":
                expect(page.locator(f"#{id}")).to_have_count(1)
    visitor.tab("Load")
    visitor.load()
    visitor.analyse(text_file)
    for id in ("analyse-layers", "analyse-heads", "analyse-channels", "analyse-curves", "analyse-scores"):
        expect(page.locator(f"#{id} .js-plotly-plot .main-svg").first).to_be_visible()
    plot = page.locator("#analyse-heads .js-plotly-plot .nsewdrag").first
    plot.scroll_into_view_if_needed()
    frame = plot.bounding_box()
    page.mouse.click(frame["x"] + 30, frame["y"] + frame["height"] * 5 / 6)
    expect(page.locator("#analyse-about")).to_contain_text("Layer 2")

    page.click("#analyse-next")
    assert page.locator("#tune-forecast").count() == 1
    one = visitor.fader("mlp", 1)
    before, summary = one.get_attribute("aria-valuenow"), page.locator("#tune-summary .note").inner_text()
    one.scroll_into_view_if_needed()
    drag(page, *(spot(page, "mlp", 1, share) for share in (0.95, 0.6, 0.3)))
    expect(page.locator("#tune-summary .note")).not_to_have_text(summary)
    expect(page.locator("#tune-undo")).to_be_enabled()
    assert one.get_attribute("aria-valuenow") != before
    page.click("#tune-undo")
    expect(one).to_have_attribute("aria-valuenow", before or "")
    expect(page.locator("#tune-summary .note")).to_have_text(summary)
    expect(page.locator("#tune-redo")).to_be_enabled()
    with page.expect_download() as saved:
        page.click("#tune-save")
    assert '"heads"' in Path(saved.value.path()).read_text()

    page.click("#tune-next")
    visitor.set("compare-text", text_file)
    visitor.set("compare-window", "32")
    visitor.set("compare-limit", "512")
    visitor.set("compare-prompt", "A model\nThe gates <b>open</b>")
    visitor.set("compare-length", "4")
    page.click("#compare-button")
    expect(page.locator("#compare-progress")).to_contain_text("done", timeout=JOB)
    table = page.locator("#compare-table")
    for words in ("Dense", "Pruned + recovery", "Perplexity", "tokens/s", "windows of 32"):
        expect(table).to_contain_text(words)
    expect(page.locator("#compare-generations")).to_contain_text("The gates <b>open</b>")
    expect(page.locator("#answer-1-recovered")).to_be_visible()
    expect(page.locator("#compare-errors .main-svg").first).to_be_visible()

    page.click("#compare-next")
    expect(page.locator("#history-table")).to_contain_text("Run 1")
    line = page.locator("#history-command textarea")
    expect(line).to_have_value(re.compile("^python -m slimllm prune"))
    page.click("#history-export")
    expect(page.locator("#history-progress")).to_contain_text("done", timeout=JOB)
    expect(page.locator("#history-made")).to_contain_text("loaded again in a fresh process")
    with page.expect_download() as saved:
        page.click("#history-zip")
    names = zipfile.ZipFile(saved.value.path()).namelist()
    assert any(name.endswith("model.safetensors") for name in names)
    with page.expect_download() as saved:
        page.click("#history-report")
    assert "Run 1" in Path(saved.value.path()).read_text()
    page.click("#history-restore")
    expect(page.locator("#tune-intro")).to_contain_text("plan of Run 1")


def test_reload_finds_the_job_again_and_stop_stops_it(
    visitor: Visitor, text_file: str, long_text: str
) -> None:
    page = visitor.page
    visitor.load()
    visitor.analyse(text_file)
    visitor.tab("Compare")
    visitor.set("compare-text", long_text)
    visitor.set("compare-window", "32")
    visitor.set("compare-limit", "0")
    page.click("#compare-button")
    expect(page.locator("#compare-stop")).to_be_enabled()
    expect(page.locator("#compare-progress")).to_contain_text("Step")
    visitor.open()
    visitor.tab("Compare")
    expect(page.locator("#compare-stop")).to_be_enabled()
    expect(page.locator("#compare-progress")).to_contain_text("so far")
    expect(page.locator("#compare-window input")).to_have_value("32")
    expect(page.locator("#load-card")).to_contain_text("KV groups")
    page.click("#compare-stop")
    expect(page.locator("#compare-progress")).to_contain_text("stopped after", timeout=ANSWER)
    expect(page.locator("#compare-button")).to_be_enabled()
    expect(page.locator("#compare-table table")).to_have_count(0)


def test_two_people_have_two_plans(browser: Browser, address: str, text_file: str) -> None:
    one, two = Visitor(browser, address), Visitor(browser, address)
    one.load()
    one.analyse(text_file)
    one.page.click("#analyse-next")
    expect(one.fader("mlp", 1)).to_be_visible()
    two.tab("Tune")
    expect(two.page.locator("#tune-intro")).to_contain_text("needs an analysis")
    two.page.click("#tune-missing-next")
    two.load()
    two.analyse(text_file)
    two.page.click("#analyse-next")
    expect(two.fader("mlp", 0)).to_be_visible()
    two.page.bring_to_front()
    two.fader("mlp", 0).press("ArrowDown")
    expect(two.page.locator("#tune-undo")).to_be_enabled()
    one.open()
    one.tab("Tune")
    expect(one.page.locator("#tune-undo")).to_be_disabled()
    one.close()
    two.close()


# The titles of charts that reach beyond their chart.
CUT_OFF = """() => [...document.querySelectorAll('.js-plotly-plot')].flatMap((plot) => {
  const box = plot.getBoundingClientRect();
  return [...plot.querySelectorAll('.g-gtitle text')].filter((text) => {
    const words = text.getBoundingClientRect();
    return box.width && (words.left < box.left || words.right > box.right);
  }).map((text) => text.textContent);
})"""


def test_second_method_is_laid_over_the_maps(visitor: Visitor, text_file: str, tmp_path: Path) -> None:
    other_text = text_of(tmp_path, 9, "another-text-with-a-long-name.txt")
    page = visitor.page
    visitor.load()
    visitor.analyse(text_file)
    page.click("#analyse-second-button")
    expect(page.locator("#analyse-intro")).to_contain_text("Choose a second method")
    visitor.choose("analyse-second", "Wanda-sp")
    page.click("#analyse-second-button")
    expect(page.locator("#analyse-agreement-words")).to_contain_text("agree on", timeout=JOB)
    expect(page.locator("#analyse-agreement .main-svg").first).to_be_visible()
    for id in ("analyse-heads", "analyse-channels"):
        expect(page.locator(f"#{id} .legend")).to_contain_text("only by Wanda-sp")
        expect(page.locator(f"#{id} .gtitle-subtitle")).to_contain_text("and Wanda-sp on page.txt")
    visitor.set("analyse-second-text", other_text)
    page.click("#analyse-second-button")
    expect(page.locator("#analyse-heads .gtitle-subtitle")).to_contain_text("another-text", timeout=JOB)
    for width in (1200, 390):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(600)  # the plots are drawn anew
        assert page.evaluate(CUT_OFF) == [], f"words of a chart are cut off at {width} px"
    page.set_viewport_size({"width": 1200, "height": 900})
    page.locator("#analyse-overlay").get_by_text("by Wanda-sp").last.click()
    expect(page.locator("#analyse-channels .legend")).to_have_count(0)
    visitor.choose("analyse-second", "The same method")
    visitor.choose("analyse-second-text", "The same text")
    expect(page.locator("#analyse-agreement-words")).not_to_contain_text("agree on")
    expect(page.locator("#analyse-overlay")).to_have_count(0)


def test_several_methods_on_one_budget(visitor: Visitor, text_file: str) -> None:
    page = visitor.page
    visitor.load()
    visitor.analyse(text_file)
    visitor.tab("Compare")
    visitor.set("compare-text", text_file)
    visitor.set("compare-window", "32")
    visitor.set("compare-limit", "256")
    boxes = page.locator("#compare-methods label")
    for label in boxes.all():
        label.locator("input").set_checked(
            label.inner_text().strip() in ("Magnitude", "FASP", "Block influence")
        )
    page.click("#compare-methods-button")
    expect(page.locator("#compare-methods-progress")).to_contain_text("done", timeout=JOB)
    table = page.locator("#compare-methods-table")
    for words in (
        "Dense",
        "Your plan",
        "Magnitude",
        "FASP",
        "Block influence",
        "Whole layers",
        "Excess loss",
    ):
        expect(table).to_contain_text(words)
    expect(page.locator("#compare-methods-scatter .main-svg").first).to_be_visible()
    table.get_by_role("button", name="Take the plan of Block influence into Tune").click()
    expect(page.locator("#tune-intro")).to_contain_text("plan of Block influence")
    expect(page.locator("#tune-summary")).to_contain_text("dropped whole")
    page.locator("#tune-rules").get_by_text("By which rules").click()
    expect(page.locator("#tune-words")).to_contain_text("it removes whole layers")
    visitor.tab("Compare")
    table.get_by_role("button", name="Take the plan of FASP into Tune").click()
    expect(page.locator("#tune-intro")).to_contain_text("plan of FASP")
    expect(page.locator("#tune-faders")).to_contain_text("Attention value columns")
    page.click("#tune-undo")
    expect(page.locator("#tune-faders")).to_contain_text("Attention heads")


def test_refusal_is_said_on_the_page(visitor: Visitor) -> None:
    page = visitor.page
    visitor.set("load-model", "no/such-<b>model</b>")
    page.click("#load-button")
    expect(page.locator("#load-progress")).to_contain_text("There is no folder")
    expect(page.locator("#notice p")).to_contain_text("no/such-<b>model</b>")
    page.get_by_role("button", name="Put this notice away").click()
    expect(page.locator("#notice p")).to_have_count(0)
    visitor.complaints.clear()


@pytest.mark.parametrize("width", [390, 1024, 1600])
def test_nothing_is_wider_than_the_window(browser: Browser, address: str, width: int) -> None:
    visitor = Visitor(browser, address, width)
    for name in TABS:
        if width > 600:
            visitor.tab(name)
        overflow = visitor.page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert overflow <= 0, name
    visitor.close()
