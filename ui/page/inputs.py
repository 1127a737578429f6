"""Accept any value from the browser; its use checks it, and answers in our own sentences."""

from __future__ import annotations

import math
from typing import Any

import gradio as gr

from slimllm.calibration.documents import replace_surrogates

EXACT = 2**53  # the largest whole number of a browser


def sanitize_value(value: Any) -> Any:
    """Return a value from a browser or a program in a form that can be sent back as JSON.

    Lone surrogates in strings are replaced, and integers beyond ±EXACT become infinite.
    """
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
    """A number box that accepts any value; a value that is no finite number empties it."""

    def preprocess(self, payload: Any) -> Any:
        """Return the payload unchecked."""
        return payload

    def postprocess(self, value: Any) -> Any:
        """Return the number, or None where the value is no finite number."""
        number = isinstance(value, int | float) and math.isfinite(value)
        return super().postprocess(value) if number else None


class Slider(gr.Slider):
    """A slider that accepts any value."""

    def preprocess(self, payload: Any) -> Any:
        """Return the payload unchecked."""
        return payload


class CheckboxGroup(gr.CheckboxGroup):
    """A group of checkboxes that accepts any value."""

    def preprocess(self, payload: Any) -> Any:
        """Return the payload unchecked."""
        return payload
