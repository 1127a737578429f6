"""The maps of a run, small enough to be kept with it: every score as one byte, channels in bins. Pure."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from slimllm.core.types import Analysis, LayerReport, Plan
from ui.facts.binning import bin_edges, bin_scores, of_best, of_median

CELLS = 512  # most cells of a row: a page has not many more pixels for it
FULL = 200  # the byte of the strongest shade, and of a cell that is kept whole


@dataclass(frozen=True)
class Grid:
    """One byte per layer and cell, row by row: `shades` as on the map, 0 to 200, and `kept`, the share of
    the cell's units that the pruned model has, 0 to 200. `units` is the number of units in a layer."""

    rows: int
    cells: int
    units: int
    shades: bytes
    kept: bytes

    def __post_init__(self) -> None:
        if not len(self.shades) == len(self.kept) == self.rows * self.cells:
            raise ValueError("a map of another size")


@dataclass(frozen=True)
class Portrait:
    """The cosine of each layer, its heads (or value columns) by score within the layer, its channels by how
    they compare with the layer's median."""

    cosine: tuple[float, ...]
    attention: Grid
    mlp: Grid


def portrait_of(analysis: Analysis, plan: Plan, reports: Sequence[LayerReport]) -> Portrait | None:
    """The maps of an analysis with what the pruned layers kept; None where they do not belong together."""
    if len(reports) != len(analysis.layers) or plan.unit not in analysis.layers[0].attention:
        return None
    heads = [layer.attention[plan.unit] for layer in analysis.layers]
    channels = [layer.mlp for layer in analysis.layers]
    found = []
    for sites, kept in ((heads, "kept_heads"), (channels, "kept_channels")):
        units = max(len(site.ranking.scores) for site in sites)
        edges = bin_edges(units, CELLS)
        scores = np.stack([bin_scores(site, edges, False) for site in sites])
        if sites is heads:
            shades = of_best(scores)
        else:
            medians = [[float(site.ranking.scores.float().nanmedian())] for site in sites]
            shades = of_median(scores, np.array(medians))
        stays = np.zeros((len(sites), units))
        for row, report in zip(stays, reports, strict=True):
            row[list(getattr(report, kept))] = 1
        shares = FULL * np.add.reduceat(stays, edges[:-1], axis=1) / np.diff(edges)
        found.append(Grid(len(sites), len(edges) - 1, units, bytes_of(shades), bytes_of(shares)))
    return Portrait(tuple(round(float(c), 4) for c in analysis.cosine), *found)


def bytes_of(values: np.ndarray) -> bytes:
    return np.round(values).astype(np.uint8).tobytes()


def portrait_to_dict(portrait: Portrait) -> dict[str, Any]:
    """The portrait as JSON-able data, bytes as base64."""
    return {
        "cosine": list(portrait.cosine),
        "attention": grid_to_dict(portrait.attention),
        "mlp": grid_to_dict(portrait.mlp),
    }


def grid_to_dict(grid: Grid) -> dict[str, Any]:
    shades, kept = (base64.b64encode(data).decode() for data in (grid.shades, grid.kept))
    return {"rows": grid.rows, "cells": grid.cells, "units": grid.units, "shades": shades, "kept": kept}


def portrait_from_dict(data: Mapping[str, Any]) -> Portrait:
    """The portrait in JSON data; raises what the data provokes where it is malformed."""
    attention, mlp = (grid_from_dict(data[site]) for site in ("attention", "mlp"))
    return Portrait(tuple(float(c) for c in data["cosine"]), attention, mlp)


def grid_from_dict(data: Mapping[str, Any]) -> Grid:
    rows, cells, units = (int(data[name]) for name in ("rows", "cells", "units"))
    shades, kept = (base64.b64decode(data[name], validate=True) for name in ("shades", "kept"))
    return Grid(rows, cells, units, shades, kept)
