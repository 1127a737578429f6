"""The plan of the house: who may import whom, and how large a room may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "slimllm").glob("*.py")) + sorted((ROOT / "ui").glob("*.py"))
LONGEST_MODULE, LONGEST_FUNCTION = 350, 60

PURE = {
    "types",
    "heldout",
    "chance",
    "pace",
    "shapes",
    "scores",
    "elimination",
    "recovery",
    "rankings",
    "budget",
    "allocation",
    "consistency",
    "planning",
    "pins",
    "locks",
    "balance",
    "methods",
}
ALLOWED: dict[str, set[str]] = {  # module of slimllm → modules of slimllm it may import
    "shapes": set(),
    "heldout": set(),
    "chance": set(),
    "pace": {"chance"},
    "types": {"shapes", "heldout"},
    "modeling_slim": set(),
    "scores": {"types", "shapes"},
    "recovery": {"types", "shapes", "heldout"},
    "elimination": {"types", "shapes", "scores", "recovery"},
    "rankings": {"types", "shapes", "scores", "elimination"},
    "methods": {"types", "shapes", "rankings"},
    "budget": {"types", "shapes", "recovery"},
    "allocation": {"types", "shapes", "budget"},
    "locks": {"types", "shapes", "budget"},
    "consistency": {"types", "shapes", "budget"},
    "planning": {
        *("types", "shapes", "budget", "allocation", "consistency", "locks", "methods", "recovery"),
    },
    "balance": {"types", "shapes", "budget", "allocation", "planning"},
    "pins": {"types", "shapes", "budget", "allocation", "locks", "planning"},
    "families": {"types", "shapes"},
    "places": {"types"},
    "fingerprints": set(),
    "ropes": set(),
    "compatibility": set(),
    "completeness": {"types", "families"},
    "gguf_reading": {"types", "completeness", "ropes"},
    "beginning": set(),
    "tokenizing": set(),
    "documents": {"types", "limits", "row_limits"},
    "vocabulary": {"beginning"},
    "failures": {"types"},
    "limits": {"types"},
    "row_limits": {"types", "limits"},
    "headers": {"types", "limits"},
    "tokenizer_process": set(),
    "tokenizer_rules": set(),
    "tokenizer_guard": {"types", "limits", "places", "tokenizer_process", "tokenizer_rules"},
    "inspection": {"types", "limits", "headers", "tokenizer_guard"},
    "sources": {
        *("types", "families", "places", "whole", "slim", "elsewhere", "vocabulary"),
        *("failures", "limits", "headers", "inspection", "fingerprints", "gguf_reading"),
    },
    "fetching": {"sources"},
    "texts": {"types", "places", "beginning", "documents", "fetching", "sources", "tokenizing"},
    "memory": set(),
    "inventory": set(),
    "targets": {"types", "places", "sources", "inventory"},
    "analysis_files": {"types", "limits", "whole"},
}


def imports(path: Path) -> set[str]:
    """Every module that a file imports, as dotted names, `from x import y` giving both x and x.y."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: f"{p.parent.name}.{p.stem}")
def test_modules_hold_one_idea(path: Path) -> None:
    source = path.read_text()
    assert len(source.splitlines()) <= LONGEST_MODULE
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < LONGEST_FUNCTION, node.name


@pytest.mark.parametrize("name", list(ALLOWED))
def test_lower_rooms_do_not_look_up(name: str) -> None:
    inside = {i.split(".")[1] for i in imports(ROOT / "slimllm" / f"{name}.py") if i.startswith("slimllm.")}
    assert inside <= ALLOWED[name]


@pytest.mark.parametrize("name", sorted(PURE))
def test_pure_rooms_touch_no_model_and_no_file(name: str) -> None:
    forbidden = {"transformers", "pathlib", "os", "gradio", "random", "safetensors"}
    assert not {i.split(".")[0] for i in imports(ROOT / "slimllm" / f"{name}.py")} & forbidden


def test_the_library_does_not_know_the_page() -> None:
    for path in (ROOT / "slimllm").glob("*.py"):
        heads = {i.split(".")[0] for i in imports(path)}
        assert "gradio" not in heads
        assert "plotly" not in heads
        if path.stem != "commands":  # serve starts the app
            assert "ui" not in heads
    code = "import sys, slimllm; sys.exit(any(n in sys.modules for n in ('gradio', 'plotly', 'ui')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_session_and_jobs_know_no_components() -> None:
    for name in ("session", "registry", "jobs", "charts"):
        assert "gradio" not in {i.split(".")[0] for i in imports(ROOT / "ui" / f"{name}.py")}


def test_pages_leave_tensors_alone() -> None:
    for path in (ROOT / "ui").glob("*.py"):
        assert "transformers" not in {i.split(".")[0] for i in imports(path)}


def test_the_app_is_short() -> None:
    assert len((ROOT / "app.py").read_text().splitlines()) < 40
