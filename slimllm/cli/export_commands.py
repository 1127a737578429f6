"""The commands that write checkpoints or upload them to a model hub."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from slimllm import pipeline
from slimllm.calibration import texts
from slimllm.cli import feasibility
from slimllm.cli.commands import (
    Arguments,
    Report,
    calibration_of,
    load_subject,
    measure_perplexity,
    rules_from,
    run_analysis,
)
from slimllm.cli.option_checks import check_against
from slimllm.core.errors import Refusal
from slimllm.core.types import Plan, Progress
from slimllm.export import (
    checkpoint,
    dry_run,
    export_reading,
    formats,
    gguf_writer,
    hub_upload,
    write_targets,
)
from slimllm.models.loading import Pruned
from slimllm.planning import plan_json, plan_making, rules
from slimllm.pruning import finetuning


def check_targets(given: Arguments) -> None:
    """Raise `Refusal` if the output folder or repository cannot be written to, before hours of work."""
    write_targets.check_target(given.out, given.model)
    if given.push:
        hub_upload.check_repository(given.push, offline=given.offline)


def export_and_push(
    pruned: Pruned, given: Arguments, report: Report, recipe: str, notes: Sequence[str] = ()
) -> dict[str, Any]:
    """Export a model, upload it if requested, and return the part of the answer about both."""
    folder = still_free(given, report)
    job = checkpoint.export_checkpoint(pruned, folder, wanted=given.export, recipe=recipe, card_notes=notes)
    done = pipeline.finish_job(job, report.progress)
    report.say(done.words)
    answer = {
        "tier": done.tier,
        "why": done.words,
        "bytes": done.bytes,
        "verified": done.verified,
        "max_logit_difference": done.max_logit_difference,
        "out": str(folder),
    }
    if given.push:
        answer["pushed"] = hub_upload.push_export(folder, given.push, report.say)
    return answer


def still_free(given: Arguments, report: Report) -> Path:
    """Return the folder to export to.

    That is the requested folder. If something else appeared there while the model was made, it is a new one
    beside it, so that neither is lost.
    """
    try:
        write_targets.check_target(given.out, given.model)
        return Path(given.out)
    except Refusal as refusal:
        beside = given.out.absolute()
        new = beside.with_name(f"{beside.name}-{datetime.now():%Y%m%d-%H%M%S}")
        report.say(f"{refusal} Meanwhile the export goes to '{new}'.")
        return new


def given_plan(given: Arguments, report: Report) -> Plan | None:
    """Return the plan in the file of --plan, or None if --ratio is given instead.

    Raise `Refusal` if neither is given or if an option contradicts the plan.
    """
    if given.plan is None:
        if given.ratio is None:
            raise Refusal("Either --plan or --ratio is required; give one of the two.")
        return None
    plan = plan_json.read_plan(given.plan)
    check_against(plan, given.named, f"Plan '{given.plan}'")
    if not plan.predicted_error:
        report.say(f"'{given.plan}' was changed by hand, so its figures are computed anew.")
    return plan


def run_prune(given: Arguments, report: Report) -> dict[str, Any]:
    """Prune a model by a plan or to a ratio, export it and return the answer."""
    check_targets(given)
    ready = given_plan(given, report)
    text = texts.find_text(ready.calibration.text if ready else given.text, offline=given.offline)
    subject = load_subject(given.model, given, report)
    analysis = None
    if ready is None:
        if given.ratio == 0:
            report.say("A ratio of 0 removes nothing; the dense model is exported.")
        allocation, recovery = rules.check_combination(given.method, given.allocation, given.recovery)
        feasibility.check_feasibility(subject, given, allocation, recovery)
        analysis = run_analysis(subject, given, report, recoveries=[recovery])
        wanted = rules_from(given)
        equal = replace(wanted, same_width=True)
        ready = plan_making.make_plan(analysis, equal if given.export in ("native", "twin") else wanted)
        if given.export == "gguf" and not dry_run.is_storable(subject, ready, "gguf"):
            alike = plan_making.make_plan(analysis, equal)
            if dry_run.is_storable(subject, alike, "gguf"):
                report.say("llama.cpp reads this model only if all layers are equally wide, so they will be.")
                ready = alike
    plan_making.check_plan(ready, subject.shape)
    if doubt := rules.text_doubt(
        subject.shape, ready.recovery, ready.calibration.samples * ready.calibration.length
    ):
        report.say(doubt)
    dry_run.check_storable(subject, ready, given.export)
    if given.export == "gguf" and (coarse := gguf_writer.coarse_words([c for c in ready.channels if c])):
        report.say(coarse)
    pruned = pipeline.finish_job(pipeline.prune_model(subject, ready, text, analysis), report.progress)
    recipe = f"python -m slimllm prune --model {given.model} --plan plan.json --out DIR"
    exported = export_and_push(pruned, given, report, recipe)
    before, after = subject.shape, pruned.subject.shape
    return {
        "parameters_before": before.parameters,
        "parameters_after": after.parameters,
        "ratio": pruned.plan.ratio_achieved,
        "ratio_requested": ready.ratio_requested,
        "count": ready.count,
        "seconds": pruned.seconds,
        "peak_memory_mib": pruned.peak_memory_mib,
        **exported,
        "layers": [
            {
                "heads": layer.heads,
                "channels": layer.channels,
                "error_predicted": layer.error_predicted,
                "error_measured": layer.error_measured,
            }
            for layer in pruned.layers
        ],
    }


def run_tune(given: Arguments, report: Report) -> dict[str, Any]:
    """Fine-tune a model, measure its perplexity before and after, export it and return the answer."""
    check_targets(given)
    names = [field.name for field in dataclasses.fields(finetuning.Tuning)]
    wanted = finetuning.Tuning(**{name: getattr(given, name) for name in names})
    finetuning.check_finetuning(wanted)
    text = texts.find_text(given.text, offline=given.offline)
    other = texts.find_text(given.measure_on or given.text, offline=given.offline)
    subject = load_subject(given.model, given, report)
    pruned, most = export_reading.as_pruned(subject), subject.shape.max_length
    # Training changes no shape, so the form can be checked before it.
    formats.choose_format(pruned, given.export)
    tokens = texts.calibration_tokens(text, subject.tokenizer, calibration_of(given), max_length=most)
    seen = other.name == text.name and not text.parts_differ
    if seen:
        report.say(f"'{text.name}' is one part, so perplexity is measured on what is learned.")
    before = measure_perplexity(pruned.subject, other, given, report)
    done: list[Progress] = []

    def report_step(step: Progress) -> None:
        done.append(step)
        report.progress(step)

    tuned = pipeline.finish_job(finetuning.finetune_model(pruned, tokens, wanted), report_step)
    after = measure_perplexity(tuned.subject, other, given, report)
    change = f"{before.perplexity:.2f} before, {after.perplexity:.2f} after tuning"
    cut = f"windows of {after.window} tokens" + (
        f" begun with `{after.begins_with}`" * bool(after.begins_with)
    )
    notes = [finetuning.finetuning_words(wanted), f"Perplexity on `{other.name}` in {cut}: {change}."]
    recipe = finetuning.finetuning_command(wanted, given.model)
    exported = export_and_push(tuned, given, report, recipe, notes)
    return {
        "perplexity_before": before.perplexity,
        "perplexity_after": after.perplexity,
        "measured_on": other.name,
        "split": "evaluation" if other.parts_differ else "whole file",
        "begins_with": after.begins_with or None,
        "measured_on_learned_text": seen,
        "steps": len(done),
        "epochs": wanted.epochs,
        "tokens": tokens.numel(),
        "seconds": tuned.seconds,
        "peak_memory_mib": tuned.peak_memory_mib,
        "loss_first": done[0].result,
        "loss_last": done[-1].result,
        **exported,
    }


def run_push(given: Arguments, report: Report) -> dict[str, Any]:
    """Upload an export to a model hub."""
    hub_upload.check_repository(given.repository, offline=given.offline)
    return {
        "pushed": hub_upload.push_export(given.folder, given.repository, report.say),
        "folder": str(given.folder),
    }
