"""The History tab: every run with its figures and where it came from; choose, pin, note, delete, compare two
plans, go back to one."""

from __future__ import annotations

import dataclasses
from typing import Any

import gradio as gr

from slimllm.core.types import Plan
from ui.charts import layer_charts
from ui.charts.plan_difference_map import difference_chart
from ui.facts.plan_changes import summary, whole
from ui.facts.runs import Run
from ui.html.runs_table import PRESS, came_from, damaged_line, deleted_line, runs_table
from ui.html.tables import table_of
from ui.look.formatting import change, dropped_layers, method_title, note, safe, share, when
from ui.page.elements import intro, lead, progress_line
from ui.page.inputs import Number
from ui.page.plotview import PlotView
from ui.page.screen import Screen
from ui.session.registry import REGISTRY
from ui.session.run_history import PRESENT
from ui.session.session import Session
from ui.tabs.history import downloads, finetuning_panel, run_findings
from ui.tasks.model_remaking import is_made_for
from ui.tasks.run_return import start_restore

PURPOSE = "All you have tried so far, also after a restart: look back, go on from one, take one away."
EMPTY = "Every comparison becomes a row here, and stays when you close the page."
DENSE = -1  # stands for the dense model, where a run's number is asked for
LONGEST_NOTE = 500


def build(screen: Screen, device: str, dtype: str, offline: bool) -> None:
    """The components and events of the tab."""
    intro(screen, "history", PURPOSE, lambda s: "" if s.runs else "It needs a comparison first.")
    with gr.Row(elem_classes="next"):
        lead(screen, "history", lambda s: None if s.runs else ("Go to Compare", "compare"))
    overview(screen)
    with gr.Column(elem_id="history-one"):  # hidden by the style sheet while there is no run
        number = looked_at(screen, device, dtype, offline)
        run_findings.build(screen)
        downloads.build(screen, number, offline)
        finetuning_panel.build(screen, number, offline)


def overview(screen: Screen) -> None:
    """All runs as points and as a table, and what was deleted."""
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
    screen.show(damaged, lambda s: note("bad", damaged_line([file.name for file in s.archive.damaged])))
    screen.show(scatter, draw_scatter, "runs")
    screen.show(others, draw_others, "runs")
    screen.show(table, draw_table, "runs")
    screen.show(deleted, lambda s: deleted_line(s.archive.shelf.deleted()), "runs")
    screen.on(scatter.click, "history", choose_point, click=True, mode="always_last")
    screen.on(table.choose, "history", choose_row, click=True, mode="always_last")
    screen.on(table.pin, "history", pin_row, click=True, mode="multiple")
    screen.on(deleted.back, "history", bring_back, click=True, mode="multiple")


def looked_at(screen: Screen, device: str, dtype: str, offline: bool) -> Number:
    """The chosen run: in words, in figures, its note, and its plan beside another one; its number, which says
    what this page shows, whatever is chosen in another tab meanwhile."""
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
    screen.show(about, draw_about, "runs")
    screen.show([number, words], draw_note, token=lambda s: (s.born, s.archive.chosen, note_of(s)))
    screen.show([restore, delete], draw_buttons, token=draw_token)
    screen.show(line, draw_line, token=draw_line)
    parts = ("runs", "controls")
    screen.keep([against], "history", lambda s: [beside(s)], lay_beside, draw=draw_against, parts=parts)
    screen.show(said, draw_words, token=pair_token)
    screen.show(picture, draw_difference, token=pair_token)
    screen.on([words.blur, words.submit], "history", keep_note, number, words)
    screen.on(restore.click, "history", Restore(device, dtype, offline), number)
    screen.on(delete.click, "history", delete_shown, number)
    return number


# What happens -----------------------------------------------------------------------------------------------


def pressed(session: Session, event: gr.EventData) -> int:
    """The run whose row was pressed."""
    number = event._data.get("run")
    return session.run(number if isinstance(number, int) else None).number


def choose_row(session: Session, event: gr.EventData) -> None:
    """Looks at the run of a row."""
    session.archive.choose(pressed(session, event))


def choose_point(session: Session, event: gr.EventData) -> None:
    """Looks at the run of a point."""
    runs, place = alike(session), event._data.get("custom")
    if isinstance(place, int) and 0 <= place < len(runs):
        session.archive.choose(runs[place].number)


def pin_row(session: Session, event: gr.EventData) -> None:
    """Pins the run of a row on top, or no longer."""
    run = session.run(pressed(session, event))
    session.archive.amend(run.number, pinned=not run.pinned)


def keep_note(session: Session, number: Any, words: str | None) -> None:
    """Keeps what the person wrote about a run."""
    run = session.archive.find(number)
    said = str(words or "").strip()[:LONGEST_NOTE]
    if run is not None and said != run.note:
        session.archive.amend(run.number, note=said)


def delete_shown(session: Session, number: Any) -> None:
    """Lays a run aside; it can be brought back."""
    session.archive.delete(number)


def bring_back(session: Session, event: gr.EventData) -> None:
    """Takes a deleted run back."""
    number = event._data.get("run")
    if isinstance(number, int):
        session.archive.bring_back(number)


def lay_beside(session: Session, entered: dict[int, Any]) -> None:
    """Lays another plan beside that of the chosen run."""
    session.archive.against = entered[0]


class Restore:
    """Makes a run's plan the present one: at once where its analysis is known, else once the model
    is loaded and analysed again."""

    def __init__(self, device: str, dtype: str, offline: bool):
        self.where = (device, dtype, offline)

    def __call__(self, session: Session, number: Any) -> str | None:
        run = session.run(number)
        mine = session.loaded is not None and is_made_for(run.plan, session.loaded.subject)
        if not mine or session.made_from(run.plan) is None:
            start_restore(REGISTRY, session, run.number, *self.where)
            return None
        kept = session.take_plan(run.plan)
        session.parent = run.number
        session.say("tune", f"This is the plan of {run.name}.{kept}", "good")
        return "tune"


# What is shown ----------------------------------------------------------------------------------------------


def chosen(session: Session) -> Run | None:
    return session.archive.find(session.archive.chosen)


def alike(session: Session) -> list[Run]:
    """The runs that can be set against the chosen one: same model, perplexity measured in the same way."""
    run = chosen(session)
    if run is None:
        return []
    return [one for one in session.runs if one.is_like(run) and one.best.perplexity is not None]


def draw_scatter(session: Session) -> Any:
    """Size against perplexity of the runs that are like the chosen one."""
    runs = alike(session)
    if not runs:
        return None
    rows = [
        {
            "name": run.name,
            "parameters": run.best.parameters,
            "perplexity": run.best.perplexity,
            "words": f"{method_title(run.plan.method)}, {share(run.smaller)} smaller, "
            f"{change(run.best.perplexity or 0.0, run.columns['dense'].perplexity or 0.0)} perplexity",
        }
        for run in runs
    ]
    dense = runs[-1].columns["dense"]
    reference = {"name": "Dense", "words": "the whole model", **dataclasses.asdict(dense)}
    place = next((i for i, run in enumerate(runs) if run.number == session.archive.chosen), None)
    return layer_charts.history_chart(rows, reference, place)


def draw_others(session: Session) -> str:
    """Says which runs are not in the picture, and why."""
    left = len(session.runs) - len(alike(session))
    if not left:
        return ""
    runs = "1 run is" if left == 1 else f"{left} runs are"
    return note(
        "quiet",
        f"{runs} not in the picture: of another model, or measured on another text or in other windows. "
        "Choose one in the table to see those like it.",
    )


def draw_table(session: Session) -> str:
    if not session.runs:
        return f'<div class="nothing">{note("info", EMPTY)}</div>'
    return runs_table(session.runs, session.archive.chosen)


def draw_buttons(session: Session) -> list[Any]:
    able = bool(session.runs)
    return [gr.Button(interactive=able and not session.busy), gr.Button(interactive=able)]


def draw_token(session: Session) -> tuple[Any, ...]:
    return session.busy, session.serial["runs"]


def draw_line(session: Session) -> str:
    """How far the way back to a plan is."""
    job = session.job
    if job is None or job.kind != "restore":
        return ""
    return progress_line(job, REGISTRY.worker.place(job))


def note_of(session: Session) -> str:
    run = chosen(session)
    return run.note if run else ""


def draw_note(session: Session) -> list[Any]:
    return [session.archive.chosen, note_of(session)]


def draw_about(session: Session) -> str:
    """The chosen run in words and figures."""
    run = chosen(session)
    return about_run(run) if run else ""


def about_run(run: Run) -> str:
    """A run in words and figures, as HTML."""
    plan = run.plan
    of = "all parameters" if plan.count == "all" else "the parameters in its layers"
    said = (
        f"{plan.model} became {share(run.smaller)} smaller ({share(plan.ratio_achieved)} of {of}) by "
        f"{method_title(plan.method)} with recovery {plan.recovery}, having read {plan.calibration.text}. "
        f"{dropped_layers(plan)}"
    )
    origin = f"{when(run.made)}, {came_from(run)}"
    figures = table_of(dict(run.columns), run.protocol, plan.recovery)
    return f'<h3 class="run">{run.name}<small>{safe(origin)}</small></h3><p>{safe(said)}</p>{figures}'


# Two plans --------------------------------------------------------------------------------------------------


def choices(session: Session) -> list[tuple[str, int]]:
    """What the chosen run's plan can be laid beside."""
    run = chosen(session)
    if run is None:
        return []
    others = [one for one in reversed(session.runs) if one.number != run.number]
    found = [(one.name, one.number) for one in others if one.plan.widths == run.plan.widths]
    present = [("The plan in Tune", PRESENT)] if session.plans else []
    return [*found, *present, ("The dense model", DENSE)]


def beside(session: Session) -> int:
    """What is laid beside it now: what was asked for, else the run it came from, else the dense model."""
    run, known = chosen(session), [number for _, number in choices(session)]
    wanted = (session.archive.against, run.parent if run else None)
    return next((number for number in wanted if number in known), DENSE)


def pair(session: Session) -> tuple[Plan, Plan, tuple[str, str]] | None:
    """(the other plan, the chosen run's plan, their names); None without a run."""
    run, number = chosen(session), beside(session)
    if run is None:
        return None
    if number == PRESENT and session.plans:
        return session.plan, run.plan, ("Tune", run.name)
    other = session.archive.find(number)
    if other is None:
        return whole(run.plan), run.plan, ("Dense", run.name)
    return other.plan, run.plan, (other.name, run.name)


def pair_token(session: Session) -> tuple[Any, ...]:
    """What the comparison of two plans depends on: the two themselves, so that a plan that changes in Tune
    draws nothing here unless it is one of them."""
    return session.born, pair(session)


def draw_against(session: Session) -> list[Any]:
    return [gr.Dropdown(choices=(found := choices(session)), value=beside(session) if found else None)]


def draw_words(session: Session) -> str:
    return note("quiet", summary(*found)) if (found := pair(session)) else ""


def draw_difference(session: Session) -> Any:
    """Both plans as a picture."""
    found = pair(session)
    if found is None or found[0].widths != found[1].widths:
        return None
    return difference_chart(*found)
