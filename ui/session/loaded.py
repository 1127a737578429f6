"""Describe a model that a session has loaded, before it is analysed.

No Gradio.
"""

from __future__ import annotations

from dataclasses import dataclass

from slimllm.models.loading import Subject
from ui.facts.resources.estimates import Rates


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model that all sessions share.

    `rates` says how fast this machine works with it, and `outlook` holds sentences that say how it can be
    exported.
    """

    subject: Subject
    rates: Rates
    device: str
    dtype: str
    outlook: tuple[str, ...] = ()
