"""Hold what a mask preview has found so far, and the results of the dense model.

No Gradio, no model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from slimllm.core.types import Plan
from ui.jobs.worker import Job

FIRST_PROMPT = "The capital of France is"


@dataclass(eq=False)
class Heard:
    """What one model did with a few windows of text and with a prompt.

    `loss` is the sum of the losses of `tokens` predicted tokens, in nats, and `text` the continuation of the
    prompt.
    """

    loss: float = 0.0
    tokens: int = 0
    text: str = ""

    @property
    def perplexity(self) -> float | None:
        """The perplexity, or None before the first window is read."""
        if not self.tokens:
            return None
        mean = self.loss / self.tokens
        return math.exp(mean) if mean < 700 else math.inf


@dataclass(eq=False)
class Preview:
    """The preview of one browser: what was asked for, the present job, and the results of both models.

    `asked` is the plan and the solo site of the latest job; `shown` is that of the figures. `solo` is the
    only site whose cuts are applied, or empty for both. `rows` holds the token ids (k, w) of the windows, and
    `text` the name and the fingerprint of their text.

    `dense_loss` is (sum of losses in nats, number of tokens) of the dense model, and `dense_texts` holds its
    continuations by prompt. Each is computed only once.
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
        """Whether a job is active, so that a page should look again soon."""
        return self.job is not None and self.job.active

    def stop(self) -> None:
        """Stop the present job after its present step."""
        if self.job is not None:
            self.job.stopping.set()

    def forget(self) -> None:
        """Stop the present job, and forget what was found with another model."""
        self.stop()
        self.job, self.asked, self.shown, self.masked, self.dense = None, None, None, Heard(), Heard()
        self.text, self.rows, self.dense_loss, self.dense_texts = "", None, (0.0, 0), {}

    def asks(self, plan: Plan) -> bool:
        """Return whether the latest job was for this plan with the present solo site."""
        return self.asked == (plan, self.solo)

    def shows(self, plan: Plan) -> bool:
        """Return whether the figures are for this plan with the present solo site."""
        return self.shown == (plan, self.solo)
