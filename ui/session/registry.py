"""Find the session of a browser by its id.

All sessions share one worker and one set of models.
"""

from __future__ import annotations

import re
import secrets
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable

from slimllm.core.errors import Refusal
from slimllm.core.memory import available_mib
from slimllm.models.loading import Subject
from slimllm.models.sources import current_fingerprint
from ui.jobs.visitors import NOBODY, Visitor, giving_way
from ui.jobs.worker import Worker
from ui.session.loaded import Loaded
from ui.session.session import Session
from ui.session.settings import AUTOMATIC, SessionSettings

IDLE_SECONDS = 3600.0
# The same for a session in which nothing was loaded yet.
EMPTY_SECONDS = 900.0
# The same for a session whose memory others need.
CROWDED_SECONDS = 60.0
MOST_SESSIONS = 96
# The number of removed sessions that are remembered, to tell their browsers when they come back.
MOST_TOLD = 4_096
# The number of locks for making sessions.
# A session that reads a long history delays only those with the same lock.
STRIPES = 16


class Models:
    """The models in memory, each (source, device, dtype) once.

    A model stays as long as a session uses it. It is loaded again if its files have changed.
    """

    def __init__(self) -> None:
        self._known: weakref.WeakValueDictionary[tuple[str, str, str], Loaded] = weakref.WeakValueDictionary()
        self._lock = threading.Lock()

    def take(self, source: str, device: str, dtype: str, make: Callable[[bool], Loaded]) -> Loaded:
        """Return the model in memory, or load it with `make`.

        `make` gets True if a model is in memory already and its files have changed. Errors of `make` pass
        through.
        """
        with self._lock:
            found = self._known.get((source, device, dtype))
            if found is None or has_changed(found.subject):
                found = self._known[source, device, dtype] = make(found is not None)
            return found


def has_changed(subject: Subject) -> bool:
    """Return whether the files of a local model differ from those that it was loaded from."""
    now = current_fingerprint(subject.source)
    return now is not None and now.exact != subject.fingerprint.exact


class Registry:
    """The sessions by id, with one worker and one set of models for all.

    A session is removed after `idle` seconds without a request, or after EMPTY_SECONDS if nothing was loaded
    in it. It may also be removed when there are `most` sessions and another one opens, or when memory is
    short (`Limits.free_mib`). A busy session stays. New sessions have the settings of the registry, and so
    has the queue.
    """

    def __init__(
        self, idle: float = IDLE_SECONDS, most: int = MOST_SESSIONS, settings: SessionSettings = AUTOMATIC
    ):
        self.idle, self.most = idle, most
        self.worker, self.models = Worker(), Models()
        self.settings = settings
        self._sessions: dict[str, Session] = {}
        self._visitors: dict[str, Visitor] = {}
        # The sentence for each removed session by id, told when its browser comes back.
        self._gone: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()
        self._stripes = [threading.Lock() for _ in range(STRIPES)]

    @property
    def settings(self) -> SessionSettings:
        """How sessions that are made from now on open models, and what visitors may ask for."""
        return self._settings

    @settings.setter
    def settings(self, settings: SessionSettings) -> None:
        self._settings, self.worker.bounds = settings, settings.limits.jobs

    def open(self, id: str | None, visitor: Visitor = NOBODY) -> Session:
        """Return the session of this id, or a new one if there is none.

        An invalid id is replaced by a new one. If there are too many sessions, one is removed: the one that
        was idle for longest, among those of the visitor who has most idle ones. Raise `Refusal` if all are
        busy.
        """
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
            session = Session(id, self.settings, visitor)
            with self._lock:
                self._sessions[id], self._visitors[id] = session, visitor
                said = self._gone.pop(id, "")
            if said:
                session.say("load", said)
            return session

    def _sweep(self) -> None:
        """Remove and close the sessions that were idle for too long."""
        limits, now = self.settings.limits, time.monotonic()
        idle = min(self.idle, limits.idle_seconds)
        if limits.free_mib and available_mib() < limits.free_mib:
            idle = min(idle, CROWDED_SECONDS)
        short = min(idle, EMPTY_SECONDS)
        with self._lock:
            alone = [
                self._forget(id)
                for id, session in list(self._sessions.items())
                if not session.busy and now - session.touched > (idle if session.used else short)
            ]
        for session in alone:
            session.close()

    def _make_room(self) -> None:
        """Remove and close one idle session if there are too many.

        Raise `Refusal` if all are busy.
        """
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
        """Remove a session and return it.

        If something was lost with it, a sentence is kept for the browser in case that comes back. The caller
        must hold the lock and close the session.
        """
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
        """Return the number of sessions."""
        return len(self._sessions)


REGISTRY = Registry()
