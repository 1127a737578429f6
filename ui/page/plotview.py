"""A plot that keeps its zoom, follows the theme and tells where it was clicked. Replaces gr.Plot."""

from __future__ import annotations

import json
from typing import Any

import gradio as gr
import plotly.graph_objects as go

MOUNT = """
const tell = {
  click: (data) => trigger('click', data),
  pick: (data) => trigger('pick', data),
  pin: (data) => trigger('pin', data),
};
const wait = () => (window.slimPlot && window.slimPick && window.slimSave && window.Plotly)
  ? window.slimPlot.mount(element, props, watch, tell)
  : setTimeout(wait, 40);
wait();
"""


FOLDED = 72  # pixels of an empty plot that folds, as in plotview.js


class PlotView(gr.HTML):
    """A Plotly figure of fixed height. Value: a `go.Figure`, None to show `placeholder` in a box, or a
    sentence to show in its stead, where something went wrong.

    `.click(handler)`: the handler takes `e: gr.EventData` with `e.x`, `e.y` (data coordinates), `e.curve`
    (trace number), `e.i` (point number, or [row, column] in a map), `e.custom` (the point's customdata) and
    `e.cell`, what the point covers: {"x": [from, to], "y": [from, to]}. The keys do the same: arrows go from
    point to point, Enter clicks.

    With `picks` a frame shows which cells are chosen, a drag or Shift chooses many (`.pick`, with `e.x` and
    `e.y` as in `cell`), and the keys P, F, C and L say what shall happen to them (`.pin`, with `e.mark`
    protect, force, clear or layer as well). `y` is null where a plot is of one layer only.

    With `folds` an empty one takes little room. Zoom survives updates while `layout.uirevision` stays. Every
    figure can be saved as PNG and as CSV, whose columns `trace.meta` may name (value, text, custom). The page
    needs `theme.head_scripts()` and `theme.style_sheet()` in `launch`.
    """

    def __init__(
        self,
        value: go.Figure | None = None,
        *,
        height: int = 320,
        label: str = "",
        placeholder: str = "",
        picks: bool = False,
        folds: bool = False,
        elem_id: str | None = None,
        **kwargs: Any,
    ):
        kwargs.setdefault("html_template", '<div class="plotview"></div>')
        kwargs.setdefault("js_on_load", MOUNT)
        kwargs.setdefault("min_height", FOLDED if folds else height)
        kwargs.setdefault("min_width", 320)
        kwargs.setdefault("apply_default_css", False)
        super().__init__(
            value,
            label=label,
            elem_id=elem_id,
            height=height,
            caption=label,
            placeholder=placeholder,
            picks=picks,
            folds=folds,
            **kwargs,
        )

    def postprocess(self, value: go.Figure | str | None) -> str | None:
        """The figure's JSON, typed arrays as base64."""
        if isinstance(value, str):
            return json.dumps({"said": value})
        return None if value is None else value.to_json()

    def preprocess(self, payload: Any) -> None:  # noqa: ARG002
        """Nothing: a figure never comes back from the browser."""
        return

    def api_info(self) -> dict[str, Any]:
        return {"type": "string", "description": "a Plotly figure as JSON"}
