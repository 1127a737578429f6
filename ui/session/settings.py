"""How the sessions of a page open models and texts, as the program was started. No Gradio, no model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SessionSettings:
    """The device and the dtype that models are loaded for, and whether the network is left alone."""

    device: str = "auto"
    dtype: str = "auto"
    offline: bool = False


AUTOMATIC = SessionSettings()
