"""Draw two charts side by side in one figure. Pure.

The figure gets its layout in one assignment, because plotly's own subplots take as long as all the rest of a
chart.
"""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from ui.charts.chart_style import COLOUR, laid_out, thin_axis

DOMAINS = ((0.0, 0.445), (0.555, 1.0))
NAMES = {1: "", 2: "2"}  # of axes, by column


class Panels:
    """Two panels, attention on the left (column 1) and MLP on the right (column 2), with a title above each.

    The y axes of both panels have the same settings.
    """

    def __init__(self, *titles: str, **up: Any):
        """Start two empty panels.

        `up` holds the settings of the y axes, as `chart_style.thin_axis` takes them.
        """
        self.traces: list[Any] = []
        self.lines: list[dict[str, Any]] = []
        self.axes: dict[str, Any] = {}
        self.titles = [
            {
                "text": title, "showarrow": False, "font": {"size": 13, "color": COLOUR["muted"]},
                "x": sum(domain) / 2, "xref": "paper", "xanchor": "center",
                "y": 1, "yref": "paper", "yanchor": "bottom",
            }
            for title, domain in zip(titles, DOMAINS, strict=True)
        ]  # fmt: skip
        for name, words in (("", up.pop("title")), ("2", "")):
            self.axes[f"yaxis{name}"] = thin_axis(words, anchor=f"x{name}", domain=[0, 1], **up)

    def add(self, column: int, trace: Any) -> None:
        """Add a trace to a panel."""
        trace.xaxis, trace.yaxis = f"x{NAMES[column]}", f"y{NAMES[column]}"
        self.traces.append(trace)

    def across(self, column: int, title: str, **more: Any) -> None:
        """Set the x axis of a panel."""
        name, domain = NAMES[column], list(DOMAINS[column - 1])
        self.axes[f"xaxis{name}"] = thin_axis(title, anchor=f"y{name}", domain=domain, **more)

    def upright(self, column: int, x: float) -> None:
        """Add a thin dotted vertical line at `x` to a panel."""
        self.lines.append(
            {
                "type": "line", "x0": x, "x1": x, "xref": f"x{NAMES[column]}",
                "y0": 0, "y1": 1, "yref": f"y{NAMES[column]} domain",
                "line": {"color": COLOUR["ink"], "width": 1, "dash": "dot"},
            }
        )  # fmt: skip

    def figure(self, *, title: str, key: str, **layout: Any) -> go.Figure:
        """Return the figure of both panels, with the project's title and margins."""
        layout |= self.axes | {"annotations": self.titles, "shapes": self.lines}
        return laid_out(go.Figure(self.traces), title=title, key=key, **layout)
