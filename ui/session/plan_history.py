"""The plans of a session one after the other, with the layers that were locked at each: what undo and redo go
through. No Gradio."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from slimllm.core.types import Plan
from slimllm.planning.locks import Locks, name_layers
from slimllm.planning.rules import rules_of_plan

KEPT_PLANS = 500
SAME_GESTURE = 1.0  # seconds within which a moving dial counts as one change


@dataclass(frozen=True)
class PlanStep:
    """A plan, and the layers that are locked in it."""

    plan: Plan
    locked: frozenset[int] = frozenset()

    @property
    def locks(self) -> Locks | None:
        """The locked layers with the plan whose widths they keep; None where no layer is locked."""
        return Locks(self.plan, self.locked) if self.locked else None


class PlanHistory:
    """Steps in the order in which they were made, and the place of the present one."""

    def __init__(self) -> None:
        self.steps: list[PlanStep] = []
        self.cursor = -1
        self._gesture: tuple[str, float] = ("", 0.0)

    @property
    def present(self) -> PlanStep | None:
        """The present step, if there is one."""
        return self.steps[self.cursor] if self.steps else None

    def push_step(self, step: PlanStep, gesture: str = "") -> None:
        """Makes a step the present one; those that were undone are forgotten. Steps of the same gesture in
        quick succession are one."""
        now = time.monotonic()
        name, when = self._gesture
        same = bool(gesture) and gesture == name and now - when < SAME_GESTURE and self.cursor > 0
        self._gesture = (gesture, now)
        if step == self.present:
            return
        keep = self.cursor if same else self.cursor + 1
        self.steps = [*self.steps[:keep], step][-KEPT_PLANS:]
        self.cursor = len(self.steps) - 1

    def move_cursor(self, by: int) -> None:
        """Goes back (−1) or forth (+1), as far as there are steps."""
        self.cursor = min(max(self.cursor + by, 0), len(self.steps) - 1)
        self._gesture = ("", 0.0)


def tell_kept(wanted: Plan, taken: Plan) -> str:
    """Which locked layers kept their widths where a plan was taken whole: a sentence with a space before it,
    empty where none did."""
    widths = zip(wanted.heads, wanted.channels, taken.heads, taken.channels, strict=True)
    kept = [i for i, (h, c, heads, channels) in enumerate(widths) if (h, c) != (heads, channels)]
    if not kept:
        return ""
    return f" {name_layers(kept)} {'is' if len(kept) == 1 else 'are'} locked and kept as before."


def same_rules(one: Plan, other: Plan) -> bool:
    """Whether two plans show the same controls: they differ in what hands did to single layers, if at all."""
    alike = one.allocation == other.allocation or "hand" in (one.allocation, other.allocation)
    first, second = (replace(rules_of_plan(plan), allocation=None) for plan in (one, other))
    return alike and first == second
