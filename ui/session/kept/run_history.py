"""Hold the finished comparisons of one session: keep, choose, change, delete and bring back runs.

No Gradio.
"""

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
from ui.session.kept.run_store import RunStore
from ui.session.loaded import Loaded

# Stands for the plan of the Tune tab in place of a run's number.
PRESENT = 0


class Archive:
    """The runs of one browser, oldest first, each also on disk.

    `damaged` holds the files that cannot be read, and `changed` is called after every change. `chosen` is the
    number of the run that the page shows. `against` says which plan it is compared with: the number of a run,
    PRESENT, or None for the run that it started from.
    """

    def __init__(self, owner: str, changed: Callable[[], None]):
        self.store, self.changed, self.lock = RunStore(owner), changed, threading.RLock()
        self.runs, self.damaged = self.store.runs()
        self.chosen: int | None = self.runs[-1].number if self.runs else None
        self.against: int | None = None

    def find(self, number: int | None) -> Run | None:
        """Return the run of this number, or None if there is none."""
        return next((run for run in self.runs if run.number == number), None)

    @property
    def chosen_run(self) -> Run | None:
        """The run that the page shows, or None."""
        return self.find(self.chosen)

    def add(self, run: Run) -> None:
        """Add a new run, choose it, and write it to disk; raise `Unwritten` if writing fails."""
        with self.lock:
            self.runs = [*self.runs, run]
            self.choose(run.number)
        self.store.put(run)

    def choose(self, number: int | None) -> None:
        """Choose the run that the page shows, or none, and compare it with the one that it started from."""
        with self.lock:
            self.chosen, self.against = number, None
            self.changed()

    def amend(self, number: int | None, **changes: Any) -> None:
        """Change some fields of a run in memory and on disk; do nothing if the run is deleted.

        Raise `Unwritten` if writing fails.
        """
        with self.lock:
            old = self.find(number)
            if old is None:
                return
            run = dataclasses.replace(old, **changes)
            self.runs = [run if one is old else one for one in self.runs]
            self.changed()
            self.store.put(run)

    def delete(self, number: int | None) -> None:
        """Delete a run so that it can be brought back; if it was chosen, choose its neighbour.

        Raise `Refusal` if it is deleted already, or `Unwritten` if the disk does not permit it.
        """
        with self.lock:
            run = self.find(number)
            if run is None:
                raise Refusal("This run is deleted already; choose another one.")
            self.store.delete(run.number)
            place = self.runs.index(run)
            self.runs = [one for one in self.runs if one is not run]
            if self.chosen == run.number:
                self.chosen = self.runs[min(place, len(self.runs) - 1)].number if self.runs else None
            if self.against == run.number:
                self.against = None
            self.changed()

    def bring_back(self, number: int) -> None:
        """Bring back a deleted run and choose it; raise `Refusal` if its file is gone or damaged."""
        with self.lock:
            run = self.store.bring_back(number)
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
    """Return a run with all that must be known after a restart, when analysis and models are gone.

    A fine-tuned run copies these facts from the run that it started from, its `parent`. For any other run,
    they come from its analysis, the loaded model, the answers and its best model.
    """
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
    """Return (prompt, {column name: answer}) of the answers that the Compare tab shows."""
    return tuple((answer.prompt, dict(answer.texts)) for answer in answers)
