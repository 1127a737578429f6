"""What some methods must know beyond moments: gradients of the loss, or gates trained against it."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any

from torch import Tensor

from slimllm.core.attention_unit import UnitName
from slimllm.core.types import Analysis, Progress, UnitScores
from slimllm.methods import ddp
from slimllm.methods.method_table import Method
from slimllm.methods.taylor import taylor_scores
from slimllm.models.layer_offload import check_resident
from slimllm.models.loading import Subject

TAYLOR_SAMPLES = 10  # the number and the length of texts of LLM-Pruner
TAYLOR_LENGTH = 64


def learn_scores(
    subject: Subject, tokens: Tensor, row: Method, options: Mapping[str, Any], unit: UnitName, seed: int
) -> Generator[Progress, None, tuple[UnitScores, ...] | None]:
    """The worth of every unit by the calibration tokens (S, T), one entry per layer; None where moments
    suffice."""
    if row.learns:
        check_resident(subject.model, f"Method '{row.title}'")
    if row.learns == "taylor":
        yield Progress("gradients", 0, 1, "One backward pass for the gradients")
        return to_float32(taylor_scores(subject, tokens[:TAYLOR_SAMPLES, :TAYLOR_LENGTH]))
    if row.learns == "gates":
        training = ddp.Training(target=options["target"], steps=options["steps"], seed=seed)
        yield Progress("gates", 0, training.steps, "The gates begin to train")
        return to_float32((yield from ddp.train_gates(subject, tokens, training, unit)))
    return None


def to_float32(found: tuple[UnitScores, ...]) -> tuple[UnitScores, ...]:
    """In the float32 in which an analysis keeps scores, so that learning anew gives the same plan the same
    bytes."""
    return tuple(UnitScores(layer.heads.float().cpu(), layer.channels.float().cpu()) for layer in found)


def learned_in(analysis: Analysis, row: Method) -> tuple[UnitScores, ...] | None:
    """What an analysis by such a method has learned already: its scores."""
    if not row.learns:
        return None
    return tuple(
        UnitScores(next(iter(layer.attention.values())).ranking.scores, layer.mlp.ranking.scores)
        for layer in analysis.layers
    )
