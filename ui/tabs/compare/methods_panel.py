"""The methods panel of the Compare tab: several methods on one budget, with one table and one picture."""

from __future__ import annotations

from typing import Any

import gradio as gr

from slimllm.core.errors import Refusal
from slimllm.methods.table import METHODS
from ui.charts import result_charts
from ui.facts.combinations import for_ratio
from ui.facts.resources import estimates
from ui.facts.runs import Asked, Budget, Entry
from ui.html.tables import latest_entries, methods_table
from ui.look.formatting import (
    format_change,
    format_duration,
    format_figure,
    format_share,
    method_title,
    note_html,
)
from ui.page.elements import job_line, start_and_stop
from ui.page.inputs import CheckboxGroup
from ui.page.plotview import PlotView
from ui.page.screen import Screen
from ui.session.forms import MeasureForm, MethodsForm
from ui.session.loaded import Loaded
from ui.session.registry import REGISTRY
from ui.session.requests import asked_for
from ui.session.session import Session
from ui.tasks.comparing_methods import budget_of, start_methods

TAKE = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-row]');
  if (button) trigger('take', {row: Number(button.dataset.row)});
});
"""


def build(screen: Screen, asked: tuple[Any, ...]) -> None:
    """Add the methods, buttons, table and picture; `asked` are the controls that say how to measure."""
    about = gr.HTML(elem_id="compare-methods-intro", padding=False)
    methods = CheckboxGroup(
        [(row.title, name) for name, row in METHODS.items()],
        value=list(MethodsForm().methods),
        label="Methods",
        info="each with its own recovery and allocation, one after the other",
        elem_id="compare-methods",
    )
    with gr.Row(elem_classes="bar"):
        button = gr.Button(
            "Compare methods",
            elem_id="compare-methods-button",
            scale=0,
            min_width=170,
            interactive=False,
        )
        stop = gr.Button("Stop", elem_id="compare-methods-stop", scale=0, min_width=90, interactive=False)
        job_line(screen, "methods", "compare-methods-progress", beside="compare")
    table = gr.HTML(elem_id="compare-methods-table", padding=False, js_on_load=TAKE)
    scatter = PlotView(
        height=380,
        label="Size and perplexity of every method",
        placeholder="Every method becomes a point: further down is better, the dense model is the reference.",
        elem_id="compare-methods-scatter",
    )
    screen.keep([methods], "compare", MethodsForm.list_shown, MethodsForm.take_entered)
    screen.show(about, draw_budget, "plan", "methods")
    screen.show(table, draw_entries, "entries")
    screen.show(scatter, draw_scatter, "entries")
    start_and_stop(screen, "methods", button, stop, lambda s: bool(s.plans))
    screen.on(button.click, "compare", press_methods, methods, *asked)
    screen.on(table.take, "compare", take_plan, click=True)


def press_methods(session: Session, methods: Any, *values: Any) -> None:
    """Start the comparison of the chosen methods.

    Raise `Refusal` if none is chosen, if a setting is not possible, or if another job of the session is
    active.
    """
    form, ticked = MeasureForm.from_values(values), MethodsForm.from_values([methods])
    found, named = asked_for(form), [name for name in METHODS if name in ticked.methods]
    form.fill_in(session)
    MethodsForm(tuple(named)).fill_in(session)
    start_methods(REGISTRY, session, named, found)


def take_plan(session: Session, event: gr.EventData) -> str:
    """Make the plan of a row the present one, and return the tab Tune.

    Raise `Refusal` if the row has no plan.
    """
    row, entries = event._data.get("row"), session.results.entries
    entry = entries[row] if isinstance(row, int) and 0 <= row < len(entries) else None
    if entry is None or entry.plan is None:
        raise Refusal("This row has no plan to take; compare its method again.")
    kept = session.take_plan(entry.plan)
    session.say("tune", f"This is the plan of {name_of(entry)}.{kept}", "good")
    return "tune"


def name_of(entry: Entry) -> str:
    """Return the name of an entry: its method, or the user's plan."""
    title = method_title(entry.method)
    return f"your plan ({title})" if entry.present else title


def draw_budget(session: Session) -> str:
    """Return what will be compared, and about how long scoring takes, as HTML."""
    said = "<h3>Several methods on one budget</h3>"
    if not session.plans or session.analysis is None:
        return said + note_html("quiet", "The budget is that of your plan, so this needs a plan first.")
    budget = budget_of(session.plan, session.analysis, Asked())
    of = "all parameters" if budget.count == "all" else "the layers"
    words = (
        f"Every method removes {format_share(budget.ratio)} of {of}, reads the same text, and is measured "
        "as set "
        "above; your plan is measured beside them."
    )
    if session.loaded is not None and (seconds := scoring_seconds(session, session.loaded, budget)):
        words += f" Scoring those that are not scored yet takes about {format_duration(seconds)}."
    return said + note_html("quiet", words)


def scoring_seconds(session: Session, loaded: Loaded, budget: Budget) -> float:
    """Return the seconds for scoring by those chosen methods that are not scored on this text yet."""
    todo = {name: for_ratio(name, budget.ratio) for name in MethodsForm.of_session(session).methods}
    return sum(
        estimates.analysis_seconds(loaded.subject, loaded.rates, budget.calibration, name, options)
        for name, options in todo.items()
        if session.analyses.find_analysis(name, options, budget.calibration) is None
    )


def draw_entries(session: Session) -> str:
    """Return the methods tried so far as HTML, or what will appear here."""
    if not session.results.entries:
        return note_html("info", "The methods you compare appear here, row by row, as they finish.")
    return methods_table(session.results.entries)


def draw_scatter(session: Session) -> Any:
    """Return the picture of the methods on the latest budget that have a perplexity, or None."""
    rows = [
        {
            "name": name_of(entry)[0].upper() + name_of(entry)[1:],
            "parameters": entry.column.parameters,
            "perplexity": entry.column.perplexity,
            "words": f"{format_change(entry.column.perplexity, entry.dense.perplexity or 0.0)} against dense",
            "present": entry.present,
        }
        for entry in latest_entries(session.results.entries)
        if entry.column is not None and entry.column.perplexity is not None
    ]
    if not rows:
        return None
    dense = latest_entries(session.results.entries)[0].dense
    words = f"perplexity {format_figure(dense.perplexity or 0.0)}"
    reference = {
        "name": "Dense",
        "parameters": dense.parameters,
        "perplexity": dense.perplexity,
        "words": words,
    }
    return result_charts.methods_chart(rows, reference)
