"""Reading an export: its plan and reports, and its model without the zeros of padding."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slimllm.core.attention_unit import UNITS
from slimllm.core.errors import Refusal
from slimllm.core.shapes import Shape
from slimllm.core.types import LayerReport, Plan, Repair
from slimllm.export.model_card import FACTS
from slimllm.files import file_limits
from slimllm.models import loading
from slimllm.models.families import Family, layer_shape, linear_of, narrows_values, shape_of
from slimllm.models.layer_offload import is_offloaded, is_spread
from slimllm.models.loading import Pruned, Subject
from slimllm.models.shared_copy import share_model
from slimllm.planning.plan_json import read_witness
from slimllm.planning.plan_making import library_versions
from slimllm.pruning.surgery import slice_attention, slice_mlp, slice_values


def load_export(source: str, *, say: Callable[[str], object] = str, **how: Any) -> Subject:
    """Load a model as `loading.load_model` does, with the same options, but without the zeros of padding.

    Otherwise pruning a padded export would first remove its zeros.
    """
    subject = loading.load_model(source, say=say, **how)
    try:
        tier, _ = read_facts(Path(subject.source).expanduser() / FACTS)
    except Refusal:
        # It is not an export of ours.
        tier = ""
    if tier != "padded" or is_offloaded(subject.model) or is_spread(subject.model):
        return subject
    say("The zeros that this export was filled up with are left out.")
    return remove_padding(subject)


def as_pruned(subject: Subject) -> Pruned:
    """Return a loaded subject with the plan and reports of its folder.

    If the folder is not an export of ours, return it with a plan that keeps everything. The zeros of a padded
    export are removed, because training would change them. Raise `Refusal` if the folder's plan or reports
    cannot be read.
    """
    folder = Path(subject.source).expanduser()
    if (folder / FACTS).is_file():
        plan, (tier, layers) = read_witness(folder / "plan.json"), read_facts(folder / FACTS)
        # The widths of a padded export are not those of its plan.
        if tier == "padded":
            return Pruned(remove_padding(subject), plan, layers, 0.0, 0.0)
        check_reports(plan, layers, subject.shape, folder)
        return Pruned(subject, plan, layers, 0.0, 0.0)
    shape = subject.shape
    plan = Plan(
        model=subject.source,
        family=shape.family,
        widths=shape.widths,
        heads=tuple(heads for heads, _, _ in shape.widths),
        channels=tuple(channels for _, _, channels in shape.widths),
        recovery="none",
        unit=shape.units[0],
        versions=library_versions(),
    )
    whole = [LayerReport(h, c, tuple(range(h)), tuple(range(c)), 0.0, 0.0) for h, _, c in shape.widths]
    return Pruned(subject, plan, tuple(whole), 0.0, 0.0)


def check_reports(plan: Plan, layers: Sequence[LayerReport], shape: Shape, folder: Path) -> None:
    """Raise `Refusal` if a plan, reports of layers and a model do not belong together."""
    columns = UNITS[plan.unit].narrows_heads
    left = [pair for pair in zip(plan.heads, plan.channels, strict=True) if any(pair)]
    found = [(layer.values if columns else layer.heads, layer.channels) for layer in shape.layers]
    reported = [(report.heads, report.channels) for report in layers]
    counted = [(len(report.kept_heads), len(report.kept_channels)) for report in layers]
    if left != found or counted != reported or [row[1] for row in reported] != list(plan.channels):
        raise Refusal(
            f"The model in '{folder}' is not what its plan.json and slimllm.json say of it; export it again."
        )


def read_facts(file: Path) -> tuple[str, tuple[LayerReport, ...]]:
    """Return (tier, layer reports) from an export's slimllm.json; errors that are null there become NaN.

    Raise `Refusal` if the file is not valid.
    """

    def read_error(value: float | None) -> float:
        return math.nan if value is None else float(value)

    try:
        known = json.loads(file_limits.read_text(file, f"'{file}'", "export the model again"))
        layers = [
            LayerReport(
                heads=int(row["heads"]),
                channels=int(row["channels"]),
                kept_heads=tuple(map(int, row["kept_heads"])),
                kept_channels=tuple(map(int, row["kept_channels"])),
                error_predicted=read_error(row["error_predicted"]),
                error_measured=read_error(row["error_measured"]),
            )
            for row in known["layers"]
        ]
        return str(known["tier"]), tuple(layers)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as failure:
        raise Refusal(f"'{file}' does not hold what an export writes; export the model again.") from failure


def remove_padding(subject: Subject) -> Subject:
    """Return the subject without the heads, values and channels that its readers multiply by zero.

    `padding.pad_state` adds such units.
    """
    slim, family = dataclasses.replace(subject, model=share_model(subject.model)), subject.family
    for layer in slim.layers:
        cut_heads(layer, family, subject.shape.head_size)
        if narrows_values(family):
            cut_values(layer, family, subject.shape.head_size)
        shape, weight = layer_shape(layer, family), linear_of(layer, family.mlp.reader).weight
        kept = live_units(weight, 1)  # (k,)
        if 0 < len(kept) < shape.channels:
            slice_mlp(layer, family, shape, kept, Repair(weight[:, kept]))
    return dataclasses.replace(slim, shape=shape_of(slim.model, family))


def cut_heads(layer: nn.Module, family: Family, size: int) -> None:
    """Remove heads of zeros, if equally many remain in every remaining group."""
    shape, weight = layer_shape(layer, family), linear_of(layer, family.attention.reader).weight
    kept = live_units(weight, size)
    # The number of kept heads in each group that has any.
    in_groups = (kept // (shape.heads // shape.groups)).unique(return_counts=True)[1]  # (groups,)
    if len(kept) < shape.heads and len(in_groups.unique()) == 1:
        inputs = (kept[:, None] * size + torch.arange(size)).flatten()  # (k, e) → (k·e,)
        slice_attention(layer, family, shape, size, kept, Repair(weight[:, inputs]))


def cut_values(layer: nn.Module, family: Family, size: int) -> None:
    """Remove value columns of zeros, if equally many remain in every group."""
    shape, weight = layer_shape(layer, family), linear_of(layer, family.attention.reader).weight
    each = shape.heads // shape.groups
    mask = (weight != 0).any(0).cpu().view(shape.groups, each, size).any(1)  # (G, H/G, e) → (G, e)
    counts = mask.sum(1)  # (G,)
    if 0 < counts.min() == counts.max() < size:
        kept = mask.nonzero()[:, 1].view(shape.groups, -1)  # (G, v)
        heads = torch.arange(shape.heads)  # (H,)
        inputs = (heads[:, None] * size + kept[heads // each]).flatten()  # (H, v) → (H·v,)
        slice_values(layer, family, shape, size, kept, Repair(weight[:, inputs]))


def live_units(weight: Tensor, size: int) -> Tensor:
    """Return the units (k,) of a reader's weight (o, units·size) that have a nonzero column, on the CPU."""
    # (units·size,) → (units, size) → (units,) → (k,)
    return (weight != 0).any(0).view(-1, size).any(1).nonzero().flatten().cpu()
