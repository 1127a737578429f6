"""The frozen dataclasses that modules exchange.

Letters used in shapes everywhere: d inputs of a reader, o its outputs (the hidden size), H query heads, G
key/value groups, e head size, c channels, L layers, s feasible steps of a site, S samples, T tokens of a
sample.
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
from slimllm.core.symmetric_products import subtract_gram
from slimllm.core.tensor_moves import to_float64

# The parameters that a ratio is a share of.
Count = Literal["decoder", "all"]
# The stage of a `Progress` that carries a message and no count.
NOTE = "note"
MOST_SEED = 2**63
# An input whose variance is a smaller share of its energy is constant, up to rounding in float32.
FLAT = 1e-5


def check_seed(seed: int) -> int:
    """Return the seed; raise `Refusal` if some random number generator cannot take it."""
    if not (isinstance(seed, int) and abs(seed) < MOST_SEED):
        raise Refusal(f"Seed {seed} is not possible; use a whole number such as 0, below {MOST_SEED}.")
    return seed


@dataclass(frozen=True)
class Progress:
    """One finished step of a long job: `done` of `total` steps of a stage."""

    stage: str
    done: int
    total: int
    words: str = ""
    result: Any = field(default=None, compare=False)


@dataclass(frozen=True)
class Calibration:
    """The text that the moments come from: `samples` samples of `length` tokens each."""

    text: str = "encyclopedia"
    samples: int = 64
    length: int = 256
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Drift:
    """The drift of a stream through pruned layers away from the dense stream, at one reader.

    With e = dense residual behind the reader's site minus the pruned one, `mean` is E[e] (o,) and `cross` is
    E[e xᵀ] (o, d).
    """

    mean: Tensor
    cross: Tensor

    def double(self, device: torch.device | None = None) -> Drift:
        """Return the drift in float64, on a device or where it is."""
        return Drift(to_float64(self.mean, device), to_float64(self.cross, device))


@dataclass(frozen=True, eq=False)
class Moments:
    """First and second moments of a reader's input over `tokens` tokens.

    `mean` has shape (d,), and `gram` = E[x xᵀ] has shape (d, d). `weight` is the mean weight of a token; for
    weighted tokens the moments are weighted means. `held` holds the held-out tokens that `fitted` leaves out.
    """

    mean: Tensor
    gram: Tensor
    tokens: int
    weight: float = 1.0
    drift: Drift | None = None
    held: HeldOut | None = None

    @property
    def cov(self) -> Tensor:
        """The covariance (d, d), exactly zero for constant inputs.

        Otherwise the rounding noise of constant inputs would be taken for signal.
        """
        cov = torch.addr(self.gram, self.mean, self.mean, alpha=-1)
        flat = cov.diagonal() <= FLAT * self.gram.diagonal()
        return cov.masked_fill_(flat[:, None], 0).masked_fill_(flat, 0)

    @property
    def fitted(self) -> Moments:
        """The moments of the tokens that are not held out.

        A repair is fitted to them if its error is measured on the held-out tokens.
        """
        if self.held is None:
            return self
        held, mass = self.held, self.tokens * self.weight
        left = mass - held.mass
        rows = held.inputs.to(self.gram) * (held.weights.to(self.gram) / left).sqrt()[:, None]  # (n, d)
        total = held.weights.to(self.mean.dtype) @ held.inputs.to(self.mean.dtype)  # (d,)
        drift, tokens = self.drift, self.tokens - len(held.weights)
        if drift is not None and held.lack is not None:
            lack = held.lack.to(self.gram.dtype) * held.weights.to(self.gram.dtype)[:, None]  # (n, o)
            drift = Drift(
                (drift.mean * mass - lack.sum(0)) / left,
                torch.addmm(drift.cross, lack.T, held.inputs.to(lack), beta=mass / left, alpha=-1 / left),
            )
        gram = subtract_gram(self.gram * (mass / left), rows)
        return Moments((self.mean * mass - total) / left, gram, tokens, left / tokens, drift)

    def __add__(self, other: Moments) -> Moments:
        """Return the moments of both token sets together."""
        total = self.tokens + other.tokens
        mass = self.tokens * self.weight + other.tokens * other.weight
        mine, theirs = self.tokens * self.weight / mass, other.tokens * other.weight / mass
        return Moments(
            self.mean * mine + other.mean * theirs,
            self.gram * mine + other.gram * theirs,
            total,
            mass / total,
        )

    def double(self, device: torch.device | None = None) -> Moments:
        """Return the moments in float64, on a device or where they are; held-out tokens keep their dtype."""
        return dataclasses.replace(
            self,
            mean=to_float64(self.mean, device),
            gram=to_float64(self.gram, device),
            drift=None if self.drift is None else self.drift.double(device),
            held=self.held if self.held is None or device is None else self.held.move_to(device),
        )


@dataclass(frozen=True, eq=False)
class LayerMoments:
    """The moments of one decoder layer.

    `attention` and `mlp` are the moments of the readers' inputs, `mlp_input_sq` (o,) is the mean square of
    each feature of the MLP's input, and `cosine` is the mean over tokens of cos(layer input, layer output).
    """

    attention: Moments
    mlp: Moments
    mlp_input_sq: Tensor
    cosine: float

    def __add__(self, other: LayerMoments) -> LayerMoments:
        """Return the moments of both token sets together."""
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
    """Importance of a layer's `heads` (H,) and `channels` (c,) from gradients or training."""

    heads: Tensor
    channels: Tensor


@dataclass(frozen=True, eq=False)
class Ranking:
    """Importance of a site's n heads or channels, and the units kept at every feasible width.

    `scores` (n,): higher is more important. `order` (n,): unit indices, best first. `subsets` (s+1, n) bool,
    one row per step: the kept sets, where they are not simply the first units of the order. `unsearched`
    (s+1, n) bool: the kept sets before a search swapped units.
    """

    scores: Tensor
    order: Tensor
    subsets: Tensor | None = None
    unsearched: Tensor | None = None

    def kept(self, width: int, widest: int | None = None) -> Tensor:
        """Return the indices (k,) kept at this width of `widest` (default n), int64 and ascending."""
        if self.subsets is None:
            return self.order[:width].sort().values
        step = width * (len(self.subsets) - 1) // (widest or len(self.scores))
        return self.subsets[step].nonzero().flatten()


@dataclass(frozen=True, eq=False)
class Repair:
    """A reader's new `weight` (o, k), and the `bias` (o,) to add to its output."""

    weight: Tensor
    bias: Tensor | None = None


@dataclass(frozen=True, eq=False)
class SiteAnalysis:
    """A site's ranking and its error curves.

    `error` holds for each recovery the predicted relative error (s+1,) at each feasible width. `energy` is
    E‖y‖² of the reader's output, the unit of relative errors; for weighted tokens it is the output's share of
    the residual stream. `spectrum` (o,), where known, holds the variances of the reader's output along its
    principal directions, largest first.
    """

    ranking: Ranking
    error: Mapping[str, Tensor]
    energy: float
    spectrum: Tensor | None = None


@dataclass(frozen=True, eq=False)
class LayerAnalysis:
    """The analysis of one layer: its input/output cosine, the attention site under each unit, the MLP site.

    `sensitivity`, where it was probed, is the change of the model's output in nats per unit of error × energy
    in a site.
    """

    cosine: float
    attention: Mapping[UnitName, SiteAnalysis]
    mlp: SiteAnalysis
    sensitivity: Mapping[SiteName, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Analysis:
    """Everything that a plan needs to know about a model, in a few megabytes."""

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
    # Of the weights and of the calibration tokens.
    fingerprints: Mapping[str, str] = field(default_factory=dict)

    @property
    def cosine(self) -> tuple[float, ...]:
        """The input/output cosine of every layer."""
        return tuple(layer.cosine for layer in self.layers)


@dataclass(frozen=True)
class Pin:
    """One head or channel, or `count` neighbouring ones, that the user protects from pruning or forces out.

    A layer that is forced out in both sites is dropped.
    """

    layer: int
    site: SiteName
    index: int
    count: int = 1


@dataclass(frozen=True)
class Plan:
    """The recipe of one pruning: everything that determines the resulting weights.

    `heads` and `channels` are kept counts per layer; `widths` holds the dense (heads, groups, channels) that
    the plan was made for. With the unit value-column, `heads` counts the value columns kept in every head. A
    layer that keeps nothing is dropped.
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
    # Whether every layer had to be equally wide.
    same_width: bool = False
    protected: tuple[Pin, ...] = ()
    forced: tuple[Pin, ...] = ()
    predicted_error: tuple[float, ...] = ()
    seed: int = 0
    versions: tuple[tuple[str, str], ...] = ()
    # Of the weights and of the calibration tokens that the plan was made for.
    fingerprints: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Forecast:
    """The predicted result of a plan, before any weight is changed.

    Errors are relative squared errors per layer.
    """

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
        """The mean error of all layers."""
        return sum(self.error) / len(self.error)


@dataclass(frozen=True)
class LayerReport:
    """One pruned layer: the units that remain, and the predicted and the measured relative error."""

    heads: int
    channels: int
    kept_heads: tuple[int, ...]
    kept_channels: tuple[int, ...]
    error_predicted: float
    error_measured: float
