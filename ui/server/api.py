"""The page's actions for programs: load, analyse, plan, prune, evaluate, generate, export. Plain JSON.

Every client has a session of its own. Long actions wait in the same queue as the page's jobs. A waiting call
holds no thread, and only a limited number of calls may wait.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
from collections.abc import Awaitable, Callable, Generator
from functools import partial, wraps
from pathlib import Path
from typing import Any

import gradio as gr
from anyio.to_thread import run_sync

from slimllm.cli import option_checks
from slimllm.core.errors import Refusal
from slimllm.core.failures import is_failure
from slimllm.core.json_io import to_plain_json
from slimllm.planning import forecast
from slimllm.planning.plan_json import plan_from_text, plan_to_dict
from slimllm.planning.plan_making import make_plan
from ui.facts.runs import Column, Run
from ui.jobs.visitors import Places
from ui.jobs.worker import Job, sentence
from ui.page.events import visitor_of
from ui.page.inputs import sanitize_value
from ui.session.forms import AnalyseForm, MeasureForm, RulesForm
from ui.session.registry import REGISTRY
from ui.session.requests import asked_for, calibration_of, rules_from
from ui.session.session import Session
from ui.tasks import comparing, work

# What an endpoint does: it yields the jobs that it waits for, and returns its answer.
Action = Generator[Job, None, dict[str, Any]]
# The fewest and the most seconds between two looks at a job.
SHORTEST, LONGEST_WAIT = 0.02, 0.5
# The calls that may wait at once: of one visitor, and of all visitors.
WAITING = Places(
    32,
    96,
    "The server is busy: so many calls wait already that no more can; try again once some are answered.",
)
# The defaults of the plan endpoint.
USUAL_SETTINGS = {
    "ratio": 0.2,
    "recovery": "auto",
    "allocation": "auto",
    "unit": "auto",
    "align": 8,
    "count": "decoder",
    "same_width": False,
}


def register_endpoints() -> None:
    """Register all endpoints with Gradio."""
    endpoints = Endpoints()
    for name in ("load", "analyse", "plan", "prune", "evaluate", "generate", "export"):
        gr.api(answer_calls(getattr(endpoints, name)), api_name=name, concurrency_limit=None)


def answer_calls(action: Callable[..., Action]) -> Callable[..., Awaitable[dict[str, Any]]]:
    """Return an asynchronous handler of an action; its answer is strict JSON.

    Each part of the action runs in a thread. Between the parts, the handler waits for a job without one. It
    raises `gr.Error` with one sentence if the action is refused or fails.
    """

    @wraps(action)
    async def answer_call(request: gr.Request, *values: Any) -> dict[str, Any]:
        steps = action(request, *map(sanitize_value, values))
        try:
            with WAITING.place(visitor_of(request)):
                while True:
                    job, answer = await run_sync(partial(advance_steps, steps))
                    if job is None:
                        return to_plain_json(answer)
                    await wait_for_job(job)
        except Refusal as refusal:
            raise gr.Error(str(refusal), print_exception=False) from None
        except BaseException as failure:
            if not is_failure(failure):
                raise
            raise gr.Error(sentence(failure), print_exception=False) from None
        finally:
            steps.close()

    answer_call.__annotations__ = {**answer_call.__annotations__, "return": dict[str, Any]}
    return answer_call


def advance_steps(steps: Action) -> tuple[Job | None, dict[str, Any]]:
    """Run an action up to its next job, and return (job, {}), or (None, answer) at its end."""
    try:
        return next(steps), {}
    except StopIteration as end:
        return None, end.value


async def wait_for_job(job: Job) -> None:
    """Wait until a job is over; raise `Refusal` with its sentence if it failed or was stopped."""
    pause = SHORTEST
    while not job.finished.is_set():
        await asyncio.sleep(pause)
        pause = min(1.5 * pause, LONGEST_WAIT)
    if job.state != "done":
        raise Refusal(job.error or f"{job.title} was stopped.")


def session_of(request: gr.Request) -> Session:
    """Return the session of one client; clients of different accounts never share one."""
    name = f"{request.username or ''} {request.session_hash}".strip()
    id = "api-" + hashlib.sha256(name.encode()).hexdigest()[:32]
    return REGISTRY.open(id, visitor_of(request))


def column_of(name: str, column: Column) -> dict[str, Any]:
    """Return a column as plain data, with its name."""
    return {"name": name, **dataclasses.asdict(column)}


class Endpoints:
    """The endpoints, one method for each.

    A method yields the job that it waits for, and returns plain data. It raises `Refusal` if the action is
    not possible.
    """

    def load(self, request: gr.Request, model: str = "smollm2") -> Action:
        """Load a model: smollm2, a folder, a .gguf file or a hub id.

        Return its source, family, sizes, device and dtype.
        """
        session = session_of(request)
        yield work.start_load(REGISTRY, session, model)
        loaded, shape = session.loaded, session.subject.shape
        return {
            "model": session.subject.source,
            "family": shape.family,
            "layers": len(shape.layers),
            "heads": shape.heads,
            "kv_groups": shape.groups,
            "channels": shape.channels,
            "parameters": shape.parameters,
            "device": loaded.device if loaded else "",
            "dtype": loaded.dtype if loaded else "",
        }

    def analyse(
        self,
        request: gr.Request,
        text: str = "encyclopedia",
        samples: int = 64,
        length: int = 256,
        seed: int = 0,
        method: str = "slimllm",
        options: dict[str, Any] | None = None,
    ) -> Action:
        """Score every layer, head and channel of the loaded model on a text.

        Return the method, the tokens read, the seconds taken, the cosine of every layer, and the scores of
        its heads.
        """
        session = session_of(request)
        asked = calibration_of(AnalyseForm(text, samples, length, seed))
        yield work.start_analyse(REGISTRY, session, asked, method, options)
        found = session.known
        unit = next(iter(found.layers[0].attention))
        return {
            "model": found.model,
            "method": found.method,
            "tokens": found.tokens,
            "seconds": found.seconds,
            "layer_cosine": list(found.cosine),
            "head_scores": [layer.attention[unit].ranking.scores.tolist() for layer in found.layers],
        }

    def plan(
        self,
        request: gr.Request,
        ratio: float = 0.2,
        recovery: str = "auto",
        allocation: str = "auto",
        unit: str = "auto",
        align: int = 8,
        count: str = "decoder",
        same_width: bool = False,
        plan: dict[str, Any] | None = None,
    ) -> Action:
        """Plan the widths of all layers for a ratio, or take a whole plan as it is.

        Recovery and allocation are the method's own unless others are named. Return the plan with its
        forecast. Raise `Refusal` if a whole plan contradicts the other settings or does not fit the model.
        """
        session = session_of(request)
        if plan:
            read = plan_from_text(json.dumps(plan))
            asked = {
                "ratio": ratio,
                "recovery": recovery,
                "allocation": allocation,
                "unit": unit,
                "align": align,
                "count": count,
                "same_width": same_width,
            }
            named = {name: value for name, value in asked.items() if value != USUAL_SETTINGS[name]}
            option_checks.check_against(read, named)
            session.take_plan(read)
        else:
            form = RulesForm(ratio, recovery, allocation, unit, align, count, same_width)
            session.push(make_plan(session.known, rules_from(None, form, session.locks)))
        view = forecast.forecast_plan(session.known, session.plan)
        yield from ()  # nothing to wait for
        return {**plan_to_dict(session.plan), "forecast": dataclasses.asdict(view)}

    def prune(
        self, request: gr.Request, text: str = "encyclopedia", window: int = 128, limit: int = 8192
    ) -> Action:
        """Prune by the present plan, without and with its recovery, and measure both against the dense model.

        Return the figures of the run, and the predicted and measured error of every layer.
        """
        session = session_of(request)
        asked = asked_for(MeasureForm(text, window, limit, prompts="", new_tokens=1))
        yield comparing.start_compare(REGISTRY, session, asked)
        run = session.runs[-1]
        return {
            **run_figures(run),
            "layers": [{"error_predicted": p, "error_measured": m} for p, m in run.errors],
        }

    def evaluate(
        self, request: gr.Request, text: str = "encyclopedia", window: int = 128, limit: int = 8192
    ) -> Action:
        """Measure the models of the last pruning again, on another text or window.

        Return the figures of the run.
        """
        session = session_of(request)
        asked = asked_for(MeasureForm(text, window, limit, prompts="", new_tokens=1))
        yield comparing.start_measure(REGISTRY, session, asked)
        return run_figures(session.run(comparing.present_comparison(session).run))

    def generate(
        self,
        request: gr.Request,
        prompt: str,
        max_new_tokens: int = 48,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Action:
        """Let all models of the last pruning continue one prompt.

        Return the prompt, and the answer of every model by its column name.
        """
        session = session_of(request)
        form = MeasureForm(limit=0, prompts="", new_tokens=max_new_tokens, temperature=temperature, seed=seed)
        asked = dataclasses.replace(asked_for(form), prompts=(prompt,))
        yield comparing.start_answers(REGISTRY, session, asked)
        return {"prompt": prompt, **session.results.answers[0].texts}

    def export(self, request: gr.Request, tier: str = "auto") -> Action:
        """Write and verify the checkpoint of the last pruning.

        Return its tier, folder (on a shared server only its name), size in bytes, and how it was verified.
        """
        session = session_of(request)
        yield work.start_export(REGISTRY, session, session.archive.chosen, tier)
        made = dict(session.run(session.archive.chosen).exported or {})
        made.pop("zip", None)
        if session.limits.shared:
            made["folder"] = Path(made["folder"]).name
        return made


def run_figures(run: Run) -> dict[str, Any]:
    """Return the figures of a run as plain data, with a row per model."""
    return {
        "run": run.number,
        "protocol": dataclasses.asdict(run.protocol),
        "ratio": run.plan.ratio_achieved,
        "models": [column_of(name, column) for name, column in run.columns.items()],
    }
