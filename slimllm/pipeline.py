"""The two long jobs, analyse and prune.

They are generators that yield `Progress` after every layer and return a result.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
import weakref
from collections.abc import Callable, Collection, Generator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from slimllm.analysis import sensitivity
from slimllm.analysis.analysis_store import STORE_FORMAT, MomentStore
from slimllm.analysis.layer_analysis import analyse_layer, units_of
from slimllm.calibration import distributed, texts
from slimllm.calibration import moments as streaming
from slimllm.core.arithmetic import Arithmetic
from slimllm.core.fingerprints import hash_code, hash_tokens, is_other, reason_to_read, told_changes
from slimllm.core.held_out import choose_held_out
from slimllm.core.memory import watch_peak
from slimllm.core.types import (
    NOTE,
    Analysis,
    Calibration,
    LayerAnalysis,
    LayerMoments,
    LayerReport,
    Plan,
    Progress,
)
from slimllm.files import atomic_write
from slimllm.files.paths import ELSEWHERE, home_folder
from slimllm.methods.learned_scores import learn_scores, learned_in
from slimllm.methods.recovery import RECOVERIES
from slimllm.methods.table import fill_options, find_method
from slimllm.models.families import shape_of
from slimllm.models.layer_offload import is_offloaded, open_layer, put_away
from slimllm.models.loading import Pruned, Subject
from slimllm.models.shared_copy import drop_layers, share_model
from slimllm.planning.forecast import refigure_ratio
from slimllm.planning.plan_making import check_plan
from slimllm.pruning.layer_pruning import Work, prune_layer
from slimllm.pruning.stored_dtypes import bytes_per_parameter, stored_layer

Result = TypeVar("Result")
UNWRITTEN = "Pruned layers cannot be put away", f"free space or {ELSEWHERE}"


def finish_job(
    job: Generator[Progress, None, Result], on_progress: Callable[[Progress], None] | None = None
) -> Result:
    """Run a long job to its end and return its result."""
    while True:
        try:
            progress = next(job)
        except StopIteration as end:
            return end.value
        if on_progress is not None:
            on_progress(progress)


def analyse_model(
    subject: Subject,
    text: texts.Text,
    calibration: Calibration,
    *,
    method_name: str = "slimllm",
    options: Mapping[str, Any] | None = None,
    folder: Path | None = None,
    recoveries: Collection[str] = tuple(RECOVERIES),
) -> Generator[Progress, None, Analysis]:
    """Analyse every layer in one pass of the dense model over the calibration text; return the `Analysis`.

    Errors are computed for the `recoveries`; on large models this takes most of the time. If `folder` is
    given, the moments are stored there and used again when model and calibration are the same. Every
    `Progress` of the stage "analyse" carries the `LayerAnalysis` that was just finished.
    """
    start, peak = time.perf_counter(), watch_peak(subject.device)
    row, chosen = find_method(method_name), fill_options(method_name, options or {})
    tokens = texts.calibration_tokens(
        text, subject.tokenizer, calibration, max_length=subject.shape.max_length
    )
    unit = units_of(row, subject.shape)[0]
    store = MomentStore(folder) if folder else None
    key = store_key(subject, tokens, calibration, row.weighted)
    if store:
        store.check()
        if said := at_hand(store, key, len(subject.layers)):
            yield note_progress(said)
    arithmetic = Arithmetic(subject.device)
    learning = learn_scores(subject, tokens, row, chosen, unit, calibration.seed)
    learned = yield from arithmetic.cover_steps(learning)
    with arithmetic.cover_operations():
        prober = sensitivity.start_probe(subject, tokens, arithmetic) if row.probes else None
    layers: list[LayerAnalysis] = []
    count, seen = len(subject.layers), 0
    for index, found in enumerate(arithmetic.cover_steps(dense_moments(subject, tokens, store, key))):
        known = learned[index] if learned else None
        with open_layer(subject.layers[index]), arithmetic.cover_operations():
            layer = analyse_layer(
                subject, index, found, row, chosen, calibration.seed, known, recoveries, arithmetic
            )
            if prober:
                layer = dataclasses.replace(layer, sensitivity=prober.move(index, found, layer))
        yield from map(note_progress, arithmetic.take_notes())
        layers.append(layer)
        seen = found.mlp.tokens
        yield Progress("analyse", index + 1, count, f"Layer {index + 1} of {count} scored", layer)
    return Analysis(
        model=subject.source,
        shape=subject.shape,
        calibration=calibration,
        method=method_name,
        options=chosen,
        layers=tuple(layers),
        tokens=seen,
        bytes_per_parameter=bytes_per_parameter(subject),
        fingerprints=fingerprints_of(subject, tokens),
        seconds=time.perf_counter() - start,
        peak_memory_mib=peak(),
    )


def contribute_samples(
    subject: Subject, text: texts.Text, calibration: Calibration, *, method_name: str = "slimllm"
) -> None:
    """Read this process's share of the text and add its moments to those of the first process.

    Every process but the first of a distributed run calls this while the first one runs `analyse_model`.
    """
    tokens = texts.calibration_tokens(
        text, subject.tokenizer, calibration, max_length=subject.shape.max_length
    )
    key = store_key(subject, tokens, calibration, find_method(method_name).weighted)
    for _ in dense_moments(subject, tokens, None, key):
        pass


def dense_moments(
    subject: Subject, tokens: Tensor, store: MomentStore | None, key: Mapping[str, Any]
) -> Generator[LayerMoments, None, None]:
    """Yield the moments of every layer in turn.

    They come from the store if it was filled under this key. Otherwise they come from a pass over the tokens
    (S, T), which fills the store. With several processes, each one reads its share of the tokens.
    """
    count = len(subject.layers)
    with store.read() if store else contextlib.nullcontext() as stored:
        if distributed.first_says(stored is not None and stored.matches(dict(key), count)):
            yield from (stored[index] for index in range(count) if stored is not None)
            return
    with store.filled(dict(key)) if store else contextlib.nullcontext() as made:
        ready = made.kept(dict(key), count) if made and not distributed.is_joined() else 0
        held = distributed.own_samples(choose_held_out(*tokens.shape))
        stream = streaming.embed_tokens(subject, distributed.own_samples(tokens), held)
        for index in range(count):
            if made and index < ready:
                streaming.advance_stream(subject.layers[index], stream, index)
                yield made[index]
                continue
            found = distributed.sum_layer_moments(
                streaming.collect_moments(subject, stream, index, key["weighted"])
            )
            if made:
                made.save(index, found)
            yield found


def at_hand(store: MomentStore, key: Mapping[str, Any], count: int) -> str:
    """Return one sentence that says which moments an earlier analysis has stored.

    If they cannot be used again, the sentence says why; it is empty if there are none.
    """
    if store.matches(dict(key), count):
        return "The moments are on disk from an earlier analysis and are used again."
    if ready := store.begun.kept(dict(key), count):
        return (
            f"An earlier analysis was interrupted; the moments of {ready} of {count} layers are used again."
        )
    return reason_to_read(store.key, {"format": STORE_FORMAT, **key})


def note_progress(words: str) -> Progress:
    """Return a `Progress` that carries a message to show permanently."""
    return Progress(NOTE, 0, 0, words)


def fingerprints_of(subject: Subject, tokens: Tensor) -> dict[str, str]:
    """Return the fingerprints of tokens (S, T) and weights, which do not depend on where they are stored."""
    return {"tokens": hash_tokens(tokens), "weights": subject.fingerprint.content}


def store_key(subject: Subject, tokens: Tensor, calibration: Calibration, weighted: bool) -> dict[str, Any]:
    """Return everything that the moments depend on, by content.

    The key also holds the names that are needed to say what has changed.
    """
    return {
        "code": hash_code(),
        "weights": subject.fingerprint.exact,
        "tokens": hash_tokens(tokens),
        "model": subject.source,
        "dtype": str(subject.dtype),
        "shape": [list(widths) for widths in subject.shape.widths],
        "parameters": subject.shape.parameters,
        "calibration": dataclasses.asdict(calibration),
        "weighted": weighted,
    }


def prune_model(
    subject: Subject, plan: Plan, text: texts.Text, analysis: Analysis | None = None
) -> Generator[Progress, None, Pruned]:
    """Prune a model to the plan and return it; the dense model is not changed.

    Each layer is pruned on the output of the layers pruned before it. Every `Progress` of the stage "prune"
    carries the `LayerReport` that was just finished. Closing the generator early leaves nothing behind. The
    plan's own ratio is computed anew. With the `analysis` that the plan was made from, a method that learns
    its scores does not learn them again.
    """
    check_plan(plan, subject.shape)
    plan = refigure_ratio(plan, subject.shape)
    start, peak = time.perf_counter(), watch_peak(subject.device)
    tokens = texts.calibration_tokens(
        text, subject.tokenizer, plan.calibration, max_length=subject.shape.max_length
    )
    row, options = find_method(plan.method), dict(plan.options)
    now = fingerprints_of(subject, tokens)
    for said in told_changes(dict(plan.fingerprints), now, plan.calibration.text, plan.model):
        yield note_progress(said)
    same = analysis is not None and same_source(analysis, plan) and not is_other(analysis.fingerprints, now)
    learned, arithmetic = learned_in(analysis, row) if analysis and same else None, Arithmetic(subject.device)
    if learned is None:
        learning = learn_scores(subject, tokens, row, options, plan.unit, plan.seed)
        learned = yield from arithmetic.cover_steps(learning)
    model = share_model(subject.model)
    slim = dataclasses.replace(subject, model=model)
    with arithmetic.cover_operations():
        guide = streaming.embed_tokens(subject, tokens) if needs_dense_stream(subject, plan) else None
        stream = streaming.embed_tokens(slim, tokens, choose_held_out(*tokens.shape))
    work = Work(subject, slim, plan, stream, learned, guide, arithmetic)
    reports: list[LayerReport] = []
    count = len(subject.layers)
    scratch = scratch_of(model)
    for index, layer in enumerate(slim.layers):
        with open_layer(layer):
            with arithmetic.cover_operations():
                reports.append(prune_layer(work, index))
            if scratch is not None:
                with atomic_write.translate_write_failures(*UNWRITTEN):
                    put_away(layer, scratch / f"{index}.safetensors", stored_layer(subject.files, layer))
        yield from map(note_progress, arithmetic.take_notes())
        yield Progress("prune", index + 1, count, f"Layer {index + 1} of {count} pruned", reports[-1])
    dropped = [index for index in range(count) if not plan.heads[index] and not plan.channels[index]]
    drop_layers(model, subject.family, dropped)
    done = dataclasses.replace(slim, shape=shape_of(model, subject.family))
    return Pruned(done, plan, tuple(reports), time.perf_counter() - start, peak())


def scratch_of(model: Any) -> Path | None:
    """Return a folder for the pruned layers of an offloaded model; it exists as long as that model.

    Return None if the model is not offloaded.
    """
    if not is_offloaded(model):
        return None
    with atomic_write.translate_write_failures(*UNWRITTEN), contextlib.ExitStack() as stack:
        folder = stack.enter_context(atomic_write.scratch_folder(home_folder() / "pruned"))
        weakref.finalize(model, stack.pop_all().close)
    return folder


def same_source(analysis: Analysis, plan: Plan) -> bool:
    """Return whether the plan's method would learn from the same text with the same options."""
    return (
        analysis.method == plan.method
        and dict(analysis.options) == dict(plan.options)
        and analysis.calibration == plan.calibration
    )


def needs_dense_stream(subject: Subject, plan: Plan) -> bool:
    """Return whether pruning to this plan needs the dense stream beside the pruned one."""
    row = find_method(plan.method)
    return RECOVERIES[plan.recovery].follows and row.statistics == "pruned" and bool(subject.family.between)
