"""Long jobs: one worker thread drives generators of `Progress`, one job after the other; pages only look.

A job belongs to its session, not to a browser event, so a page reload does not end it. No Gradio in here.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from slimllm.core.errors import Refusal, Stopped, without_tokens
from slimllm.core.failures import sentence_of
from slimllm.core.memory import give_back
from slimllm.core.types import NOTE, Progress
from slimllm.pruning.stopping import left_by

State = Literal["queued", "running", "done", "stopped", "failed"]
Steps = Generator[Progress, None, Any]
Result = TypeVar("Result")

log = logging.getLogger(__name__)


def retold(
    steps: Generator[Progress, None, Result], tell: Callable[[Progress], Progress]
) -> Generator[Progress, None, Result]:
    """The same steps in other words, with the same result; they end together with whoever takes them."""
    with contextlib.closing(steps):
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                return end.value
            yield tell(step)


@dataclass(eq=False)
class Job:
    """One long piece of work and the latest that is known of it.

    `start(job)` makes the generator; `on_progress` sees every step and `on_done` the result, both in the
    worker thread.
    """

    kind: str
    title: str
    start: Callable[[Job], Steps]
    on_progress: Callable[[Progress], None] = lambda _: None
    on_done: Callable[[Any], None] = lambda _: None
    state: State = "queued"
    progress: Progress | None = None
    error: str = ""
    began: float = 0.0
    ended: float = 0.0
    stage_began: float = 0.0
    stage_from: int = 0
    stopping: threading.Event = field(default_factory=threading.Event)
    finished: threading.Event = field(default_factory=threading.Event)
    left: str = "nothing was changed"  # what a stop leaves
    told: list[str] = field(default_factory=list)  # what is to be known once it is done
    spare: bool = False  # runs only while nobody else wants the worker, and starts anew where it gave way

    @property
    def active(self) -> bool:
        return self.state in ("queued", "running")

    @property
    def elapsed(self) -> float:
        """Seconds since the work began; 0 while it waits."""
        return (self.ended or time.monotonic()) - self.began if self.began else 0.0

    @property
    def remaining(self) -> float | None:
        """Seconds that this stage still takes at its present pace; None before there is one."""
        if self.progress is None or self.state != "running" or self.progress.done <= self.stage_from:
            return None
        pace = (time.monotonic() - self.stage_began) / (self.progress.done - self.stage_from)
        return max(0.0, pace * (self.progress.total - self.progress.done))

    @property
    def leaves(self) -> str:
        """What a stop left, with what became of a training that it ended."""
        return "; ".join(said for said in (self.left, left_by(self.progress)) if said)

    def say(self, words: str, stage: str = "") -> None:
        """Shows words where the work has no countable steps."""
        self.note(Progress(stage or self.kind, 0, 0, words))

    def heed(self, words: str) -> None:
        """Shows words in the middle of work that cannot be taken step by step, and ends it there once the job
        is to stop."""
        if self.stopping.is_set():
            raise Stopped("Stopped.")
        self.say(words)

    def note(self, progress: Progress) -> None:
        """Keeps a step as the latest; a new stage restarts its clock. A note is kept for the end, too."""
        if progress.stage.endswith(NOTE) and progress.words not in self.told:
            self.told.append(progress.words)
        if self.progress is None or progress.stage != self.progress.stage:
            self.stage_began, self.stage_from = time.monotonic(), max(0, progress.done - 1)
        self.progress = progress


def sentence(failure: BaseException) -> str:
    """What went wrong, in one sentence; what nobody foresaw is logged with its traceback."""
    if isinstance(failure, Refusal):
        return str(failure)
    log.error("A job failed\n%s", without_tokens("".join(traceback.format_exception(failure))))
    return sentence_of(failure)


class Worker:
    """A single thread that runs jobs in the order in which they came, spare ones after all others."""

    def __init__(self) -> None:
        self._waiting: deque[Job] = deque()
        self._spare: deque[Job] = deque()
        self._running: Job | None = None
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None

    def submit(self, job: Job) -> Job:
        with self._wake:
            (self._spare if job.spare else self._waiting).append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="slimllm-worker", daemon=True)
                self._thread.start()
            self._wake.notify()
        return job

    def place(self, job: Job) -> int:
        """How many jobs come before this one; 0 once it runs."""
        with self._wake:
            queue = [*self._waiting, *self._spare]
            if job not in queue:
                return 0
            return queue.index(job) + (self._running is not None)

    def cancel(self, job: Job) -> None:
        """Stops a job: at once while it waits, after its present step while it runs."""
        job.stopping.set()
        with self._wake:
            for queue in (self._waiting, self._spare):
                if job in queue:
                    queue.remove(job)
                    self._end(job, "stopped")

    def stop_all(self, patience: float) -> None:
        """Stops every job and waits so many seconds for the one that runs."""
        with self._wake:
            running, waiting = self._running, [*self._waiting, *self._spare]
        for job in waiting:
            self.cancel(job)
        if running is not None:
            self.cancel(running)
            running.finished.wait(patience)

    def _work(self) -> None:
        while True:
            with self._wake:
                while not self._waiting and not self._spare:
                    self._wake.wait()
                job = self._running = (self._waiting or self._spare).popleft()
                job.began, job.state = time.monotonic(), "running"
            try:
                state = self._drive(job)
                if state == "queued":
                    self._put_back(job)
                else:
                    self._end(job, state)
            except Stopped:
                self._end(job, "stopped")
            except BaseException as failure:
                job.error = sentence(failure)
                self._end(job, "failed")
            finally:
                with self._wake:
                    self._running = None
                del job  # a finished job must not keep its model alive until the next one comes
                give_back()

    def _drive(self, job: Job) -> State:
        """Runs the generator to its end, or closes it between two steps: once the job is to stop, and once
        another waits if this is a spare one."""
        steps = job.start(job)
        try:
            while not job.stopping.is_set():
                if job.spare and self._waiting:
                    return "queued"
                try:
                    progress = next(steps)
                except StopIteration as end:
                    job.on_done(end.value)
                    return "done"
                job.note(progress)
                job.on_progress(progress)
        finally:
            steps.close()
        return "stopped"

    def _put_back(self, job: Job) -> None:
        """Lets a spare job wait again, before the others of its kind."""
        with self._wake:
            job.began, job.state, job.progress = 0.0, "queued", None
            self._spare.appendleft(job)

    @staticmethod
    def _end(job: Job, state: State) -> None:
        job.ended, job.state = time.monotonic(), state
        job.start = job.on_done = lambda _: (_ for _ in ())  # type: ignore[assignment]
        job.finished.set()
