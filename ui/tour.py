"""The guide: five steps in plain words, as data, and the card that shows them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from ui.screen import Screen
from ui.session import Session
from ui.words import safe

STEPS = (
    (
        "load",
        "A model",
        "A language model is a stack of layers full of numbers. Press Load: the starter is real and small.",
    ),
    (
        "analyse",
        "What matters",
        "Press Analyse. The model reads a few pages, and we watch which of its parts change what comes out. "
        "In the pictures, strong colour means that a part matters, pale colour that it hardly does.",
    ),
    (
        "tune",
        "How small",
        "Turn the one dial: 0.2 takes away a fifth. The plan says where it is taken from; drag any fader if "
        "you know better.",
    ),
    (
        "compare",
        "What it cost",
        "Press Prune and compare. The parts are really cut out, the rest is mended, and all three models are "
        "measured and answer the same prompts, so that you can read the difference.",
    ),
    (
        "history",
        "Take it away",
        "Every try is kept here. Export writes a checkpoint that other programs load, after checking that it "
        "really does.",
    ),
)


def build(screen: Screen, start: gr.Button) -> None:
    """The card of the guide, hidden until asked for."""
    with gr.Column(visible=False, elem_id="tour") as card:
        words = gr.HTML(padding=True)
        with gr.Row(elem_classes="bar"):
            back = gr.Button("Back", scale=0, min_width=90, elem_id="tour-back")
            onward = gr.Button("Next", variant="primary", scale=0, min_width=90, elem_id="tour-onward")
            close = gr.Button("Close", scale=0, min_width=90, elem_id="tour-close")
    screen.show([card, words, back, onward], draw, token=lambda session: session.tour)
    screen.on(start.click, "tour", move(0))
    screen.on(back.click, "tour", move(-1))
    screen.on(onward.click, "tour", move(1))
    screen.on(close.click, "tour", leave)


def move(by: int) -> Callable[[Session], str | None]:
    """An act that goes to the first step (0), back or onward."""

    def act(session: Session) -> str | None:
        at = 0 if by == 0 or session.tour is None else session.tour + by
        session.tour = at if 0 <= at < len(STEPS) else None
        return None if session.tour is None else STEPS[session.tour][0]

    return act


def leave(session: Session) -> None:
    """Puts the guide away."""
    session.tour = None


def draw(session: Session) -> list[Any]:
    if session.tour is None:
        return [gr.Column(visible=False), "", gr.skip(), gr.skip()]
    _, title, text = STEPS[session.tour]
    last = session.tour == len(STEPS) - 1
    return [
        gr.Column(visible=True),
        f"<p><b>{session.tour + 1} of {len(STEPS)}: {safe(title)}.</b> {safe(text)}</p>",
        gr.Button(interactive=session.tour > 0),
        gr.Button("Done" if last else "Next"),
    ]
