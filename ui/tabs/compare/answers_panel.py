"""The same prompts for every model, built-in and the user's own: answers side by side, differences marked."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import gradio as gr

from slimllm.core.errors import Refusal
from ui.html.answer_columns import answer_html
from ui.look.formatting import note_html
from ui.page.elements import add_heading
from ui.page.inputs import Number
from ui.page.screen import Screen
from ui.session.forms import PROMPTS, MeasureForm
from ui.session.requests import MOST_PROMPTS
from ui.session.session import Session

PURPOSE = (
    "All models go on from the same prompts with the same seed. Words that the dense model did not write are "
    "marked."
)
EMPTY = "The answers appear here side by side, word by word as they are written."


def build(screen: Screen) -> tuple[Any, ...]:
    """Add the prompts, the answer length, the temperature and the seed, and return their controls."""
    add_heading(screen, "answers", "Let them write", PURPOSE)
    usual = MeasureForm()
    with gr.Row(elem_classes="controls"):
        prompts = gr.Textbox(
            usual.prompts,
            label="Prompts to continue",
            info=f"one per line, up to {MOST_PROMPTS}",
            lines=3,
            max_lines=MOST_PROMPTS,
            elem_id="compare-prompt",
            scale=4,
            min_width=300,
        )
        length, heat, seed = (
            Number(
                value, label=label, info=info, precision=precision, elem_id=f"compare-{name}", min_width=120
            )
            for value, label, info, precision, name in (
                (usual.new_tokens, "Answer length", "new tokens at most", 0, "length"),
                (usual.temperature, "Temperature", "0: the likeliest word", None, "temperature"),
                (usual.seed, "Seed", "of the draw", 0, "seed"),
            )
        )
    return prompts, length, heat, seed


def build_ours(screen: Screen) -> None:
    """Add a button for each built-in prompt, which adds it to the prompts or removes it."""
    with gr.Row(elem_classes="bar chips", elem_id="compare-ours"):
        for place, prompt in enumerate(PROMPTS):
            button = gr.Button(prompt, size="sm", scale=0, min_width=60, elem_id=f"compare-ours-{place}")
            screen.on(button.click, "answers", partial(toggle_prompt, prompt=prompt), mode="multiple")


def build_answers(screen: Screen) -> None:
    """Add the answers."""
    with gr.Column(elem_id="compare-generations"):
        shown = gr.HTML(elem_id="compare-answers", padding=False)
    screen.show(shown, draw_answers, "answers", pace=0.4)


def toggle_prompt(session: Session, *, prompt: str) -> None:
    """Add a prompt, or remove it if it is there; raise `Refusal` if there are too many."""
    form = MeasureForm.of_session(session)
    lines = [line.strip() for line in str(form.prompts or "").splitlines() if line.strip()]
    if prompt in lines:
        lines.remove(prompt)
    elif len(lines) >= MOST_PROMPTS:
        raise Refusal(f"There is room for {MOST_PROMPTS} prompts; take one away first.")
    else:
        lines.append(prompt)
    replace(form, prompts="\n".join(lines)).fill_in(session)


def draw_answers(session: Session) -> str:
    """Return the answers so far as HTML."""
    if not session.results.answers:
        return note_html("quiet", EMPTY)
    return "".join(answer_html(place, answer) for place, answer in enumerate(session.results.answers))
