"""What one browser has loaded, analysed, planned and compared. No Gradio in here."""

from __future__ import annotations

import threading
import time
import weakref
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from slimllm.methods import settings
from slimllm.models import Pruned, Subject
from slimllm.planning import check_plan
from slimllm.types import Analysis, Calibration, LayerAnalysis, LayerReport, Plan, Refusal
from ui import presets
from ui.aftermath import Diary, page_folder
from ui.archive import Archive, remembered
from ui.choices import Source, comparable, source_of
from ui.findings import Findings
from ui.jobs import Job, Worker
from ui.picking import Picked
from ui.polished import Polished
from ui.preview import Preview
from ui.runs import Column, Entry, Protocol, Run
from ui.words import method_title, same_width

KEPT_WEIGHTS = 2  # pruned models stay in memory for the latest runs only
KEPT_PLANS = 500
KEPT_ANALYSES = 16  # a few megabytes each
SAME_GESTURE = 1.0  # seconds within which a moving dial counts as one change


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model that is shared by all sessions, the tokens per second at which it reads, and how pruned
    versions of it can be stored."""

    subject: Subject
    pace: float
    device: str
    dtype: str
    outlook: tuple[str, ...] = ()


@dataclass(eq=False)
class Comparison:
    """The table being filled or shown: figures, layer reports, models and answers by column name."""

    plan: Plan
    protocol: Protocol = field(default_factory=Protocol)
    columns: dict[str, Column] = field(default_factory=dict)
    reports: dict[str, tuple[LayerReport, ...]] = field(default_factory=dict)
    models: dict[str, Pruned] = field(default_factory=dict)
    run: int | None = None
    findings: Findings = field(default_factory=Findings)


@dataclass
class Answer:
    """A prompt and what each model wrote after it so far; `done` once all have finished."""

    prompt: str
    texts: dict[str, str] = field(default_factory=dict)
    done: bool = False


class Session:
    """The state of one browser. `serial` counts the changes of each part, so that a page can tell what it has
    not shown."""

    def __init__(self, id: str):
        self.id = id
        self.lock = threading.RLock()
        self.drawing = threading.RLock()  # pages of this session act and are drawn one after the other
        self.acts = 0  # how often a page has acted
        self.author = ""  # the page that made the present plan; empty where a job did
        self.touched = time.monotonic()
        self.born = time.monotonic_ns()
        self.serial: Counter[str] = Counter()
        self.folder, sweep = page_folder()
        self._swept = weakref.finalize(self, sweep)  # at exit, too
        self.loaded: Loaded | None = None
        self.job: Job | None = None
        self.analysis: Analysis | None = None
        self.analyses: dict[Source, Analysis] = {}
        self.second: Analysis | None = None
        self.training: list[dict[str, float]] = []
        self.entries: list[Entry] = []
        self.polished: Polished | None = None
        self.partial: list[LayerAnalysis | None] = []
        self.made: tuple[str, Calibration] | None = None  # the method and the text of the partial layers
        self.detail: int | None = None
        self.picked: Picked | None = None
        self.plans: list[Plan] = []
        self.cursor = -1
        self.gesture: tuple[str, float] = ("", 0.0)
        self.locked: list[bool] = []
        self.turn = 0  # the number of the last release of the faders that was heard
        self.bank: tuple[Analysis, tuple[object, ...], str] | None = (
            None  # what the faders' facts were made of last, and they
        )
        self.preview = Preview()
        self.presets: dict[str, Plan] = presets.read(id)
        self.comparison: Comparison | None = None
        self.pending: Comparison | None = None
        self.answers: list[Answer] = []
        self.archive = Archive(id, lambda: self.mark("runs"))
        self.parent: int | None = None
        self.weights: dict[int, dict[str, Pruned]] = {}
        self.notes: dict[str, tuple[str, str]] = {}
        self.wishes: dict[str, tuple[object, ...]] = {}
        self.diary = Diary(id)
        if broken_off := self.diary.broken_off():
            self.say("load", broken_off)
        self.tour: int | None = None

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
            self.comparison, self.answers = None, []
            self.weights.clear()
            self.forget_analysis()
            self.mark("subject", "table", "answers")

    def forget_analysis(self) -> None:
        with self.lock:
            self.analysis, self.partial, self.made, self.detail, self.picked = None, [], None, None, None
            self.analyses, self.second, self.training, self.entries = {}, None, [], []
            self.plans, self.cursor, self.locked, self.parent = [], -1, [], None
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
            self.locked = self.locked or [False] * len(analysis.layers)
            self.push(plan)

    def keep_analysis(self, analysis: Analysis) -> None:
        """Remembers an analysis, so that its plans can be shown and pruned again; the oldest give way."""
        with self.lock:
            source = source_of(analysis)
            self.analyses.pop(source, None)
            self.analyses[source] = analysis
            for old in list(self.analyses)[:-KEPT_ANALYSES]:
                del self.analyses[old]

    def show_analysis(self, analysis: Analysis) -> None:
        """Makes an analysis the present one; a second one stays beside it only while one thing tells them
        apart."""
        with self.lock:
            self.analysis, self.partial = analysis, list(analysis.layers)
            self.made = (analysis.method, analysis.calibration)
            if self.second is not None and not comparable(self.second, analysis):
                self.second = None
            self.mark("layers", "detail", "bank", "controls", "second")

    def made_from(self, plan: Plan) -> Analysis | None:
        """The analysis that a plan was made from, if it is remembered."""
        return self.analyses.get(source_of(plan))

    def analysis_by(
        self, method: str, options: Mapping[str, Any], calibration: Calibration
    ) -> Analysis | None:
        """The analysis by a method with these options, the others as usual, if it is remembered."""
        return self.analyses.get((method, tuple(sorted(settings(method, options).items())), calibration))

    def lay_over(self, second: Analysis | None) -> None:
        """Lays a second analysis over the maps, or takes it away."""
        self.second = second
        self.mark("second", "layers")

    def suit(self, plan: Plan) -> None:
        """Makes the analysis that a plan was made from the present one, or another that knows its units; a
        `Refusal` where there is none."""
        with self.lock:
            able = [a for a in self.analyses.values() if plan.unit in a.layers[0].attention]
            if not able:
                raise Refusal(
                    f"This plan cuts {plan.unit} units; analyse the model with method "
                    f"{method_title(plan.method)} first."
                )
            found = max(
                able,
                key=lambda a: (source_of(a) == source_of(plan), a.method == plan.method, a is self.analysis),
            )
            if found is not self.analysis:
                self.show_analysis(found)
                if asked := self.wishes.get("analyse"):  # the chooser follows
                    self.wishes["analyse"] = (*asked[:4], found.method, *asked[5:])
                self.mark("preflight")

    @property
    def known(self) -> Analysis:
        if self.analysis is None:
            raise Refusal("The model is not analysed yet; do that on the Analyse tab first.")
        return self.analysis

    # Plans

    @property
    def plan(self) -> Plan:
        if self.cursor < 0:
            raise Refusal("There is no plan yet; analyse the model first.")
        return self.plans[self.cursor]

    @property
    def present(self) -> Plan | None:
        """The plan, if there is one."""
        return self.plan if self.plans else None

    def push(self, plan: Plan, gesture: str = "") -> None:
        """Makes a plan the present one. Steps of the same gesture in quick succession are one step of
        undo."""
        with self.lock:
            now = time.monotonic()
            name, when = self.gesture
            same = bool(gesture) and gesture == name and now - when < SAME_GESTURE and self.cursor > 0
            self.gesture = (gesture, now)
            if self.cursor >= 0 and plan == self.plans[self.cursor]:
                self.mark("plan")
                return
            self.author = ""
            keep = self.cursor if same else self.cursor + 1
            self.plans = [*self.plans[:keep], plan][-KEPT_PLANS:]
            self.cursor = len(self.plans) - 1
            self.mark("plan")

    def take_plan(self, plan: Plan) -> None:
        """Makes a plan from a file or a run the present one; a `Refusal` where it is for another model."""
        check_plan(plan, self.known.shape)
        self.suit(plan)
        self.push(plan)
        self.mark("controls", "bank")

    def step(self, by: int) -> None:
        """Moves back (−1) or forth (+1) through the plans, as far as there are any."""
        with self.lock:
            left = self.present
            self.cursor = min(max(self.cursor + by, 0), len(self.plans) - 1)
            self.gesture = ("", 0.0)
            if left is not None:
                self.suit(self.plan)
                self.mark("plan", *(() if same_rules(left, self.plan) else ("controls", "bank")))

    # Runs

    def put_entry(self, entry: Entry) -> None:
        """Adds a row to the table of methods; the same method on the same budget has one row."""
        with self.lock:
            kept = [old for old in self.entries if old.place != entry.place]
            self.entries = [*kept, entry]
            self.mark("entries")

    @property
    def runs(self) -> list[Run]:
        return self.archive.runs

    def add_run(self, run: Run, models: dict[str, Pruned]) -> None:
        """Keeps a finished comparison; the weights of the latest ones stay in memory."""
        with self.lock:
            self.weights[run.number] = models
            for number in sorted(self.weights)[:-KEPT_WEIGHTS]:
                del self.weights[number]
            self.parent = run.number
            self.archive.add(remembered(self, run, models))

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


def same_rules(one: Plan, other: Plan) -> bool:
    """Whether two plans show the same controls: they differ in what hands did to single layers, if at all."""
    rules = ("ratio_requested", "recovery", "unit", "align", "count", "protected", "forced")
    alike = one.allocation == other.allocation or "hand" in (one.allocation, other.allocation)
    return (
        alike
        and same_width(one) == same_width(other)
        and all(getattr(one, rule) == getattr(other, rule) for rule in rules)
    )
