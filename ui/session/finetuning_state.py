"""Check what fine-tuning on the page asks for, hold its results so far, and write their table.

No Gradio, no model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from slimllm.core.errors import Refusal
from slimllm.pruning.finetuning import Tuning, check_finetuning
from ui.facts.runs import Protocol
from ui.facts.verdicts import SLIGHT
from ui.look.formatting import escape_html, format_change, format_figure
from ui.session.forms import TuningForm
from ui.session.requests import whole_number

MOST_TRAINING_STEPS = 20_000
BATCH, LENGTH = 4, 128  # pieces per step, tokens per piece


@dataclass(frozen=True)
class TuningRequest:
    """What a person asks of a fine-tuning.

    `text` is the name of the text to learn, `steps` the number of training steps, and `rate` the highest
    learning rate.
    """

    text: str
    steps: int
    rate: float


@dataclass(frozen=True)
class Measured:
    """Perplexity by one protocol before and after the fine-tuning; None until it is measured."""

    protocol: Protocol
    before: float | None = None
    after: float | None = None


@dataclass(eq=False)
class FineTuning:
    """One fine-tuning and its results so far.

    `run` is the number of the run that it starts from, and `made` the number of the run that it makes, or
    None until then. `losses` holds the loss of every step so far, in nats per token.
    """

    run: int
    request: TuningRequest
    losses: list[float] = field(default_factory=list)
    measured: list[Measured] = field(default_factory=list)
    made: int | None = None


def read_tuning_request(form: TuningForm) -> TuningRequest:
    """Return what a form asks for.

    Raise `Refusal` if there is no text, if the steps or the learning rate are impossible, or if peft is not
    installed.
    """
    name, rate = str(form.text or "").strip(), form.rate
    if not name:
        raise Refusal("There is no text to learn; choose one.")
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate <= 1:
        raise Refusal("The learning rate must be a number above 0 and up to 1, such as 0.001.")
    request = TuningRequest(name, whole_number(form.steps, "Steps", 1, MOST_TRAINING_STEPS), float(rate))
    check_finetuning(Tuning(rate=request.rate))
    return request


def tuning_of(request: TuningRequest, tokens: int, longest: int) -> Tuning:
    """Return the settings that take exactly the wished number of steps on a text of `tokens` tokens.

    They have the fewest epochs that permit that. A piece has LENGTH tokens, or `longest` if the model cannot
    read that many at once. Raise `Refusal` if the text is too short for one step.
    """
    length = min(LENGTH, longest)
    batches = tokens // (length * BATCH)
    if not batches:
        raise Refusal(
            f"'{request.text}' has {tokens:,} tokens to learn from, and a step takes {length * BATCH}; "
            "choose a longer text."
        )
    epochs = next(
        n for n in range(1, request.steps + 1) if request.steps % n == 0 and request.steps // n <= batches
    )
    return Tuning(
        text=request.text,
        samples=request.steps // epochs * BATCH,
        length=length,
        epochs=epochs,
        batch=BATCH,
        rate=request.rate,
    )


def table_of(shown: FineTuning, same: bool) -> str:
    """Return the perplexities before and after the fine-tuning as an HTML table.

    `same` says that they are measured on the very text that the model learned.
    """
    rows = ""
    for measured in shown.measured:
        how = measured.protocol
        before, after = measured.before, measured.after
        cells = (
            "…" if before is None else format_figure(before),
            "…" if after is None else format_figure(after),
            format_change(after, before) if after is not None and before is not None else "",
        )
        limit = f"up to {how.limit:,} tokens" if how.limit else "all of it"
        begun = f" begun with {escape_html(how.begins_with)}" if how.begins_with else ""
        hint = f"{limit}, windows of {how.window:,}{begun}"
        rows += (
            f'<tr><th scope="row">{escape_html(how.text)}<small>{hint}</small></th>'
            f"{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
        )
    head = "".join(f'<th scope="col">{name}</th>' for name in ("Perplexity on", "Before", "After", "Change"))
    foot = "Lower is better. " + (
        "This text has no evaluation part, so it is measured on what it learned."
        if same
        else "Measured on the evaluation part, which it does not learn from."
    )
    return (
        f'<div class="wide"><table class="figures"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody>'
        f'</table></div><p class="foot">{foot}</p>'
    )


def lineage_words(request: TuningRequest) -> str:
    """Return in a few words what a fine-tuning did to the run that it started from."""
    return f"fine-tuned {request.steps:,} step{'' if request.steps == 1 else 's'} on {request.text}"


def reads_better(measured: Measured) -> bool:
    """Return whether perplexity fell by more than the share SLIGHT; False until both values are known."""
    before, after = measured.before, measured.after
    if before is None or after is None or not math.isfinite(after):
        return False
    return after < before * (1 - SLIGHT)
