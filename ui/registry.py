"""Finds the session of a browser again by its id; one worker and one set of models for all."""

from __future__ import annotations

import re
import secrets
import threading
import time
import weakref
from collections.abc import Callable

from ui.jobs import Worker
from ui.session import Loaded, Session

IDLE_SECONDS = 3600.0


class Models:
    """The models in memory: each (source, device, dtype) once, for as long as some session uses it."""

    def __init__(self) -> None:
        self._known: weakref.WeakValueDictionary[tuple[str, str, str], Loaded] = weakref.WeakValueDictionary()
        self._lock = threading.Lock()

    def take(self, source: str, device: str, dtype: str, make: Callable[[], Loaded]) -> Loaded:
        """The model that is there, else the one that `make` loads."""
        with self._lock:
            found = self._known.get((source, device, dtype))
            if found is None:
                found = self._known[source, device, dtype] = make()
            return found


class Registry:
    """Sessions by id, forgotten after an hour without a sign of life; one worker and one set of models for
    all."""

    def __init__(self, idle: float = IDLE_SECONDS):
        self.idle, self.worker, self.models = idle, Worker(), Models()
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()

    def open(self, id: str | None) -> Session:
        """The session of this id; a new one where there is none, under a new id if this is not a proper
        one."""
        with self._lock:
            self._sweep()
            if not (isinstance(id, str) and re.fullmatch(r"[\w-]{16,64}", id)):
                id = secrets.token_urlsafe(24)
            session = self._sessions.get(id)
            if session is None:
                session = self._sessions[id] = Session(id)
            session.touched = time.monotonic()
            return session

    def _sweep(self) -> None:
        now = time.monotonic()
        for id, session in list(self._sessions.items()):
            if now - session.touched > self.idle and not session.busy:
                self._sessions.pop(id).close()

    def __len__(self) -> int:
        return len(self._sessions)


REGISTRY = Registry()
