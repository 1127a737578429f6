"""The History tab: every run with its figures and the run it came from.

The user can choose, pin, annotate and delete runs, compare two plans, and take one back into Tune.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import gradio as gr

from ui.charts import result_charts
from ui.facts.runs import Run
from ui.html.runs_table import PRESS, came_from, damaged_line, deleted_line, runs_table
from ui.html.tables import table_of
from ui.look.formatting import (
    dropped_layers,
    escape_html,
    format_change,
    format_share,
    format_time,
    method_title,
    note_html,
)
from ui.page.elements import add_intro, add_lead, progress_line
from ui.page.inputs import Number
from ui.page.plotview import PlotView
from ui.page.screen import Screen
from ui.session.parts import Part
from ui.session.registry import REGISTRY
from ui.session.session import Session
from ui.tabs.history import downloads, finetuning_panel, run_findings
from ui.tabs.history.plan_difference import (
    beside_run,
    draw_against,
    draw_difference,
    draw_difference_words,
    lay_beside,
    pair_token,
)
from ui.tasks.model_remaking import is_made_for
from ui.tasks.run_return import start_restore

PURPOSE = "All you have tried so far, also after a restart: look back, go on from one, take one away."
EMPTY = "Every comparison becomes a row here, and stays when you close the page."
LONGEST_NOTE = 500


def build(screen: Screen) -> None:
    """Add the components and events of the tab."""
    add_intro(screen, "history", PURPOSE, lambda s: "" if s.runs else "It needs a comparison first.")
    with gr.Row(elem_classes="next"):
        add_lead(screen, "history", lambda s: None if s.runs else ("Go to Compare", "compare"))
    build_overview(screen)
    # The style sheet hides the column while there is no run.
    with gr.Column(elem_id="history-one"):
        number = looked_at(screen)
        run_findings.build(screen)
        downloads.build(screen, number)
        finetuning_panel.build(screen, number)


def build_overview(screen: Screen) -> None:
    """Add all runs as points and as a table, and the deleted runs."""
    damaged = gr.HTML(elem_id="history-damaged", padding=False)
    scatter = PlotView(
        height=340,
        label="Size and perplexity of every run",
        placeholder="Every run becomes a point: further left is smaller, further down is better.",
        elem_id="history-scatter",
    )
    others = gr.HTML(elem_id="history-others", padding=False)
    table = gr.HTML(elem_id="history-table", padding=False, js_on_load=PRESS)
    deleted = gr.HTML(elem_id="history-deleted", padding=False, js_on_load=PRESS)
    screen.show(damaged, lambda s: note_html("bad", damaged_line([file.name for file in s.archive.damaged])))
    screen.show(scatter, draw_scatter, "runs")
    screen.show(others, draw_others, "runs")
    screen.show(table, draw_runs, "runs")
    screen.show(deleted, lambda s: deleted_line(s.archive.store.deleted()), "runs")
    screen.on(scatter.click, "history", choose_point, click=True, mode="always_last")
    screen.on(table.choose, "history", choose_row, click=True, mode="always_last")
    screen.on(table.pin, "history", pin_row, click=True, mode="multiple")
    screen.on(deleted.back, "history", bring_back, click=True, mode="multiple")


def looked_at(screen: Screen) -> Number:
    """Add the chosen run: words, figures, note, and its plan beside another one.

    Return a hidden control with its number. That is the run that this page shows, whichever run another page
    of the session chooses meanwhile.
    """
    about = gr.HTML(elem_id="history-about", padding=False)
    with gr.Row(elem_classes="bar"):
        restore = gr.Button(
            "Take its plan into Tune", variant="primary", elem_id="history-restore", scale=0, min_width=200
        )
        delete = gr.Button("Delete this run", elem_id="history-delete", scale=0, min_width=140)
        line = gr.HTML(elem_id="history-restoring", elem_classes="job-line", padding=False)
    number = Number(visible=False)
    with gr.Row(elem_classes="controls"):
        words = gr.Textbox(
            label="Your note",
            info="what you wanted to try, what you saw; kept when you leave the box",
            max_length=LONGEST_NOTE,
            elem_id="history-note",
            scale=3,
            min_width=280,
        )
        against = gr.Dropdown(
            [],
            label="Its plan beside",
            info="what differs, layer by layer",
            elem_id="history-against",
            scale=1,
            min_width=200,
        )
    said = gr.HTML(elem_id="history-difference-words", padding=False)
    picture = PlotView(
        height=560,
        label="What two plans keep in every layer",
        placeholder="Plans of two different models have no layers in common.",
        elem_id="history-difference",
    )
    screen.show(about, draw_run_words, "runs")
    screen.show([number, words], draw_note, token=lambda s: (s.born, s.archive.chosen, note_of(s)))
    screen.show([restore, delete], draw_run_buttons, token=draw_token)
    screen.show(line, draw_line, token=draw_line)
    parts: tuple[Part, ...] = ("runs", "controls")
    screen.keep([against], "history", lambda s: [beside_run(s)], lay_beside, draw=draw_against, parts=parts)
    screen.show(said, draw_difference_words, token=pair_token)
    screen.show(picture, draw_difference, token=pair_token)
    screen.on([words.blur, words.submit], "history", keep_note, number, words)
    screen.on(restore.click, "history", restore_plan, number)
    screen.on(delete.click, "history", delete_shown, number)
    return number


# What happens -----------------------------------------------------------------------------------------------


def pressed_run(session: Session, event: gr.EventData) -> int:
    """Return the number of the run whose row was pressed; raise `Refusal` if there is none."""
    number = event._data.get("run")
    return session.run(number if isinstance(number, int) else None).number


def choose_row(session: Session, event: gr.EventData) -> None:
    """Choose the run of a table row."""
    session.archive.choose(pressed_run(session, event))


def choose_point(session: Session, event: gr.EventData) -> None:
    """Choose the run of a point."""
    runs, place = comparable_runs(session), event._data.get("custom")
    if isinstance(place, int) and 0 <= place < len(runs):
        session.archive.choose(runs[place].number)


def pin_row(session: Session, event: gr.EventData) -> None:
    """Pin the run of a row to the top, or unpin it."""
    run = session.run(pressed_run(session, event))
    session.archive.amend(run.number, pinned=not run.pinned)


def keep_note(session: Session, number: Any, words: str | None) -> None:
    """Store the user's note on a run, up to LONGEST_NOTE characters."""
    run = session.archive.find(number)
    said = str(words or "").strip()[:LONGEST_NOTE]
    if run is not None and said != run.note:
        session.archive.amend(run.number, note=said)


def delete_shown(session: Session, number: Any) -> None:
    """Delete a run so that it can be brought back; raise `Refusal` if it is deleted already."""
    session.archive.delete(number)


def bring_back(session: Session, event: gr.EventData) -> None:
    """Bring back a deleted run."""
    number = event._data.get("run")
    if isinstance(number, int):
        session.archive.bring_back(number)


def restore_plan(session: Session, number: Any) -> str | None:
    """Make a run's plan the present one.

    If its analysis is known, do it at once, and return the tab Tune. Otherwise start the job that loads and
    analyses the model again, and return None. Raise `Refusal` if there is no such run.
    """
    run = session.run(number)
    mine = session.loaded is not None and is_made_for(run.plan, session.loaded.subject)
    if not mine or session.analyses.find_origin(run.plan) is None:
        start_restore(REGISTRY, session, run.number)
        return None
    kept = session.take_plan(run.plan)
    session.results.parent = run.number
    session.say("tune", f"This is the plan of {run.name}.{kept}", "good")
    return "tune"


# What is shown ----------------------------------------------------------------------------------------------


def comparable_runs(session: Session) -> list[Run]:
    """Return the runs of the chosen run's model, with perplexity measured in the same way."""
    run = session.archive.chosen_run
    if run is None:
        return []
    return [one for one in session.runs if one.is_like(run) and one.best.perplexity is not None]


def draw_scatter(session: Session) -> Any:
    """Return the picture of size against perplexity for the comparable runs, or None."""
    runs = comparable_runs(session)
    if not runs:
        return None
    rows = [
        {
            "name": run.name,
            "parameters": run.best.parameters,
            "perplexity": run.best.perplexity,
            "words": f"{method_title(run.plan.method)}, {format_share(run.smaller)} smaller, "
            f"{format_change(run.best.perplexity or 0.0, run.columns['dense'].perplexity or 0.0)} perplexity",
        }
        for run in runs
    ]
    dense = runs[-1].columns["dense"]
    reference = {"name": "Dense", "words": "the whole model", **dataclasses.asdict(dense)}
    place = next((i for i, run in enumerate(runs) if run.number == session.archive.chosen), None)
    return result_charts.history_chart(rows, reference, place)


def draw_others(session: Session) -> str:
    """Return which runs are not in the picture, and why, as HTML."""
    left = len(session.runs) - len(comparable_runs(session))
    if not left:
        return ""
    runs = "1 run is" if left == 1 else f"{left} runs are"
    return note_html(
        "quiet",
        f"{runs} not in the picture: of another model, or measured on another text or in other windows. "
        "Choose one in the table to see those like it.",
    )


def draw_runs(session: Session) -> str:
    """Return the table of all runs as HTML."""
    if not session.runs:
        return f'<div class="nothing">{note_html("info", EMPTY)}</div>'
    return runs_table(session.runs, session.archive.chosen)


def draw_run_buttons(session: Session) -> list[Any]:
    """Return updates that enable the buttons for the chosen run."""
    able = bool(session.runs)
    return [gr.Button(interactive=able and not session.busy), gr.Button(interactive=able)]


def draw_token(session: Session) -> tuple[Any, ...]:
    """Return what the buttons for the chosen run depend on."""
    return session.busy, session.serial["runs"]


def draw_line(session: Session) -> str:
    """Return the progress of the job that takes a plan back into Tune, as HTML."""
    job = session.job
    if job is None or job.kind != "restore":
        return ""
    return progress_line(job, REGISTRY.worker.place(job))


def note_of(session: Session) -> str:
    """Return the note on the chosen run."""
    run = session.archive.chosen_run
    return run.note if run else ""


def draw_note(session: Session) -> list[Any]:
    """Return the number of the chosen run, and its note."""
    return [session.archive.chosen, note_of(session)]


def draw_run_words(session: Session) -> str:
    """Return the chosen run in words and figures, as HTML."""
    run = session.archive.chosen_run
    return about_run(run) if run else ""


def about_run(run: Run) -> str:
    """Return a run in words and figures, as HTML."""
    plan = run.plan
    of = "all parameters" if plan.count == "all" else "the parameters in its layers"
    said = (
        f"{plan.model} became {format_share(run.smaller)} smaller ({format_share(plan.ratio_achieved)} of "
        f"{of}) by "
        f"{method_title(plan.method)} with recovery {plan.recovery}, having read {plan.calibration.text}. "
        f"{dropped_layers(plan)}"
    )
    origin = f"{format_time(run.made)}, {came_from(run)}"
    figures = table_of(dict(run.columns), run.protocol, plan.recovery)
    title = f'<h3 class="run">{run.name}<small>{escape_html(origin)}</small></h3>'
    return f"{title}<p>{escape_html(said)}</p>{figures}"
