"""The sentences that stand on a page: what takes them away, and what only mutes them."""

from __future__ import annotations

import pytest

from ui.jobs.worker import Job, Worker
from ui.session.notes import outdate_note
from ui.session.registry import Registry
from ui.session.session import Session


@pytest.fixture
def session() -> Session:
    return Registry().open("a-browser-of-its-own-0001")


def test_a_complaint_goes_with_the_next_act_and_news_stays_muted(session: Session) -> None:
    session.say("tune", "This is the plan of run 3.", "good")
    session.say("analyse", "The text has no words.", "bad")
    for page in ("tune", "analyse", "compare"):
        outdate_note(session, page)
    assert session.notes == {"tune": ("old", "This is the plan of run 3.")}
    outdate_note(session, "tune")
    assert session.notes == {"tune": ("old", "This is the plan of run 3.")}


def test_a_job_begins_with_a_page_that_says_nothing(session: Session) -> None:
    session.say("analyse", "The moments are used again.")
    session.say("tune", "This is the plan of run 3.", "good")
    session.begin(Worker(), Job("second", "Scoring", lambda _: iter(())))
    assert "analyse" not in session.notes
    assert session.notes["tune"][0] == "good"
