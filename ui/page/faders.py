"""Define the fader bank: one fader per layer and site, with size and predicted error updated in the browser.

    faders = Faders(elem_id="tune-faders")
    faders.release(handler, faders, ..., trigger_mode="always_last")                # handler(value: dict)
    return gr.update(value=value_of(plan, locked), bank=bank_json(analysis, plan))  # new analysis or settings
    return gr.update(value=value_of(plan, locked))                                  # only the widths moved

`.grasp` fires when a person starts to move faders. `.solo` fires when only one site is to count; its data is
{"site": name}, or empty. Never output to the bank from its own `.input`. Use `always_last`, because Gradio
drops a second event while the first one still runs. Layers count from 0 everywhere.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import gradio as gr

from slimllm.core.shapes import SITES, LayerShape, SiteName
from slimllm.core.types import Analysis, Forecast, LayerAnalysis, Plan
from slimllm.methods.recovery import RECOVERIES
from slimllm.planning.budget import Bounds, bounds_of, pinned_units
from ui.look.browser_modules import FADERS, module_address

# An error curve is sent at this many widths at least, or at all feasible ones.
SAMPLES = 65
# Every feasible width is sent while all layers' curves together have at most this many numbers.
WHOLE_GRID = 6000
MAX_LAYERS, MAX_COUNT = 1000, 1_000_000
MAX_TURN = 1 << 53  # the largest whole number of a browser

# The browser's part is the module assets/faders/main.js.
MOUNT = f"""
import(new URL('{module_address(FADERS)}', document.baseURI)).then(
  ({{mount}}) => mount(element, props, trigger, watch),
  () => {{ element.textContent = 'The faders could not be loaded; reload the page.'; }},
);
"""

Value = dict[str, Any]


def value_of(
    plan: Plan,
    locked: Sequence[bool] | None = None,
    *,
    automatic: Plan | None = None,
    exact: Forecast | None = None,
    solo: str = "",
    turn: int | None = None,
) -> Value:
    """Return the value for a plan: {"heads": [kept], "channels": [kept], "locked": [bool]}, by layer.

    For the browser, the value may also contain the widths to which a double click returns (`automatic`), the
    exact figures, the one site that counts (`solo`), and the number of the last release that the server
    received (`turn`). The browser keeps the moves that a person made after that release.
    """
    value: Value = {
        "heads": list(plan.heads),
        "channels": list(plan.channels),
        "locked": [bool(x) for x in locked] if locked is not None else [False] * len(plan.heads),
    }
    if automatic is not None:
        value["auto"] = {"heads": list(automatic.heads), "channels": list(automatic.channels)}
    if exact is not None:
        value["exact"] = forecast_figures(exact)
    if turn is not None:
        value["turn"] = turn
    return value | ({"solo": solo} if solo else {})


def forecast_figures(view: Forecast) -> dict[str, Any]:
    """Return a forecast under the names that the browser's own arithmetic uses."""
    return {
        "parameters": view.parameters,
        "ratio": view.ratio,
        "bytes": view.bytes,
        "kv": view.kv_bytes_per_token,
        "flops": view.flops_per_token,
        "error": view.total_error,
        "errors": round_four(view.error),
    }


def bank_json(analysis: Analysis, plan: Plan) -> str:
    """Return as JSON what the browser needs to compute forecasts for this plan.

    That depends on the plan's unit, recovery, alignment, count and pins. The result is a string because
    Gradio copies and compares all properties of a component at every step of a drag: this takes no time for a
    string, and some 50 ms for 8,000 numbers.
    """
    return json.dumps(bank_facts(analysis, plan), separators=(",", ":"), allow_nan=False)


def bank_facts(analysis: Analysis, plan: Plan) -> dict[str, Any]:
    """Return the content of the bank."""
    shape = analysis.shape
    bounds = [
        bounds_of(layer, i, plan.unit, plan.align, plan.protected, plan.forced)
        for i, layer in enumerate(shape.layers)
    ]
    limit = WHOLE_GRID // len(bounds)
    grids = [channel_grid(b, limit) for b in bounds]
    distinct = list(dict.fromkeys(grids))
    weights = layer_importance([found.cosine for found in analysis.layers])
    layers = []
    for i, (layer, found, b) in enumerate(zip(shape.layers, analysis.layers, bounds, strict=True)):
        layers.append(
            widths_and_costs(layer, b, plan, shape.hidden)
            | layer_errors(layer, found, b, grids[i], plan)
            | {"grid": distinct.index(grids[i]), "weight": weights[i], "cosine": round_six(found.cosine)}
            | {"pins": {site: pins_on(plan, i, site) for site in SITES}}
        )
    return {
        "layers": layers,
        "grids": [list(g) for g in distinct],
        "unit": plan.unit,
        "align": plan.align,
        "count": plan.count,
        "outside": shape.outside,
        "decoder": shape.decoder,
        "bytes": analysis.bytes_per_parameter,
        "head_size": shape.head_size,
        "hidden": shape.hidden,
        "vocab": shape.vocab,
    }


def widths_and_costs(layer: LayerShape, bounds: Bounds, plan: Plan, hidden: int) -> dict[str, Any]:
    """Return a layer's feasible widths and what they cost in parameters.

    The costs are those of `budget.layer_cost`, which is linear in the steps of attention and in the channels.
    """
    adds = hidden if RECOVERIES[plan.recovery].bias else 0
    widest, steps = layer.widest(plan.unit), layer.steps(plan.unit)
    whole = layer.at(widest, layer.channels, plan.unit)
    step = whole - layer.at(widest - widest // steps, layer.channels, plan.unit) if steps > 1 else 0
    return {
        "heads": list(bounds.heads),
        "low": bounds.low,
        "high": bounds.high,
        "dense": [widest, layer.channels],
        "groups": layer.groups,
        "steps": steps,
        "cost": [whole - steps * step - layer.channels * layer.channel_cost, step, layer.channel_cost],
        "bias": [adds * (not layer.attention_bias), adds * (not layer.mlp_bias)],
    }


def pins_on(plan: Plan, index: int, site: SiteName) -> list[int]:
    """Return how many units of a site are protected, and how many are forced out."""
    return [len(pinned_units(pins, index, site)) for pins in (plan.protected, plan.forced)]


def layer_errors(
    layer: LayerShape, found: LayerAnalysis, bounds: Bounds, widths: tuple[int, ...], plan: Plan
) -> dict[str, Any]:
    """Return a layer's predicted errors at its feasible attention widths and at the sampled channel counts.

    The result also holds the errors with the layer dropped, and the energies of both sites.
    """
    attention, mlp = found.attention[plan.unit], found.mlp.error[plan.recovery]
    of_heads = attention.error[plan.recovery]
    steps = [layer.step(h, plan.unit) for h in bounds.heads]
    return {
        "attention": round_four(of_heads[steps].tolist()),
        "mlp": round_four(mlp[list(widths)].tolist()),
        "dropped": round_four([float(of_heads[0]), float(mlp[0])]),
        "energy": [round_six(attention.energy), round_six(found.mlp.energy)],
    }


def channel_grid(bounds: Bounds, limit: int) -> tuple[int, ...]:
    """Return the channel counts whose errors are sent to the browser.

    These are all feasible counts where `limit` allows, else that many samples. Samples lie closer together
    near both ends, where curves bend most. On the starter model, 65 samples joined by straight lines miss a
    curve by a tenth of a percentage point in most layers and by half a point at worst.
    """
    low, high, align = bounds.low, bounds.high, bounds.align
    feasible = sorted({low, high, *range(-(-low // align) * align, high + 1, align)})
    samples = max(limit, SAMPLES)
    if len(feasible) <= samples:
        return tuple(feasible)
    places = [(1 - math.cos(math.pi * i / (samples - 1))) / 2 for i in range(samples)]
    return tuple(sorted({round(low + (high - low) * place) for place in places}))


def layer_importance(cosines: Sequence[float]) -> list[float]:
    """Return each layer's importance by rank, from 0 (changes its input least) to 1 (changes it most).

    By value, one odd layer among many similar ones would give all others the same colour.
    """
    order = sorted(range(len(cosines)), key=lambda i: -cosines[i])
    ranks = {layer: rank for rank, layer in enumerate(order)}
    return [round(ranks[i] / max(1, len(cosines) - 1), 3) for i in range(len(cosines))]


def round_six(x: float) -> float:
    """Return a number with six significant digits."""
    return float(f"{x:.6g}")


def round_four(values: Sequence[float]) -> list[float]:
    """Return numbers with four significant digits, which a screen can show; negative ones become 0."""
    return [float(f"{max(0.0, x):.4g}") for x in values]


class Faders(gr.HTML):
    """A bank of faders; its value is {"heads": [...], "channels": [...], "locked": [...]} or None.

    With None, it shows `placeholder`. `.input` fires while dragging (at most once a frame), `.release` on
    pointer-up, key-up and a toggled lock; both carry the value. The readout inside has the id `forecast_id`.
    The page needs `theme.style_sheet()` and the middleware `ModuleFiles` in `launch`.
    """

    EVENTS: ClassVar[list[Any]] = [*gr.HTML.EVENTS, "grasp", "solo"]

    def __init__(
        self,
        value: Value | None = None,
        *,
        bank: str | None = None,
        label: str = "Faders",
        placeholder: str = "Analyse a model first: the faders need its error curves.",
        forecast_id: str = "tune-forecast",
        elem_id: str | None = "tune-faders",
        **kwargs: Any,
    ):
        kwargs.setdefault("html_template", '<div class="faders"></div>')
        kwargs.setdefault("js_on_load", MOUNT)
        kwargs.setdefault("caption", label)
        kwargs.setdefault("apply_default_css", False)
        super().__init__(
            value,
            label=label,
            elem_id=elem_id,
            bank=bank,
            placeholder=placeholder,
            forecast_id=forecast_id,
            **kwargs,
        )

    def preprocess(self, payload: Any) -> Value | None:
        """Return the value clamped to what is feasible, or None.

        Raise `gr.Error` with one sentence where the payload is no set of faders.
        """
        told = self.props.get("bank")
        return None if payload is None else check_value(payload, json.loads(told) if told else None)

    def api_info(self) -> dict[str, Any]:
        """Return the JSON schema of the value."""
        counts = {"type": "array", "items": {"type": "integer"}}
        locks = {"type": "array", "items": {"type": "boolean"}}
        return {"type": "object", "properties": {"heads": counts, "channels": counts, "locked": locks}}


def check_value(payload: Any, bank: Mapping[str, Any] | None) -> Value:
    """Return the value from the browser's raw JSON, clamped to what is feasible.

    Anyone may have written that JSON. Raise `gr.Error` where it is no set of faders for this bank.
    """
    if not isinstance(payload, dict):
        raise refuse_value("they are not a set of heads, channels and locks")
    heads, channels = whole_numbers(payload, "heads"), whole_numbers(payload, "channels")
    locked = payload.get("locked", [False] * len(heads))
    if not (isinstance(locked, list) and all(isinstance(x, bool) for x in locked)):
        raise refuse_value("the locks are not all true or false")
    if not len(heads) == len(channels) == len(locked):
        raise refuse_value("heads, channels and locks are not equally many")
    if bank and bank.get("layers"):
        layers = bank["layers"]
        if len(layers) != len(heads):
            raise refuse_value(f"they show {len(heads)} layers and the model has {len(layers)}")
        align = bank["align"]
        pairs = [snap_layer(*found, align) for found in zip(layers, heads, channels, strict=True)]
        heads, channels = [h for h, _ in pairs], [c for _, c in pairs]
    turn = payload.get("turn")
    numbered = {"turn": turn} if isinstance(turn, int) and 0 <= turn < MAX_TURN else {}
    touched = payload.get("touched")
    moved = {"touched": sorted({str(what) for what in touched})} if isinstance(touched, list) else {}
    return {"heads": heads, "channels": channels, "locked": locked, **numbered, **moved}


def snap_layer(layer: Mapping[str, Any], heads: int, channels: int, align: int) -> tuple[int, int]:
    """Return the nearest feasible (heads, channels) of a layer; a layer that keeps nothing stays dropped."""
    if not heads and not channels:
        return 0, 0
    return min(layer["heads"], key=lambda f: abs(f - heads)), feasible_channels(layer, channels, align)


def whole_numbers(payload: dict[str, Any], name: str) -> list[int]:
    """Return the whole numbers under `name`, clamped to 0 … MAX_COUNT.

    Raise `gr.Error` where they are not a list of whole numbers.
    """
    found = payload.get(name)
    if not isinstance(found, list) or not 1 <= len(found) <= MAX_LAYERS:
        raise refuse_value(f"the {name} are not a list with one number per layer")
    if not all(isinstance(x, int) and not isinstance(x, bool) for x in found):
        raise refuse_value(f"the {name} are not all whole numbers")
    return [min(MAX_COUNT, max(0, x)) for x in found]


def feasible_channels(layer: Mapping[str, Any], channels: int, align: int) -> int:
    """Return the largest feasible channel count up to `channels`, or the lowest feasible one."""
    if channels >= layer["high"]:
        return layer["high"]
    return max(layer["low"], channels // align * align)


def refuse_value(why: str) -> gr.Error:
    """Return the `gr.Error` for a value that cannot be read."""
    return gr.Error(f"The faders could not be read, because {why}; reload the page.", print_exception=False)
