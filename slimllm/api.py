"""The public functions of the package: load, text, analyse, plan, prune, save."""

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
    """Return the analysis of a model on the calibration part of a text.

    If `folder` is given, the moments are stored there. Raise `Refusal` if the request cannot be met.
    """
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
    """Return a plan that removes `ratio` of the decoder's parameters.

    `choices` are the fields of `rules.PlanRules`. Raise `Refusal` if no plan meets them.
    """
    return plan_making.make_plan(analysis, PlanRules(ratio, **choices))


@refuse_failures
def prune(
    subject: Subject, plan: Plan, text: texts.Text | None = None, *, on_progress: Listener | None = None
) -> Pruned:
    """Return the model pruned according to the plan; the given model is not changed.

    The calibration text is the plan's own unless `text` is given.
    """
    source = text or texts.find_text(plan.calibration.text)
    return pipeline.finish_job(pipeline.prune_model(subject, plan, source), on_progress)


@refuse_failures
def save(
    pruned: Pruned, folder: str | Path, *, wanted: str = "auto", on_progress: Listener | None = None
) -> checkpoint.Export:
    """Write a verified checkpoint that plain transformers loads into `folder`, and return the export."""
    return pipeline.finish_job(checkpoint.export_checkpoint(pruned, Path(folder), wanted=wanted), on_progress)
