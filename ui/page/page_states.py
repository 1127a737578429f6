"""Limit the state that Gradio keeps for every open page: less per page, and for a limited number of pages.

Gradio (6.31) copies the configuration of all components for each page, to make links to its state of them,
and removes the copy only after ten thousand other pages: 0.8 MB for every reload.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import gradio as gr
from gradio.state_holder import SessionState, StateHolder

from ui.jobs.visitors import NOBODY, Visitor, giving_way

# Most pages whose state is kept.
MOST_PAGES = 128
# Seconds for which the state of a closed page, or of a silent program, is kept.
LEFT_ALONE = 900.0
# Most pages whose removal is remembered.
MOST_TOLD = 4_096
GONE = (
    "This page was left alone for long, or many others were opened, so the program let go of it. Reload it "
    "to go on; your runs are on History."
)


class PageState(SessionState):
    """The state of one page without the copies of its configuration, which our pages do not use."""

    def __init__(self, blocks: gr.Blocks):
        super().__init__(SimpleNamespace(default_config=blocks.default_config, blocks=()))

    def __setitem__(self, key: int, value: Any) -> None:
        """Store the value of a state, or a component."""
        block = self.blocks_config.blocks.get(key)
        if isinstance(block, gr.State):
            self._state_ttl[key] = (block.time_to_live, datetime.now())
            self.state_data[key] = value
        else:
            self.blocks_config.blocks[key] = value

    def _update_config(self, key: int) -> None: ...

    def _update_value_in_config(self, key: int, value: Any) -> None: ...


class PageStates(StateHolder):
    """The states of all pages by the page's own name (Gradio's session hash)."""

    def __init__(
        self, blocks: gr.Blocks, most: int = MOST_PAGES, clock: Callable[[], float] = time.monotonic
    ):
        super().__init__()
        self.most, self.clock = most, clock
        self.owners: dict[str, Visitor] = {}
        self.used: dict[str, float] = {}
        self.connected: Counter[str] = Counter()  # open connections by page
        self.gone: OrderedDict[str, None] = OrderedDict()
        self.set_blocks(blocks)

    def __getitem__(self, session_id: str) -> SessionState:
        """Return the state of a page; make one where the page is new."""
        if session_id not in self.session_data:
            self.session_data[session_id] = PageState(self.blocks)
            self.used[session_id] = self.clock()
            self.make_room(session_id)
        self.used[session_id] = self.clock()
        return super().__getitem__(session_id)

    def take(self, page: str, visitor: Visitor) -> bool:
        """Note the owner of a page, and return whether the page belongs to the visitor's account."""
        return self.owners.setdefault(page, visitor).account == visitor.account

    def make_room(self, new: str) -> None:
        """Remove pages while there are too many, closed pages first, but never the page `new`."""
        while len(self.session_data) > self.most:
            others = [page for page in self.session_data if page != new]
            closed = [page for page in others if not self.connected[page]]
            rows = [
                (page, self.owners.get(page, NOBODY), self.used.get(page, 0.0)) for page in closed or others
            ]
            if (page := giving_way(rows)) is None:
                return
            self.let_go(page)

    def let_go(self, page: str) -> None:
        """Remove a page and all that Gradio's queue holds for it."""
        self.session_data.pop(page, None)
        self.time_last_used.pop(page, None)
        self.forget(page)
        self.gone[page] = None
        while len(self.gone) > MOST_TOLD:
            self.gone.popitem(last=False)
        queue = self.blocks._queue
        queue.pending_event_ids_session.pop(page, None)
        if page in queue.pending_messages_per_session:
            del queue.pending_messages_per_session[page]

    def forget(self, page: str) -> None:
        """Remove the owner, the last use and the connections of a page."""
        self.owners.pop(page, None)
        self.used.pop(page, None)
        self.connected.pop(page, None)

    def delete_all_expired_state(self) -> None:
        """Remove the pages that were closed some time ago; Gradio calls this every second."""
        now = self.clock()
        for page, used in list(self.used.items()):
            if not self.connected[page] and now - used > LEFT_ALONE:
                self.let_go(page)
        # A page that never sent an event has an owner but no state.
        for page in [page for page in self.owners if page not in self.used]:
            if not self.connected[page]:
                del self.owners[page]

    def connect(self, page: str) -> None:
        """Note that a page is open: it holds a connection only to show that."""
        self.connected[page] += 1

    def leave(self, page: str) -> None:
        """Note that such a connection has ended."""
        self.connected[page] -= 1
        if self.connected[page] <= 0:
            del self.connected[page]
        if page in self.used:
            self.used[page] = self.clock()
