"""The statuses of what every answer goes through."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.responses import HTMLResponse, JSONResponse, Response

from ui.server.responses import Safe


async def send_through(answer: Response) -> list[Any]:
    """The messages that a client gets of an answer."""
    sent: list[Any] = []

    async def keep(message: Any) -> None:
        sent.append(message)

    async def nothing() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    await Safe(answer)({"type": "http", "path": "/"}, nothing, keep)
    return sent


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (JSONResponse({"error": "No run is chosen.", "visible": True}, 500), 422),
        (JSONResponse({"error": None}, 500), 500),
        (JSONResponse(["error"], 500), 500),
        (Response(b"", 500, media_type="application/json"), 500),
        (HTMLResponse("<p>It failed.</p>", 500), 500),
        (JSONResponse({"error": "x"}, 404), 404),
        (JSONResponse({"data": []}, 200), 200),
    ],
)
def test_a_refusal_is_no_failure_of_the_server(answer: Response, status: int) -> None:
    start, body = asyncio.run(send_through(answer))
    assert start["status"] == status
    assert body["body"] == answer.body
    assert (b"x-frame-options", b"DENY") in start["headers"]
