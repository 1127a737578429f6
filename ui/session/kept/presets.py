"""Hold plans under a name: our presets as rules, and the user's own on disk beside the runs.

No Gradio.
"""

from __future__ import annotations

import contextlib
import json
import logging
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from slimllm.core.errors import Refusal
from slimllm.core.types import Analysis, Plan
from slimllm.files import atomic_write, file_limits
from slimllm.files.file_moves import move_path
from slimllm.planning.locks import Locks
from slimllm.planning.plan_json import plan_from_text, plan_to_dict
from slimllm.planning.plan_making import check_plan, make_plan
from slimllm.planning.rules import PlanRules, keep_pins
from ui.session.kept.run_store import LARGEST_RUN, RUN_REMEDY, UNREADABLE, RunStore

log = logging.getLogger(__name__)

FILE, PRESET_FORMAT = "presets.json", 1
LONGEST_NAME, MOST_PRESETS = 60, 100


@dataclass(frozen=True)
class Preset:
    """A preset of ours; rules that it does not name are the method's own choice."""

    name: str
    rules: PlanRules


OURS = (
    Preset("Gentle 10 %", PlanRules(0.1)),
    Preset("Balanced 20 %", PlanRules(0.2)),
    Preset("Bold 35 %", PlanRules(0.35)),
    Preset("Half", PlanRules(0.5)),
    Preset("20 %, standard checkpoint", PlanRules(0.2, same_width=True)),
    Preset("20 %, widths that run fast", PlanRules(0.2, align=64)),
)


def preset_choices(mine: Mapping[str, Plan]) -> list[tuple[str, str]]:
    """Return (title, key) of all presets, ours first; `mine` holds the user's own by name."""
    ours = [(preset.name, f"ours {preset.name}") for preset in OURS]
    return [*ours, *((f"{name} (yours)", f"mine {name}") for name in mine)]


def plan_of(
    key: str,
    mine: Mapping[str, Plan],
    analysis: Analysis,
    present: Plan | None,
    locks: Locks | None = None,
) -> tuple[Plan, str]:
    """Return the plan of a preset by its key, and a sentence about it or an empty string.

    A preset that was kept for another model gives its size and rules, but not its widths, and the sentence
    says so. Raise `Refusal` if there is no such preset, or if its plan cannot be made.
    """
    kind, _, name = str(key or "").partition(" ")
    ours = next((preset for preset in OURS if kind == "ours" and preset.name == name), None)
    if ours is not None:
        return make_plan(analysis, keep_pins(ours.rules, present, locks)), ""
    plan = mine.get(name) if kind == "mine" else None
    if plan is None:
        raise Refusal("This preset is not there any more; choose another one.")
    try:
        check_plan(plan, analysis.shape)
    except Refusal:
        rules = PlanRules(
            plan.ratio_requested, align=plan.align, count=plan.count, same_width=plan.same_width
        )
        taken = make_plan(analysis, keep_pins(rules, present, locks))
        return taken, f"“{name}” was kept for another model, so its size and rules are taken, not its widths."
    return plan, ""


def preset_name(name: object) -> str:
    """Return a name with single spaces.

    Raise `Refusal` if it is empty or longer than LONGEST_NAME characters.
    """
    proper = " ".join(str(name or "").split())
    if not proper:
        raise Refusal("The preset needs a name; write one beside the button.")
    if len(proper) > LONGEST_NAME:
        raise Refusal(f"A name may have up to {LONGEST_NAME} letters; choose a shorter one.")
    return proper


def keep_preset(mine: Mapping[str, Plan], name: str, plan: Plan) -> dict[str, Plan]:
    """Return the presets with this one, which replaces an older one of the same name.

    Raise `Refusal` if there are MOST_PRESETS already.
    """
    if name not in mine and len(mine) >= MOST_PRESETS:
        raise Refusal(f"There are {MOST_PRESETS} presets already; forget one first.")
    return {**mine, name: plan}


def write_presets(owner: str, mine: Mapping[str, Plan]) -> None:
    """Write the presets of one browser completely or not at all.

    A file that could not be read completely stays under another name. Raise `Unwritten` if writing fails.
    """
    rows = [{"name": name, "plan": plan_to_dict(plan)} for name, plan in mine.items()]
    text = json.dumps({"format": PRESET_FORMAT, "presets": rows}, indent=1)
    file, unwritten = RunStore(owner).folder / FILE, "The preset could not be kept on disk"
    if file.exists() and not read_whole(file):
        with atomic_write.translate_write_failures(unwritten, RUN_REMEDY):
            move_path(file, file.with_name(f"presets-unread-{secrets.token_hex(4)}.json"))
    atomic_write.write_text(file, text, unwritten, RUN_REMEDY)


def read_presets(owner: str) -> dict[str, Plan]:
    """Return the presets of one browser by name; log a warning if some cannot be read."""
    file = RunStore(owner).folder / FILE
    if not file.exists():
        return {}
    found = dict(presets_in(file))
    if not read_whole(file):
        log.warning("%s cannot be read as presets", file)
    return found


def presets_in(file: Path) -> Iterator[tuple[str, Plan]]:
    """Return an iterator over (name, plan) of the presets in a file that can be read."""
    with contextlib.suppress(*UNREADABLE):
        data = json.loads(file_limits.read_text(file, f"'{file}'", "keep presets anew", LARGEST_RUN))
        for row in data["presets"] if data["format"] == PRESET_FORMAT else ():
            with contextlib.suppress(*UNREADABLE):
                yield preset_name(row["name"]), plan_from_text(json.dumps(row["plan"]))


def read_whole(file: Path) -> bool:
    """Return whether all presets in a file can be read."""
    try:
        data = json.loads(file_limits.read_text(file, f"'{file}'", "keep presets anew", LARGEST_RUN))
        return data["format"] == PRESET_FORMAT and len(data["presets"]) == len(list(presets_in(file)))
    except UNREADABLE:
        return False
