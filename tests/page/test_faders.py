"""The fader bank's Python side: what it tells the browser, and what it believes of the browser's answer."""

from __future__ import annotations

import itertools
import json

import gradio as gr
import numpy as np
import pytest

from slimllm.core.types import Analysis, Pin
from slimllm.planning.budget import bounds_of
from slimllm.planning.plan_making import make_plan
from slimllm.planning.rules import PlanRules
from tests.support.made_up_analyses import synthetic_analysis
from ui.page.faders import Faders, bank_json, channel_grid, check_value, layer_importance, value_of


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return synthetic_analysis(layers=5, heads=8, groups=4, head_size=8, channels=96)


def test_the_bank_is_json_and_names_what_is_feasible(analysis: Analysis) -> None:
    plan = make_plan(
        analysis,
        PlanRules(
            0.2, protected=(Pin(1, "attention", 0), Pin(1, "attention", 7)), forced=(Pin(2, "mlp", 3),)
        ),
    )
    told = json.loads(bank_json(analysis, plan))
    assert told["layers"][0]["heads"] == [2, 4, 6, 8]
    assert told["layers"][1]["heads"] == [4, 6, 8]
    assert told["layers"][2]["high"] == 88
    assert told["layers"][0]["bias"] == [64, 64]
    assert told["layers"][0]["weight"] == 1.0


def test_a_large_bank_stays_small() -> None:
    large = synthetic_analysis(layers=80, heads=64, groups=8, head_size=128, channels=28_672)
    assert len(bank_json(large, make_plan(large, PlanRules(0.2)))) < 150_000


def test_short_curves_are_sent_whole_and_long_ones_finer_near_both_ends() -> None:
    layer = synthetic_analysis(layers=1, heads=8, groups=4, head_size=8, channels=4000).shape.layers[0]
    bounds = bounds_of(layer, 0, "kv-group", 8, (), ())
    whole = channel_grid(bounds, 500)
    assert (whole[0], whole[-1]) == (bounds.low, 4000)
    assert all(width % 8 == 0 for width in whole)
    sampled = channel_grid(bounds, 1)
    assert (len(sampled), sampled[0], sampled[-1]) == (65, bounds.low, 4000)
    steps = [b - a for a, b in itertools.pairwise(sampled)]
    assert steps[0] < steps[32] > steps[-1]
    assert len(channel_grid(bounds, 100)) == 100


def test_sampled_curves_are_close_between_the_samples() -> None:
    analysis = synthetic_analysis(layers=3, heads=8, groups=4, head_size=8, channels=4000)
    bounds = bounds_of(analysis.shape.layers[0], 0, "kv-group", 8, (), ())
    sampled = channel_grid(bounds, 1)
    widths = np.arange(bounds.low, 4001)
    for found in analysis.layers:
        for exact in found.mlp.error.values():
            joined = np.interp(widths, sampled, exact.numpy()[list(sampled)])
            assert abs(joined - exact.numpy()[widths]).max() < 0.002


def test_importance_is_a_rank() -> None:
    assert layer_importance([0.05, 0.9, 0.99, 0.98]) == [1.0, 0.667, 0.0, 0.333]
    assert layer_importance([0.5]) == [0.0]


def test_the_value_of_a_plan_passes_unchanged(analysis: Analysis) -> None:
    plan = make_plan(analysis, PlanRules(0.2))
    value = value_of(plan, [True, False, False, False, True])
    with gr.Blocks():
        faders = Faders(value, bank=bank_json(analysis, plan))
    assert faders.preprocess(json.loads(json.dumps(value))) == value
    assert faders.postprocess(value) == value
    assert faders.preprocess(None) is None


def test_what_is_not_feasible_is_clamped(analysis: Analysis) -> None:
    told = json.loads(bank_json(analysis, make_plan(analysis, PlanRules(0.2))))
    wild = {"heads": [-5, 999, 3, 4, 8], "channels": [5, 10**9, 50, 8, 96], "locked": [False] * 5}
    assert check_value(wild, told) == {
        "heads": [2, 8, 2, 4, 8],
        "channels": [8, 96, 48, 8, 96],
        "locked": [False] * 5,
    }


def test_another_models_faders_are_refused(analysis: Analysis) -> None:
    told = json.loads(bank_json(analysis, make_plan(analysis, PlanRules(0.2))))
    with pytest.raises(gr.Error, match="3 layers and the model has 5"):
        check_value({"heads": [1] * 3, "channels": [1] * 3, "locked": [False] * 3}, told)


def test_stretches_and_whole_layers_are_counted_on_the_faders(analysis: Analysis) -> None:
    layer = analysis.shape.layers[3]
    gone = (Pin(3, "attention", 0, layer.heads), Pin(3, "mlp", 0, layer.channels))
    told = json.loads(
        bank_json(
            analysis,
            make_plan(analysis, PlanRules(0.3, protected=(Pin(1, "mlp", 4, 20),), forced=gone, align=1)),
        )
    )
    assert told["layers"][1]["pins"] == {"attention": [0, 0], "mlp": [20, 0]}
    assert told["layers"][3]["pins"] == {"attention": [0, layer.heads], "mlp": [0, layer.channels]}
    assert (told["layers"][3]["heads"], told["layers"][3]["high"]) == ([0], 0)
