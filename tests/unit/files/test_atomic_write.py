"""Folders are swept while others are made: nothing is removed under its maker, and no sweep stumbles over
what vanishes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from slimllm.analysis.analysis_store import MomentStore
from slimllm.files import atomic_write
from slimllm.files.file_lock import hold_path

ROOT = Path(__file__).parents[3]
SECONDS = 1.5
MAKER = f"""
import shutil, sys, time
from pathlib import Path
from slimllm.files import atomic_write
root, end = Path(sys.argv[1]), time.monotonic() + {SECONDS}
made = lost = 0
while time.monotonic() < end:
    with atomic_write.temporary_folder() as one, atomic_write.scratch_folder(root / "export") as two:
        made += 2
        lost += (not one.is_dir()) + (not two.is_dir())
    (root / "deep" / str(made)).mkdir(parents=True)
    shutil.rmtree(root / "deep")
print(made, lost)
"""
SWEEPER = f"""
import sys, time
from pathlib import Path
from slimllm.files import atomic_write
root, end = Path(sys.argv[1]), time.monotonic() + {SECONDS}
swept = 0
while time.monotonic() < end:
    atomic_write.remove_abandoned()
    atomic_write.mended_below(root)
    atomic_write.mend_leftovers(root / "*", print)
    swept += 1
print(swept)
"""


def test_sweep_takes_nothing_from_its_maker(tmp_path: Path) -> None:
    """On a tight loop of two programs 52 of 1,816 folders were gone, and the sweep crashed 51 times."""
    (tmp_path / "home").mkdir()
    (tmp_path / "tmp").mkdir()
    given = {**os.environ, "TMPDIR": str(tmp_path / "tmp"), "PYTHONPATH": str(ROOT)}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / "home")],
            env=given,
            stdout=subprocess.PIPE,
            text=True,
        )
        for program in (MAKER, SWEEPER)
    ]
    said = [program.communicate(timeout=60)[0].split() for program in running]
    assert [program.returncode for program in running] == [0, 0]
    made, lost = map(int, said[0])
    assert lost == 0
    assert made > 50
    assert int(said[1][-1]) > 50
    assert not list((tmp_path / "tmp").iterdir()), "nothing is left lying"
    assert not list((tmp_path / "home").iterdir())


def test_sweep_of_a_folder_that_is_not_yet_held_lets_its_maker_make_another(tmp_path: Path) -> None:
    """The moment between making and locking, held still."""
    names = iter(("one", "two"))
    gone = []

    def make() -> Path:
        folder = tmp_path / next(names)
        folder.mkdir()
        if not gone:
            gone.append(atomic_write.remove_unheld(folder))
        return folder

    with atomic_write.made_and_held(make) as folder:
        assert gone == [True]
        assert folder.name == "two"
        assert not atomic_write.remove_unheld(folder), "now it is held"
    taken = tmp_path / "three"
    taken.mkdir()
    handle = os.open(taken, os.O_RDONLY)
    taken.rename(tmp_path / "old")
    taken.mkdir()
    os.close(handle)
    with hold_path(taken), pytest.raises(BlockingIOError), hold_path(taken):
        pass


def test_sweep_of_moments_that_are_begun_lets_them_begin_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir, swept = Path.mkdir, []

    def made_and_swept(self: Path, *given: object, **named: object) -> None:
        mkdir(self, *given, **named)  # type: ignore[arg-type]
        if not swept and self.name.endswith(".unfinished"):
            swept.append(atomic_write.remove_unheld(self))

    monkeypatch.setattr(Path, "mkdir", made_and_swept)
    store = MomentStore(tmp_path / "moments")
    with store.filled({"key": 1}) as made:
        assert swept == [True]
        assert made.folder.is_dir()
    assert store.under({"key": 1})
