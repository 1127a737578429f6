"""Jobs and sessions without a page: order, stop, errors, re-attachment, expiry, isolation."""

from __future__ import annotations

import dataclasses
import gc
import threading
import time
import weakref
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from slimllm import pipeline
from slimllm.calibration import texts
from slimllm.core.errors import Refusal
from slimllm.core.types import Calibration, Plan, Progress
from slimllm.planning import plan_making
from slimllm.planning.rules import PlanRules
from tests.support.made_up_analyses import synthetic_analysis
from tests.support.serving import by_columns
from tests.support.tiny_models import tiny_subject
from ui.facts.resources.estimates import Rates
from ui.facts.runs import Asked, Column, Protocol, Run
from ui.jobs.worker import Job, Worker, sentence
from ui.page.elements import progress_line
from ui.session.finetuning_state import TuningRequest
from ui.session.loaded import Loaded
from ui.session.registry import Registry
from ui.session.session import Session
from ui.session.settings import SessionSettings
from ui.tasks import comparing, comparing_methods
from ui.tasks.finetuning_run import start_finetuning

Steps = Generator[Progress, None, Any]


class Gate:
    """A job of numbered steps that goes on only when told to, and remembers whether it was closed."""

    def __init__(self, steps: int = 3):
        self.steps, self.go, self.closed = steps, threading.Semaphore(0), False
        self.reached = threading.Semaphore(0)

    def __call__(self, _: Job) -> Steps:
        try:
            for i in range(self.steps):
                self.reached.release()
                assert self.go.acquire(timeout=10)
                yield Progress("count", i + 1, self.steps, f"Step {i + 1}", i)
            return "result"
        finally:
            self.closed = True

    def open(self) -> None:
        for _ in range(self.steps + 1):
            self.go.release()


def until(fact: Callable[[], bool]) -> None:
    """Waits for a fact that another thread brings about."""
    end = time.monotonic() + 10
    while not fact():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.005)


def job(start: Callable[[Job], Steps], **more: Any) -> Job:
    return Job("test", "Testing", start, **more)


def make_plan() -> Plan:
    return plan_making.make_plan(synthetic_analysis(layers=4, channels=64), PlanRules(0.2))


def test_job_runs_to_its_result_and_tells_every_step() -> None:
    seen: list[Any] = []
    results: list[Any] = []
    gate = Gate()
    done = Worker().submit(job(gate, on_progress=lambda p: seen.append(p.result), on_done=results.append))
    gate.open()
    assert done.finished.wait(10)
    assert (done.state, seen, results) == ("done", [0, 1, 2], ["result"])
    assert done.progress is not None
    assert done.progress.words == "Step 3"
    assert done.elapsed > 0


def test_second_job_is_told_its_place_and_starts_after_the_first() -> None:
    worker, gates = Worker(), [Gate(1) for _ in range(3)]
    jobs = [worker.submit(job(gate)) for gate in gates]
    assert gates[0].reached.acquire(timeout=10)
    assert [worker.place(j) for j in jobs] == [0, 1, 2]
    assert [j.state for j in jobs] == ["running", "queued", "queued"]
    gates[0].open()
    assert gates[1].reached.acquire(timeout=10)
    assert [worker.place(j) for j in jobs] == [0, 0, 1]
    for gate in gates[1:]:
        gate.open()
    assert jobs[2].finished.wait(10)


def test_stop_takes_effect_between_two_steps_and_closes_the_generator() -> None:
    worker, gate, results = Worker(), Gate(100), list[Any]()
    running = worker.submit(job(gate, on_done=results.append))
    assert gate.reached.acquire(timeout=10)
    gate.go.release()
    assert gate.reached.acquire(timeout=10)
    worker.cancel(running)
    gate.go.release()
    assert running.finished.wait(10)
    assert (running.state, gate.closed, results) == ("stopped", True, [])
    assert running.progress is not None
    assert running.progress.done == 2


def test_waiting_job_is_stopped_at_once_and_never_starts() -> None:
    worker, first, second = Worker(), Gate(1), Gate(1)
    worker.submit(job(first))
    waiting = worker.submit(job(second))
    assert first.reached.acquire(timeout=10)
    worker.cancel(waiting)
    assert waiting.state == "stopped"
    assert waiting.finished.is_set()
    first.open()
    after = worker.submit(job(Gate(0)))
    assert after.finished.wait(10)
    assert not second.reached.acquire(blocking=False)


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (Refusal("Model 'x' was not found; check the name."), "Model 'x' was not found; check the name."),
        (KeyError("weight"), "Something went wrong: KeyError: 'weight'"),
        (RuntimeError(""), "Something went wrong: RuntimeError"),
        (MemoryError(), "There was not enough memory; use fewer or shorter samples, or a smaller model."),
    ],
)
def test_error_becomes_one_sentence(failure: Exception, words: str) -> None:
    def steps(_: Job) -> Steps:
        yield Progress("test", 1, 2)
        raise failure

    worker = Worker()
    failed = worker.submit(job(steps))
    assert failed.finished.wait(10)
    assert (failed.state, failed.error) == ("failed", words)
    assert sentence(failure).count("\n") == 0
    assert worker.submit(job(Gate(0))).finished.wait(10), "the worker outlives a failure"


def test_failure_while_taking_the_result_is_a_failure_too() -> None:
    def refuse(_: Any) -> None:
        raise Refusal("The run could not be kept.")

    failed = Worker().submit(job(Gate(0), on_done=refuse))
    assert failed.finished.wait(10)
    assert (failed.state, failed.error) == ("failed", "The run could not be kept.")


def test_finished_job_lets_go_of_what_it_worked_on() -> None:
    class Thing:
        pass

    def start(thing: Thing) -> Callable[[Job], Steps]:
        def steps(_: Job) -> Steps:
            yield Progress("test", 1, 1, result=id(thing))

        return steps

    thing = Thing()
    gone = weakref.ref(thing)
    worker = Worker()
    done = worker.submit(job(start(thing)))
    assert done.finished.wait(10)
    del thing
    until(lambda: gc.collect() >= 0 and gone() is None)


def test_remaining_time_follows_the_pace_of_the_stage() -> None:
    running = job(Gate())
    assert running.remaining is None
    running.state = "running"
    running.note(Progress("one", 1, 10))
    running.stage_began -= 1.0
    assert running.remaining is not None
    assert running.remaining == pytest.approx(9.0, rel=0.1)
    running.note(Progress("two", 5, 10))
    running.stage_began -= 1.0
    assert running.remaining == pytest.approx(5.0, rel=0.1)


# Sessions ---------------------------------------------------------------------------------------------------


def test_session_is_found_again_and_with_it_its_job() -> None:
    registry, gate = Registry(), Gate(2)
    session = registry.open(None)
    session.begin(registry.worker, job(gate))
    assert gate.reached.acquire(timeout=10)
    again = registry.open(session.id)
    assert again is session
    assert again.busy
    gate.open()
    assert again.job is not None
    assert again.job.finished.wait(10)


def test_second_job_of_the_same_session_is_refused() -> None:
    registry, gate = Registry(), Gate(1)
    session = registry.open(None)
    session.begin(registry.worker, job(gate))
    with pytest.raises(Refusal, match="still going on"):
        session.begin(registry.worker, job(Gate()))
    gate.open()


@pytest.mark.parametrize("id", [None, "", "short", "../../../../etc/passwd", "x" * 65, 7, ["a" * 20]])
def test_improper_id_gets_a_new_session(id: Any) -> None:
    registry = Registry()
    assert registry.open(id).id != id
    assert registry.open(id) is not registry.open(id)


def test_idle_session_expires_but_never_while_it_works() -> None:
    registry, gate = Registry(idle=0.01), Gate(1)
    idle, busy = registry.open(None), registry.open(None)
    folder = idle.folder
    busy.begin(registry.worker, job(gate))
    time.sleep(0.03)
    registry.open(None)
    assert not folder.exists()
    assert registry.open(busy.id) is busy
    gate.open()
    until(lambda: not busy.busy)
    time.sleep(0.03)
    registry.open(None)
    assert registry.open(busy.id) is not busy


def test_two_sessions_share_the_model_and_nothing_else() -> None:
    registry, made = Registry(), list[object]()

    class Loaded:
        subject = dataclasses.replace(tiny_subject(), source="a/hub-id")  # whose files nobody changes

    def load(_: bool) -> Any:
        made.append(1)
        return Loaded()

    one = registry.models.take("m", "cpu", "auto", load)
    assert registry.models.take("m", "cpu", "auto", load) is one
    assert registry.models.take("m", "cpu", "float32", load) is not one
    assert len(made) == 2
    first, second = registry.open(None), registry.open(None)
    analysis = synthetic_analysis(layers=4, channels=64)
    first.set_analysis(analysis, plan_making.make_plan(analysis, PlanRules(0.2)))
    assert second.plans == []
    assert second.analysis is None
    gone = weakref.ref(one)
    del one
    gc.collect()
    assert gone() is None, "a model that no session uses is freed"


# Plans ------------------------------------------------------------------------------------------------------


@pytest.fixture
def planned() -> Session:
    """A session with an analysis and a first plan."""
    session = Registry().open(None)
    analysis = synthetic_analysis(layers=4, channels=64)
    session.set_analysis(analysis, plan_making.make_plan(analysis, PlanRules(0.2)))
    return session


def test_undo_goes_all_the_way_back_and_redo_forth(planned: Session) -> None:
    plans = [planned.plan]
    for ratio in (0.3, 0.4, 0.5):
        planned.push(plan_making.make_plan(planned.known, PlanRules(ratio)))
        plans.append(planned.plan)
    for expected in (plans[2], plans[1], plans[0], plans[0]):
        planned.step(-1)
        assert planned.plan == expected
    for expected in (plans[1], plans[2], plans[3], plans[3]):
        planned.step(1)
        assert planned.plan == expected
    planned.step(-1)
    planned.push(plan_making.make_plan(planned.known, PlanRules(0.1)))
    planned.step(1)
    assert planned.plan.ratio_requested == 0.1, "a new plan forgets what was undone"


def test_an_undo_that_is_refused_changes_nothing(planned: Session) -> None:
    columns = by_columns(synthetic_analysis(layers=4, channels=64))
    planned.set_analysis(columns, plan_making.make_plan(columns, PlanRules(0.2)))
    first = synthetic_analysis(layers=4, channels=64)
    planned.set_analysis(first, plan_making.make_plan(first, PlanRules(0.3)))
    present, analysis = planned.plan, planned.known
    planned.analyses.remembered = {s: a for s, a in planned.analyses.remembered.items() if a is not columns}
    with pytest.raises(Refusal, match="cuts value-column units"):
        planned.step(-1)
    assert (planned.plan, planned.known) == (present, analysis)


def test_moving_dial_is_one_step_of_undo(planned: Session) -> None:
    first = planned.plan
    for ratio in (0.25, 0.3, 0.35):
        planned.push(plan_making.make_plan(planned.known, PlanRules(ratio)), "dial")
    assert planned.plan.ratio_requested == 0.35
    planned.step(-1)
    assert planned.plan == first


def test_plan_for_another_model_is_refused_and_nothing_is_lost(planned: Session) -> None:
    before = planned.plan
    other = plan_making.make_plan(synthetic_analysis(layers=3, channels=32), PlanRules(0.2))
    with pytest.raises(Refusal, match="another model"):
        planned.take_plan(other)
    assert planned.plan == before


# Runs -------------------------------------------------------------------------------------------------------


def make_run(number: int = 1) -> Run:
    columns = {
        "dense": Column(100, 200, 10.0, 64, 5.0),
        "pruned": Column(80, 160, float("inf"), 64, 6.0, 0.1, 0.2),
    }
    return Run(number, "2026-01-01T12:00:00", make_plan(), Protocol(), columns, errors=((0.1, 0.2),) * 4)


def test_only_the_latest_weights_stay_in_memory() -> None:
    session = Registry().open(None)
    for number in range(1, 5):
        session.add_run(make_run(number), {})
    assert sorted(session.results.weights) == [3, 4]
    assert [run.number for run in session.runs] == [1, 2, 3, 4]


# Several methods --------------------------------------------------------------------------------------------


@pytest.fixture
def ready(page: Path) -> tuple[Session, Asked]:
    """A session with a tiny model, analysed and planned, and a way to measure it."""
    session = Registry(settings=SessionSettings("cpu", "float32", offline=True)).open(None)
    model = tiny_subject()
    session.set_loaded(Loaded(model, Rates(1000.0), "cpu", "float32"))
    calibration = Calibration(str(page), 4, 32)
    made = pipeline.analyse_model(model, texts.find_text(str(page)), calibration)
    analysis = pipeline.finish_job(made)
    session.set_analysis(analysis, plan_making.make_plan(analysis, PlanRules(0.3, align=1)))
    return session, Asked(Protocol(str(page), 32, 128))


def test_every_method_becomes_a_row_and_refusals_say_why(
    ready: tuple[Session, Asked], monkeypatch: pytest.MonkeyPatch
) -> None:
    session, asked = ready
    honest = comparing_methods.score_layers

    def moody(subject: Any, calibration: Any, name: str, *rest: Any) -> Any:
        if name == "random":
            raise Refusal("Not today.")
        return honest(subject, calibration, name, *rest)

    monkeypatch.setattr(comparing_methods, "score_layers", moody)
    seen: list[str] = []
    names = ["slimllm", "random", "block-influence"]
    job = comparing_methods.start_methods(Registry(), session, names, asked)
    job.on_progress = lambda step: seen.append(step.words)
    assert job.finished.wait(60)
    assert (job.state, job.error) == ("done", "")
    assert [(e.method, e.present) for e in session.results.entries] == [
        ("slimllm", True),
        ("slimllm", False),
        ("random", False),
        ("block-influence", False),
    ]
    assert session.results.entries[2].refusal == "Not today."
    assert any(words.startswith("Method 3 of 3 · Block influence · Layer") for words in seen)
    mine, whole = session.results.entries[0], session.results.entries[3]
    assert mine.column is not None
    assert whole.plan is not None
    assert mine.excess is not None
    assert 0 in whole.plan.heads
    before = list(session.results.entries)
    again = comparing_methods.start_methods(Registry(), session, ["slimllm"], asked)
    assert again.finished.wait(60)
    assert len(session.results.entries) == len(before)
    assert session.analyses.find_analysis("block-influence", {}, session.known.calibration) is not None
    session.take_plan(whole.plan)
    assert session.known.method == "block-influence"


def test_a_stop_keeps_the_finished_methods(ready: tuple[Session, Asked]) -> None:
    session, asked = ready
    registry = Registry()
    job = comparing_methods.start_methods(registry, session, ["magnitude", "wanda-sp"], asked)
    job.on_progress = lambda step: job.stopping.set() if step.words.startswith("Method 2") else None
    assert job.finished.wait(60)
    assert job.state == "stopped"
    assert [e.method for e in session.results.entries] == ["slimllm", "magnitude"]
    assert "what was finished is in the table" in progress_line(job, 0)
    with pytest.raises(Refusal, match="No method"):
        comparing_methods.start_methods(registry, session, [], asked)


def test_answers_that_are_stopped_give_way_to_those_before(ready: tuple[Session, Asked]) -> None:
    session, asked = ready
    registry = Registry()
    asked = dataclasses.replace(asked, prompts=("A model",), new_tokens=4)
    assert comparing.start_compare(registry, session, asked).finished.wait(60)
    before = session.results.answers
    assert [answer.prompt for answer in before] == ["A model"]
    job = comparing.start_answers(registry, session, dataclasses.replace(asked, prompts=("Another",)))
    job.on_progress = lambda _: job.stopping.set()
    assert job.finished.wait(60)
    assert (job.state, session.results.answers) == ("stopped", before)


def test_a_run_whose_text_has_changed_is_not_fine_tuned(ready: tuple[Session, Asked], page: Path) -> None:
    session, asked = ready
    registry = Registry()
    assert comparing.start_compare(registry, session, asked).finished.wait(60)
    run = session.runs[0]
    page.write_text(page.read_text()[::-1])
    job = start_finetuning(registry, session, run.number, TuningRequest(str(page), 1, 1e-3))
    assert job.finished.wait(60)
    assert "has changed since run 1 was measured" in job.error.lower()
    assert session.runs == [run]


def test_spare_job_gives_way_and_starts_anew() -> None:
    worker, spare_gate, real_gate = Worker(), Gate(3), Gate(1)
    spare = worker.submit(job(spare_gate, spare=True))
    assert spare_gate.reached.acquire(timeout=10)
    real = worker.submit(job(real_gate))
    spare_gate.go.release()
    assert real_gate.reached.acquire(timeout=10), "one step later the real job runs"
    assert (spare.state, spare_gate.closed, worker.place(spare)) == ("queued", True, 1)
    real_gate.open()
    spare_gate.open()
    assert spare.finished.wait(10)
    assert (real.state, spare.state) == ("done", "done")


def test_spare_job_waits_behind_all_others_and_can_be_stopped() -> None:
    worker, first = Worker(), Gate(1)
    worker.submit(job(first))
    assert first.reached.acquire(timeout=10)
    spare, last = job(Gate(1), spare=True), job(Gate(0))
    worker.submit(spare)
    worker.submit(last)
    assert (worker.place(last), worker.place(spare)) == (1, 2)
    worker.cancel(spare)
    assert spare.state == "stopped"
    first.open()
    assert last.finished.wait(10)
