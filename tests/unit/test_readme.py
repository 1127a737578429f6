"""The README's commands work as printed, on a tiny model and a short text; so do its lines in two shells."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from slimllm.calibration import texts
from slimllm.cli import main
from slimllm.files import starter_kit
from tests.support.dependency_list import read_direct

ROOT = Path(__file__).parents[2]
SPACE_COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
README = (ROOT / "README.md").read_text(encoding="utf-8")
# What one of the shells reads otherwise: chains, variables, quotes of one kind, continued lines.
NOT_IN_BOTH = re.compile(r"&&|\|\||;|\$|'|`|\\$|^\s*(source|export|sudo) |^\w+=")


def lines_of(kind: str) -> list[str]:
    """The lines of the only block of this kind."""
    (block,) = re.findall(rf"^```{kind}\n(.*?)```", README, re.DOTALL | re.MULTILINE)
    return block.strip().splitlines()


def check_install(words: list[str]) -> None:
    """Hold that a line of `pip install` names options of pip, and files that exist."""
    told = subprocess.run([sys.executable, "-m", "pip", "install", "--help"], capture_output=True, text=True)
    for word, before in zip(words, ["", *words], strict=False):
        if word.startswith("-"):
            assert re.search(rf"(^|\s|,){word}\b", told.stdout), word
        elif before == "-r":
            assert (ROOT / word).is_file(), word
        else:
            assert word == ".", word
            assert (ROOT / "pyproject.toml").is_file()


def commands() -> list[list[str]]:
    """The lines of all blocks marked bash."""
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.strip().splitlines()]


@pytest.mark.slow
def test_every_command_runs(
    tmp_path: Path, tiny_folder: Path, page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(commands()) >= 3
    for program, flag, module, *arguments in commands():
        assert (program, flag, module) == ("python", "-m", "slimllm")
        swapped = {starter_kit.STARTER: str(tiny_folder), "encyclopedia": str(page)}
        line = [swapped.get(word, word) for word in arguments]
        if line[0] == "prune":
            line += ["--text", str(page), "--samples", "4", "--length", "32"]
        assert main.main(line) == 0, line


@pytest.mark.slow
def test_the_python_example_runs(
    tmp_path: Path, tiny_folder: Path, page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    code = code.replace("smollm2", str(tiny_folder)).replace("encyclopedia", str(page))
    code = code.replace('.txt"))', '.txt"), slimllm.Calibration(PAGE, 4, 32))')
    exec(compile(code, "README.md", "exec"), {"PAGE": str(page)})
    assert (tmp_path / "small" / "config.json").is_file()


def test_without_make_both_shells_do_the_same() -> None:
    windows = [line.replace(".venv\\Scripts\\", ".venv/bin/") for line in lines_of("powershell")]
    assert [re.sub(r"^py ", "python3 ", line) for line in windows] == lines_of("sh")
    assert not [line for line in lines_of("powershell") if "/" in line]


def test_without_make_the_same_is_installed_as_with_it() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (recipe,) = re.findall(r"^\.venv/\.app:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    by_make = re.findall(r"\$\(PIP\) (install .*)", recipe)
    by_hand = [line.partition(" -m pip ")[2] for line in lines_of("sh") if " -m pip " in line]
    assert len(by_make) == 3
    assert by_make == by_hand


def test_lines_without_make_name_what_there_is() -> None:
    for line in lines_of("sh"):
        program, *words = line.split()
        if words[:2] == ["-m", "venv"]:
            assert (program, words[2:]) == ("python3", [".venv"])
        elif words[:2] == ["-m", "pip"]:
            assert (program, words[2]) == (".venv/bin/python", "install")
            check_install(words[3:])
        else:
            assert (program, *words) == (".venv/bin/python", "app.py")
            assert (ROOT / "app.py").is_file()


def test_lines_for_every_shell_need_no_particular_one() -> None:
    shared = [
        block
        for kind, block in re.findall(r"^```(\w*)\n(.*?)```", README, re.DOTALL | re.MULTILINE)
        if kind != "python"
    ]
    lines = [line.partition(" # ")[0] for block in shared for line in block.strip().splitlines()]
    assert len(lines) > 15
    assert [line for line in lines if NOT_IN_BOTH.search(line)] == []


def test_lines_for_the_package_name_what_there_is() -> None:
    (block,) = re.findall(r"As a package[^\n]*\n\n```\n(.*?)```", README, re.DOTALL)
    *installs, last = block.strip().splitlines()
    for line in installs:
        program, flag, module, verb, *words = line.split()
        assert (program, flag, module, verb) == ("python", "-m", "pip", "install")
        check_install(words)
    program, command = last.split()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert program in project["scripts"]
    assert main.build_parser().parse_args([command]).command == command


def test_the_settings_of_a_space_are_those_of_the_program() -> None:
    said = yaml.safe_load(README.split("---\n")[1])
    pins = read_direct((ROOT / "requirements.txt").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (said["sdk"], said["sdk_version"]) == ("gradio", pins["gradio"][0])
    assert SpecifierSet(project["requires-python"]).contains(said["python_version"])
    assert said["license"] == project["license"].lower()
    assert (ROOT / said["app_file"]).is_file()
    assert {said["colorFrom"], said["colorTo"]} <= SPACE_COLOURS
    assert len(said["short_description"]) <= 60
    assert len(said["emoji"].removesuffix("\N{VARIATION SELECTOR-16}")) == 1
    assert said["models"] == [starter_kit.HUB_MODEL[0]]
    assert said["datasets"] == [texts.HUB_SETS[starter_kit.HUB_TEXT].path]


def test_files_it_names_exist() -> None:
    for name in re.findall(r"\]\((docs/[^)]+|assets/[^)]+)\)", README):
        assert (ROOT / name).is_file(), name
