"""What a page is told once, wherever it is scrolled to: why something was refused, or that the plan was
changed in another tab. And what the tabs of one browser tell each other."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import gradio as gr

from ui.look.theme import SCRIPTS
from ui.page.inputs import EXACT
from ui.session.session import Session

GESTURE = 2.0  # seconds for which news stay: the events of one gesture must not take them away at once
CHANGED = "The plan was changed in another tab of your browser; this is the new one."


@dataclass(frozen=True)
class Told:
    """What stands in the notice (`words` may be empty), how often the session had been acted on when it was
    written and when this was told; `gone` says that the server does not know the page."""

    words: str = ""
    kind: str = "info"
    since: int = 0
    acts: int = 0
    session: str = ""
    gone: bool = False


class Notice(gr.HTML):
    """The notice. `.look(handler)` is raised when another tab has acted on the session, or when the page has
    come to light again."""

    def __init__(self, **kwargs: Any):
        kwargs.setdefault("js_on_load", (SCRIPTS / "notice.js").read_text(encoding="utf-8"))
        kwargs.setdefault("html_template", '<div class="notice" aria-live="assertive"></div>')
        super().__init__(None, elem_id="notice", apply_default_css=False, padding=False, **kwargs)

    def postprocess(self, value: Told | None) -> dict[str, Any] | None:
        return None if value is None else asdict(value)

    def preprocess(self, payload: Any) -> int:
        """Of how many acts on the session the page had heard."""
        heard = payload.get("acts") if isinstance(payload, dict) else None
        return heard if isinstance(heard, int) and 0 <= heard < EXACT else 0

    def api_info(self) -> dict[str, Any]:
        return {"type": "object", "description": "what the page was told last"}


Seen = dict[Any, Any]  # what one page has been shown


def notice_of(session: Session | None, seen: Seen | None = None) -> Told:
    """The notice as it stands on a page; without a session, that the page is not known."""
    if session is None or seen is None:
        return Told(gone=True)
    words, kind, since = seen["told"]
    return Told(words, kind, since, session.acts, session.id)


def set_notice(seen: Seen, session: Session, words: str, kind: str) -> None:
    """Puts words into the notice of a page, or takes it away where there are none."""
    seen["told"] = (words, kind, session.acts)


def is_fresh(seen: Seen) -> bool:
    """Whether a page was told news so lately that they may not have been read."""
    return time.monotonic() - seen.get("news", -math.inf) < GESTURE


def tell_what_happened(seen: Seen, session: Session) -> bool:
    """Says once that a job failed, or that the plan was changed elsewhere, and whether there was such news; a
    page that has just been opened is told nothing of what was before."""
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
