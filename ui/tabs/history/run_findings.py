"""What was found out about the chosen run's models: answers, a passage, topics."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ui.facts.comparison import Answer
from ui.facts.runs import Run
from ui.html.answer_columns import answer_html
from ui.html.coloured_passage import best_reader, passage_html
from ui.html.topics_table import topics_html
from ui.look.theme import SCRIPTS
from ui.page.screen import Screen
from ui.session.session import Session


def build(screen: Screen) -> None:
    """Add the components; each is visible only if the run has something for it."""
    answers = gr.HTML(elem_id="history-answers", padding=False, visible=False)
    passage = gr.HTML(
        elem_id="history-passage",
        padding=False,
        visible=False,
        js_on_load=(SCRIPTS / "passage.js").read_text(encoding="utf-8"),
    )
    topics = gr.HTML(elem_id="history-topics", padding=False, visible=False)
    screen.show([answers, passage, topics], draw_findings, "runs")


def draw_findings(session: Session) -> list[Any]:
    """Return updates with the answers, the passage and the topics of the chosen run."""
    run = session.archive.chosen_run
    parts = (answers_html(run), kept_passage_html(run), kept_topics_html(run)) if run else ("", "", "")
    return [gr.HTML(value=part, visible=bool(part)) for part in parts]


def answers_html(run: Run) -> str:
    """Return what the models wrote after the same prompts, as HTML; empty if there were none."""
    if not run.answers:
        return ""
    rows = (
        answer_html(f"kept-{place}", Answer(prompt, dict(texts), done=True))
        for place, (prompt, texts) in enumerate(run.answers)
    )
    return f"<h3>What they wrote</h3>{''.join(rows)}"


def kept_passage_html(run: Run) -> str:
    """Return the passage that was read last, as HTML; empty if there is none."""
    if run.found is None or run.found.passage is None:
        return ""
    return f"<h3>Where it broke</h3>{passage_html(run.found.passage, best_reader(run.found.passage))}"


def kept_topics_html(run: Run) -> str:
    """Return the topics that were measured, as HTML; empty if there are none."""
    if run.found is None or not run.found.topics:
        return ""
    return f"<h3>What it forgot</h3>{topics_html(run.found)}"
