"""The pruned model of a run: taken from memory, or made again from its plan and fine-tunings. No Gradio."""

from __future__ import annotations

from collections.abc import Generator

from torch import Tensor

from slimllm import pipeline
from slimllm.calibration import texts
from slimllm.core.fingerprints import is_other
from slimllm.core.types import Calibration, Plan, Progress
from slimllm.export import export_reading
from slimllm.models.loading import Pruned, Subject
from slimllm.planning import plan_making
from slimllm.pruning import finetuning
from slimllm.pruning.finetuning import Tuning
from ui.facts.runs import Run
from ui.session.session import Session


def weights_of(session: Session, run: Run) -> Generator[Progress, None, Pruned]:
    """Return the best pruned model of a run.

    If it is no longer in memory, it is pruned and fine-tuned again, which takes as long as the first time.
    Raise `Refusal` if the dense model or a text cannot be found, or if the plan does not fit the model.
    """
    held = session.results.weights.get(run.number, {}).get(run.best_name)
    if held is not None:
        return held
    subject, offline = subject_of(session, run.plan), session.settings.offline
    text = texts.find_text(run.plan.calibration.text, offline=offline)
    pruned = yield from pipeline.prune_model(subject, run.plan, text, session.analyses.find_origin(run.plan))
    for wanted in run.tunings:
        tokens = lesson_tokens(texts.find_text(wanted.text, offline=offline), pruned.subject, wanted)
        pruned = yield from finetuning.finetune_model(pruned, tokens, wanted)
    return pruned


def lesson_tokens(text: texts.Text, subject: Subject, wanted: Tuning) -> Tensor:
    """Return the token ids (samples, length) that a fine-tuning reads."""
    asked = Calibration(wanted.text, wanted.samples, wanted.length, wanted.seed)
    return texts.calibration_tokens(text, subject.tokenizer, asked, max_length=subject.shape.max_length)


def is_made_for(plan: Plan, subject: Subject) -> bool:
    """Return whether a plan is for this model: same source, and same weights if the plan knows them."""
    now = {"weights": subject.fingerprint.content}
    return subject.source == plan.model and not is_other(dict(plan.fingerprints), now)


def subject_of(session: Session, plan: Plan) -> Subject:
    """Return the dense model of a plan: the session's own if the plan is for it, else loaded from its source.

    Raise `Refusal` if it cannot be loaded or does not fit the plan.
    """
    mine = session.loaded
    if mine is not None and is_made_for(plan, mine.subject):
        plan_making.check_plan(plan, mine.subject.shape)
        return mine.subject
    subject = export_reading.load_export(plan.model, offline=session.settings.offline)
    plan_making.check_plan(plan, subject.shape)
    return subject
