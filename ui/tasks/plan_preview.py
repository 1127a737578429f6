"""The job of the mask preview: mask the plan's units, read a few windows, continue the prompt. No Gradio.

It is a spare job: every other job goes first, and a newer preview replaces it.
"""

from __future__ import annotations

import time

from torch import Tensor

from slimllm.calibration import texts
from slimllm.core.errors import Refusal
from slimllm.core.shapes import SITES
from slimllm.core.types import Analysis, Progress
from slimllm.evaluation import evaluate
from slimllm.models.loading import Subject
from slimllm.pruning.masking import mask_units, masks_of
from slimllm.tokenizers.text_start import begin_ids, cut_windows
from ui.jobs.worker import Job, Steps
from ui.session.preview import Heard, Preview
from ui.session.registry import Registry
from ui.session.session import Session

# Tokens of a window. Short windows make short steps, and another job can start after each step.
WINDOW = 64
# Seconds that each model reads for, about.
READING = 0.9
MOST_WINDOWS = 16
NEW_TOKENS = 14
# Seconds after which a continuation ends, however short it is.
WRITING = 2.0
# Seconds without a newer change before the work begins.
STILL = 0.25
# Tokens per second below which a preview is made only on request.
SLOWEST = 40.0


def follow_plan(registry: Registry, session: Session) -> None:
    """Start a preview of a changed plan if previews are automatic and quick, else stop the present one.

    Do nothing if the present preview is for this plan.
    """
    preview = session.preview
    if not session.plans or preview.asks(session.plan):
        return
    if preview.auto and is_quick(session):
        start_preview(registry, session)
    else:
        drop_preview(registry, session)


def is_quick(session: Session) -> bool:
    """Return whether the model reads fast enough for a preview after every change."""
    return session.loaded is not None and session.loaded.rates.reading >= SLOWEST


def drop_preview(registry: Registry, session: Session) -> None:
    """Stop the preview that waits or runs."""
    preview = session.preview
    if preview.job is not None and preview.going:
        registry.worker.cancel(preview.job)
        preview.asked = None
    session.mark("preview")


def start_preview(registry: Registry, session: Session) -> Job:
    """Start the spare job that previews the present plan, in place of an earlier one; return the job.

    Raise `Refusal` if there is no model, analysis or plan.
    """
    subject, plan, analysis, preview = session.subject, session.plan, session.known, session.preview
    pace = session.loaded.rates.reading if session.loaded else SLOWEST
    drop_preview(registry, session)
    asked = preview.asked = plan, preview.solo
    prompt, sites = preview.prompt, (preview.solo,) if preview.solo else SITES

    def run_steps(job: Job) -> Steps:
        yield from wait_for_stillness(job)
        rows = preview_windows(subject, analysis, preview, pace, session.settings.offline)
        dense = Heard(*preview.dense_loss, preview.dense_texts.get(prompt, ""))
        preview.masked, preview.dense, preview.shown = Heard(), dense, asked
        slim = mask_units(subject, masks_of(analysis, plan, sites))
        yield from read_windows(slim, rows, preview.masked)
        if not dense.tokens:
            yield from read_windows(subject, rows, dense)
            preview.dense_loss = dense.loss, dense.tokens
        if prompt:
            yield from write_answer(slim, prompt, preview.masked)
        if prompt and prompt not in preview.dense_texts:
            yield from write_answer(subject, prompt, dense)
            preview.dense_texts[prompt] = dense.text

    job = Job("preview", "Preview", run_steps, on_progress=lambda _: session.mark("preview"), spare=True)
    preview.job = registry.worker.submit(job)
    session.mark("preview")
    return job


def wait_for_stillness(job: Job) -> Steps:
    """Wait STILL seconds, in short steps.

    While the user drags a fader, every preview is replaced before it has cost anything.
    """
    for _ in range(5):
        job.stopping.wait(STILL / 5)
        yield Progress("still", 0, 0)


def preview_windows(
    subject: Subject, analysis: Analysis, preview: Preview, pace: float, offline: bool
) -> Tensor:
    """Return the token windows (k, w) that all previews with this analysis read.

    The windows stay the same, so that figures of different plans can be compared. `pace` is the reading speed
    in tokens per second; it sets the number of windows. Raise `Refusal` if the text is too short.
    """
    name = analysis.calibration.text
    # The file behind a name may change, so the fingerprint of its tokens counts as well.
    read = f"{name} {analysis.fingerprints.get('tokens', '')}"
    if preview.rows is None or preview.text != read:
        preview.text, preview.dense_loss = read, (0.0, 0)
        count = min(max(2, round(READING * pace / WINDOW)), MOST_WINDOWS)
        # Of a hub data set, only the part that the analysis has read is sure to be on this machine.
        half: texts.Part = "calibration" if name in texts.HUB_SETS else "evaluation"
        part = texts.find_text(name, offline=offline).part(half)
        ids = texts.tokenize_documents(part, subject.tokenizer, limit=count * WINDOW)
        beginning = subject.beginning
        width = min(WINDOW, subject.shape.max_length, len(begin_ids(ids, beginning)))
        if width <= beginning.predicted_from:
            raise Refusal("The text is too short to preview anything on it; analyse with a longer one.")
        preview.rows = cut_windows(ids, width, beginning)
    return preview.rows


def read_windows(subject: Subject, rows: Tensor, heard: Heard) -> Steps:
    """Add the loss in nats and the predicted tokens of every window of `rows` (k, w) to `heard`."""
    for done, row in enumerate(rows, 1):
        heard.loss += evaluate.window_loss(subject, row[None])
        heard.tokens += len(row) - subject.beginning.predicted_from
        yield Progress("read", done, len(rows))


def write_answer(subject: Subject, prompt: str, heard: Heard) -> Steps:
    """Add the continuation of the prompt to `heard` piece by piece, for at most WRITING seconds."""
    end = time.monotonic() + WRITING
    for done, piece in enumerate(evaluate.generate_text(subject, prompt, max_new_tokens=NEW_TOKENS), 1):
        heard.text += piece
        yield Progress("write", done, NEW_TOKENS)
        if time.monotonic() > end:
            return
