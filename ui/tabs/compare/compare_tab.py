"""The Compare tab: prune, measure all models, and let them answer the same prompts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gradio as gr

from ui.facts.runs import Asked
from ui.jobs.worker import Job
from ui.page.elements import add_intro, add_lead, job_line, start_and_stop
from ui.page.inputs import Number
from ui.page.screen import Screen
from ui.session.forms import MeasureForm
from ui.session.registry import REGISTRY, Registry
from ui.session.requests import asked_for, text_choices
from ui.session.session import Session
from ui.tabs.compare import answers_panel, methods_panel, outcome, passage_panel, speed_panel, topics_panel
from ui.tasks import comparing

PURPOSE = "Cut the model by your plan, and see what that cost and what it saved."


def build(screen: Screen) -> None:
    """Add the components and events of the tab."""
    add_intro(screen, "compare", PURPOSE, lambda s: "" if s.plans else "It needs a plan first.")
    with gr.Row(elem_classes="next"):
        add_lead(screen, "compare-missing", missing_step)
    with gr.Row(elem_classes="bar"):
        button = gr.Button(
            "Prune and compare",
            variant="primary",
            elem_id="compare-button",
            scale=0,
            min_width=180,
            interactive=False,
        )
        stop = gr.Button("Stop", elem_id="compare-stop", scale=0, min_width=90, interactive=False)
        add_lead(screen, "compare", next_step)
        job_line(screen, "compare", "compare-progress", beside=("methods", "passage", "topics", "pace"))
    outcome.build(screen)
    text, window, limit = measure_box()
    with gr.Row(elem_classes="bar"):
        again = gr.Button(
            "Measure again", elem_id="compare-measure", scale=0, min_width=140, interactive=False
        )
    asked = (text, window, limit, *answers_panel.build(screen))
    answers_panel.build_ours(screen)
    with gr.Row(elem_classes="bar"):
        answers = gr.Button(
            "Answer again", elem_id="compare-answer", scale=0, min_width=140, interactive=False
        )
    answers_panel.build_answers(screen)
    passage_panel.build(screen, text)
    topics_panel.build(screen)
    speed_panel.build(screen)
    methods_panel.build(screen, asked)
    screen.keep(asked, "compare", MeasureForm.list_shown, MeasureForm.take_entered)
    start_and_stop(screen, "compare", button, stop, lambda s: bool(s.plans), dress_compare)
    screen.show([again, answers], draw_again, token=lambda s: bool(s.comparison) and not s.busy)
    screen.on(button.click, "compare", partial(press_compare, start=comparing.start_compare), *asked)
    screen.on(again.click, "compare", partial(press_compare, start=comparing.start_measure), *asked)
    screen.on(answers.click, "compare", partial(press_compare, start=comparing.start_answers), *asked)


def measure_box() -> tuple[Any, ...]:
    """Add the text, the window and the limit by which perplexity is measured; return their controls."""
    usual, limits = MeasureForm(), REGISTRY.settings.limits
    with gr.Row(elem_classes="controls"):
        text = gr.Dropdown(
            text_choices(limits),
            value=usual.text,
            allow_custom_value=True,
            label="Text to measure on",
            info="its evaluation part, which the analysis never reads",
            elem_id="compare-text",
            scale=3,
            min_width=230,
        )
        window = number_box(usual.window, "Window", "tokens read at once", "window")
        limit = number_box(usual.limit, "At most", "tokens; 0 for all", "limit")
    return text, window, limit


def number_box(value: int, label: str, info: str, name: str) -> Number:
    """Return a control for a whole number."""
    return Number(value, label=label, info=info, precision=0, elem_id=f"compare-{name}", min_width=120)


def next_step(session: Session) -> tuple[str, str] | None:
    """Return the label and the tab of the next step, or None until the present plan is measured."""
    done = session.comparison and not session.busy and not outcome.tell_outdated(session)
    return ("Next: keep or export it", "history") if done else None


def missing_step(session: Session) -> tuple[str, str] | None:
    """Return the label and the tab of what is still missing, or None."""
    if session.loaded is None:
        return "Go to Load", "load"
    return None if session.plans else ("Go to Analyse", "analyse")


def press_compare(session: Session, *values: Any, start: Callable[[Registry, Session, Asked], Job]) -> None:
    """Start one of the jobs of this tab with what the controls say.

    Raise `Refusal` if a setting or the job is not possible.
    """
    form = MeasureForm.from_values(values)
    found = asked_for(form)
    form.fill_in(session)
    start(REGISTRY, session, found)


def dress_compare(session: Session) -> dict[str, Any]:
    """Return the label and the look of the compare button."""
    if session.comparison and not session.busy and session.plans and session.comparison.plan == session.plan:
        return {"value": "Prune again", "variant": "secondary"}
    return {"value": "Prune and compare", "variant": "primary"}


def draw_again(session: Session) -> list[Any]:
    """Return updates that enable the buttons for measuring and answering again."""
    able = session.comparison is not None and not session.busy
    return [gr.Button(interactive=able), gr.Button(interactive=able)]
