"""The runs of one browser on disk: one file each, whole or not at all; deleted ones are laid aside."""

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
from slimllm.files.paths import ELSEWHERE, home_folder
from ui.facts.runs import Run, run_from_dict, run_to_dict

log = logging.getLogger(__name__)

RUN_REMEDY = f"free space or {ELSEWHERE}"
LARGEST_RUN = 256 * file_limits.MIB  # of a run or of presets: 3 MiB, of 80 layers
KEPT_DELETED = 20  # so many deleted runs can be brought back
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)  # of damaged files


class Shelf:
    """Reads and writes the runs of one browser, whose id cannot be read off the folder's name."""

    def __init__(self, owner: str):
        self.folder = home_folder() / "history" / hashlib.sha256(owner.encode()).hexdigest()[:24]
        self.aside = self.folder / "deleted"
        self._lock = threading.Lock()

    def file(self, number: int) -> Path:
        return self.folder / f"run-{number:04d}.json"

    def put(self, run: Run) -> None:
        """Writes a run; what was there before stays until the new file is complete on the disk."""
        text = json.dumps(run_to_dict(run), indent=1)
        with self._lock:
            atomic_write.write_text(
                self.file(run.number), text, f"{run.name} could not be kept on disk", RUN_REMEDY
            )

    def runs(self) -> tuple[list[Run], list[Path]]:
        """(the runs, oldest first; the files that cannot be read)."""
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
        """A number that no run has or had, so that nothing on the shelf is ever written over."""
        return max((*numbered_files(self.folder), *numbered_files(self.aside)), default=0) + 1

    def deleted(self) -> list[int]:
        """The numbers of the runs that can be brought back, the latest deleted last."""
        files = numbered_files(self.aside)
        return sorted(files, key=lambda number: files[number].stat().st_mtime_ns)

    def delete(self, number: int) -> None:
        """Lays a run aside; the oldest of those that were laid aside give way."""
        with (
            atomic_write.translate_write_failures(f"Run {number} could not be deleted", RUN_REMEDY),
            self._lock,
        ):
            self.aside.mkdir(parents=True, exist_ok=True)
            os.utime(self.file(number))
            os.replace(self.file(number), self.aside / self.file(number).name)
            for old in self.deleted()[:-KEPT_DELETED]:
                (self.aside / self.file(old).name).unlink(missing_ok=True)

    def bring_back(self, number: int) -> Run:
        """Takes a deleted run back; a `Refusal` where it is gone or damaged."""
        laid = self.aside / self.file(number).name
        try:
            run = read_run(laid)
            with self._lock:
                os.replace(laid, self.file(number))
        except UNREADABLE as failure:
            raise Refusal(f"Run {number} cannot be brought back; its file is gone or damaged.") from failure
        return run


def read_run(file: Path) -> Run:
    """The run in a file; one of UNREADABLE where it is damaged."""
    return run_from_dict(json.loads(file_limits.read_text(file, f"'{file}'", "prune again", LARGEST_RUN)))


def numbered_files(folder: Path) -> dict[int, Path]:
    """The files of runs in a folder by number."""
    matches = ((re.fullmatch(r"run-(\d{4,9})\.json", file.name), file) for file in folder.glob("run-*.json"))
    return {int(match[1]): file for match, file in matches if match}
