"""The whole road in a real browser through a proxy, and with a password; what a page says that does not know
its own address."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.servers.reverse_proxies import NGINX, WAYS, nginx, small_proxy
from tests.support.serving import JOB, free_port, served
from tests.support.visitor import BROWSER, Visitor, expect

pytestmark = BROWSER
PASSWORD = "open-sesame-open"


@pytest.mark.parametrize("name", ["defaults", "sub-path kept, recipe"])
def test_road_through_a_proxy(
    browser: Any, tiny_folder: Path, text_file: str, tmp_path: Path, name: str
) -> None:
    way, upstream = WAYS[name], ("127.0.0.1", free_port())
    with ExitStack() as stack:
        proxy = nginx(upstream, way, tmp_path) if NGINX else small_proxy(upstream, way)
        port = stack.enter_context(proxy)
        public = f"http://slim.localhost:{port}{way.folder}"
        stack.enter_context(served(str(tiny_folder), port=upstream[1], public=public))
        visitor = Visitor(browser, public)
        visitor.load()
        visitor.analyse(text_file)
        visitor.tab("Tune")
        with visitor.page.expect_download() as download:
            visitor.page.click("#tune-save")
        assert download.value.url.startswith(f"{public}/gradio_api/file=")
        assert '"ratio_achieved"' in Path(download.value.path()).read_text()
        visitor.close()


def test_login_then_the_page(browser: Any, tiny_folder: Path) -> None:
    """Also with the headers that keep other scripts out, and nothing but the login before it."""
    with served(str(tiny_folder), auth=("me", PASSWORD)) as address:
        context = browser.new_context()
        page = context.new_page()
        page.goto(address)
        page.get_by_label("username").fill("me")
        page.get_by_label("password").fill(PASSWORD)
        page.get_by_role("button", name="Login").click()
        expect(page.locator("#load-intro")).to_contain_text("language model")
        page.click("#load-button")
        expect(page.locator("#load-card")).to_contain_text("6 in 3 KV groups", timeout=JOB)
        context.close()


def test_a_page_under_an_unknown_address_says_so(browser: Any, address: str) -> None:
    port = int(address.rsplit(":")[-1].strip("/"))
    with small_proxy(("127.0.0.1", port), WAYS["defaults"]) as proxy:
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"http://slim.localhost:{proxy}/", wait_until="commit")
        said = page.locator("#unknown-address")
        expect(said).to_be_visible()
        expect(said).to_contain_text(f"--public-url http://slim.localhost:{proxy}")
        expect(page.locator("gradio-app")).to_have_count(0)
        context.close()


def test_headers_keep_out_what_is_not_ours(visitor: Visitor) -> None:
    """The page runs under them without a complaint (the visitor has none in the end), and a script that was
    smuggled in does not."""
    page = visitor.page
    page.evaluate(
        "document.body.insertAdjacentHTML('beforeend', '<img src=data:,x onerror=\"window.smuggled=1\">');"
        "const s = document.createElement('script'); s.textContent = 'window.smuggled = 2';"
        "document.body.append(s)"
    )
    page.wait_for_timeout(200)
    assert page.evaluate("window.smuggled") is None
    stopped = [said for said in visitor.complaints if "Content Security Policy" in said]
    assert len(stopped) == 2
    assert stopped == visitor.complaints
    visitor.complaints.clear()
    frame = page.evaluate(
        "new Promise((done) => { const f = document.createElement('iframe'); f.src = location.href;"
        "f.onload = () => { try { done(f.contentDocument?.body?.children.length ?? 0) } catch { done(0) } };"
        "document.body.append(f) })"
    )
    assert frame == 0
    visitor.complaints.clear()


def test_page_opens_in_a_frame_in_which_nothing_may_be_stored(browser: Any, address: str) -> None:
    context = browser.new_context()
    context.add_init_script(
        "for (const name of ['localStorage', 'sessionStorage']) Object.defineProperty(window, name, "
        "{ get() { throw new DOMException('Access is denied', 'SecurityError') } })"
    )
    page, errors = context.new_page(), list[str]()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    expect(page.locator("#load-button")).to_be_enabled(timeout=JOB)
    page.get_by_role("tab", name="Tune", exact=True).click()
    expect(page.get_by_role("tab", name="Tune", exact=True)).to_have_attribute("aria-selected", "true")
    assert errors == []
    context.close()
