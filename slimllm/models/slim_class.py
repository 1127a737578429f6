"""The model class for a config's `slim` block: a stock class with individual widths in every layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import transformers

from slimllm.core.errors import Refusal
from slimllm.models import modeling_slim


def build_slim_model(config: Any, source: str, **how: Any) -> Any:
    """Return a new model of this config, with the widths of its `slim` block if it has one."""
    if getattr(config, "slim", None):
        return slim_class(config.slim, source)._from_config(config, **how)
    return transformers.AutoModelForCausalLM.from_config(config, **how)


def slim_class(slim: Mapping[str, Any], source: str) -> Any:
    """Return our own per-layer-width class based on the architecture that a `slim` block names.

    The checkpoint's code is not run. Raise `Refusal` if the architecture is unknown.
    """
    named = str(slim.get("base", "")) if isinstance(slim, Mapping) else ""
    base = getattr(transformers, named, None) if named.endswith("ForCausalLM") else None
    if base is None:
        raise Refusal(f"'{source}' names an unknown base class in config.slim; export it again.")
    return type("SlimForCausalLM", (modeling_slim.Slim, base), {})
