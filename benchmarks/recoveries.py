"""Measure the perplexity of the dense and the pruned model for several ratios and recoveries.

python -m benchmarks.recoveries [--model smollm2] [--ratios 0.2 0.5] [--recoveries none regression
least-squares] [--unit auto] [--allocation cosine] [--texts encyclopedia
../shared/data/wikitext-2-raw-test.txt] [--windows 128 1024] [--tokens 32768] [--json]

By default, it measures on two texts and two windows. A text file that is absent is left out. Calibration
always uses the encyclopedia's calibration part.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from slimllm import pipeline
from slimllm.calibration import texts
from slimllm.core.types import Calibration
from slimllm.evaluation import evaluate
from slimllm.models import loading
from slimllm.planning import plan_making
from slimllm.planning.rules import PlanRules


def measure(subject: loading.Subject, given: argparse.Namespace) -> dict[str, float]:
    """Return the perplexity by text and window."""
    found = {}
    for name in given.texts:
        ids = texts.evaluation_tokens(texts.find_text(name), subject.tokenizer, limit=given.tokens)
        for window in given.windows:
            result = pipeline.finish_job(evaluate.measure_perplexity(subject, ids, window))
            found[f"{Path(name).stem[:12]} w{window}"] = round(result.perplexity, 2)
    return found


def main() -> None:
    """Run the benchmark and print its rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.2, 0.5])
    parser.add_argument("--recoveries", nargs="+", default=["none", "regression", "least-squares"])
    parser.add_argument("--unit", default="auto")
    parser.add_argument("--allocation", default="cosine")
    parser.add_argument(
        "--texts", nargs="+", default=["encyclopedia", "../shared/data/wikitext-2-raw-test.txt"]
    )
    parser.add_argument("--windows", type=int, nargs="+", default=[128, 1024])
    parser.add_argument("--tokens", type=int, default=32768)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    given.texts = [name for name in given.texts if "/" not in name or Path(name).is_file()]
    subject = loading.load_model(given.model)
    source = texts.find_text("encyclopedia")
    analysis = pipeline.finish_job(
        pipeline.analyse_model(subject, source, Calibration(samples=given.samples, length=given.length))
    )
    rows: list[dict[str, Any]] = [{"ratio": 0.0, "recovery": "dense", **measure(subject, given)}]
    for ratio in given.ratios:
        for recovery in given.recoveries:
            plan = plan_making.make_plan(
                analysis, PlanRules(ratio, recovery=recovery, unit=given.unit, allocation=given.allocation)
            )
            pruned = pipeline.finish_job(pipeline.prune_model(subject, plan, source))
            row = {"ratio": plan.ratio_achieved, "recovery": recovery, **measure(pruned.subject, given)}
            print(row, file=sys.stderr, flush=True)
            rows.append(row)
    if given.json:
        begins_with = subject.beginning.words or None
        print(json.dumps({**vars(given), "begins_with": begins_with, "rows": rows}, indent=1))
        return
    columns = list(rows[0])
    if subject.beginning.words:
        print(f"Windows begin with {subject.beginning.words}.")
    print(" | ".join(columns))
    for row in rows:
        print(" | ".join(f"{row[c]:.4g}" if isinstance(row[c], float) else str(row[c]) for c in columns))


if __name__ == "__main__":
    main()
