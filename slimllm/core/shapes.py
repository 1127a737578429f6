"""The widths of a model, the cost of each unit, and the feasible choices of units in a site.

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
    """The prunable widths of one decoder layer, and the cost of each unit in parameters."""

    heads: int
    groups: int
    channels: int
    head_cost: int
    group_cost: int
    channel_cost: int
    fixed: int
    attention_bias: bool
    mlp_bias: bool
    # Value columns of each head.
    values: int = 0
    # Parameters of one value column in all heads: rows of V and columns of O.
    value_cost: int = 0
    # Whether no head can be removed.
    whole: bool = False

    def widest(self, unit: UnitName) -> int:
        """Return the dense width of the attention site: its query heads, or the value columns of a head."""
        return UNITS[unit].widest(self.heads, self.values)

    def steps(self, unit: UnitName) -> int:
        """Return the number of feasible widths above zero of the attention site."""
        return UNITS[unit].steps(self.heads, self.groups, self.values)

    def step(self, width: int, unit: UnitName) -> int:
        """Return the index of a feasible width of the attention site; width zero has index 0."""
        return width * self.steps(unit) // self.widest(unit)

    def heads_kept(self, width: int, unit: UnitName) -> int:
        """Return how many query heads remain at this width of the attention site."""
        return UNITS[unit].heads_kept(width, self.heads)

    def groups_kept(self, width: int, unit: UnitName) -> int:
        """Return how many key/value groups remain at this width of the attention site."""
        return UNITS[unit].groups_kept(width, self.heads, self.groups)

    def at(self, width: int, channels: int, unit: UnitName) -> int:
        """Return the parameters at these widths, not counting biases that a recovery may add.

        A layer that keeps nothing is dropped and has 0 parameters.
        """
        if not width and not channels:
            return 0
        whole = self.parameters(self.heads_kept(width, unit), self.groups_kept(width, unit), channels)
        narrowed = (self.values - width) * self.value_cost if UNITS[unit].narrows_heads and width else 0
        return whole - narrowed

    def parameters(self, heads: int, groups: int, channels: int) -> int:
        """Return the parameters of the layer at these counts, not counting biases that a recovery may add."""
        return self.fixed + heads * self.head_cost + groups * self.group_cost + channels * self.channel_cost

    @property
    def dense(self) -> int:
        """The parameters of the dense layer."""
        return self.parameters(self.heads, self.groups, self.channels)


@dataclass(frozen=True)
class Shape:
    """The sizes of a causal language model.

    `outside` counts the parameters outside the decoder layers; `max_length` is in tokens.
    """

    family: str
    hidden: int
    head_size: int
    vocab: int
    max_length: int
    outside: int
    layers: tuple[LayerShape, ...]

    @property
    def decoder(self) -> int:
        """The parameters of all decoder layers."""
        return sum(layer.dense for layer in self.layers)

    @property
    def parameters(self) -> int:
        """The parameters of the whole model."""
        return self.outside + self.decoder

    @property
    def heads(self) -> int:
        """The query heads of the widest layer."""
        return max(layer.heads for layer in self.layers)

    @property
    def groups(self) -> int:
        """The key/value groups of the widest layer."""
        return max(layer.groups for layer in self.layers)

    @property
    def channels(self) -> int:
        """The channels of the widest layer."""
        return max(layer.channels for layer in self.layers)

    @property
    def units(self) -> tuple[UnitName, ...]:
        """The attention units with more than one feasible width, the finest first."""
        names = (KV_GROUP.name, QUERY_HEAD.name)
        steps = {unit: max(layer.steps(unit) for layer in self.layers) for unit in names}
        return tuple(sorted((u for u in names if steps[u] > 1), key=lambda u: -steps[u])) or (KV_GROUP.name,)

    @property
    def widths(self) -> tuple[tuple[int, int, int], ...]:
        """(heads, groups, channels) of every layer; a plan must match them."""
        return tuple((layer.heads, layer.groups, layer.channels) for layer in self.layers)

    @property
    def uneven(self) -> bool:
        """Whether the layers differ in width."""
        return len(set(self.widths)) > 1


@dataclass(frozen=True)
class Grouping:
    """The units of one attention site.

    They are whole KV groups, equally many query heads of every group, or equally many value columns of every
    group. Each group has `size` value columns, which all of its heads read.
    """

    heads: int
    groups: int
    unit: UnitName
    size: int = 1

    @property
    def row(self) -> AttentionUnit:
        """The row of the unit table."""
        return UNITS[self.unit]

    @property
    def units(self) -> int:
        """The number of units n."""
        return self.row.count(self.heads, self.groups, self.size)

    @property
    def pools(self) -> Tensor:
        """The pool (n,) in which each unit competes.

        A feasible choice keeps equally many units of every pool.
        """
        return self.row.pools(self.heads, self.groups, self.size)

    @property
    def steps(self) -> int:
        """The number of feasible widths above zero."""
        return self.row.steps(self.heads, self.groups, self.size)

    def inputs_of(self, kept: Tensor, size: int) -> Tensor:
        """Return the reader's inputs (m,) of the kept heads or value columns (k,), in ascending order.

        A head has `size` inputs.
        """
        return self.row.inputs_of(kept, size, self.heads // self.groups)

    def unit_of_head(self) -> Tensor:
        """Return the unit (H,) that each query head belongs to."""
        return self.row.unit_of_head(self.heads, self.groups)
