"""The job that takes a run's plan back into Tune: its model is loaded and analysed again. No Gradio."""

from __future__ import annotations

from slimllm.core.types import NOTE, Analysis, Progress
from slimllm.planning import forecast, plan_making
from ui.jobs.worker import Job, Steps
from ui.session.loaded import Loaded
from ui.session.registry import Registry
from ui.session.session import Session
from ui.tasks import work
from ui.tasks.model_remaking import is_made_for


def start_restore(registry: Registry, session: Session, number: int | None) -> Job:
    """Start the job that makes the plan of a run the present one.

    It loads the plan's model, unless that is present, and analyses it as the plan says. The session's model
    and analysis are replaced only when both new ones are there.

    Return the job. Raise `Refusal` if there is no such run, if the limits forbid its model, or if another job
    of the session is active.
    """
    run = session.run(number)
    plan = run.plan
    session.limits.check_run(plan)

    def run_steps(job: Job) -> Steps:
        loaded = session.loaded
        if loaded is None or not is_made_for(plan, loaded.subject):
            loaded = work.open_model(registry, job, plan.model, session.settings)
        plan_making.check_plan(plan, loaded.subject.shape)
        if not is_made_for(plan, loaded.subject):
            yield Progress(NOTE, 0, 0, f"The weights of '{plan.model}' have changed since {run.name}.")
        yield Progress("load", 1, 1, "Loaded.")
        job.say(f"Reading {plan.calibration.text} again.")
        analysis = yield from work.score_layers(
            loaded.subject, plan.calibration, plan.method, dict(plan.options), session.settings.offline
        )
        return loaded, analysis

    def on_done(found: tuple[Loaded, Analysis]) -> None:
        loaded, analysis = found
        session.set_loaded(loaded)
        session.set_analysis(analysis, forecast.fill_forecast(analysis, plan))
        session.mark("controls", "bank")
        session.results.parent = run.number
        for page in ("history", "tune"):
            session.say(page, f"The plan of {run.name} is in Tune again.", "good")

    return session.begin(
        registry.worker, Job("restore", f"Going back to {run.name}", run_steps, on_done=on_done)
    )
