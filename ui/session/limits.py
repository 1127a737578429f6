"""Hold what one visitor of a shared server may ask for; each limit is refused in a sentence. No Gradio.

The page of a local install has no such limits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from slimllm.core.errors import Refusal
from slimllm.core.types import Calibration, Plan
from ui.facts.runs import Asked, Protocol
from ui.jobs.bounds import AT_HOME, UNBOUNDED, JobBounds


@dataclass(frozen=True)
class Limits:
    """What a visitor may ask for at once; None and infinity stand for no limit.

    `models` and `texts` are the names that may be opened. `read_tokens` limits what a job reads of a text,
    and `window` the tokens of one sample or window. `answer_tokens` limits every answer, `prompt_letters` all
    prompts together, and `training_steps` a fine-tuning. `jobs` bounds the queue. A session is forgotten
    after `idle_seconds`, and earlier where less than `free_mib` of memory is left.
    """

    models: tuple[str, ...] | None = None
    texts: tuple[str, ...] | None = None
    read_tokens: float = math.inf
    window: float = math.inf
    answer_tokens: float = math.inf
    prompt_letters: float = math.inf
    training_steps: float = math.inf
    uploaded_bytes: float = math.inf
    jobs: JobBounds = UNBOUNDED
    idle_seconds: float = math.inf
    free_mib: float = 0.0

    @property
    def shared(self) -> bool:
        """Whether the server is for everybody, so that its files are nobody's own."""
        return self.models is not None

    def permits_text(self, name: str) -> bool:
        """Return whether this server reads a text; a topic counts as its text."""
        return self.texts is None or name.partition("/")[0] in self.texts

    def check_model(self, source: str) -> None:
        """Raise `Refusal` for a model that this server does not open."""
        if self.models is not None and source not in self.models:
            raise Refusal(unlisted("models", source, self.models))

    def check_text(self, name: str) -> None:
        """Raise `Refusal` for a text that this server does not read."""
        if self.texts is not None and not self.permits_text(name):
            raise Refusal(unlisted("texts", name, self.texts))

    def check_calibration(self, asked: Calibration) -> None:
        """Raise `Refusal` for a text, samples or a length beyond the limits."""
        self.check_text(asked.text)
        check_most("tokens of one sample", asked.length, self.window)
        check_most("tokens (samples × length)", asked.samples * asked.length, self.read_tokens)

    def check_protocol(self, asked: Protocol) -> None:
        """Raise `Refusal` for a measurement on a text, a window or more tokens beyond the limits."""
        self.check_text(asked.text)
        check_most("tokens of one window", asked.window, self.window)
        # 0 stands for the whole text.
        check_most("tokens of a measurement", asked.limit or math.inf, self.read_tokens)

    def check_answers(self, asked: Asked) -> None:
        """Raise `Refusal` for prompts or answers beyond the limits."""
        check_most("letters of all prompts", sum(map(len, asked.prompts)), self.prompt_letters)
        check_most("tokens of an answer", asked.new_tokens, self.answer_tokens)

    def check_comparison(self, plan: Plan, asked: Asked) -> None:
        """Raise `Refusal` for pruning by a plan, measuring and prompting beyond the limits."""
        self.check_calibration(plan.calibration)
        self.check_protocol(asked.protocol)
        self.check_answers(asked)

    def check_run(self, plan: Plan) -> None:
        """Raise `Refusal` for making the model of a plan again beyond the limits."""
        self.check_model(plan.model)
        self.check_calibration(plan.calibration)

    def check_finetuning(self, plan: Plan, text: str, steps: int) -> None:
        """Raise `Refusal` for fine-tuning a plan's model on a text, or by more steps, beyond the limits."""
        self.check_run(plan)
        self.check_text(text)
        check_most("steps of fine-tuning", steps, self.training_steps)

    def check_speed(self, length: int, new_tokens: int, rounds: int) -> None:
        """Raise `Refusal` for a measurement of speed beyond the limits."""
        check_most("tokens of a prompt", length, self.window)
        check_most("tokens of an answer", new_tokens, self.answer_tokens)
        check_most("tokens of all rounds", rounds * (length + new_tokens), self.read_tokens)


def unlisted(kind: str, name: str, listed: Sequence[str]) -> str:
    """Return the sentence about a name that is not among the listed ones of its kind."""
    return f"'{name}' cannot be opened here; the {kind} of this server are {', '.join(listed)} ({AT_HOME})."


def check_most(what: str, asked: float, most: float) -> None:
    """Raise `Refusal` if more is asked for than there may be."""
    if asked > most:
        given = "all" if math.isinf(asked) else f"{asked:,.0f}"
        raise Refusal(f"This server allows up to {most:,.0f} {what}, not {given}; ask for less ({AT_HOME}).")


UNLIMITED = Limits()
