"""Add headers to every answer, and answer requests on which Gradio fails. No Gradio."""

from __future__ import annotations

import json
import logging
import secrets
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ui.look.theme import NONCE, SCRIPTS

log = logging.getLogger(__name__)

NOTICE = (SCRIPTS / "address.js").read_text(encoding="utf-8")
# A script tag of Gradio's page, after the script with its configuration.
FIRST = "<script data-gradio-mode>"
POLICY = {
    "default-src": "'self'",
    # Gradio compiles the page's scripts with `Function`.
    "script-src": "'self' 'unsafe-eval' {scripts}",
    "style-src": "'self' 'unsafe-inline'",
    "img-src": "'self' data: blob:",
    "font-src": "'self' data:",
    "connect-src": "'self' data: blob:",
    "worker-src": "'self' blob:",
    "object-src": "'none'",
    "base-uri": "'self'",
    "form-action": "'self'",
    "frame-ancestors": "{frames}",
}
PLAIN_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
CROWDED = "The server cannot do this at the moment; try again later."
STRANGE = "The request cannot be understood; reload the page."


def protective_headers(nonce: str = "", frames: Sequence[str] = ()) -> dict[str, str]:
    """Return the headers that keep other pages and scripts away.

    `nonce` permits our own scripts. `frames` are the sites that may show the page in a frame.
    """
    known = {"scripts": f"'nonce-{nonce}'" if nonce else "", "frames": " ".join(frames) or "'none'"}
    rules = (f"{name} {value.format(**known)}".strip() for name, value in POLICY.items())
    headers = {**PLAIN_HEADERS, "Content-Security-Policy": "; ".join(rules)}
    # The older header cannot name a site.
    return {name: value for name, value in headers.items() if not (frames and name == "X-Frame-Options")}


class Safe:
    """The middleware inside Gradio's own.

    Every answer gets the protective headers, and pages get their nonce. A request that ends in an exception
    gets a refusal, and the log gets one line. `frames` are the sites that may show the page in a frame.
    """

    def __init__(self, app: ASGIApp, frames: Sequence[str] = ()):
        self.app, self.frames = app, frames

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request through the app, with the protective headers."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answer = CheckedAnswer(send, self.frames)
        try:
            await self.app(scope, receive, answer)
        except Exception as failure:
            last = traceback.extract_tb(failure.__traceback__)[-1]
            where = f"{Path(last.filename).name}:{last.lineno}"
            log.warning("%s: a request ended in %s at %s", scope["path"][:80], type(failure).__name__, where)
            # A stream that has begun can only end.
            if answer.begun:
                await answer.end()
                return
            crowded = isinstance(failure, OSError | MemoryError)
            refusal = PlainTextResponse(CROWDED if crowded else STRANGE, 503 if crowded else 400)
            await refusal(scope, receive, answer)


class CheckedAnswer:
    """Send an answer on with its headers.

    A page, or a failure with status 500 in JSON, is held back until it is complete, because its content
    decides what is sent.
    """

    def __init__(self, send: Send, frames: Sequence[str] = ()):
        self.send, self.frames = send, frames
        self.begun = self.ended = False
        self.held: Message | None = None
        self.body = b""

    async def __call__(self, message: Message) -> None:
        """Send a message on, or hold it back until the answer is complete."""
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            kind = headers.get("content-type", "")
            self.begun = True
            if kind.startswith("text/html") or (
                message["status"] == 500 and kind.startswith("application/json")
            ):
                self.held = message
                return
            headers.update(protective_headers(frames=self.frames))
            if kind.startswith("text/event-stream"):
                # Otherwise nginx holds answers back until its buffer is full.
                headers["X-Accel-Buffering"] = "no"
        elif message["type"] == "http.response.body":
            self.ended = not message.get("more_body")
            if self.held is not None:
                self.body += message.get("body", b"")
                if self.ended:
                    page = MutableHeaders(scope=self.held)["content-type"].startswith("text/html")
                    await (self.send_page if page else self.send_failure)(self.held)
                return
        await self.send(message)

    async def send_page(self, start: Message) -> None:
        """Send the page that was held back, with a new nonce in its scripts and its headers."""
        nonce = secrets.token_urlsafe(16)
        body = mark_scripts(self.body.decode("utf-8"), nonce).encode()
        headers = MutableHeaders(scope=start)
        headers.update(protective_headers(nonce, self.frames))
        headers["Cache-Control"] = "no-store"  # the nonce is for one page
        if "content-length" in headers and self.body:
            headers["Content-Length"] = str(len(body))
        await self.send(start)
        await self.send({"type": "http.response.body", "body": body if self.body else b""})

    async def send_failure(self, start: Message) -> None:
        """Send the failure that was held back, with status 422 where it is a refusal with a sentence."""
        if is_refusal(self.body):
            start["status"] = 422
        MutableHeaders(scope=start).update(protective_headers())
        await self.send(start)
        await self.send({"type": "http.response.body", "body": self.body})

    async def end(self) -> None:
        """End an answer that has started."""
        if not self.ended:
            self.held = None
            await self.send({"type": "http.response.body", "body": b""})


def is_refusal(body: bytes) -> bool:
    """Return whether an event's failure has a sentence; Gradio gives none for an exception."""
    try:
        said = json.loads(body)
    except ValueError:
        return False
    return isinstance(said, dict) and isinstance(said.get("error"), str)


def mark_scripts(page: str, nonce: str) -> str:
    """Return a page of Gradio whose scripts carry the nonce.

    Scripts quoted in the page's configuration are escaped and stay without it. A script that checks the
    page's own address comes before Gradio's code. Icon and manifest get relative addresses, because the top
    of the site may belong to another page.
    """
    page = page.replace(FIRST, f'<link rel="icon" href="favicon.ico" /><script>{NOTICE}</script>{FIRST}')
    page = page.replace('href="/manifest.json"', 'href="manifest.json"')
    return page.replace("<script", f'<script nonce="{nonce}"').replace(NONCE, nonce)


def refusal_response(status: int, words: str, headers: Mapping[str, str]) -> Any:
    """Return a one-sentence answer to a request that is turned away.

    The connection ends with it, so that the server does not wait for the rest of the request.
    """
    return PlainTextResponse(words, status, {**protective_headers(), "Connection": "close", **headers})
