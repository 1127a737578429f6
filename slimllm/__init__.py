"""Structured pruning of causal language models with SlimLLM: analyse, plan, prune, save."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

# This must be set before torch is loaded, so that waiting threads sleep. Threads that spin made the program
# 16 times slower beside a busy browser.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if TYPE_CHECKING:
    from slimllm.api import Calibration, Refusal, analyse, load, plan, prune, save, text

__version__ = "0.1.0"
__all__ = ["Calibration", "Refusal", "analyse", "load", "plan", "prune", "save", "text"]


def __getattr__(name: str) -> Any:
    """Return a public name of the package, imported at its first use.

    The import is late so that the command line can answer an interruption of it with a sentence.
    """
    if name not in __all__:
        raise AttributeError(f"module 'slimllm' has no attribute '{name}'")
    from slimllm import api

    return getattr(api, name)
