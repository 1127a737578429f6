"""Finished comparisons: their plan and figures, kept as JSON per browser so that they outlive a restart. No
weights."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimllm.recipes import plan_from_text, plan_to_dict
from slimllm.sources import home
from slimllm.store import replace_file
from slimllm.tuning import Tuning
from slimllm.types import Calibration, Plan, Refusal

log = logging.getLogger(__name__)

FORMAT = 1
LABELS = {
    "dense": "Dense",
    "pruned": "Pruned",
    "recovered": "Pruned + recovery",
    "tuned": "Fine-tuned",
}
NAMES = ("dense", "pruned", "recovered")  # the models of a comparison; tuning comes after it


@dataclass(frozen=True)
class Protocol:
    """How perplexity is measured: text, window length and at most how many tokens."""

    text: str = "encyclopedia"
    window: int = 128
    limit: int = 8192


@dataclass(frozen=True)
class Asked:
    """What a comparison is to measure and answer."""

    protocol: Protocol = Protocol()
    prompts: tuple[str, ...] = ()
    new_tokens: int = 48
    temperature: float = 0.0
    seed: int = 0
    offline: bool = False


@dataclass(frozen=True)
class Column:
    """The figures of one model of a comparison. Errors are means over layers, relative squared."""

    parameters: int
    bytes: int
    perplexity: float | None = None
    tokens: int = 0
    tokens_per_second: float | None = None
    error_predicted: float | None = None
    error_measured: float | None = None


@dataclass(frozen=True)
class Run:
    """One comparison: the plan, the protocol, the columns by name, the run it started from, what was
    exported.

    `told` says what was done to the run it started from, `tunings` how its model was fine-tuned after
    pruning, one after the other.
    """

    number: int
    made: str
    plan: Plan
    protocol: Protocol
    columns: Mapping[str, Column]
    parent: int | None = None
    errors: tuple[tuple[float, float], ...] = ()
    exported: Mapping[str, Any] | None = None
    told: str = ""
    tunings: tuple[Tuning, ...] = ()

    @property
    def best_name(self) -> str:
        """The name of the column that the run stands for: tuned, with the plan's recovery, or bare."""
        return next(name for name in ("tuned", "recovered", "pruned") if name in self.columns)

    @property
    def best(self) -> Column:
        """The column that the run stands for."""
        return self.columns[self.best_name]

    @property
    def smaller(self) -> float:
        """The share of all parameters that is gone."""
        return 1 - self.best.parameters / self.columns["dense"].parameters

    @property
    def name(self) -> str:
        return f"Run {self.number}"


@dataclass(frozen=True)
class Budget:
    """What several methods are compared on: the size, the text they read, how they are measured."""

    ratio: float
    count: str
    calibration: Calibration
    protocol: Protocol


@dataclass(frozen=True)
class Entry:
    """One of several methods on one budget: its plan and figures, or why there are none. `present` says that
    it is the plan of the Tune tab, not a method's own."""

    method: str
    budget: Budget
    dense: Column
    plan: Plan | None = None
    column: Column | None = None
    seconds: float = 0.0
    present: bool = False
    refusal: str = ""

    @property
    def place(self) -> tuple[str, bool, Budget]:
        """What a later entry of the same kind takes the row of."""
        return "" if self.present else self.method, self.present, self.budget

    @property
    def excess(self) -> float | None:
        """ln of perplexity over the dense model's: the loss per token that pruning added."""
        mine, dense = self.column.perplexity if self.column else None, self.dense.perplexity
        return math.log(mine / dense) if mine and dense and math.isfinite(mine) else None


def run_to_dict(run: Run) -> dict[str, Any]:
    """The run as JSON-able data."""
    data = {name: getattr(run, name) for name in ("number", "made", "parent", "exported", "told")}
    return {
        "format": FORMAT,
        **data,
        "plan": plan_to_dict(run.plan),
        "protocol": dataclasses.asdict(run.protocol),
        "columns": {name: dataclasses.asdict(column) for name, column in run.columns.items()},
        "errors": [list(pair) for pair in run.errors],
        "tunings": [dataclasses.asdict(tuning) for tuning in run.tunings],
    }


def run_from_dict(data: Mapping[str, Any]) -> Run:
    """The run in JSON data; raises what the data provokes where it is malformed."""
    return Run(
        number=int(data["number"]),
        made=str(data["made"]),
        plan=plan_from_text(json.dumps(data["plan"])),
        protocol=Protocol(**data["protocol"]),
        columns={name: Column(**data["columns"][name]) for name in LABELS if name in data["columns"]},
        parent=data["parent"],
        errors=tuple((float(p), float(m)) for p, m in data["errors"]),
        exported=data["exported"],
        told=str(data.get("told", "")),
        tunings=tuple(Tuning(**settings) for settings in data.get("tunings", ())),
    )


def folder_of(owner: str) -> Path:
    """Where the runs of one browser are kept; its id cannot be read off the name."""
    return home() / "history" / hashlib.sha256(owner.encode()).hexdigest()[:24]


def save_run(owner: str, run: Run) -> None:
    text = json.dumps(run_to_dict(run), indent=1)
    try:
        replace_file(
            folder_of(owner) / f"run-{run.number:04d}.json",
            lambda path: path.write_text(text, encoding="utf-8"),
        )
    except OSError as failure:
        raise Refusal(f"The run could not be kept on disk: {failure.strerror}.") from failure


def open_runs(owner: str) -> list[Run]:
    """The runs kept for one browser, oldest first; what cannot be read is left out and logged."""
    runs = []
    for file in sorted(folder_of(owner).glob("run-*.json")):
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
            if data["format"] == FORMAT:
                runs.append(run_from_dict(data))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            log.warning("%s cannot be read as a run", file)
    return runs


def command_line(run: Run) -> str:
    """The command that repeats a run from its saved plan."""
    return f"python -m slimllm prune --model {run.plan.model} --plan plan.json --out out/run{run.number}"
