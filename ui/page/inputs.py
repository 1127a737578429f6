"""What the browser says is taken as it is, and checked by what it is for, with a sentence of ours."""

from __future__ import annotations

import math
from typing import Any

import gradio as gr

from slimllm.calibration.documents import replace_surrogates

EXACT = 2**53  # the largest whole number of a browser


def sanitize_value(value: Any) -> Any:
    """What a browser or a program says, so that it can be told again: letters whole, no number too large for
    JSON."""
    if isinstance(value, str):
        return replace_surrogates(value)
    if isinstance(value, list):
        return [sanitize_value(inner) for inner in value]
    if isinstance(value, dict):
        return {replace_surrogates(str(name)): sanitize_value(inner) for name, inner in value.items()}
    if isinstance(value, int) and abs(value) > EXACT:
        return math.copysign(math.inf, value)
    return value


class Number(gr.Number):
    """A number box; anybody may have written its value, and what is no number leaves it empty."""

    def preprocess(self, payload: Any) -> Any:
        return payload

    def postprocess(self, value: Any) -> Any:
        number = isinstance(value, int | float) and math.isfinite(value)
        return super().postprocess(value) if number else None


class Slider(gr.Slider):
    """A slider; anybody may have written its value."""

    def preprocess(self, payload: Any) -> Any:
        return payload


class CheckboxGroup(gr.CheckboxGroup):
    """Boxes to tick; anybody may have written which."""

    def preprocess(self, payload: Any) -> Any:
        return payload
