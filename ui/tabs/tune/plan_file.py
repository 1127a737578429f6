"""The plan as a file, for upload and download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from slimllm.core.errors import Refusal
from slimllm.core.fingerprints import told_changes
from slimllm.files import file_limits
from slimllm.planning import plan_json
from ui.session.session import Session


def load_plan(session: Session, path: str | None) -> None:
    """Make the plan in an uploaded file the present one.

    Raise `Refusal`, and change nothing, if the file cannot be read, is malformed, or is for another model.
    """
    if not path:
        return
    file = Path(path)
    try:
        text = file_limits.read_text(file, "The file", "choose a plan.json", plan_json.LARGEST_PLAN)
    except (OSError, UnicodeDecodeError):
        raise Refusal("The file is not readable text; choose a plan.json.") from None
    plan = plan_json.plan_from_text(text, "The plan")
    said = "The plan is loaded." + session.take_plan(plan)
    if session.analyses.find_origin(plan) is None:
        said += " It was made with another method or text; errors shown are from the present analysis."
    now = {"weights": session.loaded.subject.fingerprint.content} if session.loaded else {}
    said = " ".join([said, *told_changes(dict(plan.fingerprints), now, plan.calibration.text, plan.model)])
    session.say("tune", said, "good")


def draw_file(session: Session) -> Any:
    """Write the plan into a file, and return the button that downloads it."""
    if not session.plans:
        return gr.DownloadButton(interactive=False)
    file = session.folder / "plan.json"
    file.write_text(plan_json.plan_text(session.plan), encoding="utf-8")
    return gr.DownloadButton(value=str(file), interactive=True)


def draw_load(session: Session) -> Any:
    """Return the upload button, enabled once there is an analysis to judge a plan by."""
    return gr.UploadButton(interactive=session.analysis is not None)
