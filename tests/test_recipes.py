"""Plans survive the way to JSON and back; everything malformed is refused in one sentence."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimllm import recipes
from slimllm.types import Calibration, Pin, Plan, Refusal

PLAN = Plan(
    model="somewhere",
    family="llama",
    widths=((6, 3, 96), (6, 3, 96)),
    heads=(4, 6),
    channels=(40, 96),
    calibration=Calibration("encyclopedia", 8, 64, 1),
    options=(("greedy", True), ("keep_lowest", False)),
    ratio_requested=0.25,
    ratio_achieved=0.2503,
    align=8,
    protected=(Pin(0, "mlp", 95), Pin(1, "attention", 5)),
    predicted_error=(0.1, 0.0),
    versions=(("torch", "2.13.0"),),
)


def changed(**changes: Any) -> str:
    return json.dumps({**recipes.plan_to_dict(PLAN), **changes})


def test_there_and_back(tmp_path: Path) -> None:
    assert recipes.plan_from_text(recipes.plan_text(PLAN)) == PLAN
    recipes.save_plan(PLAN, tmp_path / "deep" / "plan.json")
    assert recipes.read_plan(tmp_path / "deep" / "plan.json") == PLAN


def test_the_contracts_keys_are_in_it() -> None:
    keys = {
        "ratio_requested",
        "ratio_achieved",
        "heads",
        "channels",
        "predicted_error",
        "model",
        "calibration",
    }
    assert keys <= set(recipes.plan_to_dict(PLAN))


BAD: dict[str, str] = {
    "not json": "{",
    "empty": "",
    "a list": "[]",
    "a number": "3",
    "another format": changed(format=2),
    "nan": changed().replace("0.25,", "NaN,"),
    "negative heads": changed(heads=[-3, 6]),
    "zero heads": changed(heads=[0, 6]),
    "infeasible heads": changed(heads=[5, 6]),
    "too many heads": changed(heads=[8, 6]),
    "negative channels": changed(channels=[-1, 96]),
    "too many channels": changed(channels=[97, 96]),
    "fractional channels": changed(channels=[4.5, 96]),
    "boolean channels": changed(channels=[True, 96]),
    "text in channels": changed(channels=["40", 96]),
    "a missing layer": changed(channels=[40]),
    "one layer too many": changed(heads=[4, 6, 6]),
    "no layers": changed(widths=[], heads=[], channels=[]),
    "odd groups": changed(widths=[[6, 4, 96], [6, 3, 96]]),
    "unknown method": changed(method="hammer"),
    "unknown recovery": changed(recovery="prayer"),
    "unknown allocation": changed(allocation=None),
    "unknown unit": changed(unit="row"),
    "unknown count": changed(count="some"),
    "unknown option": changed(options={"speed": True}),
    "options as list": changed(options=[1]),
    "ratio of 2": changed(ratio_requested=2),
    "ratio as text": changed(ratio_requested="0.2"),
    "alignment 0": changed(align=0),
    "calibration missing": changed(calibration=None),
    "calibration with text samples": changed(
        calibration={"text": "a", "samples": "8", "length": 2, "seed": 0}
    ),
    "pin beyond the layer": changed(protected=[{"layer": 0, "site": "mlp", "index": 96}]),
    "pin of no layer": changed(forced=[{"layer": 9, "site": "mlp", "index": 0}]),
    "pin of no site": changed(forced=[{"layer": 0, "site": "nose", "index": 0}]),
    "pin as number": changed(forced=[7]),
    "seed as text": changed(seed="x"),
    "deep nesting": "[" * 100_000,
}


@pytest.mark.parametrize("case", list(BAD))
def test_bad_input_plan_is_refused_in_one_sentence(case: str) -> None:
    with pytest.raises(Refusal) as caught:
        recipes.plan_from_text(BAD[case], "plan.json")
    assert str(caught.value).startswith("plan.json")
    assert "\n" not in str(caught.value)


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda s: st.lists(s))
)
def test_any_value_in_any_field_is_a_plan_or_a_refusal(value: Any) -> None:
    for key in recipes.plan_to_dict(PLAN):
        with contextlib.suppress(Refusal):
            assert isinstance(recipes.plan_from_text(changed(**{key: value})), Plan)
