"""The mask preview on the Tune tab: what a plan does to the model, seconds after a change."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from typing import Any

import gradio as gr

from ui.look.formatting import escape_html, format_duration, format_figure
from ui.page.screen import Screen
from ui.session.preview import FIRST_PROMPT, Heard, Preview
from ui.session.registry import REGISTRY
from ui.session.session import Session
from ui.tasks import plan_preview

LONGEST_PROMPT = 2000  # characters
ALONE = {"attention": "attention alone", "mlp": "the MLP alone"}
# (largest factor of the dense model's perplexity, what it means), in ascending order.
VERDICTS = (
    (1.1, "It reads almost as well as before, even unmended."),
    (1.6, "It reads a little worse. Recovery usually wins most of that back."),
    (4.0, "It reads much worse. Look at what recovery brings before you go on."),
    (math.inf, "It hardly reads any more. Cut less, or check on Compare what recovery saves."),
)
LOST = "Neither model can read this text, so they cannot be compared."


def build(screen: Screen) -> None:
    """Add the components and events of the panel."""
    with gr.Column(elem_id="tune-preview-box"):
        with gr.Row(elem_classes="bar"):
            prompt = gr.Textbox(
                FIRST_PROMPT,
                label="Your prompt",
                info="both models go on from here",
                max_length=LONGEST_PROMPT,
                lines=1,
                max_lines=3,
                elem_id="tune-preview-prompt",
                scale=1,
                min_width=260,
            )
            auto = gr.Checkbox(
                True,
                label="Preview after every change",
                elem_id="tune-preview-auto",
                container=False,
                scale=0,
                min_width=220,
            )
            button = gr.Button("Preview", elem_id="tune-preview-button", scale=0, min_width=110)
        found = gr.HTML(elem_id="tune-preview", padding=False)
    screen.show(prompt, lambda s: s.preview.prompt, token=lambda s: (s.born, s.preview.prompt))
    screen.keep([auto], "tune", lambda s: [s.preview.auto], set_auto)
    screen.show(button, lambda s: gr.Button(interactive=bool(s.plans)), token=lambda s: bool(s.plans))
    screen.show(found, draw_preview, token=preview_token)
    screen.on(prompt.submit, "tune", hear_prompt, prompt)
    screen.on(prompt.blur, "tune", hear_prompt, prompt)
    screen.on(button.click, "tune", start_preview, prompt)


def preview_after(act: Callable[..., Any]) -> Callable[..., Any]:
    """Return a handler that calls `act`, and then previews the plan that results."""

    @wraps(act)
    def act_and_preview(session: Session, *values: Any) -> Any:
        answer = act(session, *values)
        plan_preview.follow_plan(REGISTRY, session)
        return answer

    return act_and_preview


def show_tab(session: Session) -> None:
    """Preview the present plan when the tab opens."""
    plan_preview.follow_plan(REGISTRY, session)


def grasp_fader(session: Session) -> None:
    """Stop the preview when the user grasps a fader.

    The preview is out of date then, and dragging needs the processor.
    """
    plan_preview.drop_preview(REGISTRY, session)


def hear_prompt(session: Session, prompt: Any) -> None:
    """Start a preview if there is a plan and the prompt has changed."""
    if session.plans and str(prompt or "").strip() != session.preview.prompt:
        start_preview(session, prompt)


def start_preview(session: Session, prompt: Any) -> None:
    """Preview the present plan, even if it was previewed before; raise `Refusal` if there is none."""
    session.preview.prompt = str(prompt or "").strip()[:LONGEST_PROMPT]
    plan_preview.start_preview(REGISTRY, session)


def set_auto(session: Session, entered: dict[int, Any]) -> None:
    """Set whether there is a preview after every change, or only on request."""
    (auto,) = entered.values()
    session.preview.auto = bool(auto)
    plan_preview.follow_plan(REGISTRY, session)


def preview_token(session: Session) -> tuple[Any, ...]:
    """Return what the panel's picture depends on."""
    job, serial = session.preview.job, session.serial
    return (
        serial["preview"],
        serial["plan"],
        job and (job.state, REGISTRY.worker.place(job)),
        session.born,
    )


def draw_preview(session: Session) -> str:
    """Return the preview so far as HTML; the model's text and the prompt are escaped."""
    preview = session.preview
    plan = session.present
    if plan is None:
        return preview_shell(
            "", '<p class="mp-none">Once there is a plan, this shows what it does to the model.</p>'
        )
    failed = preview.job is not None and preview.job.state == "failed"
    if failed and preview.job is not None:
        return preview_shell("", f'<p class="mp-none">{escape_html(preview.job.error)}</p>')
    said = preview_state(session)
    if not preview.masked.tokens:
        return preview_shell(said, loss_block(preview) + text_blocks(preview))
    stale = "" if preview.shows(plan) else " mp-stale"
    return preview_shell(said, loss_block(preview) + text_blocks(preview), stale)


def preview_shell(said: str, body: str, stale: str = "") -> str:
    """Return the frame of the panel as HTML; it always says that this is a preview."""
    return (
        f'<section class="mp-box{stale}" aria-label="Preview without recovery">'
        '<div class="mp-head"><span class="mp-badge">Preview, no recovery</span>'
        "<span>Units are only silenced in the dense model; nothing is cut or mended yet.</span>"
        f'<span class="mp-state" role="status">{escape_html(said)}</span></div>'
        f'<div class="mp-body">{body}</div></section>'
    )


def preview_state(session: Session) -> str:
    """Return in a few words what the preview is doing."""
    preview, job = session.preview, session.preview.job
    if job is None or job.state == "stopped" or not preview.asks(session.plan):
        if not plan_preview.is_quick(session):
            return "This model reads slowly here: press Preview."
        return "Waiting for your hand." if preview.auto else "The plan has changed: press Preview."
    if job.state == "queued":
        return "Waits until other work is done." if REGISTRY.worker.place(job) else "Starting …"
    if job.state == "running":
        words = {"read": "Reading …", "write": "Writing …"}
        return words.get(job.progress.stage if job.progress else "", "Starting …")
    return f"done in {format_duration(max(1.0, job.elapsed))}"


def loss_block(preview: Preview) -> str:
    """Return perplexity on the windows, beside the dense model's on the same windows, as HTML."""
    mine, dense = preview.masked.perplexity, preview.dense.perplexity
    whole = preview.dense.tokens if preview.dense.tokens == preview.dense_loss[1] else 0
    soloist = preview.shown[1] if preview.shown else ""
    alone = f", {ALONE[soloist]}" if soloist else ""
    number = "–" if mine is None else format_figure(mine)
    against, verdict = "", ""
    if mine is not None and dense is not None and preview.masked.tokens == whole:
        ratio = mine / dense
        against = (
            f"dense {format_figure(dense)}"
            if math.isnan(ratio)
            else f"dense {format_figure(dense)}, {'×' + format_figure(ratio) if ratio < 1000 else 'far more'}"
        )
        verdict = next((words for most, words in VERDICTS if ratio <= most), LOST)
    slice_of = f"on {preview.masked.tokens} tokens" if preview.masked.tokens else "on a few windows of text"
    return (
        f'<div class="mp-loss"><span class="mp-label">Perplexity{escape_html(alone)}</span>'
        f'<output class="mp-number">{number}</output>'
        f'<span class="mp-note">{escape_html(against) or "&nbsp;"}</span>'
        f'<span class="mp-note">{escape_html(slice_of)}, lower is better</span>'
        f'<p class="mp-verdict">{escape_html(verdict)}</p></div>'
    )


def text_blocks(preview: Preview) -> str:
    """Return what both models write after the prompt, as HTML."""
    if not preview.prompt:
        return '<p class="mp-none">Write a prompt, and both models go on from it here.</p>'
    return text_block("Dense", preview.prompt, preview.dense) + text_block(
        "Silenced", preview.prompt, preview.masked
    )


def text_block(title: str, prompt: str, found: Heard) -> str:
    """Return what one model writes after the prompt, as HTML."""
    return (
        f'<div class="mp-text"><span class="mp-label">{title}</span>'
        f"<p><span>{escape_html(prompt)}</span>{escape_html(found.text)}</p></div>"
    )
