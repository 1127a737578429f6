"""The three units that attention can lose, and everything that differs between them.

The units are whole KV groups, equally many query heads of every group, and equally many value columns of
every group. Letters: H query heads, G key/value groups, e head size, v value columns of each head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

UnitName = Literal["kv-group", "query-head", "value-column"]


@dataclass(frozen=True)
class AttentionUnit:
    """One kind of attention unit.

    A width counts query heads. For a unit that narrows heads, it counts the value columns that each head
    keeps.
    """

    name: UnitName
    title: str
    # What a width counts, as people call it.
    noun: str
    # Whether a unit is a KV group with all of its query heads.
    takes_groups: bool = False
    # Whether every head stays and loses value columns.
    narrows_heads: bool = False

    @property
    def plural(self) -> str:
        """The plural of what a width counts."""
        return f"{self.noun}s"

    def widest(self, heads: int, values: int) -> int:
        """Return the dense width: the number of query heads, or of value columns in each head."""
        return values if self.narrows_heads else heads

    def steps(self, heads: int, groups: int, values: int) -> int:
        """Return the number of feasible widths above zero."""
        if self.narrows_heads:
            return values
        return groups if self.takes_groups else heads // groups

    def step_size(self, heads: int, groups: int) -> int:
        """Return the difference between two neighbouring feasible widths."""
        if self.narrows_heads:
            return 1
        return heads // groups if self.takes_groups else groups

    def heads_kept(self, width: int, heads: int) -> int:
        """Return how many of `heads` query heads remain at a width."""
        return (heads if width else 0) if self.narrows_heads else width

    def groups_kept(self, width: int, heads: int, groups: int) -> int:
        """Return how many of `groups` KV groups remain at a width."""
        if self.takes_groups:
            return width * groups // heads
        return groups if width else 0

    def count(self, heads: int, groups: int, values: int) -> int:
        """Return how many units a layer has."""
        if self.narrows_heads:
            return groups * values
        return groups if self.takes_groups else heads

    def pools(self, heads: int, groups: int, values: int) -> Tensor:
        """Return the pool (n,) in which each of the n units competes.

        A feasible choice keeps equally many units of every pool.
        """
        units = torch.arange(self.count(heads, groups, values))  # (n,)
        if self.takes_groups:
            return torch.zeros_like(units)
        return units // (values if self.narrows_heads else heads // groups)

    def inputs_of(self, kept: Tensor, size: int, heads_per_group: int) -> Tensor:
        """Return the inputs (m,) of o_proj that belong to the kept units (k,), in ascending order.

        The units are query heads of `size` inputs each, or value columns.
        """
        if not self.narrows_heads:
            return (kept[:, None] * size + torch.arange(size)).flatten()  # (k, e) → (k·e,)
        heads = kept[:, None] // size * heads_per_group + torch.arange(heads_per_group)  # (k, H/G)
        return (heads * size + kept[:, None] % size).flatten().sort().values  # (k·H/G,)

    def unit_of_head(self, heads: int, groups: int) -> Tensor:
        """Return the unit (H,) that each query head belongs to."""
        each = torch.arange(heads)  # (H,)
        return each // (heads // groups) if self.takes_groups else each


KV_GROUP = AttentionUnit("kv-group", "Whole KV groups", "head", takes_groups=True)
QUERY_HEAD = AttentionUnit("query-head", "Heads of every group", "head")
VALUE_COLUMN = AttentionUnit(
    "value-column", "Value columns of every head", "value column", narrows_heads=True
)
UNITS: dict[str, AttentionUnit] = {unit.name: unit for unit in (KV_GROUP, QUERY_HEAD, VALUE_COLUMN)}
