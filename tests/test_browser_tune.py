"""The Tune tab in a real browser, on a tiny model: preview, presets, undo by keys, the hand on the faders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

sync_api = pytest.importorskip("playwright.sync_api")
from playwright.sync_api import Browser, expect  # noqa: E402

from tests.serving import CHROMIUM, chromium, drag, served, spot, text_of  # noqa: E402
from tests.test_browser import Visitor  # noqa: E402

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="there is no chromium"),
    pytest.mark.filterwarnings("ignore:.*(no_silent_downcasting|copy keyword)"),  # Gradio's own
]


@pytest.fixture(scope="module")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    return text_of(tmp_path_factory.mktemp("texts"), 40)


@pytest.fixture(scope="module")
def address(tiny_folder: Path) -> Iterator[str]:
    with served(str(tiny_folder)) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def tuner(browser: Browser, address: str, text_file: str) -> Iterator[Visitor]:
    """A person who has come as far as the Tune tab."""
    visitor = Visitor(browser, address)
    visitor.load()
    visitor.analyse(text_file)
    visitor.page.click("#analyse-next")
    expect(visitor.fader("mlp", 1)).to_be_visible()
    yield visitor
    visitor.close()


def test_preview_after_a_release_and_on_request(tuner: Visitor) -> None:
    page, panel = tuner.page, tuner.page.locator("#tune-preview")
    expect(panel.locator(".mp-state")).to_contain_text("done in")
    expect(panel.locator(".mp-badge")).to_have_text("Preview, no recovery")
    number = panel.locator(".mp-number").inner_text()
    visible = tuner.fader("mlp", 1)
    visible.scroll_into_view_if_needed()
    drag(page, *(spot(page, "mlp", 1, share) for share in (0.9, 0.5, 0.1)))
    expect(panel.locator(".mp-number")).not_to_have_text(number)
    expect(panel.locator(".mp-state")).to_contain_text("done in")
    page.locator("#tune-undo").click()
    expect(panel.locator(".mp-number")).to_have_text(number)
    tuner.set("tune-preview-prompt", "Cut <b>away</b>")
    expect(panel.locator(".mp-text").last).to_contain_text("Cut <b>away</b>")
    page.locator("#tune-preview-auto input").uncheck()
    tuner.fader("mlp", 0).press("Home")
    expect(panel.locator(".mp-state")).to_contain_text("press Preview")
    page.click("#tune-preview-button")
    expect(panel.locator(".mp-state")).to_contain_text("done in")
    tuner.open()
    tuner.tab("Tune")
    expect(page.locator("#tune-preview-prompt textarea")).to_have_value("Cut <b>away</b>")
    expect(page.locator("#tune-preview-auto input")).not_to_be_checked()
