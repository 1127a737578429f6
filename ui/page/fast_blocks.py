"""Define Blocks that spend no time on components that an answer leaves unchanged."""

from __future__ import annotations

import copy
import logging
from typing import Any

import gradio as gr
from gradio.blocks import BlockFunction
from gradio.state_holder import SessionState

log = logging.getLogger(__name__)
LEAVE_ALONE = gr.skip()  # the answer for a component that stays as it is


class Page(gr.Blocks):
    """A `gr.Blocks` in which components cost nothing where an event answers `gr.skip()`.

    Gradio (6.31) builds each of these components anew, which takes a quarter of a millisecond each
    (docs/log.md). It also sends its skip mark to one of our own components as a property, which clears the
    component until it has been on the screen. This class sends the bare mark, which the browser ignores.
    """

    async def postprocess_data(
        self, block_fn: BlockFunction, predictions: list[Any] | dict[str, Any], state: SessionState | None
    ) -> list[Any]:
        """Return what is sent for every output of an event."""
        if not isinstance(predictions, list) or len(predictions) != len(block_fn.outputs):
            return await super().postprocess_data(block_fn, predictions, state)
        changed = [i for i, prediction in enumerate(predictions) if prediction != LEAVE_ALONE]
        sent: list[Any] = [None if block.stateful else dict(LEAVE_ALONE) for block in block_fn.outputs]
        try:
            await self._put(sent, changed, block_fn, predictions, state)
        except Exception:
            # One value cannot be shown; the others still can.
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
        """Write what is sent for the outputs at these places into `sent`."""
        if not places:
            return
        rest = copy.copy(block_fn)
        rest.outputs = [block_fn.outputs[i] for i in places]
        values = [predictions[i] for i in places]
        done = await super().postprocess_data(rest, values if len(values) > 1 else values[0], state)
        for i, value in zip(places, done, strict=True):
            sent[i] = value
