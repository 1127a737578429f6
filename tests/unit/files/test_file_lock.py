"""Locks go with the program, follow what is locked, and leave nothing behind."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from slimllm.files.file_lock import hold_path

ROOT = Path(__file__).parents[3]
HOLDER = """
import sys, time
from pathlib import Path
from slimllm.files.file_lock import hold_path
with hold_path(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""
# What a system without these modules, such as Windows, makes of writing.
ELSEWHERE = """
import psutil, sys, warnings  # psutil's part for this system needs what its part for Windows does not
for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None
warnings.simplefilter("ignore")  # filelock's, that there is no fcntl
from pathlib import Path
from slimllm.files import atomic_write
root = Path(sys.argv[1])
with atomic_write.replace_folder(root / "made", "It failed") as made:
    (made / "x").touch()
    assert not atomic_write.remove_unheld(made), "what may be held is not removed"
atomic_write.write_text(root / "made.txt", "x")
if len(sys.argv) > 2:
    import slimllm.cli.main
"""


def test_a_lock_dies_with_its_program_and_leaves_nothing(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(BlockingIOError), hold_path(tmp_path):
            pass
    finally:
        holder.kill()
        holder.communicate()
    with hold_path(tmp_path):
        assert not list(tmp_path.iterdir())


def test_a_lock_moves_along_and_is_not_taken_for_that_of_a_successor(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    with hold_path(one):
        one.rename(two)
        with pytest.raises(BlockingIOError), hold_path(two):
            pass
        one.mkdir()
        with hold_path(one):
            pass
    with hold_path(two):
        pass


def test_what_is_replaced_before_it_is_locked_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, opened = tmp_path / "one", os.open

    def open_and_replace(path: Path, flags: int) -> int:
        handle = opened(path, flags)
        path.rename(tmp_path / "two")
        path.mkdir()
        return handle

    folder.mkdir()
    monkeypatch.setattr(os, "open", open_and_replace)
    with pytest.raises(FileNotFoundError), hold_path(folder):
        pass


def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    start = time.monotonic()
    with hold_path(tmp_path / "pipe"):
        pass
    assert time.monotonic() - start < 5


def test_without_locks_an_error_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("filelock.has_fcntl", False)
    with pytest.raises(OSError, match="locks no folders") as caught, hold_path(tmp_path):
        pass
    assert caught.value.errno == errno.ENOTSUP


def test_files_and_folders_are_written_where_fcntl_is_missing(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", ELSEWHERE, str(tmp_path)], cwd=ROOT, check=True)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        "made",
        "made.txt",
        "made/x",
    ]


@pytest.mark.slow
def test_the_program_is_imported_where_fcntl_is_missing(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", ELSEWHERE, str(tmp_path), "all"], cwd=ROOT, check=True)


def test_one_module_alone_knows_how_paths_are_locked() -> None:
    names = ("fcntl", "msvcrt", "filelock")
    found = [
        path.relative_to(ROOT).as_posix()
        for top in ("slimllm", "ui")
        for path in (ROOT / top).rglob("*.py")
        if any(f"import {name}" in path.read_text(encoding="utf-8") for name in names)
    ]
    assert found == ["slimllm/files/file_lock.py"]
