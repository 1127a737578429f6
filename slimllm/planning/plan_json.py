"""Plans as JSON: the one recipe that the command line, the faders, the history and the model card share."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from slimllm.core.errors import Refusal
from slimllm.core.shapes import SITES, Unit
from slimllm.core.typed import parse_dataclass
from slimllm.core.types import MOST_SEED, Calibration, Pin, Plan, check_seed
from slimllm.files import atomic_write, file_limits
from slimllm.files.written_files import FACTS
from slimllm.methods.recovery import RECOVERIES
from slimllm.methods.table import METHODS, fill_options
from slimllm.planning.allocation import ALLOCATIONS

PLAN_FORMAT, CHECKSUM = 1, "checksum"
LARGEST_PLAN = file_limits.LARGEST_FILES["plan.json"]
PlanKind = TypeVar("PlanKind")


def plan_to_dict(plan: Plan) -> dict[str, Any]:
    """The plan as JSON-able data; options and versions become objects. By its checksum it is known whether a
    person has changed it since."""
    data = dataclasses.asdict(plan)
    data["options"], data["versions"] = dict(plan.options), dict(plan.versions)
    data["fingerprints"] = dict(plan.fingerprints)
    data = {"format": PLAN_FORMAT, **data}
    return {**data, CHECKSUM: plan_checksum(data)}


def plan_checksum(data: Mapping[str, Any]) -> str:
    """A short SHA-256 of all else that a plan's data say."""
    rest = {key: value for key, value in data.items() if key != CHECKSUM}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:16]


def is_edited(data: Mapping[str, Any]) -> bool:
    """Whether a plan's data were changed since this program wrote them; those of versions that wrote no
    checksum are not known to be."""
    return data.get(CHECKSUM, plan_checksum(data)) != plan_checksum(data)


def plan_text(plan: Plan) -> str:
    """The plan as the text of a plan.json."""
    return json.dumps(plan_to_dict(plan), indent=1) + "\n"


def check_place(path: Path) -> None:
    """Refuses a path where something else than a plan is, or a plan that an export was made by."""
    path = path.expanduser()
    if not os.path.lexists(path) or (path.exists() and not path.is_file() and not path.is_dir()):
        return  # nothing, or a device
    if (path.resolve().parent / FACTS).is_file():
        raise Refusal(f"'{path}' belongs to an export; choose another path for the plan.")
    try:
        read_plan(path)
    except Refusal:
        raise Refusal(f"'{path}' is there and is no plan; choose another path.") from None


def save_plan(plan: Plan, path: Path) -> None:
    """Writes a plan, whole or not at all; over nothing but another plan."""
    check_place(path)
    atomic_write.write_text(path, plan_text(plan), f"The plan cannot be written to '{path}'")


def read_plan(path: Path) -> Plan:
    """The plan in a file; a `Refusal` where it is missing or malformed."""
    what, remedy = f"Plan '{path}'", "give the path of a plan.json"
    try:
        return plan_from_text(file_limits.read_text(path, what, remedy, LARGEST_PLAN), str(path))
    except (OSError, UnicodeDecodeError) as failure:
        raise Refusal(f"{what} cannot be read; {remedy}.") from failure


def read_witness(path: Path) -> Plan:
    """The plan that an export was made by; a `Refusal` where it is not as it was written, too."""
    plan = read_plan(path)
    if is_edited(json.loads(path.read_text(encoding="utf-8-sig"))):
        raise Refusal(
            f"'{path}' was changed after the export, so it does not tell any more what was done; put back "
            "what it was, or export the model again."
        )
    return plan


def plan_from_text(text: str, name: str = "The plan") -> Plan:
    """The plan in a JSON text, every field checked; a `Refusal` that names the first fault. Figures that
    follow from the rest are left out where the text was changed since they were computed."""
    try:
        data = json.loads(text, parse_constant=_refuse_constant)
        json.dumps(data, ensure_ascii=False).encode()  # a ValueError for halves of letters
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
    """What is wrong with a plan, to be completed to a sentence."""


def _word_pairs(data: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((str(key), str(value)) for key, value in data.items()))


def _refuse_constant(constant: str) -> float:
    raise ValueError(f"the number {constant}")


def _checked_plan(data: Mapping[str, Any]) -> Plan:
    calibration = _plan_part(Calibration, data.get("calibration"), "calibration")
    _integer_list([calibration.samples, calibration.length], 2, "calibration", low=1)
    _seed_value(calibration.seed)
    widths = tuple(_integer_list(row, 3, "widths", low=1) for row in _list_value(data, "widths"))
    if not widths:
        raise PlanFault("has no layers")
    heads = _integer_list(_list_value(data, "heads"), len(widths), "heads", low=0)
    channels = _integer_list(_list_value(data, "channels"), len(widths), "channels", low=0)
    unit = _one_of(data, "unit", get_args(Unit))
    for i, kept in enumerate(zip(heads, channels, strict=True)):
        _check_layer(i, widths[i], kept, unit)
    if not any(heads):
        raise PlanFault("drops every layer")
    method = _one_of(data, "method", METHODS)
    if (unit == "value-column") != ("value-column" in METHODS[method].units):
        raise PlanFault(f"cuts {unit} units, which method {method} does not")
    options = data.get("options", {})
    if not isinstance(options, dict):
        raise PlanFault("has options that are not an object")
    try:
        options = fill_options(method, options)
    except Refusal as refusal:
        raise PlanFault(f"has a wrong option: {refusal}") from None
    return Plan(
        model=_typed_value(data, "model", str),
        family=_typed_value(data, "family", str),
        widths=widths,  # type: ignore[arg-type]
        heads=heads,
        channels=channels,
        calibration=calibration,
        method=method,
        options=tuple(sorted(options.items())),
        recovery=_one_of(data, "recovery", RECOVERIES),
        allocation=_one_of(data, "allocation", (*ALLOCATIONS, "hand")),
        unit=unit,  # type: ignore[arg-type]
        ratio_requested=_share_value(data, "ratio_requested"),
        ratio_achieved=_share_value(data, "ratio_achieved"),
        count=_one_of(data, "count", ("decoder", "all")),  # type: ignore[arg-type]
        align=_integer_list([data.get("align", 1)], 1, "align", low=1)[0],
        protected=_pin_list(data, "protected", widths),
        forced=_pin_list(data, "forced", widths),
        predicted_error=_number_list(data, "predicted_error"),
        seed=_seed_value(_typed_value(data, "seed", int)),
        versions=_word_pairs(_typed_value(data, "versions", dict)),
        fingerprints=_word_pairs(_typed_value({"fingerprints": {}, **data}, "fingerprints", dict)),
    )


def _check_layer(index: int, dense: tuple[int, ...], kept: tuple[int, int], unit: str) -> None:
    """Raises a `Fault` where a layer cannot be this wide; what depends on the head size is checked beside the
    model."""
    (heads, groups, most), (width, channels) = dense, kept
    if heads % groups:
        raise PlanFault(f"says that layer {index} has {heads} heads in {groups} groups, which do not divide")
    if channels > most:
        raise PlanFault(f"keeps {channels} channels in layer {index}, which has only {most}")
    if bool(width) != bool(channels):
        raise PlanFault(f"keeps nothing of one part of layer {index}; a layer is kept or dropped as a whole")
    step = heads // groups if unit == "kv-group" else groups
    if unit != "value-column" and (width > heads or width % step):
        raise PlanFault(
            f"keeps {width} heads in layer {index}, which must be a multiple of {step} up to {heads}"
        )


def _typed_value(data: Mapping[str, Any], key: str, kind: type) -> Any:
    if not isinstance(data.get(key), kind) or isinstance(data.get(key), bool):
        raise PlanFault(f"has no proper '{key}'")
    return data[key]


def _plan_part(kind: type[PlanKind], inner: Any, key: str) -> PlanKind:
    """A dataclass inside of the plan."""
    try:
        return parse_dataclass(kind, inner)
    except ValueError:
        raise PlanFault(f"has {inner!r:.80} in '{key}'") from None


def _seed_value(seed: int) -> int:
    try:
        return check_seed(seed)
    except Refusal:
        raise PlanFault(f"has seed {seed!r:.80}, which is too large") from None


def _number_list(data: Mapping[str, Any], key: str) -> tuple[float, ...]:
    """Numbers that JSON can hold."""
    found = _list_value(data, key)
    if not all(type(x) in (int, float) and -MOST_SEED < x < MOST_SEED for x in found):
        raise PlanFault(f"has in '{key}' what is no number")
    return tuple(map(float, found))


def _list_value(data: Mapping[str, Any], key: str) -> list[Any]:
    return _typed_value(data, key, list)


def _integer_list(values: Any, length: int, key: str, *, low: int) -> tuple[int, ...]:
    if not isinstance(values, list) or len(values) != length:
        raise PlanFault(f"has not {length} numbers in '{key}'")
    for value in values:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value < 2**31:
            raise PlanFault(f"has {value!r} in '{key}', where a whole number of at least {low} belongs")
    return tuple(values)


def _one_of(data: Mapping[str, Any], key: str, known: Any) -> str:
    if not isinstance(data.get(key), str) or data[key] not in known:
        raise PlanFault(f"has '{key}' {data.get(key)!r}, which is none of: {', '.join(known)}")
    return data[key]


def _share_value(data: Mapping[str, Any], key: str) -> float:
    value = data.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not -1 <= value < 1:
        raise PlanFault(f"has '{key}' {value!r}, which is no share below 1")
    return float(value)


def _pin_list(data: Mapping[str, Any], key: str, widths: tuple[tuple[int, ...], ...]) -> tuple[Pin, ...]:
    pins = []
    for row in _list_value(data, key):
        pin = _plan_part(Pin, row, key)
        if pin.site not in SITES or not 0 <= pin.layer < len(widths) or pin.count < 1:
            raise PlanFault(f"has {row!r} in '{key}'")
        most = widths[pin.layer][0 if pin.site == "attention" else 2]
        if not 0 <= pin.index <= most - pin.count:
            raise PlanFault(f"has {row!r} in '{key}'")
        pins.append(pin)
    return tuple(pins)
