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
# What a system without these modules, such as Windows, makes of writing. What is imported first has parts for
# this system, which need what its parts for Windows do not.
ELSEWHERE = """
import asyncio, builtins, errno, fcntl, io, os, psutil, shutil, sys, warnings
from pathlib import Path

flags_of, asked = fcntl.fcntl, []
for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None
del os.O_NONBLOCK
warnings.simplefilter("ignore")  # filelock's, that there is no fcntl
shutil._use_fd_functions = False  # with them, it opens folders


def without_proc(open):
    def act(path, *more, **named):
        if not isinstance(path, int) and os.fspath(path).startswith("/proc"):
            asked.append(path)
            raise FileNotFoundError(errno.ENOENT, "there is no such place", str(path))
        return open(path, *more, **named)
    return act


def without_folders(open):
    def act(path, *more, **named):
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "folders are not opened", str(path))
        return open(path, *more, **named)
    return act


def for_writers(fsync):
    def act(handle):
        if flags_of(handle, 3) & os.O_ACCMODE == os.O_RDONLY:  # 3 is F_GETFL
            raise OSError(errno.EBADF, "it is open for reading only")
        fsync(handle)
    return act


class Windows:
    platform = "win32"

    def __getattr__(self, name):
        return getattr(sys, name)


def tell_windows():
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in ("slimllm", "ui") and hasattr(module, "sys"):
            module.sys = Windows()


builtins.open = io.open = without_proc(open)
os.open, os.fsync = without_folders(os.open), for_writers(os.fsync)
root = Path(sys.argv[1])
from slimllm.files import atomic_write, file_moves
tell_windows()
with atomic_write.replace_folder(root / "made", "It failed") as made:
    (made / "x").touch()
    assert not atomic_write.remove_unheld(made), "what may be held is not removed"
atomic_write.write_text(root / "made.txt", "x")
"""
# The login of the hub needs termios on this system. It brings filelock, which must look for fcntl again.
LOGIN = """
import sys
from huggingface_hub import interpreter_login
for name in [name for name in sys.modules if name.partition(".")[0] == "filelock"]:
    del sys.modules[name]
"""
# … and of all the rest. The arguments are a folder to export to, a model and a text.
ALL_OF_IT = """
import importlib, pkgutil
import slimllm, ui
for top in (slimllm, ui):
    for found in pkgutil.walk_packages(top.__path__, f"{top.__name__}."):
        importlib.import_module(found.name)
tell_windows()
from slimllm.cli.main import main
root, out, model, text = sys.argv[1:]
line = ["prune", "--model", model, "--text", text, "--samples", "4", "--length", "32", "--ratio", "0.2"]
for _ in range(2):  # the second export takes the place of the first
    assert main([*line, "--out", out, "--offline"]) == 0
assert any("/proc/self" in str(path) for path in asked), "it was asked for, and done without"
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
def test_the_program_prunes_and_exports_where_all_of_that_is_missing(
    tmp_path: Path, tiny_folder: Path, page: Path
) -> None:
    made = tmp_path / "small"
    given = [tmp_path, made, tiny_folder, page]
    code = LOGIN + ELSEWHERE + ALL_OF_IT
    subprocess.run([sys.executable, "-c", code, *map(str, given)], cwd=ROOT, check=True)
    assert (made / "model.safetensors").is_file()
    assert not list(tmp_path.glob(".*")), "nothing unfinished is left"


def test_one_module_alone_knows_how_paths_are_locked() -> None:
    names = ("fcntl", "msvcrt", "filelock")
    found = [
        path.relative_to(ROOT).as_posix()
        for top in ("slimllm", "ui")
        for path in (ROOT / top).rglob("*.py")
        if any(f"import {name}" in path.read_text(encoding="utf-8") for name in names)
    ]
    assert found == ["slimllm/files/file_lock.py"]
