"""Structured pruning of causal language models by SlimLLM: analyse, plan, prune, save."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

# Before torch is loaded: threads that wait should sleep. Spinning ones made it 16 times slower beside a busy
# browser.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if TYPE_CHECKING:
    from slimllm.api import Calibration, Refusal, analyse, load, plan, prune, save, text

__version__ = "0.1.0"
__all__ = ["Calibration", "Refusal", "analyse", "load", "plan", "prune", "save", "text"]


def __getattr__(name: str) -> Any:
    """What the package offers, imported when it is first asked for: the command line can then answer an
    interruption of that with a sentence."""
    if name not in __all__:
        raise AttributeError(f"module 'slimllm' has no attribute '{name}'")
    from slimllm import api

    return getattr(api, name)
