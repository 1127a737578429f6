"""Bound what a shared server takes on: jobs of one visitor, jobs that wait, seconds of one job. No Gradio."""

from __future__ import annotations

import math
from dataclasses import dataclass

from slimllm.core.errors import Refusal

# How every refusal of a shared server ends.
AT_HOME = "a local install has no such limit"


@dataclass(frozen=True)
class JobBounds:
    """The most jobs of one visitor, the most jobs that wait, and the most seconds that a job may take."""

    each: float = math.inf
    waiting: float = math.inf
    seconds: float = math.inf

    def check_new(self, own: int, waiting: int) -> None:
        """Raise `Refusal` for one more job of a visitor who has `own`, while `waiting` jobs wait."""
        if own >= self.each:
            raise Refusal(
                f"You have {count_jobs(own)} on this server already, and a visitor may have "
                f"{self.each:.0f} at a time; wait until it is done or stop it ({AT_HOME})."
            )
        if waiting >= self.waiting:
            raise Refusal(
                f"The server is busy: {count_jobs(waiting)} wait already, and no more than "
                f"{self.waiting:.0f} may; try again in a minute ({AT_HOME})."
            )

    def check_time(self, title: str, elapsed: float) -> None:
        """Raise `Refusal` for a job that takes too long."""
        if elapsed > self.seconds:
            raise Refusal(
                f"{title} was stopped: a job on this server may take {self.seconds / 60:g} minutes; ask for "
                f"less at once ({AT_HOME})."
            )


def count_jobs(count: int) -> str:
    """Return a number of jobs in words."""
    return "1 job" if count == 1 else f"{count} jobs"


UNBOUNDED = JobBounds()
