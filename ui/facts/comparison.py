"""Define a comparison while it is filled and shown, and the answers beside it. No Gradio."""

from __future__ import annotations

from dataclasses import dataclass, field

from slimllm.core.types import LayerReport, Plan
from slimllm.models.loading import Pruned
from ui.facts.findings import Findings
from ui.facts.runs import Column, Protocol


@dataclass(eq=False)
class Comparison:
    """A comparison while it is filled or shown: figures, layer reports and models by column name."""

    plan: Plan
    protocol: Protocol = field(default_factory=Protocol)
    columns: dict[str, Column] = field(default_factory=dict)
    reports: dict[str, tuple[LayerReport, ...]] = field(default_factory=dict)
    models: dict[str, Pruned] = field(default_factory=dict)
    run: int | None = None
    findings: Findings = field(default_factory=Findings)


@dataclass
class Answer:
    """A prompt and what each model has written after it so far; `done` once all models have finished."""

    prompt: str
    texts: dict[str, str] = field(default_factory=dict)
    done: bool = False
