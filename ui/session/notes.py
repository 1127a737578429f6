"""The sentences that stand on a page: what a job found out on the way, and how long they stay. No Gradio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ui.jobs.worker import Job

if TYPE_CHECKING:
    from ui.session.session import Session

PAGES = {  # of the kinds of jobs that have another name than their page
    "second": "analyse",
    "methods": "compare",
    "export": "history",
    "polish": "history",
    "restore": "tune",
}


def outdate_note(session: Session, page: str) -> None:
    """Takes away a complaint on this page, for a person has acted on it. What else was said stays until the
    next job begins, muted: a sentence that goes moves all that stands below it while the hand is on it."""
    kind, words = session.notes.pop(page, ("bad", ""))
    if kind != "bad":
        session.notes[page] = ("old", words)


def tell_after(session: Session, job: Job) -> None:
    """Adds what the job's notes say to what its page says once it is done; until then it says nothing."""
    done, page = job.on_done, PAGES.get(job.kind, job.kind)
    session.notes.pop(page, None)

    def tell_all(result: Any) -> None:
        before = session.notes.get(page)
        done(result)
        kind, words = after = session.notes.get(page, ("info", ""))
        if job.told:
            session.say(page, " ".join([*job.told, *([words] if after != before else [])]), kind)

    job.on_done = tell_all
