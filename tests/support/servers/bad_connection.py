"""Simulate a bad connection with a proxy in front of a running app.

It delays answers, lets one overtake another, and breaks connections: before the request arrives, after it was
carried out, or in the middle of its answer.
"""

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
    """How bad the connection is, and what has happened so far.

    `unheard`, `unanswered` and `torn` are the shares of requests that meet each mishap. A delay is up to
    `usual` seconds, or up to `long` seconds in a share `often_long` of cases. `happened` counts the mishaps,
    and `coming` holds the next ones.
    """

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
        """Set the shares of these mishaps for all requests from now on."""
        for name, share in shares.items():
            setattr(self, name, share)
        self.coming.clear()

    def fate(self) -> str:
        """Return what happens to the next request.

        Every twenty requests, each mishap happens as often as its share says.
        """
        if not self.coming:
            for name in ("unheard", "unanswered", "torn"):
                self.coming += [name] * round(20 * getattr(self, name))
            self.coming += ["answered"] * (20 - len(self.coming))
            self.random.shuffle(self.coming)
        found = self.coming.pop()
        self.happened[found] += 1
        return found

    def delay(self) -> float:
        """Return a random delay, in seconds, of the next part of an answer."""
        slow = self.random.random() < self.often_long
        return self.random.uniform(0, self.long if slow else self.usual)


class Proxy:
    """A proxy with one request for each connection; only events of the page meet mishaps."""

    def __init__(self, address: str, weather: Weather):
        parts = urlsplit(address)
        self.host, self.port, self.weather = parts.hostname, parts.port, weather

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read one request, and pass it on unless it is to be unheard."""
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
        """Send a request to the app, and as much of the answer back as `fate` permits."""
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
    """Yield the address of the app at `address` behind a bad connection."""
    loop, proxy = asyncio.new_event_loop(), Proxy(address, weather)
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def begin() -> asyncio.Server:
        """Start the proxy on a free port."""
        return await asyncio.start_server(proxy.serve, "127.0.0.1", 0, limit=2**20)

    async def end() -> None:
        """Close the proxy, and cancel its requests."""
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
