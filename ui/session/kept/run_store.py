"""Store the runs of one browser on disk, one file each, written completely or not at all.

Deleted runs are moved to a folder of their own.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import threading
from pathlib import Path

from slimllm.core.errors import Refusal
from slimllm.files import atomic_write, file_limits
from slimllm.files.file_moves import move_path
from slimllm.files.paths import ELSEWHERE, home_folder
from ui.facts.runs import Run, run_from_dict, run_to_dict

log = logging.getLogger(__name__)

RUN_REMEDY = f"free space or {ELSEWHERE}"
# The largest file, in bytes, of a run or of presets; a run of 80 layers has 3 MiB.
LARGEST_RUN = 256 * file_limits.MIB
# Deleted runs that can be brought back.
KEPT_DELETED = 20
# The errors that reading a damaged file raises.
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


class RunStore:
    """The folder with the runs of one browser.

    The name of the folder is a hash, so that it does not give away the id of the browser.
    """

    def __init__(self, owner: str):
        self.folder = home_folder() / "history" / hashlib.sha256(owner.encode()).hexdigest()[:24]
        self.aside = self.folder / "deleted"
        self._lock = threading.Lock()

    def file(self, number: int) -> Path:
        """Return the path of the run of this number."""
        return self.folder / f"run-{number:04d}.json"

    def put(self, run: Run) -> None:
        """Write a run; an earlier version stays until the new one is complete on disk.

        Raise `Unwritten` if writing fails.
        """
        text = json.dumps(run_to_dict(run), indent=1)
        with self._lock:
            atomic_write.write_text(
                self.file(run.number), text, f"{run.name} could not be kept on disk", RUN_REMEDY
            )

    def runs(self) -> tuple[list[Run], list[Path]]:
        """Return the runs, oldest first, and the files that cannot be read as runs."""
        found, damaged = [], []
        for number, file in sorted(numbered_files(self.folder).items()):
            try:
                run = read_run(file)
                if run.number != number:
                    raise ValueError("another number")
                found.append(run)
            except UNREADABLE:
                log.warning("%s cannot be read as a run", file)
                damaged.append(file)
        return found, damaged

    def next_number(self) -> int:
        """Return a number above those of all runs here, deleted ones included.

        A new run therefore never overwrites another one.
        """
        return max((*numbered_files(self.folder), *numbered_files(self.aside)), default=0) + 1

    def deleted(self) -> list[int]:
        """Return the numbers of the deleted runs that can be brought back, the latest deleted last."""
        files = numbered_files(self.aside)
        return sorted(files, key=lambda number: files[number].stat().st_mtime_ns)

    def delete(self, number: int) -> None:
        """Move a run to the deleted ones, of which only the latest KEPT_DELETED stay.

        Raise `Unwritten` if that fails.
        """
        with (
            atomic_write.translate_write_failures(f"Run {number} could not be deleted", RUN_REMEDY),
            self._lock,
        ):
            self.aside.mkdir(parents=True, exist_ok=True)
            os.utime(self.file(number))
            move_path(self.file(number), self.aside / self.file(number).name)
            for old in self.deleted()[:-KEPT_DELETED]:
                (self.aside / self.file(old).name).unlink(missing_ok=True)

    def bring_back(self, number: int) -> Run:
        """Move a deleted run back, and return it; raise `Refusal` if its file is gone or damaged."""
        laid = self.aside / self.file(number).name
        try:
            run = read_run(laid)
            with self._lock:
                move_path(laid, self.file(number))
        except UNREADABLE as failure:
            raise Refusal(f"Run {number} cannot be brought back; its file is gone or damaged.") from failure
        return run


def read_run(file: Path) -> Run:
    """Return the run in a file; raise one of UNREADABLE if it is gone or damaged."""
    return run_from_dict(json.loads(file_limits.read_text(file, f"'{file}'", "prune again", LARGEST_RUN)))


def numbered_files(folder: Path) -> dict[int, Path]:
    """Return the files of runs in a folder by their numbers."""
    matches = ((re.fullmatch(r"run-(\d{4,9})\.json", file.name), file) for file in folder.glob("run-*.json"))
    return {int(match[1]): file for match, file in matches if match}
