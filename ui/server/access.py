"""Decide who may request what, and how much: the outermost layer of the server. No Gradio.

It turns away pages of other sites, anybody who has tried too many wrong passwords, and endless requests.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from starlette.requests import cookie_parser
from starlette.responses import RedirectResponse

from slimllm.core.errors import Refusal
from ui.jobs.visitors import Allowance, Places, Visitor
from ui.server.address import Address
from ui.server.open_paths import API, EVENTS, FREE, GET, PAGES, POST
from ui.server.request_limits import (
    BEFORE_LOGIN,
    LONGEST_HEADERS,
    MOST_HEADERS,
    NAME,
    SAID,
    UPLOAD,
    Asked,
    Counted,
    Parts,
    SizeLimit,
    Turned,
    parse_request,
    replay_body,
)
from ui.server.responses import refusal_response

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# Wrong passwords from one address, and from all, after which further tries must wait.
WRONG_EACH, WRONG_ALL = 5, 50
# Seconds for which a wrong password counts.
PAUSE = 900.0
# Requests of one visitor, and of all, that may be open at once.
MOST_OPEN, MOST_OPEN_ALL = 160, 800
# Events of one page that may wait for their answer.
MOST_PENDING = 64
UPLOADS_EACH, UPLOADS_ALL = 200_000_000, 1_000_000_000  # bytes within an hour
TOLD = (
    f"After {WRONG_EACH} wrong passwords nobody can log in from the same place for {PAUSE / 60:.0f} minutes."
)
BUSY = "Too much is being asked from here at once; close other pages of this program, or wait a moment."


@dataclass
class Tries:
    """The wrong passwords of the last PAUSE seconds, as (time, place).

    A try counts as wrong until it proves right, so that many tries at once count like tries one after
    another.
    """

    wrong: deque[tuple[float, str]] = field(default_factory=deque)

    def wait(self, place: str, now: float) -> float:
        """Return the seconds until the next try from a place, or 0 where one is allowed now."""
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
        """The times of the wrong tries from all places."""
        return [when for when, _ in self.wrong]

    def begin(self, place: str, now: float) -> tuple[float, str]:
        """Count a try as wrong, and return its entry."""
        self.wrong.append((now, place))
        return self.wrong[-1]

    def right(self, place: str) -> None:
        """Remove the tries from a place whose password was right."""
        self.wrong = deque(each for each in self.wrong if each[1] != place)


class Door:
    """The middleware around Gradio and our own layers."""

    def __init__(
        self,
        app: App,
        address: Address,
        clock: Callable[[], float] = time.monotonic,
        upload: SizeLimit = UPLOAD,
    ):
        self.app, self.address, self.clock, self.size = app, address, clock, upload
        self.tries = Tries()
        self.open = Places(MOST_OPEN, MOST_OPEN_ALL, BUSY)
        self.uploads = Allowance(UPLOADS_EACH, UPLOADS_ALL, clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Close a websocket, answer an HTTP request, and pass on anything else.

        A `Turned` becomes an answer of one sentence.
        """
        # The page uses no websockets.
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] != "http":
            await self.app(scope, receive, send)
        else:
            try:
                await self.answer(scope, receive, send)
            except Turned as turned:
                await refusal_response(turned.status, turned.message, turned.headers)(scope, receive, send)

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request and pass it on.

        Raise `Turned` where the request must not pass.
        """
        headers = headers_of(scope)
        self.check_address(headers)
        scope["path"] = path = self.address.inside(scope["path"])
        scope["headers"] = [
            (name, value)
            for name, value in scope["headers"]
            if self.address.telling(name.decode("latin-1"), value.decode("latin-1"))
        ]
        # The page's links are relative to its folder, so its address must end with a slash.
        if self.address.prefix and path == self.address.prefix:
            await RedirectResponse(f"{self.address.public}/", 307)(scope, receive, send)
            return
        place = self.address.place(scope.get("client"), headers)
        scope["client"] = (place, 0)
        account = account_of(scope, headers)
        path = path.rstrip("/") or "/"
        check_method(scope["method"], path, headers, account is not None, self.size)
        visitor = Visitor(account or "", place)
        try:
            with self.open.place(visitor):
                await self.let_in(scope, receive, send, path, headers, visitor)
        except Refusal as refusal:
            raise Turned(429, str(refusal), Retry_After="5") from None

    def check_address(self, headers: dict[str, str]) -> None:
        """Raise `Turned` for a request to an unknown host (400) or from another site's page (403)."""
        if said := self.address.unknown_host(headers):
            raise Turned(400, said)
        if said := self.address.foreign(headers):
            raise Turned(403, said)

    async def let_in(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        path: str,
        headers: dict[str, str],
        visitor: Visitor,
    ) -> None:
        """Pass a checked request on by its kind: a question, a login, an upload or an event."""
        if scope["method"] != "POST":
            await self.show(scope, receive, send, path, visitor)
        elif path == "/login":
            await self.log_in(scope, receive, send, visitor.place)
        elif path == f"{API}/upload":
            await self.upload(scope, receive, send, headers, visitor)
        else:
            body = await Counted(receive, SAID).all()
            self.check_event(scope, path, parse_request(body), visitor)
            await self.app(scope, replay_body(body, receive), send)

    async def show(self, scope: Scope, receive: Receive, send: Send, path: str, visitor: Visitor) -> None:
        """Answer a request that has no body, and note that a page which keeps a heartbeat open is alive.

        Raise `Turned` where a name is malformed or the page belongs to another account.
        """
        states = states_of(scope)
        given = parse_qs(scope.get("query_string", b"").decode("latin-1"), max_num_fields=20)
        names = [*given.get("session_hash", ()), *given.get("upload_id", ())]
        page = PAGES.fullmatch(path)
        names += [match[1] for match in (page, EVENTS.fullmatch(path)) if match]
        if not all(re.fullmatch(NAME, name) for name in names):
            raise Turned(400, "The request names no proper page or event; reload the page.")
        if states is not None:
            check_owner(states, [*given.get("session_hash", ()), *([page[1]] if page else [])], visitor)
        if states is None or page is None:
            await self.app(scope, receive, send)
            return
        states.connect(page[1])
        try:
            await self.app(scope, receive, send)
        finally:
            states.leave(page[1])

    def check_event(self, scope: Scope, path: str, said: Asked, visitor: Visitor) -> None:
        """Raise `Turned` for an unknown event, for another account's page, or for too many events at once."""
        states = states_of(scope)
        if states is None:
            return
        if said.fn_index is not None and said.fn_index not in states.blocks.fns:
            raise Turned(404, "The page has no such event; reload it.")
        if path == f"{API}/queue/join" and (said.session_hash is None or said.fn_index is None):
            raise Turned(422, "The event names no page or no action; reload the page.")
        if said.session_hash is None:
            return
        check_owner(states, [said.session_hash], visitor)
        if len(states.blocks._queue.pending_event_ids_session.get(said.session_hash, ())) >= MOST_PENDING:
            raise Turned(429, BUSY, Retry_After="5")

    async def upload(
        self, scope: Scope, receive: Receive, send: Send, headers: dict[str, str], visitor: Visitor
    ) -> None:
        """Pass an upload on while its files are few and small enough.

        Raise `Turned` once they are not; Gradio's own answer is dropped then.
        """
        parts = Parts(headers.get("content-type", ""))

        def check_start(body: bytes) -> None:
            if not self.uploads.bring(visitor, len(body)):
                raise Turned(429, "Too much was uploaded within an hour; try again later.", Retry_After="600")
            parts(body)

        counted = Counted(receive, self.size, check_start)

        async def pass_on(message: Message) -> None:
            if counted.turned is None:
                await send(message)

        await self.app(scope, counted, pass_on)
        if counted.turned is not None:
            raise counted.turned

    async def log_in(self, scope: Scope, receive: Receive, send: Send, place: str) -> None:
        """Pass a login on.

        Raise `Turned` (429) where there were too many wrong passwords.
        """
        body = await Counted(receive, BEFORE_LOGIN).all()
        now = self.clock()
        if wait := self.tries.wait(place, now):
            raise Turned(429, TOLD, Retry_After=f"{wait:.0f}")
        self.tries.begin(place, now)

        async def watch_answer(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] < 400:
                self.tries.right(place)
            await send(message)

        await self.app(scope, replay_body(body, receive), watch_answer)


def headers_of(scope: Scope) -> dict[str, str]:
    """Return the headers by lower-case name; values of the same name are joined by commas.

    Raise `Turned` where there are too many headers, where they are too long, or where one that must be unique
    appears twice.
    """
    headers: dict[str, str] = {}
    if (
        len(scope["headers"]) > MOST_HEADERS
        or sum(len(name) + len(value) for name, value in scope["headers"]) > LONGEST_HEADERS
    ):
        raise Turned(431, "The request has too many headers, or too long ones.")
    for raw, value in scope["headers"]:
        name = raw.decode("latin-1").lower()
        if name in headers and name in ("host", "origin", "content-length", "content-type"):
            raise Turned(400, f"The request says twice what its {name} is.")
        told = value.decode("latin-1").strip()
        headers[name] = f"{headers[name]}, {told}" if name in headers else told
    return headers


def states_of(scope: Scope) -> Any:
    """Return the states of Gradio's pages (`page_states.PageStates`), or None."""
    return getattr(scope.get("app"), "state_holder", None)


def account_of(scope: Scope, headers: dict[str, str]) -> str | None:
    """Return the account that a request is logged in as.

    It is empty where no login is needed, and None where the request is not logged in.
    """
    app = scope.get("app")
    if app is None or app.auth is None:
        return ""
    cookies = cookie_parser(headers.get("cookie", ""))
    names = (f"access-token-{app.cookie_id}", f"access-token-unsecure-{app.cookie_id}")
    return next((app.tokens[cookies[name]] for name in names if cookies.get(name) in app.tokens), None)


def check_method(
    method: str, path: str, headers: dict[str, str], known: bool, upload: SizeLimit = UPLOAD
) -> None:
    """Raise `Turned` for a request that the page cannot answer.

    These are unknown methods and paths, requests without the login that they need, and bodies that are too
    long by their own header or have no length.
    """
    bare = method in ("GET", "HEAD", "OPTIONS")
    if not bare and method != "POST":
        raise Turned(405, "The page has no use for such a request.", Allow="GET, HEAD, OPTIONS, POST")
    if method != "OPTIONS" and not (GET if bare else POST).fullmatch(path):
        raise Turned(404, "There is nothing at this address.")
    length = headers.get("content-length", "")
    if "transfer-encoding" in headers and length:
        raise Turned(400, "The request says in two ways how long it is.")
    if bare:
        if "transfer-encoding" in headers or length not in ("", "0"):
            raise Turned(400, "A request of this kind brings nothing along.")
        free = method == "OPTIONS" or re.fullmatch(FREE, path) is not None
    else:
        if not (length.isascii() and length.isdecimal() and len(length) < 20):
            raise Turned(411, "The request does not say how long it is.")
        free = path == "/login"
        kind = upload if path == f"{API}/upload" else SAID
        for limit in ([kind] if known else []) + ([BEFORE_LOGIN] if free else []):
            if int(length) > limit.most:
                raise Turned(413, limit.words)
    if not known and not free:
        raise Turned(401, "Log in first: open the page and enter the password.")


def check_owner(states: Any, pages: list[str], visitor: Visitor) -> None:
    """Raise `Turned` (403) for events of pages that another account has opened."""
    if not all(states.take(page, visitor) for page in pages):
        raise Turned(403, "This page is somebody else's; reload yours.")
