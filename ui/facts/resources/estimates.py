"""Estimate how long an analysis will take on this machine, from rates measured when a model is loaded.

No Gradio.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from slimllm.analysis import sensitivity
from slimllm.core.devices import CPU, kind_of
from slimllm.core.types import Calibration
from slimllm.methods import ddp, taylor
from slimllm.methods.table import find_method
from slimllm.models.loading import Subject

# Side of the square matrices whose factorisation and product are timed.
SIDE = 512
# Scores, curves and recoveries of a layer with SIDE channels take this many times as long.
LAYER_UNITS = 5.0
# Further seconds per layer.
LAYER_FIXED = 0.08
# A backward pass takes as long as this many forward passes.
BACKWARD = 2.0


@dataclass(frozen=True)
class Rates:
    """How fast this machine works with a model.

    `reading` is in tokens per second, `head` the seconds that the model's output head takes for a token, and
    `arithmetic` the seconds that a factorisation and a product of SIDE × SIDE matrices take in float64: on
    the model's device, or on the processor if the device has no float64.
    """

    reading: float = 1.0
    head: float = 0.0
    arithmetic: float = 0.0


def measure_rates(subject: Subject, reading: float) -> Rates:
    """Return the rates of this machine with a model that reads `reading` tokens per second.

    The measurement itself takes a moment.
    """
    head, tokens = sensitivity.Head(subject), 32
    stream = torch.zeros(1, tokens, subject.shape.hidden, dtype=subject.dtype, device=subject.device)
    exact = subject.device if kind_of(subject.device).has_float64 else CPU
    known = torch.log_softmax(head.logits(stream)[0].float(), -1)  # (T, vocab)
    square = torch.eye(SIDE, dtype=torch.float64, device=exact)
    return Rates(
        reading,
        time_work(lambda: sensitivity.sum_divergence(known, head.logits(stream)[0]), subject.device) / tokens,
        time_work(lambda: torch.linalg.cholesky(square) @ square, exact),
    )


def time_work(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of the fastest of three calls on a device, after one call that warms up."""
    times, wait = [], kind_of(device).wait_for
    for _ in range(4):
        wait(device)
        start = time.perf_counter()
        work()
        wait(device)
        times.append(time.perf_counter() - start)
    return min(times[1:])


def analysis_tokens(calibration: Calibration) -> int:
    """Return the number of tokens that an analysis reads."""
    return calibration.samples * calibration.length


def analysis_seconds(
    subject: Subject, rates: Rates, calibration: Calibration, name: str, options: Mapping[str, Any]
) -> float:
    """Return roughly how many seconds an analysis by this method takes, with all of its parts."""
    layers, row = subject.shape.layers, find_method(name)
    units = sum(LAYER_UNITS * (layer.channels / SIDE) ** 3 for layer in layers)
    seconds = 1.5 * analysis_tokens(calibration) / rates.reading
    seconds += LAYER_FIXED * len(layers) + units * rates.arithmetic
    if row.probes:
        seconds += probing_seconds(len(layers), rates, calibration)
    if row.learns == "taylor":
        read = min(calibration.samples, taylor.TAYLOR_SAMPLES)
        read *= min(calibration.length, taylor.TAYLOR_LENGTH)
        seconds += read * (1 + BACKWARD) / rates.reading
    if row.learns == "gates":
        steps = int(options.get("steps", next(o.default for o in row.options if o.name == "steps")))
        seconds += training_seconds(steps, rates)
    return seconds


def probing_seconds(layers: int, rates: Rates, calibration: Calibration) -> float:
    """Return the seconds that probing takes.

    Probing damages both sites of every layer in turn, and each time reads a few windows from that layer to
    the end, where the output head answers.
    """
    tokens = min(calibration.samples, sensitivity.WINDOWS) * min(calibration.length, sensitivity.WINDOW)
    # Σ over both sites of (layers − i) / layers, and the dense pass before.
    passes = layers + 2
    return tokens * (passes / rates.reading + (2 * layers + 1) * rates.head)


def training_seconds(steps: int, rates: Rates) -> float:
    """Return the seconds of `steps` steps of training gates.

    Each step counts as three forward passes over its tokens and one backward pass.
    """
    return steps * ddp.Training.tokens_per_step * (3 + BACKWARD) / rates.reading


def analysis_bytes(subject: Subject, calibration: Calibration) -> float:
    """Return roughly how many bytes an analysis takes in addition to the model."""
    shape = subject.shape
    widest = max(layer.channels for layer in shape.layers)
    return 4 * analysis_tokens(calibration) * shape.hidden * 2 + 8 * 6 * widest**2
