"""How events of the page and of programs are carried out: what is wrong with them is told in one sentence,
and nobody's events take the threads that others need."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any
from weakref import WeakValueDictionary

import gradio as gr
from anyio import CapacityLimiter
from gradio.block_function import BlockFunction
from gradio.processing_utils import check_all_files_in_cache

from slimllm.core.errors import Refusal, one_line
from ui.jobs.visitors import Visitor
from ui.page.fast_blocks import Page
from ui.page.page_states import GONE, PageStates

THREADS, THREADS_EACH = 40, 8  # that carry out events, together and for one visitor
EVENTS = 256  # that may be under way; those that only wait hold no thread
STRANGE = "The page sent something that cannot be used; reload it."


class Served(Page):
    """The page as many visitors may ask for it at once."""

    turns: WeakValueDictionary[Visitor, asyncio.Semaphore]

    def create_limiter(self) -> None:
        """The threads of events; pages and files are sent by others."""
        self.limiter = CapacityLimiter(total_tokens=THREADS)
        self.turns = WeakValueDictionary()

    async def preprocess_data(
        self, block_fn: BlockFunction, inputs: list[Any], state: Any, explicit_call: bool = False
    ) -> list[Any]:
        """The values that an event brings; a sentence where they are none that its components know."""
        try:
            return await super().preprocess_data(block_fn, inputs, state, explicit_call)
        except gr.Error as error:
            raise gr.Error(one_line(error.message), print_exception=False) from None
        except Exception:
            raise gr.Error(STRANGE, print_exception=False) from None

    async def call_function(
        self,
        block_fn: BlockFunction | int,
        processed_input: list[Any],
        iterator: Any = None,
        requests: Any = None,
        event_id: str | None = None,
        event_data: gr.EventData | None = None,
        *more: Any,
        **named: Any,
    ) -> dict[str, Any]:
        """Carries out an event in its visitor's turn: more of one visitor than have a thread wait without
        one."""
        request = requests[0] if isinstance(requests, list) else requests
        self.check_known(request)
        check_files(event_data)
        function = self.fns[block_fn] if isinstance(block_fn, int) else block_fn
        if function.fn is None:  # it happens in the browser alone
            raise gr.Error(STRANGE, print_exception=False)
        call = super().call_function
        given = (function, processed_input, iterator, requests, event_id, event_data, *more)
        try:
            if inspect.iscoroutinefunction(function.fn):  # waits by itself
                return await call(*given, **named)
            async with self.turn(visitor_of(request)):
                return await call(*given, **named)
        except Refusal as refusal:
            raise gr.Error(str(refusal), print_exception=False) from None

    def turn(self, visitor: Visitor) -> asyncio.Semaphore:
        """As many turns as a visitor may have at once."""
        turn = self.turns.get(visitor)
        if turn is None:
            turn = self.turns[visitor] = asyncio.Semaphore(THREADS_EACH)
        return turn

    def check_known(self, request: gr.Request | None) -> None:
        """Tells a page whose state was let go that it must be drawn anew."""
        states = getattr(self, "state_holder", None)
        page = request.session_hash if request is not None else None
        if isinstance(states, PageStates) and page in states.gone:
            raise gr.Error(GONE, print_exception=False)


def check_files(event: gr.EventData | None) -> None:
    """Raise one sentence for an event whose data name a file that nobody uploaded; Gradio would raise what
    ends in a traceback."""
    try:
        check_all_files_in_cache(None if event is None else event._data)
    except Exception:
        raise gr.Error(STRANGE, print_exception=False) from None


def visitor_of(request: gr.Request | None) -> Visitor:
    """Who asks, as `access.Door` found out."""
    if request is None:
        return Visitor()
    client = getattr(request, "client", None)
    return Visitor(request.username or "", client.host if client else "")
