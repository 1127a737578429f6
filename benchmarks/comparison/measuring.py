"""Measure one cell of the methods' benchmark: analyse, plan, prune, evaluate; or find it on disk."""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks.comparison import cells
from benchmarks.comparison.cells import Cells, Row
from slimllm import pipeline
from slimllm.analysis import analysis_store
from slimllm.calibration import texts
from slimllm.core.errors import Refusal
from slimllm.core.json_io import to_plain_json
from slimllm.core.types import Analysis, Calibration
from slimllm.evaluation import evaluate
from slimllm.files import atomic_write
from slimllm.models import loading
from slimllm.planning import plan_making
from slimllm.planning.rules import PlanRules


def say(words: str) -> None:
    """Print words to stderr."""
    print(words, file=sys.stderr, flush=True)


@dataclass(eq=False)
class Bench:
    """The subject, its texts and settings, and what was computed or found.

    `evaluation` holds token ids (t,) by label, `shared` what the keys of all cells contain, and `kept` the
    last analysis with its digest.
    """

    subject: loading.Subject
    given: argparse.Namespace
    source: texts.Text
    calibration: Calibration
    evaluation: dict[str, Tensor]
    shared: dict[str, Any]
    store: Cells
    computed: int = 0
    missing: list[str] = field(default_factory=list)
    kept: tuple[str, Analysis] | None = None

    @property
    def out(self) -> Path:
        return Path(self.given.out)


def prepare(given: argparse.Namespace) -> Bench:
    """Load the model, read the texts, and return them with what all cells share."""
    subject = loading.load_model(given.model, device=given.device, dtype=given.dtype)
    source = texts.find_text(given.calibration)
    calibration = Calibration(given.calibration, given.samples, given.length, given.seed)
    evaluation = {}
    for name, label in labelled(given.texts).items():
        evaluation[label] = texts.evaluation_tokens(
            texts.find_text(name), subject.tokenizer, limit=given.tokens
        )
    read = texts.calibration_tokens(
        source, subject.tokenizer, calibration, max_length=subject.shape.max_length
    )
    shared = {
        "format": cells.FORMAT,
        "source": cells.source_digest(),
        "model": {"name": subject.source, "digest": cells.model_digest(subject)},
        "calibration": {**asdict(calibration), "digest": cells.tokens_digest(read)},
        "evaluation": {
            "texts": {label: [len(ids), cells.tokens_digest(ids)] for label, ids in evaluation.items()},
            "windows": given.windows,
            **({"begins_with": words} if (words := subject.beginning.words) else {}),
        },
        "unit": given.unit,
        "align": given.align,
        "versions": dict(plan_making.library_versions()),
    }
    folder = Path(given.out) / "cells"
    return Bench(subject, given, source, calibration, evaluation, shared, Cells(folder))


def labelled(names: Sequence[str]) -> dict[str, str]:
    """Return a short label for each text: `wikitext-2` for …/wikitext-2-raw-test.txt.

    Where two labels would be equal, all texts keep their names.
    """
    stems = {name: Path(name).stem for name in names}
    short = {name: "-".join(stem.split("-")[:2]) for name, stem in stems.items()}
    tied = len(set(short.values())) < len(short)
    return {name: name if tied else short[name] for name in names}


def analysis_of(bench: Bench, row: Row, ratio: float) -> Analysis:
    """Return the analysis by the row's method: the last one, a stored one, or one from shared moments."""
    options = row.options(ratio)
    key = {name: bench.shared[name] for name in ("format", "source", "model", "calibration", "versions")}
    digest = cells.key_digest({**key, "method": row.method, "options": options})
    if bench.kept and bench.kept[0] == digest:
        return bench.kept[1]
    folder = bench.out / "analyses" / digest
    try:
        found = analysis_store.open_analysis(folder)
    except Refusal:
        moments_of(bench, key)
        found = analyse(bench, row.method, options)
        analysis_store.save_analysis(found, folder)
    bench.kept = (digest, found)
    return found


def analyse(bench: Bench, name: str, options: dict[str, Any]) -> Analysis:
    """Return a new analysis by a method, from the moments on disk."""
    return pipeline.finish_job(
        pipeline.analyse_model(
            bench.subject,
            bench.source,
            bench.calibration,
            method_name=name,
            options=options,
            folder=bench.out / "moments",
        )
    )


def moments_of(bench: Bench, key: dict[str, Any]) -> None:
    """Collect the moments unless they are on disk, so that the seconds of all methods are comparable."""
    folder, digest = bench.out / "moments", cells.key_digest(key)
    stamp = bench.out / "moments.stamp.json"
    if folder.is_dir() and stamp.is_file() and json.loads(stamp.read_text())["digest"] == digest:
        return
    shutil.rmtree(folder, ignore_errors=True)
    say("collecting the moments …")
    analyse(bench, cells.FLOOR, {})
    atomic_write.write_text(stamp, json.dumps({"digest": digest}))


def compute(bench: Bench, row: Row, ratio: float) -> dict[str, Any]:
    """Analyse, plan, prune and evaluate one row at one ratio, and return the figures."""
    given = bench.given
    analysis = analysis_of(bench, row, ratio)
    plan = plan_making.make_plan(
        analysis,
        PlanRules(
            ratio, recovery=row.recovery, allocation=row.allocation, unit=given.unit, align=given.align
        ),
    )
    pruned = pipeline.finish_job(pipeline.prune_model(bench.subject, plan, bench.source, analysis))
    return {
        "seconds": {"analyse": analysis.seconds, "prune": pruned.seconds},
        "peak_mib": {"analyse": analysis.peak_memory_mib, "prune": pruned.peak_memory_mib},
        "unit": plan.unit,
        "heads": plan.heads,
        "channels": plan.channels,
        **evaluated(bench, pruned.subject),
    }


def evaluated(bench: Bench, subject: loading.Subject) -> dict[str, Any]:
    """Return the size, and the mean negative log-likelihood in nats per token by text and window."""
    start, nll = time.perf_counter(), {}
    for label, ids in bench.evaluation.items():
        nll[label] = {
            str(window): pipeline.finish_job(evaluate.measure_perplexity(subject, ids, window)).nll
            for window in bench.given.windows
        }
    return {
        "decoder": subject.shape.decoder,
        "parameters": subject.shape.parameters,
        "nll": nll,
        "evaluate_seconds": time.perf_counter() - start,
    }


def cell_of(bench: Bench, row: Row | None, ratio: float) -> dict[str, Any]:
    """Return the stored cell, or a new one: its figures, or the sentence of a `Refusal`.

    Raise the `Refusal` where the dense model itself cannot be evaluated.
    """
    key = cells.key_of(row, ratio, bench.shared)
    found, reused = bench.store.find(key), True
    if found is None:
        reused = False
        bench.computed += 1
        try:
            found = evaluated(bench, bench.subject) if row is None else compute(bench, row, ratio)
        except Refusal as refusal:
            # Without the dense model, nothing can be compared.
            if row is None:
                raise
            found = {"refused": " ".join(str(refusal).split())}
        found = json.loads(json.dumps(to_plain_json(found)))
        bench.store.keep(key, found)
        gc.collect()
    known = {**asdict(row), "trained": row.trained} if row else {"method": "dense"}
    return {**known, "ratio": ratio, "reused": reused, **found}
