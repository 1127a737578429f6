"""The page follows its jobs to their end, however bad the connection: answers come late, overtake each other,
or are lost, and so are the page's own words."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.support.servers.bad_connection import Weather, bad_connection
from tests.support.serving import ANSWER, JOB
from tests.support.visitor import BROWSER, Browser, Visitor, expect
from ui.jobs.worker import Job, Worker

pytestmark = BROWSER
SOON = 10_000  # milliseconds after a job's end within which an open tab must have shown it
LINES = {"analyse": "analyse-progress", "compare": "compare-progress"}


@pytest.fixture
def numbered(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """All jobs of the session, each with a title of its own: so its end can be told from that of another."""
    found: list[Job] = []
    submit = Worker.submit

    def named(self: Worker, job: Job) -> Job:
        if not job.spare:
            found.append(job)
            job.title = f"Job {len(found)} of the soak"
        return submit(self, job)

    monkeypatch.setattr(Worker, "submit", named)
    return found


@pytest.fixture
def busy() -> Iterator[None]:
    """Three programs that want all the processor."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3)]
    yield
    for loop in loops:
        loop.kill()
        loop.wait()


def soak(browser: Browser, address: str, text: str, jobs: list[Job], count: int) -> list[float]:
    """Seconds from each job's end until the open tab showed it; nothing is touched meanwhile."""
    weather = Weather(unheard=0.05, unanswered=0.05, torn=0.05)
    late = []
    with bad_connection(address, weather) as detour:
        visitor = Visitor(browser, detour)
        page = visitor.page
        page.set_default_timeout(JOB)
        expect.set_options(timeout=JOB)
        visitor.load()
        visitor.tab("Compare")
        for id, value in (("text", text), ("window", "32"), ("limit", "256"), ("length", "4")):
            visitor.set(f"compare-{id}", value)
        visitor.tab("Analyse")
        for id, value in (("text", text), ("samples", "4"), ("length", "32")):
            visitor.set(f"analyse-{id}", value)
        for turn in range(count):
            kind = ("analyse", "compare")[turn % 2]
            visitor.tab(kind.capitalize())
            late.append(followed(visitor, kind, jobs))
        page.wait_for_timeout(1000)
        visitor.leaving = True
        visitor.context.close()
    expect.set_options(timeout=ANSWER)
    print(f"\nseconds until shown: {[round(x, 1) for x in late]}; {dict(weather.happened)}")
    assert all(weather.happened[name] for name in ("unheard", "unanswered", "torn"))
    return late


def followed(visitor: Visitor, kind: str, jobs: list[Job]) -> float:
    """Presses a button, and waits until its job is over and then until that can be seen; seconds between."""
    page, before = visitor.page, len(jobs)
    expect(page.locator(f"#{kind}-button")).to_be_enabled()
    page.click(f"#{kind}-button")
    until = time.monotonic() + 60
    while len(jobs) == before or jobs[-1].active:
        assert time.monotonic() < until, f"{len(jobs) - before} jobs, {jobs[-1].state}"
        page.wait_for_timeout(50)
    assert len(jobs) == before + 1, "one press is one job, however often it was sent"
    assert jobs[-1].state == "done", jobs[-1].error
    over = time.monotonic()
    done = f"{jobs[-1].title}: done"
    expect(page.locator(f"#{LINES[kind]}")).to_contain_text(done, timeout=SOON)
    expect(page.locator(f"#{kind}-stop")).to_be_disabled(timeout=SOON)
    expect(page.locator(f"#{kind}-button")).to_be_enabled(timeout=SOON)
    expect(page.locator(f"#{kind}-next")).to_be_visible(timeout=SOON)
    return time.monotonic() - over


def test_an_open_tab_shows_the_end_of_its_jobs_over_a_bad_connection(
    browser: Browser, address: str, text_file: str, numbered: list[Job]
) -> None:
    assert len(soak(browser, address, text_file, numbered, 5)) == 5


@pytest.mark.soak
@pytest.mark.usefixtures("busy")
def test_forty_jobs_under_load_over_a_bad_connection(
    browser: Browser, address: str, text_file: str, numbered: list[Job]
) -> None:
    late = soak(browser, address, text_file, numbered, 40)
    assert len(late) == 40
