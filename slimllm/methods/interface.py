"""What a method is: what it looks at, what it must be told, and its row of the table. Pure.

A method is one file beside this one and one row in `table.METHODS`. Its file holds two functions that rank a
site, one for heads and one for channels, and the mathematics behind them. Letters of shapes are those of
`core.types`: d inputs of a reader, o its outputs, H query heads, c channels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from slimllm.core.attention_unit import VALUE_COLUMN, UnitName
from slimllm.core.shapes import Grouping
from slimllm.core.types import Moments, Progress, Ranking, UnitScores

# What a person chose of a method's options, by name; all are filled in.
Options = Mapping[str, Any]
# What learns the worth of every unit, one entry per layer, and tells how far it is.
Learning = Generator[Progress, None, tuple[UnitScores, ...]]


@dataclass(frozen=True, eq=False)
class HeadSite:
    """All that a ranking of heads may look at.

    `weight` is o_proj's (o, d), `moments` are those of its inputs; `pinned` (H,) is 1 for a protected head,
    −1 for one that is forced out; `learned` (H,) is what the heads are worth by gradients or training.
    """

    weight: Tensor
    moments: Moments
    grouping: Grouping
    pinned: Tensor | None = None
    seed: int = 0
    learned: Tensor | None = None


@dataclass(frozen=True, eq=False)
class ChannelSite:
    """All that a ranking of channels may look at.

    `weight` is down_proj's (o, c), `moments` are those of its inputs; `writers` are the linears (c, o) that
    write the channels, `input_sq` (o,) the mean square of what they read; `pinned` (c,) and `learned` (c,)
    are as for heads.
    """

    weight: Tensor
    moments: Moments
    writers: Sequence[Tensor]
    input_sq: Tensor
    pinned: Tensor | None = None
    seed: int = 0
    learned: Tensor | None = None

    @functools.cached_property
    def principal(self) -> tuple[Tensor, Tensor]:
        """The variances (o,) of the MLP's output along its principal directions, smallest first, and these
        directions as columns (o, o)."""
        output = self.weight @ self.moments.cov @ self.weight.T  # (o, o)
        values, vectors = torch.linalg.eigh((output + output.T) / 2)
        return values, vectors


@dataclass(frozen=True)
class Option:
    """A choice of a method, yes/no or a number from `low` to `high`, declared here so that interfaces can
    draw it."""

    name: str
    default: bool | int | float
    words: str
    low: float = 0.0
    high: float = 0.0


@dataclass(frozen=True)
class Method:
    """A row of the table.

    `heads` and `channels` rank a site. `recovery` and `allocation` are the method's own; empty `recoveries`
    and `allocations` mean that it combines with all, and `alone` says why not with other recoveries.
    `units`: what attention may lose, the preferred one first; empty as the model has it. `statistics`:
    whether units are judged on what the already pruned layers hand on, or on the dense model. `learns`: how
    it learns what moments do not tell (`learned_scores.LEARNERS`). `weighted`: whether its moments weigh
    every token by the size of the residual stream (`moments.residual_weights`). `probes`: whether the effect
    of damage on the answers is measured layer by layer (`analysis.sensitivity`).
    """

    title: str
    words: str
    paper: str
    heads: Callable[[HeadSite, Options], Ranking]
    channels: Callable[[ChannelSite, Options], Ranking]
    recovery: str
    allocation: str
    options: tuple[Option, ...] = ()
    units: tuple[UnitName, ...] = ()
    recoveries: tuple[str, ...] = ()
    alone: str = ""
    allocations: tuple[str, ...] = ()
    statistics: Literal["pruned", "dense"] = "pruned"
    learns: Literal["", "taylor", "gates"] = ""
    weighted: bool = False
    probes: bool = False

    @property
    def narrows_heads(self) -> bool:
        """Whether it cuts value columns out of all heads instead of whole heads."""
        return VALUE_COLUMN.name in self.units
