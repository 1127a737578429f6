"""Figures: small, whole, labelled, free of what JSON cannot hold."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from slimllm.core.types import Analysis, Plan
from slimllm.methods.recovery import RECOVERIES
from slimllm.planning.allocation import implied_ratios
from slimllm.planning.budget import layer_cost
from slimllm.planning.plan_making import make_plan
from slimllm.planning.rules import PlanRules
from tests.support.made_up_analyses import synthetic_analysis
from tests.support.serving import columns_analysis, without_layers
from ui.charts import (
    agreement_map,
    channels_map,
    chart_style,
    heads_map,
    layer_charts,
    layer_detail_charts,
    rank_difference_map,
    result_charts,
    training_charts,
)
from ui.charts.chart_style import round_ticks
from ui.facts import agreement
from ui.look.theme import PALETTE, dark_swaps

LIMIT = 150_000  # bytes of any figure


@pytest.fixture(scope="module")
def large() -> Analysis:
    return synthetic_analysis(layers=80, heads=64, groups=8, head_size=128, channels=28_672)


@pytest.fixture(scope="module")
def small() -> Analysis:
    return synthetic_analysis(layers=6, heads=9, groups=3, head_size=8, channels=96)


@pytest.fixture(scope="module")
def plan(small: Analysis) -> Plan:
    return make_plan(small, PlanRules(0.2))


def errors(n: int) -> list[tuple[float, float]]:
    return [(0.01 * i, 0.012 * i) for i in range(n)]


RUNS = [
    {"name": "dense", "parameters": 134e6, "perplexity": 18.9},
    {"name": "run <b>1</b>", "parameters": 110e6, "perplexity": 25.0, "words": "20 % removed"},
    {"name": "run 2", "parameters": 112e6, "perplexity": 31.0},
    {"name": "broken", "parameters": 60e6, "perplexity": math.inf},
]


TRAINING = [
    {"loss": 5.0 - i / 900, "ce": 4.0, "kl": i / 900, "kept_heads": 0.9, "kept_channels": 0.8}
    for i in range(1000)
]
METHOD_ROWS = [
    {"name": "A", "parameters": 110e6, "perplexity": 25.0, "words": "+10 %", "present": False},
    {"name": "B", "parameters": 110e6, "perplexity": 25.1, "words": "+10 %", "present": True},
    {"name": "C", "parameters": 111e6, "perplexity": math.inf, "words": "", "present": False},
]


def figures(analysis: Analysis) -> dict[str, go.Figure]:
    plan, layers, total, shape = (
        make_plan(analysis, PlanRules(0.2)),
        analysis.layers,
        len(analysis.layers),
        analysis.shape,
    )
    return {
        "layers": layer_charts.layer_chart(
            layers, total, plan, shape, implied_ratios(analysis, shape.decoder / 5)
        ),
        "heads": heads_map.heads_map(layers, total, shape),
        "channels": channels_map.channels_map(layers, total, shape),
        "channels in place": channels_map.channels_map(layers, total, shape, order="place"),
        "channels adding up": channels_map.channels_map(layers, total, shape, order="sum"),
        "error curves": layer_detail_charts.error_curves(layers[1], 1, plan, shape),
        "scores": layer_detail_charts.score_chart(layers[1], 1, plan, shape),
        "spectrum": layer_detail_charts.spectrum_chart(layers[1], 1) or go.Figure(),
        "errors": result_charts.errors_chart(errors(total)),
        "history": result_charts.history_chart(RUNS),
        "training": training_charts.training_chart(TRAINING),
        "methods": result_charts.methods_chart(METHOD_ROWS, RUNS[0]),
        **overlays(analysis, plan),
    }


def overlays(first: Analysis, plan: Plan) -> dict[str, go.Figure]:
    """The figures of two methods on one map."""
    layer = first.shape.layers[0]
    second = synthetic_analysis(
        len(first.layers), layer.heads, layer.groups, first.shape.head_size, layer.channels, seed=1
    )
    names, unit = ("SlimLLM", "Wanda-sp"), plan.unit
    alike = agreement.compare_analyses(first, second, plan)
    return {
        "kept heads": agreement_map.heads_agreement(first, second, plan, unit, names),
        "kept channels": agreement_map.channels_agreement(first, second, plan, names, ordered=True),
        "agreement": agreement_map.agreement_chart(alike, names, "heads"),
        "differing heads": rank_difference_map.heads_difference(first, second, unit, names),
        "differing channels": rank_difference_map.channels_difference(first, second, names, ordered=False),
    }


NAMES = (
    "layers", "heads", "channels", "channels in place", "channels adding up", "error curves", "scores",
    "spectrum", "errors", "history", "training", "methods", "kept heads", "kept channels", "agreement",
    "differing heads", "differing channels",
)  # fmt: skip


def numbers(array: Any) -> np.ndarray:
    """The numbers of a figure's array, decoded where Plotly wrote base64."""
    if isinstance(array, dict):
        flat = np.frombuffer(base64.b64decode(array["bdata"]), dtype=array["dtype"])
        return flat.reshape([int(n) for n in array["shape"].split(",")]) if "shape" in array else flat
    return np.asarray(array)


def sent(figure: go.Figure) -> dict[str, Any]:
    """The figure as the browser gets it; refuses NaN and infinities."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} in the JSON")

    return json.loads(figure.to_json(), parse_constant=refuse)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_figure_of_a_large_model_stays_small(large: Analysis, name: str) -> None:
    assert chart_style.payload_bytes(figures(large)[name]) <= LIMIT


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_has_title_axis_titles_and_a_fixed_revision(small: Analysis, name: str) -> None:
    layout = sent(figures(small)[name])["layout"]
    assert layout["title"]["text"]
    assert layout["uirevision"]
    assert layout["paper_bgcolor"] == layout["plot_bgcolor"] == "rgba(0,0,0,0)"
    assert layout["xaxis"]["title"]["text"]
    assert layout["yaxis"]["title"]["text"]


@pytest.mark.parametrize("name", NAMES)
def test_every_number_is_finite_and_every_trace_explains_itself(small: Analysis, name: str) -> None:
    for trace in sent(figures(small)[name])["data"]:
        for key in ("x", "y", "z"):
            if key in trace:
                assert np.isfinite(numbers(trace[key]).astype(float)).all(), (name, key)
        assert trace.get("hovertemplate"), name


@pytest.mark.parametrize("name", NAMES)
def test_every_colour_has_a_dark_twin(small: Analysis, name: str) -> None:
    found: list[str] = []

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)
        elif isinstance(node, str) and len(node) == 7 and node.startswith("#"):
            found.append(node)

    walk(sent(figures(small)[name]))
    assert found
    assert not [colour for colour in found if colour not in dark_swaps()]


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours as accessibility guidelines define it."""

    def light(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((light(one), light(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_text_and_lines_can_be_read_on_their_ground(mode: str) -> None:
    colours = PALETTE[mode]
    for ground in ("page", "surface"):
        for text in ("ink", "muted", "accent"):
            assert contrast(str(colours[text]), str(colours[ground])) >= 4.5, (text, ground)
        for line in ("second", "third", "fourth"):
            assert contrast(str(colours[line]), str(colours[ground])) >= 3, (line, ground)
    assert contrast(str(colours["on-accent"]), str(colours["accent"])) >= 4.5


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_the_sequential_scale_goes_one_way(mode: str) -> None:
    ground = str(PALETTE[mode]["surface"])
    steps = [contrast(colour, ground) for colour in PALETTE[mode]["sequential"]]
    assert steps == sorted(steps)


Map = Callable[..., go.Figure]


@pytest.mark.parametrize("draw", [heads_map.heads_map, channels_map.channels_map])
def test_layers_that_have_not_arrived_stay_blank_and_nothing_moves(small: Analysis, draw: Map) -> None:
    whole = draw(small.layers, 6, small.shape)
    for layers in ([], [None] * 6, small.layers[:2], [*small.layers[:2], None, *small.layers[3:]]):
        figure = draw(layers, 6, small.shape)
        rows = [int(y) for trace in sent(figure)["data"] for y in numbers(trace["y"])]
        assert rows == [i for i, found in enumerate(layers) if found is not None]
        assert figure.layout.yaxis.range == whole.layout.yaxis.range
        assert figure.layout.xaxis.range == whole.layout.xaxis.range
        assert figure.layout.uirevision == whole.layout.uirevision
        assert figure.layout.margin == whole.layout.margin
        assert figure.layout.margin.r > 80, "there is room for the colour bar before it comes"


def test_head_scores_are_exact_in_the_hover_and_relative_in_colour(small: Analysis) -> None:
    (trace,) = sent(heads_map.heads_map(small.layers, 6, small.shape))["data"]
    scores = torch.stack([found.attention["kv-group"].ranking.scores for found in small.layers]).numpy()
    np.testing.assert_array_equal(numbers(trace["customdata"]), scores)
    assert (numbers(trace["z"]).max(axis=1) == 200).all()
    assert trace["z"]["dtype"] == "u1"


def test_groups_stand_apart(small: Analysis) -> None:
    figure = heads_map.heads_map(small.layers, 6, small.shape)
    assert [line.x0 for line in figure.layout.shapes] == [2.5, 5.5]


def test_channel_bins_hold_mean_scores_in_order_and_in_place(small: Analysis) -> None:
    scores = small.layers[0].mlp.ranking.scores
    (ordered,) = sent(channels_map.channels_map(small.layers, 6, small.shape, bins=8))["data"]
    (placed,) = sent(channels_map.channels_map(small.layers, 6, small.shape, bins=8, order="place"))["data"]
    best_first = scores.sort(descending=True).values
    np.testing.assert_allclose(
        numbers(ordered["customdata"])[0], best_first.view(8, 12).mean(1).numpy(), rtol=1e-5
    )
    np.testing.assert_allclose(
        numbers(placed["customdata"])[0], scores.view(8, 12).mean(1).numpy(), rtol=1e-5
    )
    np.testing.assert_allclose(numbers(ordered["x"]), np.arange(8) * 12 + 5.5)


def test_the_map_that_adds_up_ends_at_everything(small: Analysis) -> None:
    (trace,) = sent(channels_map.channels_map(small.layers, 6, small.shape, bins=8, order="sum"))["data"]
    scores = small.layers[3].mlp.ranking.scores.sort(descending=True).values
    wanted = (100 * scores.cumsum(0) / scores.sum())[11::12]
    np.testing.assert_allclose(numbers(trace["customdata"])[3], wanted.numpy(), rtol=1e-5)
    assert (numbers(trace["z"])[:, -1] == 200).all()


def test_the_hover_knows_ranks(small: Analysis) -> None:
    (heads,) = sent(heads_map.heads_map(small.layers, 6, small.shape))["data"]
    order = small.layers[2].attention["kv-group"].ranking.order.tolist()
    assert [numbers(heads["text"])[2][h] for h in order] == list(range(1, 10))
    (placed,) = sent(channels_map.channels_map(small.layers, 6, small.shape, bins=8, order="place"))["data"]
    ranks = torch.empty(96, dtype=torch.int64)
    ranks[small.layers[2].mlp.ranking.order] = torch.arange(1, 97)
    assert numbers(placed["text"])[2].tolist() == ranks.view(8, 12).amin(1).tolist()


@pytest.mark.parametrize("order", ["sorted", "place", "sum"])
def test_one_layer_shows_every_channel(small: Analysis, large: Analysis, order: Any) -> None:
    figure = channels_map.every_channel(small.layers[2], 2, order)
    (trace,) = sent(figure)["data"]
    found = small.layers[2].mlp.ranking
    values, other = numbers(trace["y"]), numbers(trace["customdata"])
    if order == "place":
        np.testing.assert_array_equal(values, found.scores.numpy())
        assert other[found.order[0]] == 1
    else:
        assert other.tolist() == found.order.tolist()
        assert (np.diff(values) >= 0).all() if order == "sum" else (np.diff(values) <= 0).all()
    assert figure.layout.title.text
    assert (
        chart_style.payload_bytes(channels_map.every_channel(large.layers[0], 0, order)) <= 400_000
    )  # a map of all layers stays far below


def test_layers_of_different_width_share_a_map(small: Analysis) -> None:
    narrow = synthetic_analysis(layers=1, heads=6, groups=3, head_size=8, channels=40)
    shape = dataclasses.replace(small.shape, layers=(*small.shape.layers, *narrow.shape.layers))
    layers = (*small.layers, *narrow.layers)
    for figure in (
        heads_map.heads_map(layers, 7, shape),
        channels_map.channels_map(layers, 7, shape),
        channels_map.channels_map(layers, 7, shape, order="place"),
    ):
        (trace,) = sent(figure)["data"]
        assert len(numbers(trace["z"])) == 7
        assert not numbers(trace["customdata"])[6, 6 if "head" in figure.layout.title.text else 40 :].any()


def test_channel_colours_compare_with_the_median(small: Analysis) -> None:
    (trace,) = sent(channels_map.channels_map(small.layers, 6, small.shape, order="place"))["data"]
    scores, shades = numbers(trace["customdata"]), numbers(trace["z"])
    medians = np.array([[float(found.mlp.ranking.scores.median())] for found in small.layers])
    assert (abs(shades[abs(np.log2(scores / medians)) < 0.01].astype(int) - 67) <= 1).all()
    assert (shades[scores > 4 * medians] == 200).all()
    assert (shades[scores < medians / 2] == 0).all()


def test_dead_layers_and_broken_scores_are_drawn_as_nothing(small: Analysis) -> None:
    first = small.layers[0]
    scores = torch.full_like(first.mlp.ranking.scores, float("nan"))
    mlp = dataclasses.replace(first.mlp, ranking=dataclasses.replace(first.mlp.ranking, scores=scores))
    layers = [dataclasses.replace(first, mlp=mlp), *small.layers[1:]]
    (trace,) = sent(channels_map.channels_map(layers, 6, small.shape))["data"]
    assert not numbers(trace["z"])[0].any()
    sent(layer_detail_charts.score_chart(layers[0], 0, None, small.shape))


def test_the_layer_chart_tells_cosine_implied_and_chosen_share(small: Analysis, plan: Plan) -> None:
    implied = implied_ratios(small, small.shape.decoder / 5)
    bars, should, line = sent(layer_charts.layer_chart(small.layers, 6, plan, small.shape, implied))["data"]
    np.testing.assert_allclose(numbers(bars["y"]), small.cosine, rtol=1e-6)
    np.testing.assert_allclose(numbers(should["y"]), 100 * np.array(implied), rtol=1e-5)
    layer = small.shape.layers[2]
    kept = layer_cost(layer, plan.heads[2], plan.channels[2], plan.unit, plan.recovery, small.shape.hidden)
    assert numbers(line["y"])[2] == pytest.approx(100 * (1 - kept / layer.dense), rel=1e-5)
    filling = layer_charts.layer_chart(small.layers[:2], 6, None, small.shape)
    assert len(filling.data) == 1
    whole = layer_charts.layer_chart(small.layers, 6, plan, small.shape, implied)
    assert filling.layout.margin == whole.layout.margin, "nothing moves when the plan arrives"


def test_the_ratios_that_cosines_imply_add_up_and_follow_the_cosine(small: Analysis) -> None:
    implied = implied_ratios(small, small.shape.decoder / 5)
    sizes = [layer.dense for layer in small.shape.layers]
    assert sum(r * s for r, s in zip(implied, sizes, strict=True)) == pytest.approx(small.shape.decoder / 5)
    chosen = [i for i, r in enumerate(implied) if r > 0]
    assert sorted(chosen, key=lambda i: implied[i]) == sorted(chosen, key=lambda i: small.cosine[i])
    assert implied_ratios(small, 0) == [0.0] * 6


def test_error_curves_show_every_recovery_and_mark_the_plan(small: Analysis, plan: Plan) -> None:
    figure = layer_detail_charts.error_curves(small.layers[2], 2, plan, small.shape)
    names = [trace.name for trace in figure.data if trace.showlegend]
    assert names == [*(row.title for row in RECOVERIES.values()), "the plan"]
    marks = [trace for trace in figure.data if trace.name == "the plan"]
    assert [mark.x[0] for mark in marks] == [plan.heads[2], plan.channels[2]]
    found = small.layers[2].mlp.error[plan.recovery][plan.channels[2]]
    assert marks[1].y[0] == pytest.approx(100 * float(found), rel=1e-6)


def test_error_curves_of_the_other_unit(small: Analysis) -> None:
    plan = make_plan(small, PlanRules(0.2, unit="query-head"))
    figure = layer_detail_charts.error_curves(small.layers[0], 0, plan, small.shape)
    assert list(figure.data[0].x) == [0, 3, 6, 9]
    layer_detail_charts.error_curves(small.layers[0], 0, None, small.shape)


def test_the_score_chart_says_what_is_kept(small: Analysis, plan: Plan) -> None:
    kept, layer = plan.channels[2], small.layers[2]
    figure = layer_detail_charts.score_chart(layer, 2, plan, small.shape)
    channels = [trace.name for trace in figure.data if trace.type == "scatter"]
    assert channels == [f"kept: {kept} channels", f"cut: {96 - kept} channels"]
    assert [line.x0 for line in figure.layout.shapes] == [kept + 0.5]
    bars = {trace.name: list(trace.customdata) for trace in figure.data if trace.type == "bar"}
    wanted = layer.attention[plan.unit].ranking.kept(plan.heads[2]).tolist()
    assert sorted(bars["kept"]) == wanted
    assert sorted(bars["kept"] + bars.get("cut", [])) == list(range(9))
    whole = layer_detail_charts.score_chart(layer, 2, None, small.shape)
    assert [trace.name for trace in whole.data] == ["kept", "kept: 96 channels"]


def test_the_spectrum_says_how_many_directions_carry_most(small: Analysis) -> None:
    variances = torch.tensor([6.0, 3.0, 0.9, 0.1])
    layer = dataclasses.replace(
        small.layers[0], mlp=dataclasses.replace(small.layers[0].mlp, spectrum=variances)
    )
    figure = layer_detail_charts.spectrum_chart(layer, 0)
    assert figure is not None
    np.testing.assert_allclose(numbers(sent(figure)["data"][0]["y"]), [60, 90, 99, 100], rtol=1e-5)
    assert figure.layout.annotations[0].text == "90 % in 2 of 4"
    dead = dataclasses.replace(layer, mlp=dataclasses.replace(layer.mlp, spectrum=torch.zeros(4)))
    sent(layer_detail_charts.spectrum_chart(dead, 0) or go.Figure())
    bare = dataclasses.replace(layer, mlp=dataclasses.replace(layer.mlp, spectrum=None))
    assert layer_detail_charts.spectrum_chart(bare, 0) is None


def test_history_joins_the_best_leaves_out_the_unmeasured_and_shows_names_as_text() -> None:
    beaten, best = result_charts.history_chart(RUNS).data
    assert list(best.customdata) == [1, 0]
    assert list(beaten.customdata) == [2]
    assert best.text[0] == "run &lt;b&gt;1&lt;/b&gt;"
    assert result_charts.history_chart([]).layout.title.text
    spread = [{"name": "a", "parameters": 1e6, "perplexity": p} for p in (10, 1000)]
    assert result_charts.history_chart(spread).layout.yaxis.type == "log"


def test_errors_without_layers_or_beyond_measure_are_drawn() -> None:
    sent(result_charts.errors_chart([]))
    sent(result_charts.errors_chart([(math.nan, math.inf)]))


@pytest.mark.parametrize(("n", "most"), [(1, 10), (3, 10), (30, 10), (80, 16), (4096, 10)])
def test_ticks_are_few_and_start_at_zero(n: int, most: int) -> None:
    found = round_ticks(n, most)
    assert found[0] == 0
    assert found[-1] < n
    assert len(found) <= most


# Value columns and dropped layers ---------------------------------------------------------------------------


def test_value_columns_are_drawn_where_there_are_no_heads() -> None:
    analysis = columns_analysis()
    plan = without_layers(make_plan(analysis, PlanRules(0.3, align=1)), 2)
    figure = heads_map.heads_map(analysis.layers, 4, analysis.shape)
    (trace,) = sent(figure)["data"]
    scores = torch.stack([x.attention["value-column"].ranking.scores for x in analysis.layers])
    np.testing.assert_allclose(numbers(trace["customdata"]), scores.numpy(), rtol=1e-6)
    assert [line.x0 for line in figure.layout.shapes] == [7.5, 15.5]
    curves = layer_detail_charts.error_curves(analysis.layers[2], 2, plan, analysis.shape)
    assert list(curves.data[0].x) == list(range(9))
    assert "value columns" in curves.data[0].hovertemplate
    assert "dropped" in curves.layout.title.text
    line = sent(layer_charts.layer_chart(analysis.layers, 4, plan, analysis.shape))["data"][1]
    assert numbers(line["y"])[2] == 100
    sent(layer_detail_charts.score_chart(analysis.layers[2], 2, plan, analysis.shape))


# Two methods ------------------------------------------------------------------------------------------------


def naive_spearman(one: list[float], other: list[float]) -> float:
    """Pearson's correlation of mean ranks, by the definition."""

    def places(values: list[float]) -> list[float]:
        return [sum(w < v for w in values) + (sum(w == v for w in values) - 1) / 2 for v in values]

    a, b = places(one), places(other)
    n, ma, mb = len(a), sum(a) / len(a), sum(b) / len(b)
    top = sum((a[i] - ma) * (b[i] - mb) for i in range(n))
    return top / math.sqrt(sum((x - ma) ** 2 for x in a) * sum((x - mb) ** 2 for x in b))


@pytest.mark.parametrize("seed", range(5))
def test_rank_correlation_is_spearmans_also_with_equal_scores(seed: int) -> None:
    random = np.random.default_rng(seed)
    one, other = random.integers(0, 8, (2, 30)).astype(float)
    assert agreement.rank_correlation(one, other) == pytest.approx(
        naive_spearman(list(one), list(other)), abs=1e-12
    )
    assert agreement.rank_correlation(one, np.exp(one)) == pytest.approx(1)
    assert agreement.rank_correlation(one, -one) == pytest.approx(-1)
    assert agreement.rank_correlation(one, np.ones(30)) is None
    assert agreement.rank_correlation(one, other[:9]) is None


def test_what_both_keep_is_counted_at_the_plans_width(small: Analysis) -> None:
    second = synthetic_analysis(layers=6, heads=9, groups=3, head_size=8, channels=96, seed=1)
    plan = make_plan(small, PlanRules(0.3))
    found = agreement.compare_analyses(small, second, plan)
    for index, width in enumerate(plan.channels):
        one, other = (set(x.layers[index].mlp.ranking.order[:width].tolist()) for x in (small, second))
        shared = found[index].shared_channels
        if width == 96:
            assert shared is None
            continue
        assert shared is not None
        assert (shared.both, shared.kept, shared.all) == (len(one & other), width, 96)
        sides = agreement.sides_of_channels(small, second, plan, index)
        assert set(np.flatnonzero(sides == agreement.ONLY_FIRST)) == one - other
        assert set(np.flatnonzero(sides == agreement.NEITHER)) == set(range(96)) - one - other
    said = agreement.agreement_sentence(("A", "B"), found, "heads")
    assert "A and B agree on" in said
    assert "least in layer" in said
    alone = agreement.agreement_sentence(("A", "A"), agreement.compare_analyses(small, small, plan), "heads")
    assert "agree on 100\u00a0% of the channels" in alone


def test_the_difference_is_the_lead_in_places(small: Analysis) -> None:
    second = synthetic_analysis(layers=6, heads=9, groups=3, head_size=8, channels=96, seed=1)
    lead = rank_difference_map.rank_lead(small.layers[1].mlp, second.layers[1].mlp)
    best = int(small.layers[1].mlp.ranking.order[0])
    place = second.layers[1].mlp.ranking.order.tolist().index(best)
    assert lead[best] == pytest.approx(100 * place / 95)
    assert lead.sum() == pytest.approx(0, abs=1e-9)
    assert not rank_difference_map.rank_lead(small.layers[1].mlp, small.layers[1].mlp).any()
    figure = rank_difference_map.channels_difference(small, second, ("A", "B"), ordered=False, bins=96)
    np.testing.assert_allclose(numbers(sent(figure)["data"][0]["customdata"])[1], lead, rtol=1e-5)


def test_methods_that_cut_different_units_are_compared_by_channels_alone() -> None:
    first, second = synthetic_analysis(4, 6, 3, 8, 96), columns_analysis()
    plan = make_plan(first, PlanRules(0.3))
    assert agreement.common_unit(first, second, plan) is None
    found = agreement.compare_analyses(first, second, plan)
    assert all(layer.heads is None and layer.channels is not None for layer in found)
    assert "cannot be compared" in agreement.agreement_sentence(("A", "B"), found, None)


def test_labels_of_equal_methods_do_not_lie_on_each_other() -> None:
    figure = result_charts.methods_chart(METHOD_ROWS, RUNS[0])
    one, other = figure.layout.annotations[-2:]
    heights = [label.ay for label in (one, other)]
    assert heights[0] - heights[1] > 14
    assert figure.layout.yaxis.type == "log"
    assert result_charts.methods_chart([], None).layout.title.text
