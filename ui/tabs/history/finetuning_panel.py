"""Fine-tuning on the History tab: the chosen run's model is trained on a text."""

from __future__ import annotations

from typing import Any

import gradio as gr

from slimllm.calibration import texts
from slimllm.core.errors import Refusal
from slimllm.pruning import finetuning
from ui.charts import training_charts
from ui.look.formatting import format_duration, note_html
from ui.page.elements import job_line, start_and_stop
from ui.page.inputs import Number
from ui.page.plotview import PlotView
from ui.page.screen import Screen
from ui.session.finetuning_state import BATCH, LENGTH, MOST_TRAINING_STEPS, read_tuning_request, table_of
from ui.session.forms import TuningForm
from ui.session.registry import REGISTRY
from ui.session.requests import text_choices
from ui.session.session import Session
from ui.tasks.finetuning_run import TIMES_FORWARD, start_finetuning

USUAL_TUNING = TuningForm()


def build(screen: Screen, number: Any) -> None:
    """Add the controls, the loss curve and the table, folded at first.

    `number` is the control with the number of the run that the page shows.
    """
    with gr.Accordion("Fine-tune what was pruned", open=False, elem_id="polish"):
        about = gr.HTML(elem_id="polish-about", padding=False)
        asked = build_controls()
        preflight = gr.HTML(elem_id="polish-preflight", padding=False)
        with gr.Row(elem_classes="bar"):
            button = gr.Button(
                "Fine-tune", elem_id="polish-button", scale=0, min_width=140, interactive=False
            )
            stop = gr.Button("Stop", elem_id="polish-stop", scale=0, min_width=90, interactive=False)
            job_line(screen, "polish", "polish-progress", beside="export")
        table = gr.HTML(elem_id="polish-table", padding=False)
        with gr.Column(visible=False, elem_id="polish-curve-panel") as panel:
            curve = PlotView(
                height=280,
                label="The loss while it learns",
                placeholder="The loss, step by step.",
                elem_id="polish-curve",
            )
    screen.show(about, draw_tuning_words, "runs")
    screen.keep(asked, "history", TuningForm.list_shown, TuningForm.take_entered)
    screen.show(preflight, draw_preflight, "polish-request", "subject", "runs")
    screen.show(table, draw_readings, "polish")
    screen.show(
        panel, lambda s: gr.Column(visible=is_finetuning(s)), token=lambda s: (s.born, is_finetuning(s))
    )
    screen.show(curve, draw_curve, "polish", pace=1.0)
    start_and_stop(screen, "polish", button, stop, can_finetune)
    screen.on(button.click, "history", press_finetune, number, *asked)


def build_controls() -> tuple[Any, ...]:
    """Add the text to learn, the steps and the learning rate, and return them."""
    limits = REGISTRY.settings.limits
    with gr.Row(elem_classes="controls"):
        text = gr.Dropdown(
            text_choices(limits),
            value=USUAL_TUNING.text,
            allow_custom_value=True,
            label="Text to learn",
            info="its calibration part"
            + ("" if limits.shared else ", or the path of a .txt, .jsonl or .parquet file"),
            elem_id="polish-text",
            scale=3,
            min_width=230,
        )
        steps = Number(
            USUAL_TUNING.steps,
            label="Steps",
            info=f"{BATCH} pieces of {LENGTH} tokens each",
            precision=0,
            minimum=1,
            maximum=MOST_TRAINING_STEPS,
            elem_id="polish-steps",
            min_width=130,
        )
        rate = Number(
            USUAL_TUNING.rate,
            label="Learning rate",
            info="higher learns faster and forgets more",
            elem_id="polish-rate",
            min_width=130,
        )
    return text, steps, rate


def press_finetune(session: Session, number: Any, *asked: Any) -> None:
    """Start the fine-tuning that the controls ask for.

    Raise `Refusal` if a setting is not possible, if there is no such run, or if another job of the session is
    active.
    """
    form = TuningForm.from_values(asked)
    form.fill_in(session)
    start_finetuning(REGISTRY, session, number, read_tuning_request(form))


def can_finetune(session: Session) -> bool:
    """Return whether there is a run, and peft is installed."""
    return bool(session.runs) and not finetuning.missing_peft()


def is_finetuning(session: Session) -> bool:
    """Return whether there are losses to show."""
    return session.results.finetuning is not None and bool(session.results.finetuning.losses)


def draw_tuning_words(session: Session) -> str:
    """Return what fine-tuning does, and to which run, as HTML."""
    if lack := finetuning.missing_peft():
        return note_html("bad", lack)
    run = session.archive.chosen_run
    words = (
        "The model reads a text again and learns to guess its next words: small matrices beside its weights "
        "are trained (LoRA) and then merged, so nothing becomes larger. "
    )
    if run is None:
        return note_html("quiet", words + "It needs a run first: prune a model on the Compare tab.")
    return note_html(
        "quiet", words + f"{run.name} stays as it is; what comes of it becomes a run of its own."
    )


def draw_preflight(session: Session) -> str:
    """Return how many tokens the fine-tuning reads, and how long it takes, as HTML."""
    if not can_finetune(session):
        return ""
    try:
        request = read_tuning_request(TuningForm.of_session(session))
    except Refusal as refusal:
        return note_html("bad", str(refusal))
    read = request.steps * BATCH * LENGTH
    words = f"Learns from {read:,} tokens"
    if session.loaded is not None:
        seconds = TIMES_FORWARD * read / max(session.loaded.rates.reading, 1e-9)
        words += f": roughly {format_duration(seconds)}, and then it is measured"
    return note_html("quiet", f"{words}.")


def draw_readings(session: Session) -> str:
    """Return perplexity before and after as a table, as far as it is known."""
    shown = session.results.finetuning
    if shown is None:
        return ""
    try:
        same = not texts.find_text(shown.request.text, offline=True).parts_differ
    except Refusal:
        same = False
    return table_of(shown, same)


def draw_curve(session: Session) -> Any:
    """Return the curve of the losses so far, or None."""
    shown = session.results.finetuning
    return training_charts.loss_chart(shown.losses, shown.request.steps) if shown and shown.losses else None
