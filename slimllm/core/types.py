"""The frozen dataclasses that flow between the rooms.

Letters used in shapes everywhere: d inputs of a reader, o its outputs (the hidden size), H query heads, G
key/value groups, e head size, c channels, L layers, s feasible steps of a site.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from slimllm.core.attention_unit import UnitName
from slimllm.core.errors import Refusal
from slimllm.core.held_out import HeldOut
from slimllm.core.shapes import Shape, SiteName

Count = Literal["decoder", "all"]  # what a ratio is a share of
NOTE = "note"  # the stage of what a long job tells and does not count
MOST_SEED = 2**63
FLAT = (
    1e-5  # an input whose variance is a smaller share of its energy is constant, but for rounding in float32
)


def check_seed(seed: int) -> int:
    """The seed; a `Refusal` where it is none that every generator of random numbers takes."""
    if not (isinstance(seed, int) and abs(seed) < MOST_SEED):
        raise Refusal(f"Seed {seed} is not possible; use a whole number such as 0, below {MOST_SEED}.")
    return seed


@dataclass(frozen=True)
class Progress:
    """One finished unit of work of a long job."""

    stage: str
    done: int
    total: int
    words: str = ""
    result: Any = field(default=None, compare=False)


@dataclass(frozen=True)
class Calibration:
    """Which text the moments come from."""

    text: str = "encyclopedia"
    samples: int = 64
    length: int = 256
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Drift:
    """How far a stream through pruned layers has drifted from the dense one, seen from a reader: with e what
    the residual behind its site lacks, mean = E[e] (o,) and cross = E[e xᵀ] (o, d)."""

    mean: Tensor
    cross: Tensor

    def double(self) -> Drift:
        return Drift(self.mean.double(), self.cross.double())


@dataclass(frozen=True, eq=False)
class Moments:
    """First and second moments of a reader's input over `tokens` tokens: mean (d,), gram = E[x xᵀ] (d, d).

    `weight` is the mean weight of a token, where tokens were weighted; the moments are then weighted means.
    `held` are those of the tokens that `fitted` leaves out.
    """

    mean: Tensor
    gram: Tensor
    tokens: int
    weight: float = 1.0
    drift: Drift | None = None
    held: HeldOut | None = None

    @property
    def cov(self) -> Tensor:
        """Covariance (d, d), exactly zero for constant inputs: their rounding noise must not be taken for
        signal."""
        cov = torch.addr(self.gram, self.mean, self.mean, alpha=-1)
        flat = cov.diagonal() <= FLAT * self.gram.diagonal()
        cov[flat] = 0
        cov[:, flat] = 0
        return cov

    @property
    def fitted(self) -> Moments:
        """The moments of the tokens that are not held out: what a repair is fitted to whose error is told."""
        if self.held is None:
            return self
        held, mass = self.held, self.tokens * self.weight
        left = mass - held.mass
        rows = held.inputs.to(self.gram.dtype) * held.weights.to(self.gram.dtype).sqrt()[:, None]
        total = held.weights.to(self.mean.dtype) @ held.inputs.to(self.mean.dtype)
        drift, tokens = self.drift, self.tokens - len(held.weights)
        if drift is not None and held.lack is not None:
            lack = held.lack.to(self.gram.dtype) * held.weights.to(self.gram.dtype)[:, None]
            drift = Drift(
                (drift.mean * mass - lack.sum(0)) / left,
                torch.addmm(drift.cross, lack.T, held.inputs.to(lack), beta=mass / left, alpha=-1 / left),
            )
        return Moments(
            (self.mean * mass - total) / left,
            torch.addmm(self.gram, rows.T, rows, beta=mass / left, alpha=-1 / left),
            tokens,
            left / tokens,
            drift,
        )

    def __add__(self, other: Moments) -> Moments:
        """The moments of both token sets together."""
        total = self.tokens + other.tokens
        mass = self.tokens * self.weight + other.tokens * other.weight
        mine, theirs = self.tokens * self.weight / mass, other.tokens * other.weight / mass
        return Moments(
            self.mean * mine + other.mean * theirs,
            self.gram * mine + other.gram * theirs,
            total,
            mass / total,
        )

    def double(self) -> Moments:
        drift = None if self.drift is None else self.drift.double()
        return dataclasses.replace(self, mean=self.mean.double(), gram=self.gram.double(), drift=drift)


@dataclass(frozen=True, eq=False)
class LayerMoments:
    """What one decoder layer is known by: the moments of both readers' inputs, the mean square of each
    feature of the MLP's input (o,), and the mean over tokens of cos(layer input, layer output)."""

    attention: Moments
    mlp: Moments
    mlp_input_sq: Tensor
    cosine: float

    def __add__(self, other: LayerMoments) -> LayerMoments:
        total = self.mlp.tokens + other.mlp.tokens
        mine, theirs = self.mlp.tokens / total, other.mlp.tokens / total
        mass = mine * self.mlp.weight + theirs * other.mlp.weight
        return LayerMoments(
            self.attention + other.attention,
            self.mlp + other.mlp,
            self.mlp_input_sq * (mine * self.mlp.weight / mass)
            + other.mlp_input_sq * (theirs * other.mlp.weight / mass),
            self.cosine * mine + other.cosine * theirs,
        )


@dataclass(frozen=True, eq=False)
class UnitScores:
    """What one layer's heads (H,) and channels (c,) are worth by gradients or training, which moments cannot
    tell."""

    heads: Tensor
    channels: Tensor


@dataclass(frozen=True, eq=False)
class Ranking:
    """Importance of a site's n heads or channels, and which of them are kept at every feasible width.

    `scores` (n,), higher matters more; `order` (n,) best first; `subsets` (s+1, n) bool where a feasible kept
    set is not simply the best of the order, one row per step; `unsearched` (s+1, n) bool, where a search
    swapped units, what they were before it.
    """

    scores: Tensor
    order: Tensor
    subsets: Tensor | None = None
    unsearched: Tensor | None = None

    def kept(self, width: int, widest: int | None = None) -> Tensor:
        """The indices kept at this width of `widest` (default n), int64, ascending (k,)."""
        if self.subsets is None:
            return self.order[:width].sort().values
        step = width * (len(self.subsets) - 1) // (widest or len(self.scores))
        return self.subsets[step].nonzero().flatten()


@dataclass(frozen=True, eq=False)
class Repair:
    """A reader's new weight (o, k) and the bias (o,) to add to its output."""

    weight: Tensor
    bias: Tensor | None = None


@dataclass(frozen=True, eq=False)
class SiteAnalysis:
    """A site's ranking and, for each recovery, the predicted relative error at each of its s+1 feasible
    widths.

    `energy` is E‖y‖² of the reader's output, the unit in which errors are relative; where tokens are
    weighted, it is the output's share of the residual stream. `spectrum` (o,), where known, are the variances
    of the reader's output along its principal directions, largest first.
    """

    ranking: Ranking
    error: Mapping[str, Tensor]
    energy: float
    spectrum: Tensor | None = None


@dataclass(frozen=True, eq=False)
class LayerAnalysis:
    """One layer: its input/output cosine, the attention site under each unit, the MLP site.

    `sensitivity`, where it was probed: by how many nats the model's answers move per unit of error × energy
    in a site.
    """

    cosine: float
    attention: Mapping[UnitName, SiteAnalysis]
    mlp: SiteAnalysis
    sensitivity: Mapping[SiteName, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Analysis:
    """All that a plan needs to know of a model: scores, kept sets, error curves; a few megabytes."""

    model: str
    shape: Shape
    calibration: Calibration
    method: str
    options: Mapping[str, Any]
    layers: tuple[LayerAnalysis, ...]
    tokens: int
    bytes_per_parameter: float = 2
    seconds: float = 0.0
    peak_memory_mib: float = 0.0
    fingerprints: Mapping[str, str] = field(default_factory=dict)  # of the weights and of the tokens read

    @property
    def cosine(self) -> tuple[float, ...]:
        return tuple(layer.cosine for layer in self.layers)


@dataclass(frozen=True)
class Pin:
    """A head or channel, or `count` neighbouring ones, that the user protects from pruning or forces out. A
    layer forced out in both sites is dropped whole."""

    layer: int
    site: SiteName
    index: int
    count: int = 1


@dataclass(frozen=True)
class Plan:
    """The recipe of one pruning: everything that decides the resulting weights.

    `heads` and `channels` are kept counts per layer; `widths` the dense (heads, groups, channels) they were
    made for. With unit value-column, `heads` counts the value columns kept in every head. A layer that keeps
    nothing is dropped whole.
    """

    model: str
    family: str
    widths: tuple[tuple[int, int, int], ...]
    heads: tuple[int, ...]
    channels: tuple[int, ...]
    calibration: Calibration = Calibration()
    method: str = "slimllm"
    options: tuple[tuple[str, Any], ...] = ()
    recovery: str = "regression"
    allocation: str = "cosine"
    unit: UnitName = "kv-group"
    ratio_requested: float = 0.0
    ratio_achieved: float = 0.0
    count: Count = "decoder"
    align: int = 1
    same_width: bool = False  # every layer was to be equally wide
    protected: tuple[Pin, ...] = ()
    forced: tuple[Pin, ...] = ()
    predicted_error: tuple[float, ...] = ()
    seed: int = 0
    versions: tuple[tuple[str, str], ...] = ()
    fingerprints: tuple[tuple[str, str], ...] = ()  # of the weights and of the tokens that it was made for


@dataclass(frozen=True)
class Forecast:
    """What a plan will give, before any weight is touched. Errors are relative squared errors per layer."""

    parameters: int
    decoder_parameters: int
    ratio: float
    bytes: int
    kv_bytes_per_token: int
    flops_per_token: int
    attention_error: tuple[float, ...]
    mlp_error: tuple[float, ...]
    error: tuple[float, ...]

    @property
    def total_error(self) -> float:
        return sum(self.error) / len(self.error)


@dataclass(frozen=True)
class LayerReport:
    """One pruned layer: which units remain, and the relative error predicted for it and measured in it."""

    heads: int
    channels: int
    kept_heads: tuple[int, ...]
    kept_channels: tuple[int, ...]
    error_predicted: float
    error_measured: float
