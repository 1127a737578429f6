"""A hand goes over everything on the page that can be operated: by mouse, by touch, by keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.hands import Hand, Mouse
from tests.visiting import BROWSER, Browser, Visitor, expect
from tests.walking import Ears, Walk

pytestmark = BROWSER
TABS = ("Load", "Analyse", "Tune", "Compare", "History")
# What a walk leaves out or does not find at work, and why. Every row must still exist.
EXCUSED = {
    "history-command | text": "it shows a command to copy, and is read only",
    "Reset axes": "it changes nothing where nothing was zoomed",
}


@pytest.fixture(scope="module")
def ears() -> Iterator[Ears]:
    """What the server hears in this file."""
    with pytest.MonkeyPatch.context() as patch:
        yield Ears(patch)


def prepared(visitor: Visitor, text: str, runs: int) -> None:
    """Goes the whole road, in small."""
    visitor.load()
    visitor.analyse(text)
    for name, value in (
        ("text", text),
        ("window", "32"),
        ("limit", "256"),
        ("prompt", "A model"),
        ("length", "4"),
    ):
        visitor.tab("Compare")
        visitor.set(f"compare-{name}", value)
    for name, value in (
        ("pace-length", "16"),
        ("pace-new", "4"),
        ("pace-rounds", "1"),
        ("topics-limit", "64"),
    ):
        visitor.set(f"compare-{name}", value)
    page = visitor.page
    for label in page.locator("#compare-methods label").all():
        label.locator("input").set_checked(label.inner_text().strip() in ("Magnitude", "Random"))
    for number in range(runs):
        page.click("#compare-button")
        visitor.tab("History")
        expect(page.locator("#history-table")).to_contain_text(f"Run {number + 1}", timeout=40_000)
        visitor.tab("Compare")
        expect(page.locator("#compare-progress")).to_contain_text("done", timeout=40_000)
    visitor.tab("Tune")
    page.locator("#tune-preview-auto input").uncheck()  # or every change would be waited for


def told(walk: Walk) -> str:
    """How many controls were found and operated on every tab, and what was wrong."""
    lines = []
    for name, tally in walk.tallies.items():
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(tally.kinds.items()))
        lines.append(
            f"{walk.hand.name:8} {name:8} found {len(tally.found):3}, operated {len(tally.operated):3}, "
            f"disabled {len(tally.barred - tally.operated):2}, wrong {len(tally.wrong):2} ({kinds})"
        )
        lines += [f"         {key}: {why}" for key, why in tally.wrong.items()]
    return "\n".join(lines)


def wrong(walk: Walk) -> dict[str, str]:
    return {key: why for tally in walk.tallies.values() for key, why in tally.wrong.items()}


@pytest.mark.parametrize("hand", [Mouse])
def test_everything_on_every_tab_answers_to_a_hand(
    browser: Browser, address: str, text_file: str, ears: Ears, hand: type[Hand], capsys: Any
) -> None:
    visitor = Visitor(browser, address)
    prepared(visitor, text_file, runs=2)
    walk = Walk(visitor, hand(visitor.page), ears, EXCUSED)
    for name in TABS:
        walk.tab(name)
    with capsys.disabled():
        print("\n" + told(walk))
    assert wrong(walk) == {}
    visitor.close()
