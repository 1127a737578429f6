"""What the package offers to programs: load, text, analyse, plan, prune, save."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from slimllm import pipeline
from slimllm.calibration import texts
from slimllm.core.errors import Refusal
from slimllm.core.failures import refusing
from slimllm.core.types import Analysis, Calibration, Plan, Progress
from slimllm.export import checkpoint, export_reading
from slimllm.models.loading import Pruned, Subject
from slimllm.planning import plan_making

__all__ = ["Calibration", "Refusal", "analyse", "load", "plan", "prune", "save", "text"]

Listener = Callable[[Progress], None]
load, text = refusing(export_reading.load), refusing(texts.text)


@refusing
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
    job = pipeline.analyse(
        subject,
        text,
        calibration or Calibration(text=text.name),
        method_name=method,
        options=options,
        folder=Path(folder) if folder else None,
    )
    return pipeline.finish(job, on_progress)


@refusing
def plan(analysis: Analysis, ratio: float, **choices: Any) -> Plan:
    """A plan that removes `ratio` of the decoder's parameters; choices as in `planning.make_plan`."""
    return plan_making.make_plan(analysis, ratio, **choices)


@refusing
def prune(
    subject: Subject, plan: Plan, text: texts.Text | None = None, *, on_progress: Listener | None = None
) -> Pruned:
    """The subject pruned to the plan, on the plan's own calibration text unless another is given."""
    source = text or texts.text(plan.calibration.text)
    return pipeline.finish(pipeline.prune(subject, plan, source), on_progress)


@refusing
def save(
    pruned: Pruned, folder: str | Path, *, wanted: str = "auto", on_progress: Listener | None = None
) -> checkpoint.Export:
    """What was written into `folder`: a verified checkpoint that plain transformers loads."""
    return pipeline.finish(checkpoint.export(pruned, Path(folder), wanted=wanted), on_progress)
