"""Names say what a thing does: a function is a verb and an object, and a top-level name has one meaning."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
MOST_SHARED, MOST_SHORT = 15, 0.2

# Names that stand in many modules because they mean the same in each.
SAME_EVERYWHERE = {
    "build": "adds a tab's or a panel's components to the page",
    "log": "a module's logger",
    "main": "what a program of its own runs",
    "PURPOSE": "the sentence that a panel begins with",
    "EMPTY": "what stands in a panel before there is something to show",
}


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for top in ("slimllm", "ui"):
        for file in sorted((ROOT / top).rglob("*.py")):
            yield file, ast.parse(file.read_text(encoding="utf-8"))


def defined(tree: ast.Module) -> Iterator[str]:
    """The names that a module defines at its top."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                yield from (inner.id for inner in ast.walk(target) if isinstance(inner, ast.Name))


def functions() -> Iterator[tuple[Path, str]]:
    """All functions, methods and properties but those that Python itself calls."""
    for file, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("__"):
                yield file, node.name


def test_a_top_level_name_stands_in_at_most_two_modules() -> None:
    places: dict[str, list[str]] = {}
    for file, tree in trees():
        for name in set(defined(tree)) - set(SAME_EVERYWHERE):
            places.setdefault(name, []).append(str(file.relative_to(ROOT)))
    shared = {name: files for name, files in places.items() if len(files) > 2}
    assert len(shared) < MOST_SHARED, shared


def test_names_of_functions_are_a_verb_and_an_object() -> None:
    short, count = [], 0
    for file, name in functions():
        count += 1
        if "_" not in name.strip("_"):
            short.append(f"{file.relative_to(ROOT)}: {name}")
    assert len(short) < MOST_SHORT * count, f"{len(short)} of {count}: {short}"


def test_attention_units_are_told_apart_in_one_module_only() -> None:
    units = {"kv-group", "query-head", "value-column"}
    rows = "slimllm/methods"  # say which units a method offers
    for file, tree in trees():
        name = file.relative_to(ROOT).as_posix()
        compared = {
            inner.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Compare)
            for inner in ast.walk(node)
            if isinstance(inner, ast.Constant)
        }
        assert not compared & units, name
        named = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        assert name in ("slimllm/core/attention_unit.py", "slimllm/core/types.py") or (
            name.startswith(rows) or not named & units
        ), name
