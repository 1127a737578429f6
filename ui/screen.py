"""The wiring between page and session: every event acts on the session, then what changed is drawn. One way
for all.

A page registers views (components, what they depend on, how to draw them) and events (what to do with the
session). An event answers with all views, but only those whose session parts changed since this browser tab
last saw them are sent.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from slimllm.types import Refusal
from ui import words
from ui.jobs import sentence
from ui.registry import REGISTRY
from ui.session import Session

log = logging.getLogger(__name__)

Act = Callable[..., str | None]
NEVER = ("never", 0.0)
# The browser's own name for itself. JavaScript reads it at once; a `BrowserState` may still be empty when a
# cold page asks for it, and then a reload would find a new session instead of the one with the running job.
BROWSER_ID = """() => {
  const key = "slimllm-browser";
  let id = localStorage.getItem(key);
  if (!id) {
    const bytes = crypto.getRandomValues(new Uint8Array(18));
    id = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
    localStorage.setItem(key, id);
  }
  return [id];
}"""
TICK = 0.5  # seconds between two looks at a running job
PULSE = 300.0  # seconds between two signs of life of an open page, whose session then does not expire


@dataclass(frozen=True)
class View:
    """Components, the value that tells whether they are stale, how to draw them, and the least seconds
    between."""

    components: tuple[Any, ...]
    token: Callable[[Session], Any]
    draw: Callable[[Session], Sequence[Any]]
    pace: float = 0.0


@dataclass(frozen=True)
class Event:
    """A trigger or several, the page, what it does to the session, and the components it takes values of."""

    trigger: Any
    page: str
    act: Act
    inputs: tuple[Any, ...]
    mode: str
    click: bool


class Screen:
    """Collects views and events while the pages are built; `wire` connects them once all are known."""

    def __init__(self) -> None:
        self.browser = gr.Textbox(visible=False)  # carries what BROWSER_ID answers
        self.id, self.seen = gr.State(""), gr.State({})
        self.timer = gr.Timer(TICK, active=False)
        self.pulse = gr.Timer(PULSE)
        self.tabs: gr.Tabs | None = None
        self.width = 0
        self.views: list[View] = []
        self.events: list[Event] = []
        self.stamps: list[tuple[gr.State, tuple[Any, ...], Callable[[Session], Sequence[Any]]]] = []

    def show(
        self,
        components: Any | Sequence[Any],
        draw: Callable[[Session], Any],
        *parts: str,
        token: Callable[[Session], Any] | None = None,
        pace: float = 0.0,
    ) -> None:
        """Draws components from the session whenever one of its parts changed; without parts once per page
        load."""
        many = isinstance(components, list | tuple)
        stale = token or (lambda session: (session.born, *(session.serial[part] for part in parts)))
        parts_of_page = tuple(components) if many else (components,)
        drawn = draw if many else (lambda session: [draw(session)])
        if any(isinstance(component, gr.HTML) and component.props for component in parts_of_page):
            # An empty update would wipe the properties of such a component (Gradio 6.31), so it must never be
            # sent one:
            # the common answer moves a stamp, and only a moved stamp draws.
            stamp = gr.State(0)
            self.stamps.append((stamp, parts_of_page, drawn))
            self.views.append(View((stamp,), stale, lambda _: [time.monotonic_ns()], pace))
            return
        self.views.append(View(parts_of_page, stale, drawn, pace))

    def on(
        self, trigger: Any, page: str, act: Act, *inputs: Any, mode: str = "once", click: bool = False
    ) -> None:
        """On this event calls `act(session, *values)`; with `click` the event's data comes last. An act that
        returns a tab's name leads there."""
        self.events.append(Event(trigger, page, act, inputs, mode, click))

    def wire(self, demo: gr.Blocks) -> None:
        """Connects everything."""
        assert self.tabs is not None
        shown = [component for view in self.views for component in view.components]
        outputs = [self.seen, self.timer, self.tabs, *shown]
        self.width = len(outputs)
        common: dict[str, Any] = {
            "show_progress": "hidden",
            "show_progress_on": [self.browser],  # else every output is told thrice how the event fares
            "concurrency_limit": None,
            "api_visibility": "private",
        }
        for event in self.events:
            listen = partial(gr.on, event.trigger) if isinstance(event.trigger, list) else event.trigger
            listen(
                self._clicked(event) if event.click else self._acted(event),
                inputs=[self.id, self.seen, *event.inputs],
                outputs=outputs,
                trigger_mode=event.mode,
                **common,
            )
        for stamp, components, draw in self.stamps:
            stamp.change(
                self._drawn(draw, len(components)),
                [self.id],
                list(components),
                trigger_mode="always_last",
                **common,
            )
        self.timer.tick(self._look, [self.id, self.seen], outputs, trigger_mode="once", **common)
        self.pulse.tick(self._beat, [self.id], None, **common)
        self.tabs.select(self._visit, [self.id, self.seen], outputs, trigger_mode="always_last", **common)
        demo.load(self._attach, [self.browser], [self.id, *outputs], js=BROWSER_ID, **common)

    def _acted(self, event: Event) -> Callable[..., list[Any]]:
        def handle(id: str, seen: dict[Any, Any], *values: Any) -> list[Any]:
            return self._do(id, seen, event, values)

        return handle

    def _clicked(self, event: Event) -> Callable[..., list[Any]]:
        def handle(id: str, seen: dict[Any, Any], e: gr.EventData) -> list[Any]:
            return self._do(id, seen, event, (e,))

        return handle

    @staticmethod
    def _drawn(draw: Callable[[Session], Sequence[Any]], count: int) -> Callable[[str], Any]:
        def handle(id: str) -> Any:
            updates = draw(REGISTRY.open(id))
            return updates[0] if count == 1 else list(updates)

        return handle

    def _do(self, id: str, seen: dict[Any, Any], event: Event, values: Sequence[Any]) -> list[Any]:
        if not id:
            return self._nothing()
        session = REGISTRY.open(id)
        tab = None
        try:
            session.notes.pop(event.page, None)
            tab = event.act(session, *values)
        except Refusal as refusal:
            session.say(event.page, str(refusal), "bad")
            session.mark("controls", "plan")
            gr.Warning(words.safe(refusal))
        except Exception as failure:
            session.say(event.page, sentence(failure), "bad")
        session.mark("notes")
        return self.refresh(session, seen, tab)

    @staticmethod
    def _beat(id: str) -> None:
        REGISTRY.open(id)

    def _visit(self, id: str, seen: dict[Any, Any]) -> list[Any]:
        """Draws buttons once more when their tab opens: one that opens while an answer arrives may have
        missed it."""
        if not id:
            return self._nothing()
        session = REGISTRY.open(id)
        session.mark("visit")
        return self.refresh(session, seen)

    def _look(self, id: str, seen: dict[Any, Any]) -> list[Any]:
        return self.refresh(REGISTRY.open(id), seen) if id else self._nothing()

    def _nothing(self) -> list[Any]:
        """The answer to a page that has not yet been told its session: nothing, for a new session would hide
        its own."""
        return [gr.skip()] * self.width

    def _attach(self, known: str | None) -> list[Any]:
        """Finds the session of this browser again, or opens one, and draws everything."""
        session = REGISTRY.open(known)
        return [session.id, *self.refresh(session, {})]

    @staticmethod
    def _drawn_or_left(view: View, session: Session) -> Sequence[Any]:
        """The updates of one view; a view that fails is logged and left as it is, so that the others still
        show."""
        try:
            return list(view.draw(session))
        except Exception:
            log.exception("A part of the page could not be drawn")
            return [gr.skip()] * len(view.components)

    def refresh(self, session: Session, seen: dict[Any, Any], tab: str | None = None) -> list[Any]:
        """The new `seen`, the timer, the tabs, and an update for every component, empty where nothing
        changed."""
        lively, now, fresh = session.lively, time.monotonic(), dict(seen)
        updates: list[Any] = []
        for index, view in enumerate(self.views):
            token = view.token(session)
            old, when = seen.get(index, NEVER)
            wait = view.pace and lively and now - when < view.pace
            if token == old or wait:
                updates += [gr.skip()] * len(view.components)
                continue
            fresh[index] = (token, now)
            updates += self._drawn_or_left(view, session)
        job = session.job
        if job is not None and job.state == "failed" and seen and seen.get("failed") != id(job):
            gr.Warning(words.safe(job.error))
        fresh["failed"] = id(job) if job is not None and job.state == "failed" else None
        timer = gr.skip() if seen.get("lively") is lively else gr.Timer(active=lively)
        fresh["lively"] = lively
        return [fresh, timer, gr.skip() if tab is None else gr.Tabs(selected=tab), *updates]
