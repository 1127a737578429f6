"""Jobs that probe the models of the present comparison. No Gradio.

One measures the loss of every token of a passage, one perplexity on every topic, and one speed.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping

import torch

from slimllm.calibration import texts
from slimllm.calibration.documents import replace_surrogates
from slimllm.core.errors import Refusal
from slimllm.core.types import Progress
from slimllm.evaluation import evaluate
from slimllm.evaluation.significance import paired_difference
from slimllm.models.loading import Subject
from ui.facts.comparison import Comparison
from ui.facts.findings import Passage, find_excerpt, pieces_of
from ui.facts.runs import LABELS, best_name
from ui.jobs.worker import Job, Steps, retold
from ui.session.limits import check_most
from ui.session.registry import Registry
from ui.session.session import Session
from ui.tasks.comparing import compared_subjects, present_comparison, with_speed

# Tokens of a passage that is taken from a text.
PASSAGE = 160
# The most tokens and letters of the user's own passage.
MOST_OWN_TOKENS, LONGEST_PASSAGE = 400, 8000
# Passages among which the worst is found.
SEARCHED = 12
# The models by column name.
Made = Mapping[str, Subject]


# A passage --------------------------------------------------------------------------------------------------


def start_passage(registry: Registry, session: Session, own: str, text: str, *, search: bool = False) -> Job:
    """Start the job in which all models read one passage.

    It is the user's own passage if there is one. Otherwise it is the next passage in the evaluation part of
    `text`, or with `search` the one of SEARCHED passages whose loss rises most.

    Return the job. Raise `Refusal` if there is no model, if nothing has been pruned yet, if the limits forbid
    the text, or if another job of the session is active.
    """
    subject, last = session.subject, present_comparison(session)
    if not own.strip():
        session.limits.check_text(text)
    who, own, findings = compared_subjects(subject, last), own.strip(), last.findings

    def run_steps(job: Job) -> Steps:
        if own:
            found = [("your own words", own_ids(subject, own))]
        else:
            job.say(f"Opening {text}.")
            documents = texts.find_text(text, offline=session.settings.offline).part("evaluation")
            numbers = range(SEARCHED) if search else [findings.next_passage]
            found = [
                (f"{text}, passage {n + 1}", passage_ids(subject, find_excerpt(documents, n)))
                for n in numbers
            ]
        best: Passage | None = None
        for place, (source, ids) in enumerate(found):
            made = yield from read_passage(who, source, ids, place, len(found))
            if best is None or mean_rise(made, last) > mean_rise(best, last):
                best = made
        return best

    def on_done(passage: Passage) -> None:
        findings.passage = passage
        findings.next_passage += 0 if own or search else 1
        session.mark("passage")
        session.archive.amend(last.run, found=findings.found())

    title = "Looking for the worst passage" if search and not own else "Reading the passage"
    job = Job("passage", title, run_steps, on_done=on_done)
    job.left = "the passage before it stays"
    return session.begin(registry.worker, job)


def own_ids(subject: Subject, text: str) -> torch.Tensor:
    """Return the token ids (n,) of the user's own passage; raise `Refusal` if it is too long."""
    if len(text) > LONGEST_PASSAGE:
        raise Refusal(f"The passage has {len(text):,} letters; use one of at most {LONGEST_PASSAGE:,}.")
    ids = (
        subject.tokenizer(replace_surrogates(text), add_special_tokens=False, return_tensors="pt")
        .input_ids[0]
        .long()
    )
    if len(ids) > MOST_OWN_TOKENS:
        raise Refusal(f"The passage has {len(ids):,} tokens; use one of at most {MOST_OWN_TOKENS}.")
    return ids


def passage_ids(subject: Subject, text: str) -> torch.Tensor:
    """Return the first token ids (n,) of a text: at most PASSAGE, and no more than the model can read."""
    room = subject.shape.max_length - len(subject.beginning.ids)
    return texts.tokenize_documents([text], subject.tokenizer, limit=min(PASSAGE, room))


def read_passage(who: Made, source: str, ids: torch.Tensor, place: int, total: int) -> Steps:
    """Let every model read the passage `ids` (n,), and return it with their losses.

    It is passage number `place` of `total`.
    """
    made, models = {}, len(who)
    for index, (name, subject) in enumerate(who.items()):
        which = f" passage {place + 1} of {total}" if total > 1 else " the passage"
        yield Progress(
            "passage", place * models + index, total * models, f"{LABELS[name]} model reads{which}"
        )
        made[name] = evaluate.read_passage(subject, ids)
    first = next(iter(who.values()))
    pieces = pieces_of(ids.tolist(), made, first.tokenizer.decode)
    return Passage(source, pieces, first.beginning.words)


def mean_rise(passage: Passage, comparison: Comparison) -> float:
    """Return the mean rise of the best model's loss in nats per piece; −inf if no piece was predicted."""
    rises = passage.rises(best_name(comparison.models))
    return statistics.fmean(rises) if rises else -math.inf


# Topics -----------------------------------------------------------------------------------------------------


def start_topics(registry: Registry, session: Session, limit: int) -> Job:
    """Start the job that measures all models on `limit` tokens of every topic of the encyclopedia.

    What is measured stays if the job is stopped. A topic that fills no window is only reported as too short.

    Return the job. Raise `Refusal` if nothing has been pruned yet, if the starter kit is missing, if `limit`
    fills no window or is beyond the limits, or if another job of the session is active.
    """
    subject, last = session.subject, present_comparison(session)
    who, findings, window = compared_subjects(subject, last), last.findings, last.protocol.window
    names = texts.list_topics()
    check_most("tokens of all topics", limit * len(names), session.limits.read_tokens)
    if limit < window:
        raise Refusal(
            f"{limit:,} tokens of each topic do not fill one window of {window:,}; ask for more, or measure "
            "the models with a smaller window first."
        )

    def run_steps(_: Job) -> Steps:
        findings.begin_topics(window, subject.beginning.words)
        session.mark("topics")
        try:
            for place, topic in enumerate(names):
                text = texts.find_text(f"encyclopedia/{topic}")
                ids = texts.evaluation_tokens(text, subject.tokenizer, limit=limit)
                if len(ids) < window:
                    findings.too_short[topic] = len(ids)
                    session.mark("topics")
                    continue
                losses: dict[str, tuple[float, ...]] = {}
                for name, model in who.items():
                    said = f"Topic {place + 1} of {len(names)} · {topic} · {LABELS[name]}"
                    measured = evaluate.measure_perplexity(model, ids, window)
                    found = yield from merge_steps(measured, place, len(names), said)
                    findings.topics.setdefault(topic, {})[name] = found.perplexity
                    findings.counts[topic] = found.tokens
                    losses[name] = found.losses
                    if apart := paired_difference(losses["dense"], found.losses):
                        findings.spreads.setdefault(topic, {})[name] = apart[1]
                    session.mark("topics")
        finally:
            # A stopped job keeps what it has measured.
            session.archive.amend(last.run, found=findings.found())

    job = Job("topics", "Measuring every topic", run_steps)
    job.left = "what was measured stays"
    return session.begin(registry.worker, job)


def merge_steps(steps: Steps, place: int, total: int, words: str) -> Steps:
    """Yield the steps of one measurement as step `place` of `total`, and return its result."""
    return retold(steps, lambda _: Progress("topics", place, total, words))


# Speed ------------------------------------------------------------------------------------------------------


def start_pace(registry: Registry, session: Session, length: int, new_tokens: int, rounds: int) -> Job:
    """Start the job that measures in turns how fast all models read and write.

    `length` and `new_tokens` are the tokens of the prompt and of the answer. The new writing speeds also
    replace those of the table.

    Return the job. Raise `Refusal` if nothing has been pruned yet, if prompt and answer are longer than the
    model can read or the limits permit, or if another job of the session is active.
    """
    subject, last = session.subject, present_comparison(session)
    session.limits.check_speed(length, new_tokens, rounds)
    room = subject.shape.max_length - new_tokens
    if length > room:
        raise Refusal(f"This model has room for a prompt of {room:,} tokens beside {new_tokens:,} new ones.")
    who = compared_subjects(subject, last)

    def run_steps(_: Job) -> Steps:
        running = {
            name: evaluate.measure_speed(model, length=length, new_tokens=new_tokens, repeats=rounds)
            for name, model in who.items()
        }
        total = len(who) * (rounds + 1)
        done = itertools.count(1)
        return (
            yield from retold(
                evaluate.measure_in_turns(running),
                lambda step: Progress("pace", next(done), total, f"All models in turns · {step.words}"),
            )
        )

    def on_done(found: dict[str, evaluate.Speed]) -> None:
        last.findings.speeds = found
        for name, speed in found.items():
            last.columns[name] = with_speed(last.columns[name], speed)
        session.archive.amend(last.run, columns=dict(last.columns))
        session.mark("pace", "table")

    return session.begin(registry.worker, Job("pace", "Measuring speed", run_steps, on_done=on_done))
