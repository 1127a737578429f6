"""Who may ask, and how much: no page of another site, nobody who has guessed at the password too often, no
endless requests. No Gradio."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from starlette.responses import PlainTextResponse

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

WRONG_EACH, WRONG_ALL = 5, 50  # wrong passwords from one address, and from all, until nobody may try
MOST_UPLOADED, MOST_SAID = 60_000_000, 8_000_000  # bytes of a request that brings a file, and of any other
PAUSE = 900.0  # seconds in which they are counted
TOLD = (
    f"After {WRONG_EACH} wrong passwords nobody can log in from the same place for {PAUSE / 60:.0f} minutes."
)


@dataclass
class Tries:
    """The wrong passwords of late: when and from where. A try counts as wrong until it proves right, so that
    many at once are not more than one after the other."""

    wrong: deque[tuple[float, str]] = field(default_factory=deque)

    def wait(self, place: str, now: float) -> float:
        """Seconds until the next try from a place; 0 where it is allowed."""
        while self.wrong and self.wrong[0][0] <= now - PAUSE:
            self.wrong.popleft()
        mine = [when for when, whose in self.wrong if whose == place]
        full = [
            times[-most]
            for times, most in ((mine, WRONG_EACH), (self.times, WRONG_ALL))
            if len(times) >= most
        ]
        return max(full) + PAUSE - now if full else 0.0

    @property
    def times(self) -> list[float]:
        return [when for when, _ in self.wrong]

    def begin(self, place: str, now: float) -> tuple[float, str]:
        """Counts a try as wrong."""
        self.wrong.append((now, place))
        return self.wrong[-1]

    def right(self, place: str) -> None:
        """Forgets the tries from a place, whose password was right."""
        self.wrong = deque(each for each in self.wrong if each[1] != place)


class Door:
    """The middleware. `proxied`: whether a proxy's word is taken for the name under which it was asked. Only
    a server for this machine may do so: browsers ask it before they send such a header from another site's
    page, and Gradio says no; on any other server it says yes to everybody."""

    def __init__(self, app: App, proxied: bool = False, clock: Callable[[], float] = time.monotonic):
        self.app, self.proxied, self.clock, self.tries = app, proxied, clock, Tries()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif said := refused(scope["method"], scope["path"].rstrip("/"), headers_of(scope), self.proxied):
            await said(scope, receive, send)
        elif scope["method"] == "POST" and scope["path"].rstrip("/").endswith("/login"):
            await self.log_in(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def log_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets somebody try the password, unless there were too many wrong ones."""
        place, now = (scope.get("client") or ("nowhere", 0))[0], self.clock()
        if wait := self.tries.wait(place, now):
            after = {"Retry-After": f"{wait:.0f}"}
            await PlainTextResponse(TOLD, status_code=429, headers=after)(scope, receive, send)
            return
        self.tries.begin(place, now)

        async def heard(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] < 400:
                self.tries.right(place)
            await send(message)

        await self.app(scope, receive, heard)


def headers_of(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def refused(method: str, path: str, headers: Mapping[str, str], proxied: bool) -> PlainTextResponse | None:
    """The answer to a request that is not let in."""
    if foreign(headers, proxied):
        return PlainTextResponse("This request comes from another site's page.", status_code=403)
    if method in ("GET", "HEAD", "OPTIONS"):
        return None
    length = headers.get("content-length", "")
    if not length.isdecimal():
        return PlainTextResponse("The request does not say how long it is.", status_code=411)
    if int(length) > (MOST_UPLOADED if path.endswith("/upload") else MOST_SAID):
        return PlainTextResponse("The request is too long; send less at once.", status_code=413)
    return None


def foreign(headers: Mapping[str, str], proxied: bool) -> bool:
    """Whether a browser says that another site's page sends this; programs say nothing of the kind."""
    origin = headers.get("origin")
    if origin is not None:
        names = ("host", "x-forwarded-host") if proxied else ("host",)
        ours = {headers.get(name, "").lower() for name in names}
        return urlsplit(origin).netloc.lower() not in ours - {""}
    return headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") != "navigate"
