"""Strictly typed reading of dataclasses from JSON, and conversion of values to strict JSON."""

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
# The limit of whole numbers in a file. Products of a few such numbers still fit into a float.
LARGEST_NUMBER = 2**53
# The most lists and objects inside each other.
DEEPEST_DATA = 64
# The most keys of an object; the largest object in use has fewer than a hundred.
MOST_KEYS = 1000


class WrongPart(ValueError):
    """A part of JSON data that does not fit its declared type.

    `place` is its path of keys and indices, `value` its value.
    """

    def __init__(self, place: tuple[str | int, ...], value: Any):
        super().__init__(f"'{'.'.join(map(str, place))}' is {value!r:.80}")
        self.place, self.value = place, value


# Reading ----------------------------------------------------------------------------------------------------


def parse_dataclass(kind: type[DataKind], data: Any, *, finite: bool = True) -> DataKind:
    """Return a dataclass read from JSON data.

    Lists become tuples, objects become dataclasses, and whole numbers are accepted for floats. NaN and
    infinities are accepted only if `finite` is false. Raise `WrongPart` if a field is missing, unknown or of
    another type, if a number is too large, or if the data is nested too deeply.
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
    """Return the validator of a dataclass, built once per class."""
    # Importing pydantic takes 50 ms; commands that read no such data should not wait for it.
    from pydantic import TypeAdapter
    from pydantic_core import SchemaValidator

    return SchemaValidator(stop_at_first(TypeAdapter(kind).core_schema))


def stop_at_first(schema: Any) -> Any:
    """Return a core schema whose lists and mappings stop at their first fault.

    Otherwise five megabytes of wrong numbers produce a gigabyte of error messages.
    """
    if isinstance(schema, list):
        return [stop_at_first(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: stop_at_first(value) for key, value in schema.items()}
    return {**inner, "fail_fast": True} if schema.get("type") in ("tuple", "dict") else inner


def check_numbers(data: Any, finite: bool, place: tuple[str | int, ...] = ()) -> None:
    """Raise `WrongPart` if data holds a number that is too large, or a non-finite one where `finite` is true.

    Also raise it if the data is nested too deeply or an object has too many keys.
    """
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
    """Return whether a value is not a number, or is a number that a file may hold."""
    if isinstance(value, float):
        return not finite or math.isfinite(value)
    return not isinstance(value, int) or abs(value) < LARGEST_NUMBER


# Writing ----------------------------------------------------------------------------------------------------


def to_plain_json(value: Any) -> Any:
    """Return a value as strict JSON: dataclasses as objects, NaN and infinities as strings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, dict):
        return {str(key): to_plain_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain_json(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return str(value) if isinstance(value, Path) else value
