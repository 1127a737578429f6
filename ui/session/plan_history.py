"""Hold the plans of a session in their order, with the locked layers of each, for undo and redo.

No Gradio.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from slimllm.core.types import Plan
from slimllm.planning.locks import Locks, name_layers
from slimllm.planning.rules import rules_of_plan

KEPT_PLANS = 500
# Seconds within which the movements of a dial count as one change.
SAME_GESTURE = 1.0


@dataclass(frozen=True)
class PlanStep:
    """A plan, and the indices of the layers that are locked in it."""

    plan: Plan
    locked: frozenset[int] = frozenset()

    @property
    def locks(self) -> Locks | None:
        """The locked layers with the plan whose widths they keep, or None if no layer is locked."""
        return Locks(self.plan, self.locked) if self.locked else None


class PlanHistory:
    """The steps in the order in which they were made, and the index of the present one."""

    def __init__(self) -> None:
        self.steps: list[PlanStep] = []
        self.cursor = -1
        self._gesture: tuple[str, float] = ("", 0.0)

    @property
    def present(self) -> PlanStep | None:
        """The present step, or None if there is none."""
        return self.steps[self.cursor] if self.steps else None

    def push_step(self, step: PlanStep, gesture: str = "") -> None:
        """Make a step the present one, and forget the steps that were undone.

        A step of the same gesture within SAME_GESTURE replaces the present one, unless that is the first. A
        step equal to the present one changes nothing. Only the latest KEPT_PLANS stay.
        """
        now = time.monotonic()
        name, when = self._gesture
        same = bool(gesture) and gesture == name and now - when < SAME_GESTURE and self.cursor > 0
        self._gesture = (gesture, now)
        if step == self.present:
            return
        keep = self.cursor if same else self.cursor + 1
        self.steps = [*self.steps[:keep], step][-KEPT_PLANS:]
        self.cursor = len(self.steps) - 1

    def place_after(self, by: int) -> int:
        """Return the index `by` steps after the present one, or before it, as far as there are steps."""
        return min(max(self.cursor + by, 0), len(self.steps) - 1)

    def move_cursor(self, by: int) -> None:
        """Go `by` steps forward, or back if it is negative, as far as there are steps."""
        self.cursor = self.place_after(by)
        self._gesture = ("", 0.0)


def tell_kept(wanted: Plan, taken: Plan) -> str:
    """Return a sentence about the locked layers that kept their widths, with a space before it, or "".

    `wanted` is the plan that was asked for, and `taken` the plan that became the present one.
    """
    widths = zip(wanted.heads, wanted.channels, taken.heads, taken.channels, strict=True)
    kept = [i for i, (h, c, heads, channels) in enumerate(widths) if (h, c) != (heads, channels)]
    if not kept:
        return ""
    return f" {name_layers(kept)} {'is' if len(kept) == 1 else 'are'} locked and kept as before."


def same_rules(one: Plan, other: Plan) -> bool:
    """Return whether two plans show the same controls.

    If so, they differ at most in the widths of layers that were moved by hand.
    """
    alike = one.allocation == other.allocation or "hand" in (one.allocation, other.allocation)
    first, second = (replace(rules_of_plan(plan), allocation=None) for plan in (one, other))
    return alike and first == second
