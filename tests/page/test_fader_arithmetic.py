"""The browser's arithmetic of the fader bank against Python's own: forecasts, errors, feasible widths."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slimllm.core.shapes import SITES, SiteName
from slimllm.core.types import Analysis, Pin, Plan
from slimllm.planning.budget import Bounds, bounds_of
from slimllm.planning.forecast import forecast_plan
from slimllm.planning.plan_making import make_plan
from slimllm.planning.rules import PlanRules
from tests.support.made_up_analyses import synthetic_analysis
from tests.support.serving import columns_analysis, without_layers
from ui.page import faders

NODE = shutil.which("node") or ""
TABLE = Path(__file__).with_name("fader_table.mjs")
CLOSE = 1e-6  # relative; what is told to the browser is rounded for the screen, here it is not

NAMES = (
    "kv groups",
    "query heads, biases",
    "pins",
    "dropped layers",
    "sampled curves",
    "one head per group",
    "value columns",
)

pytestmark = pytest.mark.skipif(not NODE, reason="there is no node")


def plan_of(analysis: Analysis, ratio: float, **rules: Any) -> Plan:
    return make_plan(analysis, PlanRules(ratio, **rules))


def plans_to_compare() -> dict[str, tuple[Analysis, Plan]]:
    """Analyses and plans that differ in all that the arithmetic asks for."""
    grouped = synthetic_analysis(layers=5, heads=8, groups=4, head_size=8, channels=100)
    starter = synthetic_analysis(seed=1)
    alone = synthetic_analysis(layers=3, heads=4, groups=4, head_size=16, channels=4000, seed=2)
    biased = [
        dataclasses.replace(layer, attention_bias=i < 2, mlp_bias=i > 2)
        for i, layer in enumerate(grouped.shape.layers)
    ]
    biased_shape = dataclasses.replace(grouped.shape, layers=tuple(biased))
    mixed = dataclasses.replace(grouped, shape=biased_shape, bytes_per_parameter=4)
    pins = {
        "protected": (Pin(1, "attention", 0), Pin(1, "attention", 7), Pin(1, "mlp", 4, 20)),
        "forced": (Pin(2, "mlp", 3, 30), Pin(3, "attention", 0, 8), Pin(3, "mlp", 0, 100)),
    }
    return {
        "kv groups": (grouped, plan_of(grouped, 0.2, unit="kv-group")),
        "query heads, biases": (mixed, plan_of(mixed, 0.02, unit="query-head", count="all", align=1)),
        "pins": (grouped, plan_of(grouped, 0.3, unit="kv-group", align=16, **pins)),
        "dropped layers": (starter, without_layers(plan_of(starter, 0.4, recovery="none"), 3, 4)),
        "sampled curves": (starter, plan_of(starter, 0.2, align=1, recovery="least-squares")),
        "one head per group": (alone, plan_of(alone, 0.5, align=32, recovery="bias")),
        "value columns": (
            columns_analysis(),
            without_layers(plan_of(columns_analysis(), 0.3, recovery="regression", align=1), 2),
        ),
    }


def bounds_in(analysis: Analysis, plan: Plan) -> list[Bounds]:
    return [
        bounds_of(layer, i, plan.unit, plan.align, plan.protected, plan.forced)
        for i, layer in enumerate(analysis.shape.layers)
    ]


def feasible_widths(bounds: Bounds, site: SiteName) -> list[int]:
    """All widths that a fader can stand at, from the smallest on."""
    if site == "attention":
        return sorted(bounds.heads)
    steps = range(-(-bounds.low // bounds.align) * bounds.align, bounds.high, bounds.align)
    return sorted({bounds.low, bounds.high, *steps})


def other_widths(plan: Plan, bank: dict[str, Any], chance: random.Random) -> Plan:
    """The same plan at other widths whose errors the bank tells, now and then with a layer dropped."""
    heads = [chance.choice(layer["heads"]) for layer in bank["layers"]]
    channels = [chance.choice(bank["grids"][layer["grid"]]) for layer in bank["layers"]]
    moved = dataclasses.replace(plan, heads=tuple(heads), channels=tuple(channels))
    return without_layers(moved, *(i for i in range(len(heads)) if chance.random() < 0.1))


def told_exactly(bank: dict[str, Any], layer: int, channels: int) -> bool:
    """Whether the bank tells the error at this width, not only around it."""
    return not channels or channels in bank["grids"][bank["layers"][layer]["grid"]]


@dataclasses.dataclass(frozen=True)
class Case:
    """One bank, what is asked about it, and what the browser's arithmetic answered."""

    analysis: Analysis
    plans: list[Plan]
    asked: dict[str, Any]
    told: dict[str, Any]

    @property
    def bank(self) -> dict[str, Any]:
        return self.asked["bank"]

    @property
    def bounds(self) -> list[Bounds]:
        return bounds_in(self.analysis, self.plans[0])


def questions(analysis: Analysis, plan: Plan, chance: random.Random) -> tuple[list[Plan], dict[str, Any]]:
    """Plans at several widths, and all that is asked about one bank."""
    bank = faders.bank_facts(analysis, plan)
    plans = [other_widths(plan, bank, chance) for _ in range(8)]
    if all(told_exactly(bank, i, channels) for i, channels in enumerate(plan.channels)):
        plans.append(plan)
    faded = [(site, i) for site in SITES for i in range(len(bank["layers"]))]
    widths = {
        (site, i): feasible_widths(b, site) for site in SITES for i, b in enumerate(bounds_in(analysis, plan))
    }
    wishes = [
        (site, i, part * bank["layers"][i]["dense"][SITES.index(site)])
        for site, i in faded
        for part in (-0.1, 0, 1 / 3, 0.5, 1, 1.1, *(chance.random() for _ in range(8)))
    ]
    steps = [
        (site, i, chance.choice(widths[site, i]), by) for site, i in faded for by in (1, -1, 10, -10, 1, -1)
    ]
    between = [
        (i, chance.randint(max(1, layer["low"]), max(1, layer["high"])))
        for i, layer in enumerate(bank["layers"])
        if layer["high"]
        for _ in range(8)
    ]
    told = [{"heads": each.heads, "channels": each.channels} for each in plans]
    return plans, {"bank": bank, "plans": told, "between": between, "wishes": wishes, "steps": steps}


@pytest.fixture(scope="module")
def cases() -> dict[str, Case]:
    """Every case with its answer, of one run of node."""
    chance = random.Random(0)
    chosen = plans_to_compare()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faders, "round_four", list)
        patch.setattr(faders, "round_six", float)
        asked = {name: questions(*pair, chance) for name, pair in chosen.items()}
    given = json.dumps([question for _, question in asked.values()])
    answer = subprocess.run([NODE, str(TABLE)], input=given, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 0, answer.stderr
    told = dict(zip(asked, json.loads(answer.stdout), strict=True))
    return {name: Case(chosen[name][0], *asked[name], told[name]) for name in asked}


@pytest.mark.parametrize("name", NAMES)
def test_forecasts_are_those_of_python(cases: dict[str, Case], name: str) -> None:
    case = cases[name]
    for plan, told in zip(case.plans, case.told["plans"], strict=True):
        view = forecast_plan(case.analysis, plan)
        assert told["whole"] == pytest.approx(
            {
                "parameters": view.parameters,
                "ratio": view.ratio,
                "bytes": view.bytes,
                "kv": view.kv_bytes_per_token,
                "flops": view.flops_per_token,
                "error": view.total_error,
            },
            rel=CLOSE,
            abs=1e-12,
        )
        assert told["whole"]["parameters"] == view.parameters
        for key, errors in (
            ("attention", view.attention_error),
            ("mlp", view.mlp_error),
            ("joint", view.error),
        ):
            assert [layer[key] for layer in told["layers"]] == pytest.approx(errors, rel=CLOSE, abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_errors_between_samples_lie_on_straight_lines(cases: dict[str, Case], name: str) -> None:
    case = cases[name]
    for (i, channels), told in zip(case.asked["between"], case.told["between"], strict=True):
        layer = case.bank["layers"][i]
        grid = case.bank["grids"][layer["grid"]]
        assert told == pytest.approx(np.interp(channels, grid, layer["mlp"]), rel=CLOSE, abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_wishes_lead_to_the_nearest_feasible_width(cases: dict[str, Case], name: str) -> None:
    case = cases[name]
    for (site, i, wanted), told in zip(case.asked["wishes"], case.told["wishes"], strict=True):
        feasible = feasible_widths(case.bounds[i], site)
        assert told == min(feasible, key=lambda width: (abs(width - wanted), -width))
        layer = case.bank["layers"][i]
        pair = (told, layer["low"]) if site == "attention" else (layer["heads"][0], told)
        assert faders.snap_layer(layer, *pair, case.bank["align"]) == pair, "Python takes it as it is"


@pytest.mark.parametrize("name", NAMES)
def test_keys_step_through_the_feasible_widths(cases: dict[str, Case], name: str) -> None:
    case = cases[name]
    for (site, i, now, by), told in zip(case.asked["steps"], case.told["steps"], strict=True):
        feasible = feasible_widths(case.bounds[i], site)
        to = min(len(feasible) - 1, max(0, feasible.index(now) + by))
        assert told == feasible[to]


def test_the_cases_differ_in_all_that_matters(cases: dict[str, Case]) -> None:
    assert tuple(cases) == NAMES
    banks = [case.bank for case in cases.values()]
    assert {bank["unit"] for bank in banks} == {"kv-group", "query-head", "value-column"}
    assert {bank["count"] for bank in banks} == {"all", "decoder"}
    assert any(layer["high"] == 0 for bank in banks for layer in bank["layers"]), "a layer forced out"
    sampled = cases["sampled curves"]
    assert len(sampled.bank["grids"][0]) < sampled.bounds[0].high - sampled.bounds[0].low, (
        "curves are sampled"
    )
