"""What Windows does otherwise, as far as another system can show it."""

from __future__ import annotations

import importlib.util
import io
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from slimllm.cli import credentials, main, terminal
from slimllm.core.errors import Refusal
from slimllm.files import file_limits, file_moves, paths
from slimllm.models import sources
from slimllm.tokenizers.tokenizer_guard import Guarded

WINDOWS = SimpleNamespace(platform="win32")


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("con", "con"),
        ("out/AUX", "AUX"),
        ("out\\nul.json", "nul.json"),
        ("C:/com1 .tar.gz/x", "com1 .tar.gz"),
        ("lpt².txt", "lpt².txt"),
        ("CONIN$", "CONIN$"),
        ("out/small.", "small."),
        ("small /x", "small "),
        ("...", "..."),
        ("small:stream", "small:stream"),
        ("what?", "what?"),
        ("C:\\models\\a*b", "a*b"),
    ],
)
def test_a_name_that_windows_cannot_give_is_refused_there(
    written: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert paths.path_of(written) == Path(written), "other systems can"
    monkeypatch.setattr(paths, "sys", WINDOWS)
    with pytest.raises(Refusal) as caught:
        paths.path_of(written)
    assert str(caught.value) == f"Windows can give nothing the name '{name}'; choose another one."


@pytest.mark.parametrize(
    "written",
    [
        "out/small", "../x", "./x", ".", "..", "/", "~", "C:/models/a.b", "C:\\x", "\\\\server\\share\\x",
        "console", "com10", "nully.txt", ".cache/x", "aux-20",
    ],
)  # fmt: skip
def test_ordinary_names_are_taken_on_windows(written: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "sys", WINDOWS)
    assert paths.path_of(written) == Path(written).expanduser()


def test_the_names_in_a_path_may_be_long_together() -> None:
    assert paths.path_of("/".join(["x" * 200] * 3))
    with pytest.raises(Refusal, match="cannot be a path"):
        paths.path_of("x" * 256)


def test_files_are_synced_by_a_writer_and_folders_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, synced = [], []

    def open_file(path: Path, flags: int) -> int:
        if path.is_dir():
            raise PermissionError(13, "Permission denied", str(path))
        opened.append(flags)
        return os.dup(1)

    (tmp_path / "x").touch()
    monkeypatch.setattr(file_moves, "sys", WINDOWS)
    monkeypatch.setattr(os, "open", open_file)
    monkeypatch.setattr(os, "fsync", synced.append)
    file_moves.sync_path(tmp_path / "x")
    file_moves.sync_path(tmp_path)
    assert opened == [os.O_RDWR]
    assert len(synced) == 1


@pytest.mark.parametrize(("platform", "moves"), [("win32", 3), ("linux", 0)])
def test_what_another_program_has_open_is_moved_a_moment_later(
    platform: str, moves: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("new")
    two.write_text("old")
    replace, waits = os.replace, []

    def replace_closed(source: Path, target: Path) -> None:
        if len(waits) < 3:
            raise PermissionError(13, "The process cannot access the file", str(source))
        replace(source, target)

    monkeypatch.setattr(file_moves, "sys", SimpleNamespace(platform=platform))
    monkeypatch.setattr(file_moves.time, "sleep", waits.append)
    monkeypatch.setattr(os, "replace", replace_closed)
    if platform == "win32":
        file_moves.move_path(one, two)
        assert two.read_text() == "new"
    else:
        with pytest.raises(PermissionError):
            file_moves.move_path(one, two)
    assert len(waits) == moves


def test_what_stays_open_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    def refuse(*_: Path) -> None:
        raise PermissionError(13, "The process cannot access the file")

    monkeypatch.setattr(file_moves, "sys", WINDOWS)
    monkeypatch.setattr(file_moves.time, "sleep", waits.append)
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(PermissionError):
        file_moves.move_path(tmp_path / "one", tmp_path / "two")
    assert 1 <= sum(waits) <= 5


def test_files_are_opened_without_the_flag_for_pipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_limits, "NEVER_WAIT", 0)
    (tmp_path / "x.txt").write_text("words")
    assert file_limits.read_text(tmp_path / "x.txt", "It", "choose another", 100) == "words"


def test_bits_that_windows_makes_up_are_no_reason_to_warn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "auth"
    file.write_text("ada:long-enough")
    file.chmod(0o666)
    assert "chmod 600" in credentials.read_credentials(file)[1]
    monkeypatch.setattr(credentials, "sys", WINDOWS)
    assert credentials.read_credentials(file) == ("ada:long-enough", "")


def test_an_unknown_tokenizer_is_refused_where_nothing_limits_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)
    assert importlib.util.find_spec("resource") is None
    with pytest.raises(Refusal, match="this system cannot limit them; open it on Linux"):
        Guarded("{}", "strange").encode(["x"], True)


def test_a_missing_folder_on_a_drive_is_no_id_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "drive", property(lambda path: str(path)[:2]))
    with pytest.raises(Refusal, match="There is no folder 'C:/small'"):
        sources.source_path("C:/small")


def test_every_signal_to_end_is_an_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    handled: dict[int, object] = {}
    monkeypatch.setattr(signal, "SIGBREAK", 21, raising=False)
    monkeypatch.setattr(signal, "signal", handled.__setitem__)
    assert main.main(["methods", "--json"]) == 0
    assert handled == {signal.SIGTERM: signal.default_int_handler, 21: signal.default_int_handler}
    monkeypatch.delattr(signal, "SIGBREAK")
    handled.clear()
    assert main.main(["methods", "--json"]) == 0
    assert list(handled) == [signal.SIGTERM]


def test_letters_that_a_pipe_lacks_do_not_end_the_output(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = io.BytesIO()
    out = io.TextIOWrapper(pipe, encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", out)
    terminal.spare_letters()
    with pytest.raises(UnicodeEncodeError):
        out.write("→")
    monkeypatch.setattr(terminal, "sys", SimpleNamespace(platform="win32", stdout=out))
    terminal.spare_letters()
    out.write("é → 中")
    out.flush()
    assert pipe.getvalue().decode("cp1252") == "é ? ?"
