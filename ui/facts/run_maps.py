"""Make maps of a run that are small enough to keep with it: one byte per score, channels in bins. Pure."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from slimllm.core.types import Analysis, LayerReport, Plan
from ui.facts.binning import bin_edges, bin_scores, of_best, of_median

# Most cells in a row: a page has few more pixels for it.
CELLS = 512
# The byte of the strongest shade, and of a cell whose units are all kept.
FULL = 200


@dataclass(frozen=True)
class Grid:
    """A map with one byte per layer and cell, row by row.

    `shades` (rows, cells) are 0 to 200, as on the page's map. `kept` (rows, cells), 0 to 200, is the share of
    the cell's units that the pruned model keeps. `units` is the number of units in a layer. A `ValueError` is
    raised where the bytes do not fit the size.
    """

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
    """The maps of a run.

    `cosine` (layers,) holds the cosine of each layer, `attention` its heads (or value columns) by score
    within the layer, and `mlp` its channels compared with the layer's median.
    """

    cosine: tuple[float, ...]
    attention: Grid
    mlp: Grid


def portrait_of(analysis: Analysis, plan: Plan, reports: Sequence[LayerReport]) -> Portrait | None:
    """Return the maps of an analysis with what the pruned layers kept, or None.

    The result is None where the reports have another number of layers, or the analysis has no scores for the
    plan's attention unit.
    """
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
    """Return the values rounded, one byte each."""
    return np.round(values).astype(np.uint8).tobytes()


def portrait_to_dict(portrait: Portrait) -> dict[str, Any]:
    """Return the portrait as JSON-able data, its bytes as base64."""
    return {
        "cosine": list(portrait.cosine),
        "attention": grid_to_dict(portrait.attention),
        "mlp": grid_to_dict(portrait.mlp),
    }


def grid_to_dict(grid: Grid) -> dict[str, Any]:
    shades, kept = (base64.b64encode(data).decode() for data in (grid.shades, grid.kept))
    return {"rows": grid.rows, "cells": grid.cells, "units": grid.units, "shades": shades, "kept": kept}


def portrait_from_dict(data: Mapping[str, Any]) -> Portrait:
    """Return the portrait from JSON data.

    Malformed data raise whatever the conversion raises, such as `KeyError`, `TypeError` or `ValueError`.
    """
    attention, mlp = (grid_from_dict(data[site]) for site in ("attention", "mlp"))
    return Portrait(tuple(float(c) for c in data["cosine"]), attention, mlp)


def grid_from_dict(data: Mapping[str, Any]) -> Grid:
    rows, cells, units = (int(data[name]) for name in ("rows", "cells", "units"))
    shades, kept = (base64.b64decode(data[name], validate=True) for name in ("shades", "kept"))
    return Grid(rows, cells, units, shades, kept)
