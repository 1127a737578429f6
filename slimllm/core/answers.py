"""Answers to programs: whatever a command or an endpoint found, as strict JSON."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any


def to_plain_json(value: Any) -> Any:
    """The value as strict JSON: dataclasses as objects, numbers that JSON lacks as text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, dict):
        return {str(key): to_plain_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain_json(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return str(value) if isinstance(value, Path) else value
