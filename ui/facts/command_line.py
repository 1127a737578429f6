"""Write the command line that makes a run again."""

from __future__ import annotations

import dataclasses
import shlex

from slimllm.core.errors import Refusal
from slimllm.core.types import Analysis, Plan
from slimllm.planning.plan_making import make_plan
from slimllm.planning.rules import rules_of_plan
from slimllm.pruning import finetuning
from ui.facts.runs import Run


def rules_of(analysis: Analysis, plan: Plan) -> str:
    """Return the kind of rules that alone lead to a plan: "free", "same" or "".

    "same" stands for rules that make every layer equally wide. "" stands for a plan that was made by hand,
    has pins (the command line has no option for them), or does not follow from its rules.
    """
    if plan.allocation == "hand" or plan.protected or plan.forced:
        return ""
    name = "same" if plan.same_width else "free"
    try:
        made = make_plan(analysis, rules_of_plan(plan))
    except Refusal:
        return ""
    same = dataclasses.replace(made, versions=plan.versions, fingerprints=plan.fingerprints) == plan
    return name if same else ""


def plan_name(run: Run) -> str:
    """Return the file name under which the plan of a run is downloaded."""
    return f"plan-run{run.number}.json"


def command_line(run: Run) -> str:
    """Return the commands, one per line, that make the checkpoint of a run again.

    The first command prunes by the run's rules where they alone lead to its plan, else from its plan file.
    Each fine-tuning adds a command.
    """
    tier = (run.exported or {}).get("tier")
    # The export chooses native by itself where it can; asking for it would change the plan.
    stored = ["--export", tier] if tier in ("shim", "padded", "gguf") else []
    last = len(run.tunings)
    folders = [f"out/run{run.number}{'' if i == last else f'-step{i + 1}'}" for i in range(last + 1)]
    words = ["python", "-m", "slimllm", "prune", "--model", run.plan.model]
    words += rule_words(run.plan, run.rules == "same") if run.rules else ["--plan", plan_name(run)]
    words += ["--dtype", run.dtype] if run.dtype and not run.as_source else []
    lines = [shlex.join([*words, *([] if last else stored), "--out", folders[0]])]
    for i, wanted in enumerate(run.tunings, 1):
        line = finetuning.finetuning_command(wanted, folders[i - 1]).removesuffix("DIR") + folders[i]
        lines.append(" ".join([line, *(stored if i == last else [])]))
    return "\n".join(lines)


def rule_words(plan: Plan, same: bool) -> list[str]:
    """Return the rules of a plan as arguments.

    All rules are named, so that a later change of a default does not change the result.
    """
    read = plan.calibration
    words = {
        "--ratio": plan.ratio_requested,
        "--method": plan.method,
        "--recovery": plan.recovery,
        "--allocation": plan.allocation,
        "--unit": plan.unit,
        "--align": plan.align,
        "--count": plan.count,
        "--text": read.text,
        "--samples": read.samples,
        "--length": read.length,
        "--seed": read.seed,
    }
    found = [str(word) for pair in words.items() for word in pair]
    for name, value in plan.options:
        found += ["--option", f"{name}={value if not isinstance(value, bool) else 'on' if value else 'off'}"]
    return [*found, "--same-width"] if same else found
