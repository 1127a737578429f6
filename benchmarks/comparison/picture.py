"""Draw the methods' benchmark: size against perplexity, one panel per text and window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from benchmarks.comparison.cells import BEST, FLOOR, YARDSTICK
from benchmarks.comparison.report import name

# The yardsticks stand out. All others share quieter colours, and their marks differ as well.
LOUD = {BEST: "#d1495b", YARDSTICK: "#00798c", FLOOR: "#222222"}
QUIET = ["#8d96a3", "#c58b2b", "#6a8d5c", "#8e6c9b", "#4f86c6", "#b0735c", "#5fa8a1"]
SYMBOLS = ["circle", "square", "diamond", "triangle-up", "triangle-down", "pentagon", "star", "cross", "x"]


def write(answer: dict[str, Any], path: Path) -> None:
    """Write one HTML file that opens without a network."""
    figure(answer).write_html(path, include_plotlyjs=True)


def figure(answer: dict[str, Any]) -> go.Figure:
    """Return a figure with one line per row, from the dense model through its ratios.

    Perplexity has a logarithmic axis.
    """
    texts = list(answer["evaluation"]["texts"])
    windows = [str(window) for window in answer["evaluation"]["windows"]]
    titles = [f"{text}, windows of {window}" for window in windows for text in texts]
    found = make_subplots(
        len(windows), len(texts), subplot_titles=titles, horizontal_spacing=0.08, vertical_spacing=0.14
    )
    rows: dict[str, list[dict[str, Any]]] = {}
    for cell in answer["cells"]:
        if "refused" not in cell:
            rows.setdefault(name(cell), []).append(cell)
    for number, (row, cells) in enumerate(rows.items()):
        points = [answer["dense"], *sorted(cells, key=lambda cell: -cell["decoder"])]
        look = style(cells[0], number)
        for i, window in enumerate(windows):
            for j, text in enumerate(texts):
                found.add_trace(
                    go.Scatter(
                        x=[point["decoder"] / 1e6 for point in points],
                        y=[point["perplexity"][text][window] for point in points],
                        name=row + "*" * cells[0]["trained"],
                        legendgroup=row,
                        showlegend=i == j == 0,
                        hovertemplate="%{x:.1f} M: %{y:.4g}",
                        mode="lines+markers",
                        **look,
                    ),
                    row=i + 1,
                    col=j + 1,
                )
    found.update_yaxes(type="log", title_text="perplexity")
    found.update_xaxes(title_text="decoder parameters, millions")
    found.update_layout(
        title=f"{answer['model']}, {answer['date']} (* trains)",
        template="plotly_white",
        height=120 + 420 * len(windows),
    )
    return found


def style(cell: dict[str, Any], number: int) -> dict[str, Any]:
    """Return the colour, mark and width of a row's line."""
    own = cell["method"] in LOUD
    colour = LOUD.get(cell["method"], QUIET[number % len(QUIET)])
    return {
        "line": {"color": colour, "width": 3 if own else 1.5},
        "marker": {"symbol": SYMBOLS[number % len(SYMBOLS)], "size": 9},
    }
