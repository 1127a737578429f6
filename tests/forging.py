"""What somebody sends who is not the page: events with payloads of their own, to a running app."""

from __future__ import annotations

import json
import secrets
import urllib.request
from typing import Any

from ui.registry import REGISTRY
from ui.session import Session


class Forger:
    """A stranger with a session in a running app of this process."""

    def __init__(self, address: str):
        self.address, self.hash, self.id = address, secrets.token_hex(8), f"forger-{secrets.token_hex(16)}"
        self.config = json.load(urllib.request.urlopen(f"{address}config", timeout=20))
        self.names = {each["id"]: each["props"].get("elem_id", "") for each in self.config["components"]}
        (attach,) = (each for each in self.events if ("", "load") in self.triggers(each))
        self.send(attach, [self.id, None])

    @property
    def session(self) -> Session:
        return REGISTRY.open(self.id)

    @property
    def events(self) -> list[dict[str, Any]]:
        """All events of the page; those of programs have no trigger."""
        return [each for each in self.config["dependencies"] if each["targets"]]

    def triggers(self, event: dict[str, Any]) -> list[tuple[str, str]]:
        """(the element's id, the event's name) of all that raises an event."""
        return [(self.names.get(target, ""), name) for target, name in event["targets"]]

    def inputs(self, event: dict[str, Any]) -> int:
        """How many values an event brings, besides the session and what it has seen."""
        return len(event["inputs"]) - 2

    def raise_event(self, element: str, name: str, *values: Any, data: Any = None) -> str:
        """What the page says to an event with these values, or with this data."""
        (event,) = (each for each in self.events if (element, name) in self.triggers(each))
        return self.say(event, list(values), data)

    def say(self, event: dict[str, Any], values: list[Any], data: Any = None) -> str:
        """What the page says to an event: an error, a note, or why the job that it began failed."""
        session = self.session
        session.notes.clear()
        before = session.job
        answer = self.send(event, [None, None, *values], data)
        if session.job is not None and session.job is not before:
            assert session.job.finished.wait(60)
            return session.job.error
        bad = [words for kind, words in session.notes.values() if kind == "bad"]
        return (answer["output"].get("error") or "") if not answer["success"] else "".join(bad)

    def send(self, event: dict[str, Any], values: list[Any], data: Any = None) -> dict[str, Any]:
        """The app's message that an event is over; an empty one where it breaks off."""
        body = {"fn_index": event["id"], "data": values, "event_data": data, "session_hash": self.hash}
        headers = {"Content-Type": "application/json"}
        join = urllib.request.Request(
            f"{self.address}gradio_api/queue/join", json.dumps(body).encode(), headers
        )
        number = json.load(urllib.request.urlopen(join, timeout=20))["event_id"]
        stream = f"{self.address}gradio_api/queue/data?session_hash={self.hash}"
        with urllib.request.urlopen(stream, timeout=60) as lines:
            for line in lines:
                said = json.loads(line[5:]) if line.startswith(b"data:") else {}
                if said.get("event_id") == number and said["msg"] == "process_completed":
                    return said
        return {"success": False, "output": {}}
