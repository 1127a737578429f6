"""The page's actions for programs: plain JSON in and out, by the names load, analyse, plan, prune, evaluate,
generate, export.

Every client has a session of its own; the heavy ones wait in the same queue as the page's jobs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from functools import wraps
from typing import Any

import gradio as gr

from slimllm import options, planning
from slimllm.answers import plain
from slimllm.recipes import plan_from_text, plan_to_dict
from slimllm.types import Refusal
from ui import trials, work
from ui.jobs import Job
from ui.own import tame
from ui.registry import REGISTRY
from ui.runs import Column, Run
from ui.session import Session
from ui.wishes import asked_for, calibration_of, plan_for

USUAL = {  # what the plan endpoint takes where nothing else is asked for
    "ratio": 0.2,
    "recovery": "auto",
    "allocation": "auto",
    "unit": "auto",
    "align": 8,
    "count": "decoder",
    "same_width": False,
}


def build(device: str, dtype: str, offline: bool) -> None:
    """Registers the endpoints."""
    endpoints = Endpoints(device, dtype, offline)
    for name in ("load", "analyse", "plan", "prune", "evaluate", "generate", "export"):
        gr.api(told(getattr(endpoints, name)), api_name=name, concurrency_limit=None)


def told(action: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """The action, its refusals as Gradio errors of one sentence, its answer as strict JSON."""

    @wraps(action)
    def act(*values: Any) -> dict[str, Any]:
        try:
            return plain(action(*map(tame, values)))
        except Refusal as refusal:
            raise gr.Error(str(refusal), print_exception=False) from None

    return act


def session_of(request: gr.Request) -> Session:
    """The session of one client."""
    return REGISTRY.open("api-" + hashlib.sha256(str(request.session_hash).encode()).hexdigest()[:32])


def finished(job: Job) -> Job:
    """The job once it is over; a `Refusal` with its sentence where it failed."""
    job.finished.wait()
    if job.state != "done":
        raise Refusal(job.error or f"{job.title} was stopped.")
    return job


def column_of(name: str, column: Column) -> dict[str, Any]:
    return {"name": name, **dataclasses.asdict(column)}


class Endpoints:
    """One method per endpoint; each answers with plain JSON."""

    def __init__(self, device: str, dtype: str, offline: bool):
        self.device, self.dtype, self.offline = device, dtype, offline

    def load(self, request: gr.Request, model: str = "smollm2") -> dict[str, Any]:
        """Loads a model: smollm2, a folder, a .gguf file or a hub id."""
        session = session_of(request)
        finished(work.start_load(REGISTRY, session, model, self.device, self.dtype, self.offline))
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
    ) -> dict[str, Any]:
        """Scores every layer, head and channel of the loaded model on a text."""
        session = session_of(request)
        asked = calibration_of(text, samples, length, seed)
        finished(work.start_analyse(REGISTRY, session, asked, method, self.offline, options))
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
    ) -> dict[str, Any]:
        """Plans the widths of all layers for a ratio, by the method's own recovery and allocation unless
        others are named; or takes a whole plan as it is."""
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
            named = {name: value for name, value in asked.items() if value != USUAL[name]}
            options.check_against(read, named)
            session.take_plan(read)
        else:
            session.push(
                plan_for(session.known, None, ratio, recovery, allocation, unit, align, count, same_width)
            )
        view = planning.forecast(session.known, session.plan)
        return {**plan_to_dict(session.plan), "forecast": dataclasses.asdict(view)}

    def prune(
        self, request: gr.Request, text: str = "encyclopedia", window: int = 128, limit: int = 8192
    ) -> dict[str, Any]:
        """Prunes by the present plan, without and with its recovery, and measures both against the dense
        model."""
        session = session_of(request)
        asked = asked_for(text, window, limit, "", 1, 0.0, 0, offline=self.offline)
        finished(trials.start_compare(REGISTRY, session, asked))
        run = session.runs[-1]
        return {
            **figures(run),
            "layers": [{"error_predicted": p, "error_measured": m} for p, m in run.errors],
        }

    def evaluate(
        self, request: gr.Request, text: str = "encyclopedia", window: int = 128, limit: int = 8192
    ) -> dict[str, Any]:
        """Measures the models of the last pruning again, on another text or window."""
        session = session_of(request)
        asked = asked_for(text, window, limit, "", 1, 0.0, 0, offline=self.offline)
        finished(trials.start_measure(REGISTRY, session, asked))
        return figures(session.run(trials.compared(session).run))

    def generate(
        self,
        request: gr.Request,
        prompt: str,
        max_new_tokens: int = 48,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> dict[str, Any]:
        """Lets all models of the last pruning continue one prompt."""
        session = session_of(request)
        asked = asked_for("encyclopedia", 128, 0, "", max_new_tokens, temperature, seed, offline=self.offline)
        asked = dataclasses.replace(asked, prompts=(prompt,))
        finished(trials.start_answers(REGISTRY, session, asked))
        return {"prompt": prompt, **session.answers[0].texts}

    def export(self, request: gr.Request, tier: str = "auto") -> dict[str, Any]:
        """Writes, verifies and packs the checkpoint of the last pruning."""
        session = session_of(request)
        finished(work.start_export(REGISTRY, session, session.archive.chosen, tier, self.offline))
        made = dict(session.run(session.archive.chosen).exported or {})
        made.pop("zip", None)
        return made


def figures(run: Run) -> dict[str, Any]:
    """The figures of a run, a row per model."""
    return {
        "run": run.number,
        "protocol": dataclasses.asdict(run.protocol),
        "ratio": run.plan.ratio_achieved,
        "models": [column_of(name, column) for name, column in run.columns.items()],
    }
