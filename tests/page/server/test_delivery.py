"""Every event of a page is carried out once, whatever becomes of its requests and their answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from ui.server.delivery import KEPT, Delivery

PAGE, OTHER = "a" * 32, "b" * 32


class App:
    """An app that counts what it carries out, and answers each with its own number."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.go = asyncio.Event()
        self.go.set()
        self.fails = False

    async def __call__(self, _: Any, receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        body = (await receive())["body"]
        await self.go.wait()
        if self.fails:
            raise RuntimeError("broken")
        self.heard.append(body)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"answer %d" % len(self.heard)})


async def ask(
    app: Delivery, event: str | None, body: bytes = b"x", cookie: str = "", cut: str = ""
) -> tuple[int, bytes, bool]:
    """(status, body, whether the answer is marked as the program's own). `cut`: where the connection breaks,
    in the middle of the 'request' or of the 'answer'."""
    headers = [(b"cookie", cookie.encode())]
    if event is not None:
        headers.append((b"x-slimllm-event", event.encode()))
    scope = {"type": "http", "method": "POST", "path": "/gradio_api/run/predict", "headers": headers}
    parts = [
        {"type": "http.request", "body": body, "more_body": cut == "request"},
        {"type": "http.disconnect"},
    ]
    sent: list[Any] = []

    async def receive() -> Any:
        return parts.pop(0)

    async def send(message: Any) -> None:
        if cut == "answer":
            raise ConnectionError
        sent.append(message)

    try:
        await app(scope, receive, send)
    except ConnectionError:
        assert cut
    if not sent:
        return 0, b"", False
    marked = b"x-slimllm-answer" in dict(sent[0]["headers"])
    return sent[0]["status"], b"".join(part.get("body", b"") for part in sent[1:]), marked


def run(test: Callable[[App, Delivery], Any]) -> None:
    async def inside() -> None:
        app = App()
        await test(app, Delivery(app))

    asyncio.run(inside())


def test_an_event_that_is_sent_again_is_answered_again_and_not_carried_out() -> None:
    async def test(app: App, way: Delivery) -> None:
        assert await ask(way, f"{PAGE} 1") == (200, b"answer 1", True)
        assert await ask(way, f"{PAGE} 1") == (200, b"answer 1", True)
        assert await ask(way, f"{PAGE} 2") == (200, b"answer 2", True)
        assert await ask(way, f"{OTHER} 1") == (200, b"answer 3", True)
        assert len(app.heard) == 3

    run(test)


def test_an_answer_that_was_lost_is_had_by_asking_again() -> None:
    async def test(_: App, way: Delivery) -> None:
        assert await ask(way, f"{PAGE} 1", cut="answer") == (0, b"", False)
        assert await ask(way, f"{PAGE} 1") == (200, b"answer 1", True)

    run(test)


def test_a_request_that_was_torn_is_not_carried_out_until_it_is_whole() -> None:
    async def test(app: App, way: Delivery) -> None:
        assert await ask(way, f"{PAGE} 1", b"ha", cut="request") == (0, b"", False)
        assert app.heard == []
        assert await ask(way, f"{PAGE} 1", b"half") == (200, b"answer 1", True)
        assert app.heard == [b"half"]

    run(test)


def test_an_event_that_comes_again_while_it_is_carried_out_waits_for_its_answer() -> None:
    async def test(app: App, way: Delivery) -> None:
        app.go.clear()
        first, again = (asyncio.ensure_future(ask(way, f"{PAGE} 1")) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()  # its connection is gone; the work goes on
        await asyncio.sleep(0)
        app.go.set()
        assert await again == (200, b"answer 1", True)
        assert len(app.heard) == 1

    run(test)


def test_an_event_that_comes_late_is_not_carried_out_after_its_followers() -> None:
    async def test(app: App, way: Delivery) -> None:
        for number in (1, 2):
            await ask(way, f"{PAGE} {number}")
        assert (await ask(way, f"{PAGE} 1"))[0] == 409
        assert len(app.heard) == 2

    run(test)


def test_what_broke_is_carried_out_when_it_is_sent_again() -> None:
    async def test(app: App, way: Delivery) -> None:
        app.fails = True
        with pytest.raises(RuntimeError):
            await ask(way, f"{PAGE} 1")
        app.fails = False
        assert await ask(way, f"{PAGE} 1") == (200, b"answer 1", True)

    run(test)


def test_answers_are_told_to_nobody_else_and_not_for_ever() -> None:
    async def test(app: App, _: Delivery) -> None:
        now = 0.0
        way = Delivery(app, clock=lambda: now)
        assert (await ask(way, f"{PAGE} 1", cookie="mine"))[1] == b"answer 1"
        assert (await ask(way, f"{PAGE} 1", cookie="another"))[1] == b"answer 2"
        now = KEPT + 1
        await ask(way, f"{OTHER} 1")
        assert len(way.latest) == 1

    run(test)


@pytest.mark.parametrize("event", [None, "", "1", PAGE, f"{PAGE} 0", f"{PAGE} -1", f"{PAGE} x", "é 1"])
def test_what_is_not_numbered_properly_is_passed_on_as_it_is(event: str | None) -> None:
    async def test(_: App, way: Delivery) -> None:
        for number in (1, 2):
            assert await ask(way, event) == (200, b"answer %d" % number, False)

    run(test)
