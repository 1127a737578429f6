"""Lists of recoveries, allocations and units in a real browser: what does not combine is greyed with the
reason, and cannot be taken."""

from __future__ import annotations

import pytest

from tests.support.serving import JOB
from tests.support.visitor import BROWSER, Visitor, expect

pytestmark = BROWSER


@pytest.fixture
def visitor(visitor: Visitor) -> Visitor:
    """A person whose model is loaded."""
    visitor.load()
    return visitor


def test_what_does_not_combine_is_greyed_with_the_reason(visitor: Visitor, text_file: str) -> None:
    page = visitor.page
    visitor.tab("Analyse")
    visitor.choose("analyse-method", "Magnitude")
    visitor.tab("Load")
    visitor.analyse(text_file)
    page.click("#analyse-next")
    page.locator("#tune-rules").get_by_text("By which rules").click()
    recovery = page.get_by_role("combobox", name="Recovery")
    expect(recovery).to_have_value("none")
    expect(page.locator("#tune-recovery option:disabled")).to_have_count(0)
    recovery.select_option("bias")
    expect(page.locator("#tune-words")).to_contain_text("Bias")
    expect(page.locator("#tune-undo")).to_be_enabled()
    page.click("#tune-undo")
    expect(page.locator("#tune-redo")).to_be_enabled()
    expect(recovery).to_have_value("none")
    greyed = page.locator("#tune-allocation option:disabled")
    assert "only with DDP" in " ".join(greyed.all_inner_texts())

    visitor.tab("Analyse")
    visitor.choose("analyse-method", "Block influence")
    page.click("#analyse-button")
    expect(page.locator("#tune-recovery option:disabled")).to_have_count(4, timeout=JOB)
    visitor.tab("Tune")
    expect(page.locator("#tune-recovery option:disabled").first).to_contain_text("nothing is left to repair")
    expect(recovery).to_have_value("none")
    recovery.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("End")
    expect(recovery).to_have_value("none")
    expect(page.locator("#tune-words")).to_contain_text("Does not combine")
