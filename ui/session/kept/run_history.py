"""The finished comparisons of one session: kept, chosen, noted, deleted and brought back. No Gradio."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from slimllm.core.errors import Refusal
from slimllm.core.types import Analysis
from slimllm.models.loading import Pruned
from ui.facts.command_line import rules_of
from ui.facts.comparison import Answer
from ui.facts.plan_changes import told_change
from ui.facts.run_maps import portrait_of
from ui.facts.runs import Run, best_name
from ui.session.kept.run_store import Shelf
from ui.session.loaded import Loaded

PRESENT = 0  # stands for the plan of the Tune tab, where a run's number is asked for


class Archive:
    """The runs of one browser, oldest first, each also on disk; `chosen` is the number of the one that is
    looked at, `against` what its plan is laid beside: a run's number, PRESENT, or None for what it came
    from."""

    def __init__(self, owner: str, changed: Callable[[], None]):
        self.shelf, self.changed, self.lock = Shelf(owner), changed, threading.RLock()
        self.runs, self.damaged = self.shelf.runs()
        self.chosen: int | None = self.runs[-1].number if self.runs else None
        self.against: int | None = None

    def find(self, number: int | None) -> Run | None:
        """The run of this number, if there is one."""
        return next((run for run in self.runs if run.number == number), None)

    @property
    def chosen_run(self) -> Run | None:
        """The run that is looked at."""
        return self.find(self.chosen)

    def add(self, run: Run) -> None:
        """Takes a new run and chooses it."""
        with self.lock:
            self.runs = [*self.runs, run]
            self.choose(run.number)
        self.shelf.put(run)

    def choose(self, number: int | None) -> None:
        """Makes a run the one that is looked at."""
        with self.lock:
            self.chosen, self.against = number, None
            self.changed()

    def amend(self, number: int | None, **changes: Any) -> None:
        """Changes what is kept of a run, unless it has been deleted."""
        with self.lock:
            old = self.find(number)
            if old is None:
                return
            run = dataclasses.replace(old, **changes)
            self.runs = [run if one is old else one for one in self.runs]
            self.changed()
            self.shelf.put(run)

    def delete(self, number: int | None) -> None:
        """Lays a run aside; its neighbour is chosen."""
        with self.lock:
            run = self.find(number)
            if run is None:
                raise Refusal("This run is deleted already; choose another one.")
            self.shelf.delete(run.number)
            place = self.runs.index(run)
            self.runs = [one for one in self.runs if one is not run]
            if self.chosen == run.number:
                self.chosen = self.runs[min(place, len(self.runs) - 1)].number if self.runs else None
            if self.against == run.number:
                self.against = None
            self.changed()

    def bring_back(self, number: int) -> None:
        """Takes a deleted run back and chooses it."""
        with self.lock:
            run = self.shelf.bring_back(number)
            self.runs = sorted([*self.runs, run], key=lambda one: one.number)
            self.choose(run.number)


def complete_run(
    run: Run,
    models: Mapping[str, Pruned],
    *,
    parent: Run | None,
    analysis: Analysis | None,
    loaded: Loaded | None,
    answers: Sequence[Answer],
) -> Run:
    """A new run with all that is to be known of it after a restart, when its analysis and its models are
    gone; what is tuned only takes over what is known of the run it came from."""
    if run.tunings and parent:
        known = {
            name: getattr(parent, name)
            for name in ("rules", "dtype", "as_source", "answers", "portrait", "found")
        }
        return dataclasses.replace(run, **known)
    best = models.get(best_name(models))
    return dataclasses.replace(
        run,
        told=told_change(parent.plan, run.plan) if parent else "",
        rules=rules_of(analysis, run.plan) if analysis else "",
        dtype=loaded.dtype if loaded else "",
        as_source=bool(loaded and loaded.subject.files),
        answers=answer_texts(answers),
        portrait=portrait_of(analysis, run.plan, best.layers) if analysis and best else None,
    )


def answer_texts(answers: Sequence[Answer]) -> tuple[tuple[str, dict[str, str]], ...]:
    """The prompts and answers that the Compare tab shows."""
    return tuple((answer.prompt, dict(answer.texts)) for answer in answers)
