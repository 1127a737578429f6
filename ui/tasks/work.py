"""The long jobs of the page: they run the library and put the results into the session. No Gradio."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
import shutil
from collections.abc import Generator, Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from slimllm import pipeline
from slimllm.analysis.analysis_files import holds_moments
from slimllm.analysis.analysis_store import MomentStore
from slimllm.calibration import texts
from slimllm.core.errors import Refusal
from slimllm.core.fingerprints import hash_tokens, is_other
from slimllm.core.types import NOTE, Analysis, Calibration, LayerAnalysis, Plan, Progress
from slimllm.evaluation import evaluate
from slimllm.export import checkpoint, export_reading, formats, model_inspection
from slimllm.files import atomic_write
from slimllm.files import paths as paths_module
from slimllm.files.paths import home_folder
from slimllm.models.loading import Subject
from slimllm.planning import plan_making
from slimllm.planning.rules import PlanRules
from slimllm.pruning import finetuning
from ui.facts.combinations import carry_choices
from ui.facts.resources.estimates import measure_rates
from ui.jobs.worker import Job, Steps, undo_unless_done
from ui.look.formatting import method_title
from ui.session.forms import START_RATIO
from ui.session.loaded import Loaded
from ui.session.registry import Registry, has_changed
from ui.session.requests import text_title
from ui.session.session import Session
from ui.session.settings import SessionSettings
from ui.tasks.model_remaking import weights_of

# The most bytes of moments on disk. With larger moments, a change of method reads the text again.
MOMENTS_ON_DISK = 2_000_000_000


# Load -------------------------------------------------------------------------------------------------------


def start_load(registry: Registry, session: Session, source: str) -> Job:
    """Start the job that loads a model, or shares one that another session has loaded.

    Return the job. Raise `Refusal` if the limits forbid the model, or if another job of the session is
    active.
    """
    source = str(source or "").strip()
    session.limits.check_model(source)

    def run_steps(job: Job) -> Steps:
        found = open_model(registry, job, source, session.settings)
        yield Progress("load", 1, 1, "Loaded.")
        return found

    return session.begin(registry.worker, Job("load", "Loading", run_steps, on_done=session.set_loaded))


def open_model(registry: Registry, job: Job, source: str, how: SessionSettings) -> Loaded:
    """Return a model: the one in memory if some session uses it, else a new one, loaded and timed.

    Raise `Refusal` if it cannot be loaded, and `Stopped` if the job is stopped meanwhile.
    """
    job.say(f"Opening {source or 'the model'}.")

    def make_model(again: bool) -> Loaded:
        if again:
            words = f"The files of '{source}' have changed since they were loaded, so they are read again."
            job.note(Progress(NOTE, 0, 0, words))
        subject = export_reading.load_export(
            source, device=how.device, dtype=how.dtype, offline=how.offline, say=job.say_unless_stopped
        )
        job.say("Measuring how fast it reads.")
        found = pipeline.finish_job(evaluate.measure_speed(subject, length=128, new_tokens=1, repeats=2))
        kind = str(subject.dtype).removeprefix("torch.")
        rates = measure_rates(subject, found.prefill_tokens_per_second)
        return Loaded(
            subject, rates, str(subject.device), kind, tuple(model_inspection.export_outlook(subject))
        )

    return registry.models.take(source, how.device, how.dtype, make_model)


# Analyse ----------------------------------------------------------------------------------------------------


def start_analyse(
    registry: Registry,
    session: Session,
    calibration: Calibration,
    method: str,
    options: Mapping[str, Any] | None = None,
) -> Job:
    """Start the job that scores all layers; `session.partial` fills up while it runs.

    If the job fails or is stopped, the session shows the earlier layers again.

    Return the job. Raise `Refusal` if there is no model, if the limits forbid the reading, or if another job
    of the session is active.
    """
    subject = session.subject
    session.limits.check_calibration(calibration)

    def run_steps(job: Job) -> Steps:
        show_earlier = session.analyses.begin_filling(method, calibration, len(subject.layers))
        session.mark("layers", "training")
        job.say(f"Reading {calibration.samples * calibration.length:,} tokens of {calibration.text}.")

        def bring_back() -> None:
            show_earlier()
            session.mark("layers", "training")

        with undo_unless_done(bring_back):
            return (yield from score_layers(subject, calibration, method, options, session.settings.offline))

    def on_progress(progress: Progress) -> None:
        if progress.stage == "gates" and progress.result:
            session.analyses.training.append(progress.result)
            session.mark("training")
        elif isinstance(progress.result, LayerAnalysis):
            session.analyses.partial[progress.done - 1] = progress.result
            session.mark("layers")

    def on_done(analysis: Analysis) -> None:
        plan, said = first_plan(session, analysis)
        session.set_analysis(analysis, plan)
        if said:
            session.say("analyse", said)
            session.say("tune", said)

    return session.begin(registry.worker, Job("analyse", "Analysis", run_steps, on_progress, on_done))


def score_layers(
    subject: Subject, calibration: Calibration, method: str, options: Mapping[str, Any] | None, offline: bool
) -> Generator[Progress, None, Analysis]:
    """Score all layers, and return the analysis; moments that are on disk are not collected again.

    Raise `Refusal` if there is no such text.
    """
    if has_changed(subject):
        words = (
            f"The files of '{subject.source}' have changed since it was loaded; load it again to use them."
        )
        yield Progress(NOTE, 0, 0, words)
    text = texts.find_text(calibration.text, offline=offline)
    folder = moments_folder(subject, calibration)
    return (
        yield from pipeline.analyse_model(
            subject, text, calibration, method_name=method, options=options, folder=folder
        )
    )


def is_current(analysis: Analysis, subject: Subject, offline: bool) -> bool:
    """Return whether the text of an analysis still has the tokens that it had.

    Only files can change. The answer is True if the text cannot be found.
    """
    asked = analysis.calibration
    # A text that is gone does not show whether it has changed.
    with contextlib.suppress(Refusal):
        text = texts.find_text(asked.text, offline=offline)
        if not text.parts_differ:
            tokens = texts.calibration_tokens(
                text, subject.tokenizer, asked, max_length=subject.shape.max_length
            )
            return not is_other(analysis.fingerprints, {"tokens": hash_tokens(tokens)})
    return True


def start_second(
    registry: Registry,
    session: Session,
    calibration: Calibration,
    method: str,
    options: Mapping[str, Any] | None,
) -> Job:
    """Start the job that scores the layers by a second method or text, and lays the result over the maps.

    Return the job. Raise `Refusal` if there is no model, if the limits forbid the reading, or if another job
    of the session is active.
    """
    subject = session.subject
    session.limits.check_calibration(calibration)

    def run_steps(job: Job) -> Steps:
        job.say(f"Scoring with {method_title(method)} on {text_title(calibration.text)}.")
        offline = session.settings.offline
        return (yield from score_layers(subject, calibration, method, options, offline))

    def on_done(analysis: Analysis) -> None:
        session.keep_analysis(analysis)
        session.lay_over(analysis)

    return session.begin(registry.worker, Job("second", "Second analysis", run_steps, on_done=on_done))


def first_plan(session: Session, analysis: Analysis) -> tuple[Plan, str]:
    """Return a plan to start from, and a sentence on the choices that it had to give up.

    It follows the present plan as far as the analysis allows. Without one, it makes the model smaller by
    START_RATIO. If a ratio is not possible, it tries START_RATIO, then 0.1, then 0.
    """
    present = session.present
    recovery, allocation, said = carry_choices(present, analysis.method)
    wanted = PlanRules(
        present.ratio_requested if present else START_RATIO,
        recovery=recovery,
        allocation=allocation,
        align=present.align if present else 8,
        count=present.count if present else "decoder",
        locks=session.locks,
    )
    for ratio in (wanted.ratio, START_RATIO, 0.1):
        with contextlib.suppress(Refusal):
            return plan_making.make_plan(analysis, replace(wanted, ratio=ratio)), said
    return plan_making.make_plan(analysis, PlanRules(0.0)), said


def moments_folder(subject: Subject, calibration: Calibration) -> Path | None:
    """Return the folder of the moments for later changes of method, or None if they are too large.

    Moments of earlier calibrations are removed, except the latest and those that another program uses.
    """
    shape = subject.shape
    size = sum(4 * ((layer.heads * shape.head_size) ** 2 + layer.channels**2) for layer in shape.layers)
    if size > MOMENTS_ON_DISK:
        return None
    key = json.dumps([subject.source, str(subject.dtype), shape.widths, dataclasses.asdict(calibration)])
    name = hashlib.sha256(key.encode()).hexdigest()[:16]
    root = home_folder() / "moments"
    own = MomentStore(root / name)
    stores = (path for name in atomic_write.names_in(root) if holds_moments(path := root / name))
    for other in oldest_first(stores)[:-1]:
        if other not in (own.folder, own.begun.folder):
            MomentStore(other).remove_unread()
    return own.folder


def oldest_first(paths: Iterable[Path]) -> list[Path]:
    """Return paths in the order of their last change, without those that vanish meanwhile."""
    times = {}
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            times[path] = path.stat().st_mtime
    return sorted(times, key=times.__getitem__)


# Export -----------------------------------------------------------------------------------------------------


def pack_export(folder: Path, into: Path) -> dict[str, str]:
    """Pack an exported folder into a zip file in `into`, in place of the one before it.

    Return its path as `zip`, or as `unpacked` the sentence that says why there is none.
    """
    for old in into.glob("*.zip"):
        old.unlink(missing_ok=True)
    archive = into / f"{folder.name}.zip"

    def write_zip(made: Path) -> None:
        shutil.make_archive(str(made.with_suffix("")), "zip", root_dir=folder.parent, base_dir=folder.name)

    try:
        atomic_write.replace_file(
            archive, write_zip, "The zip for download could not be packed", "free space for it"
        )
    except Refusal as refusal:
        return {"unpacked": str(refusal)}
    return {"zip": str(archive)}


def exports_folder(session: Session) -> Path:
    """Return the folder for the exports of a session.

    On a server for others its name cannot be guessed, because whoever knows it may open what is inside. On a
    shared server it goes with the session, and each export replaces the one before it.
    """
    if session.limits.shared:
        folder = session.folder / "exports"
        shutil.rmtree(folder, ignore_errors=True)
        return folder
    root = home_folder() / "exports"
    return root if paths_module.allowed_roots() is None else root / session.archive.store.folder.name


def start_export(registry: Registry, session: Session, number: int | None, tier: str) -> Job:
    """Start the job that writes, verifies and packs the checkpoint of a run.

    The model is made again from its plan if it is no longer in memory.

    Return the job. Raise `Refusal` if there is no such run or tier, if the limits forbid its model, or if
    another job of the session is active.
    """
    run = session.run(number)
    session.limits.check_run(run.plan)
    formats.check_wanted(tier)

    def run_steps(job: Job) -> Steps:
        job.say(f"Opening the model of {run.name}.")
        pruned = yield from weights_of(session, run)
        slug = re.sub(r"[^A-Za-z0-9.-]+", "-", Path(run.plan.model).name).strip("-.") or "model"
        # With microseconds, no other export has the same name.
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S-%f")
        folder = exports_folder(session) / f"{slug}-run{run.number}-{stamp}"
        job.say("Choosing how to store it.", "export")
        notes = [finetuning.finetuning_words(wanted) for wanted in run.tunings]
        export = yield from checkpoint.export_checkpoint(pruned, folder, wanted=tier, card_notes=notes)
        yield Progress("pack", 1, 1, "Packing a zip for download.")
        return {**dataclasses.asdict(export), **pack_export(folder, session.folder)}

    def on_done(export: dict[str, Any]) -> None:
        session.archive.amend(run.number, exported=export)

    return session.begin(registry.worker, Job("export", "Export", run_steps, on_done=on_done))
