"""A model that a session has loaded, and what is known of it before it is analysed. No Gradio."""

from __future__ import annotations

from dataclasses import dataclass

from slimllm.models.loading import Subject
from ui.facts.estimates import Rates


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model that all sessions share, how fast this machine works with it, and how it can be stored."""

    subject: Subject
    rates: Rates
    device: str
    dtype: str
    outlook: tuple[str, ...] = ()
