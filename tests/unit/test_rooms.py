"""The plan of the house: which folder stands on which floor, what may be imported there, and how much it
holds. Every file of the library and of the page is covered."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LONGEST_MODULE, LONGEST_FUNCTION, MOST_FILES = 350, 60, 15

# A room imports from its own floor's row only itself, and from the rows above. A file at the top of a package
# is a room of its own.
FLOORS: dict[str, list[set[str]]] = {
    "slimllm": [
        {"core"},
        {"files"},
        {"tokenizers"},
        {"models"},
        {"calibration"},
        {"methods"},
        {"planning"},
        {"analysis", "evaluation"},
        {"pruning"},
        {"export"},
        {"pipeline"},
        {"api"},
        {"__init__", "cli"},
        {"__main__"},
    ],
    "ui": [
        {"look"},
        {"facts", "jobs"},
        {"charts", "session"},
        {"html"},
        {"page", "tasks"},
        {"tabs"},
        {"tour"},
        {"server"},
        {"__init__", "app"},
    ],
}
# Rooms that touch no model and no file: numbers and dataclasses in, numbers and dataclasses out.
PURE = ("core/types", "core/shapes", "core/held_out", "core/symmetric_products", "planning", "methods")
PURE += ("evaluation/significance", "evaluation/speed_words")
NOT_PURE = ("planning/plan_json",)  # reads and writes plan files
NOT_PURE += ("methods/taylor", "methods/ddp", "methods/learned_scores")  # ask the model itself
# Rooms of the page that know no component of Gradio.
WITHOUT_GRADIO = ("look/formatting", "look/glossary", "facts", "charts", "jobs", "session", "tasks", "html")
BELOW_THE_PAGE = ("gradio", "plotly", "ui")


@cache
def modules() -> tuple[Path, ...]:
    return tuple(sorted(file for top in FLOORS for file in (ROOT / top).rglob("*.py")))


def room_of(file: Path) -> tuple[str, str]:
    """The package and the room of a file."""
    top, *rest = file.relative_to(ROOT).with_suffix("").parts
    return top, rest[0]


def name_of(file: Path) -> str:
    return file.relative_to(ROOT).with_suffix("").as_posix()


@cache
def imports(file: Path) -> frozenset[str]:
    """Every module that a file imports, as dotted names; `from x import y` gives x and x.y."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: imports are absolute"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def packages(file: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(file)}


def floor_of(top: str, room: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS[top]) if room in rooms)


def within(top: str, rooms: tuple[str, ...]) -> list[Path]:
    """The files of these rooms or modules."""
    return [file for file in modules() if any(is_part(file, f"{top}/{room}") for room in rooms)]


def is_part(file: Path, name: str) -> bool:
    return name_of(file) == name or name_of(file).startswith(f"{name}/")


@pytest.mark.parametrize("file", modules(), ids=name_of)
def test_a_module_imports_nothing_from_above(file: Path) -> None:
    top, room = room_of(file)
    floor = floor_of(top, room)
    for name in imports(file):
        package, *rest = name.split(".")
        if package == top and rest and any(rest[0] in rooms for rooms in FLOORS[top]):
            assert rest[0] == room or floor_of(top, rest[0]) < floor, f"{name_of(file)} imports {name}"


def test_every_room_stands_on_one_floor_and_every_floor_has_rooms() -> None:
    for top, floors in FLOORS.items():
        found = {room_of(file)[1] for file in modules() if room_of(file)[0] == top}
        named = [room for rooms in floors for room in rooms]
        assert sorted(named) == sorted(found)


@pytest.mark.parametrize("file", modules(), ids=name_of)
def test_modules_hold_one_idea(file: Path) -> None:
    source = file.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= LONGEST_MODULE
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < LONGEST_FUNCTION, node.name


def test_no_folder_is_crowded() -> None:
    kept = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if kept.returncode:
        pytest.skip("this is not a clone")
    folders: dict[Path, int] = {}
    for name in kept.stdout.splitlines():
        if len(Path(name).parts) > 1 and (ROOT / name).exists():
            folders[Path(name).parent] = folders.get(Path(name).parent, 0) + 1
    assert {str(folder): count for folder, count in folders.items() if count > MOST_FILES} == {}


@pytest.mark.parametrize("file", within("slimllm", PURE), ids=name_of)
def test_pure_rooms_touch_no_model_and_no_file(file: Path) -> None:
    if not any(is_part(file, f"slimllm/{name}") for name in NOT_PURE):
        assert not packages(file) & {"transformers", "pathlib", "os", "gradio", "random", "safetensors"}
        assert not [name for name in imports(file) if name.startswith("slimllm.models")]
        assert not imports(file) & {f"slimllm.{name.replace('/', '.')}" for name in NOT_PURE}


def test_the_library_does_not_know_the_page() -> None:
    for file in (ROOT / "slimllm").rglob("*.py"):
        if name_of(file) != "slimllm/__main__":  # the program, which starts the app, too
            assert not packages(file) & {*BELOW_THE_PAGE}, name_of(file)
    code = f"import sys, slimllm; sys.exit(any(name in sys.modules for name in {BELOW_THE_PAGE}))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("file", within("ui", WITHOUT_GRADIO), ids=name_of)
def test_what_is_below_the_components_knows_none(file: Path) -> None:
    assert "gradio" not in packages(file)


def test_the_page_leaves_tensors_of_models_to_the_library() -> None:
    for file in (ROOT / "ui").rglob("*.py"):
        assert "transformers" not in packages(file), name_of(file)


def test_the_app_is_short() -> None:
    assert len((ROOT / "app.py").read_text(encoding="utf-8").splitlines()) < 40


def names_at_load(file: Path) -> set[Path]:
    """The files of this repository that a file needs while it is being loaded."""
    needed, known = set[Path](), set(modules())
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            for name in (node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)):
                path = (ROOT / name.replace(".", "/")).with_suffix(".py")
                needed |= {path} & known
    return needed


def test_no_modules_need_each_other() -> None:
    left = {file: names_at_load(file) for file in modules()}
    while free := {file for file, needed in left.items() if not needed & left.keys()}:
        left = {file: needed for file, needed in left.items() if file not in free}
    assert not left, f"these import each other: {sorted(map(name_of, left))}"


def test_the_plan_of_the_house_names_every_file() -> None:
    plan = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    names = {file.name for file in modules() if file.stem != "__init__"}
    assert {name for name in names if name not in plan} == set()
