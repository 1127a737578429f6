"""What our own components over `gr.HTML` share: they can be left alone by an answer that names them."""

from __future__ import annotations

from typing import Any

import gradio as gr

LEFT: Any = object()  # what an event answers for a component of ours that it leaves as it is


class Own(gr.HTML):
    """A component whose properties an answer must not touch.

    `gr.skip()` would wipe them as long as the component has not been on the screen (Gradio 6.31): it sends
    its own mark as a property. `LEFT` sends the bare mark, which the browser takes for nothing to do.
    """

    def postprocess(self, value: Any) -> Any:
        return {"__type__": "update"} if value is LEFT else self.sent(value)

    def sent(self, value: Any) -> Any:
        """What goes to the browser for a value."""
        return value
