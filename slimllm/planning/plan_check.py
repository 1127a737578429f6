"""Checks that the numbers of a plan fit together, which a change by hand can break. Pure."""

from __future__ import annotations

from slimllm.core.errors import Refusal
from slimllm.core.shapes import Shape
from slimllm.core.types import Plan
from slimllm.planning.budget import per_pool, pinned_units


def check_lengths(plan: Plan) -> None:
    """Raise `Refusal` if a plan has widths for more or fewer layers than its model has."""
    layers = len(plan.widths)
    for name in ("heads", "channels"):
        if len(getattr(plan, name)) != layers:
            raise Refusal(
                f"The plan has {len(getattr(plan, name))} numbers in '{name}' for {layers} layers; make it "
                "again."
            )


def check_pinned(plan: Plan, shape: Shape) -> None:
    """Raise `Refusal` if a plan's widths contradict what it protects and forces out."""
    for index, layer in enumerate(shape.layers):
        protected, forced = (
            {site: pinned_units(pins, index, site) for site in ("attention", "mlp")}
            for pins in (plan.protected, plan.forced)
        )
        steps, widest = layer.steps(plan.unit), layer.widest(plan.unit)
        low = per_pool(layer, plan.unit, protected["attention"])
        high = max(low, steps - per_pool(layer, plan.unit, forced["attention"] - protected["attention"]))
        channels = len(protected["mlp"]), layer.channels - len(forced["mlp"] - protected["mlp"])
        heads = low * widest // steps, high * widest // steps
        for name, kept, (least, most) in (
            ("heads", plan.heads[index], heads),
            ("channels", plan.channels[index], channels),
        ):
            if not least <= kept <= most:
                raise Refusal(
                    f"The plan keeps {kept} {name} in layer {index}, and what it protects and forces out "
                    f"there leaves {least} to {most}; change one of the two."
                )
