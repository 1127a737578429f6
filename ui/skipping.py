"""Blocks that do not touch what an answer leaves as it is."""

from __future__ import annotations

import copy
from typing import Any

import gradio as gr
from gradio.blocks import BlockFunction
from gradio.state_holder import SessionState

LEFT = gr.skip()  # what an event answers for a component that stays as it is


class Page(gr.Blocks):
    """What `gr.Blocks` is, but components for which an event answers `gr.skip()` cost nothing.

    Gradio (6.31) builds each of them anew, a quarter of a millisecond each (docs/log.md), and sends its mark
    to a component of ours as a property, which wipes it as long as it has not been on the screen. The bare
    mark is nothing to do for the browser.
    """

    async def postprocess_data(
        self, block_fn: BlockFunction, predictions: list[Any] | dict[str, Any], state: SessionState | None
    ) -> list[Any]:
        """What is sent for every output of an event."""
        if not isinstance(predictions, list) or len(predictions) != len(block_fn.outputs):
            return await super().postprocess_data(block_fn, predictions, state)
        changed = [i for i, prediction in enumerate(predictions) if prediction != LEFT]
        sent: list[Any] = [None if block.stateful else dict(LEFT) for block in block_fn.outputs]
        if changed:
            rest = copy.copy(block_fn)
            rest.outputs = [block_fn.outputs[i] for i in changed]
            values = [predictions[i] for i in changed]
            done = await super().postprocess_data(rest, values if len(values) > 1 else values[0], state)
            for i, value in zip(changed, done, strict=True):
                sent[i] = value
        return sent
