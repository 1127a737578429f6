"""Two charts beside each other in one figure, laid out in one assignment: plotly's own subplots take as long
as all the rest of a chart. Pure."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from ui.charts.chart_style import COLOUR, laid_out, thin_axis

DOMAINS = ((0.0, 0.445), (0.555, 1.0))
NAMES = {1: "", 2: "2"}  # of axes, by column


class Panels:
    """Attention left (column 1) and MLP right (column 2), a title above each, and y axes of one kind."""

    def __init__(self, *titles: str, **up: Any):
        """`up` is what the y axes are made of; see `chart_style.thin_axis`."""
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
        """Draws a trace in a panel."""
        trace.xaxis, trace.yaxis = f"x{NAMES[column]}", f"y{NAMES[column]}"
        self.traces.append(trace)

    def across(self, column: int, title: str, **more: Any) -> None:
        """What a panel's x axis is made of."""
        name, domain = NAMES[column], list(DOMAINS[column - 1])
        self.axes[f"xaxis{name}"] = thin_axis(title, anchor=f"y{name}", domain=domain, **more)

    def upright(self, column: int, x: float) -> None:
        """A thin dotted line through a panel."""
        self.lines.append(
            {
                "type": "line", "x0": x, "x1": x, "xref": f"x{NAMES[column]}",
                "y0": 0, "y1": 1, "yref": f"y{NAMES[column]} domain",
                "line": {"color": COLOUR["ink"], "width": 1, "dash": "dot"},
            }
        )  # fmt: skip

    def figure(self, *, title: str, key: str, **layout: Any) -> go.Figure:
        """The whole, with the project's title and margins."""
        layout |= self.axes | {"annotations": self.titles, "shapes": self.lines}
        return laid_out(go.Figure(self.traces), title=title, key=key, **layout)
