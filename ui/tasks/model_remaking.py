"""The pruned model of a run: held in memory, or made once more from its plan and its tunings. No Gradio in
here."""

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
    """The model that the run stands for; one that is no longer in memory takes as long as it first took."""
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
    """The pieces (samples, length) that a tuning reads."""
    asked = Calibration(wanted.text, wanted.samples, wanted.length, wanted.seed)
    return texts.calibration_tokens(text, subject.tokenizer, asked, max_length=subject.shape.max_length)


def is_made_for(plan: Plan, subject: Subject) -> bool:
    """Whether a plan is for this very model: its name, and the weights where the plan knows them."""
    now = {"weights": subject.fingerprint.content}
    return subject.source == plan.model and not is_other(dict(plan.fingerprints), now)


def subject_of(session: Session, plan: Plan) -> Subject:
    """The dense model that a plan was made for: the session's own, else loaded from the plan's source."""
    mine = session.loaded
    if mine is not None and is_made_for(plan, mine.subject):
        plan_making.check_plan(plan, mine.subject.shape)
        return mine.subject
    subject = export_reading.load_export(plan.model, offline=session.settings.offline)
    plan_making.check_plan(plan, subject.shape)
    return subject
