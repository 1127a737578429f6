"""A plot that keeps its zoom, follows the theme and tells where it was clicked. Replaces gr.Plot."""

from __future__ import annotations

from typing import Any

import gradio as gr
import plotly.graph_objects as go

MOUNT = """
const wait = () => (window.slimPlot && window.Plotly)
  ? window.slimPlot.mount(element, props, watch, (data) => trigger('click', data))
  : setTimeout(wait, 40);
wait();
"""


class PlotView(gr.HTML):
    """A Plotly figure of fixed height. Value: a `go.Figure`, or None to show `placeholder` in a box.

    `.click(handler)`: the handler takes `e: gr.EventData` with `e.x`, `e.y` (data coordinates), `e.curve`
    (trace number), `e.i` (point number, or [row, column] in a map) and `e.custom` (the point's customdata).
    The keys do the same: arrows go from point to point, Enter clicks. Zoom survives updates while
    `layout.uirevision` stays. The page needs `theme.head()` and `theme.css()` in `launch`.
    """

    def __init__(
        self,
        value: go.Figure | None = None,
        *,
        height: int = 320,
        label: str = "",
        placeholder: str = "",
        elem_id: str | None = None,
        **kwargs: Any,
    ):
        kwargs.setdefault("html_template", '<div class="plotview"></div>')
        kwargs.setdefault("js_on_load", MOUNT)
        kwargs.setdefault("min_height", height)
        kwargs.setdefault("min_width", 320)
        kwargs.setdefault("apply_default_css", False)
        super().__init__(
            value,
            label=label,
            elem_id=elem_id,
            height=height,
            caption=label,
            placeholder=placeholder,
            **kwargs,
        )

    def postprocess(self, value: go.Figure | None) -> str | None:
        """The figure's JSON, typed arrays as base64."""
        return None if value is None else value.to_json()

    def preprocess(self, payload: Any) -> None:  # noqa: ARG002
        """Nothing: a figure never comes back from the browser."""
        return

    def api_info(self) -> dict[str, Any]:
        return {"type": "string", "description": "a Plotly figure as JSON"}
