"""Forecasts of plans: exact sizes, and errors predicted from the dense stream. Pure."""

from __future__ import annotations

import dataclasses
import math

from slimllm.core.shapes import Shape
from slimllm.core.types import Analysis, Forecast, LayerAnalysis, Plan, SiteAnalysis
from slimllm.planning.budget import layer_cost


def fill_forecast(analysis: Analysis, plan: Plan) -> Plan:
    """Return the plan with its achieved ratio and predicted errors filled in."""
    view = forecast_plan(analysis, plan)
    return dataclasses.replace(plan, ratio_achieved=view.ratio, predicted_error=view.error)


def refigure_ratio(plan: Plan, shape: Shape) -> Plan:
    """Return the plan with the ratio that its widths achieve in a model of this shape.

    Errors that were predicted for other widths are removed.
    """
    share = shape.parameters if plan.count == "all" else shape.decoder
    ratio = (shape.decoder - decoder_parameters(shape, plan)) / share
    same = math.isclose(ratio, plan.ratio_achieved, rel_tol=0, abs_tol=1e-12)
    known = same and len(plan.predicted_error) == len(plan.widths)
    return dataclasses.replace(
        plan, ratio_achieved=ratio, predicted_error=plan.predicted_error if known else ()
    )


def forecast_plan(analysis: Analysis, plan: Plan) -> Forecast:
    """Return the forecast of a plan: exact sizes, and errors predicted from the dense model's moments."""
    shape = analysis.shape
    decoder = decoder_parameters(shape, plan)
    attention, mlp, both = [], [], []
    for layer, found, heads, channels in zip(
        shape.layers, analysis.layers, plan.heads, plan.channels, strict=True
    ):
        site = found.attention[plan.unit]
        a = float(site.error[plan.recovery][layer.step(heads, plan.unit)])
        m = float(found.mlp.error[plan.recovery][channels])
        attention.append(a)
        mlp.append(m)
        both.append(joint_error(found, site, a, m))
    removed = shape.decoder - decoder
    parameters = shape.parameters - removed
    groups = [layer.groups_kept(h, plan.unit) for layer, h in zip(shape.layers, plan.heads, strict=True)]
    return Forecast(
        parameters=parameters,
        decoder_parameters=decoder,
        ratio=removed / (shape.parameters if plan.count == "all" else shape.decoder),
        bytes=round(parameters * analysis.bytes_per_parameter),
        kv_bytes_per_token=round(2 * sum(groups) * shape.head_size * analysis.bytes_per_parameter),
        flops_per_token=2 * (decoder + shape.hidden * shape.vocab),
        attention_error=tuple(attention),
        mlp_error=tuple(mlp),
        error=tuple(both),
    )


def joint_error(found: LayerAnalysis, site: SiteAnalysis, attention: float, mlp: float) -> float:
    """Return the relative error of a layer's two outputs together, weighted by their energies."""
    total = site.energy + found.mlp.energy
    return (site.energy * attention + found.mlp.energy * mlp) / total if total > 0 else 0.0


def decoder_parameters(shape: Shape, plan: Plan) -> int:
    """Return the parameters of the decoder layers that remain."""
    return sum(
        layer_cost(layer, h, c, plan.unit, plan.recovery, shape.hidden)
        for layer, h, c in zip(shape.layers, plan.heads, plan.channels, strict=True)
    )
