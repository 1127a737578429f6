"""What a stop in the middle of training leaves, in words. Pure."""

from __future__ import annotations

from slimllm.core.types import Progress

TRAININGS = {  # stage of the progress → what trains, and what it only ever reads
    "gates": ("the training of the gates", "the dense model"),
    "tune": ("the fine-tuning", "the pruned model"),
}


def left_by(step: Progress | None) -> str:
    """Where a training that was stopped after this step ended and what it left unchanged; empty where
    nothing trained. The stage may follow a number, as in `2 gates`."""
    if step is None or step.stage.split(" ")[-1] not in TRAININGS:
        return ""
    what, model = TRAININGS[step.stage.split(" ")[-1]]
    return f"{what} ended at step {step.done} of {step.total} and left {model} unchanged"
