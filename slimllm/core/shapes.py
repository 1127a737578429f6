"""How wide a model is, what each unit costs, and how the units of a site may be chosen.

The letters are those of `types`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from slimllm.core.attention_unit import KV_GROUP, QUERY_HEAD, UNITS, AttentionUnit, UnitName

SiteName = Literal["attention", "mlp"]
SITES: tuple[SiteName, ...] = ("attention", "mlp")


@dataclass(frozen=True)
class LayerShape:
    """The prunable widths of one decoder layer and what each unit of them costs in parameters."""

    heads: int
    groups: int
    channels: int
    head_cost: int
    group_cost: int
    channel_cost: int
    fixed: int
    attention_bias: bool
    mlp_bias: bool
    values: int = 0  # value columns of each head
    value_cost: int = 0  # parameters of one value column in all heads: rows of V and columns of O
    whole: bool = False  # no head can go

    def widest(self, unit: UnitName) -> int:
        """Return the dense width of the attention site: its query heads, or the value columns of each."""
        return UNITS[unit].widest(self.heads, self.values)

    def steps(self, unit: UnitName) -> int:
        """Return how many feasible widths above zero the attention site has."""
        return UNITS[unit].steps(self.heads, self.groups, self.values)

    def step(self, width: int, unit: UnitName) -> int:
        """Return the place of a feasible width of the attention site among its steps."""
        return width * self.steps(unit) // self.widest(unit)

    def heads_kept(self, width: int, unit: UnitName) -> int:
        """Return the query heads that remain at this width of the attention site."""
        return UNITS[unit].heads_kept(width, self.heads)

    def groups_kept(self, width: int, unit: UnitName) -> int:
        """Return the key/value groups that remain at this width of the attention site."""
        return UNITS[unit].groups_kept(width, self.heads, self.groups)

    def at(self, width: int, channels: int, unit: UnitName) -> int:
        """Parameters at these widths, without biases that a recovery may add; nothing kept is a layer
        dropped."""
        if not width and not channels:
            return 0
        whole = self.parameters(self.heads_kept(width, unit), self.groups_kept(width, unit), channels)
        narrowed = (self.values - width) * self.value_cost if UNITS[unit].narrows_heads and width else 0
        return whole - narrowed

    def parameters(self, heads: int, groups: int, channels: int) -> int:
        """Parameters of the layer at these widths, without biases that a recovery may add."""
        return self.fixed + heads * self.head_cost + groups * self.group_cost + channels * self.channel_cost

    @property
    def dense(self) -> int:
        return self.parameters(self.heads, self.groups, self.channels)


@dataclass(frozen=True)
class Shape:
    """The sizes of a causal language model; `outside` counts the parameters that are not in decoder
    layers."""

    family: str
    hidden: int
    head_size: int
    vocab: int
    max_length: int
    outside: int
    layers: tuple[LayerShape, ...]

    @property
    def decoder(self) -> int:
        return sum(layer.dense for layer in self.layers)

    @property
    def parameters(self) -> int:
        return self.outside + self.decoder

    @property
    def heads(self) -> int:
        return max(layer.heads for layer in self.layers)

    @property
    def groups(self) -> int:
        return max(layer.groups for layer in self.layers)

    @property
    def channels(self) -> int:
        return max(layer.channels for layer in self.layers)

    @property
    def units(self) -> tuple[UnitName, ...]:
        """The attention units that offer a choice, the finer one first."""
        names = (KV_GROUP.name, QUERY_HEAD.name)
        steps = {unit: max(layer.steps(unit) for layer in self.layers) for unit in names}
        return tuple(sorted((u for u in names if steps[u] > 1), key=lambda u: -steps[u])) or (KV_GROUP.name,)

    @property
    def widths(self) -> tuple[tuple[int, int, int], ...]:
        """(heads, groups, channels) of every layer: what a plan must match."""
        return tuple((layer.heads, layer.groups, layer.channels) for layer in self.layers)

    @property
    def uneven(self) -> bool:
        """Whether the layers differ in width."""
        return len(set(self.widths)) > 1


@dataclass(frozen=True)
class Grouping:
    """What attention may lose: whole KV groups, equally many heads of every group, or equally many value
    columns of every group (of which each has `size`, read by all its heads)."""

    heads: int
    groups: int
    unit: UnitName
    size: int = 1

    @property
    def row(self) -> AttentionUnit:
        return UNITS[self.unit]

    @property
    def units(self) -> int:
        return self.row.count(self.heads, self.groups, self.size)

    @property
    def pools(self) -> Tensor:
        """The pool (n,) each unit competes in; a feasible choice keeps equally many units of every pool."""
        return self.row.pools(self.heads, self.groups, self.size)

    @property
    def steps(self) -> int:
        return self.row.steps(self.heads, self.groups, self.size)

    def inputs_of(self, kept: Tensor, size: int) -> Tensor:
        """Return the reader's inputs (m,) of the kept heads or value columns (k,), ascending; a head has
        `size` inputs."""
        return self.row.inputs_of(kept, size, self.heads // self.groups)

    def unit_of_head(self) -> Tensor:
        """Return the unit (H,) that each query head belongs to."""
        return self.row.unit_of_head(self.heads, self.groups)
