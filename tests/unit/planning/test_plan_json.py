"""Plans survive the way to JSON and back; everything malformed is refused in one sentence."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from slimllm.core.errors import Refusal
from slimllm.core.types import Calibration, Pin, Plan
from slimllm.planning import plan_json

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
    return json.dumps({**plan_json.plan_to_dict(PLAN), **changes})


def test_there_and_back(tmp_path: Path) -> None:
    assert plan_json.plan_from_text(plan_json.plan_text(PLAN)) == PLAN
    plan_json.save_plan(PLAN, tmp_path / "deep" / "plan.json")
    assert plan_json.read_plan(tmp_path / "deep" / "plan.json") == PLAN


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
    assert keys <= set(plan_json.plan_to_dict(PLAN))


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda s: st.lists(s))
)
@settings(deadline=None)  # the first plan that is read waits for pydantic
def test_any_value_in_any_field_is_a_plan_or_a_refusal(value: Any) -> None:
    for key in plan_json.plan_to_dict(PLAN):
        with contextlib.suppress(Refusal):
            assert isinstance(plan_json.plan_from_text(changed(**{key: value})), Plan)
