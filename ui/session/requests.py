"""Check what the controls ask for: plain values become dataclasses, or a `Refusal`.

No Gradio.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from slimllm.calibration import texts
from slimllm.core.errors import Refusal
from slimllm.core.types import Calibration, Plan
from slimllm.planning.allocation import ALLOCATIONS
from slimllm.planning.locks import Locks
from slimllm.planning.rules import PlanRules, keep_pins
from ui.facts.runs import Asked, Protocol
from ui.look.formatting import method_title
from ui.session.forms import AnalyseForm, MeasureForm, RulesForm
from ui.session.limits import UNLIMITED, Limits

MOST_PROMPTS, LONGEST_PROMPT = 4, 20_000


def whole_number(value: Any, name: str, low: int, high: int) -> int:
    """Return the value as an int from `low` to `high`.

    Raise `Refusal`, which calls the value by `name`, if it is anything else.
    """
    try:
        number = int(value)
        if number != float(value) or not low <= number <= high:
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise Refusal(f"{name} must be a whole number from {low:,} to {high:,}, not {value!r}.") from None
    return number


def text_choices(limits: Limits = UNLIMITED) -> list[tuple[str, str]]:
    """Return (title, name) of the texts that can be chosen by name and that the limits permit.

    The topics of the encyclopedia are among them only if the starter kit is installed.
    """
    try:
        topics = [(f"Encyclopedia: {topic}", f"encyclopedia/{topic}") for topic in texts.list_topics()]
    except Refusal:
        topics = []
    hub = [(f"{name} (from the model hub)", name) for name in texts.HUB_SETS]
    found = [("Encyclopedia, all topics", "encyclopedia"), *topics, *hub]
    return [(title, name) for title, name in found if limits.permits_text(name)]


def text_title(name: str) -> str:
    """Return the title of a text on the page, or the name of its file if it has no title."""
    titles = {value: title for title, value in text_choices()}
    return titles.get(name) or Path(name).name or name


def made_words(method: str, read: Calibration, other: str | None = None) -> str:
    """Return how an analysis was made in words: its method, its text and the number of tokens.

    `other` is a second method that read the same.
    """
    tokens = f"{read.samples:,} × {read.length:,} = {read.samples * read.length:,} tokens"
    names = method_title(method) + (f" and {method_title(other)}" if other else "")
    return f"{names} on {text_title(read.text)}, {tokens}"


def calibration_of(form: AnalyseForm) -> Calibration:
    """Return the calibration that a form asks for.

    Raise `Refusal` if a number is not whole or out of range.
    """
    return Calibration(
        str(form.text or "").strip(),
        whole_number(form.samples, "Samples", 1, 100_000),
        whole_number(form.length, "Length", 2, 1_000_000),
        whole_number(form.seed, "Seed", 0, 2**31 - 1),
    )


def rules_from(present: Plan | None, form: RulesForm, locks: Locks | None = None) -> PlanRules:
    """Return the rules that a form asks for, with the pins of the present plan and the locked layers.

    An unknown allocation becomes the method's own. Raise `Refusal` if the ratio is not a number.
    """
    if isinstance(form.ratio, bool) or not isinstance(form.ratio, int | float):
        raise Refusal("The dial needs a number from 0 to 0.9.")
    recovery, allocation = str(form.recovery), str(form.allocation)
    count: Any = str(form.count)
    rules = PlanRules(
        float(form.ratio),
        allocation=allocation if allocation in ALLOCATIONS else None,
        recovery=None if recovery == "auto" else recovery,
        unit=str(form.unit),
        align=form.align,
        count=count,
        same_width=bool(form.same_width),
    )
    return keep_pins(rules, present, locks)


def asked_for(form: MeasureForm) -> Asked:
    """Return what a comparison is to measure, and the prompts that the models are to continue.

    Raise `Refusal` if there are too many prompts, if one is too long, or if a number is impossible.
    """
    lines = [line.strip() for line in str(form.prompts or "").splitlines() if line.strip()]
    if len(lines) > MOST_PROMPTS:
        raise Refusal(f"There are {len(lines)} prompts; up to {MOST_PROMPTS} can be compared at once.")
    if max(map(len, lines), default=0) > LONGEST_PROMPT:
        raise Refusal(f"A prompt may have up to {LONGEST_PROMPT:,} letters; use a shorter one.")
    heat = form.temperature
    number = isinstance(heat, int | float) and not isinstance(heat, bool)
    if not number or not math.isfinite(heat) or not 0 <= heat <= 10:
        raise Refusal("The temperature must be a number from 0 to 10.")
    return Asked(
        protocol=Protocol(
            str(form.text or "").strip(),
            whole_number(form.window, "Window", 2, 1_000_000),
            whole_number(form.limit, "The limit", 0, 2**31 - 1),
        ),
        prompts=tuple(lines),
        new_tokens=whole_number(form.new_tokens, "The answer length", 1, 4096),
        temperature=float(heat),
        seed=whole_number(form.seed, "Seed", 0, 2**31 - 1),
    )
