"""Show a notice once, wherever the page is scrolled to, and tell the tabs of one browser what changed.

A notice says why something was refused, or that the plan was changed in another tab.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import gradio as gr

from ui.look.theme import SCRIPTS
from ui.page.inputs import EXACT
from ui.session.session import Session

# News stay for this many seconds, because the events of one gesture must not clear them at once.
GESTURE = 2.0
CHANGED = "The plan was changed in another tab of your browser; this is the new one."


@dataclass(frozen=True)
class Told:
    """The content of a notice; `words` may be empty.

    `since` is the number of acts on the session when the words were written, `acts` that number when they
    were sent. `gone` says that the server does not know the page.
    """

    words: str = ""
    kind: str = "info"
    since: int = 0
    acts: int = 0
    session: str = ""
    gone: bool = False


class Notice(gr.HTML):
    """The notice of a page.

    `.look(handler)` fires when another tab has acted on the session, or when the page becomes visible again.
    """

    def __init__(self, **kwargs: Any):
        kwargs.setdefault("js_on_load", (SCRIPTS / "notice.js").read_text(encoding="utf-8"))
        kwargs.setdefault("html_template", '<div class="notice" aria-live="assertive"></div>')
        super().__init__(None, elem_id="notice", apply_default_css=False, padding=False, **kwargs)

    def postprocess(self, value: Told | None) -> dict[str, Any] | None:
        """Return the notice as JSON-able data, or None."""
        return None if value is None else asdict(value)

    def preprocess(self, payload: Any) -> int:
        """Return the number of acts on the session that the page knew of."""
        heard = payload.get("acts") if isinstance(payload, dict) else None
        return heard if isinstance(heard, int) and 0 <= heard < EXACT else 0

    def api_info(self) -> dict[str, Any]:
        """Return the JSON schema of the value."""
        return {"type": "object", "description": "what the page was told last"}


Seen = dict[Any, Any]  # what one page has been shown


def notice_of(session: Session | None, seen: Seen | None = None) -> Told:
    """Return the notice of a page; without a session, it says that the server does not know the page."""
    if session is None or seen is None:
        return Told(gone=True)
    words, kind, since = seen["told"]
    return Told(words, kind, since, session.acts, session.id)


def set_notice(seen: Seen, session: Session, words: str, kind: str) -> None:
    """Set the words of a page's notice, or clear it where they are empty."""
    seen["told"] = (words, kind, session.acts)


def is_fresh(seen: Seen) -> bool:
    """Return whether the page got news less than GESTURE seconds ago, so that they may still be unread."""
    return time.monotonic() - seen.get("news", -math.inf) < GESTURE


def tell_what_happened(seen: Seen, session: Session) -> bool:
    """Set the notice where a job failed or the plan was changed elsewhere; return whether it did.

    Each event is shown once. A page that has just been opened shows nothing that happened before.
    """
    failed = session.job if session.job is not None and session.job.state == "failed" else None
    plan, first = session.present, "told" not in seen
    new_failure = failed is not None and seen.get("failed") is not failed
    new_plan = plan is not None and plan is not seen.get("plan") and session.author not in ("", seen["page"])
    seen["failed"], seen["plan"] = failed, plan
    if first or not (new_failure or new_plan):
        seen.setdefault("told", ("", "info", session.acts))
        return False
    seen["news"] = time.monotonic()
    set_notice(seen, session, *((failed.error, "bad") if failed and new_failure else (CHANGED, "info")))
    return True
