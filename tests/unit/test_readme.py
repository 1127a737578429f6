"""The README's commands work as printed, on a tiny model and a short text."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from slimllm.cli import main
from slimllm.files import starter_kit

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


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


def test_files_it_names_exist() -> None:
    root = Path(__file__).parents[2]
    for name in re.findall(r"\]\((docs/[^)]+|assets/[^)]+)\)", README):
        assert (root / name).is_file(), name
