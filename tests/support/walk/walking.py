"""Walk over everything that a person can operate on the page.

The walk finds each control in the live page, presses it in its middle by mouse or touch or operates it by
keyboard, and checks what can be seen then and what the server received.

What the walk knows about the page is in `walk.js`; no control of ours is named here. A test file that imports
this is skipped if Playwright is missing.
"""

from __future__ import annotations

import json
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.serving import FACTOR
from tests.support.visitor import Visitor
from tests.support.walk.hands import Hand
from tests.support.walk.hearing import Ears, Hold
from ui.session.registry import REGISTRY
from ui.session.session import Session

SCRIPT = Path(__file__).with_name("walk.js").read_text(encoding="utf-8")
PATIENCE = 6.0 * FACTOR  # seconds that something may take to be seen or heard on a busy machine
PANELS = '#tabs [role="tabpanel"]'
ABOVE = '#masthead, #tour, #tabs [role="tablist"]'
# Buttons come late: they start jobs, draw their tab anew, and lead away.
ORDER = (
    *("fold", "word", "plot", "modebar", "token", "focusable", "combobox", "select", "number", "text"),
    *("checkbox", "radio", "range", "tab", "button", "slider", "row"),
)
LOCAL = ("word", "modebar")  # the server has no part in these, and they change nothing else
VALUES = ("combobox", "select", "number", "text", "checkbox", "radio", "range", "slider")
SPEAKING = {"change", "input", "blur", "submit", "release"}  # events by which a value is told at once


@dataclass(frozen=True)
class Control:
    """One control, as `walk.js` finds it."""

    key: str
    kind: str
    homes: tuple[str, ...]  # stable ids around it, the nearest first
    hidden: str
    disabled: bool
    tabs: bool  # the Tab key stops at it
    on: bool  # it is the chosen one, so that a press need not change anything
    toggles: bool  # a press holds it down, the next lets it go
    itself: str  # its own id, if that is a stable one
    group: str


@dataclass
class Tally:
    """The keys of the controls that were found and operated on one tab, and what was wrong with them."""

    found: set[str] = field(default_factory=set)
    operated: set[str] = field(default_factory=set)
    barred: set[str] = field(default_factory=set)  # seen, but disabled
    wrong: dict[str, str] = field(default_factory=dict)
    kinds: Counter[str] = field(default_factory=Counter)


class Walk:
    """A walk over the page by one kind of hand.

    What is wrong is collected, not raised.
    """

    def __init__(
        self,
        visitor: Visitor,
        hand: Hand,
        ears: Ears,
        excused: Iterable[str] = (),
        hold: Hold | None = None,
    ):
        self.visitor, self.page, self.hand, self.ears = visitor, visitor.page, hand, ears
        self.read = set[str]()  # panels of which a word was read
        self.hold = hold  # a brisk walk: jobs are stopped at once, and one word is read in every panel
        self.excused, self.used = tuple(excused), set[str]()
        self.tallies: dict[str, Tally] = {}
        self.later: dict[tuple[str, str], Any] = {}  # values that are told when a button is pressed
        self.asleep = set[str]()  # what is disabled at present
        self.stood = list[str]()  # where the page did not come to rest after all was done
        self.arrived = 0  # downloads and choosers of files
        self.starts: dict[str, set[str]] = {}  # by tab: buttons that started a job
        self.page.on("download", lambda _: self._arrive())
        self.page.on("filechooser", lambda _: self._arrive())
        with urllib.request.urlopen(f"{visitor.address}config", timeout=30) as answer:
            config = json.load(answer)
        names = {one["id"]: one["props"].get("elem_id") or str(one["id"]) for one in config["components"]}
        self.events: dict[str, set[str]] = {name: set() for name in names.values()}
        self.inputs: set[str] = set()
        for one in config["dependencies"]:
            for id, event in one["targets"]:
                if id in names:
                    self.events[names[id]].add(event)
            self.inputs.update(names[id] for id in one["inputs"])

    def _arrive(self) -> None:
        """Count a download or a chooser of files."""
        self.arrived += 1

    # The page ----------------------------------------------------------------------------------------------

    def js(self, call: str, *given: Any) -> Any:
        """Call a function of `walk.js`, which is loaded first if the page is new."""
        return self.page.evaluate(
            "([script, call, given]) => { if (!window.walk) (0, eval)(script);"
            " return window.walk[call](...given); }",
            [SCRIPT, call, list(given)],
        )

    @property
    def session(self) -> Session:
        """The session of this browser in the app, which runs in this process."""
        return REGISTRY.open(str(self.page.evaluate("localStorage.getItem('slimllm-browser')")))

    def rest(self, patience: float = 90.0) -> None:
        """Wait until no job runs and nothing on the page moves, and close the notice in the corner."""
        session = self.session
        for _ in range(3):
            self.js("still", 30, 4000)
            if not session.lively and not self.ears.ticking:
                break
            self.until(lambda: not session.lively, patience)
            if not self.until(lambda: not self.ears.ticking, 4.0):
                self.stood.append(f"{len(self.ears.ticking)} timers go on")
                self.ears.ticking.clear()
        box = self.page.evaluate(
            "document.querySelector('.notice:not([hidden]) button')?.getBoundingClientRect().toJSON() ?? null"
        )
        if box is not None:  # what was said in the corner has been read
            self.hand.at(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)

    def find(self, area: str) -> list[Control]:
        """Return all controls in an area."""
        return [Control(**{**one, "homes": tuple(one["homes"])}) for one in self.js("find", area)]

    def until(self, holds: Callable[[], Any], patience: float = PATIENCE) -> bool:
        """Wait up to `patience` seconds for a condition, and return whether it was met."""
        end = time.monotonic() + patience
        while not holds():
            if time.monotonic() > end:
                return False
            self.page.wait_for_timeout(20)
        return True

    def excuse(self, key: str) -> bool:
        """Return whether a control is one of the exceptions, and mark that exception as used."""
        mine = {one for one in self.excused if one in key}
        self.used |= mine
        return bool(mine)

    # The walk ----------------------------------------------------------------------------------------------

    def tab(self, name: str) -> None:
        """Open a tab and walk over it."""
        self.open_tab(name)
        self.over(name, PANELS, lambda: self.open_tab(name))

    def open_tab(self, name: str) -> None:
        """Open this tab, and leave presenter mode first."""
        if self.page.evaluate("document.documentElement.classList.contains('presenting')"):
            self.page.keyboard.press("Escape")
        button = self.page.get_by_role("tab", name=name, exact=True)
        if button.get_attribute("aria-selected") != "true":
            self.visitor.tab(name)
            self.rest()

    def over(
        self, name: str, area: str, back: Callable[[], None], only: Callable[[Control], bool] = bool
    ) -> None:
        """Operate every control in an area, also those that appear meanwhile."""
        tally = self.tallies.setdefault(name, Tally())
        done: set[str] = set()
        self.later.clear()
        self.rest()
        while True:
            back()
            waiting, self.asleep = [], set()
            for control in self.find(area):
                if control.hidden:
                    if control.hidden != "meant" and not self.excuse(control.key):
                        tally.wrong[control.key] = f"it is hidden by {control.hidden}"
                    continue
                tally.found.add(control.key)
                if control.disabled:
                    tally.barred.add(control.key)
                    self.asleep.add(control.key)
                elif control.key not in done and only(control):
                    waiting.append(control)
            for control in self.next(waiting, tally.barred):
                done.add(control.key)
                if self.excuse(control.key) or self.spare(control):
                    continue
                if why := self.operate(name, area, control):
                    tally.wrong[control.key] = why
                else:
                    tally.kinds[control.kind] += 1
                tally.operated.add(control.key)
            if not waiting:
                break
        for (component, key), value in self.later.items():
            if not any(heard_as(one.values.get(component), value) for one in self.ears.calls):
                tally.wrong[key] = f"the server never heard {value!r}"

    def spare(self, control: Control) -> bool:
        """Return whether a brisk walk leaves a control out.

        It leaves out a word if another word of the same panel was read.
        """
        if self.hold is None or control.kind != "word":
            return False
        known = control.homes[0] in self.read
        self.read.add(control.homes[0])
        return known

    def next(self, waiting: list[Control], barred: set[str]) -> list[Control]:
        """Return the controls to operate now.

        Controls that were disabled before come first, then one kind after another. Kinds in LOCAL are
        returned all at once, because they change nothing else.
        """
        if not waiting:
            return []
        first = min(waiting, key=lambda one: (one.key not in barred, ORDER.index(one.kind), one.on))
        alike = [one for one in waiting if one.kind == first.kind]
        return alike if first.kind in LOCAL else [first]

    def operate(self, name: str, area: str, control: Control) -> str:
        """Operate a control in the way of its kind; return what is wrong with it, or an empty string."""
        self.page.evaluate("document.activeElement?.blur()")
        self.hand.hover(0, 0)
        heard, job = len(self.ears.calls), self.session.job
        if self.hold is not None:
            self.hold.there.clear()
            self.hold.on = control.kind == "button"  # whatever else starts by itself may come to its end
        act = getattr(self, f"_{control.kind}", self._button)
        why = act(area, control)
        if not why and control.kind not in VALUES:
            why = self._raised(control, heard)
        if self.session.job is not job and control.kind == "button":
            self.starts.setdefault(name, set()).add(control.key)
            if self.hold is not None:
                self.stop(name, area, control.key, self.hold)
        if self.hold is not None:
            self.hold.on = False
        if control.kind not in LOCAL:
            self.rest()
        return why

    def stop(self, name: str, area: str, key: str, hold: Hold) -> None:
        """Operate the controls that the job of this button has enabled, and check that they stop the job.

        What is wrong is added to the tally.
        """
        tally, job = self.tallies[name], self.session.job
        assert job is not None

        def brought() -> list[Control]:
            """Return the controls that were disabled before the job and are enabled now."""
            return [
                one
                for one in self.find(area)
                if one.key in self.asleep and not one.disabled and not one.hidden
            ]

        if not self.until(lambda: not job.active or (hold.there.is_set() and brought())):
            tally.wrong[key] = "nothing on its tab can stop it"
        for control in brought() if job.active else ():
            tally.operated.add(control.key)
            why = self.press(area, control)
            if not why and not self.until(job.stopping.is_set):
                why = "the job goes on"
            if why:
                tally.wrong[f"{key} > {control.key}"] = why
        job.stopping.set()

    def stop_all(self, hold: Hold) -> None:
        """Start each job that the walk has found once more, and stop it with the controls of the page."""
        hold.on = True
        for name, starts in self.starts.items():
            for key in sorted(starts):
                self.open_tab(name)
                self.rest()
                here = self.find(PANELS)
                self.asleep = {one.key for one in here if one.disabled and not one.hidden}
                start, before = next((one for one in here if one.key == key), None), self.session.job
                if start is None or start.disabled:
                    continue
                hold.there.clear()
                if why := self.press(PANELS, start):
                    self.tallies[name].wrong[key] = why
                elif self.until(lambda before=before: self.session.job is not before, 3.0):
                    self.stop(name, PANELS, key, hold)
        hold.on = False
        self.rest()

    def component(self, control: Control) -> str:
        """Return the name of the component that a control belongs to, or an empty string."""
        return next((one for one in control.homes if one in self.events), "")

    def _raised(self, control: Control, since: int) -> str:
        """Return what is wrong if the server did not receive the press, or an empty string.

        Only buttons and plots with a click event are checked.
        """
        mine = control.itself if control.kind == "button" else control.homes[0]
        if control.kind not in ("button", "plot") or "click" not in self.events.get(mine, ()):
            return ""
        if self.until(lambda: any((mine, "click") in one.targets for one in self.ears.calls[since:])):
            return ""
        return "the server did not hear the press"

    # Kinds -------------------------------------------------------------------------------------------------

    def reach(self, area: str, control: Control) -> tuple[float, float] | str:
        """Return (x, y) of the visible middle of a control, or why it cannot be pressed there."""
        self.hand.wait()
        over = ""
        for _ in range(8):  # what comes at the pointer's touch fades in, what is drawn moves the rest
            box = self.js("bring", area, control.key)
            if box is None:
                return "it is gone"
            if box["width"] < 1 or box["height"] < 1:
                return f"it is {box['width']:.0f} × {box['height']:.0f} px"
            if not self.hand.points:
                return box["x"], box["y"]
            if control.kind not in ("word", "plot"):
                self.hand.hover(box["x"], box["y"])
            over = self.js("cover", area, control.key, box["x"], box["y"])
            if not over:
                return box["x"], box["y"]
            self.page.wait_for_timeout(60)
        return f"it is covered: {over}"

    def press(self, area: str, control: Control) -> str:
        """Press a control; return what is wrong if it cannot be reached, or an empty string."""
        place = self.reach(area, control)
        if isinstance(place, str):
            return place
        return self.hand.press(self, area, control, place)

    def _button(self, area: str, control: Control) -> str:
        """Check that a press changes something on the page, or starts a download or a file chooser."""
        before = self.arrived
        place = self.reach(area, control)
        if isinstance(place, str):
            return place
        for _ in range(2 if control.toggles else 1):  # what stays pressed is let go again
            self.js("remember")
            if why := self.hand.press(self, area, control, place):
                return why
            if not (control.on or self.until(lambda: self.arrived > before or self.js("changed", 120))):
                return "nothing can be seen to happen"
            if control.toggles:
                self.rest()
        return ""

    def _text(self, area: str, control: Control) -> str:
        """Check that a box shows what is typed into it, and that the server receives it."""
        old = str(self.js("value", area, control.key))
        half = old.replace(",", "")
        return self._typed(area, control, old, str(int(half) // 2) if half.isdigit() else f"{old} x".strip())

    def _number(self, area: str, control: Control) -> str:
        """Check a number box like a text box, with a neighbouring number."""
        old = self.js("value", area, control.key)
        low, high, step = self.js("bounds", area, control.key)
        new = float(old or 0) + step
        if new > high:
            new = max(low, new - 2 * step)
        return self._typed(area, control, old, f"{new:.6g}")

    def _typed(self, area: str, control: Control, old: str, new: str) -> str:
        """Type a new value and then the old one; return what is wrong, or an empty string."""
        mine, since = self.component(control), len(self.ears.calls)
        events = self.events.get(mine, set()) & SPEAKING
        leave = "Enter" if events == {"submit"} or mine != control.homes[0] else "Tab"
        for value, back in ((new, False), (old, True)):
            if why := self.press(area, control):
                return why
            if self.js("focused", area) != control.key:
                return "a press does not bring the cursor into it"
            self.page.keyboard.press("Control+a")
            self.page.keyboard.press("Delete")
            # after a tap, the browser may not select what stands in a number box
            self.page.keyboard.press("End")
            for _ in self.js("value", area, control.key):
                self.page.keyboard.press("Backspace")
            self.page.keyboard.type(value, delay=15 if len(value) < 8 else 0)
            if not self.until(lambda value=value: same(self.js("value", area, control.key), value), 2.0):
                return f"{value!r} was typed, and {self.js('value', area, control.key)!r} stands there"
            self.page.keyboard.press("Tab" if back else leave)
            now = self.js("value", area, control.key) or value  # a box may round what was typed
            if not back and not same(now, old) and (why := self._told(control, (value, now), since)):
                return why
            if not events:
                return ""  # it stays until a button tells it
            self.rest()
        return ""

    def _told(self, control: Control, value: Any, since: int) -> str:
        """Return what is wrong if the server did not receive a value, or an empty string.

        If the component has no event for it, the value is checked later, once a button has been pressed.
        """
        mine = self.component(control)
        if mine not in self.inputs:
            return "" if mine else "it belongs to nothing that is told to the server"
        if not self.events.get(mine, set()) & SPEAKING:
            self.later[mine, control.key] = value
            return ""
        heard = lambda: any(heard_as(one.values.get(mine), value) for one in self.ears.calls[since:])  # noqa: E731
        if self.until(heard):
            return ""
        last = [one.values[mine] for one in self.ears.calls[since:] if mine in one.values][-1:]
        return f"{value!r} is shown, and the server heard {last}"

    def _combobox(self, area: str, control: Control) -> str:
        """Check that a list opens visibly, and that the box and the server get the chosen entry."""
        old = self.js("value", area, control.key)
        why = self.choose(area, control, None)
        if not why and old and self.events.get(self.component(control), set()) & SPEAKING:
            self.rest()
            why = self.choose(area, control, old)
        return why

    def choose(self, area: str, control: Control, label: str | None) -> str:
        """Choose the entry with this label, or the one after the present entry.

        Return what is wrong, or an empty string.
        """
        since = len(self.ears.calls)
        self.page.evaluate("document.activeElement?.blur()")
        if why := self.press(area, control):
            return why
        entries: list[dict[str, Any]] = []

        def opened() -> bool:
            """Return whether the list has entries that can be seen."""
            entries[:] = self.js("entries", area, control.key)
            return bool(entries) and all(one["width"] > 0 and one["height"] > 0 for one in entries)

        if not self.until(opened, 2.0):
            sizes = {(round(one["width"]), round(one["height"])) for one in entries}
            return f"its list of {len(entries)} entries is not to be seen: {sizes or 'no entry'}"
        if not all(one["inside"] for one in entries):
            return "its list opens outside of the window"
        now = self.js("value", area, control.key)
        chosen = next((place for place, one in enumerate(entries) if one["label"] == now), -1)
        mine = [one for one in entries if one["label"] == label] or [entries[(chosen + 1) % len(entries)]]
        if why := self.hand.take(self, area, control, mine[0]["index"], chosen):
            return why
        wanted = mine[0]["label"]
        if not self.until(lambda: self.js("value", area, control.key) == wanted, 2.0):
            return f"{wanted!r} was pressed, and {self.js('value', area, control.key)!r} stands in the box"
        if not self.until(lambda: not self.js("entries", area, control.key), 2.0):
            return "its list stays open"
        if wanted == now:
            return ""
        return self._told_entry(control, since, wanted)

    def _told_entry(self, control: Control, since: int, label: str) -> str:
        """Return what is wrong if the server did not receive a new entry, or an empty string.

        The page does not show the value of an entry, so any new value counts.
        """
        mine = self.component(control)
        if self.events.get(mine, set()) & SPEAKING:
            values = lambda: [one.values[mine] for one in self.ears.calls[since:] if mine in one.values]  # noqa: E731
            if not self.until(lambda: any(value is not None for value in values())):
                return f"the server did not hear of {label!r}"
        return ""

    def _select(self, area: str, control: Control) -> str:
        """Check that another entry of a native list can be chosen.

        The system draws that list, so a key chooses the entry.
        """
        since, old = len(self.ears.calls), self.js("value", area, control.key)
        if why := self.press(area, control):
            return why
        if self.js("focused", area) != control.key:
            return "a press does not give it the focus"
        keys = self.js("options", area, control.key)
        if not keys:
            return ""  # there is nothing else to choose
        self.page.keyboard.press(keys)
        if self.hand.points:
            self.page.keyboard.press("Enter")
        if not self.until(lambda: self.js("value", area, control.key) != old, 2.0):
            return "another entry cannot be chosen"
        return self._told(control, self.js("value", area, control.key), since)

    def _checkbox(self, area: str, control: Control) -> str:
        """Check that each of two presses toggles a box, and that the server receives both."""
        for _ in range(2):
            since, old = len(self.ears.calls), self.js("value", area, control.key)
            if why := self.press(area, control):
                return why
            if not self.until(lambda old=old: self.js("value", area, control.key) != old, 2.0):
                return "a press does not turn it over"
            ticked = self.js("ticked", area, control.key)
            if why := self._told(control, not old if ticked is None else ticked, since):
                return why
            self.rest()
        return ""

    def _radio(self, area: str, control: Control) -> str:
        """Check that a press chooses a radio button, and that the server receives it."""
        since, old = len(self.ears.calls), self.js("value", area, control.key)
        if why := self.press(area, control):
            return why
        if not self.until(lambda: self.js("value", area, control.key), 2.0):
            return "a press does not choose it"
        return "" if old else self._told(control, self.js("text", area, control.key), since)

    def _range(self, area: str, control: Control) -> str:
        """Check that a press in the middle of a range sets the middle, and that the server receives it."""
        since, old = len(self.ears.calls), float(self.js("value", area, control.key))
        low, high, step = self.js("bounds", area, control.key)
        if why := self.press(area, control):
            return why
        wanted = (low + high) / 2 if self.hand.points else min(high, old + step)

        mine, told = self.component(control), [""]

        def near(value: Any) -> bool:
            """Return whether a value is close to the wanted one."""
            return abs(float(value) - wanted) <= 0.02 * (high - low) + step

        def heard() -> bool:
            """Return whether the server received a value close to the wanted one."""
            return any(near(one.values[mine]) for one in self.ears.calls[since:] if mine in one.values)

        def reached() -> bool:
            """Return whether the control shows, or the server received, a value close to the wanted one."""
            told[0] = self.js("value", area, control.key)
            return near(told[0]) or heard()

        if not self.until(reached, 2.0):
            return f"it stands at {told[0]} instead of {wanted:g}"
        # an answer may have changed it to what is possible before it was looked at
        return "" if heard() else self._told(control, (told[0], self.js("value", area, control.key)), since)

    def _slider(self, area: str, control: Control) -> str:
        """Check that a press moves a fader, and that the server receives the new value."""
        since, old = len(self.ears.calls), self.js("value", area, control.key)
        if why := self.press(area, control):
            return why
        moved = lambda patience: self.until(lambda: self.js("value", area, control.key) != old, patience)  # noqa: E731
        if not moved(0.4):
            self.hand.slide(self, area, control)
            if not moved(1.0):
                return "a hand does not move it"
        now = int(self.js("value", area, control.key))
        mine = self.component(control)
        found = lambda: any(now in flat(one.values.get(mine)) for one in self.ears.calls[since:])  # noqa: E731
        return "" if self.until(found) else f"the server did not hear of {now}"

    def _tab(self, area: str, control: Control) -> str:
        """Check that a press opens a tab."""
        if why := self.press(area, control):
            return why
        opened = self.until(lambda: self.js("value", area, control.key) == "true", 3.0)
        return "" if opened else "a press does not open it"

    def _word(self, area: str, control: Control) -> str:
        """Check that a press on a word shows its explanation."""
        place = self.reach(area, control)
        if isinstance(place, str):
            return place
        if why := self.hand.press(self, area, control, place):
            return why
        tip = self.page.locator("#glossary")
        if not self.until(lambda: tip.is_visible() and len(tip.inner_text()) > 10, 2.0):
            return "no explanation appears"
        self.page.keyboard.press("Escape")
        return ""

    def _plot(self, area: str, control: Control) -> str:
        """Check that a press on one of the points of a plot shows something."""
        place = self.reach(area, control)
        if isinstance(place, str):
            return place
        box = self.js("bring", area, control.key)
        for spot in box.get("spots") or [box]:
            self.js("remember")
            if why := self.hand.press(self, area, control, (spot["x"], spot["y"])):
                return why
            if self.until(lambda: self.js("changed", 120), 0.8):
                self.page.wait_for_timeout(300)
                return "" if self.js("changed", 120) else "what is told of it goes at once"
        return "nothing is told of it"

    _token = _plot

    def _row(self, area: str, control: Control) -> str:
        """Check a row like a button; by keyboard, check that a control inside it can be reached."""
        if self.hand.points:
            return self._button(area, control)
        return "" if self.js("inner", area, control.key) else "no key reaches it"

    def _focusable(self, area: str, control: Control) -> str:
        """Check that a control takes the focus."""
        if why := self.press(area, control):
            return why
        return "" if self.js("focused", area) == control.key else "it does not take the focus"


def flat(value: Any) -> list[Any]:
    """Return all single values in nested dicts and lists."""
    if isinstance(value, dict):
        return [one for inner in value.values() for one in flat(inner)]
    if isinstance(value, list):
        return [one for inner in value for one in flat(inner)]
    return [value]


def same(shown: Any, wanted: str) -> bool:
    """Return whether a box shows what was typed; numbers may be written differently."""
    if str(shown) == wanted:
        return True
    try:
        return abs(float(shown) - float(wanted)) < 1e-9
    except (TypeError, ValueError):
        return False


def heard_as(heard: Any, shown: Any) -> bool:
    """Return whether the value that the server received is the one that a person sees.

    If `shown` is a tuple, any of its values counts. In a list, or in the value of the faders, it may be one
    of several.
    """
    if isinstance(shown, tuple):
        return any(heard_as(heard, one) for one in shown)
    if isinstance(heard, dict) and "turn" in heard:
        return any(same(one, str(shown)) for one in flat(heard))
    if isinstance(heard, dict) and "chosen" in heard:
        return heard["chosen"] == shown
    if isinstance(heard, list):
        return len(heard) == shown if isinstance(shown, int) else shown in heard
    if isinstance(heard, bool) or isinstance(shown, bool):
        return heard == shown
    return heard is not None and (same(heard, str(shown)) or str(heard).strip() == str(shown).strip())
