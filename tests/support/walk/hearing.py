"""Record what the server receives during a walk over the page, and make jobs wait until they are stopped."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import gradio as gr
import pytest

from slimllm.core.types import Progress
from ui.jobs.worker import Job
from ui.page.fast_blocks import Page as Blocks


@dataclass(frozen=True)
class Call:
    """One event as the server received it: what raised it, and its values by component."""

    targets: tuple[tuple[str, str], ...]  # (component, event)
    values: dict[str, Any]


class Ears:
    """All events that the server receives; components are named by their elem_id."""

    def __init__(self, patch: pytest.MonkeyPatch):
        self.calls: list[Call] = []
        self.ticking: set[int] = set()  # timers that the answers have switched on
        told, answered = Blocks.preprocess_data, Blocks.process_api

        async def heard(page: Any, block_fn: Any, inputs: Any, *more: Any, **named: Any) -> Any:
            """Record an event before its values are processed."""

            def name(id: Any) -> str:
                """Return the elem_id of a component, or its number if it has none."""
                return str(getattr(page.blocks.get(id), "elem_id", None) or id)

            values = {name(one._id): value for one, value in zip(block_fn.inputs, inputs, strict=False)}
            targets = tuple((name(id), str(event)) for id, event in block_fn.targets)
            self.calls.append(Call(targets, values))
            return await told(page, block_fn, inputs, *more, **named)

        async def answer(page: Any, block_fn: Any, *more: Any, **named: Any) -> Any:
            """Record which timers an answer starts or stops."""
            found = await answered(page, block_fn, *more, **named)
            for one, value in zip(block_fn.outputs, found["data"], strict=False):
                if isinstance(one, gr.Timer) and isinstance(value, dict) and "active" in value:
                    (self.ticking.add if value["active"] else self.ticking.discard)(one._id)
            return found

        patch.setattr(Blocks, "preprocess_data", heard)
        patch.setattr(Blocks, "process_api", answer)


class Hold:
    """Make every job wait at its first step until it is stopped, while `on` is set."""

    def __init__(self, patch: pytest.MonkeyPatch):
        self.on, self.there = False, threading.Event()
        note = Job.note

        def held(job: Job, progress: Progress) -> None:
            """Note a step; then wait if `on` is set, and say so by `there`."""
            note(job, progress)
            while self.on and not job.stopping.wait(0.02):
                self.there.set()

        patch.setattr(Job, "note", held)
