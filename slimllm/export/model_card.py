"""The description of an exported folder: README.md for people, slimllm.json for programs.

It includes the models that the export was made from.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers

from slimllm.core.attention_unit import UNITS
from slimllm.core.errors import Refusal
from slimllm.core.types import Plan
from slimllm.export.gguf_writer import FILE
from slimllm.export.transformers_versions import loading_options, reader_versions
from slimllm.files import file_limits
from slimllm.files.written_files import FACTS, note_files
from slimllm.models.families import linear_of
from slimllm.models.loading import Pruned
from slimllm.models.modeling_slim import Placed
from slimllm.planning.plan_json import plan_to_dict, read_witness

AGAIN = 'python -m slimllm generate --model {} --prompt "Water boils when"'


@dataclass(frozen=True)
class Export:
    """What was written.

    `parameters` and `bytes` are those of the weights file, `words` say why it has this tier, and the weights
    are `stored_in` this dtype.
    """

    tier: str
    folder: str
    bytes: int
    parameters: int
    verified: bool
    max_logit_difference: float
    words: str
    stored_in: str = ""


def write_description(done: Export, pruned: Pruned, folder: Path, recipe: str, notes: Sequence[str]) -> None:
    """Write README.md and slimllm.json into `folder`."""
    layers = [dataclasses.asdict(report) for report in pruned.layers]
    for layer in layers:
        unknown = [
            key for key, value in layer.items() if isinstance(value, float) and not math.isfinite(value)
        ]
        # JSON has no NaN, so unknown errors become null.
        layer.update(dict.fromkeys(unknown))
    facts = {
        "format": 1,
        "source": pruned.subject.source,
        **{key: value for key, value in dataclasses.asdict(done).items() if key != "folder"},
        "layers": layers,
        "versions": dict(pruned.plan.versions),
        "ancestors": list_ancestors(pruned),
        "begins_with": pruned.subject.beginning.words or None,
    }
    (folder / "README.md").write_text(write_readme(done, pruned, recipe, notes), encoding="utf-8")
    note_files(folder, facts)


def list_ancestors(pruned: Pruned) -> list[dict[str, Any]]:
    """Return the exports that this model was pruned from, the oldest first: name, tier, parameters and plan.

    A model that was read from an export and only trained or stored anew has that export's ancestors.
    """
    folder = Path(pruned.subject.source).expanduser()
    if not (folder / FACTS).is_file():
        return []
    try:
        facts = json.loads(file_limits.read_text(folder / FACTS, f"'{FACTS}'", "export it again"))
        older, plan = list(facts.get("ancestors", ())), read_witness(folder / "plan.json")
        known = {"model": pruned.subject.source, "tier": facts["tier"], "parameters": facts["parameters"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, Refusal):
        # An unreadable past is no reason to stop.
        return [{"model": pruned.subject.source}]
    if plan_to_dict(plan) == plan_to_dict(pruned.plan):
        return older
    return [*older, {**known, "plan": plan_to_dict(plan)}]


def write_readme(done: Export, pruned: Pruned, recipe: str, notes: Sequence[str]) -> str:
    """Return the text of the model card.

    It has five lines, one for the tokenizer's beginning, one for adapters if needed, then the notes.
    """
    plan, folder = pruned.plan, Path(done.folder)
    first = original_model(pruned)
    past = f" (itself pruned, from {first})" if first != plan.model else ""
    made = f", by `{recipe}`" if recipe else ""
    settings = pruned.subject.model.config.to_dict()
    ways = [f"`{reload_line(done.tier, folder.name, loading_options(settings))}`"]
    if done.tier == "gguf":
        packed = f"llama.cpp: `llama-cli -m {shlex.quote(folder.name)}/{FILE}`"
        ways = [packed] if pruned.subject.shape.uneven else [*ways, packed]
    lines = [
        f"**Removed** from {plan.model}{past}: {plan.ratio_achieved:.1%} of the parameters ({plan.count}); "
        f"kept are {kept_words(plan)}. Method `{plan.method}`, recovery `{plan.recovery}`, allocation "
        f"`{plan.allocation}`{made}; all of it in plan.json and slimllm.json.",
        f"**Stored** as {done.tier}, {done.parameters:,} parameters in {done.stored_in}, "
        f"{done.bytes / 2**20:,.1f} MiB. {done.words} Checked after writing: "
        f"loaded in a fresh process by transformers {transformers.__version__}, logits differ by at most "
        f"{done.max_logit_difference:.1e}.",
        *text_start_line(pruned.subject.beginning.words),
        f"**Here**, where slimllm is installed: `{AGAIN.format(shlex.quote(folder.name))}`",
        f"**Elsewhere**: {'; '.join(ways)}; read by {reader_versions(settings)}",
        f"**Licence**: that of the original model, {first}, applies to these weights too.",
        *adapter_lines(pruned),
        *notes,
    ]
    return f"# {plan.model}, pruned\n\n" + "".join(f"- {' '.join(line.split())}\n" for line in lines)


def text_start_line(words: str) -> list[str]:
    """Return the line about the tokenizer's beginning, or nothing if there is none."""
    if not words:
        return []
    return [
        f"**Texts** begin with `{words}`: the tokenizer puts it in front. What was read for pruning began "
        "so, and so do the windows in which perplexity is measured, where it is not counted."
    ]


def adapter_lines(pruned: Pruned) -> list[str]:
    """Return the line about modules that adapters cannot be merged into, or nothing if there are none.

    These are linear layers of values that are narrower than their heads.
    """
    family = pruned.subject.family
    linears = [name for site in (family.attention, family.mlp) for name in (*site.writers, site.reader)]
    narrow = [
        n for n in linears if any(isinstance(linear_of(layer, n), Placed) for layer in pruned.subject.layers)
    ]
    if not narrow:
        return []
    leave = [name.rpartition(".")[2] for name in narrow]
    take = [name.rpartition(".")[2] for name in linears if name not in narrow]
    named = " and ".join(f"`{name}`" for name in leave)
    return [
        f"**Adapters**: peft cannot merge LoRA into {named}, which lack "
        f"the columns that were removed. Leave them out: `target_modules={take}`. "
        "`python -m slimllm tune` trains all of them and merges them."
    ]


def reload_line(tier: str, name: str, options: Mapping[str, str]) -> str:
    """Return the line of Python that loads the folder without this program."""
    if tier == "gguf":
        how = f", gguf_file={FILE!r}, config=transformers.AutoConfig.from_pretrained({name!r})"
    else:
        how = ", trust_remote_code=True" if tier == "shim" else ""
    how += "".join(f", {key}={value!r}" for key, value in options.items())
    return f"transformers.AutoModelForCausalLM.from_pretrained({name!r}{how})"


def original_model(pruned: Pruned) -> str:
    """Return the model before any pruning, as far as it is known."""
    plans = [row["plan"] for row in list_ancestors(pruned) if "plan" in row]
    return str(plans[0]["model"]) if plans else pruned.plan.model


def kept_words(plan: Plan) -> str:
    """Return in words what a plan keeps."""
    heads, channels = (sum(row[place] for row in plan.widths) for place in (0, 2))
    attention = (
        f"{sum(plan.heads)} value columns in all heads"
        if UNITS[plan.unit].narrows_heads
        else f"{sum(plan.heads)} of {heads} attention heads"
    )
    return f"{attention} and {sum(plan.channels):,} of {channels:,} MLP channels"
