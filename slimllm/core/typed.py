"""Dataclasses out of JSON, every field of the type that it declares."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

DataKind = TypeVar("DataKind")
LARGEST_NUMBER = 2**53  # of a whole number in a file; products of a few of those are still floats


def parse_dataclass(kind: type[DataKind], data: Any) -> DataKind:
    """The dataclass in JSON data; a `ValueError` where a field is missing, unknown or of another type."""
    hints = get_type_hints(kind)
    if not isinstance(data, Mapping) or not data.keys() <= hints.keys():
        raise ValueError(f"no {kind.__name__}")
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        needed = field.default is field.default_factory  # both are missing
        if field.name not in data and needed:
            raise ValueError(f"no {field.name}")
    return kind(**{name: value_of(hints[name], value, name) for name, value in data.items()})


def value_of(kind: Any, value: Any, name: str) -> Any:
    """The value, lists as tuples and objects as dataclasses; whole numbers are numbers, booleans are not."""
    origin = get_origin(kind)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return parse_dataclass(kind, value)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(value_of(get_args(kind)[0], inner, name) for inner in value)
    if origin is Literal and value in get_args(kind):
        return value
    if origin is types.UnionType and value is None and type(None) in get_args(kind):
        return None
    if origin is types.UnionType:
        return value_of(next(inner for inner in get_args(kind) if inner is not type(None)), value, name)
    if origin is Mapping and isinstance(value, dict):
        return {key: value_of(get_args(kind)[1], inner, name) for key, inner in value.items()}
    small = type(value) is not int or abs(value) < LARGEST_NUMBER
    if kind is float and type(value) is int and small:
        return float(value)
    if kind is Any or (type(value) is kind and small):
        return value
    raise ValueError(f"'{name}' is {value!r:.80}")
