"""The topics panel: perplexity on every topic of the encyclopedia before and after, sorted by change."""

from __future__ import annotations

from typing import Any

import gradio as gr

from slimllm.calibration import texts
from slimllm.core.errors import Refusal
from ui.html.topics_table import topics_html
from ui.look.formatting import note_html
from ui.page.elements import add_heading, job_line, start_and_stop
from ui.page.inputs import Number
from ui.page.screen import Screen
from ui.session.forms import TopicsForm
from ui.session.registry import REGISTRY
from ui.session.requests import whole_number
from ui.session.session import Session
from ui.tasks import model_probes

PURPOSE = (
    "Cutting does not hit all knowledge alike. This measures every topic of the encyclopedia, on texts that "
    "the analysis never reads, and sorts them by how much harder they became."
)
EMPTY = "The topics appear here, row by row, as they are measured."


def build(screen: Screen) -> None:
    """Add the components and events of the panel."""
    lack = missing_kit()
    add_heading(screen, "topics", "What did it forget?", PURPOSE, lambda s: lack or needed_first(s))
    with gr.Row(elem_classes="bar"):
        button = gr.Button(
            "Measure every topic", elem_id="compare-topics-button", scale=0, min_width=190, interactive=False
        )
        stop = gr.Button("Stop", elem_id="compare-topics-stop", scale=0, min_width=90, interactive=False)
        limit = Number(
            TopicsForm().limit,
            label="Tokens of each topic",
            precision=0,
            elem_id="compare-topics-limit",
            scale=0,
            min_width=170,
        )
        job_line(screen, "topics", "compare-topics-progress", beside=("compare", "passage", "pace"))
    table = gr.HTML(elem_id="compare-topics", padding=False)
    screen.show(table, draw_topics, "topics", "table", pace=1.0)
    start_and_stop(screen, "topics", button, stop, lambda s: not lack and s.comparison is not None)
    screen.keep([limit], "topics", TopicsForm.list_shown, TopicsForm.take_entered)
    screen.on(button.click, "topics", start_topics, limit)


def missing_kit() -> str:
    """Return why topics cannot be measured if the starter kit is not installed, else an empty text."""
    try:
        texts.list_topics()
    except Refusal as refusal:
        return f"The topics come with the encyclopedia. {refusal}"
    return ""


def needed_first(session: Session) -> str:
    """Return what the panel still needs; empty if it needs nothing."""
    return "" if session.comparison else "Prune first."


def start_topics(session: Session, limit: Any) -> None:
    """Start measuring every topic.

    Raise `Refusal` if `limit` is not possible, if nothing has been pruned yet, or if another job of the
    session is active.
    """
    model_probes.start_topics(REGISTRY, session, whole_number(limit, "Tokens of each topic", 2, 1_000_000))


def draw_topics(session: Session) -> str:
    """Return the topics measured so far as HTML."""
    last = session.comparison
    if last is None or not (last.findings.topics or last.findings.too_short):
        return note_html("quiet", EMPTY)
    return topics_html(last.findings)
