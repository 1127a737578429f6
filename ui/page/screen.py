"""Connect page and session: every event acts on the session, and then the page draws what changed.

A page registers views (components, what they depend on, how to draw them) and events (what to do with the
session). An event draws the views of its own tab, and of the part above the tabs, whose session parts changed
since this browser tab last saw them. A timer draws the rest soon after: what can wait, and then one tab after
the other. It ticks until nothing is stale, so a person's own change arrives first.

A page has one event in progress at a time, and every answer arrives (`delivery`). So what one answer wrote
into `seen` is on the page when the next event comes.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import gradio as gr

from slimllm.core.errors import Refusal
from slimllm.core.failures import is_failure
from ui.jobs.worker import sentence
from ui.page.events import visitor_of
from ui.page.fast_blocks import LEAVE_ALONE
from ui.page.inputs import sanitize_value
from ui.page.notice import Notice, is_fresh, notice_of, set_notice, tell_what_happened
from ui.page.page_identity import KNOWN, OPENED, REMEMBER
from ui.page.views import ABOVE, Act, Event, Values, View, tab_of, trigger_component
from ui.session.forms import Shown
from ui.session.notes import outdate_note
from ui.session.parts import Part
from ui.session.registry import REGISTRY
from ui.session.session import Session

log = logging.getLogger(__name__)

NEVER = ("never", 0.0)
TICK = 0.5  # seconds between two looks at a running job
SOON = 0.15  # seconds until the later views are drawn
PULSE = 300.0  # seconds between two pulses of an open page, which keep its session alive


class Screen:
    """Collect views and events while the pages are built; `wire` connects them once all are known."""

    def __init__(self) -> None:
        self.browser = gr.Textbox(visible=False)  # carries what OPENED answers
        self.opened = gr.Textbox(visible=False)  # the tab that was open before a reload
        self.id, self.seen = gr.State(""), gr.State({})  # `seen` is written in place
        self.notice = Notice()
        self.timer = gr.Timer(TICK, active=False)
        self.pulse = gr.Timer(PULSE)
        self.tabs: gr.Tabs | None = None
        self.views, self.events = list[View](), list[Event]()
        self.soon = gr.Timer(SOON, active=False)  # ticks while something is stale on some tab

    def show(
        self,
        components: Any | Sequence[Any],
        draw: Callable[[Session], Any],
        *parts: Part,
        token: Callable[[Session], Any] | None = None,
        pace: float = 0.0,
        later: bool = False,
    ) -> None:
        """Draw components whenever one of these `parts` of the session changed; without parts, draw once."""
        many = isinstance(components, list | tuple)
        shown = tuple(components) if many else (components,)
        stale = token or (lambda session: (session.born, *(session.serial[part] for part in parts)))
        drawn = draw if many else (lambda session: [draw(session)])
        self.views.append(View(tab_of(shown[0]), shown, stale, drawn, pace, later))

    def on(
        self, trigger: Any, page: str, act: Act, *inputs: Any, mode: str = "once", click: bool = False
    ) -> None:
        """Call `act(session, *values)` on this event; with `click`, the event's data comes last.
        An act that returns a tab's name opens that tab. While an answer is on its way, the mode "once" drops
        all further presses (to start or delete something), "always_last" all but the last, "multiple" none
        (steps)."""
        self.events.append(Event(trigger, page, act, inputs, mode, click))

    def keep(
        self,
        controls: Sequence[Any],
        page: str,
        values: Values,
        enter: Callable[[Session, dict[int, Any]], str | None],
        *,
        draw: Values | None = None,
        parts: Sequence[Part] = (),
    ) -> None:
        """Show the session's `values` in controls on every page of the session.

        Controls that need more than a value are drawn by `draw`. `enter` gets what a person entered, by the
        positions of the controls. A page sends all values, but only those that differ from what it showed
        were entered there: others may be old, or changed elsewhere meanwhile. What a page has sent is not
        drawn there again, because an answer would overwrite the next letter.
        """

        def value_token(session: Session, place: int) -> Any:
            return session.born, values(session)[place], *(session.serial[part] for part in parts)

        for place, control in enumerate(controls):
            drawn = partial(lambda session, place: [(draw or values)(session)[place]], place=place)
            token = partial(value_token, place=place)
            self.views.append(View(tab_of(control), (control,), token, drawn, kept=True))
        triggers = [control.input for control in controls]
        inputs = (self.notice, *controls)  # the notice says which acts the page knew of
        self.events.append(Event(triggers, page, enter, inputs, "always_last", values=values))

    def wire(self, demo: gr.Blocks) -> None:
        """Connect all views and events to Gradio."""
        assert self.tabs is not None
        tabs = self._all
        for event in self.events:
            here = {ABOVE, tab_of(trigger_component(event.trigger))}
            listen = partial(gr.on, event.trigger) if isinstance(event.trigger, list) else event.trigger
            handle = self._clicked(event, here) if event.click else self._acted(event, here)
            self._listen(listen, handle, here, *event.inputs, mode=event.mode)
        self._listen(self.soon.tick, self._looked(), tabs, mode="once")
        self._listen(self.timer.tick, self._looked(), tabs, mode="once")
        self._listen(self.notice.look, self._looked(), tabs)
        for tab in self.tabs.children:
            here = {ABOVE, str(tab.id)}
            self._listen(tab.select, self._visited(here), here, js=REMEMBER % tab.id)
        self.pulse.tick(self._beat, [self.id], None, **self._common)
        demo.load(
            self._attach,
            [self.browser, self.opened, self.seen],
            [*self._outputs(tabs), self.id],
            js=OPENED,
            **self._common,
        ).success(None, js=KNOWN)

    @property
    def _common(self) -> dict[str, Any]:
        return {
            "show_progress": "hidden",
            "show_progress_on": [self.browser],  # else every output gets three progress updates
            "queue": False,  # Gradio's queue may lose or reorder answers
            "api_visibility": "private",
        }

    def _listen(
        self,
        listen: Callable[..., Any],
        handle: Callable[..., list[Any]],
        tabs: Collection[str],
        *inputs: Any,
        mode: str = "always_last",
        js: str | None = None,
    ) -> None:
        listen(
            handle,
            inputs=[self.id, self.seen, *inputs],
            outputs=self._outputs(tabs),
            trigger_mode=mode,
            js=js,
            **self._common,
        )

    def _outputs(self, tabs: Collection[str]) -> list[Any]:
        """Return the components of an answer that draws these tabs, in the order of `refresh`."""
        shown = [component for view in self._views(tabs) for component in view.components]
        return [self.notice, self.timer, self.soon, self.tabs, *shown]

    @property
    def _all(self) -> tuple[str, ...]:
        """All tabs, after the part above them."""
        return (ABOVE, *dict.fromkeys(view.tab for view in self.views if view.tab != ABOVE))

    def _views(self, tabs: Collection[str]) -> list[View]:
        return [view for view in self.views if view.tab in tabs]

    def _gone(self, tabs: Collection[str]) -> list[Any]:
        """Return the answer to an unknown page: it must load again, unless it is just starting."""
        left = [update for view in self._views(tabs) for update in view.left]
        return [notice_of(None), LEAVE_ALONE, LEAVE_ALONE, LEAVE_ALONE, *left]

    def _acted(self, event: Event, tabs: Collection[str]) -> Callable[..., list[Any]]:
        def answer_event(id: str, seen: dict[Any, Any], *values: Any) -> list[Any]:
            return self._do(id, seen, tabs, event, values)

        return answer_event

    def _clicked(self, event: Event, tabs: Collection[str]) -> Callable[..., list[Any]]:
        def answer_click(id: str, seen: dict[Any, Any], e: gr.EventData) -> list[Any]:
            e._data = sanitize_value(e._data) if isinstance(e._data, dict) else {}
            return self._do(id, seen, tabs, event, (e,))

        return answer_click

    def _looked(self) -> Callable[..., list[Any]]:
        def answer_look(id: str, seen: dict[Any, Any]) -> list[Any]:
            return (
                self.refresh(REGISTRY.open(id), seen, self._all, look=True) if id else self._gone(self._all)
            )

        return answer_look

    def _visited(self, tabs: Collection[str]) -> Callable[..., list[Any]]:
        """Return a handler that draws buttons and job lines once more when their tab opens.
        A tab that opens while an answer arrives may have missed them."""

        def answer_visit(id: str, seen: dict[Any, Any]) -> list[Any]:
            if not id:
                return self._gone(tabs)
            seen["open"] = next(tab for tab in tabs if tab != ABOVE)
            for index, view in enumerate(self.views):
                if view.tab in tabs and view.brief:
                    seen.pop(index, None)
            return self.refresh(REGISTRY.open(id), seen, tabs)

        return answer_visit

    def _do(
        self, id: str, seen: dict[Any, Any], tabs: Collection[str], event: Event, values: Sequence[Any]
    ) -> list[Any]:
        if not id:
            return self._gone(tabs)
        session = REGISTRY.open(id)
        tab, refused = None, ""
        with session.drawing:  # the pages of one session act one after another
            before = session.present
            tell_what_happened(seen, session)
            try:
                outdate_note(session, event.page)
                tab = self._act(session, seen, event, [sanitize_value(value) for value in values])
            except Refusal as refusal:
                refused = str(refusal)
                session.say(event.page, refused, "bad")
                session.mark("controls", "plan")
            except BaseException as failure:
                if not is_failure(failure):
                    raise
                session.say(event.page, sentence(failure), "bad")
            session.acts += 1
            session.mark("notes")
            if session.present is not before:
                session.author = seen["page"]
            if refused or not is_fresh(seen):
                set_notice(seen, session, refused, "bad")
            return self.refresh(session, seen, tabs, tab, acted=True)

    def _act(self, session: Session, seen: dict[Any, Any], event: Event, values: Sequence[Any]) -> str | None:
        """Run the act of the event, and return the tab that it opens, or None."""
        if event.values is None:
            return event.act(session, *values)
        places = {view.components[0]: index for index, view in enumerate(self.views) if view.kept}
        heard, sent = values[0], values[1:]
        views = [places[control] for control in event.inputs[1:]]
        shown: list[Shown] = [seen["shown"][view] for view in views]
        entered = {i: now for i, now in enumerate(sent) if shown[i].differs(now, heard)}
        seen["shown"].update(
            {v: old.sent(now, heard) for v, old, now in zip(views, shown, sent, strict=True)}
        )
        try:
            return event.act(session, entered) if entered else None
        finally:
            for view, old, now, held in zip(views, shown, sent, event.values(session), strict=True):
                # A person is about to fill an empty box: drawing it would mix with what they type.
                if (now == held or now is None) and not old.overtook(heard):
                    seen[view] = (self.views[view].token(session), time.monotonic())
                else:  # refused, or changed elsewhere: the control shows the session's value
                    seen.pop(view, None)

    @staticmethod
    def _beat(id: str) -> None:
        REGISTRY.open(id)

    def _attach(self, known: str | None, opened: str, seen: dict[Any, Any], request: gr.Request) -> list[Any]:
        """Find this browser's session again, or open one, and draw everything."""
        session = REGISTRY.open(known, visitor_of(request))
        seen.clear()
        seen |= {"page": secrets.token_hex(8), "shown": {}, "open": self._all[1]}
        tab = opened if opened in self._all[1:] else None
        return [*self.refresh(session, seen, self._all, tab), session.id]

    @staticmethod
    def _drawn_or_left(view: View, session: Session) -> Sequence[Any]:
        """Return the updates of one view.
        A view that fails is logged and left as it is, so that the others still show."""
        try:
            with session.lock:  # a job changes analysis and plan together when it ends
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
        look: bool = False,
    ) -> list[Any]:
        """Return the notice, the timers, the tab to open, and an update for every component of these tabs.
        The update is empty where nothing changed. `later` views wait if a person `acted`. A `look` draws the
        open tab, or another tab if that has nothing new; it sends the timers' states even if they are
        unchanged."""
        with session.drawing:
            seen["open"] = lead or seen["open"]
            lively, now = session.lively, time.monotonic()
            stale = self._stale(session, seen, lively, now)
            behind = {self.views[index].tab for index in stale}
            drawn = self._next(behind, seen["open"]) if look else tabs
            updates: list[Any] = []
            for index, view in enumerate(self.views):
                if index in stale and view.tab in drawn and not (view.later and acted):
                    token = stale.pop(index)
                    seen[index] = (token, now)
                    if view.kept:
                        old = seen["shown"].get(index, Shown(0, None))
                        seen["shown"][index] = old.after(session.acts, token[1])
                    updates += self._drawn_or_left(view, session)
                elif view.tab in tabs:
                    updates += view.left
            tell_what_happened(seen, session)
            told = notice_of(session, seen)
            notice = LEAVE_ALONE if seen.get("notice") == told else told
            seen["notice"] = told
            timer = self._switch(seen, "lively", lively, look)
            soon = self._switch(seen, "soon", bool(stale), look)
        return [notice, timer, soon, LEAVE_ALONE if lead is None else gr.Tabs(selected=lead), *updates]

    def _stale(self, session: Session, seen: dict[Any, Any], lively: bool, now: float) -> dict[int, Any]:
        """Return the tokens of the stale views by their positions, without those whose `pace` still holds."""
        found = {}
        for index, view in enumerate(self.views):
            token = view.token(session)
            old, when = seen.get(index, NEVER)
            if token != old and not (view.pace and lively and now - when < view.pace):
                found[index] = token
        return found

    def _next(self, behind: Collection[str], opened: str) -> set[str]:
        """Return what a look draws: the open tab and the part above it, else the first stale tab."""
        others = [tab for tab in self._all if tab in behind]
        return {ABOVE, opened} if not others or {ABOVE, opened} & set(others) else {others[0]}

    @staticmethod
    def _switch(seen: dict[Any, Any], name: str, on: bool, again: bool) -> Any:
        """Return the update that starts or stops a timer; empty where it is unchanged, unless `again`."""
        before, seen[name] = seen.get(name), on
        return LEAVE_ALONE if on == before and not again else gr.Timer(active=on)
