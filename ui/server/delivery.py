"""Every event of a page is carried out once, however often it is sent, and its answer can be asked for again.

A connection may break before a request arrives, while it is carried out, or before its answer is back; the
page cannot tell which. It numbers its events, has one under way at a time, and sends one again until it is
answered (`assets/scripts/delivery.js`). Here a number that is known is not carried out again. No Gradio.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.responses import PlainTextResponse

from ui.server.access import App, Message, Receive, Scope, Send, headers_of

EVENT = "x-slimllm-event"  # "page number", both as the page chose them
ANSWER = (b"x-slimllm-answer", b"1")  # marks an answer of this program, not of a proxy before it
PROPER = re.compile(r"([0-9a-f]{32}) ([1-9][0-9]{0,14})")
KEPT = 60.0  # seconds for which an answer can be asked for again
MOST_ANSWERS = 1000  # answers that are kept at once


@dataclass(frozen=True)
class Delivered:
    """The latest event of one page and its answer, which may still be under way."""

    number: int
    when: float
    answer: asyncio.Future[list[Message]]


class Delivery:
    """The middleware."""

    def __init__(self, app: App, clock: Callable[[], float] = time.monotonic):
        self.app, self.clock = app, clock
        self.latest: dict[tuple[str, str], Delivered] = {}  # by page and cookie, the oldest first

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = headers_of(scope) if scope["type"] == "http" else {}
        found = PROPER.fullmatch(headers.get(EVENT, ""))
        if found is None:
            await self.app(scope, receive, send)
            return
        key, number = (found[1], headers.get("cookie", "")), int(found[2])
        known = self.latest.get(key)
        if known is not None and number < known.number:
            await PlainTextResponse("This event has been answered.", status_code=409)(scope, receive, send)
            return
        if known is None or number > known.number:
            body = await whole_body(receive)
            if body is None:  # broken off before it was here; it will be sent again
                return
            # again: the same event may have come by another connection while the body was read
            known = self.latest.get(key)
            if known is None or number > known.number:
                known = self._carry_out(key, number, scope, body)
        for message in await asyncio.shield(known.answer):
            await send(message)

    def _carry_out(self, key: tuple[str, str], number: int, scope: Scope, body: bytes) -> Delivered:
        """Lets the app answer, to its end even if the connection breaks meanwhile."""
        self._forget()
        task = asyncio.ensure_future(answer_of(self.app, scope, body))
        known = Delivered(number, self.clock(), task)
        self.latest.pop(key, None)
        self.latest[key] = known

        def failed(done: asyncio.Future[list[Message]]) -> None:
            if (done.cancelled() or done.exception()) and self.latest.get(key) is known:
                del self.latest[key]

        task.add_done_callback(failed)
        return known

    def _forget(self) -> None:
        """Lets go of what nobody will ask for any more."""
        old = self.clock() - KEPT
        for key, each in list(self.latest.items()):
            if each.when > old and len(self.latest) < MOST_ANSWERS:
                return
            del self.latest[key]


async def whole_body(receive: Receive) -> bytes | None:
    """The body of a request; None where it was broken off."""
    parts = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


async def answer_of(app: App, scope: Scope, body: bytes) -> list[Message]:
    """The messages of an app's whole answer to a request with this body, marked as its own."""
    heard: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
    answer: list[Message] = []

    async def receive() -> Message:
        if heard:
            return heard.pop()
        return (
            await asyncio.get_running_loop().create_future()
        )  # whoever waits here waits for the end of the connection

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), ANSWER]}
        answer.append(message)

    await app(scope, receive, send)
    return answer
