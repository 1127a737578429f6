"""Dataclasses out of JSON, every field of the type that it declares; and anything as strict JSON."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from pydantic_core import SchemaValidator

DataKind = TypeVar("DataKind")
LARGEST_NUMBER = 2**53  # of a whole number in a file; products of a few of those are still floats
DEEPEST_DATA = 64  # lists and objects within each other
MOST_KEYS = 1000  # of an object; the largest in use has fewer than a hundred


class WrongPart(ValueError):
    """A part of JSON data that does not belong there: its place, as keys and indices, and its value."""

    def __init__(self, place: tuple[str | int, ...], value: Any):
        super().__init__(f"'{'.'.join(map(str, place))}' is {value!r:.80}")
        self.place, self.value = place, value


# Reading ----------------------------------------------------------------------------------------------------


def parse_dataclass(kind: type[DataKind], data: Any, *, finite: bool = True) -> DataKind:
    """Read a dataclass from JSON data: lists as tuples, objects as dataclasses, whole numbers also as floats.

    Numbers that JSON lacks (NaN, infinities) are taken only where they need not be `finite`. Raises a
    `WrongPart` where a field is missing, unknown or of another type, or a number is too large.
    """
    from pydantic import ValidationError

    check_numbers(data, finite)
    try:
        validator = validator_of(kind)  # type: ignore[arg-type]  # mypy takes no class for hashable
        return validator.validate_json(json.dumps(data), strict=True, extra="forbid")
    except ValidationError as failure:
        first = failure.errors(include_url=False, include_context=False)[0]
        raise WrongPart(first["loc"], first["input"]) from None


@functools.cache
def validator_of(kind: type[Any]) -> SchemaValidator:
    """Make the validator of a dataclass, once."""
    # pydantic takes 50 ms to be imported, which commands that read no such data do not wait for.
    from pydantic import TypeAdapter
    from pydantic_core import SchemaValidator

    return SchemaValidator(stop_at_first(TypeAdapter(kind).core_schema))


def stop_at_first(schema: Any) -> Any:
    """Make a core schema end lists and mappings at their first fault. Else five megabytes of wrong numbers
    become a gigabyte of error messages."""
    if isinstance(schema, list):
        return [stop_at_first(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: stop_at_first(value) for key, value in schema.items()}
    return {**inner, "fail_fast": True} if schema.get("type") in ("tuple", "dict") else inner


def check_numbers(data: Any, finite: bool, place: tuple[str | int, ...] = ()) -> None:
    """Raise a `WrongPart` for a number that is too large or not finite, and for data that is nested too
    deeply or whose objects have too many keys."""
    if len(place) > DEEPEST_DATA or (isinstance(data, dict) and len(data) > MOST_KEYS):
        raise WrongPart(place, data)
    inner = (
        data.items() if isinstance(data, dict) else enumerate(data if isinstance(data, list | tuple) else ())
    )
    for key, value in inner:
        if isinstance(value, dict | list | tuple):
            check_numbers(value, finite, (*place, key))
        elif not is_storable(value, finite):
            raise WrongPart((*place, key), value)


def is_storable(value: Any, finite: bool) -> bool:
    """Whether a value is no number, or one that a file may hold."""
    if isinstance(value, float):
        return not finite or math.isfinite(value)
    return not isinstance(value, int) or abs(value) < LARGEST_NUMBER


# Writing ----------------------------------------------------------------------------------------------------


def to_plain_json(value: Any) -> Any:
    """Turn a value into strict JSON: dataclasses into objects, numbers that JSON lacks into text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, dict):
        return {str(key): to_plain_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain_json(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return str(value) if isinstance(value, Path) else value
