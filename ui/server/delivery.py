"""Run every event of a page once, however often it is sent, and keep its answer for a repeated request.

A connection may break before a request arrives, while it runs, or before its answer is back; the page cannot
tell which. The page numbers its events, has one in progress at a time, and repeats it until it gets the
answer (`assets/scripts/delivery.js`). This middleware does not run a known number again. No Gradio.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.responses import PlainTextResponse

from ui.server.access import App, Message, Receive, Scope, Send, headers_of

# Its value is "page number"; the page chose both.
EVENT = "x-slimllm-event"
# Tells an answer of this program from one of a proxy in front of it.
ANSWER = (b"x-slimllm-answer", b"1")
PROPER = re.compile(r"([0-9a-f]{32}) ([1-9][0-9]{0,14})")
KEPT = 60.0  # seconds for which an answer is kept
MOST_ANSWERS = 1000  # answers kept at once


@dataclass(frozen=True)
class Delivered:
    """The latest event of one page, and its answer, which may still be in progress."""

    number: int
    when: float
    answer: asyncio.Future[list[Message]]


class Delivery:
    """The middleware that runs every numbered event once."""

    def __init__(self, app: App, clock: Callable[[], float] = time.monotonic):
        self.app, self.clock = app, clock
        # By page and cookie, the oldest first.
        self.latest: dict[tuple[str, str], Delivered] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a numbered event, from its stored answer where it is known; pass on any other request.

        An event older than the page's latest one gets status 409.
        """
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
            # The connection broke before the body was complete; the page will send it again.
            if body is None:
                return
            # Look again: the same event may have arrived by another connection while the body was read.
            known = self.latest.get(key)
            if known is None or number > known.number:
                known = self._carry_out(key, number, scope, body)
        for message in await asyncio.shield(known.answer):
            await send(message)

    def _carry_out(self, key: tuple[str, str], number: int, scope: Scope, body: bytes) -> Delivered:
        """Start the app's answer, which runs to its end even if the connection breaks; return its entry."""
        self._forget()
        task = asyncio.ensure_future(answer_of(self.app, scope, body))
        known = Delivered(number, self.clock(), task)
        self.latest.pop(key, None)
        self.latest[key] = known

        def failed(done: asyncio.Future[list[Message]]) -> None:
            """Remove the entry of an answer that failed, so that the event can be sent again."""
            if (done.cancelled() or done.exception()) and self.latest.get(key) is known:
                del self.latest[key]

        task.add_done_callback(failed)
        return known

    def _forget(self) -> None:
        """Remove answers that nobody will request any more, and the oldest ones where there are too many."""
        old = self.clock() - KEPT
        for key, each in list(self.latest.items()):
            if each.when > old and len(self.latest) < MOST_ANSWERS:
                return
            del self.latest[key]


async def whole_body(receive: Receive) -> bytes | None:
    """Return the body of a request, or None where the connection broke."""
    parts = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


async def answer_of(app: App, scope: Scope, body: bytes) -> list[Message]:
    """Return all messages of an app's answer to a request with this body, marked as our own answer."""
    heard: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
    answer: list[Message] = []

    async def receive() -> Message:
        if heard:
            return heard.pop()
        # A future that never ends, because the connection of this answer never does.
        return await asyncio.get_running_loop().create_future()

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), ANSWER]}
        answer.append(message)

    await app(scope, receive, send)
    return answer
