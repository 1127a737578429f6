"""The job of the mask preview: silence the plan's units, read a few windows, continue the prompt. No Gradio.

It is a spare job: it gives way to every other, and a newer preview replaces it.
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

WINDOW = 64  # tokens: short, so that a step is soon over and the job can give way
READING = 0.9  # seconds of reading that are aimed at for each model
MOST_WINDOWS = 16
NEW_TOKENS = 14
WRITING = 2.0  # seconds after which a continuation ends with what there is
STILL = 0.25  # seconds without a newer change before the work begins
SLOWEST = 40.0  # tokens per second below which a preview is made only on request


def follow_plan(registry: Registry, session: Session) -> None:
    """Begins a preview of a plan that has changed, where that is wanted and quick enough; one under way is
    out of date and ends."""
    preview = session.preview
    if not session.plans or preview.asks(session.plan):
        return
    if preview.auto and is_quick(session):
        start_preview(registry, session)
    else:
        drop_preview(registry, session)


def is_quick(session: Session) -> bool:
    """Whether the model reads fast enough for a preview after every change."""
    return session.loaded is not None and session.loaded.rates.reading >= SLOWEST


def drop_preview(registry: Registry, session: Session) -> None:
    """Ends the preview under way."""
    preview = session.preview
    if preview.job is not None and preview.going:
        registry.worker.cancel(preview.job)
        preview.asked = None
    session.mark("preview")


def start_preview(registry: Registry, session: Session) -> Job:
    """The spare job that previews the present plan; it takes the place of one under way."""
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
    """Waits a moment: while a hand goes on moving, every preview is replaced before it has cost anything."""
    for _ in range(5):
        job.stopping.wait(STILL / 5)
        yield Progress("still", 0, 0)


def preview_windows(
    subject: Subject, analysis: Analysis, preview: Preview, pace: float, offline: bool
) -> Tensor:
    """The windows (k, w) that all previews with this analysis read, so that their figures can be compared."""
    name = analysis.calibration.text
    read = f"{name} {analysis.fingerprints.get('tokens', '')}"  # the words that the name stood for
    if preview.rows is None or preview.text != read:
        preview.text, preview.dense_loss = read, (0.0, 0)
        count = min(max(2, round(READING * pace / WINDOW)), MOST_WINDOWS)
        # of a hub set, only the part that the analysis has read is sure to be on this machine
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
    """Adds the loss of every window of the rows (k, w)."""
    for done, row in enumerate(rows, 1):
        heard.loss += evaluate.window_loss(subject, row[None])
        heard.tokens += len(row) - subject.beginning.predicted_from
        yield Progress("read", done, len(rows))


def write_answer(subject: Subject, prompt: str, heard: Heard) -> Steps:
    """Adds the continuation of the prompt piece by piece, as far as it gets in the time."""
    end = time.monotonic() + WRITING
    for done, piece in enumerate(evaluate.generate_text(subject, prompt, max_new_tokens=NEW_TOKENS), 1):
        heard.text += piece
        yield Progress("write", done, NEW_TOKENS)
        if time.monotonic() > end:
            return
