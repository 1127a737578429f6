"""The job that fine-tunes the pruned model of a run, and makes a new run of the result. No Gradio."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from datetime import datetime

from slimllm.calibration import texts
from slimllm.core.errors import Refusal
from slimllm.core.types import Progress
from slimllm.models.loading import Pruned, Subject
from slimllm.pruning import finetuning
from slimllm.pruning.finetuning import Tuning
from ui.facts.runs import Protocol, Run
from ui.jobs.worker import Job, Steps, undo_unless_done
from ui.look.formatting import format_change
from ui.session.finetuning_state import (
    BATCH,
    LENGTH,
    FineTuning,
    Measured,
    TuningRequest,
    lineage_words,
    reads_better,
    tuning_of,
)
from ui.session.registry import Registry
from ui.session.session import Session
from ui.tasks.comparing_methods import lead_steps
from ui.tasks.measuring import measured_column, size_of, with_tokens
from ui.tasks.model_remaking import lesson_tokens, weights_of

# A training step takes about as long as reading its tokens this many times.
TIMES_FORWARD = 5.0


def start_finetuning(registry: Registry, session: Session, number: int | None, request: TuningRequest) -> Job:
    """Start the job that fine-tunes the model of run `number` on a text, and measures it before and after.

    The result is a new run. If the job fails or is stopped, the session shows the earlier fine-tuning again.

    Return the job. Raise `Refusal` if there is no such run or text, if the limits forbid the work, or if
    another job of the session is active.
    """
    session.limits.check_finetuning(session.run(number).plan, request.text, request.steps)
    run, text = session.run(number), texts.find_text(request.text, offline=session.settings.offline)

    def run_steps(job: Job) -> Steps:
        shown = FineTuning(run.number, request)
        shown.measured = [Measured(protocol) for protocol in measuring_protocols(run, request)]
        earlier, session.results.finetuning = session.results.finetuning, shown
        session.mark("polish")

        def bring_back() -> None:
            session.results.finetuning = earlier
            session.mark("polish")

        with undo_unless_done(bring_back):
            job.say(f"Opening the model of {run.name}.")
            pruned = yield from lead_steps("The model as it is", "1", weights_of(session, run))
            begins_with = pruned.subject.beginning.words
            shown.measured = [Measured(row.protocol.begun(begins_with)) for row in shown.measured]
            check_unchanged(shown.measured[0].protocol, run, pruned.subject, session.settings.offline)
            wanted = tuning_of(
                request, learnable_tokens(text, pruned.subject, request), pruned.subject.shape.max_length
            )
            yield from lead_steps(
                "Step 1 of 3 · Before", "2", read_protocols(session, shown, pruned.subject, run)
            )
            tokens = lesson_tokens(text, pruned.subject, wanted)
            tuned = yield from lead_steps(
                "Step 2 of 3 · Learning", "3", finetuning.finetune_model(pruned, tokens, wanted)
            )
            yield from lead_steps(
                "Step 3 of 3 · After", "4", read_protocols(session, shown, tuned.subject, None)
            )
            return tuned, wanted, shown

    def on_progress(step: Progress) -> None:
        if step.stage == "3 tune" and session.results.finetuning is not None:
            session.results.finetuning.losses.append(step.result)
            session.mark("polish")

    def on_done(found: tuple[Pruned, Tuning, FineTuning]) -> None:
        tuned, wanted, shown = found
        made = tuned_run(session, run, wanted, shown, tuned.subject)
        shown.made = made.number
        session.add_run(made, {"tuned": tuned})
        session.say(
            "history",
            finetuning_verdict(run, made, shown),
            "good" if reads_better(shown.measured[0]) else "info",
        )
        session.mark("polish")

    return session.begin(registry.worker, Job("polish", "Fine-tuning", run_steps, on_progress, on_done))


def measuring_protocols(run: Run, request: TuningRequest) -> list[Protocol]:
    """Return the run's own protocol, and the same on the learned text if that is another text."""
    own = dataclasses.replace(run.protocol, text=request.text, tokens="")
    return [run.protocol] if own.is_like(run.protocol) else [run.protocol, own]


def check_unchanged(protocol: Protocol, run: Run, subject: Subject, offline: bool) -> None:
    """Raise `Refusal` if a run's text is no longer what its perplexities were measured on."""
    if protocol.tokens and protocol != with_tokens(protocol, subject, offline):
        raise Refusal(
            f"The text '{protocol.text}' has changed since {run.name} was measured; press Prune and compare "
            "first, then fine-tune the new run."
        )


def learnable_tokens(text: texts.Text, subject: Subject, request: TuningRequest) -> int:
    """Return the number of tokens in a text's calibration part, counted as far as the request can read."""
    limit = request.steps * BATCH * LENGTH
    return len(texts.tokenize_documents(text.part("calibration"), subject.tokenizer, limit=limit))


def read_protocols(
    session: Session, shown: FineTuning, subject: Subject, known: Run | None
) -> Generator[Progress, None, None]:
    """Measure the perplexity of a model by every protocol that is shown, before or after fine-tuning.

    `known` is the run before fine-tuning; perplexity by its own protocol is taken from it. After fine-tuning,
    `known` is None.
    """
    for place, row in enumerate(shown.measured):
        value = known.best.perplexity if known is not None and known.protocol == row.protocol else None
        if value is None:
            value = (yield from measured_column(subject, row.protocol, session.settings.offline)).perplexity
        before, after = (value, row.after) if known is not None else (row.before, value)
        shown.measured[place] = Measured(row.protocol, before, after)
        session.mark("polish")


def tuned_run(session: Session, run: Run, wanted: Tuning, shown: FineTuning, subject: Subject) -> Run:
    """Return the new run of a fine-tuned model: the columns of the earlier run, and one more."""
    tuned = dataclasses.replace(size_of(subject), perplexity=shown.measured[0].after, tokens=run.best.tokens)
    return Run(
        number=session.archive.store.next_number(),
        made=datetime.now().astimezone().isoformat(timespec="seconds"),
        plan=run.plan,
        protocol=shown.measured[0].protocol,
        columns={**run.columns, "tuned": tuned},
        parent=run.number,
        told=lineage_words(shown.request),
        tunings=(*run.tunings, wanted),
    )


def finetuning_verdict(run: Run, made: Run, shown: FineTuning) -> str:
    """Return a sentence on the change in perplexity, with advice if the model reads no better."""
    first = shown.measured[0]
    moved = format_change(first.after or 0.0, first.before or 0.0)
    words = f"{made.name} is {run.name}, {lineage_words(shown.request)}: perplexity {moved}."
    return (
        words
        if reads_better(first)
        else f"{words} It reads no better; a smaller rate or another text may help."
    )
