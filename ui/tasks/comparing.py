"""The jobs of the Compare tab: prune twice, measure all three models, let them answer. No Gradio in here."""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from torch import Tensor

from slimllm import pipeline
from slimllm.calibration import texts
from slimllm.core.errors import Refusal
from slimllm.core.fingerprints import hash_tokens
from slimllm.core.types import NOTE, LayerReport, Plan, Progress
from slimllm.evaluation import evaluate
from slimllm.models.loading import Subject
from slimllm.planning import forecast, plan_making
from ui.facts.combinations import possible_keys, recoveries_for
from ui.facts.comparison import Answer, Comparison
from ui.facts.runs import LABELS, Asked, Column, Protocol, Run, best_name
from ui.jobs.worker import Job, Steps
from ui.session.kept.run_history import answer_texts
from ui.session.registry import Registry
from ui.session.session import Session


def start_compare(registry: Registry, session: Session, asked: Asked) -> Job:
    """The job that prunes by the session's plan, without and with recovery, measures all three models and
    lets them answer; it becomes a run."""
    subject, plan = session.subject, session.plan
    plan_making.check_plan(plan, subject.shape)
    asked = asked.begun(subject.beginning.words)

    def run_steps(_: Job) -> Steps:
        protocol = with_tokens(asked.protocol, subject, session.settings.offline)
        pending = session.results.pending = Comparison(plan, protocol)
        earlier, session.results.answers, done = session.results.answers, [], False
        session.mark("table", "answers")
        try:
            yield from number_stages(compare_stages(session, subject, pending, asked))
            done = True
            return pending
        finally:
            session.results.pending = None
            session.results.answers = session.results.answers if done else earlier
            session.mark("table", "answers")

    def on_done(comparison: Comparison) -> None:
        session.results.comparison = comparison
        run = Run(
            number=session.archive.shelf.next_number(),
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
    """The layer reports of the pruned model that the plan stands for."""
    return comparison.reports.get(best_name(comparison.reports), ())


Stage = tuple[str, Callable[[], Generator[Progress, None, Any]]]


def number_stages(stages: Sequence[Stage]) -> Steps:
    """Runs stages one after the other; each step says which of how many it belongs to."""
    for number, (title, run) in enumerate(stages, 1):
        with contextlib.closing(run()) as steps:
            for step in steps:
                if step.stage == NOTE:
                    yield step
                    continue
                words = f"Step {number} of {len(stages)} · {title} · {step.words}"
                yield dataclasses.replace(step, stage=f"{number}", words=words)


def compare_stages(session: Session, subject: Subject, pending: Comparison, asked: Asked) -> list[Stage]:
    """All stages of a comparison, in the order in which they are shown."""
    plan, bare = pending.plan, dataclasses.replace(pending.plan, recovery="none")
    if plan.recovery != "none" and session.analysis is not None:
        bare = forecast.fill_forecast(session.analysis, bare)
    known = session.analyses.find_origin(plan)
    plans = {"pruned": bare} if plan.recovery == "none" else {"pruned": bare, "recovered": plan}
    if plan.recovery != "none" and "none" not in possible_keys(recoveries_for(plan.method)):
        del plans["pruned"]  # the method cannot do without
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
    """The models of a comparison by column."""
    return {"dense": dense, **{name: pruned.subject for name, pruned in comparison.models.items()}}


def measure_column(session: Session, name: str, subject: Subject, pending: Comparison) -> Steps:
    """Fills one column: sizes at once, then perplexity, which for the dense model is measured only once."""
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
    """The columns whose speeds were measured before, where the models are the same ones."""
    last = session.comparison
    if last is None or last.run is None or last.run != pending.run:
        return {}
    return last.columns


def race_models(session: Session, dense: Subject, pending: Comparison) -> Steps:
    """Measures how fast all models write, round by round in turns, so that a busy moment slows all of them
    alike."""
    found = yield from evaluate.measure_in_turns(
        {
            name: evaluate.measure_speed(subject, length=64, new_tokens=16)
            for name, subject in compared_subjects(dense, pending).items()
        }
    )
    for name, speed in found.items():
        put_column(session, pending, name, with_speed(pending.columns[name], speed))


def with_speed(column: Column, speed: evaluate.Speed) -> Column:
    """The column with a writing speed."""
    return dataclasses.replace(
        column, tokens_per_second=speed.decode_tokens_per_second, writing_rounds=speed.decode
    )


def put_column(session: Session, pending: Comparison, name: str, column: Column) -> None:
    pending.columns[name] = column
    session.mark("table")


def known_dense(session: Session, protocol: Protocol) -> Column | None:
    """The dense model's figures from the latest comparison, if measured the same way."""
    last = session.comparison
    if last is None or "dense" not in last.columns:
        return None
    column = last.columns["dense"]
    return column if last.protocol == protocol else None


def size_of(subject: Subject) -> Column:
    """A column with a model's sizes."""
    parameters = subject.shape.parameters
    return Column(parameters, parameters * subject.dtype.itemsize)


def with_tokens(protocol: Protocol, subject: Subject, offline: bool) -> Protocol:
    """The protocol with the fingerprint of the tokens that it reads now: the same name may stand for other
    words later."""
    ids = read_tokens(protocol, subject, offline)
    return dataclasses.replace(protocol, tokens=hash_tokens(ids))


def read_tokens(protocol: Protocol, subject: Subject, offline: bool) -> Tensor:
    """The token ids (n,) that are measured on."""
    text = texts.find_text(protocol.text, offline=offline)
    return texts.evaluation_tokens(text, subject.tokenizer, limit=protocol.limit or None)


def measured_column(subject: Subject, protocol: Protocol, offline: bool) -> Generator[Progress, None, Column]:
    """A column with a model's sizes and its perplexity."""
    ids = read_tokens(protocol, subject, offline)
    found = yield from evaluate.measure_perplexity(subject, ids, protocol.window)
    return dataclasses.replace(
        size_of(subject), perplexity=found.perplexity, tokens=found.tokens, losses=found.losses
    )


def start_measure(registry: Registry, session: Session, asked: Asked) -> Job:
    """The job that measures the models of the present comparison again, on another text or window."""
    subject, last = session.subject, present_comparison(session)
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
    """The present comparison; a `Refusal` where nothing has been pruned yet."""
    if session.comparison is None:
        raise Refusal("Nothing has been pruned yet; press Prune and compare first.")
    return session.comparison


def start_answers(registry: Registry, session: Session, asked: Asked) -> Job:
    """The job that lets all models of the present comparison continue the prompts."""
    subject, last = session.subject, present_comparison(session)
    if not asked.prompts:
        raise Refusal("There is no prompt; write one per line.")

    def run_steps(_: Job) -> Steps:
        yield from number_stages(
            [("Answers", lambda: answer_prompts(session, compared_subjects(subject, last), asked))]
        )

    def on_done(_: None) -> None:
        session.archive.amend(last.run, answers=answer_texts(session.results.answers))

    return session.begin(registry.worker, Job("compare", "Answering", run_steps, on_done=on_done))


def answer_prompts(session: Session, who: dict[str, Subject], asked: Asked) -> Steps:
    """Lets all models continue every prompt with the same seed, a token of each in turn; the session's
    answers grow side by side."""
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
    return evaluate.generate_text(
        subject, prompt, max_new_tokens=asked.new_tokens, temperature=asked.temperature, seed=asked.seed
    )
