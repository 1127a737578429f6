"""Define the cells of the methods' benchmark: their rows, what decides their numbers, and their files."""

from __future__ import annotations

import ast
import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import slimllm
from slimllm.core.errors import Refusal
from slimllm.files import atomic_write
from slimllm.methods.recovery import RECOVERIES
from slimllm.methods.table import METHODS, fill_options, find_method
from slimllm.models.loading import Subject
from slimllm.planning.allocation import ALLOCATIONS

ROOT = Path(slimllm.__file__).parents[1]
# Increases when the content of a cell changes its meaning.
FORMAT = 1
# The only methods that the benchmark knows by name.
YARDSTICK, BEST, FLOOR = "slimllm", "best", "random"
# The modules that the benchmark calls.
USED = (
    *("slimllm.pipeline", "slimllm.planning.plan_making", "slimllm.evaluation.evaluate"),
    *("slimllm.calibration.texts", "slimllm.models.loading", "slimllm.analysis.analysis_store"),
)


@dataclass(frozen=True)
class Row:
    """A method with a recovery and an allocation."""

    method: str
    recovery: str
    allocation: str

    @property
    def name(self) -> str:
        return f"{self.method}:{self.recovery}:{self.allocation}"

    @property
    def trained(self) -> bool:
        """Whether the method learns from the text by gradient descent; all others only measure."""
        return getattr(METHODS[self.method], "learns", "") == "gates"

    def options(self, ratio: float) -> dict[str, Any]:
        """Return the options that the method needs.

        A method that trains towards a size needs the target ratio; others need none.
        """
        return {option.name: ratio for option in METHODS[self.method].options if option.name == "target"}


def row_of(words: str) -> Row:
    """Return the row NAME[:RECOVERY[:ALLOCATION]]; omitted parts are the method's own choice.

    Raise a `Refusal` for an unknown part.
    """
    name, recovery, allocation = (*words.split(":"), "", "")[:3]
    known = find_method(name)
    recovery, allocation = recovery or known.recovery, allocation or known.allocation
    for word, table, kind in ((recovery, RECOVERIES, "Recovery"), (allocation, ALLOCATIONS, "Allocation")):
        if word not in table:
            raise Refusal(f"{kind} '{word}' in '{words}' is not known; use one of: {', '.join(table)}.")
    return Row(name, recovery, allocation)


def rows_of(asked: Sequence[str]) -> list[Row]:
    """Return the requested rows, each once.

    The default is every method, and the yardstick with every recovery.
    """
    every = [*METHODS, *(f"{YARDSTICK}:{recovery}" for recovery in RECOVERIES)]
    return list(dict.fromkeys(row_of(words) for words in asked or every))


@functools.cache
def source_digest() -> str:
    """Return a digest of the modules that decide numbers; neither comments nor docstrings count."""
    digest = hashlib.sha256()
    for name, source in sorted(imported_everywhere().items()):
        digest.update(name.encode() + bare(source).encode())
    return digest.hexdigest()[:16]


def imported_everywhere() -> dict[str, str]:
    """Return the source of every module that the benchmark calls or that these modules import, by name."""
    waiting, found = list(USED), dict[str, str]()
    while waiting:
        name = waiting.pop()
        file = ROOT / f"{name.replace('.', '/')}.py"
        if name not in found and file.is_file():
            found[name] = file.read_text(encoding="utf-8")
            waiting += imported(ast.parse(found[name]))
    return found


def imported(tree: ast.Module) -> list[str]:
    """Return the package's modules that `tree` imports, anywhere in it.

    Names imported from a module are listed as if they were modules, too.
    """
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "slimllm":
            found += [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def bare(source: str) -> str:
    """Return the source as a dump of its syntax tree, without comments, docstrings and layout."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, False):
            node.body = node.body[1:]
    return ast.dump(tree)


def model_digest(subject: Subject) -> str:
    """Return a digest of the model's name, its tensors' names and shapes, and some values of each."""
    digest = hashlib.sha256(f"{subject.source} {subject.device.type}".encode())
    for name, tensor in subject.model.state_dict().items():
        values = tensor.flatten()[:: max(1, tensor.numel() // 256)].float().cpu().numpy()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode() + values.tobytes())
    return digest.hexdigest()[:16]


def tokens_digest(tokens: Tensor) -> str:
    """Return a digest of token ids, because a text may change under the same name."""
    return hashlib.sha256(tokens.to(torch.int64).cpu().numpy().tobytes()).hexdigest()[:16]


def key_digest(key: dict[str, Any]) -> str:
    """Return a digest of a key."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Cells:
    """Finished cells on disk, one complete file each.

    A file's name contains the row, the ratio and the digest of the cell's key.
    """

    folder: Path

    def file(self, key: dict[str, Any]) -> Path:
        """Return the path of the cell with this key."""
        words = (
            [key["row"][part] for part in ("method", "recovery", "allocation")] if key["row"] else ["dense"]
        )
        return self.folder / f"{'_'.join(words)}_{key['ratio']:g}_{key_digest(key)}.json"

    def find(self, key: dict[str, Any]) -> dict[str, Any] | None:
        """Return the cell with exactly this key, or None."""
        try:
            found = json.loads(self.file(key).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found["cell"] if found.get("key") == json.loads(json.dumps(key)) else None

    def keep(self, key: dict[str, Any], cell: dict[str, Any]) -> None:
        """Store a cell under its key."""
        text = json.dumps({"key": key, "cell": cell}, indent=1, allow_nan=False)
        atomic_write.write_text(self.file(key), text)


def key_of(row: Row | None, ratio: float, shared: dict[str, Any]) -> dict[str, Any]:
    """Return all that decides a cell's numbers; without a row, this is the dense model's cell.

    No option of pruning affects the dense model, so its key has none.
    """
    if row is None:
        unmoved = {name: shared[name] for name in ("format", "source", "model", "evaluation", "versions")}
        return {**unmoved, "row": None, "ratio": 0.0}
    return {
        **shared,
        "row": asdict(row),
        "ratio": ratio,
        "options": fill_options(row.method, row.options(ratio)),
    }
