"""List what combines with a method, with the reason where a choice does not. No Gradio."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from slimllm.core.attention_unit import UNITS
from slimllm.core.errors import Refusal
from slimllm.core.types import Analysis, Calibration, Plan
from slimllm.methods.interface import Option
from slimllm.methods.recovery import RECOVERIES
from slimllm.methods.table import METHODS, fill_options, find_method
from slimllm.planning.allocation import ALLOCATIONS
from slimllm.planning.rules import combination_hindrance, text_doubt
from ui.look.formatting import escape_html


class Choice(NamedTuple):
    """An entry of a menu; `why` says why it cannot be chosen, and is empty where it can."""

    label: str
    key: str
    why: str = ""


def possible_keys(choices: Iterable[Choice]) -> list[str]:
    """Return the keys that can be chosen."""
    return [choice.key for choice in choices if not choice.why]


Source = tuple[str, tuple[tuple[str, Any], ...], Calibration]


def source_of(made: Analysis | Plan) -> Source:
    """Return the method, its options and the calibration that an analysis or a plan was made with."""
    return made.method, tuple(sorted(fill_options(made.method, dict(made.options)).items())), made.calibration


def are_comparable(one: Analysis, other: Analysis) -> bool:
    """Return whether two analyses differ in one thing only: the text, or the method with its options."""
    (*how, text), (*how_else, text_else) = source_of(one), source_of(other)
    return (how == how_else) != (text == text_else)


def recoveries_for(name: str) -> list[Choice]:
    """Return all recoveries, with the reason where one does not combine with a method."""
    row = find_method(name)
    return [
        Choice(recovery.title, key, row.alone if combination_hindrance(name, key, row.allocation) else "")
        for key, recovery in RECOVERIES.items()
    ]


def allocations_for(name: str) -> list[Choice]:
    """Return all allocations, with the reason where one does not combine with a method."""
    row = find_method(name)

    def reason_against(key: str) -> str:
        if not combination_hindrance(name, row.recovery, key):
            return ""
        if row.allocations:
            return f"{row.title} has its own"
        return f"only with {' and '.join(METHODS[one].title for one in ALLOCATIONS[key].methods)}"

    return [Choice(allocation.title, key, reason_against(key)) for key, allocation in ALLOCATIONS.items()]


def units_for(analysis: Analysis) -> list[Choice]:
    """Return "Automatic" and all attention units, with the reason where one cannot be chosen.

    The units that the analysis has scores for come first.
    """
    known, row = tuple(analysis.layers[0].attention), METHODS[analysis.method]

    def reason_against(unit: str) -> str:
        if unit in known:
            return ""
        if UNITS[unit].narrows_heads:
            return f"only with {' and '.join(r.title for r in METHODS.values() if unit in r.units)}"
        if unit not in analysis.shape.units:
            return "no choice in this model"
        return f"{row.title} is scored for {UNITS[known[0]].title.lower()}"

    first = sorted(UNITS, key=lambda unit: known.index(unit) if unit in known else len(known))
    return [
        Choice("Automatic", "auto"),
        *(Choice(UNITS[unit].title, unit, reason_against(unit)) for unit in first),
    ]


def left_out(name: str) -> list[str]:
    """Return sentences that say which recoveries and allocations do not combine with a method, and why.

    One sentence names all that have the same reason.
    """
    row = find_method(name)
    reasons: dict[str, list[tuple[str, str]]] = {}
    for key, recovery in RECOVERIES.items():
        reason = combination_hindrance(name, key, row.allocation)
        reasons.setdefault(reason.replace(f" '{key}'", ""), []).append((recovery.title, reason))
    for key, allocation in ALLOCATIONS.items():
        reason = combination_hindrance(name, row.recovery, key)
        reasons.setdefault(reason.replace(f" '{key}'", ""), []).append((allocation.title, reason))
    return [
        f"{', '.join(title for title, _ in found)}: {found[0][1] if len(found) == 1 else reason}"
        for reason, found in reasons.items()
        if reason
    ]


def words_on_choices(plan: Plan, analysis: Analysis) -> str:
    """Return the plan's recovery and allocation, with a sentence each, as HTML.

    The list also says where the calibration text is too short for the recovery, and what does not combine
    with the method.
    """
    allocation = ALLOCATIONS.get(plan.allocation)
    said = [
        ("Recovery", f"{RECOVERIES[plan.recovery].title}. {RECOVERIES[plan.recovery].words}"),
        (
            "Where to cut",
            f"{allocation.title}. {allocation.words}" if allocation else "By hand, fader by fader.",
        ),
    ]
    if doubtful := text_doubt(analysis.shape, plan.recovery, analysis.tokens):
        said.append(("Too little text", doubtful))
    out = left_out(analysis.method)
    rest = (
        f"<dt>Does not combine</dt><dd>{'<br>'.join(escape_html(sentence) for sentence in out)}</dd>"
        if out
        else ""
    )
    rows = "".join(f"<dt>{term}</dt><dd>{escape_html(words)}</dd>" for term, words in said)
    return f'<dl class="said">{rows}{rest}</dl>'


def carry_choices(plan: Plan | None, name: str) -> tuple[str | None, str | None, str]:
    """Return (recovery, allocation, sentence): the person's choices in the plan that combine with a method.

    None stands for the method's own recovery or allocation. The sentence says which choices had to be given
    up and why; it is empty where none was.
    """
    if plan is None:
        return None, None, ""
    row, old = find_method(name), find_method(plan.method)
    same = plan.method == name
    recovery = plan.recovery if same or plan.recovery != old.recovery else None
    allocation = plan.allocation if same or plan.allocation != old.allocation else None
    # A plan made by hand has an allocation of its own, which no method can follow.
    if allocation not in ALLOCATIONS:
        allocation = None
    said = []
    if recovery and (reason := combination_hindrance(name, recovery, row.allocation)):
        said.append(f"{reason} Its own recovery is used instead: {RECOVERIES[row.recovery].title}.")
        recovery = None
    if allocation and (reason := combination_hindrance(name, row.recovery, allocation)):
        said.append(f"{reason} Its own allocation is used instead: {ALLOCATIONS[row.allocation].title}.")
        allocation = None
    return recovery, allocation, " ".join(said)


# A method's options -----------------------------------------------------------------------------------------


def all_options() -> list[tuple[str, Option]]:
    """Return (method, option) for every option of every method, in the order of the table."""
    return [(name, option) for name, row in METHODS.items() for option in row.options]


def options_of(name: str, given: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the options of one method among those of all methods, which are given by method and name.

    Raise a `Refusal` where a value does not fit its option (see `check_option`).
    """
    return {o.name: check_option(o, given[owner][o.name]) for owner, o in all_options() if owner == name}


def check_option(option: Option, value: Any) -> Any:
    """Return the value in the type of the option: bool, int or float.

    Raise a `Refusal` that names the option where the value is no number, is out of the option's range, or is
    not whole where it must be.
    """
    if isinstance(option.default, bool):
        return bool(value)
    whole = isinstance(option.default, int)
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not option.low <= value <= option.high
    ):
        raise Refusal(f"{label_of(option)} must be a number from {option.low:g} to {option.high:g}.")
    if whole and value != int(value):
        raise Refusal(f"{label_of(option)} must be a whole number.")
    return int(value) if whole else float(value)


def label_of(option: Option) -> str:
    """Return the name of an option as the page shows it."""
    return option.name.replace("_", " ").capitalize()


def for_ratio(name: str, ratio: float) -> Mapping[str, Any]:
    """Return the options for trying a method at a ratio.

    A method that trains towards a size gets the ratio, clamped to its range, as its target; others get no
    options.
    """
    row = find_method(name)
    goal = next((o for o in row.options if o.name == "target"), None) if row.learns else None
    return {} if goal is None else {goal.name: min(max(float(ratio), goal.low), goal.high)}
