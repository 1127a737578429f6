"""Change the notes of a page: its sentences about what was asked and what a job found out.

No Gradio.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ui.jobs.worker import Job

if TYPE_CHECKING:
    from ui.session.session import Session

# The page of each kind of job that does not have the name of its page.
PAGES = {
    "second": "analyse",
    "methods": "compare",
    "export": "history",
    "polish": "history",
    "restore": "tune",
}


def outdate_note(session: Session, page: str) -> None:
    """Remove a complaint from this page, because a person has acted on it.

    Any other note stays in muted colour until the next job begins. If it vanished, everything below it would
    move under the pointer.
    """
    kind, words = session.notes.pop(page, ("bad", ""))
    if kind != "bad":
        session.notes[page] = ("old", words)


def tell_after(session: Session, job: Job) -> None:
    """Make a job add its own notes to the note of its page once it is done.

    Until then, the page shows no note.
    """
    done, page = job.on_done, PAGES.get(job.kind, job.kind)
    session.notes.pop(page, None)

    def tell_all(result: Any) -> None:
        """Finish the job, and put its notes before the words that this adds."""
        before = session.notes.get(page)
        done(result)
        kind, words = after = session.notes.get(page, ("info", ""))
        if job.told:
            session.say(page, " ".join([*job.told, *([words] if after != before else [])]), kind)

    job.on_done = tell_all
