"""A bad connection: a proxy before a running app that delays answers, lets one overtake another, and breaks
connections off – before the request arrives, after it was carried out, or in the middle of its answer."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

EVENTS = re.compile(rb"^\w+ \S*/gradio_api/(run/|queue/join|queue/data)")


@dataclass
class Weather:
    """How bad it is: the share of requests that each mishap hits, and delays in seconds; and what has
    happened."""

    unheard: float = 0.0
    unanswered: float = 0.0
    torn: float = 0.0
    usual: float = 0.1
    long: float = 2.0
    often_long: float = 0.1
    random: random.Random = field(default_factory=lambda: random.Random(0))
    happened: Counter[str] = field(default_factory=Counter)
    coming: list[str] = field(default_factory=list)

    def change(self, **shares: float) -> None:
        """From now on these mishaps have these shares."""
        for name, share in shares.items():
            setattr(self, name, share)
        self.coming.clear()

    def fate(self) -> str:
        """What becomes of the next request: of every twenty, each mishap has its share."""
        if not self.coming:
            for name in ("unheard", "unanswered", "torn"):
                self.coming += [name] * round(20 * getattr(self, name))
            self.coming += ["answered"] * (20 - len(self.coming))
            self.random.shuffle(self.coming)
        found = self.coming.pop()
        self.happened[found] += 1
        return found

    def delay(self) -> float:
        """Seconds that the next piece of an answer takes."""
        slow = self.random.random() < self.often_long
        return self.random.uniform(0, self.long if slow else self.usual)


class Proxy:
    """One request for each connection; only the page's events meet the weather."""

    def __init__(self, address: str, weather: Weather):
        parts = urlsplit(address)
        self.host, self.port, self.weather = parts.hostname, parts.port, weather

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
            body = await reader.readexactly(int(length[1])) if length else b""
            event = EVENTS.match(head) is not None
            fate = self.weather.fate() if event else "answered"
            if fate != "unheard":
                await self.pass_on(head, body, writer, event, fate)
        writer.close()

    async def pass_on(
        self, head: bytes, body: bytes, writer: asyncio.StreamWriter, event: bool, fate: str
    ) -> None:
        """Asks the app, and sends its answer on as far as fate will have it."""
        there, back = await asyncio.open_connection(self.host, self.port)
        try:
            head = re.sub(rb"(?i)\r\nconnection: [^\r]*", b"", head)
            back.write(head[:-2] + b"Connection: close\r\n\r\n" + body)
            await back.drain()
            while part := await there.read(65_536):
                if fate == "unanswered":
                    continue
                if event:
                    await asyncio.sleep(self.weather.delay())
                writer.write(part[: len(part) // 2] if fate == "torn" else part)
                await writer.drain()
                if fate == "torn":
                    return
        finally:
            back.close()


@contextlib.contextmanager
def bad_connection(address: str, weather: Weather) -> Iterator[str]:
    """The address of the same app behind this weather."""
    loop, proxy = asyncio.new_event_loop(), Proxy(address, weather)
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def begin() -> asyncio.Server:
        return await asyncio.start_server(proxy.serve, "127.0.0.1", 0, limit=2**20)

    async def end() -> None:
        server.close()
        going = asyncio.all_tasks() - {asyncio.current_task()}
        for task in going:
            task.cancel()
        await asyncio.gather(*going, return_exceptions=True)

    server = asyncio.run_coroutine_threadsafe(begin(), loop).result(10)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    finally:
        asyncio.run_coroutine_threadsafe(end(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()
