"""Run the events of pages and programs: errors become sentences, and visitors share the threads fairly."""

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

# Threads for events, of all visitors together and of one visitor.
THREADS, THREADS_EACH = 40, 8
# Most events that may run or wait at once; waiting events use no thread.
EVENTS = 256
STRANGE = "The page sent something that cannot be used; reload it."


class Served(Page):
    """The page for many visitors at once."""

    turns: WeakValueDictionary[Visitor, asyncio.Semaphore]

    def create_limiter(self) -> None:
        """Create the limiter of the threads for events; pages and files have other threads."""
        self.limiter = CapacityLimiter(total_tokens=THREADS)
        self.turns = WeakValueDictionary()

    async def preprocess_data(
        self, block_fn: BlockFunction, inputs: list[Any], state: Any, explicit_call: bool = False
    ) -> list[Any]:
        """Return the values that an event brings.

        Raise `gr.Error` with one sentence where the components cannot use them.
        """
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
        """Run an event in its visitor's turn, and return Gradio's result.

        A visitor's further events wait without a thread. A `Refusal` becomes a `gr.Error` with its sentence.
        """
        request = requests[0] if isinstance(requests, list) else requests
        self.check_known(request)
        check_files(event_data)
        function = self.fns[block_fn] if isinstance(block_fn, int) else block_fn
        # Without a function, the event belongs to the browser alone.
        if function.fn is None:
            raise gr.Error(STRANGE, print_exception=False)
        call = super().call_function
        given = (function, processed_input, iterator, requests, event_id, event_data, *more)
        try:
            # A coroutine needs no thread.
            if inspect.iscoroutinefunction(function.fn):
                return await call(*given, **named)
            async with self.turn(visitor_of(request)):
                return await call(*given, **named)
        except Refusal as refusal:
            raise gr.Error(str(refusal), print_exception=False) from None

    def turn(self, visitor: Visitor) -> asyncio.Semaphore:
        """Return the semaphore of a visitor, with as many turns as they may have at once."""
        turn = self.turns.get(visitor)
        if turn is None:
            turn = self.turns[visitor] = asyncio.Semaphore(THREADS_EACH)
        return turn

    def check_known(self, request: gr.Request | None) -> None:
        """Raise `gr.Error` where the state of the page was removed, so that the page must be reloaded."""
        states = getattr(self, "state_holder", None)
        page = request.session_hash if request is not None else None
        if isinstance(states, PageStates) and page in states.gone:
            raise gr.Error(GONE, print_exception=False)


def check_files(event: gr.EventData | None) -> None:
    """Raise `gr.Error` for an event whose data name a file that nobody uploaded.

    Gradio itself would raise an error that ends in a traceback.
    """
    try:
        check_all_files_in_cache(None if event is None else event._data)
    except Exception:
        raise gr.Error(STRANGE, print_exception=False) from None


def visitor_of(request: gr.Request | None) -> Visitor:
    """Return the visitor of a request, as `access.Door` determined them."""
    if request is None:
        return Visitor()
    client = getattr(request, "client", None)
    return Visitor(request.username or "", client.host if client else "")
