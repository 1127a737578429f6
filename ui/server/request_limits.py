"""Limit what one request may bring, counted as it arrives: its declared length may be wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictInt, ValidationError
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.formparsers import MultiPartException

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

# Most bytes of an upload, and of any other request.
MOST_UPLOADED, MOST_SAID = 20_000_000, 8_000_000
# Most bytes of a request without a login.
MOST_BEFORE_LOGIN = 4_096
# Most files of one upload.
MOST_FILES = 10
# Most headers of a request, and most bytes of all together.
MOST_HEADERS, LONGEST_HEADERS = 100, 32_768
# Most seconds until the next part of a request, and until its end.
PATIENCE, LONGEST_REQUEST = 30.0, 900.0
# Most levels of nested lists and objects.
DEEPEST = 40
# Names of pages and events, as Gradio makes them.
NAME = r"^[\w-]{1,64}$"


class Turned(MultiPartException):
    """A request that is turned away, with a status, a sentence and headers.

    It is a `MultiPartException` because Gradio's upload reader deletes its files only after such an
    exception. In the names of headers, `_` stands for `-`.
    """

    def __init__(self, status: int, words: str, **headers: str):
        """Store the status, the sentence and the headers."""
        super().__init__(words)
        self.status, self.headers = status, {name.replace("_", "-"): value for name, value in headers.items()}


TOO_LONG = "The request is too long; send less at once."


@dataclass(frozen=True)
class SizeLimit:
    """The most bytes of a request, and what is said about more."""

    most: int
    words: str = TOO_LONG


UPLOAD, SAID = SizeLimit(MOST_UPLOADED), SizeLimit(MOST_SAID)
BEFORE_LOGIN = SizeLimit(MOST_BEFORE_LOGIN)


class Counted:
    """Receive a request's body and count its bytes and seconds.

    `taste` is called with every part of the body, and may raise `Turned`. A
    `Turned` of this class or of `taste` is also stored in `turned`.
    """

    def __init__(self, receive: Receive, limit: SizeLimit, taste: Callable[[bytes], None] = lambda _: None):
        self.receive, self.limit, self.taste = receive, limit, taste
        self.count = 0
        self.turned: Turned | None = None
        self.whole = False
        self.until = asyncio.get_running_loop().time() + LONGEST_REQUEST

    async def __call__(self) -> Message:
        """Return the next message of the request.

        Raise `Turned` once a limit is passed, the connection breaks, or the next part takes too long.
        """
        if self.whole:
            # Wait for the end of the connection.
            return await self.receive()
        try:
            return await self.next()
        except Turned as turned:
            self.turned = turned
            raise

    async def next(self) -> Message:
        """Return the next message of the body, counted."""
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
        if self.count > self.limit.most:
            raise Turned(413, self.limit.words)
        if body:
            self.taste(body)
        return message

    async def all(self) -> bytes:
        """Return the whole body."""
        parts = []
        while not self.whole:
            parts.append((await self()).get("body", b""))
        return b"".join(parts)


def replay_body(body: bytes, receive: Receive) -> Receive:
    """Return a receiver that gives a body that was read already, then the messages after it."""
    told: list[bool] = []

    async def receive_again() -> Message:
        if told:
            return await receive()
        told.append(True)
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again


class Parts:
    """Check an upload as it passes: it must consist of files, and not of too many.

    Gradio would collect anything but files in memory.
    """

    def __init__(self, kind: str):
        """Start a parser for a body of content type `kind`.

        Raise `Turned` where that is no upload.
        """
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
        """Check a part of the body.

        Raise `Turned` where the upload cannot be read, has too many files, or has a part that is no file.
        """
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
    """The fields of an event that Gradio uses without a check."""

    model_config = ConfigDict(extra="allow")

    session_hash: Annotated[str, Field(pattern=NAME)] | None = None
    event_id: Annotated[str, Field(pattern=NAME)] | None = None
    fn_index: StrictInt | None = None
    trigger_id: StrictInt | None = None


def parse_request(body: bytes) -> Asked:
    """Return the content of a JSON request.

    Raise `Turned` where it is no valid request.
    """
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
    """Return whether lists and objects are nested more than `most` levels deep."""
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
