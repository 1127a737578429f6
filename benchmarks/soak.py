"""Measure the app's memory after many visitors, each with pages of their own in headless Chromium.

    python -m benchmarks.soak [--minutes 36] [--visitors 3] [--seed 0] [--json]

The app runs in a process of its own on a tiny model. At random, visitors press whatever they see, move
faders, reload, open second tabs, leave and come back. Once a minute the benchmark notes the app's resident
memory, descriptors and threads, and how long a visitor who only looks waits for the page. Memory is flat when
the last third of the minutes needs at most 5 % more than the middle third. The exit status is 1 where it is
not flat, or where the app's log has a traceback.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.support.serving import chromium, free_port, text_of
from tests.support.tiny_models import tiny_model, tiny_tokenizer

ROOT = Path(__file__).parent.parent
TABS = ("Load", "Analyse", "Tune", "Compare", "History")
FORMS = {
    "analyse": {"samples": "4", "length": "32"},
    "compare": {"window": "32", "limit": "128", "length": "4"},
}
SHOWN = "#tabs [role=tabpanel]:visible"
THINGS = f"{SHOWN} :is(button, [role=slider], select, .pv-plot, input[type=checkbox]):visible:enabled"
SLACK = 1.05


@dataclass(frozen=True)
class Minute:
    """The app's resources at the end of one minute."""

    resident_mb: float
    descriptors: int
    threads: int
    page_seconds: float
    actions: int
    visits: int


def read_process(pid: int) -> tuple[float, int, int]:
    """Return the resident megabytes, open descriptors and threads of a process."""
    process = psutil.Process(pid)
    return process.memory_info().rss / 1e6, process.num_fds(), process.num_threads()


def look_at(address: str) -> float:
    """Return the seconds until the page has arrived."""
    begun = time.monotonic()
    with urllib.request.urlopen(address, timeout=120) as answer:
        answer.read()
    return time.monotonic() - begun


class Guest:
    """A visitor who acts at random."""

    def __init__(self, browser: Any, address: str, text: str, chance: random.Random):
        self.address, self.text, self.chance = address, text, chance
        self.context = browser.new_context(viewport={"width": 1200, "height": 900})
        self.context.set_default_timeout(4000)
        self.pages = [self.open()]

    def open(self) -> Any:
        """Open the page in a new tab."""
        page = self.context.new_page()
        page.goto(self.address, timeout=60_000)
        return page

    def settle(self) -> None:
        """Load the model and fill the forms with small numbers, so that jobs last only seconds."""
        page = self.pages[0]
        page.wait_for_function(
            "document.querySelector('#load-intro')?.textContent.includes('language model')"
        )
        page.click("#load-button")
        for tab, form in FORMS.items():
            page.get_by_role("tab", name=tab.capitalize(), exact=True).click()
            for name, value in {"text": self.text, **form}.items():
                box = page.locator(f"#{tab}-{name} :is(input, textarea)").first
                box.fill(value)
                box.press("Tab")

    def act(self) -> None:
        """Do one random thing."""
        page = self.chance.choice(self.pages)
        what = self.chance.random()
        if what < 0.05:
            page.reload()
        elif what < 0.08 and len(self.pages) < 3:
            self.pages.append(self.open())
        elif what < 0.11 and len(self.pages) > 1:
            self.pages.pop(self.chance.randrange(1, len(self.pages))).close()
        elif what < 0.3:
            page.get_by_role("tab", name=self.chance.choice(TABS), exact=True).click()
        else:
            self.press(page)

    def press(self, page: Any) -> None:
        """Press something visible, in its horizontal middle at a random height."""
        things = page.locator(THINGS)
        if not (count := things.count()):
            return
        thing = things.nth(self.chance.randrange(count))
        thing.scroll_into_view_if_needed()
        if box := thing.bounding_box():
            high = self.chance.uniform(0.1, 0.9)
            page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] * high)

    def return_later(self) -> None:
        """Close all pages, and open the page again as the same browser."""
        for page in self.pages:
            page.close()
        self.pages = [self.open()]

    def leave(self) -> None:
        """Close the browser's context."""
        self.context.close()


def soak(address: str, pid: int, text: str, minutes: float, visitors: int, seed: int) -> list[Minute]:
    """Run visitors for some minutes, and return the app's resources in every minute."""
    from playwright.sync_api import Error

    chance, found, guests = random.Random(seed), list[Minute](), list[Guest]()
    begun, actions, visits = time.monotonic(), 0, 0
    with chromium() as browser:
        while time.monotonic() < begun + 60 * minutes:
            try:
                if len(guests) < visitors:
                    guests.append(Guest(browser, address, text, chance))
                    visits += 1
                    guests[-1].settle()
                guest = chance.choice(guests)
                guest.act()
                actions += 1
                if chance.random() < 0.02:
                    guest.return_later()
                    visits += 1
            except Error:
                # The element has gone in the meantime.
                pass
            if time.monotonic() - begun > 60 * (len(found) + 1):
                found.append(Minute(*read_process(pid), look_at(address), actions, visits))
                print(dataclasses.astuple(found[-1]), file=sys.stderr, flush=True)
        for guest in guests:
            guest.leave()
    return found


def judge(found: list[Minute]) -> tuple[float, float]:
    """Return the median resident megabytes of the middle third and of the last third."""
    third = len(found) // 3
    middle, last = found[third : 2 * third], found[-third:]
    return statistics.median(m.resident_mb for m in middle), statistics.median(m.resident_mb for m in last)


def main() -> int:
    """Run the benchmark and print its result; return 0 where memory is flat and there was no traceback."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=36)
    parser.add_argument("--visitors", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.minutes < 3.5:
        parser.error("--minutes must be 3.5 or more: the minutes are compared by thirds.")
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        tiny_model("llama").save_pretrained(folder / "tiny")
        tiny_tokenizer().save_pretrained(folder / "tiny")
        text, log = text_of(folder, 40), folder / "log.txt"
        env = {**os.environ, "SLIMLLM_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
        settings = {"--port": str(port), "--model": str(folder / "tiny")}
        command = [sys.executable, "app.py", "--offline", *itertools.chain(*settings.items())]
        with log.open("w") as out:
            app = subprocess.Popen(command, cwd=ROOT, env=env, stdout=out, stderr=out)
        try:
            while "ready" not in log.read_text():
                if app.poll() is not None:
                    sys.exit(log.read_text())
                time.sleep(0.2)
            address = f"http://127.0.0.1:{port}/"
            found = soak(address, app.pid, text, given.minutes, given.visitors, given.seed)
        finally:
            app.terminate()
            app.wait()
        tracebacks = log.read_text().count("Traceback")
    middle, last = judge(found)
    flat = last <= SLACK * middle
    if given.json:
        rows = [dataclasses.asdict(minute) for minute in found]
        print(json.dumps({"minutes": rows, "middle": middle, "last": last, "tracebacks": tracebacks}))
    else:
        slowest = max(minute.page_seconds for minute in found)
        print(
            f"{found[-1].visits} visits, {found[-1].actions:,} actions in {len(found)} minutes: "
            f"{middle:.0f} MB in the middle third, {last:.0f} MB in the last; {found[-1].descriptors} "
            f"descriptors, {found[-1].threads} threads; the page within {slowest:.2f} s; "
            f"{tracebacks} tracebacks"
        )
    return 0 if flat and not tracebacks else 1


if __name__ == "__main__":
    sys.exit(main())
