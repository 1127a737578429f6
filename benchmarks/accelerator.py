"""Measure pruning at the shapes of common models on a device: seconds and peak memory per layer.

python -m benchmarks.accelerator [--device auto] [--dtype auto] [--shapes 1B 3B 7B 13B] [--layers 2]
[--ratio 0.2] [--samples 64] [--length 256] [--json]

For every shape it makes a model of random weights with one layer that stays whole and a few that are pruned
by SlimLLM with regression. Each of these takes as long as a layer of the real model, and the projection is
the median layer times the layers of the real model. `forward_share` is the part of a layer's time that its
forward passes take. Speeds are those of the short model, dense and pruned. A shape that a device has no room
for is reported and left out. On a processor, the peak memory is the resident memory of the whole process.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is loaded, as in slimllm/__init__.py

import torch
import transformers

from benchmarks.arithmetic import measured, plan_of
from benchmarks.memory import Made
from slimllm import pipeline
from slimllm.calibration import texts
from slimllm.cli.main import quiet_libraries
from slimllm.core.devices import name_device, pick_device, pick_dtype
from slimllm.core.errors import Refusal
from slimllm.core.failures import as_refusals
from slimllm.core.memory import give_back
from slimllm.core.types import Calibration
from slimllm.evaluation import evaluate
from slimllm.models.loading import Subject, make_subject
from tests.support.tiny_models import PAGE, tiny_tokenizer

# Llama 3.2 1B and 3B, and Llama 2 7B and 13B, each with its embedding as the output matrix.
SHAPES = {
    "tiny": Made(layers=3, hidden=48, heads=6, groups=3, head_size=8, channels=96, vocabulary=256),
    "1B": Made(layers=16, hidden=2048, heads=32, groups=8, head_size=64, channels=8192),
    "3B": Made(),
    "7B": Made(layers=32, hidden=4096, heads=32, groups=32, channels=11008, vocabulary=32_000),
    "13B": Made(layers=40, hidden=5120, heads=40, groups=40, channels=13824, vocabulary=32_000),
}


def make_random(made: Made, device: torch.device, dtype: torch.dtype) -> Subject:
    """Return a model of random weights in a shape, made on the device."""
    torch.manual_seed(0)
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(made.config(), dtype=dtype)
    return make_subject("random", model, tiny_tokenizer())


def measure_shape(
    made: Made, device: torch.device, dtype: torch.dtype, count: int, ratio: float, wanted: Calibration
) -> dict[str, Any]:
    """Return the figures of pruning `count` layers of a shape by a ratio; raise `Refusal` if it cannot be."""
    text = texts.find_text(wanted.text)
    with as_refusals():
        subject = make_random(dataclasses.replace(made, layers=count + 1), device, dtype)
        plan = plan_of(subject, ratio, count, "auto", wanted)
        job = pipeline.prune_model(subject, plan, text)
        rounds = measured(job, count, device)
        pruned = pipeline.finish_job(job).subject
        speeds = pipeline.finish_job(
            evaluate.measure_in_turns(
                {
                    name: evaluate.measure_speed(each)
                    for name, each in (("dense", subject), ("pruned", pruned))
                }
            )
        )
    seconds = statistics.median(layer["total"] for layer in rounds)
    return {
        "parameters": made.parameters,
        "layers": made.layers,
        "measured_layers": count,
        "seconds_per_layer": seconds,
        "forward_share": statistics.median(layer["forward"] / layer["total"] for layer in rounds),
        "peak_mib_per_layer": max(layer["peak_mib"] for layer in rounds),
        "projected_prune_seconds": seconds * made.layers,
        "tokens_per_second": {
            name: {"reading": speed.prefill_tokens_per_second, "writing": speed.decode_tokens_per_second}
            for name, speed in speeds.items()
        },
    }


def measure_shapes(given: argparse.Namespace, text: Path) -> dict[str, Any]:
    """Return the figures of every shape, or the sentence that says why there are none."""
    device = pick_device(given.device)
    dtype = pick_dtype(given.dtype, device)
    text.write_text(PAGE * (3 * given.samples * given.length // len(PAGE) + 3), encoding="utf-8")
    wanted = Calibration(str(text), given.samples, given.length)
    found: dict[str, Any] = {}
    for name in given.shapes:
        print(f"{name} …", file=sys.stderr, flush=True)
        try:
            found[name] = measure_shape(SHAPES[name], device, dtype, given.layers, given.ratio, wanted)
        except Refusal as refusal:
            found[name] = {"refused": str(refusal)}
        give_back()
    return {
        "device": name_device(device),
        "dtype": str(dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "tokens": given.samples * given.length,
        "ratio": given.ratio,
        "shapes": found,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its report; return 0, or 2 if the device or the dtype is not there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--shapes", nargs="+", default=["1B", "3B", "7B", "13B"], choices=list(SHAPES))
    parser.add_argument("--layers", type=int, default=2, help="how many layers are pruned")
    parser.add_argument("--ratio", type=float, default=0.2)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    quiet_libraries()
    try:
        with tempfile.TemporaryDirectory() as folder:
            report = measure_shapes(given, Path(folder, "page.txt"))
    except Refusal as refusal:
        print(f"benchmarks.accelerator: {refusal}", file=sys.stderr)
        return 2
    print(json.dumps(report, indent=1) if given.json else show_report(report))
    return 0


def show_report(report: dict[str, Any]) -> str:
    """Return the report as lines of text."""
    shapes = report["shapes"]
    lines = [f"{key}: {value}" for key, value in report.items() if key != "shapes"]
    for name, figures in shapes.items():
        lines += [name, *(f"  {key}: {value}" for key, value in figures.items())]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
