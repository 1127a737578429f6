"""The parts of a session that change, and that views of the page depend on."""

from __future__ import annotations

from typing import Literal

Part = Literal[
    "against",
    "answers",
    "bank",
    "controls",
    "detail",
    "entries",
    "job",
    "layers",
    "locks",
    "look",
    "methods",
    "notes",
    "order",
    "overlay",
    "pace",
    "passage",
    "plan",
    "polish",
    "polish-request",
    "preflight",
    "presets",
    "preview",
    "runs",
    "second",
    "subject",
    "table",
    "topics",
    "training",
]
