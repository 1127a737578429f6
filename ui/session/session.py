"""Hold what one browser has loaded, analysed, planned and compared.

No Gradio.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from slimllm.core.errors import Refusal
from slimllm.core.types import Analysis, Plan
from slimllm.models.loading import Pruned, Subject
from slimllm.planning.forecast import fill_forecast
from slimllm.planning.locks import Locks
from slimllm.planning.pins import keep_locked
from slimllm.planning.plan_making import check_plan
from ui.facts.comparison import Comparison
from ui.facts.runs import Entry, Run
from ui.jobs.visitors import NOBODY, Visitor
from ui.jobs.worker import Job, Worker
from ui.session.analyses import Analyses, Focus
from ui.session.forms import AnalyseForm, Form
from ui.session.kept import presets
from ui.session.kept.crash_recovery import Diary, page_folder
from ui.session.kept.run_history import Archive, complete_run
from ui.session.limits import Limits
from ui.session.loaded import Loaded
from ui.session.notes import tell_after
from ui.session.parts import Part
from ui.session.plan_history import PlanHistory, PlanStep, same_rules, tell_kept
from ui.session.preview import Preview
from ui.session.results import Results
from ui.session.settings import AUTOMATIC, SessionSettings


class Session:
    """The state of one browser.

    `serial` counts the changes of each part of the page, so that a page can tell what it has not shown yet.
    `visitor` opened the session.
    """

    def __init__(self, id: str, settings: SessionSettings = AUTOMATIC, visitor: Visitor = NOBODY):
        self.id, self.settings, self.visitor = id, settings, visitor
        self.lock = threading.RLock()
        # The pages of this session act, and are drawn, one after the other.
        self.drawing = threading.RLock()
        # How many times a page has acted.
        self.acts = 0
        # The page that made the present plan, or empty if a job did.
        self.author = ""
        self.touched = time.monotonic()
        self.born = time.monotonic_ns()
        self.serial: Counter[Part] = Counter()
        self._swept: Callable[[], object] = lambda: None
        self.loaded: Loaded | None = None
        self.job: Job | None = None
        self.analyses, self.focus = Analyses(), Focus()
        self.history = PlanHistory()
        # The number of the last release of a fader that reached the server.
        self.turn = 0
        # The analysis, the fields of the plan, and the JSON for the faders that was made from both.
        self.bank: tuple[Analysis, tuple[object, ...], str] | None = None
        self.preview = Preview()
        self.presets: dict[str, Plan] = presets.read_presets(id)
        self.results, self.archive = Results(), Archive(id, lambda: self.mark("runs"))
        self.notes: dict[str, tuple[str, str]] = {}
        self.forms: dict[type[Form], Form] = {}
        self.diary = Diary(id)
        if broken_off := self.diary.broken_off():
            self.say("load", broken_off)
        self.tour: int | None = None

    @cached_property
    def folder(self) -> Path:
        """A temporary folder for files.

        It is made at the first use, because it costs a file handle.
        """
        folder, sweep = page_folder()
        # The finalizer also runs when the program exits.
        self._swept = weakref.finalize(self, sweep)
        return folder

    @property
    def used(self) -> bool:
        """Whether something would be lost with this session."""
        return self.loaded is not None or self.job is not None

    def mark(self, *parts: Part) -> None:
        """Count a change of these parts of the page."""
        with self.lock:
            self.serial.update(parts)

    def say(self, page: str, words: str, kind: str = "info") -> None:
        """Show one sentence on a page in place of the last one; empty words remove it."""
        self.notes[page] = (kind, words)
        self.mark("notes")

    # Jobs

    @property
    def limits(self) -> Limits:
        """What the visitor may ask for."""
        return self.settings.limits

    @property
    def busy(self) -> bool:
        """Whether a job of this session waits or runs."""
        return self.job is not None and self.job.active

    @property
    def lively(self) -> bool:
        """Whether a page should look again soon, for the job or for a preview."""
        return self.busy or self.preview.going

    def begin(self, worker: Worker, job: Job) -> Job:
        """Give a job to the worker, and return it.

        Raise `Refusal` if another job of this session is not finished, or if the server is too busy.
        """
        with self.lock:
            if self.job is not None and self.job.active:
                raise Refusal(f"{self.job.title} is still going on; stop it or wait for it first.")
            self.diary.kept(job)
            tell_after(self, job)
            job.owner = self.visitor
            self.job = worker.submit(job)
            self.mark("job")
            return job

    # Model and analysis

    @property
    def subject(self) -> Subject:
        """The loaded model; raise `Refusal` if there is none."""
        if self.loaded is None:
            raise Refusal("No model is loaded yet; load one on the Load tab first.")
        return self.loaded.subject

    def set_loaded(self, loaded: Loaded) -> None:
        """Store a model, and forget everything about another one except the runs."""
        with self.lock:
            if self.loaded is loaded:
                return
            self.loaded = loaded
            self.results.drop_models()
            self.forget_analysis()
            self.mark("subject", "table", "answers")

    def forget_analysis(self) -> None:
        """Forget all analyses and plans, and what was made from them."""
        with self.lock:
            self.analyses, self.focus, self.history = Analyses(), Focus(), PlanHistory()
            self.results.drop_entries()
            self.preview.forget()
            self.mark(
                "layers", "detail", "plan", "controls", "bank", "second", "training", "entries", "preview"
            )

    def set_analysis(self, analysis: Analysis, plan: Plan) -> None:
        """Make an analysis and its first plan the present ones.

        Earlier plans stay, so that undo goes back to them. If the locked layers do not permit the plan, they
        are unlocked.
        """
        with self.lock:
            self.keep_analysis(analysis)
            self.show_analysis(analysis)
            try:
                self.push(plan)
            except Refusal as refusal:
                # The new plan is the result of a long job, so it matters more than the locks.
                self.push(plan, locked=frozenset())
                self.say("tune", f"The locked layers are unlocked. {refusal}")

    def keep_analysis(self, analysis: Analysis) -> None:
        """Remember an analysis, so that its plans can be shown and pruned again."""
        with self.lock:
            self.analyses.remember_analysis(analysis)

    def show_analysis(self, analysis: Analysis) -> None:
        """Make an analysis the present one."""
        with self.lock:
            self.analyses.make_present(analysis)
            self.mark("layers", "detail", "bank", "controls", "second")

    def lay_over(self, second: Analysis | None) -> None:
        """Show a second analysis on the maps, or only the present one if it is None."""
        self.analyses.second = second
        self.mark("second", "layers")

    def suit(self, plan: Plan) -> None:
        """Make the analysis that suits a plan best the present one.

        See `Analyses.find_suitable`, also for the `Refusal` if there is none.
        """
        with self.lock:
            found = self.analyses.find_suitable(plan)
            if found is not self.analysis:
                self.show_analysis(found)
                # The page's menu of methods must show the method of the present analysis.
                if form := AnalyseForm.find_in(self):
                    replace(form, method=found.method).fill_in(self)
                self.mark("preflight")

    @property
    def analysis(self) -> Analysis | None:
        """The present analysis, or None if there is none."""
        return self.analyses.present

    @property
    def known(self) -> Analysis:
        """The present analysis; raise `Refusal` if there is none."""
        if self.analysis is None:
            raise Refusal("The model is not analysed yet; do that on the Analyse tab first.")
        return self.analysis

    # Plans

    @property
    def plan(self) -> Plan:
        """The present plan; raise `Refusal` if there is none."""
        if self.history.present is None:
            raise Refusal("There is no plan yet; analyse the model first.")
        return self.history.present.plan

    @property
    def plans(self) -> list[Plan]:
        """All plans that undo and redo go through."""
        return [step.plan for step in self.history.steps]

    @property
    def cursor(self) -> int:
        """The index of the present plan in `plans`, or −1 if there is none."""
        return self.history.cursor

    @property
    def present(self) -> Plan | None:
        """The present plan, or None if there is none."""
        return self.history.present.plan if self.history.present else None

    @property
    def locked(self) -> frozenset[int]:
        """The indices of the locked layers, whose widths stay until they are unlocked."""
        return self.history.present.locked if self.history.present else frozenset()

    @property
    def locks(self) -> Locks | None:
        """The locked layers with the plan whose widths they keep, or None if no layer is locked."""
        return self.history.present.locks if self.history.present else None

    def lock_layers(self, locked: frozenset[int]) -> None:
        """Lock these layers and no others, as one step of undo."""
        if locked != self.locked:
            self.push(self.plan, locked=locked)

    def push(self, plan: Plan, gesture: str = "", locked: frozenset[int] | None = None) -> None:
        """Make a plan the present one, with the present locked layers or with those in `locked`.

        Steps of the same gesture in quick succession are one step of undo. Without `locked`, the locked
        layers keep their widths; raise `Refusal` if the plan does not permit that.
        """
        with self.lock:
            if locked is None:
                locked = self.locked
                plan = keep_locked(self.known, plan, self.locks) if locked else plan
            self.author = self.author if plan == self.present else ""
            self.history.push_step(PlanStep(plan, locked), gesture)
            self.mark("plan", "locks")

    def take_plan(self, plan: Plan) -> str:
        """Make a plan from a file or a run the present one, and compute its figures anew.

        Return a sentence about the locked layers that kept their widths (see `tell_kept`). Raise `Refusal` if
        the plan is for another model, if no analysis suits it, or if it does not permit the locked widths.
        """
        check_plan(plan, self.known.shape)
        self.suit(plan)
        self.push(fill_forecast(self.known, plan))
        self.mark("controls", "bank")
        return tell_kept(plan, self.plan)

    def step(self, by: int) -> None:
        """Go `by` plans forward, or back if it is negative, as far as there are any.

        Raise `Refusal`, and stay, if no remembered analysis suits the plan there.
        """
        with self.lock:
            left = self.present
            if left is not None:
                self.suit(self.plans[self.history.place_after(by)])
                self.history.move_cursor(by)
                self.mark("plan", "locks", *(() if same_rules(left, self.plan) else ("controls", "bank")))

    # Comparisons and runs

    @property
    def comparison(self) -> Comparison | None:
        """The present comparison, or None if there is none."""
        return self.results.comparison

    def put_entry(self, entry: Entry) -> None:
        """Add a row to the table of methods."""
        with self.lock:
            self.results.put_entry(entry)
            self.mark("entries")

    @property
    def runs(self) -> list[Run]:
        """The runs of this browser, oldest first."""
        return self.archive.runs

    def add_run(self, run: Run, models: dict[str, Pruned]) -> None:
        """Keep a finished comparison as a run, and the models of the latest runs in memory."""
        with self.lock:
            self.results.keep_models(run.number, models)
            self.archive.add(
                complete_run(
                    run,
                    models,
                    parent=self.archive.find(run.parent),
                    analysis=self.analyses.find_origin(run.plan),
                    loaded=self.loaded,
                    answers=self.results.answers,
                )
            )

    def run(self, number: int | None) -> Run:
        """Return the run of this number; raise `Refusal` if there is none."""
        run = self.archive.find(number)
        if run is None:
            raise Refusal(
                "No run is chosen; prune a model on the Compare tab first, then choose its run here."
            )
        return run

    def close(self) -> None:
        """Stop the job and the preview, and remove the temporary folder."""
        self.preview.stop()
        if self.job is not None and self.job.active:
            self.job.stopping.set()
        self._swept()
