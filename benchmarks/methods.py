"""Compare the perplexity of every method at equal size.

python -m benchmarks.methods [--model smollm2] [--ratios 0.2 0.5] [--methods NAME[:RECOVERY[:ALLOCATION]] …]
[--texts encyclopedia ../shared/data/wikitext-2-raw-test.txt] [--windows 128 1024] [--tokens 16384] [--samples
64 --length 256] [--unit auto] [--align 8] [--out out/bench] [--json | --markdown]

Without --methods, it measures every method with its own recovery and allocation, and SlimLLM with every
recovery. Every cell (a row at a ratio) is stored under --out when it is finished. It is computed again only
when an option, a text, the model, a library or our own source has changed, so Ctrl-C loses at most the
present cell. Where a method refuses, the reason is stored. Moments are collected once, and a method's
analysis serves all its cells.

It prints a table per ratio and the verdict on the goals, and writes results.json and the picture
results.html. Methods are compared by the first of --windows.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
import traceback
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is loaded, as in slimllm/__init__.py

import torch

from benchmarks.comparison import cells, picture, report
from benchmarks.comparison.cells import Row
from benchmarks.comparison.measuring import Bench, cell_of, prepare, say
from slimllm.cli.main import quiet_libraries
from slimllm.core.devices import name_device
from slimllm.core.errors import Refusal
from slimllm.core.json_io import to_plain_json
from slimllm.files import atomic_write
from slimllm.planning import plan_making

DEFAULT_TEXTS = ["encyclopedia", "../shared/data/wikitext-2-raw-test.txt"]


def run(bench: Bench, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return all cells, the dense model's first; after Ctrl-C, those that are finished."""
    wanted = [(row, ratio) for row in rows for ratio in bench.given.ratios]
    found = [cell_of(bench, None, 0.0)]
    for number, (row, ratio) in enumerate(wanted, 1):
        name, start = f"[{number}/{len(wanted)}] {row.name} at {ratio:.0%}", time.perf_counter()
        try:
            cell = cell_of(bench, row, ratio)
        except KeyboardInterrupt:
            say(f"{name}: cancelled; run the same command to go on from here")
            bench.missing += [f"{row.name} at {ratio:g}" for row, ratio in wanted[number - 1 :]]
            break
        except Exception:
            # A bug in one method must not end a long run. Its cell is not stored.
            say(f"{name}: failed\n{traceback.format_exc()}")
            bench.missing.append(f"{row.name} at {ratio:g}")
            continue
        how = "reused" if cell["reused"] else f"computed in {time.perf_counter() - start:.0f} s"
        say(f"{name}: {how}; {cell.get('refused') or brief(cell)}")
        found.append(cell)
    return found


def brief(cell: dict[str, Any]) -> str:
    """Return a cell's perplexities at the first window, in words."""
    first = {label: next(iter(by_window.values())) for label, by_window in cell["nll"].items()}
    return ", ".join(f"{label} {report.perplexity(nll):.4g}" for label, nll in first.items())


def machine(bench: Bench) -> str:
    """Return the kind of machine, in words."""
    cores, memory = os.cpu_count() or 1, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and limit.read_text().strip().isdigit():
        memory = min(memory, int(limit.read_text()))
    device = bench.subject.device
    gpu = "no GPU used" if device.type == "cpu" else name_device(device)
    versions = ", ".join(f"{name} {version}" for name, version in plan_making.library_versions())
    dtype = str(bench.subject.dtype).removeprefix("torch.")
    threads = torch.get_num_threads()
    return f"{cores} cores, {threads} threads, {memory / 2**30:.0f} GiB, {gpu}; {dtype}; {versions}"


def results(bench: Bench, found: list[dict[str, Any]], command: str) -> dict[str, Any]:
    """Return all that is reported, as one object."""
    dense = found[0]
    pruned = [report.completed(cell, dense) for cell in found[1:]]
    return {
        "command": command,
        "date": date.today().isoformat(),
        "machine": machine(bench),
        "model": bench.given.model,
        "calibration": bench.shared["calibration"],
        "evaluation": bench.shared["evaluation"],
        "unit": bench.given.unit,
        "align": bench.given.align,
        "source": bench.shared["source"],
        "computed": bench.computed,
        "missing": bench.missing,
        "dense": report.completed(dense, dense),
        "cells": pruned,
        "verdicts": [report.verdict(pruned, ratio) for ratio in bench.given.ratios],
    }


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--model", default="smollm2")
    found.add_argument("--ratios", type=float, nargs="+", default=[0.2, 0.5])
    found.add_argument("--methods", nargs="+", default=[], metavar="NAME[:RECOVERY[:ALLOCATION]]")
    found.add_argument("--texts", nargs="+", default=DEFAULT_TEXTS, help="texts to evaluate on")
    found.add_argument("--windows", type=int, nargs="+", default=[128, 1024])
    found.add_argument("--tokens", type=int, default=16384, help="evaluation tokens of each text")
    found.add_argument("--calibration", default="encyclopedia", help="the text to calibrate on")
    found.add_argument("--samples", type=int, default=64)
    found.add_argument("--length", type=int, default=256)
    found.add_argument("--seed", type=int, default=0)
    found.add_argument("--unit", default="auto")
    found.add_argument("--align", type=int, default=8, help="channels in multiples of this")
    found.add_argument("--device", default="auto")
    found.add_argument("--dtype", default="auto")
    found.add_argument("--out", default="out/bench")
    how = found.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    how.add_argument("--markdown", action="store_true", help="print the tables for docs/benchmarks.md")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and return the exit status.

    It is 0 where all cells are there, 1 where some are missing, 2 after a `Refusal`, and 130 after Ctrl-C
    before the first cell was finished.
    """
    given = parser().parse_args(arguments)
    quiet_libraries()
    command = shlex.join(
        ["python", "-m", "benchmarks.methods", *(sys.argv[1:] if arguments is None else arguments)]
    )
    try:
        answer, out = benchmark(given, command)
    except Refusal as refusal:
        say(f"benchmarks.methods: {' '.join(str(refusal).split())}")
        return 2
    except KeyboardInterrupt:
        say("benchmarks.methods: cancelled before the first cell was finished")
        return 130
    text = json.dumps(to_plain_json(answer), indent=1, allow_nan=False)
    atomic_write.replace_file(out / "results.json", lambda path: path.write_text(text, encoding="utf-8"))
    atomic_write.replace_file(out / "results.html", lambda path: picture.write(answer, path))
    show = report.markdown if given.markdown else report.plain_text
    print(text if given.json else show(answer))
    say(f"wrote {out / 'results.json'} and {out / 'results.html'}")
    return 1 if answer["missing"] else 0


def benchmark(given: argparse.Namespace, command: str) -> tuple[dict[str, Any], Path]:
    """Return the results and the folder they belong to.

    Raise a `Refusal` where there is no text to evaluate on.
    """
    absent = [name for name in given.texts if Path(name).suffix and not Path(name).is_file()]
    for name in absent:
        say(f"text '{name}' is not there and is left out")
    given.texts = [name for name in given.texts if name not in absent]
    rows = cells.rows_of(given.methods)
    if not given.texts:
        raise Refusal("There is no text to evaluate on; give --texts.")
    bench = prepare(given)
    return results(bench, run(bench, rows), command), bench.out


if __name__ == "__main__":
    sys.exit(main())
