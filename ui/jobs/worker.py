"""Run long jobs: one worker thread runs generators of `Progress`, one job after another; pages only look.

A job belongs to its session, not to a browser event, so a page reload does not end it. No Gradio in here.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from slimllm.core.errors import Refusal, Stopped, without_tokens
from slimllm.core.failures import sentence_of
from slimllm.core.memory import give_back
from slimllm.core.types import NOTE, Progress
from slimllm.pruning.stopping import left_by
from ui.jobs.bounds import UNBOUNDED, JobBounds
from ui.jobs.visitors import NOBODY, Visitor

State = Literal["queued", "running", "done", "stopped", "failed"]
Steps = Generator[Progress, None, Any]
Result = TypeVar("Result")

log = logging.getLogger(__name__)


def retold(
    steps: Generator[Progress, None, Result], tell: Callable[[Progress], Progress]
) -> Generator[Progress, None, Result]:
    """Yield each step of `steps` as `tell` changes it, and return the same result.

    Closing this generator closes `steps`.
    """
    with contextlib.closing(steps):
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                return end.value
            yield tell(step)


@contextlib.contextmanager
def undo_unless_done(undo: Callable[[], None]) -> Iterator[None]:
    """Call `undo` if the work inside fails or is stopped."""
    try:
        yield
    except BaseException:
        undo()
        raise


@dataclass(eq=False)
class Job:
    """One long piece of work and its latest state.

    `start(job)` makes the generator. `on_progress` gets every step and `on_done` the result, both in the
    worker thread. `left` says what a stop leaves behind, and `told` collects notes to show once the job is
    done. A `spare` job runs only while no other job waits, and starts again from the beginning after it was
    interrupted. `owner` is the visitor who asked for it.
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
    left: str = "nothing was changed"
    told: list[str] = field(default_factory=list)
    spare: bool = False
    owner: Visitor = NOBODY

    @property
    def active(self) -> bool:
        """Whether the job waits or runs."""
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
        """What a stop left behind, with the state of a training that it ended."""
        return "; ".join(said for said in (self.left, left_by(self.progress)) if said)

    def say(self, words: str, stage: str = "") -> None:
        """Show words where the work has no countable steps."""
        self.note(Progress(stage or self.kind, 0, 0, words))

    def say_unless_stopped(self, words: str) -> None:
        """Show words in the middle of work that has no steps.

        Raise `Stopped` where the job is to stop.
        """
        if self.stopping.is_set():
            raise Stopped("Stopped.")
        self.say(words)

    def note(self, progress: Progress) -> None:
        """Store a step as the latest one; a new stage restarts the stage's clock.

        The words of a step whose stage ends with NOTE are also shown at the end of the job.
        """
        if progress.stage.endswith(NOTE) and progress.words not in self.told:
            self.told.append(progress.words)
        if self.progress is None or progress.stage != self.progress.stage:
            self.stage_began, self.stage_from = time.monotonic(), max(0, progress.done - 1)
        self.progress = progress


def sentence(failure: BaseException) -> str:
    """Return what went wrong in one sentence; an error that is no `Refusal` is logged with its traceback."""
    if isinstance(failure, Refusal):
        return str(failure)
    log.error("A job failed\n%s", without_tokens("".join(traceback.format_exception(failure))))
    return sentence_of(failure)


class Worker:
    """A single thread that runs jobs in the order of their arrival, spare jobs after all others.

    `bounds` holds for jobs that are submitted from then on; spare jobs give way anyway.
    """

    def __init__(self, bounds: JobBounds = UNBOUNDED) -> None:
        self.bounds = bounds
        self._waiting: deque[Job] = deque()
        self._spare: deque[Job] = deque()
        self._running: Job | None = None
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None

    def submit(self, job: Job) -> Job:
        """Queue a job, start the thread if needed, and return the job.

        Raise `Refusal` if its owner has too many jobs, or if too many wait.
        """
        with self._wake:
            if not job.spare:
                active = [*self._waiting, *([self._running] if self._running else [])]
                own = sum(other.owner == job.owner and other.active and not other.spare for other in active)
                self.bounds.check_new(own, len(self._waiting))
            (self._spare if job.spare else self._waiting).append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="slimllm-worker", daemon=True)
                self._thread.start()
            self._wake.notify()
        return job

    def place(self, job: Job) -> int:
        """Return how many jobs come before this one; 0 once it runs or has ended."""
        with self._wake:
            queue = [*self._waiting, *self._spare]
            if job not in queue:
                return 0
            return queue.index(job) + (self._running is not None)

    def cancel(self, job: Job) -> None:
        """Stop a job: at once while it waits, after its present step while it runs."""
        job.stopping.set()
        with self._wake:
            for queue in (self._waiting, self._spare):
                if job in queue:
                    queue.remove(job)
                    self._end(job, "stopped")

    def stop_all(self, patience: float) -> None:
        """Stop every job, and wait up to `patience` seconds for the running one."""
        with self._wake:
            running, waiting = self._running, [*self._waiting, *self._spare]
        for job in waiting:
            self.cancel(job)
        if running is not None:
            self.cancel(running)
            running.finished.wait(patience)

    def _work(self) -> None:
        """Run the jobs of the queues forever."""
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
                # The variable would keep the model of a finished job alive until the next job arrives.
                del job
                give_back()

    def _drive(self, job: Job) -> State:
        """Run the generator to its end, or close it between two steps, and return the job's new state.

        The generator is closed once the job is to stop, and, for a spare job, once another job waits.
        """
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
                self.bounds.check_time(job.title, job.elapsed)
        finally:
            steps.close()
        return "stopped"

    def _put_back(self, job: Job) -> None:
        """Put a spare job back into its queue, before the other spare jobs."""
        with self._wake:
            job.began, job.state, job.progress = 0.0, "queued", None
            self._spare.appendleft(job)

    @staticmethod
    def _end(job: Job, state: State) -> None:
        """Set the final state of a job and release what its callbacks hold."""
        job.ended, job.state = time.monotonic(), state
        job.start = job.on_done = lambda _: (_ for _ in ())  # type: ignore[assignment]
        job.finished.set()
