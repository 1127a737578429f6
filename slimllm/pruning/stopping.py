"""The state that a stopped training leaves, in words. Pure."""

from __future__ import annotations

from slimllm.core.types import Progress

# The stage of the progress → the training, and the model that it does not change.
TRAININGS = {
    "gates": ("the training of the gates", "the dense model"),
    "tune": ("the fine-tuning", "the pruned model"),
}


def left_by(step: Progress | None) -> str:
    """Return where a training that was stopped after this step ended, and which model it left unchanged.

    Return an empty string if nothing trained. The stage may follow a number, as in `2 gates`.
    """
    if step is None or step.stage.split(" ")[-1] not in TRAININGS:
        return ""
    what, model = TRAININGS[step.stage.split(" ")[-1]]
    return f"{what} ended at step {step.done} of {step.total} and left {model} unchanged"
