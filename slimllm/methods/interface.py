"""The interface of a pruning method: its inputs, its options, and its row in the table. Pure.

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
from slimllm.core.symmetric_products import transform_covariance
from slimllm.core.types import Moments, Progress, Ranking, UnitScores

# A method's options by name, complete with defaults.
Options = Mapping[str, Any]
# A job that yields its progress and returns the learned importance of every unit, one entry per layer.
Learning = Generator[Progress, None, tuple[UnitScores, ...]]


def layer_seed(seed: int, index: int) -> int:
    """Return the seed of all random choices in one layer."""
    return seed * 1000 + index


@dataclass(frozen=True, eq=False)
class HeadSite:
    """The inputs of a ranking of heads.

    `weight` (o, d) is that of o_proj, and `moments` are those of its inputs. Both are in float64 on the
    device on which to compute. `pinned` (H,) is 1 for a protected head and −1 for one that is forced out.
    `learned` (H,) is the importance from gradients or training. These are on the CPU, as is the ranking.
    """

    weight: Tensor
    moments: Moments
    grouping: Grouping
    pinned: Tensor | None = None
    seed: int = 0
    learned: Tensor | None = None


@dataclass(frozen=True, eq=False)
class ChannelSite:
    """The inputs of a ranking of channels.

    `weight` (o, c) is that of down_proj, and `moments` are those of its inputs. `writers` are the weights (c,
    o) that write the channels, and `input_sq` (o,) is the mean square of their inputs. `pinned` (c,) and
    `learned` (c,) are as for heads, and so are the devices.
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
        """The variances (o,) and principal directions (o, o) of the MLP's output.

        Variances are in ascending order; directions are columns.
        """
        output = transform_covariance(self.weight, self.moments.cov)  # (o, c), (c, c) → (o, o)
        values, vectors = torch.linalg.eigh(output)  # (o,), (o, o)
        return values, vectors


@dataclass(frozen=True)
class Option:
    """A choice of a method: yes/no, or a number from `low` to `high`.

    It is declared as data so that user interfaces can draw it.
    """

    name: str
    default: bool | int | float
    words: str
    low: float = 0.0
    high: float = 0.0


@dataclass(frozen=True)
class Method:
    """A row of the table.

    `heads` and `channels` rank a site. `recovery` and `allocation` are the method's own. Empty `recoveries`
    and `allocations` mean that it works with all of them; otherwise `alone` says why not. `units` are the
    attention units that it removes, the preferred one first; empty means those of the model. `statistics`
    says whether units are judged by the inputs of the pruned or of the dense model. `learns` names how it
    learns scores that moments do not contain (`learned_scores.LEARNERS`). `weighted`: its moments weigh every
    token by the size of the residual stream (`moments.residual_weights`). `probes`: the effect of errors on
    the model's output is measured layer by layer (`analysis.sensitivity`).
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
        """Whether the method removes value columns from all heads instead of whole heads."""
        return VALUE_COLUMN.name in self.units
