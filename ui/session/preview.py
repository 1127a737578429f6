"""What a mask preview found so far, and what is known of the dense model beside it. No Gradio, no model."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from slimllm.core.types import Plan
from ui.jobs.worker import Job

FIRST_PROMPT = "The capital of France is"


@dataclass(eq=False)
class Heard:
    """What one model made of a few windows of text and of a prompt: summed loss over `tokens` predicted
    tokens, and its continuation."""

    loss: float = 0.0
    tokens: int = 0
    text: str = ""

    @property
    def perplexity(self) -> float | None:
        """None before the first window is read."""
        if not self.tokens:
            return None
        mean = self.loss / self.tokens
        return math.exp(mean) if mean < 700 else math.inf


@dataclass(eq=False)
class Preview:
    """One browser's preview: what was asked for, the job under way, what both models said.

    `asked` is the plan and the soloist that the latest job is for, `shown` those that the figures are for.
    `solo` is the one site whose cuts count, or empty; `rows` are the windows (k, w) that are read. What the
    dense model made of them (summed loss, tokens) and of each prompt is asked for only once.
    """

    prompt: str = FIRST_PROMPT
    auto: bool = True
    solo: str = ""
    job: Job | None = None
    asked: tuple[Plan, str] | None = None
    shown: tuple[Plan, str] | None = None
    masked: Heard = field(default_factory=Heard)
    dense: Heard = field(default_factory=Heard)
    text: str = ""
    rows: Any = None
    dense_loss: tuple[float, int] = (0.0, 0)
    dense_texts: dict[str, str] = field(default_factory=dict)

    @property
    def going(self) -> bool:
        """Whether something is under way that a page should look at."""
        return self.job is not None and self.job.active

    def stop(self) -> None:
        """Ends the job under way after its present step."""
        if self.job is not None:
            self.job.stopping.set()

    def forget(self) -> None:
        """Lets go of what was found with another model."""
        self.stop()
        self.job, self.asked, self.shown, self.masked, self.dense = None, None, None, Heard(), Heard()
        self.text, self.rows, self.dense_loss, self.dense_texts = "", None, (0.0, 0), {}

    def asks(self, plan: Plan) -> bool:
        """Whether the latest job was for this plan, heard the present way."""
        return self.asked == (plan, self.solo)

    def shows(self, plan: Plan) -> bool:
        """Whether the figures are for this plan, heard the present way."""
        return self.shown == (plan, self.solo)
