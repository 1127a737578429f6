"""Hold how the sessions of a page open models and texts, as the program was started.

No Gradio, no model.
"""

from __future__ import annotations

from dataclasses import dataclass

from ui.session.limits import UNLIMITED, Limits


@dataclass(frozen=True)
class SessionSettings:
    """The device and the dtype of loaded models, whether the network must not be used, and the limits."""

    device: str = "auto"
    dtype: str = "auto"
    offline: bool = False
    limits: Limits = UNLIMITED


AUTOMATIC = SessionSettings()
