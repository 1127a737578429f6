"""The table of methods: which score ranks heads and channels, with which recovery and allocation by
default."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from slimllm import scores
from slimllm.types import Grouping, Moments, Ranking, Refusal


@dataclass(frozen=True, eq=False)
class HeadSite:
    """All that a ranking of heads may look at: o_proj's weight (o, d), its moments, the grouping, pins
    (H,)."""

    weight: Tensor
    moments: Moments
    grouping: Grouping
    pinned: Tensor | None = None
    seed: int = 0


@dataclass(frozen=True, eq=False)
class ChannelSite:
    """All that a ranking of channels may look at: down_proj's weight (o, c), its moments, the writers (c,
    o), the mean square of the MLP's input (o,), pins (c,)."""

    weight: Tensor
    moments: Moments
    writers: Sequence[Tensor]
    input_sq: Tensor
    pinned: Tensor | None = None
    seed: int = 0


@dataclass(frozen=True)
class Option:
    """A yes/no choice of a method, declared here so that interfaces can draw it."""

    name: str
    default: bool
    words: str


@dataclass(frozen=True)
class Method:
    title: str
    words: str
    paper: str
    heads: Callable[[HeadSite, Mapping[str, Any]], Ranking]
    channels: Callable[[ChannelSite, Mapping[str, Any]], Ranking]
    recovery: str
    allocation: str
    options: tuple[Option, ...] = ()


def pearson_heads(site: HeadSite, options: Mapping[str, Any]) -> Ranking:
    cov = scores.head_covariance(site.moments.cov, site.weight, site.grouping.heads)
    return scores.rank_by_pearson(cov, site.grouping, pinned=site.pinned, search=options["greedy"])


def pca_channels(site: ChannelSite, options: Mapping[str, Any]) -> Ranking:
    return scores.rank_by_pca(
        site.moments,
        site.weight,
        site.writers,
        site.input_sq,
        keep_lowest=options["keep_lowest"],
        pinned=site.pinned,
    )


def per_head(values: Tensor, grouping: Grouping) -> Tensor:
    """Sums input scores (d,) over each head: (H,)."""
    return values.view(grouping.heads, -1).sum(1)


def wanda_heads(site: HeadSite, options: Mapping[str, Any]) -> Ranking:
    values = per_head(scores.wanda(site.moments, site.weight), site.grouping)
    return scores.rank_heads(values, site.grouping, pinned=site.pinned)


def wanda_channels(site: ChannelSite, options: Mapping[str, Any]) -> Ranking:
    return scores.rank(scores.wanda(site.moments, site.weight), pinned=site.pinned)


def magnitude_heads(site: HeadSite, options: Mapping[str, Any]) -> Ranking:
    values = per_head(scores.magnitude(site.weight), site.grouping)
    return scores.rank_heads(values, site.grouping, pinned=site.pinned)


def magnitude_channels(site: ChannelSite, options: Mapping[str, Any]) -> Ranking:
    return scores.rank(scores.magnitude(site.weight), pinned=site.pinned)


def random_heads(site: HeadSite, options: Mapping[str, Any]) -> Ranking:
    return scores.rank_heads(scores.chance(site.grouping.heads, site.seed), site.grouping, pinned=site.pinned)


def random_channels(site: ChannelSite, options: Mapping[str, Any]) -> Ranking:
    return scores.rank(scores.chance(site.weight.shape[1], site.seed), pinned=site.pinned)


GREEDY = Option("greedy", True, "Try swapping removed heads against kept ones, as long as it helps.")
KEEP_LOWEST = Option(
    "keep_lowest", False, "Keep the 1 % lowest-scoring channels, as the published code does."
)

METHODS: dict[str, Method] = {
    "slimllm": Method(
        "SlimLLM",
        "Keeps the heads whose joint output resembles the original most, and the channels that write "
        "along the "
        "main directions of the output.",
        "arXiv 2505.22689",
        pearson_heads,
        pca_channels,
        recovery="regression",
        allocation="cosine",
        options=(GREEDY, KEEP_LOWEST),
    ),
    "slimllm-published": Method(
        "SlimLLM as published",
        "SlimLLM with two habits of the paper's code: the lowest 1 % of channels are kept, and layer "
        "ratios are "
        "not clipped, so that the asked size can be missed.",
        "arXiv 2505.22689, published code",
        pearson_heads,
        pca_channels,
        recovery="regression",
        allocation="cosine-unclipped",
        options=(GREEDY, Option("keep_lowest", True, KEEP_LOWEST.words)),
    ),
    "wanda-sp": Method(
        "Wanda-sp",
        "Keeps what has large weights and large activations; each unit is judged alone.",
        "arXiv 2306.11695",
        wanda_heads,
        wanda_channels,
        recovery="none",
        allocation="uniform",
    ),
    "magnitude": Method(
        "Magnitude",
        "Keeps what has large weights; no text is needed to judge.",
        "",
        magnitude_heads,
        magnitude_channels,
        recovery="none",
        allocation="uniform",
    ),
    "random": Method(
        "Random",
        "Keeps a seeded random choice: the floor every method must beat.",
        "",
        random_heads,
        random_channels,
        recovery="none",
        allocation="uniform",
    ),
}


def method(name: str) -> Method:
    """The row called `name`; a `Refusal` with the list where there is none."""
    if name not in METHODS:
        raise Refusal(f"Method '{name}' is not known; use one of: {', '.join(METHODS)}.")
    return METHODS[name]


def settings(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The method's options, defaults filled in; a `Refusal` for an option it does not have."""
    known = {option.name: option.default for option in method(name).options}
    for key, value in given.items():
        if key not in known or not isinstance(value, bool):
            raise Refusal(
                f"Method '{name}' has no yes/no option '{key}' with value {value!r}; it has: "
                f"{', '.join(known) or 'none'}."
            )
    return {**known, **given}
