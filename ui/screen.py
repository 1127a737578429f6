"""The wiring between page and session: every event acts on the session, then what changed is drawn. One way
for all.

A page registers views (components, what they depend on, how to draw them) and events (what to do with the
session). An event draws those views of its own tab, and above the tabs, whose session parts changed since
this browser tab last saw them. What can wait, and what is behind on another tab, is drawn soon after, by a
timer of its tab that ticks until nothing is behind: so what the hand waits for comes alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from slimllm.failures import is_failure
from slimllm.types import Refusal
from ui import words
from ui.events import visitor_of
from ui.jobs import sentence
from ui.own import tame
from ui.registry import REGISTRY
from ui.session import Session
from ui.skipping import LEFT

log = logging.getLogger(__name__)

Act = Callable[..., str | None]
NEVER = ("never", 0.0)
BUTTONS = (gr.Button, gr.DownloadButton, gr.UploadButton)
ABOVE = ""  # the tab of what stands above the tabs
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
SOON = 0.15  # seconds until what can wait is drawn
PULSE = 300.0  # seconds between two signs of life of an open page, whose session then does not expire


@dataclass(frozen=True)
class View:
    """Components of one tab, the value that tells whether they are stale, how to draw them, the least seconds
    between, and whether they are drawn after what the hand waits for."""

    tab: str
    components: tuple[Any, ...]
    token: Callable[[Session], Any]
    draw: Callable[[Session], Sequence[Any]]
    pace: float = 0.0
    later: bool = False

    @property
    def left(self) -> list[Any]:
        """The updates that change nothing."""
        return [LEFT] * len(self.components)


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
        self.id, self.seen = gr.State(""), gr.State({})  # `seen` is written in place
        self.number = gr.Textbox(visible=False)  # of the answer: assets/answers.js keeps them in order
        self.timer = gr.Timer(TICK, active=False)
        self.pulse = gr.Timer(PULSE)
        self.tabs: gr.Tabs | None = None
        self.views: list[View] = []
        self.events: list[Event] = []
        self.soon: dict[str, gr.Timer] = {}  # one by tab; ticks while something is stale there

    def show(
        self,
        components: Any | Sequence[Any],
        draw: Callable[[Session], Any],
        *parts: str,
        token: Callable[[Session], Any] | None = None,
        pace: float = 0.0,
        later: bool = False,
    ) -> None:
        """Draws components from the session whenever one of its parts changed; without parts once per page
        load."""
        many = isinstance(components, list | tuple)
        shown = tuple(components) if many else (components,)
        stale = token or (lambda session: (session.born, *(session.serial[part] for part in parts)))
        drawn = draw if many else (lambda session: [draw(session)])
        self.views.append(View(tab_of(shown[0]), shown, stale, drawn, pace, later))

    def on(
        self, trigger: Any, page: str, act: Act, *inputs: Any, mode: str = "once", click: bool = False
    ) -> None:
        """On this event calls `act(session, *values)`; with `click` the event's data comes last. An act that
        returns a tab's name leads there."""
        self.events.append(Event(trigger, page, act, inputs, mode, click))

    def wire(self, demo: gr.Blocks) -> None:
        """Connects everything."""
        assert self.tabs is not None
        tabs = tuple(dict.fromkeys(view.tab for view in self.views))
        self.soon = {tab: gr.Timer(SOON, active=False) for tab in tabs}
        for event in self.events:
            here = {ABOVE, tab_of(owner(event.trigger))}
            listen = partial(gr.on, event.trigger) if isinstance(event.trigger, list) else event.trigger
            handle = self._clicked(event, here) if event.click else self._acted(event, here)
            self._listen(listen, handle, here, *event.inputs, mode=event.mode)
        for tab, timer in self.soon.items():
            self._listen(timer.tick, self._looked({tab}), {tab}, mode="once")
        self._listen(self.timer.tick, self._looked({ABOVE}), {ABOVE}, mode="once")
        for tab in self.tabs.children:
            here = {ABOVE, str(tab.id)}
            self._listen(tab.select, self._visited(here), here)
        self.pulse.tick(self._beat, [self.id], None, **self._common)
        demo.load(
            self._attach,
            [self.browser, self.seen],
            [*self._outputs(tabs), self.id],
            js=BROWSER_ID,
            **self._common,
        )

    @property
    def _common(self) -> dict[str, Any]:
        return {
            "show_progress": "hidden",
            "show_progress_on": [self.browser],  # else every output is told thrice how the event fares
            "concurrency_limit": None,
            "api_visibility": "private",
        }

    def _listen(
        self,
        listen: Callable[..., Any],
        handle: Callable[..., list[Any]],
        tabs: Collection[str],
        *inputs: Any,
        mode: str = "always_last",
    ) -> None:
        listen(
            handle,
            inputs=[self.id, self.seen, *inputs],
            outputs=self._outputs(tabs),
            trigger_mode=mode,
            **self._common,
        )

    def _outputs(self, tabs: Collection[str]) -> list[Any]:
        """What an answer consists of that draws these tabs; in the order of `refresh`."""
        shown = [component for view in self._views(tabs) for component in view.components]
        return [self.number, self.timer, self.tabs, *self.soon.values(), *shown]

    def _views(self, tabs: Collection[str]) -> list[View]:
        return [view for view in self.views if view.tab in tabs]

    def _nothing(self, tabs: Collection[str]) -> list[Any]:
        """The answer to a page that has not yet been told its session: nothing, for a new session would hide
        its own."""
        left = [update for view in self._views(tabs) for update in view.left]
        return [LEFT] * (3 + len(self.soon)) + left

    def _acted(self, event: Event, tabs: Collection[str]) -> Callable[..., list[Any]]:
        def handle(id: str, seen: dict[Any, Any], *values: Any) -> list[Any]:
            return self._do(id, seen, tabs, event, values)

        return handle

    def _clicked(self, event: Event, tabs: Collection[str]) -> Callable[..., list[Any]]:
        def handle(id: str, seen: dict[Any, Any], e: gr.EventData) -> list[Any]:
            e._data = tame(e._data) if isinstance(e._data, dict) else {}
            return self._do(id, seen, tabs, event, (e,))

        return handle

    def _looked(self, tabs: Collection[str]) -> Callable[..., list[Any]]:
        def handle(id: str, seen: dict[Any, Any]) -> list[Any]:
            return self.refresh(REGISTRY.open(id), seen, tabs) if id else self._nothing(tabs)

        return handle

    def _visited(self, tabs: Collection[str]) -> Callable[..., list[Any]]:
        """Draws buttons once more when their tab opens: one that opens while an answer arrives may have
        missed it."""

        def handle(id: str, seen: dict[Any, Any]) -> list[Any]:
            if not id:
                return self._nothing(tabs)
            for index, view in enumerate(self.views):
                if view.tab in tabs and any(isinstance(part, BUTTONS) for part in view.components):
                    seen.pop(index, None)
            return self.refresh(REGISTRY.open(id), seen, tabs)

        return handle

    def _do(
        self, id: str, seen: dict[Any, Any], tabs: Collection[str], event: Event, values: Sequence[Any]
    ) -> list[Any]:
        if not id:
            return self._nothing(tabs)
        session = REGISTRY.open(id)
        tab = None
        try:
            session.notes.pop(event.page, None)
            tab = event.act(session, *map(tame, values))
        except Refusal as refusal:
            session.say(event.page, str(refusal), "bad")
            session.mark("controls", "plan")
            gr.Warning(words.safe(refusal))
        except BaseException as failure:
            if not is_failure(failure):
                raise
            session.say(event.page, sentence(failure), "bad")
        session.mark("notes")
        return self.refresh(session, seen, tabs, tab, acted=True)

    @staticmethod
    def _beat(id: str) -> None:
        REGISTRY.open(id)

    def _attach(self, known: str | None, seen: dict[Any, Any], request: gr.Request) -> list[Any]:
        """Finds the session of this browser again, or opens one, and draws everything."""
        session = REGISTRY.open(known, visitor_of(request))
        seen.clear()
        return [*self.refresh(session, seen, self.soon), session.id]

    @staticmethod
    def _drawn_or_left(view: View, session: Session) -> Sequence[Any]:
        """The updates of one view; a view that fails is logged and left as it is, so that the others still
        show."""
        try:
            return list(view.draw(session))
        except Exception:
            log.exception("A part of the page could not be drawn")
            return view.left

    def refresh(
        self,
        session: Session,
        seen: dict[Any, Any],
        tabs: Collection[str],
        lead: str | None = None,
        acted: bool = False,
    ) -> list[Any]:
        """The answer's number, the timers, the tab to lead to, and an update for every component of these
        tabs, empty where nothing changed. What can wait waits if the hand `acted`."""
        with session.drawing:
            lively, now, first = session.lively, time.monotonic(), not seen
            updates: list[Any] = []
            behind: set[str] = set()
            for index, view in enumerate(self.views):
                token = view.token(session)
                old, when = seen.get(index, NEVER)
                wait = view.pace and lively and now - when < view.pace
                stale, here = token != old and not wait, view.tab in tabs
                if stale and here and not (view.later and acted):
                    seen[index] = (token, now)
                    updates += self._drawn_or_left(view, session)
                    continue
                updates += view.left if here else []
                if stale:
                    behind.add(view.tab)
            self._warn_of_failure(session, seen, first)
            timer = self._switch(seen, "lively", lively)
            soon = [self._switch(seen, f"soon {tab}", tab in behind) for tab in self.soon]
            seen["answers"] = seen.get("answers", 0) + 1
            number = f"answer {seen['answers']}"
        return [number, timer, LEFT if lead is None else gr.Tabs(selected=lead), *soon, *updates]

    @staticmethod
    def _switch(seen: dict[Any, Any], name: str, on: bool) -> Any:
        """The update of a timer that shall tick or rest: none where it does so already."""
        before, seen[name] = seen.get(name), on
        return LEFT if on == before else gr.Timer(active=on)

    @staticmethod
    def _warn_of_failure(session: Session, seen: dict[Any, Any], first: bool) -> None:
        """Says once that a job failed; a page that has just been opened is not told of old failures."""
        failed = session.job if session.job is not None and session.job.state == "failed" else None
        if failed is not None and not first and seen.get("failed") != id(failed):
            gr.Warning(words.safe(failed.error))
        seen["failed"] = id(failed) if failed is not None else None


def tab_of(component: Any) -> str:
    """The id of the tab that a component stands on."""
    tab = ABOVE
    while component is not None:
        if isinstance(component, gr.Tab):
            tab = str(component.id)
        component = component.parent
    return tab


def owner(trigger: Any) -> Any:
    """The component whose event this is; of several, the first one's."""
    first = trigger[0] if isinstance(trigger, list) else trigger
    return first.__self__ if hasattr(first, "__self__") else first.args[0]
