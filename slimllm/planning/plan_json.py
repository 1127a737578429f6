"""Plans as JSON: the common format of the command line, the sliders, the history and the model card."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from slimllm.core.attention_unit import UNITS
from slimllm.core.errors import Refusal
from slimllm.core.json_io import WrongPart, parse_dataclass
from slimllm.core.types import MOST_SEED, Pin, Plan
from slimllm.files import atomic_write, file_limits
from slimllm.files.written_files import FACTS
from slimllm.methods.recovery import RECOVERIES
from slimllm.methods.table import METHODS, fill_options
from slimllm.planning.allocation import ALLOCATIONS

PLAN_FORMAT, CHECKSUM = 1, "checksum"
LARGEST_PLAN = file_limits.LARGEST_FILES["plan.json"]
# The limit of a width, an alignment or a number of samples.
MOST_WHOLE = 2**31
SHARES = ("ratio_requested", "ratio_achieved")
CHOICES: dict[str, Iterable[str]] = {
    "method": METHODS,
    "recovery": RECOVERIES,
    "allocation": (*ALLOCATIONS, "hand"),
    "unit": UNITS,
    "count": ("decoder", "all"),
}
# The smallest whole number in a field.
LOWEST = {"widths": 1, "heads": 0, "channels": 0, "align": 1}
# The fields that plans of earlier versions lack.
LATER = ("options", "align", "fingerprints", "same_width")


def plan_to_dict(plan: Plan) -> dict[str, Any]:
    """Return the plan as JSON data, with options and versions as objects.

    Its checksum shows whether a person has changed it since.
    """
    data = dataclasses.asdict(plan)
    data["options"], data["versions"] = dict(plan.options), dict(plan.versions)
    data["fingerprints"] = dict(plan.fingerprints)
    data = {"format": PLAN_FORMAT, **data}
    return {**data, CHECKSUM: plan_checksum(data)}


def plan_checksum(data: Mapping[str, Any]) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of a plan's data without the checksum."""
    rest = {key: value for key, value in data.items() if key != CHECKSUM}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:16]


def is_edited(data: Mapping[str, Any]) -> bool:
    """Return whether a plan's data were changed since this program wrote them.

    Data without a checksum, from earlier versions, count as unchanged.
    """
    return data.get(CHECKSUM, plan_checksum(data)) != plan_checksum(data)


def plan_text(plan: Plan) -> str:
    """Return the plan as the text of a plan.json."""
    return json.dumps(plan_to_dict(plan), indent=1) + "\n"


def check_place(path: Path) -> None:
    """Raise `Refusal` if a path holds something other than a plan, or the plan of an export."""
    path = path.expanduser()
    if not os.path.lexists(path) or (path.exists() and not path.is_file() and not path.is_dir()):
        # Nothing is there, or a device.
        return
    if (path.resolve().parent / FACTS).is_file():
        raise Refusal(f"'{path}' belongs to an export; choose another path for the plan.")
    try:
        read_plan(path)
    except Refusal:
        raise Refusal(f"'{path}' is there and is no plan; choose another path.") from None


def save_plan(plan: Plan, path: Path) -> None:
    """Write a plan completely or not at all; replace nothing but another plan."""
    check_place(path)
    atomic_write.write_text(path, plan_text(plan), f"The plan cannot be written to '{path}'")


def read_plan(path: Path) -> Plan:
    """Return the plan in a file; raise `Refusal` if it is missing or malformed."""
    what, remedy = f"Plan '{path}'", "give the path of a plan.json"
    try:
        return plan_from_text(file_limits.read_text(path, what, remedy, LARGEST_PLAN), str(path))
    except (OSError, UnicodeDecodeError) as failure:
        raise Refusal(f"{what} cannot be read; {remedy}.") from failure


def read_witness(path: Path) -> Plan:
    """Return the plan of an export; raise `Refusal` if it is missing, malformed or changed since."""
    plan = read_plan(path)
    if is_edited(json.loads(path.read_text(encoding="utf-8-sig"))):
        raise Refusal(
            f"'{path}' was changed after the export, so it does not tell any more what was done; put back "
            "what it was, or export the model again."
        )
    return plan


def plan_from_text(text: str, name: str = "The plan") -> Plan:
    """Return the plan in a JSON text; raise `Refusal` with the first fault.

    The achieved ratio and the predicted errors are removed if the text was changed since they were computed.
    """
    try:
        data = json.loads(text, parse_constant=_refuse_constant)
        # This raises a ValueError for lone surrogates.
        json.dumps(data, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as failure:
        raise Refusal(
            f"{name} is not valid JSON ({str(failure)[:100]}); save it again from the program."
        ) from failure
    if not isinstance(data, dict) or data.get("format") != PLAN_FORMAT:
        raise Refusal(
            f"{name} is not a plan of format {PLAN_FORMAT}; make one with the plan command or the Tune page."
        )
    try:
        plan = _checked_plan(data)
        return dataclasses.replace(plan, ratio_achieved=0.0, predicted_error=()) if is_edited(data) else plan
    except PlanFault as fault:
        raise Refusal(f"{name} {fault}; make it again with the plan command or the Tune page.") from None


class PlanFault(Exception):
    """A fault in a plan; its message completes a sentence."""


def _refuse_constant(constant: str) -> float:
    """Raise `ValueError` for a constant such as NaN."""
    raise ValueError(f"the number {constant}")


def _checked_plan(data: Mapping[str, Any]) -> Plan:
    """Return the plan in JSON data; raise `PlanFault` if a field is wrong or fields contradict each other."""
    for key, known in CHOICES.items():
        if data.get(key) not in tuple(known):
            raise PlanFault(f"has '{key}' {data.get(key)!r}, which is none of: {', '.join(known)}")
    plan = _read_fields(data)
    calibration, layers = plan.calibration, len(plan.widths)
    _check_whole("calibration", (calibration.samples, calibration.length))
    _check_whole("align", (plan.align,))
    if not layers:
        raise PlanFault("has no layers")
    for row in plan.widths:
        _check_whole("widths", row)
    for key, kept in (("heads", plan.heads), ("channels", plan.channels)):
        if len(kept) != layers:
            raise PlanFault(f"has not {layers} numbers in '{key}'")
        _check_whole(key, kept)
    for i, widths in enumerate(zip(plan.heads, plan.channels, strict=True)):
        _check_layer(i, plan.widths[i], widths, plan.unit)
    if not any(plan.heads):
        raise PlanFault("drops every layer")
    if UNITS[plan.unit].narrows_heads != METHODS[plan.method].narrows_heads:
        raise PlanFault(f"cuts {plan.unit} units, which method {plan.method} does not")
    for key in SHARES:
        if not -1 <= getattr(plan, key) < 1:
            raise PlanFault(f"has '{key}' {getattr(plan, key)!r}, which is no share below 1")
    if not all(abs(error) < MOST_SEED for error in plan.predicted_error):
        raise PlanFault("has in 'predicted_error' what is no number")
    _check_pins("protected", plan.protected, plan.widths)
    _check_pins("forced", plan.forced, plan.widths)
    # Plans of earlier versions lack the field, but their widths show it.
    if "same_width" not in data:
        alike = len(set(zip(plan.heads, plan.channels, strict=True))) == 1
        return dataclasses.replace(plan, same_width=plan.ratio_requested > 0 and alike)
    return plan


def _read_fields(data: Mapping[str, Any]) -> Plan:
    """Return the plan with fields of the types that `Plan` declares; unknown fields are ignored."""
    fields = {field.name: data[field.name] for field in dataclasses.fields(Plan) if field.name in data}
    for field in dataclasses.fields(Plan):
        if field.name not in fields and field.name not in LATER:
            raise PlanFault(f"has no proper '{field.name}'")
    # A seed may be larger than any other number.
    seed = fields.pop("seed")
    if type(seed) is not int:
        raise PlanFault("has no proper 'seed'")
    if abs(seed) >= MOST_SEED:
        raise PlanFault(f"has seed {seed!r:.80}, which is too large")
    # Objects in the file are sorted pairs in a `Plan`.
    try:
        fields["options"] = sorted(fill_options(data["method"], _object_in(data, "options")).items())
    except Refusal as refusal:
        raise PlanFault(f"has a wrong option: {refusal}") from None
    for key in ("versions", "fingerprints"):
        fields[key] = sorted((str(name), str(value)) for name, value in _object_in(data, key).items())
    try:
        return dataclasses.replace(parse_dataclass(Plan, fields), seed=seed)
    except WrongPart as wrong:
        raise _fault_of(wrong) from None


def _fault_of(wrong: WrongPart) -> PlanFault:
    """Return the fault of a plan with a part of the wrong type."""
    key, *inside = wrong.place
    if key in SHARES:
        return PlanFault(f"has '{key}' {wrong.value!r:.80}, which is no share below 1")
    if not inside and key != "align":
        return PlanFault(f"has no proper '{key}'")
    if key in LOWEST and not isinstance(wrong.value, list | dict):
        return _number_fault(str(key), wrong.value)
    name = f"'{inside[-1]}' " if inside and isinstance(inside[-1], str) else ""
    return PlanFault(f"has {name}{wrong.value!r:.80} in '{key}'")


def _number_fault(key: str, value: Any) -> PlanFault:
    """Return the fault of a plan with a number that is not a whole one or is too small."""
    low = LOWEST.get(key, 1)
    return PlanFault(f"has {value!r:.80} in '{key}', where a whole number of at least {low} belongs")


def _object_in(data: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return an object inside the plan's data, or an empty one if it is missing."""
    found = data.get(key, {})
    if not isinstance(found, dict):
        raise PlanFault(f"has {key} that are not an object")
    return found


def _check_whole(key: str, values: Sequence[int]) -> None:
    """Raise `PlanFault` for a whole number that is too small or too large."""
    for value in values:
        if not LOWEST.get(key, 1) <= value < MOST_WHOLE:
            raise _number_fault(key, value)


def _check_layer(index: int, dense: tuple[int, ...], kept: tuple[int, int], unit: str) -> None:
    """Raise `PlanFault` if a layer cannot have these widths.

    What depends on the head size is checked against the model.
    """
    (heads, groups, most), (width, channels) = dense, kept
    if heads % groups:
        raise PlanFault(f"says that layer {index} has {heads} heads in {groups} groups, which do not divide")
    if channels > most:
        raise PlanFault(f"keeps {channels} channels in layer {index}, which has only {most}")
    if bool(width) != bool(channels):
        raise PlanFault(f"keeps nothing of one part of layer {index}; a layer is kept or dropped as a whole")
    step = UNITS[unit].step_size(heads, groups)
    if not UNITS[unit].narrows_heads and (width > heads or width % step):
        raise PlanFault(
            f"keeps {width} heads in layer {index}, which must be a multiple of {step} up to {heads}"
        )


def _check_pins(key: str, pins: Sequence[Pin], widths: Sequence[tuple[int, int, int]]) -> None:
    """Raise `PlanFault` for a pin on a unit that the model does not have."""
    for pin in pins:
        known = 0 <= pin.layer < len(widths) and pin.count >= 1
        most = widths[pin.layer][0 if pin.site == "attention" else 2] if known else 0
        if not known or not 0 <= pin.index <= most - pin.count:
            raise PlanFault(f"has {dataclasses.asdict(pin)!r} in '{key}'")
