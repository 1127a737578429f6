"""The commands: each takes the parsed arguments and returns an answer that can become JSON."""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path
from typing import Any, Protocol

from slimllm import pipeline
from slimllm.analysis import analysis_files, analysis_store
from slimllm.calibration import distributed, texts
from slimllm.cli.option_checks import method_options
from slimllm.core.devices import pick_device
from slimllm.core.errors import Refusal
from slimllm.core.fingerprints import is_other
from slimllm.core.memory import watch_peak
from slimllm.core.types import Analysis, Calibration, Progress
from slimllm.evaluation import evaluate as evaluation
from slimllm.evaluation import speed_words
from slimllm.export import export_reading
from slimllm.export import model_inspection as cards
from slimllm.files import atomic_write
from slimllm.methods.recovery import RECOVERIES
from slimllm.methods.table import METHODS
from slimllm.models import sources
from slimllm.models.families import FAMILIES
from slimllm.models.layer_offload import is_offloaded
from slimllm.models.loading import Subject
from slimllm.planning import forecast, plan_json, plan_making, rules
from slimllm.planning.allocation import ALLOCATIONS
from slimllm.planning.rules import PlanRules


class Report(Protocol):
    """The interface for messages and progress."""

    def say(self, words: str) -> None: ...
    def progress(self, step: Progress) -> None: ...


NO_PAGE = (
    "The app needs gradio and the ui folder; start it from the project with 'make run', or install it with "
    "'pip install .' there."
)
Arguments = argparse.Namespace


def load_subject(source: str, given: Arguments, report: Report, *, spread: bool = False) -> Subject:
    """Load a model, after cleaning up what a killed program left beside it."""
    atomic_write.mend_leftovers(Path(source), report.say)
    report.say(f"Loading {source} …")
    how = {"device": given.device, "dtype": given.dtype, "offline": given.offline, "spread": spread}
    return export_reading.load_export(source, say=report.say, **how)


def calibration_of(given: Arguments) -> Calibration:
    """Return the calibration that the options describe."""
    return Calibration(text=given.text, samples=given.samples, length=given.length, seed=given.seed)


def run_analysis(subject: Subject, given: Arguments, report: Report, **how: Any) -> Analysis:
    """Analyse a model with the options of a command."""
    text = texts.find_text(given.text, offline=given.offline)
    job = pipeline.analyse_model(
        subject, text, calibration_of(given), method_name=given.method, options=method_options(given), **how
    )
    return pipeline.finish_job(job, report.progress)


def run_analyse(given: Arguments, report: Report) -> dict[str, Any] | None:
    """Analyse a model and save the analysis; return the answer.

    Return None in a process that only contributes its share of the text.
    """
    text = texts.find_text(given.text, offline=given.offline)
    with distributed.join_processes(pick_device(given.device)):
        if distributed.process_rank():
            subject = export_reading.load_export(
                given.model, device=given.device, dtype=given.dtype, offline=given.offline
            )
            pipeline.contribute_samples(subject, text, calibration_of(given), method_name=given.method)
            return None
        atomic_write.check_folder(given.out, "choose another --out")
        analysis_files.check_place(given.out)
        subject = load_subject(given.model, given, report)
        analysis = run_analysis(subject, given, report, folder=given.out / "moments")
    file = analysis_store.save_analysis(analysis, given.out)
    shape, unit = analysis.shape, next(iter(analysis.layers[0].attention))
    return {
        "model": analysis.model,
        "layers": len(shape.layers),
        "heads": shape.heads,
        "kv_groups": shape.groups,
        "channels": shape.channels,
        "parameters": shape.parameters,
        "tokens": analysis.tokens,
        "begins_with": subject.beginning.words or None,
        "seconds": analysis.seconds,
        "peak_memory_mib": analysis.peak_memory_mib,
        "layer_cosine": list(analysis.cosine),
        "head_scores": [layer.attention[unit].ranking.scores.tolist() for layer in analysis.layers],
        "channel_scores_file": str(file),
    }


def rules_from(given: Arguments) -> PlanRules:
    """Return the plan's rules from the options of a command."""
    return PlanRules(
        given.ratio,
        allocation=given.allocation,
        recovery=given.recovery,
        unit=given.unit,
        align=given.align,
        count=given.count,
        same_width=given.same_width,
    )


def run_plan(given: Arguments, report: Report) -> dict[str, Any]:
    """Make a plan from a saved analysis and save it; return the plan and its forecast."""
    plan_json.check_place(given.out)
    analysis = analysis_store.open_analysis(given.analysis)
    now = sources.current_fingerprint(analysis.model)
    if now and is_other(analysis.fingerprints, {"weights": now.content}):
        report.say(f"The weights of '{analysis.model}' have changed since this analysis; analyse them again.")
    if given.named.get("seed", analysis.calibration.seed) != analysis.calibration.seed:
        raise Refusal(
            f"The analysis was made with seed {analysis.calibration.seed} and --seed says {given.seed}; "
            "leave the option out, or analyse again."
        )
    made = plan_making.make_plan(analysis, rules_from(given))
    if doubt := rules.text_doubt(analysis.shape, made.recovery, analysis.tokens):
        report.say(doubt)
    plan_json.save_plan(made, given.out)
    return {
        **plan_json.plan_to_dict(made),
        "forecast": forecast.forecast_plan(analysis, made),
        "file": str(given.out),
    }


def measure_perplexity(
    subject: Subject, text: texts.Text, given: Arguments, report: Report
) -> evaluation.Perplexity:
    """Measure perplexity on the evaluation part of a text, with the options of a command."""
    ids = texts.evaluation_tokens(text, subject.tokenizer, limit=given.limit_tokens)
    return pipeline.finish_job(evaluation.measure_perplexity(subject, ids, given.window), report.progress)


def run_evaluate(given: Arguments, report: Report) -> dict[str, Any]:
    """Measure a model's perplexity on a text."""
    text = texts.find_text(given.text, offline=given.offline)
    subject = load_subject(given.model, given, report, spread=True)
    start = time.perf_counter()
    found = measure_perplexity(subject, text, given, report)
    return {
        "model": given.model,
        "perplexity": found.perplexity,
        "nll": found.nll,
        "tokens": found.tokens,
        "windows": found.windows,
        "window": found.window,
        "begins_with": found.begins_with or None,
        "text": given.text,
        "split": "evaluation" if text.parts_differ else "whole file",
        "dtype": str(subject.dtype).removeprefix("torch."),
        "seconds": time.perf_counter() - start,
    }


def run_generate(given: Arguments, report: Report) -> dict[str, Any]:
    """Continue a prompt with a model."""
    subject = load_subject(given.model, given, report, spread=True)
    text, tokens, rate = write_continuation(subject, given.prompt, given)
    begins_with = subject.beginning.words or None
    return {"text": text, "tokens": tokens, "tokens_per_second": rate, "begins_with": begins_with}


def write_continuation(subject: Subject, prompt: str, given: Arguments) -> tuple[str, int, float]:
    """Return (text, tokens written, tokens per second) of one generation."""
    return evaluation.timed_generation(
        subject, prompt, max_new_tokens=given.max_new_tokens, temperature=given.temperature, seed=given.seed
    )


def run_compare(given: Arguments, report: Report) -> dict[str, Any]:
    """Compare perplexity, memory, speed and continuations of several models."""
    text = texts.find_text(given.text, offline=given.offline)
    rows = []
    # All models are checked before the first one is measured.
    for source in given.model:
        cards.examine_source(source, given.offline)
    for source in given.model:
        subject = load_subject(source, given, report, spread=True)
        peak = watch_peak(subject.device)
        found = measure_perplexity(subject, text, given, report)
        generations = [write_continuation(subject, prompt, given)[0] for prompt in given.prompt]
        rows.append(
            {
                "model": source,
                "parameters": subject.shape.parameters,
                "perplexity": found.perplexity,
                "begins_with": found.begins_with or None,
                "peak_memory_mib": peak(),
                "generations": generations,
            }
        )
        del subject
    for row, speed in zip(rows, measure_speeds(given, report), strict=True):
        row |= speed
    return {"models": rows, "text": given.text, "window": given.window, "prompts": given.prompt}


def measure_speeds(given: Arguments, report: Report) -> list[dict[str, Any]]:
    """Measure the speeds of all models, and compare each with the first one in words.

    Models that fit into memory together are measured in turns. Otherwise they are measured one after the
    other, and differences say nothing.
    """
    subjects = [load_subject(source, given, report, spread=True) for source in given.model]
    together = not any(is_offloaded(subject.model) for subject in subjects)
    if together:
        names = map(str, range(len(subjects)))
        running = {
            name: evaluation.measure_speed(subject) for name, subject in zip(names, subjects, strict=True)
        }
        speeds = list(pipeline.finish_job(evaluation.measure_in_turns(running), report.progress).values())
    else:
        subjects.clear()
        speeds = [
            pipeline.finish_job(
                evaluation.measure_speed(load_subject(source, given, report, spread=True)), report.progress
            )
            for source in given.model
        ]
        report.say("The models do not fit into memory beside each other, so their speeds do not compare.")
    rows = []
    for place, (source, speed) in enumerate(zip(given.model, speeds, strict=True)):
        said = {}
        if place and together:
            said = {
                "reading": speed_words.compare_speeds(speeds[0].prefill, speed.prefill, "reads"),
                "writing": speed_words.compare_speeds(speeds[0].decode, speed.decode, "writes"),
            }
            report.say(f"{source} beside {given.model[0]}: {' '.join(said.values())}")
        rows.append(
            {
                "tokens_per_second": speed.decode_tokens_per_second,
                "prefill_tokens_per_second": speed.prefill_tokens_per_second,
                "tokens_per_second_rounds": speed.decode,
                "prefill_tokens_per_second_rounds": speed.prefill,
                "speed_in_words": said,
            }
        )
    return rows


def run_card(given: Arguments, report: Report) -> dict[str, Any]:
    """Describe what can be done with a model."""
    found = cards.inspect_model(given.model, offline=given.offline)
    return {**dataclasses.asdict(found), "lines": cards.card_lines(found)}


def run_methods(given: Arguments, report: Report) -> dict[str, Any]:
    """List the methods, recoveries, allocations and families."""
    return {
        "methods": [
            {
                "name": name,
                "title": row.title,
                "words": row.words,
                "paper": row.paper,
                "recovery": row.recovery,
                "allocation": row.allocation,
                "options": {option.name: option.default for option in row.options},
                "units": list(row.units),
                "recoveries": list(row.recoveries or RECOVERIES),
                "statistics": row.statistics,
                "learns": row.learns,
            }
            for name, row in METHODS.items()
        ],
        "recoveries": [{"name": n, "title": r.title, "words": r.words} for n, r in RECOVERIES.items()],
        "allocations": [{"name": n, "title": r.title, "words": r.words} for n, r in ALLOCATIONS.items()],
        "families": list(FAMILIES),
    }


def refuse_serve(given: Arguments, report: Report) -> dict[str, Any]:
    """Raise a `Refusal`: the library was started without the page."""
    raise Refusal(NO_PAGE)
