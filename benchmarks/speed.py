"""Measure the speed and memory of analyse and prune, as ratios to one plain forward pass of the same tokens.

python -m benchmarks.speed [--model smollm2] [--samples 64] [--length 256] [--repeats 3] [--json]

Forward, analyse and prune alternate within one run, and their medians are compared, because absolute times
vary on a shared machine. `limit` is what the project allows: 4 forward passes + 20 s to analyse, 6 forward
passes + 20 s to prune, 1.5 GB in addition to the weights.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time

from slimllm.planning.rules import PlanRules

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is loaded, as in slimllm/__init__.py

import torch

from slimllm import pipeline
from slimllm.calibration import texts
from slimllm.calibration.moments import TOKENS_PER_BATCH
from slimllm.core.memory import watch_peak
from slimllm.core.types import Calibration
from slimllm.models import loading
from slimllm.planning import plan_making


def timed(subject: loading.Subject, work: object) -> tuple[float, float, object]:
    """Return (seconds, peak MiB above what was held before, result) of a call of `work`."""
    before = watch_peak(subject.device)()
    start, peak = time.perf_counter(), watch_peak(subject.device)
    result = work()  # type: ignore[operator]
    return time.perf_counter() - start, peak() - before, result


@torch.inference_mode()
def forward(subject: loading.Subject, tokens: torch.Tensor) -> None:
    """Run the model's trunk on the tokens (S, T) in batches."""
    trunk = subject.model.get_submodule(subject.family.trunk)
    for batch in tokens.to(subject.device).split(max(1, TOKENS_PER_BATCH // tokens.shape[1])):
        trunk(input_ids=batch, use_cache=False)


def main() -> None:
    """Run the benchmark and print its report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    subject = loading.load_model(given.model)
    text = texts.find_text("encyclopedia")
    wanted = Calibration(samples=given.samples, length=given.length)
    tokens = texts.calibration_tokens(text, subject.tokenizer, wanted, max_length=subject.shape.max_length)
    rounds: dict[str, list[tuple[float, float]]] = {"forward": [], "analyse": [], "prune": []}
    for _ in range(given.repeats):
        seconds, memory, _ = timed(subject, lambda: forward(subject, tokens))
        rounds["forward"].append((seconds, memory))
        seconds, memory, analysis = timed(
            subject, lambda: pipeline.finish_job(pipeline.analyse_model(subject, text, wanted))
        )
        rounds["analyse"].append((seconds, memory))
        plan = plan_making.make_plan(analysis, PlanRules(0.2))  # type: ignore[arg-type]
        seconds, memory, _ = timed(
            subject, lambda plan=plan: pipeline.finish_job(pipeline.prune_model(subject, plan, text))
        )
        rounds["prune"].append((seconds, memory))
    one = statistics.median(seconds for seconds, _ in rounds["forward"])
    report = {
        "model": given.model,
        "tokens": tokens.numel(),
        "dtype": str(subject.dtype),
        "threads": torch.get_num_threads(),
        "forward_seconds": one,
    }
    for name, forwards in (("analyse", 4), ("prune", 6)):
        seconds = statistics.median(s for s, _ in rounds[name])
        report |= {
            f"{name}_seconds": seconds,
            f"{name}_forwards": seconds / one,
            f"{name}_limit_seconds": forwards * one + 20,
            f"{name}_peak_mib_above_start": max(m for _, m in rounds[name]),
        }
    print(json.dumps(report, indent=1) if given.json else "\n".join(f"{k}: {v}" for k, v in report.items()))


if __name__ == "__main__":
    main()
