"""The History tab: every run with its figures; restore its plan, export its checkpoint, take away a
report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from slimllm.recovery import RECOVERIES
from slimllm.types import Refusal
from ui import charts, polish, report, work
from ui.pieces import intro, job_line, lead, start_and_stop
from ui.plotview import PlotView
from ui.registry import REGISTRY
from ui.runs import Run, command_line
from ui.screen import Screen
from ui.session import Session
from ui.words import count, dropped_layers, figure, method_title, note, safe, share, size

PURPOSE = "All comparisons so far: pick one to go on from, or to take away."
HEADERS = [
    "Run",
    "Model",
    "Smaller",
    "Parameters",
    "Perplexity",
    "Method",
    "Recovery",
    "Measured on",
    "From",
    "When",
]
TIERS = [
    ("Automatic", "auto"),
    ("Native (plain checkpoint)", "native"),
    ("Shim (with a short code file)", "shim"),
    ("Padded (filled up with zeros)", "padded"),
]


def build(screen: Screen, offline: bool) -> None:
    """The components and events of the tab."""
    intro(screen, "history", PURPOSE, lambda s: "" if s.runs else "It needs a comparison first.")
    with gr.Row(elem_classes="next"):
        lead(screen, "history", lambda s: None if s.runs else ("Go to Compare", "compare"))
    table, scatter = overview()
    with gr.Row(elem_classes="controls"):
        chosen = gr.Dropdown(
            [],
            label="Chosen run",
            info="or click its row above",
            elem_id="history-run",
            scale=2,
            min_width=220,
        )
        tier = gr.Dropdown(
            TIERS,
            value="auto",
            label="Store as",
            info="how other programs will read it",
            elem_id="history-tier",
            scale=2,
            min_width=220,
        )
    with gr.Row(elem_classes="bar"):
        export = gr.Button(
            "Export checkpoint", variant="primary", elem_id="history-export", scale=0, min_width=170
        )
        stop = gr.Button("Stop", elem_id="history-stop", scale=0, min_width=90, interactive=False)
        restore = gr.Button("Restore its plan", elem_id="history-restore", scale=0, min_width=150)
        page = gr.DownloadButton("Report", elem_id="history-report", scale=0, min_width=110)
        archive = gr.DownloadButton(
            "Download zip", elem_id="history-zip", scale=0, min_width=150, visible=False
        )
        job_line(screen, "export", "history-progress")
    about = gr.HTML(elem_id="history-about", padding=False)
    polish.build(screen, offline)

    screen.show(table, lambda s: [row_of(run) for run in newest_first(s)], "runs")
    screen.show(scatter, draw_scatter, "runs")
    screen.show(chosen, draw_chosen, "runs", "chosen")
    screen.show([about, page, archive, restore], draw_run, "runs", "chosen", "visit")
    start_and_stop(screen, "export", export, stop, lambda s: bool(s.runs))
    screen.on(chosen.input, "history", choose_run, chosen)
    screen.on(table.select, "history", click_row, click=True)
    screen.on(restore.click, "history", restore_plan)
    screen.on(export.click, "history", Press(offline), tier)


def overview() -> tuple[gr.Dataframe, PlotView]:
    """All runs as a table and as points."""
    table = gr.Dataframe(
        headers=HEADERS,
        type="array",
        interactive=False,
        max_height=320,
        label="Runs",
        show_label=False,
        elem_id="history-table",
        buttons=[],
    )
    scatter = PlotView(
        height=340,
        label="Size and perplexity of every run",
        placeholder="Every run becomes a point: further left is smaller, further down is better.",
        elem_id="history-scatter",
    )
    return table, scatter


def newest_first(session: Session) -> list[Run]:
    return session.runs[::-1]


def row_of(run: Run) -> list[str]:
    """One run as a row of words."""
    best = run.best
    return [
        run.name,
        Path(run.plan.model).name,
        share(run.smaller),
        count(best.parameters),
        "–" if best.perplexity is None else figure(best.perplexity),
        method_title(run.plan.method),
        RECOVERIES[run.plan.recovery].title,
        run.protocol.text,
        came_from(run),
        run.made[:16].replace("T", " "),
    ]


def came_from(run: Run) -> str:
    """The run that this one started from, and what was done to it."""
    if run.parent is None:
        return ""
    return f"from Run {run.parent}: {run.told}" if run.told else f"from Run {run.parent}"


def draw_scatter(session: Session) -> Any:
    """Size against perplexity of the runs that have one."""
    rows = [
        {
            "name": run.name,
            "parameters": run.best.parameters,
            "perplexity": run.best.perplexity,
            "method": run.plan.method,
            "recovery": run.plan.recovery,
            "text": run.protocol.text,
        }
        for run in session.runs
        if run.best.perplexity is not None
    ]
    return charts.history_chart(rows) if rows else None


def draw_chosen(session: Session) -> Any:
    choices = [(f"{run.name}: {share(run.smaller)} smaller", run.number) for run in newest_first(session)]
    return gr.Dropdown(choices=choices, value=session.chosen)


def choose_run(session: Session, number: int | None) -> None:
    """Takes a run from the list."""
    session.run(number)
    session.chosen = number
    session.mark("chosen")


def click_row(session: Session, event: gr.EventData) -> None:
    """Takes the run of a clicked row."""
    index = event._data.get("index")
    row = index[0] if isinstance(index, list | tuple) and index else None
    runs = newest_first(session)
    if isinstance(row, int) and 0 <= row < len(runs):
        choose_run(session, runs[row].number)


def restore_plan(session: Session) -> str:
    """Makes the chosen run's plan the present one and leads to Tune."""
    run = session.run(session.chosen)
    if session.analysis is None:
        raise Refusal(
            f"{run.name} needs an analysis of {run.plan.model} first: load and analyse it, then restore."
        )
    session.take_plan(run.plan)
    session.parent = run.number
    session.say("tune", f"This is the plan of {run.name}.", "good")
    return "tune"


class Press:
    """Starts the export of the chosen run."""

    def __init__(self, offline: bool):
        self.offline = offline

    def __call__(self, session: Session, tier: str) -> None:
        work.start_export(REGISTRY, session, session.chosen, tier, self.offline)


def draw_run(session: Session) -> list[Any]:
    """What there is to say about the chosen run, its report and its archive."""
    run = next((run for run in session.runs if run.number == session.chosen), None)
    if run is None:
        return [
            note("info", "No run yet."),
            gr.DownloadButton(interactive=False),
            gr.DownloadButton(visible=False),
            gr.Button(interactive=False),
        ]
    file = session.folder / f"report-run{run.number}.html"
    file.write_text(report.page(run), encoding="utf-8")
    archive = Path(str((run.exported or {}).get("zip", "")))
    packed = archive.parent == session.folder and archive.is_file()
    return [
        about_run(run),
        gr.DownloadButton(value=str(file), interactive=True),
        gr.DownloadButton(value=str(archive), visible=True) if packed else gr.DownloadButton(visible=False),
        gr.Button(interactive=True),
    ]


def about_run(run: Run) -> str:
    """The chosen run in words, as HTML: its plan, its export, the command that repeats it."""
    said = [
        f"{run.name} made {run.plan.model} {share(run.smaller)} smaller ({share(run.plan.ratio_achieved)} of "
        f"{'all parameters' if run.plan.count == 'all' else 'the parameters in its layers'}) by "
        f"{method_title(run.plan.method)} with recovery {run.plan.recovery}, having read "
        f"{run.plan.calibration.text}. {dropped_layers(run.plan)}"
    ]
    made = run.exported
    if made:
        check = (
            f"It was loaded again in a fresh process and gave the same answers (largest difference "
            f"{made['max_logit_difference']:.1e})."
            if made.get("verified")
            else "It could not be verified."
        )
        said.append(
            f"Exported as {made['tier']}, {size(made['bytes'])}, in {made['folder']}. {made['words']} {check}"
        )
    text = "".join(f"<p>{safe(sentence)}</p>" for sentence in said)
    line = safe(command_line(run))
    again = f"<p>The same on the command line, with the saved plan:</p><code>{line}</code>"
    return f'<div class="card">{text}{again}</div>'
