"""Operate controls in three ways: by mouse, by touch and by keyboard."""

from __future__ import annotations

import abc
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.support.walk.walking import Control, Walk

KEYS = {"checkbox": "Space", "range": "ArrowRight", "slider": "ArrowDown", "plot": "ArrowRight"}
TAPPED = """() => { window.tapped = new Promise((done) => {
  // the caret comes after the click
  addEventListener("click", () => setTimeout(done, 100), {capture: true, once: true});
  setTimeout(done, 400);
}); }"""
REST = 150  # milliseconds for which a finger rests before it is lifted
QUIET = ("combobox", "select", "number", "text", "word", "token", "focusable")  # the focus is enough


class Hand(abc.ABC):
    """A way of operating controls."""

    name = ""
    points = True  # it presses at a place, so that this may not be covered
    apart = 0.0  # seconds between two presses
    pressed = -1.0  # when, in seconds of the monotonic clock

    def __init__(self, page: Any):
        self.page = page

    def wait(self) -> None:
        """Wait until this hand can press again; only then it is time to look where."""
        if (left := self.pressed + self.apart - time.monotonic()) > 0:
            self.page.wait_for_timeout(1000 * left)

    @abc.abstractmethod
    def hover(self, x: float, y: float) -> None:
        """Rest at a place, where this kind of hand can."""

    def at(self, x: float, y: float) -> None:
        """Press a place; without a finger that is done by mouse."""
        self.page.mouse.click(x, y)

    @abc.abstractmethod
    def press(self, walk: Walk, area: str, control: Control, place: tuple[float, float]) -> str:
        """Press a control at a place; return what is wrong with it, or an empty string."""

    @abc.abstractmethod
    def take(self, walk: Walk, area: str, control: Control, index: str, chosen: int) -> str:
        """Choose an entry of the open list; return what is wrong with it, or an empty string.

        `index` is that of the entry, and `chosen` that of the present entry or −1.
        """

    @abc.abstractmethod
    def slide(self, walk: Walk, area: str, control: Control) -> None:
        """Move a fader that a press in its middle did not move.

        It may have stood there already, or the press only chose it.
        """


class Mouse(Hand):
    """Operate controls by mouse."""

    name = "mouse"

    def take(self, walk: Walk, area: str, control: Control, index: str, chosen: int) -> str:
        entry = walk.js("entry", area, control.key, index)
        if entry is None or not entry["free"]:
            return f"entry {index} of its list is covered"
        self.at(entry["x"], entry["y"])
        return ""

    def hover(self, x: float, y: float) -> None:
        """Move the pointer to a place."""
        self.page.mouse.move(x, y)

    def press(self, walk: Walk, area: str, control: Control, place: tuple[float, float]) -> str:
        self.at(*place)
        return ""

    def slide(self, walk: Walk, area: str, control: Control) -> None:
        box = walk.js("bring", area, control.key)
        self.at(box["x"], box["top"] + 0.05 * box["height"])


class Finger(Mouse):
    """Operate controls by touch, which the context of the browser must support."""

    name = "touch"
    apart = 0.6  # a double tap would select text and hold up the keys

    def hover(self, x: float, y: float) -> None:
        """Do nothing, because a finger does not hover."""

    def at(self, x: float, y: float) -> None:
        """Tap, and wait for the click and the caret, which come later; a plot has none."""
        self.wait()
        self.page.evaluate(TAPPED)
        self.page.touchscreen.tap(x, y)
        self.page.evaluate("window.tapped")
        self.pressed = time.monotonic()

    def slide(self, walk: Walk, area: str, control: Control) -> None:
        """Drag the handle, which the tap has shown, by more than half of the fader up or down.

        The finger rests before it is lifted. Where a page does not scroll, Chromium takes a finger that is
        lifted while it moves for the start of a fling, and the next tap only ends that fling: tried on a page
        with nothing but a box and a button, 22 of 24 taps were lost, and none after a rest.
        """
        box = walk.js("bring", area, control.key)
        handle = walk.js("handle", area, control.key)
        way = 0.6 * box["height"] * (1 if handle["y"] < box["y"] else -1)
        finger = self.page.context.new_cdp_session(self.page)
        x, y = handle["x"], handle["y"]
        for kind, share in (("Start", 0), ("Move", 0.3), ("Move", 0.6), ("Move", 1), ("Move", 1), ("End", 1)):
            if kind == "End":
                self.page.wait_for_timeout(REST)
            points = [] if kind == "End" else [{"x": x, "y": y + share * way}]
            finger.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})
        finger.detach()


class Keys(Hand):
    """Focus a control, check that the focus is visible, and press the key that operates the control."""

    name = "keyboard"
    points = False

    def hover(self, x: float, y: float) -> None:
        """Do nothing: keys have no place."""

    def press(self, walk: Walk, area: str, control: Control, place: tuple[float, float]) -> str:
        walk.js("focus", area, control.key)
        if walk.js("focused", area) != control.key:
            return "it does not take the focus"
        if not walk.until(lambda: walk.js("ring"), 1.0):
            return "it has the focus, and nothing shows it"
        if control.kind == "radio":
            self.page.keyboard.press("Space")
        elif control.kind not in QUIET:
            self.page.keyboard.press(KEYS.get(control.kind, "Enter"))
        if control.kind == "plot":  # the arrow went to a point, which is now clicked
            self.page.keyboard.press("Enter")
        return ""

    def slide(self, walk: Walk, area: str, control: Control) -> None:
        self.page.keyboard.press("ArrowUp")

    def take(self, walk: Walk, area: str, control: Control, index: str, chosen: int) -> str:
        for _ in range(abs(int(index) - max(chosen, 0)) + (chosen < 0)):
            self.page.keyboard.press("ArrowDown" if int(index) >= chosen else "ArrowUp")
        self.page.keyboard.press("Enter")
        return ""
