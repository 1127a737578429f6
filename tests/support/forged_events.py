"""Send events with made-up payloads to a running app, as somebody who is not the page might do."""

from __future__ import annotations

import json
import secrets
import urllib.error
import urllib.request
from typing import Any

from ui.session.registry import REGISTRY
from ui.session.session import Session


class Forger:
    """A stranger with a session in an app that runs in this process."""

    def __init__(self, address: str):
        self.address, self.hash, self.id = address, secrets.token_hex(8), f"forger-{secrets.token_hex(16)}"
        self.config = json.load(urllib.request.urlopen(f"{address}config", timeout=20))
        self.names = {each["id"]: each["props"].get("elem_id", "") for each in self.config["components"]}
        (attach,) = (each for each in self.events if ("", "load") in self.triggers(each))
        self.send(attach, [self.id, "", None])

    @property
    def session(self) -> Session:
        """The session of the stranger."""
        return REGISTRY.open(self.id)

    @property
    def events(self) -> list[dict[str, Any]]:
        """All events of the page; the events for programs have no trigger and are left out."""
        return [each for each in self.config["dependencies"] if each["targets"]]

    def triggers(self, event: dict[str, Any]) -> list[tuple[str, str]]:
        """Return (id of the element, name of the event) of everything that raises an event."""
        return [(self.names.get(target, ""), name) for target, name in event["targets"]]

    def inputs(self, event: dict[str, Any]) -> int:
        """Return the number of values of an event, without those that every event has."""
        return len(event["inputs"]) - len(self.head(event))

    def head(self, event: dict[str, Any]) -> list[Any]:
        """Return the inputs that come before the values of an event.

        They are the session, what it has seen, and, for a form, the number of acts that its page knows.
        """
        form = [self.names.get(each, "") for each in event["inputs"]][2:3] == ["notice"]
        return [None, None, *([{"acts": self.session.acts}] if form else [])]

    def raise_event(self, element: str, name: str, *values: Any, data: Any = None) -> str:
        """Raise the event of an element, and return what the page says to it (see `say`)."""
        (event,) = (each for each in self.events if (element, name) in self.triggers(each))
        return self.say(event, list(values), data)

    def say(self, event: dict[str, Any], values: list[Any], data: Any = None) -> str:
        """Send an event, and return the error, the complaint or the reason why its job failed.

        Return an empty string if there is none. A job must end within 60 seconds.
        """
        session = self.session
        session.notes.clear()
        before = session.job
        answer = self.send(event, [*self.head(event), *values], data)
        if session.job is not None and session.job is not before:
            assert session.job.finished.wait(60)
            return session.job.error
        bad = [words for kind, words in session.notes.values() if kind == "bad"]
        return (answer["output"].get("error") or "") if not answer["success"] else "".join(bad)

    def send(self, event: dict[str, Any], values: list[Any], data: Any = None) -> dict[str, Any]:
        """Send an event, and return {"success": whether the app accepted it, "output": its answer}."""
        body = {"fn_index": event["id"], "data": values, "event_data": data, "session_hash": self.hash}
        headers = {"Content-Type": "application/json"}
        ask = urllib.request.Request(
            f"{self.address}gradio_api/run/predict", json.dumps(body).encode(), headers
        )
        try:
            with urllib.request.urlopen(ask, timeout=60) as answer:
                return {"success": True, "output": json.load(answer)}
        except urllib.error.HTTPError as refused:
            return {"success": False, "output": json.load(refused)}
