"""Take pictures of every tab in its states, to look at them: `make screens ARGS="--only road"`.

This is neither a test nor a benchmark. It starts the app on the starter model with quick settings, operates
it as a person would, and writes `screens/STATE-TAB-THEME-WIDTH.png`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.serving import chromium, served
from ui.tour.story import STEPS

OUT = Path(__file__).parents[2] / "screens"
WIDTHS = (390, 1024, 1600)
THEMES = ("light", "dark")
TABS = ("Load", "Analyse", "Tune", "Compare", "History")
QUICK = {"analyse-samples": "8", "analyse-length": "128", "compare-limit": "1024", "compare-length": "16"}
RIVALS = ("SlimLLM", "Best measured", "Wanda-sp", "Random", "FLAP")
PATIENCE = 900_000  # milliseconds: other programs may keep the machine busy


@dataclass(frozen=True)
class Camera:
    """The page of one browser, and the folder for its pictures."""

    page: Any
    address: str
    folder: Path

    def open(self) -> None:
        """Open the page, and wait until it is drawn."""
        self.page.goto(self.address)
        self.page.wait_for_function(
            "document.querySelector('#load-intro')?.textContent.includes('language model')"
        )

    def dress(self, theme: str, width: int) -> None:
        """Set the theme, and the width in pixels, without a new start."""
        self.page.set_viewport_size({"width": width, "height": 900})
        self.page.evaluate("(dark) => document.body.classList.toggle('dark', dark)", theme == "dark")

    def turn_to(self, tab: str) -> None:
        """Open a tab."""
        self.page.get_by_role("tab", name=tab, exact=True).click()

    def shoot(self, name: str) -> None:
        """Save a picture of the whole page once its plots and fonts are drawn."""
        self.page.evaluate("document.fonts.ready")
        self.page.wait_for_function(
            "[...document.querySelectorAll('.pv-plot:not([hidden])')]"
            ".every((p) => !p.clientWidth || p.querySelector('.main-svg'))"
        )
        self.page.screenshot(path=self.folder / f"{name}.png", full_page=True, animations="disabled")

    def everywhere(self, state: str, tabs: tuple[str, ...] = TABS) -> None:
        """Save pictures of all tabs in both themes and all widths."""
        for tab in tabs:
            self.turn_to(tab)
            self.all_round(f"{state}-{tab.lower()}")

    def all_round(self, name: str) -> None:
        """Save pictures of the page as it is, in both themes and all widths."""
        for theme in THEMES:
            for width in WIDTHS:
                self.dress(theme, width)
                self.shoot(f"{name}-{theme}-{width}")
        self.dress("light", 1024)

    def set(self, id: str, value: str) -> None:
        """Write a value into a box, and leave it."""
        box = self.page.locator(f"#{id} :is(input, textarea)").first
        box.fill(value)
        box.press("Tab")

    def choose(self, id: str, label: str) -> None:
        """Choose an entry of a drop-down list."""
        box = self.page.locator(f"#{id} input").first
        box.click()
        menu = self.page.locator(f"#{box.get_attribute('aria-controls')}")
        menu.get_by_role("option", name=label, exact=True).click()

    def until(self, id: str, words: str) -> None:
        """Wait until a part of the page contains these words, at most PATIENCE milliseconds."""
        self.page.wait_for_function(
            "([id, words]) => document.getElementById(id)?.textContent.includes(words)",
            arg=[id, words],
            timeout=PATIENCE,
        )


def empty(camera: Camera) -> None:
    """Take pictures of the page before anything is loaded."""
    camera.everywhere("empty")


def start_analysis(camera: Camera) -> None:
    """Load the model, and start a quick analysis."""
    camera.page.click("#load-button")
    camera.until("load-card", "KV groups")
    camera.turn_to("Analyse")
    for id in ("analyse-samples", "analyse-length"):
        camera.set(id, QUICK[id])
    camera.page.click("#analyse-button")


def road(camera: Camera) -> None:
    """Load, analyse, plan and compare.

    Jobs do not wait, so while they run only one theme and width is taken.
    """
    page = camera.page
    start_analysis(camera)
    camera.until("analyse-progress", "so far")
    camera.shoot("running-analyse-light-1024")
    camera.until("analyse-progress", "done")
    camera.turn_to("Compare")
    for id in ("compare-limit", "compare-length"):
        camera.set(id, QUICK[id])
    page.click("#compare-button")
    camera.until("compare-progress", "Step 2")
    camera.shoot("running-compare-light-1024")
    camera.until("compare-progress", "done")
    camera.everywhere("done")


def tour(camera: Camera) -> None:
    """Take pictures of every step of the tour, and of its end in presenter mode."""
    page = camera.page
    page.click("#tour-start")
    for step in STEPS:
        page.locator("#tour h2", has_text=step.title).wait_for()
        camera.shoot(f"tour-{step.name}-begun-light-1024")
        page.locator("#tour-onward:not([disabled])").wait_for(timeout=PATIENCE)
        camera.all_round(f"tour-{step.name}")
        if step is not STEPS[-1]:
            page.click("#tour-onward")
    page.click("#present-start")
    camera.shoot("presented-tour-light-1024")


def rivals(camera: Camera) -> None:
    """Take pictures of two methods on one map, several on one budget, and a run that was fine-tuned."""
    page = camera.page
    start_analysis(camera)
    camera.until("analyse-progress", "done")
    camera.choose("analyse-second", "Wanda-sp")
    page.click("#analyse-second-button")
    camera.until("analyse-agreement-words", "agree on")
    camera.everywhere("overlay", ("Analyse",))
    camera.turn_to("Compare")
    camera.set("compare-limit", QUICK["compare-limit"])
    for label in page.locator("#compare-methods label").all():
        label.locator("input").set_checked(label.inner_text().strip() in RIVALS)
    page.click("#compare-methods-button")
    camera.until("compare-methods-progress", "done")
    camera.everywhere("methods", ("Compare",))
    camera.set("compare-prompt", "")
    page.click("#compare-button")
    camera.until("compare-progress", "done")
    camera.turn_to("History")
    page.get_by_role("button", name="Fine-tune what was pruned").click()
    camera.set("polish-steps", "8")
    page.click("#polish-button")
    camera.until("polish-progress", "done")
    camera.all_round("tuned-history")


STATES: dict[str, Callable[[Camera], None]] = {
    "empty": empty,
    "road": road,
    "tour": tour,
    "rivals": rivals,
}


def main() -> None:
    """Take the pictures of the states that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=STATES, default=list(STATES), help="these states only")
    parser.add_argument("--model", default="smollm2")
    asked = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    with served(asked.model, threads=2) as address, chromium() as browser:
        for name in asked.only:
            context = browser.new_context()
            context.set_default_timeout(30_000)
            camera = Camera(context.new_page(), address, OUT)
            camera.open()
            camera.dress("light", 1024)
            STATES[name](camera)
            context.close()
            print(f"{name}: {len(list(OUT.glob('*.png')))} pictures in {OUT}", flush=True)


if __name__ == "__main__":
    main()
