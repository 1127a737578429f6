"""Write exports to disk, and read them with plain transformers in fresh processes.

The tests of all formats share this.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from slimllm.export import checkpoint, formats, model_card, verification
from slimllm.export.formats import Form
from slimllm.export.verification import Reload
from slimllm.models.loading import Pruned

AGAIN = """
import sys
sys.modules["slimllm"] = None
import transformers
for pair in sys.argv[1:]:
    first, second = pair.split(">")
    model = transformers.AutoModelForCausalLM.from_pretrained(first, trust_remote_code=True)
    model.save_pretrained(second)
    transformers.AutoTokenizer.from_pretrained(first).save_pretrained(second)
"""


@dataclass(frozen=True, eq=False)
class Stored:
    """An export on disk, and what a fresh process read from it.

    `second` is the folder to which plain transformers saved it again, if it did.
    """

    pruned: Pruned
    form: Form
    folder: Path
    reload: Reload
    second: Path


def stored(
    root: Path, pruned: Mapping[str, Pruned], wanted: Mapping[str, str], again: Collection[str] = ()
) -> dict[str, Stored]:
    """Write all models in the wanted formats, read them in one fresh process, and return them by name.

    Before that, another fresh process saves those named in `again` with plain transformers.
    """
    chosen = {name: formats.choose_format(pruned[name], wanted[name]) for name in pruned}
    folders = {name: root / name.replace(" ", "-").replace("/", "-") for name in pruned}
    seconds = {name: folder.with_name(f"{folder.name}-again") for name, folder in folders.items()}
    for name, form in chosen.items():
        folders[name].mkdir()
        checkpoint.write_checkpoint(form, pruned[name], folders[name])
        (folders[name] / model_card.FACTS).write_text("{}")  # an export of ours
    if again:
        command = [sys.executable, "-c", AGAIN, *(f"{folders[name]}>{seconds[name]}" for name in again)]
        env = {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(root / "modules")}
        subprocess.run(command, check=True, capture_output=True, cwd=root, env=env)
    found = verification.reload_elsewhere(list(folders.values()))
    return {
        name: Stored(pruned[name], chosen[name], folders[name], reload, seconds[name])
        for name, reload in zip(pruned, found, strict=True)
    }
