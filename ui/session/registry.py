"""Finds the session of a browser again by its id; one worker and one set of models for all."""

from __future__ import annotations

import re
import secrets
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable

from slimllm.core.errors import Refusal
from slimllm.models.loading import Subject
from slimllm.models.sources import current_fingerprint
from ui.jobs.visitors import NOBODY, Visitor, giving_way
from ui.jobs.worker import Worker
from ui.session.loaded import Loaded
from ui.session.session import Session
from ui.session.settings import AUTOMATIC, SessionSettings

IDLE_SECONDS = 3600.0
EMPTY_SECONDS = 900.0  # the same for a session in which nothing was loaded yet
MOST_SESSIONS = 96
MOST_TOLD = 4_096  # sessions of which is known that they were let go
STRIPES = 16  # locks for making sessions: one that reads a long history holds up few others


class Models:
    """The models in memory: each (source, device, dtype) once, for as long as some session uses it and its
    files stay as they are."""

    def __init__(self) -> None:
        self._known: weakref.WeakValueDictionary[tuple[str, str, str], Loaded] = weakref.WeakValueDictionary()
        self._lock = threading.Lock()

    def take(self, source: str, device: str, dtype: str, make: Callable[[bool], Loaded]) -> Loaded:
        """The model that is there, else the one that `make` loads: `again` where its files have changed."""
        with self._lock:
            found = self._known.get((source, device, dtype))
            if found is None or has_changed(found.subject):
                found = self._known[source, device, dtype] = make(found is not None)
            return found


def has_changed(subject: Subject) -> bool:
    """Whether the files of a local model are others than those that it was loaded from."""
    now = current_fingerprint(subject.source)
    return now is not None and now.exact != subject.fingerprint.exact


class Registry:
    """Sessions by id, forgotten after an hour without a sign of life, and when there are too many; one worker
    and one set of models for all. New sessions follow the registry's settings."""

    def __init__(
        self, idle: float = IDLE_SECONDS, most: int = MOST_SESSIONS, settings: SessionSettings = AUTOMATIC
    ):
        self.idle, self.most, self.settings = idle, most, settings
        self.worker, self.models = Worker(), Models()
        self._sessions: dict[str, Session] = {}
        self._visitors: dict[str, Visitor] = {}
        self._gone: OrderedDict[str, str] = OrderedDict()  # id → what is told to whom comes back
        self._lock = threading.Lock()
        self._stripes = [threading.Lock() for _ in range(STRIPES)]

    def open(self, id: str | None, visitor: Visitor = NOBODY) -> Session:
        """The session of this id; a new one where there is none, under a new id if this is not a proper one.
        Where there are too many, the one that was left alone longest gives way, of the visitor who has most;
        a `Refusal` where none can."""
        if not (isinstance(id, str) and re.fullmatch(r"[\w-]{16,64}", id)):
            id = secrets.token_urlsafe(24)
        with self._stripes[hash(id) % STRIPES]:
            self._sweep()
            with self._lock:
                session = self._sessions.get(id)
                if session is not None:
                    session.touched = time.monotonic()
                    return session
            self._make_room()
            session = Session(id, self.settings)
            with self._lock:
                self._sessions[id], self._visitors[id] = session, visitor
                said = self._gone.pop(id, "")
            if said:
                session.say("load", said)
            return session

    def _sweep(self) -> None:
        """Lets go of sessions that were left alone for long."""
        now, short = time.monotonic(), min(self.idle, EMPTY_SECONDS)
        with self._lock:
            alone = [
                self._forget(id)
                for id, session in list(self._sessions.items())
                if not session.busy and now - session.touched > (self.idle if session.used else short)
            ]
        for session in alone:
            session.close()

    def _make_room(self) -> None:
        """Lets go of one session where there are too many."""
        with self._lock:
            if len(self._sessions) < self.most:
                return
            idle = [
                (id, self._visitors.get(id, NOBODY), session.touched)
                for id, session in self._sessions.items()
                if not session.busy
            ]
            id = giving_way(idle)
            if id is None:
                raise Refusal("The server is busy with the jobs of others; try again once some are done.")
            session = self._forget(id)
        session.close()

    def _forget(self, id: str) -> Session:
        session = self._sessions.pop(id)
        self._visitors.pop(id, None)
        if session.used:
            minutes = (time.monotonic() - session.touched) / 60
            self._gone[id] = (
                f"This page was left alone for {minutes:.0f} minutes, so its model and plan were let go to "
                "make room; load the model again. Your runs are on History."
            )
            while len(self._gone) > MOST_TOLD:
                self._gone.popitem(last=False)
        return session

    def __len__(self) -> int:
        return len(self._sessions)


REGISTRY = Registry()
