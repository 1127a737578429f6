"""Checks of options before any work: that a model could meet them, and that they do not contradict a plan."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from slimllm.calibration import texts
from slimllm.core.attention_unit import UNITS
from slimllm.core.devices import pick_device, pick_dtype
from slimllm.core.errors import Refusal
from slimllm.core.types import Calibration, Plan
from slimllm.methods.recovery import RECOVERIES
from slimllm.methods.table import fill_options, find_method
from slimllm.planning import rules
from slimllm.planning.allocation import ALLOCATIONS

Arguments = argparse.Namespace


def check_options(given: Arguments) -> None:
    """Raise `Refusal` for the first option of a command that no model could meet.

    If a plan is given, only the device is checked here, and options are compared with the plan instead.
    """
    planned = getattr(given, "plan", None) is not None
    for names, look in CHECKS.items():
        if all(name in given for name in names) and (look is check_device or not planned):
            look(given)


def check_device(given: Arguments) -> None:
    """Raise `Refusal` if the device or the dtype is not available."""
    pick_dtype(given.dtype, pick_device(given.device))


def check_reading(given: Arguments) -> None:
    """Raise `Refusal` if the calibration is impossible."""
    texts.check_calibration(Calibration(given.text, given.samples, given.length, given.seed))


def check_measuring(given: Arguments) -> None:
    """Raise `Refusal` if the window or the limit leaves no token to predict."""
    if given.window < 2:
        raise Refusal(f"A window of {given.window} tokens is not possible; use at least 2.")
    if given.limit_tokens is not None and given.limit_tokens < 2:
        raise Refusal(
            f"A limit of {given.limit_tokens} tokens leaves nothing to predict; use at least one window."
        )


def check_writing(given: Arguments) -> None:
    """Raise `Refusal` if the settings or prompts of generation are impossible."""
    if given.max_new_tokens < 1 or not math.isfinite(given.temperature) or given.temperature < 0:
        raise Refusal("Generation needs at least 1 new token and a temperature of 0 or more.")
    prompts = given.prompt if isinstance(given.prompt, list) else [given.prompt]
    if not all(prompts):
        raise Refusal("The prompt is empty; write a few words to continue.")


def check_scoring(given: Arguments) -> None:
    """Raise `Refusal` for options that the method does not have."""
    fill_options(given.method, method_options(given))


def check_sizing(given: Arguments) -> None:
    """Raise `Refusal` for an impossible alignment, or an unknown unit, allocation or recovery."""
    rules.check_align(given.align)
    if given.unit not in ("auto", *UNITS):
        raise Refusal(f"Unit '{given.unit}' is not known; use {', '.join(UNITS)} or auto.")
    for name, table in ((given.allocation, ALLOCATIONS), (given.recovery, RECOVERIES)):
        if name is not None:
            rules.check_known(name, table)


def check_choice(given: Arguments) -> None:
    """Raise `Refusal` if the method does not work with the allocation, the recovery or the unit."""
    rules.check_combination(given.method, given.allocation, given.recovery)
    narrows = find_method(given.method).narrows_heads
    if given.unit != "auto" and UNITS[given.unit].narrows_heads != narrows:
        raise Refusal(f"Unit '{given.unit}' does not go with method {given.method}; use auto.")


def check_ratio(given: Arguments) -> None:
    """Raise `Refusal` if the ratio is impossible."""
    if given.ratio is not None:
        rules.check_ratio(given.ratio)


CHECKS: dict[tuple[str, ...], Callable[[Arguments], None]] = {
    ("device", "dtype"): check_device,
    ("samples", "length"): check_reading,
    ("window", "limit_tokens"): check_measuring,
    ("max_new_tokens", "temperature"): check_writing,
    ("method", "option"): check_scoring,
    ("align", "unit"): check_sizing,
    ("method", "unit"): check_choice,
    ("ratio",): check_ratio,
}


def method_options(given: Arguments) -> dict[str, bool | int | float]:
    """Return the method's options from --option NAME=VALUE.

    For a method that trains towards a target, the ratio is the default target.
    """
    known = {option.name for option in find_method(given.method).options}
    found: dict[str, bool | int | float] = {}
    if "target" in known and getattr(given, "ratio", None):
        found["target"] = given.ratio
    return {**found, **dict(map(option_of, given.option))}


def option_of(word: str) -> tuple[str, bool | int | float]:
    """Return (name, value) of an option written as NAME=VALUE; raise `Refusal` if it cannot be read."""
    name, _, value = word.partition("=")
    if value in ("on", "off"):
        return name, value == "on"
    try:
        return name, int(value) if value.lstrip("-").isdigit() else float(value)
    except ValueError:
        raise Refusal(f"Option '{word}' cannot be read; write NAME=on, NAME=off or NAME=number.") from None


# Against a plan ---------------------------------------------------------------------------------------------


def check_against(plan: Plan, named: Mapping[str, Any], where: str = "The plan") -> None:
    """Raise `Refusal` if an option in the command line contradicts the plan.

    `named` holds the options that were given, by the names of their variables.
    """
    for name, (wanted, has) in told_twice(plan, named):
        if wanted != has:
            raise Refusal(
                f"{where} says {has} and --{name.replace('_', '-')} says {wanted}; leave the option out, or "
                "make another plan."
            )


def told_twice(plan: Plan, named: Mapping[str, Any]) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Yield (option, (its value, the plan's value)) for each given option that a plan also decides."""
    read = plan.calibration
    known = {
        "ratio": plan.ratio_requested,
        "method": plan.method,
        "allocation": plan.allocation,
        "recovery": plan.recovery,
        "unit": plan.unit,
        "align": plan.align,
        "count": plan.count,
        "samples": read.samples,
        "length": read.length,
        "seed": plan.seed,
    }
    for name, has in known.items():
        if named.get(name) not in (None, "auto"):
            yield name, (named[name], has)
    if "text" in named:
        yield "text", (real_name(named["text"]), real_name(read.text))
    for word in named.get("option", ()):
        name, value = option_of(word)
        yield "option", (f"{name}={value}", f"{name}={dict(plan.options).get(name)}")
    if named.get("same_width"):
        uneven = len(set(zip(plan.heads, plan.channels, strict=True))) > 1
        yield (
            "same_width",
            ("every layer equally wide", "other widths" if uneven else "every layer equally wide"),
        )


def real_name(text: str) -> str:
    """Return the name of a text, or the absolute path of a file."""
    return str(Path(text).expanduser().resolve()) if Path(text).suffix else text
