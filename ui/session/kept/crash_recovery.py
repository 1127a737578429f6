"""Clean up what a killed program left of the page, and tell the person about it.

No Gradio.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from slimllm.core.errors import Refusal
from slimllm.files import atomic_write, file_limits
from slimllm.files.paths import home_folder
from ui.jobs.worker import Job, Steps
from ui.look.formatting import format_time
from ui.session.kept.run_store import RunStore

UNREAD = (OSError, ValueError, KeyError, TypeError, RecursionError)
# The kinds of jobs that keep the moments of the layers that they have read.
READING = ("analyse", "second", "methods", "restore")
PRIVATE = ("history", "exports")
# What an unfinished part is called, by the folder of the cache that it was in.
CACHE_KINDS = {
    "exports": "an unfinished export",
    "models": "an unfinished conversion of a model",
    "history": "an unfinished file of the history",
}


def recover_all(say: Callable[[str], object]) -> None:
    """Clean up what earlier programs left unfinished, and report it to `say` in one sentence."""
    root = home_folder()
    places = atomic_write.mended_below(*(root / kind for kind in (*CACHE_KINDS, "moments")))
    places += [path for left in root.glob(".*") if (path := atomic_write.mend_leftover(left))]
    found = sorted({CACHE_KINDS.get(path.relative_to(root).parts[0], "unfinished layers") for path in places})
    if atomic_write.remove_abandoned():
        found.append("its temporary files")
    if found:
        say(
            f"An earlier run was interrupted; removed: {', '.join(found)}. Runs, presets and finished "
            "exports are as they were."
        )


def keep_private(say: Callable[[str], object]) -> None:
    """Make runs and exports unreadable for other accounts of this machine.

    If that fails, `say` receives a sentence about it.
    """
    for name in PRIVATE:
        folder = home_folder() / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)
        except OSError as failure:
            why = atomic_write.failure_reason(failure)
            say(f"Other accounts of this machine may be able to read '{folder}' ({why}).")


def page_folder() -> tuple[Path, Callable[[], None]]:
    """Return a temporary folder for a session, and a function that removes it.

    This program has locked the folder. Raise `Unwritten` if it cannot be made.
    """
    with atomic_write.translate_write_failures(
        "A page cannot be opened", "free space, or set TMPDIR to another folder"
    ):
        stack = contextlib.ExitStack()
        folder = stack.enter_context(atomic_write.temporary_folder())
    return folder, stack.close


class Diary:
    """The present job of one browser, on disk while it runs.

    After a kill, the page can therefore say which job was interrupted.
    """

    def __init__(self, owner: str):
        self.file = RunStore(owner).folder / "job.json"

    def kept(self, job: Job) -> None:
        """Make a job keep its title, kind and start time on disk while it runs."""
        start = job.start

        def run_steps(job: Job) -> Steps:
            """Run the steps of the job, with its entry on disk meanwhile."""
            entry = {
                "title": job.title,
                "kind": job.kind,
                "began": datetime.now().isoformat(timespec="seconds"),
            }
            # If the disk is full, the job itself says what it cannot do.
            with contextlib.suppress(Refusal):
                atomic_write.write_text(self.file, json.dumps(entry))
            try:
                return (yield from start(job))
            finally:
                with contextlib.suppress(OSError):
                    self.file.unlink(missing_ok=True)

        job.start = run_steps

    def broken_off(self) -> str:
        """Return a sentence about the job that a kill interrupted, or an empty string if there was none.

        The entry is deleted, so the sentence is returned only once.
        """
        try:
            entry = json.loads(
                file_limits.read_text(
                    self.file, "What was going on", "start it again", file_limits.SMALL_FILE
                )
            )
            self.file.unlink()
            title, kind, began = str(entry["title"]), entry["kind"], format_time(str(entry["began"]))
        except UNREAD:
            return ""
        rest = "nothing of it was kept, and nothing else was touched; start it again"
        if kind in READING and any((home_folder() / "moments").glob(".*.unfinished")):
            rest = "the layers that were read are kept, and the same analysis goes on from there"
        return f"{title}, begun {began}, was going on when the program ended: {rest}."
