"""The History tab in a real browser: yesterday's runs, a tab closed in the middle of a job, the way back to a
plan."""

from __future__ import annotations

import dataclasses
import json
import re
import threading
from pathlib import Path

import pytest

from slimllm.core.types import Progress
from tests.support.made_up_analyses import synthetic_analysis
from tests.support.made_up_runs import family
from tests.support.serving import JOB
from tests.support.visitor import BROWSER, Browser, Visitor, expect
from ui.html import report
from ui.jobs.worker import Job
from ui.session.kept.run_store import RunStore
from ui.session.registry import REGISTRY

pytestmark = BROWSER
KEY = "slimllm-browser"


def owner_of(visitor: Visitor) -> str:
    return str(visitor.page.evaluate(f"localStorage.getItem('{KEY}')"))


def restarted(visitor: Visitor) -> None:
    """The page as it is when the program was started anew: nothing is known but what is on disk."""
    REGISTRY._sessions.pop(owner_of(visitor)).close()
    visitor.open()


def test_yesterdays_runs_are_all_there(visitor: Visitor, browser: Browser, address: str) -> None:
    page, shelf = visitor.page, RunStore(owner_of(visitor))
    for run in family(synthetic_analysis(layers=6, channels=256)):
        shelf.put(run)
    shelf.file(9).write_text("{")
    entry = {"title": "Export", "kind": "export", "began": "2026-11-25T14:05:00"}
    (shelf.folder / "job.json").write_text(json.dumps(entry))
    restarted(visitor)
    expect(page.locator("#load-intro .note")).to_contain_text("was going on when the program ended")
    visitor.tab("History")
    rows = page.locator("#history-table tbody tr")
    expect(rows).to_have_count(4)
    expect(page.locator("#history-damaged")).to_contain_text("run-0009.json cannot be read")
    expect(rows.first).to_contain_text("from Run 3: layer 3 keeps")
    expect(page.locator("#history-about h3")).to_contain_text("Run 4")
    expect(page.locator("#history-difference-words")).to_contain_text("than Run 3; 1 layer differs")
    expect(page.locator("#history-answers .answers")).to_have_count(2)
    expect(page.locator("#history-topics tbody tr")).to_have_count(2)
    expect(page.locator("#history-difference .main-svg").first).to_be_visible()

    points = page.locator("#history-scatter .scatterlayer .trace").first.locator("path.point")
    box = points.last.bounding_box()  # the largest model on the line: the first run
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(page.locator("#history-about h3")).to_contain_text("Run 1")
    expect(page.locator("#history-difference-words")).to_contain_text("than Dense")
    expect(page.locator("#history-command textarea")).to_have_value(
        "python -m slimllm prune --model synthetic --ratio 0.1 --method slimllm --recovery regression "
        "--allocation cosine --unit kv-group --align 8 --count decoder --text encyclopedia --samples 64 "
        "--length 256 --seed 0 --option greedy=on --option keep_lowest=off --dtype float32 --out out/run1"
    )

    page.get_by_role("button", name="Run 2", exact=True).press("Enter")
    expect(page.locator("#history-about h3")).to_contain_text("Run 2")
    page.get_by_role("button", name="Pin Run 2").click()
    expect(rows.first).to_contain_text("Run 2")
    note = page.locator("#history-note textarea, #history-note input").first
    note.fill("a <b>good</b> one")
    note.blur()
    expect(rows.first).to_contain_text("a <b>good</b> one")
    page.click("#history-delete")
    expect(rows).to_have_count(3)
    restarted(visitor)
    visitor.tab("History")
    expect(rows).to_have_count(3)
    page.get_by_role("button", name="Bring Run 2 back").click()
    expect(rows).to_have_count(4)
    expect(rows.first).to_contain_text("a <b>good</b> one")
    expect(note).to_have_value("a <b>good</b> one")
    visitor.choose("history-against", "Run 4")
    expect(page.locator("#history-difference-words")).to_contain_text("448 more channels than Run 4")
    with page.expect_download() as saved:
        page.click("#history-plan")
    assert json.loads(Path(saved.value.path()).read_text())["ratio_requested"] == 0.2
    page.locator("#history-passage .tk", has_text="capital").hover()
    expect(page.locator("#history-passage .tk-detail")).to_contain_text("“capital”")

    stranger = Visitor(browser, address)
    stranger.tab("History")
    expect(stranger.page.locator("#history-table")).to_contain_text("Every comparison becomes a row")
    expect(stranger.page.locator("#history-one")).to_be_hidden()
    stranger.close()


class Hold:
    """Lets a job wait at a step until it is told to go on."""

    def __init__(self, patch: pytest.MonkeyPatch, kind: str, words: str):
        self.go, self.there = threading.Event(), threading.Event()
        note = Job.note

        def held(job: Job, progress: Progress) -> None:
            note(job, progress)
            if job.kind == kind and words in progress.words:
                self.there.set()
                self.go.wait(60)

        patch.setattr(Job, "note", held)


def test_nothing_is_lost_when_the_tab_closes_or_reloads(
    visitor: Visitor, text_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = visitor.page
    visitor.load()
    with monkeypatch.context() as patch:
        hold = Hold(patch, "analyse", "")
        page.click("#load-next")
        visitor.set("analyse-text", text_file)
        visitor.set("analyse-samples", "8")
        visitor.set("analyse-length", "32")
        page.click("#analyse-button")
        assert hold.there.wait(20)
        visitor.leaving = True
        page.close()
        hold.go.set()
    visitor.page = page = visitor.context.new_page()
    visitor.open()
    visitor.tab("Analyse")
    expect(page.locator("#analyse-progress")).to_contain_text("done", timeout=JOB)
    visitor.tab("Tune")
    expect(visitor.fader("mlp", 2)).to_be_visible()

    visitor.tab("Compare")
    visitor.set("compare-text", text_file)
    visitor.set("compare-window", "32")
    visitor.set("compare-limit", "512")
    visitor.set("compare-prompt", "A model")
    visitor.set("compare-length", "4")
    with monkeypatch.context() as patch:
        hold = Hold(patch, "compare", "pruning")
        page.click("#compare-button")
        assert hold.there.wait(20)
        visitor.open()
        visitor.tab("Compare")
        expect(page.locator("#compare-progress")).to_contain_text("pruning")
        hold.go.set()
    expect(page.locator("#compare-progress")).to_contain_text("done", timeout=JOB)
    expect(page.locator("#compare-table")).to_contain_text("Pruned + recovery")
    visitor.tab("History")
    expect(page.locator("#history-about h3")).to_contain_text("Run 1")
    run = REGISTRY.open(owner_of(visitor)).run(1)
    assert run.portrait is not None
    assert [prompt for prompt, _ in run.answers] == ["A model"]

    restarted(visitor)
    visitor.tab("History")
    page.click("#history-restore")
    expect(page.locator("#history-restoring")).to_contain_text("done", timeout=JOB)
    expect(page.locator("#history-intro")).to_contain_text("The plan of Run 1 is in Tune again")
    session = REGISTRY.open(owner_of(visitor))
    assert dataclasses.replace(session.plan, versions=()) == dataclasses.replace(run.plan, versions=())
    visitor.tab("Tune")
    kept = str(run.plan.channels[1])
    expect(visitor.fader("mlp", 1)).to_have_attribute("aria-valuenow", kept)


def test_the_report_opens_with_the_network_off(browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(report.report_page(family()[3]), encoding="utf-8")
    assert file.stat().st_size < 3_000_000
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    context.set_offline(True)
    page, complaints = context.new_page(), list[str]()
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.append(request.url))
    page.on("request", lambda r: None if r.url.startswith(("data:", "file:")) else complaints.append(r.url))
    page.goto(file.as_uri())
    for section in ("figures", "maps", "layers", "answers", "passage", "topics", "again"):
        expect(page.locator(f"#{section} h2")).to_be_visible()
    page.locator("#passage .tk", has_text="Paris").hover()
    expect(page.locator("#passage .tk-detail")).to_contain_text("“Paris”")
    assert page.locator("svg").count() == 5
    broken = "[...document.images].filter((one) => !one.naturalWidth).length"
    assert page.evaluate(broken) == 0
    pictures = page.locator("svg.map image")
    assert pictures.count() == 2
    for picture in pictures.all():
        picture.scroll_into_view_if_needed()
        drawn = picture.evaluate(
            """async (image) => {
                const copy = new Image();
                copy.src = image.getAttribute('href');
                await copy.decode();
                return copy.naturalWidth;
            }"""
        )
        assert drawn in (9, 512)
    picture = pictures.last
    box = picture.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(page.locator("#tip")).to_contain_text(
        re.compile(r"Layer 15, channels [\d,]+ to [\d,]+: .* median;")
    )
    page.get_by_text("All layers as a table").click()
    expect(page.locator("#layers tbody tr")).to_have_count(30)
    with page.expect_download() as saved:
        page.get_by_text("Download plan-run4.json").click()
    assert json.loads(Path(saved.value.path()).read_text())["model"] == "synthetic"
    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    for width in (390, 1024):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate(overflow) <= 0
    assert complaints == []
    context.close()
