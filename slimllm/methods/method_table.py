"""The table of methods: which score ranks heads and channels, with which recovery and allocation by
default."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from slimllm.core.attention_unit import VALUE_COLUMN, UnitName
from slimllm.core.errors import Refusal
from slimllm.core.types import Ranking
from slimllm.methods import rankings
from slimllm.methods.rankings import ChannelSite, HeadSite


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
    """A row of the table. `recovery` and `allocation` are its own; empty `recoveries` and `allocations` mean
    that it combines with all, `alone` says why not with other recoveries.

    `statistics`: whether units are judged on what the already pruned layers hand on, or on the dense model.
    `learns`: what it must know beyond moments, from gradients or from training. `weighted`: whether its
    moments weigh every token by the size of the residual stream (`moments.residual_weights`). `probes`:
    whether the effect of damage on the answers is measured layer by layer (`probing`). `units`: what
    attention may lose, the preferred one first; empty as the model has it.
    """

    title: str
    words: str
    paper: str
    heads: Callable[[HeadSite, Mapping[str, Any]], Ranking]
    channels: Callable[[ChannelSite, Mapping[str, Any]], Ranking]
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
        rankings.pearson_heads,
        rankings.pca_channels,
        recovery="regression",
        allocation="cosine",
        options=(GREEDY, KEEP_LOWEST),
    ),
    "best": Method(
        "Best measured",
        "Cuts where the answers suffer least, as measured layer by layer, and lets later layers make up for "
        "what earlier ones lost.",
        "",
        rankings.best_heads,
        rankings.pca_channels,
        recovery="guided",
        allocation="sensitivity",
        units=("query-head", "kv-group"),
        weighted=True,
        probes=True,
    ),
    "slimllm-published": Method(
        "SlimLLM as published",
        "SlimLLM with two habits of the paper's code: the lowest 1 % of channels are kept, and layer "
        "ratios are "
        "not clipped, so that the asked size can be missed.",
        "arXiv 2505.22689, published code",
        rankings.pearson_heads,
        rankings.pca_channels,
        recovery="regression",
        allocation="cosine-unclipped",
        options=(GREEDY, Option("keep_lowest", True, KEEP_LOWEST.words)),
    ),
    "fasp": Method(
        "FASP",
        "Cuts single value columns out of all heads, and channels, by weight times activation; queries and "
        "keys stay, and the rest is refitted.",
        "arXiv 2501.09412",
        rankings.value_columns,
        rankings.wanda_channels,
        recovery="least-squares",
        allocation="uniform",
        units=("value-column",),
    ),
    "slimgpt": Method(
        "SlimGPT",
        "Removes one unit after the other, always the one whose loss the others can best make up for.",
        "arXiv 2412.18110",
        rankings.eliminated_heads,
        rankings.eliminated_channels,
        recovery="least-squares",
        allocation="logarithmic",
    ),
    "flap": Method(
        "FLAP",
        "Keeps what varies most from word to word; what hardly varies can be replaced by its average.",
        "arXiv 2312.11983",
        rankings.fluctuation_heads,
        rankings.fluctuation_channels,
        recovery="bias",
        allocation="standing",
        statistics="dense",
    ),
    "llm-pruner": Method(
        "LLM-Pruner",
        "Keeps what the loss depends on most, by its gradient on ten short texts; layers at both ends stay "
        "whole.",
        "arXiv 2305.11627",
        rankings.learned_heads,
        rankings.learned_channels,
        recovery="none",
        allocation="inner",
        statistics="dense",
        learns="taylor",
    ),
    "ddp": Method(
        "DDP",
        "Trains a gate for every unit to keep the model’s answers while more and more of them close; takes "
        "minutes.",
        "arXiv 2603.08065",
        rankings.learned_heads,
        rankings.learned_channels,
        recovery="none",
        allocation="gates",
        options=(
            Option(
                "target", 0.2, "The share of units that training removes; plan the same ratio.", 0.01, 0.9
            ),
            Option("steps", 300, "Training steps; more are slower and better.", 1, 20_000),
        ),
        recoveries=("none",),
        alone="its trained gates are the recovery",
        allocations=("gates",),
        statistics="dense",
        learns="gates",
    ),
    "wanda-sp": Method(
        "Wanda-sp",
        "Keeps what has large weights and large activations; each unit is judged alone.",
        "arXiv 2306.11695",
        rankings.wanda_heads,
        rankings.wanda_channels,
        recovery="none",
        allocation="uniform",
    ),
    "magnitude": Method(
        "Magnitude",
        "Keeps what has large weights; no text is needed to judge.",
        "",
        rankings.magnitude_heads,
        rankings.magnitude_channels,
        recovery="none",
        allocation="uniform",
    ),
    "block-influence": Method(
        "Block influence",
        "Drops whole layers, those that change their input least first.",
        "arXiv 2403.03853",
        rankings.magnitude_heads,
        rankings.magnitude_channels,
        recovery="none",
        allocation="whole-layers",
        recoveries=("none",),
        alone="it removes whole layers, so nothing is left to repair",
        allocations=("whole-layers",),
        statistics="dense",
    ),
    "random": Method(
        "Random",
        "Keeps a seeded random choice: the floor every method must beat.",
        "",
        rankings.random_heads,
        rankings.random_channels,
        recovery="none",
        allocation="uniform",
    ),
}


def find_method(name: str) -> Method:
    """The row called `name`; a `Refusal` with the list where there is none."""
    if name not in METHODS:
        raise Refusal(f"Method '{name}' is not known; use one of: {', '.join(METHODS)}.")
    return METHODS[name]


def fill_options(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The method's options, defaults filled in; a `Refusal` for an option or a value it does not have."""
    known = {option.name: option for option in find_method(name).options}
    for key, value in given.items():
        if key not in known or not fits_option(known[key], value):
            raise Refusal(
                f"Method '{name}' has no option '{key}' with value {value!r}; it has: "
                f"{', '.join(map(describe_option, known.values())) or 'none'}."
            )
    return {**{key: option.default for key, option in known.items()}, **given}


def fits_option(option: Option, value: Any) -> bool:
    """Whether the value is of the option's kind and in its range."""
    if isinstance(option.default, bool):
        return isinstance(value, bool)
    kinds = (int,) if isinstance(option.default, int) else (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool) and option.low <= value <= option.high


def describe_option(option: Option) -> str:
    if isinstance(option.default, bool):
        return f"{option.name} (yes or no)"
    return f"{option.name} ({option.low:g} to {option.high:g})"
