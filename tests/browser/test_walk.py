"""A hand goes over everything on the page that can be operated: by mouse, by touch, by keys.

What is operated is found in the live page (`walk.js`), so a new control is part of the walk by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.serving import JOB
from tests.support.visitor import BROWSER, Browser, Visitor, expect
from tests.support.walk.hands import Finger, Hand, Keys, Mouse
from tests.support.walk.hearing import Ears, Hold
from tests.support.walk.walking import ABOVE, PANELS, Control, Walk
from ui.tour.story import STEPS

pytestmark = BROWSER
TABS = ("Load", "Analyse", "Tune", "Compare", "History")
# What a walk leaves out, and why; a row whose control is gone must go, too.
EXCUSED = {
    "history-command | text": "it shows a command to copy, and is read only",
    "Reset axes": "it changes nothing where nothing was zoomed",
}
# A narrow page hides presenting, and the explanations below the rows of its tables.
NARROW, HIDDEN_WHERE_NARROW = 640, ("present-start | button", "table | word", "compare-pace | word")


@pytest.fixture(scope="module")
def ears() -> Iterator[Ears]:
    """What the server hears in this file."""
    with pytest.MonkeyPatch.context() as patch:
        yield Ears(patch)


def analysed(visitor: Visitor, text: str) -> None:
    """As far as a plan; everything that could last is made small."""
    page = visitor.page
    visitor.load()
    visitor.analyse(text)
    visitor.tab("Compare")
    small = {"text": text, "window": "32", "limit": "256", "prompt": "A model", "length": "4"}
    small |= {"pace-length": "16", "pace-new": "4", "pace-rounds": "1", "topics-limit": "64"}
    for name, value in small.items():
        visitor.set(f"compare-{name}", value)
    for label in page.locator("#compare-methods label").all():
        label.locator("input").set_checked(label.inner_text().strip() in ("Magnitude", "Random"))
    visitor.tab("Analyse")
    visitor.choose("analyse-second", "Magnitude")
    visitor.tab("Tune")
    page.locator("#tune-preview-auto input").uncheck()  # or every change would be waited for


def pruned(visitor: Visitor, text: str, runs: int = 2) -> None:
    """As far as two runs in the history."""
    page = visitor.page
    analysed(visitor, text)
    for number in range(runs):
        visitor.tab("Compare")
        page.click("#compare-button")
        visitor.tab("History")
        expect(page.locator("#history-table")).to_contain_text(f"Run {number + 1}", timeout=JOB)
        visitor.tab("Compare")
        expect(page.locator("#compare-progress")).to_contain_text("done", timeout=JOB)
    visitor.tab("History")
    page.locator("#polish button.label-wrap").click()
    visitor.set("polish-steps", "6")
    page.locator("#polish button.label-wrap").click()


STATES = {
    "fresh": lambda *_: None,
    "loaded": lambda visitor, _: visitor.load(),
    "analysed": analysed,
    "pruned": pruned,
}


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


def wrong(walk: Walk, width: int = 1200) -> dict[str, str]:
    """What was wrong, but for what a page of this width may hide."""
    found = {key: why for tally in walk.tallies.values() for key, why in tally.wrong.items()}
    may_hide = HIDDEN_WHERE_NARROW if width <= NARROW else ()
    return {
        key: why
        for key, why in found.items()
        if not (why.startswith("it is hidden by") and any(part in key for part in may_hide))
    }


def never(walk: Walk) -> set[str]:
    """What was found, and could not be operated in any state that the walk has seen."""
    tallies = walk.tallies.values()
    operated = {key for tally in tallies for key in tally.operated}
    found = {key for tally in tallies for key in tally.barred}
    return {key for key in found - operated if not walk.excuse(key)}


def release(walk: Walk) -> None:
    """Releases the layer that the walk has forced out: nothing can move its faders."""
    layers = next(one for one in walk.find(PANELS) if one.key.startswith("analyse-layers | plot"))
    assert walk.press(PANELS, layers) == ""
    walk.rest()
    walk.visitor.press(walk.page.locator("#analyse-clear"))
    walk.rest()
    assert walk.session.plan is not None
    assert walk.session.plan.forced == ()


def report(walk: Walk, capsys: Any) -> None:
    with capsys.disabled():
        print(f"\n{told(walk)}")


@pytest.mark.parametrize(
    ("hand", "width", "brisk"),
    [
        pytest.param(Mouse, 1200, True, id="mouse"),
        pytest.param(Mouse, 1200, False, id="mouse-every-word", marks=pytest.mark.soak),
        pytest.param(Mouse, 390, False, id="mouse-narrow", marks=pytest.mark.soak),
        pytest.param(Finger, 1200, False, id="touch", marks=pytest.mark.soak),
        pytest.param(Finger, 390, False, id="touch-narrow", marks=pytest.mark.soak),
        pytest.param(Keys, 1200, False, id="keyboard", marks=pytest.mark.soak),
    ],
)
def test_everything_on_every_tab_answers_to_a_hand(
    browser: Browser,
    address: str,
    text_file: str,
    ears: Ears,
    hand: type[Hand],
    width: int,
    brisk: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    visitor = Visitor(browser, address, width, touch=hand is Finger)
    pruned(visitor, text_file)
    hold = Hold(monkeypatch)
    walk = Walk(visitor, hand(visitor.page), ears, EXCUSED, hold if brisk else None)
    for name in TABS:
        walk.tab(name)
        if name == "Analyse":
            release(walk)
    if not brisk:
        walk.stop_all(hold)
    walk.over("above", ABOVE, lambda: walk.open_tab("Load"))
    report(walk, capsys)
    assert wrong(walk, width) == {}
    assert never(walk) == set()
    if hand is Mouse and width > NARROW:  # a narrow chart has no buttons
        assert walk.used == set(EXCUSED)
    visitor.close()


@pytest.mark.soak
@pytest.mark.parametrize("state", ["fresh", "loaded", "analysed"])
def test_everything_answers_on_the_way_there(
    browser: Browser, address: str, text_file: str, ears: Ears, state: str, capsys: Any
) -> None:
    visitor = Visitor(browser, address)
    STATES[state](visitor, text_file)
    walk = Walk(visitor, Mouse(visitor.page), ears, EXCUSED)
    for name in reversed(TABS):
        walk.tab(name)
    report(walk, capsys)
    assert wrong(walk) == {}
    visitor.close()


@pytest.mark.soak
def test_the_tour_answers_to_a_hand_at_every_step(
    browser: Browser, address: str, ears: Ears, capsys: Any
) -> None:
    visitor = Visitor(browser, address)
    page, walk = visitor.page, Walk(visitor, Mouse(visitor.page), ears, EXCUSED)
    page.click("#tour-start")
    for step in STEPS:

        def stand(step: Any = step) -> None:
            """At this step, whatever was pressed."""
            walk.rest()
            if not page.locator("#tour").count():
                page.click("#tour-start")
            while step.title not in page.locator("#tour h2").inner_text():
                page.locator("#tour-onward:not([disabled])").click()
                walk.rest()

        stand()
        walk.over(f"tour: {step.name}", "#tour", stand)
    report(walk, capsys)
    assert wrong(walk) == {}
    visitor.close()


@pytest.mark.soak
def test_the_tab_key_stops_at_everything(browser: Browser, address: str, text_file: str, ears: Ears) -> None:
    visitor = Visitor(browser, address)
    pruned(visitor, text_file)
    walk = Walk(visitor, Keys(visitor.page), ears, EXCUSED)
    for name in TABS:
        walk.open_tab(name)
        walk.rest()
        page, reached = visitor.page, set[str]()
        page.evaluate("document.activeElement?.blur(); scrollTo(0, 0)")
        for _ in range(400):
            page.keyboard.press("Tab")
            key = walk.js("focused", f"{ABOVE}, {PANELS}")
            if not key and page.evaluate("document.activeElement === document.body"):
                break
            if key:
                assert walk.js("ring"), f"nothing shows that {key} has the focus"
            reached.add(key)
        wanted = [
            one for one in walk.find(f"{ABOVE}, {PANELS}") if one.tabs and not one.hidden and not one.disabled
        ]
        groups = {one.group for one in wanted if one.key in reached and one.group}
        missed = {one.key for one in wanted if one.key not in reached and one.group not in groups}
        assert missed == set(), name
    visitor.close()


# The walk itself --------------------------------------------------------------------------------------------

SABOTAGE = {
    ".options:not(:has(.block)) { display: none }": "is not to be seen",
    "body::after { content: ''; position: fixed; inset: 0; z-index: 999 }": "it is covered",
    "#analyse-method { pointer-events: none }": "it is covered",
    "#analyse-method input { opacity: 0 }": "transparent",
    "#analyse-method { display: none !important }": "it is hidden by div#analyse-method",
}


def test_the_walk_sees_what_a_hand_cannot_do(visitor: Visitor, ears: Ears) -> None:
    visitor.load()
    walk = Walk(visitor, Mouse(visitor.page), ears)

    def only(control: Control) -> bool:
        return control.key == "analyse-method | combobox | Method"

    def found() -> dict[str, str]:
        walk.tallies.clear()
        walk.over("Analyse", PANELS, lambda: walk.open_tab("Analyse"), only)
        return wrong(walk)

    assert found() == {}
    for rule, why in SABOTAGE.items():
        sheet = visitor.page.add_style_tag(content=rule)
        dead = found()
        assert any(why in one for one in dead.values()), f"{rule}: {dead}"
        sheet.evaluate("(node) => node.remove()")
    visitor.page.evaluate(
        "() => { window.fetch = () => new Promise(() => {}); }"
    )  # nothing reaches the server
    assert "did not hear" in found()["analyse-method | combobox | Method"]
    visitor.complaints.clear()
