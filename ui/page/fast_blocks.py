"""Blocks that do not touch what an answer leaves as it is."""

from __future__ import annotations

import copy
import logging
from typing import Any

import gradio as gr
from gradio.blocks import BlockFunction
from gradio.state_holder import SessionState

log = logging.getLogger(__name__)
LEAVE_ALONE = gr.skip()  # what an event answers for a component that stays as it is


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
        changed = [i for i, prediction in enumerate(predictions) if prediction != LEAVE_ALONE]
        sent: list[Any] = [None if block.stateful else dict(LEAVE_ALONE) for block in block_fn.outputs]
        try:
            await self._put(sent, changed, block_fn, predictions, state)
        except Exception:  # one value that cannot be shown: the others are
            for i in changed:
                try:
                    await self._put(sent, [i], block_fn, predictions, state)
                except Exception:
                    log.exception("A value of the page could not be shown")
        return sent

    async def _put(
        self,
        sent: list[Any],
        places: list[int],
        block_fn: BlockFunction,
        predictions: list[Any],
        state: SessionState | None,
    ) -> None:
        """Puts what is sent for the outputs at these places into `sent`."""
        if not places:
            return
        rest = copy.copy(block_fn)
        rest.outputs = [block_fn.outputs[i] for i in places]
        values = [predictions[i] for i in places]
        done = await super().postprocess_data(rest, values if len(values) > 1 else values[0], state)
        for i, value in zip(places, done, strict=True):
            sent[i] = value
