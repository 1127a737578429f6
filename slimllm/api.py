"""What the package offers to programs: load, text, analyse, plan, prune, save."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from slimllm import pipeline
from slimllm.calibration import texts
from slimllm.core.errors import Refusal
from slimllm.core.failures import refuse_failures
from slimllm.core.types import Analysis, Calibration, Plan, Progress
from slimllm.export import checkpoint, export_reading
from slimllm.models.loading import Pruned, Subject
from slimllm.planning import plan_making
from slimllm.planning.rules import PlanRules

__all__ = ["Calibration", "Refusal", "analyse", "load", "plan", "prune", "save", "text"]

Listener = Callable[[Progress], None]
load, text = refuse_failures(export_reading.load_export), refuse_failures(texts.find_text)


@refuse_failures
def analyse(
    subject: Subject,
    text: texts.Text,
    calibration: Calibration | None = None,
    *,
    method: str = "slimllm",
    options: Mapping[str, Any] | None = None,
    folder: str | Path | None = None,
    on_progress: Listener | None = None,
) -> Analysis:
    """The analysis of a subject on the calibration part of a text; its moments are kept in `folder` if one
    is given."""
    job = pipeline.analyse_model(
        subject,
        text,
        calibration or Calibration(text=text.name),
        method_name=method,
        options=options,
        folder=Path(folder) if folder else None,
    )
    return pipeline.finish_job(job, on_progress)


@refuse_failures
def plan(analysis: Analysis, ratio: float, **choices: Any) -> Plan:
    """Return a plan that removes `ratio` of the decoder's parameters; choices as in `rules.PlanRules`."""
    return plan_making.make_plan(analysis, PlanRules(ratio, **choices))


@refuse_failures
def prune(
    subject: Subject, plan: Plan, text: texts.Text | None = None, *, on_progress: Listener | None = None
) -> Pruned:
    """The subject pruned to the plan, on the plan's own calibration text unless another is given."""
    source = text or texts.find_text(plan.calibration.text)
    return pipeline.finish_job(pipeline.prune_model(subject, plan, source), on_progress)


@refuse_failures
def save(
    pruned: Pruned, folder: str | Path, *, wanted: str = "auto", on_progress: Listener | None = None
) -> checkpoint.Export:
    """What was written into `folder`: a verified checkpoint that plain transformers loads."""
    return pipeline.finish_job(checkpoint.export_checkpoint(pruned, Path(folder), wanted=wanted), on_progress)
