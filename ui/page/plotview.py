"""Define a chart that keeps its zoom, follows the theme and reports clicks; it replaces gr.Plot."""

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


FOLDED = 72  # pixels of an empty chart that folds, as in plotview.js


class PlotView(gr.HTML):
    """A Plotly figure of fixed height; its value is a `go.Figure`, None, or a sentence.

    None shows `placeholder` in a box. A sentence takes the place of the figure where something went wrong.

    `.click(handler)`: the handler takes `e: gr.EventData` with `e.x`, `e.y` (data coordinates), `e.curve`
    (trace number), `e.i` (point number, or [row, column] in a map), `e.custom` (the point's customdata) and
    `e.cell`, what the point covers: {"x": [from, to], "y": [from, to]}. The keyboard does the same: arrows go
    from point to point, Enter clicks.

    With `picks`, a frame shows which cells are selected. A drag or Shift selects many (`.pick`, with `e.x`
    and `e.y` as in `cell`), and the keys P, F, C and L say what to do with them (`.pin`, which also has
    `e.mark`: protect, force, clear or layer). `y` is null where a chart is of one layer only.

    With `folds`, an empty chart takes little room. Zoom survives updates while `layout.uirevision` stays.
    Every figure can be saved as PNG and as CSV, whose columns `trace.meta` may name (value, text, custom).
    The page needs `theme.head_scripts()` and `theme.style_sheet()` in `launch`.
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
        """Return the figure's JSON, with typed arrays as base64; JSON with the sentence; or None."""
        if isinstance(value, str):
            return json.dumps({"said": value})
        return None if value is None else value.to_json()

    def preprocess(self, payload: Any) -> None:  # noqa: ARG002
        """Return nothing: the browser never sends a figure back."""
        return

    def api_info(self) -> dict[str, Any]:
        """Return the JSON schema of the value."""
        return {"type": "string", "description": "a Plotly figure as JSON"}
