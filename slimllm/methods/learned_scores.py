"""Scores that some methods need beyond moments: learned from the model, or read from an analysis."""

from __future__ import annotations

from collections.abc import Callable, Generator

from torch import Tensor

from slimllm.core.attention_unit import UnitName
from slimllm.core.types import Analysis, Progress, UnitScores
from slimllm.methods.ddp import learn_gates
from slimllm.methods.interface import Learning, Method, Options
from slimllm.methods.taylor import learn_from_gradients
from slimllm.models.layer_offload import check_resident
from slimllm.models.loading import Subject

# The learners by `Method.learns`. They take calibration tokens (S, T), the options, a unit and a seed.
LEARNERS: dict[str, Callable[[Subject, Tensor, Options, UnitName, int], Learning]] = {
    "taylor": learn_from_gradients,
    "gates": learn_gates,
}


def learn_scores(
    subject: Subject, tokens: Tensor, row: Method, options: Options, unit: UnitName, seed: int
) -> Generator[Progress, None, tuple[UnitScores, ...] | None]:
    """Learn the importance of every unit from the calibration tokens (S, T); return one entry per layer.

    Return None if moments suffice. Raise `Refusal` if the model is too large to be in memory at once.
    """
    if not row.learns:
        return None
    check_resident(subject.model, f"Method '{row.title}'")
    return to_float32((yield from LEARNERS[row.learns](subject, tokens, options, unit, seed)))


def to_float32(found: tuple[UnitScores, ...]) -> tuple[UnitScores, ...]:
    """Return the scores in float32 on the CPU, the dtype of stored analyses.

    Learning the scores again then gives exactly the same plan as reading them.
    """
    return tuple(UnitScores(layer.heads.float().cpu(), layer.channels.float().cpu()) for layer in found)


def learned_in(analysis: Analysis, row: Method) -> tuple[UnitScores, ...] | None:
    """Return the learned scores that an analysis by this method holds, or None if moments suffice."""
    if not row.learns:
        return None
    return tuple(
        UnitScores(next(iter(layer.attention.values())).ranking.scores, layer.mlp.ranking.scores)
        for layer in analysis.layers
    )
