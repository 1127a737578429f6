"""Measure every export of one model: size, verification, and perplexity against the model in memory.

    python -m benchmarks.exports [--model smollm2] [--ratio 0.2] [--samples 32] [--length 128] [--tokens 4096]
        [--json]

SlimLLM makes two plans: one in which each layer has a width of its own, for shim and padded, and one with the
same width everywhere, for native, twin and gguf. What is measured is what was stored, zeros included.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slimllm import pipeline
from slimllm.calibration import texts
from slimllm.core.types import Analysis, Calibration
from slimllm.evaluation import evaluate
from slimllm.export import checkpoint
from slimllm.models import loading
from slimllm.models.loading import Pruned, Subject
from slimllm.planning import plan_making
from slimllm.planning.rules import PlanRules

# The tiers to export a plan to, by whether all its layers are equally wide.
TIERS = {
    False: ("shim", "padded", "gguf"),
    True: ("native", "twin", "gguf"),
}


@dataclass(frozen=True)
class Row:
    """One export: its class, size, verification and perplexity, and the perplexity of the model in memory.

    `seconds` is the time that the export took.
    """

    tier: str
    stored_as: str
    megabytes: float
    parameters: int
    verified: bool
    max_logit_difference: float
    perplexity: float
    in_memory: float
    seconds: float

    @property
    def off(self) -> float:
        """The relative difference of both perplexities."""
        return abs(self.perplexity / self.in_memory - 1)


def measured(subject: Subject, text: texts.Text, tokens: int) -> float:
    """Return the perplexity of a subject on the text, in windows of 128 tokens, up to `tokens` tokens."""
    ids = texts.evaluation_tokens(text, subject.tokenizer, limit=tokens)
    return pipeline.finish_job(evaluate.measure_perplexity(subject, ids, 128)).perplexity


def exports(
    pruned: Pruned, tiers: tuple[str, ...], text: texts.Text, tokens: int, folder: Path
) -> Iterator[Row]:
    """Store one pruned model in these tiers, read each back, and yield its measurements."""
    expected = measured(pruned.subject, text, tokens)
    for tier in tiers:
        start = time.perf_counter()
        done = pipeline.finish_job(checkpoint.export_checkpoint(pruned, folder / tier, wanted=tier))
        seconds = time.perf_counter() - start
        kind = str(pruned.subject.dtype).removeprefix("torch.")
        again = loading.load_model(str(folder / tier), device="cpu", dtype=kind)
        config = json.loads((folder / tier / "config.json").read_text())
        yield Row(
            tier=done.tier,
            stored_as=config["architectures"][0],
            megabytes=done.bytes / 1e6,
            parameters=done.parameters,
            verified=done.verified,
            max_logit_difference=done.max_logit_difference,
            perplexity=measured(again, text, tokens),
            in_memory=expected,
            seconds=seconds,
        )
        shutil.rmtree(folder / tier)


def rows(given: argparse.Namespace) -> Iterator[Row]:
    """Yield the row of every export of both plans."""
    text = texts.find_text("encyclopedia", offline=True)
    subject = loading.load_model(given.model, device="cpu")
    wanted = Calibration(text.name, given.samples, given.length)
    analysis: Analysis = pipeline.finish_job(pipeline.analyse_model(subject, text, wanted))
    with tempfile.TemporaryDirectory(prefix="exports-") as name:
        for same, tiers in TIERS.items():
            plan = plan_making.make_plan(analysis, PlanRules(given.ratio, same_width=same))
            pruned = pipeline.finish_job(pipeline.prune_model(subject, plan, text, analysis))
            yield from exports(pruned, tiers, text, given.tokens, Path(name))


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark and print its rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--ratio", type=float, default=0.2)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    found: list[dict[str, Any]] = []
    for row in rows(given):
        found.append({**asdict(row), "off": row.off})
        if not given.json:
            print(
                f"{row.tier:7} {row.stored_as:20} {row.megabytes:7.1f} MB {row.parameters:12,} parameters  "
                f"verified {row.verified}, logits off by {row.max_logit_difference:.1e}  "
                f"perplexity {row.perplexity:.4f} against {row.in_memory:.4f} "
                f"({row.off:.3%})  {row.seconds:.0f} s",
                flush=True,
            )
    if given.json:
        print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
