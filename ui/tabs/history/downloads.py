"""Downloads of the chosen run: its checkpoint, its plan, a report, and the command that repeats it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import gradio as gr

from slimllm.core.errors import Refusal
from slimllm.files import atomic_write
from slimllm.planning.plan_json import plan_text
from ui.facts.command_line import command_line, plan_name
from ui.html import report
from ui.look.formatting import format_bytes, note_html
from ui.page.elements import job_line, start_and_stop
from ui.page.screen import Screen
from ui.session.forms import TierForm
from ui.session.registry import REGISTRY
from ui.session.session import Session
from ui.tasks import work

TIERS = [
    ("Automatic", "auto"),
    ("Native (plain checkpoint)", "native"),
    ("Shim (with a code file)", "shim"),
    ("Padded (with zeros)", "padded"),
    ("GGUF (for llama.cpp)", "gguf"),
]

ROOM = "free space, or set TMPDIR to another folder"


def build(screen: Screen, number: Any) -> None:
    """Add the components and events; `number` is the control with the number of the shown run."""
    gr.HTML("<h3>Take it away</h3>", elem_id="history-away", padding=False)
    with gr.Row(elem_classes="bar"):
        page = gr.DownloadButton("Report", elem_id="history-report", scale=0, min_width=110)
        plan = gr.DownloadButton("Plan file", elem_id="history-plan", scale=0, min_width=110)
        export = gr.Button("Export checkpoint", elem_id="history-export", scale=0, min_width=170)
        stop = gr.Button("Stop", elem_id="history-stop", scale=0, min_width=90, interactive=False)
        archive = gr.DownloadButton(
            "Download zip", elem_id="history-zip", scale=0, min_width=150, visible=False
        )
        job_line(screen, "export", "history-progress", beside="restore")
    with gr.Row(elem_classes="controls"):
        tier = gr.Dropdown(
            TIERS,
            value=TierForm().tier,
            label="Store the checkpoint as",
            info="how other programs will read it",
            elem_id="history-tier",
            scale=1,
            min_width=240,
        )
        line = gr.Textbox(
            label="The same on the command line",
            info="run it from the project's folder",
            lines=2,
            max_lines=6,
            interactive=False,
            buttons=["copy"],
            elem_id="history-command",
            scale=3,
            min_width=300,
        )
    made = gr.HTML(elem_id="history-made", padding=False)
    screen.show([page, plan, archive, line, made], draw_downloads, "runs")
    start_and_stop(screen, "export", export, stop, lambda s: bool(s.runs))
    screen.keep([tier], "history", TierForm.list_shown, TierForm.take_entered)
    screen.on(export.click, "history", press_export, number, tier)


def press_export(session: Session, number: Any, tier: str) -> None:
    """Start the export of a run.

    Raise `Refusal` if there is no such run or tier, or if another job of the session is active.
    """
    work.start_export(REGISTRY, session, number, tier)


def draw_downloads(session: Session) -> list[Any]:
    """Return updates of report, plan file, zip file, command line, and words on the last export.

    Report and plan are written into the session's folder. If that fails, nothing can be downloaded, and the
    words say why.
    """
    run = session.archive.chosen_run
    if run is None:
        off = gr.DownloadButton(interactive=False)
        return [off, off, gr.DownloadButton(visible=False), "", ""]
    page, plan = session.folder / f"report-run{run.number}.html", session.folder / plan_name(run)
    try:
        atomic_write.write_text(page, report.report_page(run), "The report cannot be written", ROOM)
        atomic_write.write_text(plan, plan_text(run.plan), "The plan file cannot be written", ROOM)
    except Refusal as refusal:
        off = gr.DownloadButton(interactive=False)
        return [off, off, gr.DownloadButton(visible=False), command_line(run), note_html("bad", str(refusal))]
    archive = Path(str((run.exported or {}).get("zip", "")))
    packed = archive.parent == session.folder and archive.is_file()
    return [
        gr.DownloadButton(value=str(page), interactive=True),
        gr.DownloadButton(value=str(plan), interactive=True),
        gr.DownloadButton(value=str(archive), visible=True) if packed else gr.DownloadButton(visible=False),
        command_line(run),
        note_html("good", exported_words(run.exported, session.limits.shared)) if run.exported else "",
    ]


def exported_words(made: Any, shared: bool = False) -> str:
    """Return what an export made, and how it was verified, in sentences.

    The folders of a `shared` server are nobody's business.
    """
    check = (
        f"It was loaded again in a fresh process and gave the same answers (largest difference "
        f"{made['max_logit_difference']:.1e})."
        if made.get("verified")
        else "It could not be verified."
    )
    folder = made["folder"]
    words = [
        f"Exported as {made['tier']}, {format_bytes(made['bytes'])}{'' if shared else f', in {folder}'}.",
        made["words"],
        check,
        made.get("unpacked", ""),
    ]
    if not shared:
        words.append(f"To take it to a model hub: python -m slimllm push {shlex.quote(folder)} OWNER/NAME")
    return " ".join(filter(None, words))
