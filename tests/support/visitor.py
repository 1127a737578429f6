"""Act as a person in front of the page, and share what else the browser tests of all tabs need.

Their fixtures are in conftest.py. A test file that imports this is skipped if Playwright is missing.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

from tests.support.serving import ANSWER, CHROMIUM, JOB, fader

__all__ = ["BROWSER", "THEMES", "Browser", "Page", "Visitor", "against_axe", "dress", "expect", "settled"]
BROWSER = [  # the marks of every browser test
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="there is no chromium"),
    pytest.mark.filterwarnings("ignore:.*(no_silent_downcasting|copy keyword)"),  # Gradio's own
]
THEMES = ("light", "dark")
expect.set_options(timeout=ANSWER)  # other programs may keep the machine busy


class Visitor:
    """A person with a browser of their own.

    `complaints` are errors of the page or its console, and requests that leave the machine.
    """

    def __init__(self, browser: Browser, address: str, width: int = 1200, touch: bool = False):
        self.address, self.complaints = address, list[str]()
        self.context: BrowserContext = browser.new_context(
            viewport={"width": width, "height": 900}, has_touch=touch
        )
        self.context.set_default_timeout(ANSWER)
        self.page: Page = self.context.new_page()
        self.leaving = False
        self.page.on("pageerror", lambda error: self.complain(f"error: {error}"))
        self.page.on("console", lambda m: self.complain(told(m)) if m.type == "error" else None)
        self.page.on("request", lambda r: None if local(r.url) else self.complain(f"request: {r.url}"))
        self.open()

    def complain(self, what: str) -> None:
        """Keep a complaint.

        A page that is being left breaks off its own streams, which Gradio reports as an error; that does not
        count.
        """
        broken_off = "AbortError" in what or "Connection errored out" in what
        if not (self.leaving and broken_off):
            self.complaints.append(what)

    def open(self) -> None:
        """Open the page, and wait until it is drawn."""
        self.leaving = True
        self.page.goto(self.address)
        self.leaving = False
        self.page.wait_for_function(
            "document.querySelector('#load-intro')?.textContent.includes('language model')"
        )

    def close(self) -> None:
        """Close the browser, and check that there was no complaint."""
        self.leaving = True
        self.context.close()
        assert self.complaints == [], self.complaints

    def press(self, target: Locator) -> None:
        """Click in the visible middle of an element, and check that nothing covers it."""
        target.scroll_into_view_if_needed()
        box = target.bounding_box()
        assert box is not None
        assert box["width"] > 0
        assert box["height"] > 0
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        assert target.evaluate(
            "(node, [x, y]) => node.contains(document.elementFromPoint(x, y))"
            " || Boolean(node.closest('label')?.contains(document.elementFromPoint(x, y)))",
            [x, y],
        ), f"{target} is covered"
        self.page.mouse.click(x, y)

    def tab(self, name: str) -> None:
        """Open a tab, from the list at the end of the row if the row is too narrow for it."""
        tab, some = self.page.get_by_role("tab", name=name, exact=True), self.page.get_by_role("tab").first
        expect(some).to_be_visible()  # before that, the row has not been laid out
        settled(self)
        if not tab.is_visible():
            self.press(self.page.get_by_label("More tabs"))
            tab = self.page.locator(".overflow-dropdown button").get_by_text(name, exact=True)
        self.press(tab)

    def set(self, id: str, value: str) -> None:
        """Replace the value of a box, and leave the box."""
        box = self.page.locator(f"#{id} :is(input, textarea)").first
        self.press(box)
        self.page.keyboard.press("Control+a")
        if value:
            self.page.keyboard.insert_text(value)
        else:
            self.page.keyboard.press("Delete")
        box.press("Tab")

    def choose(self, id: str, label: str) -> None:
        """Choose an entry of a drop-down list by mouse, and check that it can be seen."""
        box = self.page.locator(f"#{id} input").first
        self.press(box)
        entry = self.page.locator(f"#{box.get_attribute('aria-controls')}").get_by_role(
            "option", name=label, exact=True
        )
        expect(entry).to_be_visible()
        self.press(entry)
        expect(box).to_have_value(label)

    def load(self) -> None:
        """Load the tiny model."""
        self.page.click("#load-button")
        expect(self.page.locator("#load-card")).to_contain_text("6 in 3 KV groups", timeout=JOB)

    def analyse(self, text: str, samples: str = "8") -> None:
        """Analyse on this text, and wait until it is done."""
        self.page.click("#load-next")
        self.set("analyse-text", text)
        self.set("analyse-samples", samples)
        self.set("analyse-length", "32")
        expect(self.page.locator("#analyse-preflight")).to_contain_text(f"{int(samples) * 32:,} tokens")
        self.page.click("#analyse-button")
        expect(self.page.locator("#analyse-progress")).to_contain_text("done", timeout=JOB)

    def fader(self, site: str, layer: int) -> Locator:
        """Return one fader of the Tune tab."""
        return fader(self.page, site, layer)


def told(message: Any) -> str:
    """Return the text of a console message, and the address that it is about."""
    return f"{message.text} {message.location.get('url', '')}".strip()


def local(url: str) -> bool:
    """Return whether a URL stays on this machine."""
    return (
        url.startswith(("data:", "blob:"))
        or re.match(r"http://(127\.0\.0\.1|(slim\.)?localhost)[:/]", url) is not None
    )


def dress(visitor: Visitor, theme: str) -> None:
    """Set the theme of the page, light or dark."""
    visitor.page.evaluate("(dark) => document.body.classList.toggle('dark', dark)", theme == "dark")


def against_axe(visitor: Visitor) -> list[str]:
    """Return what axe-core calls serious or critical on the page as it is."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = axe.run(visitor.page).response["violations"]
    return [
        f"{rule['id']}: {node['target']} {node['html'][:160]} {node['any'][:1]}"
        for rule in found
        if rule["impact"] in ("serious", "critical")
        for node in rule["nodes"]
    ]


def settled(visitor: Visitor) -> None:
    """Wait until plots are drawn and no animation runs."""
    visitor.page.wait_for_function(
        "[...document.querySelectorAll('.pv-plot:not([hidden])')]"
        ".every((p) => !p.clientWidth || p.querySelector('.main-svg'))"
        " && document.getAnimations().every((a) => a.playState !== 'running')"
    )
