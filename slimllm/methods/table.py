"""The table of methods: how each one ranks heads and channels, and its default recovery and allocation. Pure.

`interface.Method` explains the fields of a row. Every list of methods has this order.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from slimllm.core.errors import Refusal
from slimllm.methods.best import rank_heads_by_exact_error
from slimllm.methods.flap import rank_channels_by_fluctuation, rank_heads_by_fluctuation
from slimllm.methods.interface import Method, Option, Options
from slimllm.methods.magnitude import (
    rank_channels_at_random,
    rank_channels_by_magnitude,
    rank_heads_at_random,
    rank_heads_by_magnitude,
)
from slimllm.methods.ranking import rank_learned_channels, rank_learned_heads
from slimllm.methods.slimgpt import rank_channels_by_elimination, rank_heads_by_elimination
from slimllm.methods.slimllm import GREEDY, KEEP_LOWEST, rank_channels_by_pca, rank_heads_by_pearson
from slimllm.methods.wanda import rank_channels_by_wanda, rank_heads_by_wanda, rank_value_columns

METHODS: dict[str, Method] = {
    "slimllm": Method(
        title="SlimLLM",
        words="Keeps the heads whose joint output resembles the original most, and the channels that write "
        "along the main directions of the output.",
        paper="arXiv 2505.22689",
        heads=rank_heads_by_pearson,
        channels=rank_channels_by_pca,
        recovery="regression",
        allocation="cosine",
        options=(GREEDY, KEEP_LOWEST),
    ),
    "best": Method(
        title="Best measured",
        words="Cuts where the answers suffer least, as measured layer by layer, and lets later layers make "
        "up for what earlier ones lost.",
        paper="",
        heads=rank_heads_by_exact_error,
        channels=rank_channels_by_pca,
        recovery="guided",
        allocation="sensitivity",
        units=("query-head", "kv-group"),
        weighted=True,
        probes=True,
    ),
    "slimllm-published": Method(
        title="SlimLLM as published",
        words="SlimLLM with two habits of the paper's code: the lowest 1 % of channels are kept, and layer "
        "ratios are not clipped, so that the asked size can be missed.",
        paper="arXiv 2505.22689, published code",
        heads=rank_heads_by_pearson,
        channels=rank_channels_by_pca,
        recovery="regression",
        allocation="cosine-unclipped",
        options=(GREEDY, dataclasses.replace(KEEP_LOWEST, default=True)),
    ),
    "fasp": Method(
        title="FASP",
        words="Cuts single value columns out of all heads, and channels, by weight times activation; queries "
        "and keys stay, and the rest is refitted.",
        paper="arXiv 2501.09412",
        heads=rank_value_columns,
        channels=rank_channels_by_wanda,
        recovery="least-squares",
        allocation="uniform",
        units=("value-column",),
    ),
    "slimgpt": Method(
        title="SlimGPT",
        words="Removes one unit after the other, always the one whose loss the others can best make up for.",
        paper="arXiv 2412.18110",
        heads=rank_heads_by_elimination,
        channels=rank_channels_by_elimination,
        recovery="least-squares",
        allocation="logarithmic",
    ),
    "flap": Method(
        title="FLAP",
        words="Keeps what varies most from word to word; what hardly varies can be replaced by its average.",
        paper="arXiv 2312.11983",
        heads=rank_heads_by_fluctuation,
        channels=rank_channels_by_fluctuation,
        recovery="bias",
        allocation="standing",
        statistics="dense",
    ),
    "llm-pruner": Method(
        title="LLM-Pruner",
        words="Keeps what the loss depends on most, by its gradient on ten short texts; layers at both ends "
        "stay whole.",
        paper="arXiv 2305.11627",
        heads=rank_learned_heads,
        channels=rank_learned_channels,
        recovery="none",
        allocation="inner",
        statistics="dense",
        learns="taylor",
    ),
    "ddp": Method(
        title="DDP",
        words="Trains a gate for every unit to keep the model’s answers while more and more of them close; "
        "takes minutes.",
        paper="arXiv 2603.08065",
        heads=rank_learned_heads,
        channels=rank_learned_channels,
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
        title="Wanda-sp",
        words="Keeps what has large weights and large activations; each unit is judged alone.",
        paper="arXiv 2306.11695",
        heads=rank_heads_by_wanda,
        channels=rank_channels_by_wanda,
        recovery="none",
        allocation="uniform",
    ),
    "magnitude": Method(
        title="Magnitude",
        words="Keeps what has large weights; no text is needed to judge.",
        paper="",
        heads=rank_heads_by_magnitude,
        channels=rank_channels_by_magnitude,
        recovery="none",
        allocation="uniform",
    ),
    "block-influence": Method(
        title="Block influence",
        words="Drops whole layers, those that change their input least first.",
        paper="arXiv 2403.03853",
        heads=rank_heads_by_magnitude,
        channels=rank_channels_by_magnitude,
        recovery="none",
        allocation="whole-layers",
        recoveries=("none",),
        alone="it removes whole layers, so nothing is left to repair",
        allocations=("whole-layers",),
        statistics="dense",
    ),
    "random": Method(
        title="Random",
        words="Keeps a seeded random choice: the floor every method must beat.",
        paper="",
        heads=rank_heads_at_random,
        channels=rank_channels_at_random,
        recovery="none",
        allocation="uniform",
    ),
}


def find_method(name: str) -> Method:
    """Return the row called `name`; raise `Refusal` with the list of methods if there is none."""
    if name not in METHODS:
        raise Refusal(f"Method '{name}' is not known; use one of: {', '.join(METHODS)}.")
    return METHODS[name]


def fill_options(name: str, given: Options) -> dict[str, Any]:
    """Return the method's options, with defaults for those not given.

    Raise `Refusal` for an option or a value that the method does not have.
    """
    known = {option.name: option for option in find_method(name).options}
    for key, value in given.items():
        if key not in known or not fits_option(known[key], value):
            raise Refusal(
                f"Method '{name}' has no option '{key}' with value {value!r}; it has: "
                f"{', '.join(map(describe_option, known.values())) or 'none'}."
            )
    return {**{key: option.default for key, option in known.items()}, **given}


def fits_option(option: Option, value: Any) -> bool:
    """Return whether the value has the option's type and lies in its range."""
    if isinstance(option.default, bool):
        return isinstance(value, bool)
    kinds = (int,) if isinstance(option.default, int) else (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool) and option.low <= value <= option.high


def describe_option(option: Option) -> str:
    """Return the option's name and range, to be part of a sentence."""
    if isinstance(option.default, bool):
        return f"{option.name} (yes or no)"
    return f"{option.name} ({option.low:g} to {option.high:g})"
