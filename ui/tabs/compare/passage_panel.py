"""The passage panel: a passage with its tokens coloured by how much their losses rose."""

from __future__ import annotations

from functools import partial
from typing import Any

import gradio as gr

from ui.facts.runs import LABELS, best_name
from ui.html.coloured_passage import passage_html
from ui.look.formatting import note_html
from ui.look.theme import SCRIPTS
from ui.page.elements import add_heading, job_line, start_and_stop
from ui.page.screen import Screen
from ui.session.forms import AgainstForm, PassageForm
from ui.session.registry import REGISTRY
from ui.session.session import Session
from ui.tasks import model_probes

PURPOSE = (
    "Every word of a passage, coloured by how much harder it became to foresee. Point at a word, or go along "
    "with the arrow keys, to see what each model expected instead."
)
EMPTY = "A passage appears here once you ask for one."


def build(screen: Screen, text: Any) -> None:
    """Add the components and events; `text` is the control of the text to measure on."""
    add_heading(
        screen, "passage", "Where did it break?", PURPOSE, lambda s: "" if s.comparison else "Prune first."
    )
    with gr.Row(elem_classes="controls"):
        own = gr.Textbox(
            label="Your own passage",
            info="empty: one from the text above, out of the part that the analysis never reads",
            lines=2,
            max_lines=8,
            max_length=8000,
            elem_id="compare-passage-own",
            min_width=300,
        )
    with gr.Row(elem_classes="bar"):
        button = gr.Button(
            "Show where it broke", elem_id="compare-passage-button", scale=0, min_width=190, interactive=False
        )
        worst = gr.Button(
            f"Find the worst of {model_probes.SEARCHED}",
            elem_id="compare-passage-worst",
            scale=0,
            min_width=180,
            interactive=False,
        )
        stop = gr.Button("Stop", elem_id="compare-passage-stop", scale=0, min_width=90, interactive=False)
        job_line(screen, "passage", "compare-passage-progress", beside=("compare", "topics", "pace"))
    against = gr.Radio(
        [],
        label="Which model",
        visible=False,
        elem_id="compare-passage-against",
        elem_classes="inline-choice",
    )
    shown = gr.HTML(
        elem_id="compare-passage",
        padding=False,
        js_on_load=(SCRIPTS / "passage.js").read_text(encoding="utf-8"),
    )
    screen.show(shown, draw_passage, "passage", "table", "against")
    screen.keep([own], "passage", PassageForm.list_shown, PassageForm.take_entered)
    screen.keep(
        [against],
        "passage",
        lambda s: [chosen_model(s)],
        AgainstForm.take_entered,
        draw=draw_against,
        parts=["passage", "table"],
    )
    start_and_stop(screen, "passage", button, stop, lambda s: s.comparison is not None, dress_passage)
    screen.show(
        worst,
        lambda s: gr.Button(interactive=s.comparison is not None and not s.busy),
        token=lambda s: s.comparison is not None and not s.busy,
    )
    screen.on(button.click, "passage", partial(press_passage, search=False), own, text)
    screen.on(worst.click, "passage", partial(press_passage, search=True), own, text)


def press_passage(session: Session, own: str | None, text: str | None, *, search: bool) -> None:
    """Start reading a passage, or with `search` the search for the worst one.

    Raise `Refusal` if nothing has been pruned yet, or if another job of the session is active.
    """
    given = "" if search else str(own or "")
    model_probes.start_passage(REGISTRY, session, given, str(text or "").strip(), search=search)


def dress_passage(session: Session) -> dict[str, Any]:
    """Return the label of the button."""
    seen = session.comparison is not None and session.comparison.findings.next_passage > 0
    return {"value": "Show the next passage" if seen else "Show where it broke"}


def chosen_model(session: Session) -> str:
    """Return the name of the model that colours the passage; empty before a comparison."""
    models = session.comparison.models if session.comparison else {}
    wish = str(AgainstForm.of_session(session).model)
    return wish if wish in models or not models else best_name(models)


def draw_against(session: Session) -> list[Any]:
    """Return the choice of the model; it is hidden if there is only one."""
    last = session.comparison
    if last is None or last.findings.passage is None or len(last.models) < 2:
        return [gr.Radio(visible=False)]
    choices = [(LABELS[name], name) for name in last.models]
    return [gr.Radio(choices=choices, value=chosen_model(session), visible=True)]


def draw_passage(session: Session) -> str:
    """Return the passage that was read last, as HTML."""
    last = session.comparison
    if last is None or last.findings.passage is None:
        return note_html("quiet", EMPTY)
    return passage_html(last.findings.passage, chosen_model(session))
