"""The jobs of the Compare tab: prune, measure all models, and let them continue prompts. No Gradio."""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from slimllm import pipeline
from slimllm.calibration import texts
from slimllm.core.errors import Refusal
from slimllm.core.types import NOTE, LayerReport, Plan, Progress
from slimllm.evaluation import evaluate
from slimllm.models.loading import Subject
from slimllm.planning import forecast, plan_making
from ui.facts.combinations import possible_keys, recoveries_for
from ui.facts.comparison import Answer, Comparison
from ui.facts.runs import LABELS, Asked, Column, Protocol, Run, best_name
from ui.jobs.worker import Job, Steps, undo_unless_done
from ui.session.kept.run_history import answer_texts
from ui.session.registry import Registry
from ui.session.session import Session
from ui.tasks.measuring import measured_column, size_of, with_tokens


def start_compare(registry: Registry, session: Session, asked: Asked) -> Job:
    """Start the job that prunes by the session's plan, measures all models, and lets them answer prompts.

    It prunes without recovery and with the plan's recovery, as far as the method allows both. The dense and
    the pruned models are measured, and continue the prompts if there are any. The result becomes a run of the
    session.

    Return the job. Raise `Refusal` if there is no model or plan, if the plan does not fit the model, if the
    limits forbid the work, or if another job of the session is active.
    """
    subject, plan = session.subject, session.plan
    session.limits.check_comparison(plan, asked)
    plan_making.check_plan(plan, subject.shape)
    asked = asked.begun(subject.beginning.words)

    def run_steps(_: Job) -> Steps:
        protocol = with_tokens(asked.protocol, subject, session.settings.offline)
        pending = session.results.pending = Comparison(plan, protocol)
        session.mark("table")
        try:
            with earlier_answers_unless_done(session):
                yield from number_stages(compare_stages(session, subject, pending, asked))
            return pending
        finally:
            session.results.pending = None
            session.mark("table")

    def on_done(comparison: Comparison) -> None:
        session.results.comparison = comparison
        run = Run(
            number=session.archive.store.next_number(),
            made=datetime.now().astimezone().isoformat(timespec="seconds"),
            plan=plan,
            protocol=comparison.protocol,
            columns=dict(comparison.columns),
            parent=session.results.parent,
            errors=tuple((r.error_predicted, r.error_measured) for r in best_reports(comparison)),
        )
        comparison.run = run.number
        session.mark("table")
        session.add_run(run, comparison.models)

    return session.begin(registry.worker, Job("compare", "Pruning and comparing", run_steps, on_done=on_done))


def best_reports(comparison: Comparison) -> tuple[LayerReport, ...]:
    """Return the layer reports of a comparison's best model, or () before it is pruned."""
    return comparison.reports.get(best_name(comparison.reports), ())


# The title of a stage, and the function that makes its steps.
Stage = tuple[str, Callable[[], Generator[Progress, None, Any]]]


def number_stages(stages: Sequence[Stage]) -> Steps:
    """Run stages one after the other, and put "Step n of N", and their title, before their words.

    Notes pass through unchanged.
    """
    for number, (title, run) in enumerate(stages, 1):
        with contextlib.closing(run()) as steps:
            for step in steps:
                if step.stage == NOTE:
                    yield step
                    continue
                words = f"Step {number} of {len(stages)} · {title} · {step.words}"
                yield dataclasses.replace(step, stage=f"{number}", words=words)


def compare_stages(session: Session, subject: Subject, pending: Comparison, asked: Asked) -> list[Stage]:
    """Return the stages that fill a comparison, in the order in which the page shows them.

    The first stage measures the dense model. Two stages prune and measure each pruned model; then come speed,
    and the answers if there are prompts.
    """
    plan, bare = pending.plan, dataclasses.replace(pending.plan, recovery="none")
    if plan.recovery != "none" and session.analysis is not None:
        bare = forecast.fill_forecast(session.analysis, bare)
    known = session.analyses.find_origin(plan)
    plans = {"pruned": bare} if plan.recovery == "none" else {"pruned": bare, "recovered": plan}
    if plan.recovery != "none" and "none" not in possible_keys(recoveries_for(plan.method)):
        # The method cannot prune without a recovery.
        del plans["pruned"]
    stages: list[Stage] = [(LABELS["dense"], partial(measure_column, session, "dense", subject, pending))]
    for name, wanted in plans.items():

        def prune_stage(name: str = name, wanted: Plan = wanted) -> Steps:
            text = texts.find_text(wanted.calibration.text, offline=session.settings.offline)
            pending.models[name] = yield from pipeline.prune_model(subject, wanted, text, known)
            pending.reports[name] = pending.models[name].layers

        def measure_stage(name: str = name) -> Steps:
            yield from measure_column(session, name, pending.models[name].subject, pending)

        stages += [(f"{LABELS[name]}: pruning", prune_stage), (LABELS[name], measure_stage)]
    stages.append(("Speed", lambda: race_models(session, subject, pending)))
    if asked.prompts:
        stages.append(
            ("Answers", lambda: answer_prompts(session, compared_subjects(subject, pending), asked))
        )
    return stages


def compared_subjects(dense: Subject, comparison: Comparison) -> dict[str, Subject]:
    """Return the models of a comparison by column name, the dense model first."""
    return {"dense": dense, **{name: pruned.subject for name, pruned in comparison.models.items()}}


def measure_column(session: Session, name: str, subject: Subject, pending: Comparison) -> Steps:
    """Fill one column of `pending`: first sizes and errors, then perplexity.

    Errors are means over layers. Speeds that are still valid are copied. The dense model's perplexity is
    measured only if the latest comparison has none by the same protocol.
    """
    reports, column = pending.reports.get(name), size_of(subject)
    if reports:
        column = dataclasses.replace(
            column,
            error_predicted=statistics.fmean(r.error_predicted for r in reports),
            error_measured=statistics.fmean(r.error_measured for r in reports),
            held_out=True,
        )
    known_speed = known_speeds(session, pending).get(name, column)
    column = dataclasses.replace(
        column,
        tokens_per_second=known_speed.tokens_per_second,
        writing_rounds=known_speed.writing_rounds,
    )
    put_column(session, pending, name, column)
    known = known_dense(session, pending.protocol) if name == "dense" else None
    if known is None or known.perplexity is None:
        known = yield from measured_column(subject, pending.protocol, session.settings.offline)
    put_column(
        session,
        pending,
        name,
        dataclasses.replace(column, perplexity=known.perplexity, tokens=known.tokens, losses=known.losses),
    )


def known_speeds(session: Session, pending: Comparison) -> Mapping[str, Column]:
    """Return the columns of the present comparison if `pending` is of the same run, else an empty dict.

    Their models are the same, so their speeds are still valid.
    """
    last = session.comparison
    if last is None or last.run is None or last.run != pending.run:
        return {}
    return last.columns


def race_models(session: Session, dense: Subject, pending: Comparison) -> Steps:
    """Measure the writing speed of all models in turns, and add it to their columns.

    A busy moment of the machine then slows all models equally. In every round, each model reads 64 tokens and
    writes 16.
    """
    found = yield from evaluate.measure_in_turns(
        {
            name: evaluate.measure_speed(subject, length=64, new_tokens=16)
            for name, subject in compared_subjects(dense, pending).items()
        }
    )
    for name, speed in found.items():
        put_column(session, pending, name, with_speed(pending.columns[name], speed))


def with_speed(column: Column, speed: evaluate.Speed) -> Column:
    """Return the column with a writing speed in tokens per second: the median, and every round."""
    return dataclasses.replace(
        column, tokens_per_second=speed.decode_tokens_per_second, writing_rounds=speed.decode
    )


def put_column(session: Session, pending: Comparison, name: str, column: Column) -> None:
    """Set one column of a comparison, and mark the table as changed."""
    pending.columns[name] = column
    session.mark("table")


def known_dense(session: Session, protocol: Protocol) -> Column | None:
    """Return the dense model's column of the latest comparison if its protocol is the same, else None."""
    last = session.comparison
    if last is None or "dense" not in last.columns:
        return None
    column = last.columns["dense"]
    return column if last.protocol == protocol else None


def start_measure(registry: Registry, session: Session, asked: Asked) -> Job:
    """Start the job that measures the models of the present comparison again, by another protocol.

    The new columns replace those of the comparison and of its run.

    Return the job. Raise `Refusal` if there is no model, if nothing has been pruned yet, if the limits forbid
    the protocol, or if another job of the session is active.
    """
    subject, last = session.subject, present_comparison(session)
    session.limits.check_protocol(asked.protocol)
    asked = asked.begun(subject.beginning.words)

    def run_steps(_: Job) -> Steps:
        protocol = with_tokens(asked.protocol, subject, session.settings.offline)
        pending = session.results.pending = dataclasses.replace(last, protocol=protocol, columns={})
        try:
            who = compared_subjects(subject, last)
            yield from number_stages(
                [(LABELS[n], partial(measure_column, session, n, who[n], pending)) for n in who]
            )
            return pending
        finally:
            session.results.pending = None
            session.mark("table")

    def on_done(comparison: Comparison) -> None:
        session.results.comparison = comparison
        session.archive.amend(comparison.run, protocol=comparison.protocol, columns=dict(comparison.columns))
        session.mark("table")

    return session.begin(registry.worker, Job("compare", "Measuring", run_steps, on_done=on_done))


def present_comparison(session: Session) -> Comparison:
    """Return the present comparison; raise `Refusal` if nothing has been pruned yet."""
    if session.comparison is None:
        raise Refusal("Nothing has been pruned yet; press Prune and compare first.")
    return session.comparison


def start_answers(registry: Registry, session: Session, asked: Asked) -> Job:
    """Start the job in which all models of the present comparison continue the prompts.

    The answers replace those of the comparison's run. If the job fails or is stopped, the earlier ones are
    back.

    Return the job. Raise `Refusal` if there is no model or prompt, if nothing has been pruned yet, if the
    limits forbid the answers, or if another job of the session is active.
    """
    subject, last = session.subject, present_comparison(session)
    session.limits.check_answers(asked)
    if not asked.prompts:
        raise Refusal("There is no prompt; write one per line.")

    def run_steps(_: Job) -> Steps:
        with earlier_answers_unless_done(session):
            yield from number_stages(
                [("Answers", lambda: answer_prompts(session, compared_subjects(subject, last), asked))]
            )

    def on_done(_: None) -> None:
        session.archive.amend(last.run, answers=answer_texts(session.results.answers))

    return session.begin(registry.worker, Job("compare", "Answering", run_steps, on_done=on_done))


@contextlib.contextmanager
def earlier_answers_unless_done(session: Session) -> Iterator[None]:
    """Clear the answers; show the earlier ones again if the work inside fails or is stopped."""
    earlier, session.results.answers = session.results.answers, []
    session.mark("answers")

    def bring_back() -> None:
        session.results.answers = earlier
        session.mark("answers")

    with undo_unless_done(bring_back):
        yield


def answer_prompts(session: Session, who: dict[str, Subject], asked: Asked) -> Steps:
    """Let all models continue every prompt with the same seed, one token of each model in turn.

    The answers in `session.results.answers` grow side by side.
    """
    session.results.answers = [Answer(prompt) for prompt in asked.prompts]
    total, most = len(asked.prompts), asked.new_tokens
    for place, answer in enumerate(session.results.answers):
        writing = {name: answer_pieces(subject, answer.prompt, asked) for name, subject in who.items()}
        answer.texts = dict.fromkeys(writing, "")
        written = 0
        while writing:
            for name, text in list(writing.items()):
                piece = next(text, None)
                if piece is None:
                    del writing[name]
                    continue
                answer.texts[name] += piece
                session.mark("answers")
                done = place * most + min(written, most)
                yield Progress(
                    "answers", done, total * most, f"All models write answer {place + 1} of {total}"
                )
            written += 1
        answer.done = True
        session.mark("answers")


def answer_pieces(subject: Subject, prompt: str, asked: Asked) -> Iterator[str]:
    """Return an iterator over a model's answer to a prompt, with one piece of text per token."""
    return evaluate.generate_text(
        subject, prompt, max_new_tokens=asked.new_tokens, temperature=asked.temperature, seed=asked.seed
    )
