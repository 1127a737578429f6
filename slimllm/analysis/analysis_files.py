"""The files of moments and analyses: their names, and which files in a folder are ours.

Files of others are never replaced or removed.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from safetensors import SafetensorError, safe_open

from slimllm.core.errors import Refusal
from slimllm.files import atomic_write, file_limits

KEY, HEAD = "moments.json", "analysis.json"
LAYER_FILE = re.compile(r"layer_\d{3,}\.safetensors")
TENSOR_FILE = re.compile(r"analysis-[0-9a-f]{8}\.safetensors")
# The tensors of early analyses by version 0.1, whose files had no individual names.
OLD_TENSORS = "analysis.safetensors"
# The keys that analyses of every version have.
OF_ANALYSIS = {"format", "method", "calibration", "shape", "layers"}
CHANNEL_SCORES = "channel_scores.safetensors"


def check_moments(*folders: Path) -> None:
    """Raise `Refusal` if one of the folders holds anything but moments."""
    for folder in folders:
        if os.path.lexists(folder) and not holds_moments(folder):
            raise Refusal(f"'{folder}' holds other things than moments; choose an empty folder for them.")


def holds_moments(folder: Path) -> bool:
    """Return whether a folder holds only moments that this program wrote, complete or interrupted."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    begun = has_keys(folder / KEY, {"format", "calibration"})

    def is_ours(path: Path) -> bool:
        if path.name == KEY or atomic_write.is_left(path):
            return begun or path.name != KEY
        named = LAYER_FILE.fullmatch(path.name) is not None and path.is_file() and not path.is_symlink()
        return named and begun and (not is_readable(path) or has_tensors(path, "attention.gram", "mlp.gram"))

    return all(map(is_ours, folder.iterdir()))


def has_tensors(file: Path, *names: str) -> bool:
    """Return whether a safetensors file has these tensors, which show that it is ours."""
    try:
        file_limits.check_regular(file, f"'{file}'", "choose another folder")
        with safe_open(file, framework="pt") as found:
            return set(names) <= set(found.keys())
    except (OSError, Refusal, SafetensorError):
        return False


def is_readable(file: Path) -> bool:
    """Return whether a file is a complete safetensors file."""
    try:
        file_limits.check_regular(file, "A layer's moments", "make them again")
        with safe_open(file, framework="pt"):
            return True
    except (OSError, Refusal, SafetensorError):
        return False


def has_keys(file: Path, keys: set[str]) -> bool:
    """Return whether a file is a JSON object with these keys."""
    try:
        return keys <= json.loads(file_limits.read_text(file, f"'{file}'", "choose another folder")).keys()
    except (OSError, ValueError, AttributeError, RecursionError, Refusal):
        return False


def check_place(folder: Path) -> None:
    """Raise `Refusal` if an analysis would replace other people's files, or if a folder is a model's."""
    if (folder / "config.json").exists():
        raise Refusal(f"'{folder}' is the folder of a model; choose another one for the analysis.")
    head, scores = folder / HEAD, folder / CHANNEL_SCORES
    ours = {head: has_keys(head, OF_ANALYSIS), scores: has_tensors(scores, "layer_000")}
    for file, fine in ours.items():
        if os.path.lexists(file) and not fine:
            raise Refusal(f"'{file}' is not from an analysis of this program; choose another folder.")
    check_moments(folder / "moments")


def tensor_files(folder: Path) -> list[Path]:
    """Return the tensor files of earlier analyses in a folder."""
    found = [file for file in folder.glob("analysis*.safetensors") if TENSOR_FILE.fullmatch(file.name)]
    return [file for file in (*found, folder / OLD_TENSORS) if has_tensors(file, "0.mlp.scores")]
