"""Hold how the sessions of a page open models and texts, as the program was started.

No Gradio, no model.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SessionSettings:
    """The device and the dtype of loaded models, and whether the network must not be used."""

    device: str = "auto"
    dtype: str = "auto"
    offline: bool = False


AUTOMATIC = SessionSettings()
