"""Finished comparisons: plans, figures and findings without weights, and their form as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

from slimllm.core.fingerprints import is_other
from slimllm.core.json_io import parse_dataclass
from slimllm.core.types import Calibration, Plan
from slimllm.planning.plan_json import plan_from_text, plan_to_dict
from slimllm.pruning.finetuning import Tuning
from ui.facts.findings import Found
from ui.facts.run_maps import Portrait, portrait_from_dict, portrait_to_dict

RUN_FORMAT = 1
LABELS = {
    "dense": "Dense",
    "pruned": "Pruned",
    "recovered": "Pruned + recovery",
    "tuned": "Fine-tuned",
}
# The models of a new comparison; fine-tuning adds one later.
NAMES = ("dense", "pruned", "recovered")


def best_name(known: Container[str]) -> str:
    """Return the name of the best of these models: fine-tuned, else with recovery, else only pruned."""
    return next((name for name in ("tuned", "recovered") if name in known), "pruned")


@dataclass(frozen=True)
class Protocol:
    """How perplexity is measured.

    The text is read in windows of `window` tokens, at most `limit` tokens of it (0 for all). `begins_with` is
    the token that the model's tokenizer puts before every window, or empty. `tokens` is the fingerprint of
    the tokens, or empty if it is not known.
    """

    text: str = "encyclopedia"
    window: int = 128
    limit: int = 8192
    begins_with: str = ""

    def begun(self, begins_with: str) -> Protocol:
        """Return the protocol for a model whose tokenizer begins texts with this token."""
        return dataclasses.replace(self, begins_with=begins_with)

    tokens: str = ""

    def is_like(self, other: Protocol) -> bool:
        """Return whether both measure the same; fingerprints count only if both are known."""
        mine, theirs = (dataclasses.replace(one, tokens="") for one in (self, other))
        return mine == theirs and (self.tokens == other.tokens or not (self.tokens and other.tokens))


@dataclass(frozen=True)
class Asked:
    """What a comparison measures, and the prompts that its models continue.

    An answer has at most `new_tokens` tokens; at temperature 0 every token is the likeliest.
    """

    protocol: Protocol = Protocol()
    prompts: tuple[str, ...] = ()
    new_tokens: int = 48
    temperature: float = 0.0
    seed: int = 0

    def begun(self, begins_with: str) -> Asked:
        """Return the same for a model whose tokenizer begins texts with this token."""
        return dataclasses.replace(self, protocol=self.protocol.begun(begins_with))


@dataclass(frozen=True)
class Column:
    """The figures of one model of a comparison.

    `tokens` are the predicted ones. Errors are relative squared errors, as means over layers. `held_out` says
    that they were measured on held-out text, which those of earlier versions were not.

    `losses` are the mean losses of stretches of the measured text, in nats per token. `writing_rounds` is the
    writing speed of every round in tokens per second, and `tokens_per_second` their median.
    """

    parameters: int
    bytes: int
    perplexity: float | None = None
    tokens: int = 0
    tokens_per_second: float | None = None
    error_predicted: float | None = None
    error_measured: float | None = None
    held_out: bool = False
    losses: tuple[float, ...] = ()
    writing_rounds: tuple[float, ...] = ()


@dataclass(frozen=True)
class Run:
    """One comparison: its plan, its protocol, its columns by name, and what was exported.

    `parent` is the number of the run that it started from, and `told` says how the plan differs from that
    run's, or what else was done to it. `errors` are (predicted, measured) for every layer. `tunings` are the
    fine-tunings after pruning, in their order. `rules` says whether the plan's rules alone lead to it
    ("free", or "same" with the same width everywhere) or not ("").

    `dtype` is that of the model. Its exports have the same dtype, unless `as_source` says that they keep that
    of the source. `answers` are the prompts with the answers by column, `portrait` the maps of the analysis,
    and `found` what else was measured on its models. The user sets `note` and `pinned`.
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
    rules: str = ""
    dtype: str = ""
    as_source: bool = False
    answers: tuple[tuple[str, Mapping[str, str]], ...] = ()
    portrait: Portrait | None = None
    found: Found | None = None
    note: str = ""
    pinned: bool = False

    @property
    def best_name(self) -> str:
        """The column name of the run's best model."""
        return best_name(self.columns)

    @property
    def best(self) -> Column:
        """The column of the run's best model."""
        return self.columns[self.best_name]

    @property
    def smaller(self) -> float:
        """The share of all parameters that is gone, from 0 to 1."""
        return 1 - self.best.parameters / self.columns["dense"].parameters

    @property
    def name(self) -> str:
        """The name of the run on the page."""
        return f"Run {self.number}"

    def is_like(self, other: Run) -> bool:
        """Return whether both runs are of the same model, with perplexity measured in the same way."""
        same = self.plan.model == other.plan.model
        mine, theirs = dict(self.plan.fingerprints), dict(other.plan.fingerprints)
        return same and not is_other(mine, theirs, "weights") and self.protocol.is_like(other.protocol)


@dataclass(frozen=True)
class Budget:
    """What is the same for all methods of a comparison: the size, the text they read, how they are measured.

    `ratio` is the removed share of the parameters that `count` names.
    """

    ratio: float
    count: str
    calibration: Calibration
    protocol: Protocol


@dataclass(frozen=True)
class Entry:
    """The result of one method on one budget: its plan and figures, or why there are none.

    `present` says that the plan is that of the Tune tab, not the method's own. `seconds` is the time for
    scoring and pruning, and `refusal` says why there are no figures.
    """

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
        """The key of the entry's row; a later entry with the same key replaces it."""
        return "" if self.present else self.method, self.present, self.budget

    @property
    def excess(self) -> float | None:
        """The loss that pruning added, in nats per token: ln of perplexity over the dense model's."""
        mine, dense = self.column.perplexity if self.column else None, self.dense.perplexity
        return math.log(mine / dense) if mine and dense and math.isfinite(mine) else None


# The fields that are JSON-able as they are.
PLAIN_FIELDS = (
    "number",
    "made",
    "parent",
    "exported",
    "told",
    "rules",
    "dtype",
    "as_source",
    "note",
    "pinned",
)


def run_to_dict(run: Run) -> dict[str, Any]:
    """Return the run as JSON-able data."""
    return {
        "format": RUN_FORMAT,
        **{name: getattr(run, name) for name in PLAIN_FIELDS},
        "plan": plan_to_dict(run.plan),
        "protocol": dataclasses.asdict(run.protocol),
        "columns": {name: dataclasses.asdict(column) for name, column in run.columns.items()},
        "errors": [list(pair) for pair in run.errors],
        "tunings": [dataclasses.asdict(tuning) for tuning in run.tunings],
        "answers": [[prompt, dict(texts)] for prompt, texts in run.answers],
        "portrait": None if run.portrait is None else portrait_to_dict(run.portrait),
        "found": None if run.found is None else dataclasses.asdict(run.found),
    }


def run_from_dict(data: Mapping[str, Any]) -> Run:
    """Return the run in JSON data; its figures need not be finite, because those of ruined models are not.

    Raise `ValueError` for another format or missing figures, and another error, such as `KeyError`, for other
    malformed data.
    """
    if data["format"] != RUN_FORMAT:
        raise ValueError("another format")
    portrait, found = data.get("portrait"), data.get("found")
    columns = {
        name: parse_dataclass(Column, data["columns"][name], finite=False)
        for name in LABELS
        if name in data["columns"]
    }
    if "dense" not in columns or len(columns) < 2:
        raise ValueError("no figures")
    return Run(
        **{name: data[name] for name in PLAIN_FIELDS if name in data},
        plan=plan_from_text(json.dumps(data["plan"])),
        protocol=parse_dataclass(Protocol, data["protocol"]),
        columns=columns,
        errors=tuple((float(p), float(m)) for p, m in data["errors"]),
        tunings=tuple(parse_dataclass(Tuning, settings) for settings in data.get("tunings", ())),
        answers=tuple((str(prompt), dict(texts)) for prompt, texts in data.get("answers", ())),
        portrait=None if portrait is None else portrait_from_dict(portrait),
        found=None if found is None else parse_dataclass(Found, found, finite=False),
    )
