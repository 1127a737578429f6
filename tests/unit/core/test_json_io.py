"""Claims about JSON: dataclasses come back as they were; what is of another kind is refused by its place."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
import tracemalloc
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from slimllm.core.json_io import MOST_KEYS, WrongPart, parse_dataclass, to_plain_json


@dataclass(frozen=True)
class Inner:
    """A part of the whole."""

    share: float
    kind: Literal["one", "two"] = "one"


@dataclass(frozen=True)
class Whole:
    """Every kind of field that stored dataclasses have."""

    name: str
    count: int
    parts: tuple[Inner, ...]
    pairs: tuple[tuple[int, int, int], ...] = ()
    shares: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    some: float | None = None
    sure: bool = False
    anything: Mapping[str, Any] = field(default_factory=dict)


WHOLE = Whole(
    "é",
    2**53 - 1,
    (Inner(0.1), Inner(2.0, "two")),
    ((1, 2, 3),),
    {"a": {"b": 1e-300}},
    -0.5,
    True,
    {"x": [1, None, {"y": "z"}]},
)
DATA = json.loads(json.dumps(dataclasses.asdict(WHOLE)))


def test_there_and_back() -> None:
    assert parse_dataclass(Whole, DATA) == WHOLE
    assert parse_dataclass(Whole, {"name": "", "count": 0, "parts": []}) == Whole("", 0, ())
    found = parse_dataclass(Inner, {"share": 3})
    assert type(found.share) is float


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"name": 3}, ("name",)),
        ({"name": None}, ("name",)),
        ({"count": 2.0}, ("count",)),
        ({"count": True}, ("count",)),
        ({"count": "2"}, ("count",)),
        ({"count": 2**53}, ("count",)),
        ({"count": -(2**53)}, ("count",)),
        ({"some": 10**400}, ("some",)),
        ({"some": True}, ("some",)),
        ({"some": "0.5"}, ("some",)),
        ({"some": math.nan}, ("some",)),
        ({"some": math.inf}, ("some",)),
        ({"sure": 1}, ("sure",)),
        ({"parts": {}}, ("parts",)),
        ({"parts": [{"share": 0.1}, {}]}, ("parts", 1, "share")),
        ({"parts": [{"share": 0.1, "more": 1}]}, ("parts", 0, "more")),
        ({"parts": [{"share": 0.1, "kind": "three"}]}, ("parts", 0, "kind")),
        ({"parts": [0.1]}, ("parts", 0)),
        ({"pairs": [[1, 2]]}, ("pairs", 0, 2)),
        ({"shares": {"a": {"b": None}}}, ("shares", "a", "b")),
        ({"anything": {"x": [1, 2**60]}}, ("anything", "x", 1)),
        ({"anything": {"x": {"y": -math.inf}}}, ("anything", "x", "y")),
        ({"unknown": 1}, ("unknown",)),
    ],
)
def test_what_is_of_another_kind_is_refused_with_its_place(changes: Any, place: tuple[Any, ...]) -> None:
    with pytest.raises(WrongPart) as caught:
        parse_dataclass(Whole, {**DATA, **changes})
    assert caught.value.place == place
    assert ".".join(map(str, place)) in str(caught.value)


@pytest.mark.parametrize("data", [None, 7, "x", [], {}, {str(i): 0 for i in range(MOST_KEYS + 1)}])
def test_what_is_no_such_object_is_refused(data: Any) -> None:
    with pytest.raises(WrongPart):
        parse_dataclass(Whole, data)


def test_figures_of_ruined_models_are_taken_where_they_are_asked_for() -> None:
    found = parse_dataclass(Whole, {**DATA, "some": math.inf, "parts": [{"share": math.nan}]}, finite=False)
    assert found.some == math.inf
    assert math.isnan(found.parts[0].share)


def test_many_faults_cost_no_more_than_one() -> None:
    """Collected, a fault takes a kilobyte: a gigabyte for a plan of five megabytes."""
    wrong = [""] * 200_000
    tracemalloc.start()
    try:
        with pytest.raises(WrongPart) as caught:
            parse_dataclass(Whole, {**DATA, "pairs": [wrong] * 2, "parts": wrong})
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
    assert caught.value.place == ("parts", 0)


def test_data_without_end_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(500):
        deep = [deep]
    with pytest.raises(WrongPart):
        parse_dataclass(Whole, {**DATA, "anything": {"x": deep}})


def test_pydantic_is_imported_where_something_is_read() -> None:
    code = "import sys, slimllm.planning.plan_json; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3]).returncode == 0


def test_strict_json_has_text_for_numbers_that_json_lacks() -> None:
    found = to_plain_json({"whole": WHOLE, 1: (math.nan, math.inf), "at": Path("a/b")})
    assert found == {"whole": DATA, "1": ["nan", "inf"], "at": "a/b"}
    json.dumps(found, allow_nan=False)
