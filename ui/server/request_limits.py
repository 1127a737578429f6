"""How much one request may bring, counted as it arrives: what it declares is a promise, not a limit."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictInt, ValidationError
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.formparsers import MultiPartException

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

MOST_UPLOADED, MOST_SAID = 20_000_000, 8_000_000  # bytes of a request that brings a file, and of any other
MOST_BEFORE_LOGIN = 4_096  # bytes of a request of somebody who is not logged in
MOST_FILES = 10  # of one upload
MOST_HEADERS, LONGEST_HEADERS = 100, 32_768  # of a request; their bytes together
PATIENCE, LONGEST_REQUEST = 30.0, 900.0  # seconds until the next part of a request is here, and all of it
DEEPEST = 40  # levels of lists and objects within each other
NAME = r"^[\w-]{1,64}$"  # of a page or an event, as Gradio makes them


class Turned(MultiPartException):
    """A request that is turned away: the status and the sentence. Gradio's reader of uploads clears its files
    away after such an exception only."""

    def __init__(self, status: int, words: str, **headers: str):
        super().__init__(words)
        self.status, self.headers = status, {name.replace("_", "-"): value for name, value in headers.items()}


TOO_LONG = "The request is too long; send less at once."


class Counted:
    """Receives a request's body and counts it: bytes, seconds, parts. Once something is too much it raises a
    `Turned`, which stays in `turned`."""

    def __init__(self, receive: Receive, most: int, taste: Callable[[bytes], None] = lambda _: None):
        self.receive, self.most, self.taste = receive, most, taste
        self.count = 0
        self.turned: Turned | None = None
        self.whole = False
        self.until = asyncio.get_running_loop().time() + LONGEST_REQUEST

    async def __call__(self) -> Message:
        if self.whole:
            return await self.receive()  # waits for the end of the connection
        try:
            return await self.next()
        except Turned as turned:
            self.turned = turned
            raise

    async def next(self) -> Message:
        left = self.until - asyncio.get_running_loop().time()
        try:
            message = await asyncio.wait_for(self.receive(), min(PATIENCE, max(left, 0.0)))
        except TimeoutError:
            raise Turned(408, "The request took too long to arrive; send it again.") from None
        if message["type"] != "http.request":
            raise Turned(400, "The request broke off.")
        body = message.get("body", b"")
        self.count += len(body)
        self.whole = not message.get("more_body")
        if self.count > self.most:
            raise Turned(413, TOO_LONG)
        if body:
            self.taste(body)
        return message

    async def all(self) -> bytes:
        """The whole body."""
        parts = []
        while not self.whole:
            parts.append((await self()).get("body", b""))
        return b"".join(parts)


def replay_body(body: bytes, receive: Receive) -> Receive:
    """Receives a body that has been read already, then what comes after it."""
    told: list[bool] = []

    async def receive_again() -> Message:
        if told:
            return await receive()
        told.append(True)
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again


class Parts:
    """Tastes an upload as it passes: it is files, and not too many. What is no file, Gradio would gather in
    memory."""

    def __init__(self, kind: str):
        name, options = parse_options_header(kind)
        edge = options.get(b"boundary", b"")
        if name != b"multipart/form-data" or not 1 <= len(edge) <= 70:
            raise Turned(400, "This is no upload; send the files as multipart/form-data.")
        self.files, self.header, self.value = 0, b"", b""
        self.named = False
        self.parser = MultipartParser(
            edge,
            {
                "on_part_begin": self.begin,
                "on_header_field": self.field,
                "on_header_value": self.content,
                "on_header_end": self.end,
                "on_headers_finished": self.finish,
            },
        )

    def __call__(self, body: bytes) -> None:
        try:
            self.parser.write(body)
        except MultipartParseError:
            raise Turned(400, "The upload cannot be read; send it again.") from None

    def begin(self) -> None:
        self.files += 1
        self.named = False
        if self.files > MOST_FILES:
            raise Turned(413, f"Too many files; upload up to {MOST_FILES} at once.")

    def field(self, data: bytes, start: int, end: int) -> None:
        self.header += data[start:end]

    def content(self, data: bytes, start: int, end: int) -> None:
        self.value += data[start:end]

    def end(self) -> None:
        if self.header.lower() == b"content-disposition":
            options = parse_options_header(self.value)[1]
            self.named = bool(options.get(b"filename")) and b"name" in options
        self.header = self.value = b""

    def finish(self) -> None:
        if not self.named:
            raise Turned(400, "An upload brings files with a name, and nothing else.")


class Asked(BaseModel):
    """What every event of a page says, as far as Gradio takes it for granted."""

    model_config = ConfigDict(extra="allow")

    session_hash: Annotated[str, Field(pattern=NAME)] | None = None
    event_id: Annotated[str, Field(pattern=NAME)] | None = None
    fn_index: StrictInt | None = None
    trigger_id: StrictInt | None = None


def parse_request(body: bytes) -> Asked:
    """What a request of JSON says; a `Turned` where it cannot be read."""
    try:
        said = json.loads(body.decode("utf-8"))
        if not isinstance(said, dict) or deeper_than(said, DEEPEST):
            raise ValueError("no object of a request")
        return Asked.model_validate(said)
    except ValidationError as failure:
        name = ".".join(map(str, failure.errors()[0]["loc"]))
        raise Turned(422, f"'{name[:40]}' of the request is not what it should be.") from None
    except (ValueError, RecursionError):
        raise Turned(400, "The request cannot be read; send one object of JSON.") from None


def deeper_than(value: Any, most: int) -> bool:
    """Whether lists and objects lie within each other more than so many levels deep."""
    level = [value]
    for _ in range(most):
        level = [
            inner
            for outer in level
            if isinstance(outer, list | dict)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, list | dict)
        ]
        if not level:
            return False
    return True
