"""What a job found out on the way and a person has to know, said on its page once it is done. No Gradio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ui.jobs import Job

if TYPE_CHECKING:
    from ui.session import Session

PAGES = {  # of the kinds of jobs that have another name than their page
    "second": "analyse",
    "methods": "compare",
    "export": "history",
    "polish": "history",
    "restore": "tune",
}


def tell_after(session: Session, job: Job) -> None:
    """Adds what the job's notes say to what its page says once it is done."""
    done, page = job.on_done, PAGES.get(job.kind, job.kind)

    def tell(result: Any) -> None:
        before = session.notes.get(page)
        done(result)
        kind, words = after = session.notes.get(page, ("info", ""))
        if job.told:
            session.say(page, " ".join([*job.told, *([words] if after != before else [])]), kind)

    job.on_done = tell
