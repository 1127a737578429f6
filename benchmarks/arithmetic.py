"""Compare the speed of our arithmetic with the naive reference's, on the same layers, tokens and widths.

python -m benchmarks.arithmetic [--model smollm2] [--layers 2] [--ratio 0.2] [--unit auto] [--samples 64]
[--length 256] [--repeats 3] [--json]

Both prune the same few layers to the same widths by SlimLLM with regression; the layers before them stay
whole. The seconds spent in the layers' forward passes are subtracted. What remains is arithmetic: for ours,
summing the moments (also listed separately), ranking, repair, slicing and measuring the error; for the
reference, gathering activations, ranking, repair and masking. Ours sums in float32 and does the rest in
float64. The reference runs in float64, as in the tests, and in float32, as a script would. Times are seconds
per layer: medians over layers and repeats, which alternate within one run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is loaded, as in slimllm/__init__.py

import torch

from benchmarks import reference
from slimllm import pipeline
from slimllm.calibration import moments as streaming
from slimllm.calibration import texts
from slimllm.cli.main import quiet_libraries
from slimllm.core.devices import kind_of
from slimllm.core.errors import Refusal
from slimllm.core.memory import watch_peak
from slimllm.core.types import Calibration, Plan
from slimllm.methods.table import fill_options
from slimllm.models import loading

METHOD = "slimllm"


@dataclass
class Clock:
    """Seconds in layers since the last reading, and the part of them spent on summing moments."""

    layers: float = 0.0
    moments: float = 0.0

    def read(self) -> tuple[float, float]:
        """Return the seconds of (plain forward passes, summing moments), and reset both."""
        found = self.layers - self.moments, self.moments
        self.layers = self.moments = 0.0
        return found


@contextlib.contextmanager
def clocked(device: torch.device) -> Iterator[Clock]:
    """Time the layers' forward passes, and the summing of moments in them, while the context is open.

    The clock waits for the device before and after each of them.
    """
    wait = partial(kind_of(device).wait_for, device)
    clock, run, add = Clock(), streaming.run_layer, streaming.Accumulator.add

    def timed(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """Return `work` with its seconds added to the clock's field `name`."""

        def wrapper(*given: Any) -> Any:
            wait()
            start = time.perf_counter()
            try:
                return work(*given)
            finally:
                wait()
                setattr(clock, name, getattr(clock, name) + time.perf_counter() - start)

        return wrapper

    with (
        mock.patch.object(streaming, "run_layer", timed("layers", run)),
        mock.patch.object(streaming.Accumulator, "add", timed("moments", add)),
    ):
        yield clock


def plan_of(subject: loading.Subject, ratio: float, count: int, unit: str, wanted: Calibration) -> Plan:
    """Return a plan that cuts `count` layers, from the second on, by one ratio; the others stay whole."""
    chosen = subject.shape.units[0] if unit == "auto" else unit
    heads, channels = [], []
    for index, layer in enumerate(subject.shape.layers):
        cut = 1 <= index <= count
        size = layer.heads // layer.steps(chosen)  # type: ignore[arg-type]
        steps = range(size, layer.heads, size)
        heads.append(
            min(steps, key=lambda h: abs(h - (1 - ratio) * layer.heads)) if cut and steps else layer.heads
        )
        channels.append(round((1 - ratio) * layer.channels) if cut else layer.channels)
    return Plan(
        model=subject.source,
        family=subject.shape.family,
        widths=subject.shape.widths,
        heads=tuple(heads),
        channels=tuple(channels),
        calibration=wanted,
        method=METHOD,
        options=tuple(sorted(fill_options(METHOD, {}).items())),
        recovery="regression",
        unit=chosen,  # type: ignore[arg-type]
        ratio_requested=ratio,
    )


def measured(job: Iterator[Any], count: int, device: torch.device) -> list[dict[str, float]]:
    """Return the seconds of each cut layer of a job that yields after every layer, and the peak MiB."""
    found, wait = [], partial(kind_of(device).wait_for, device)
    with clocked(device) as clock:
        # Skip all preparation and the whole layer before the cut ones.
        next(job)
        for _ in range(count):
            clock.read()
            wait()
            start, peak = time.perf_counter(), watch_peak(device)
            next(job)
            wait()
            total = time.perf_counter() - start
            forward, moments = clock.read()
            figures = {"total": total, "forward": forward, "moments": moments, "arithmetic": total - forward}
            found.append({**figures, "peak_mib": peak()})
    return found


def compare(
    subject: loading.Subject, text: texts.Text, plan: Plan, count: int, repeats: int
) -> dict[str, Any]:
    """Return the median seconds per layer of all three, and how many times faster ours is."""
    tokens = texts.calibration_tokens(
        text, subject.tokenizer, plan.calibration, max_length=subject.shape.max_length
    )
    jobs: dict[str, Callable[[], Any]] = {
        "ours": lambda: pipeline.prune_model(subject, plan, text),
        "reference_float64": lambda: reference.prune(subject, plan, tokens)[1],
        "reference_float32": lambda: reference.prune(subject, plan, tokens, torch.float32)[1],
    }
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in jobs}
    for i in range(repeats):
        for name, start in jobs.items():
            job = start()
            rounds[name] += measured(job, count, subject.device)
            job.close()
            print(f"round {i + 1} of {repeats}: {name}", file=sys.stderr, flush=True)
    report: dict[str, Any] = {"tokens": tokens.numel()}
    for name, layers in rounds.items():
        for key in ("total", "moments", "arithmetic"):
            if key != "moments" or name == "ours":
                report[f"{name}_{key}_seconds"] = statistics.median(layer[key] for layer in layers)
    own = report["ours_arithmetic_seconds"]
    for name in list(jobs)[1:]:
        report[f"times_faster_than_{name}"] = report[f"{name}_arithmetic_seconds"] / own
        beyond = own - report["ours_moments_seconds"]
        report[f"times_faster_than_{name}_without_moments"] = report[f"{name}_arithmetic_seconds"] / beyond
    return report


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark and print its report; return 0, or 2 where the library refused."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--layers", type=int, default=2, help="how many layers are cut")
    parser.add_argument("--ratio", type=float, default=0.2)
    parser.add_argument("--unit", default="auto", choices=["auto", "kv-group", "query-head"])
    parser.add_argument("--text", default="encyclopedia")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    quiet_libraries()
    try:
        subject = loading.load_model(given.model)
        text = texts.find_text(given.text)
        count = max(1, min(given.layers, len(subject.layers) - 1))
        wanted = Calibration(given.text, given.samples, given.length)
        plan = plan_of(subject, given.ratio, count, given.unit, wanted)
        report = {
            "model": given.model,
            "layers": list(range(1, count + 1)),
            "kept_heads": plan.heads[1],
            "kept_channels": plan.channels[1],
            "unit": plan.unit,
            "dtype": str(subject.dtype),
            "threads": torch.get_num_threads(),
            **compare(subject, text, plan, count, given.repeats),
        }
    except Refusal as refusal:
        print(f"benchmarks.arithmetic: {refusal}", file=sys.stderr)
        return 2
    print(json.dumps(report, indent=1) if given.json else "\n".join(f"{k}: {v}" for k, v in report.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
