"""What one browser has loaded, analysed, planned and compared. No Gradio in here."""

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
from ui.jobs.worker import Job, Worker
from ui.session.analyses import Analyses, Focus
from ui.session.forms import AnalyseForm, Form
from ui.session.kept import presets
from ui.session.kept.crash_recovery import Diary, page_folder
from ui.session.kept.run_history import Archive, complete_run
from ui.session.loaded import Loaded
from ui.session.notes import tell_after
from ui.session.plan_history import PlanHistory, PlanStep, same_rules, tell_kept
from ui.session.preview import Preview
from ui.session.results import Results
from ui.session.settings import AUTOMATIC, SessionSettings


class Session:
    """The state of one browser. `serial` counts the changes of each part, so that a page can tell what it has
    not shown."""

    def __init__(self, id: str, settings: SessionSettings = AUTOMATIC):
        self.id, self.settings = id, settings
        self.lock = threading.RLock()
        self.drawing = threading.RLock()  # pages of this session act and are drawn one after the other
        self.acts = 0  # how often a page has acted
        self.author = ""  # the page that made the present plan; empty where a job did
        self.touched = time.monotonic()
        self.born = time.monotonic_ns()
        self.serial: Counter[str] = Counter()
        self._swept: Callable[[], object] = lambda: None
        self.loaded: Loaded | None = None
        self.job: Job | None = None
        self.analyses, self.focus = Analyses(), Focus()
        self.history = PlanHistory()
        self.turn = 0  # the number of the last release of the faders that was heard
        # what the faders' facts were made of last, and they
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
        """A temporary folder for files, made when it is first asked for: it costs a handle."""
        folder, sweep = page_folder()
        self._swept = weakref.finalize(self, sweep)  # at exit, too
        return folder

    @property
    def used(self) -> bool:
        """Whether something would be lost with this session."""
        return self.loaded is not None or self.job is not None

    def mark(self, *parts: str) -> None:
        """Says that these parts changed."""
        with self.lock:
            self.serial.update(parts)

    def say(self, page: str, words: str, kind: str = "info") -> None:
        """Puts one sentence on a page, or takes it away."""
        self.notes[page] = (kind, words)
        self.mark("notes")

    # Jobs

    @property
    def busy(self) -> bool:
        return self.job is not None and self.job.active

    @property
    def lively(self) -> bool:
        """Whether a page should look again soon: for its job, or for a preview."""
        return self.busy or self.preview.going

    def begin(self, worker: Worker, job: Job) -> Job:
        """Hands a job to the worker; a `Refusal` while another one of this session is not finished."""
        with self.lock:
            if self.job is not None and self.job.active:
                raise Refusal(f"{self.job.title} is still going on; stop it or wait for it first.")
            self.diary.kept(job)
            tell_after(self, job)
            self.job = worker.submit(job)
            self.mark("job")
            return job

    # Model and analysis

    @property
    def subject(self) -> Subject:
        if self.loaded is None:
            raise Refusal("No model is loaded yet; load one on the Load tab first.")
        return self.loaded.subject

    def set_loaded(self, loaded: Loaded) -> None:
        """Takes a model; all that was known of another one is forgotten, except the runs."""
        with self.lock:
            if self.loaded is loaded:
                return
            self.loaded = loaded
            self.results.drop_models()
            self.forget_analysis()
            self.mark("subject", "table", "answers")

    def forget_analysis(self) -> None:
        with self.lock:
            self.analyses, self.focus, self.history = Analyses(), Focus(), PlanHistory()
            self.results.drop_entries()
            self.preview.forget()
            self.mark(
                "layers", "detail", "plan", "controls", "bank", "second", "training", "entries", "preview"
            )

    def set_analysis(self, analysis: Analysis, plan: Plan) -> None:
        """Takes an analysis and the plan to start from; earlier plans stay if they fit, so that undo goes
        back to them."""
        with self.lock:
            self.keep_analysis(analysis)
            self.show_analysis(analysis)
            try:
                self.push(plan)
            except Refusal as refusal:  # the new plan is the answer to a long job, so the locks give way
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
        """Lays a second analysis over the maps, or takes it away."""
        self.analyses.second = second
        self.mark("second", "layers")

    def suit(self, plan: Plan) -> None:
        """Makes the analysis that a plan was made from the present one, or another that knows its units; a
        `Refusal` where there is none."""
        with self.lock:
            found = self.analyses.find_suitable(plan)
            if found is not self.analysis:
                self.show_analysis(found)
                if form := AnalyseForm.find_in(self):  # the chooser follows
                    replace(form, method=found.method).fill_in(self)
                self.mark("preflight")

    @property
    def analysis(self) -> Analysis | None:
        """The present analysis, if there is one."""
        return self.analyses.present

    @property
    def known(self) -> Analysis:
        if self.analysis is None:
            raise Refusal("The model is not analysed yet; do that on the Analyse tab first.")
        return self.analysis

    # Plans

    @property
    def plan(self) -> Plan:
        if self.history.present is None:
            raise Refusal("There is no plan yet; analyse the model first.")
        return self.history.present.plan

    @property
    def plans(self) -> list[Plan]:
        """All plans that undo and redo go through."""
        return [step.plan for step in self.history.steps]

    @property
    def cursor(self) -> int:
        """The place of the present plan among them; −1 where there is none."""
        return self.history.cursor

    @property
    def present(self) -> Plan | None:
        """The plan, if there is one."""
        return self.history.present.plan if self.history.present else None

    @property
    def locked(self) -> frozenset[int]:
        """The layers whose widths nothing changes but the person who locked them."""
        return self.history.present.locked if self.history.present else frozenset()

    @property
    def locks(self) -> Locks | None:
        """The locked layers with the plan whose widths they keep; None where no layer is locked."""
        return self.history.present.locks if self.history.present else None

    def lock_layers(self, locked: frozenset[int]) -> None:
        """Locks these layers and no others: one step of undo."""
        if locked != self.locked:
            self.push(self.plan, locked=locked)

    def push(self, plan: Plan, gesture: str = "", locked: frozenset[int] | None = None) -> None:
        """Makes a plan the present one, and `locked` the locked layers where given. Steps of the same gesture
        in quick succession are one step of undo.

        Locked layers keep their widths; a `Refusal` where this plan does not allow that.
        """
        with self.lock:
            if locked is None:
                locked = self.locked
                plan = keep_locked(self.known, plan, self.locks) if locked else plan
            self.author = self.author if plan == self.present else ""
            self.history.push_step(PlanStep(plan, locked), gesture)
            self.mark("plan", "locks")

    def take_plan(self, plan: Plan) -> str:
        """Makes a plan from a file or a run the present one, its figures computed anew; a `Refusal` where it
        is for another model. Returns which locked layers kept their widths, as `tell_kept` has it."""
        check_plan(plan, self.known.shape)
        self.suit(plan)
        self.push(fill_forecast(self.known, plan))
        self.mark("controls", "bank")
        return tell_kept(plan, self.plan)

    def step(self, by: int) -> None:
        """Moves back (−1) or forth (+1) through the plans, as far as there are any."""
        with self.lock:
            left = self.present
            self.history.move_cursor(by)
            if left is not None:
                self.suit(self.plan)
                self.mark("plan", "locks", *(() if same_rules(left, self.plan) else ("controls", "bank")))

    # Comparisons and runs

    @property
    def comparison(self) -> Comparison | None:
        """The present comparison, if there is one."""
        return self.results.comparison

    def put_entry(self, entry: Entry) -> None:
        """Add a row to the table of methods."""
        with self.lock:
            self.results.put_entry(entry)
            self.mark("entries")

    @property
    def runs(self) -> list[Run]:
        return self.archive.runs

    def add_run(self, run: Run, models: dict[str, Pruned]) -> None:
        """Keeps a finished comparison; the weights of the latest ones stay in memory."""
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
        run = self.archive.find(number)
        if run is None:
            raise Refusal(
                "No run is chosen; prune a model on the Compare tab first, then choose its run here."
            )
        return run

    def close(self) -> None:
        """Lets go of everything."""
        self.preview.stop()
        if self.job is not None and self.job.active:
            self.job.stopping.set()
        self._swept()
