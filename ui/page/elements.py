"""Build parts that several pages share: first sentence, job line, button to the next tab, start and stop."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import gradio as gr

from ui.jobs.worker import Job
from ui.look.formatting import escape_html, format_duration, note_html
from ui.page.screen import Screen
from ui.session.registry import REGISTRY
from ui.session.session import Session


def job_line(screen: Screen, kind: str, elem_id: str, beside: Collection[str] = ()) -> gr.HTML:
    """Add a line that shows this session's job of one kind: its step, times and end.

    The line also shows the steps of a job of another kind, because the page waits for it. Jobs of the kinds
    `beside` have a line of their own on the same page.
    """
    line = gr.HTML("", elem_id=elem_id, elem_classes="job-line", padding=False)

    def draw_job(session: Session) -> str:
        """Return the HTML of the line."""
        job = session.job
        if job is None:
            return ""
        if job.kind != kind:
            if not job.active or job.kind in beside:
                return ""
            return progress_line(job, REGISTRY.worker.place(job), named=True)
        return progress_line(job, REGISTRY.worker.place(job))

    screen.show(line, draw_job, token=draw_job)
    return line


def add_heading(
    screen: Screen, name: str, title: str, purpose: str, needs: Callable[[Session], str] = lambda _: ""
) -> None:
    """Add the head of a panel of the Compare tab: title, purpose, what it still needs, and its last note."""
    line = gr.HTML(elem_id=f"compare-{name}-intro", elem_classes="panel-head", padding=False)

    def draw_heading(session: Session) -> str:
        return f"<h3>{escape_html(title)}</h3>" + opening_html(
            session, name, "note quiet", purpose, needs(session)
        )

    screen.show(line, draw_heading, token=draw_heading)


def add_intro(screen: Screen, page: str, purpose: str, needs: Callable[[Session], str]) -> None:
    """Add the opening of a page: its purpose, what it still needs, and its last note."""
    line = gr.HTML("", elem_id=f"{page}-intro", padding=False)

    def draw_intro(session: Session) -> str:
        return opening_html(session, page, "purpose", purpose, needs(session))

    screen.show(line, draw_intro, token=draw_intro)


def opening_html(session: Session, page: str, look: str, purpose: str, lack: str) -> str:
    """Return what a page or a panel is for and what it still needs, and then its note, as HTML."""
    todo = f' <span class="needs">{escape_html(lack)}</span>' if lack else ""
    said = note_html(*session.notes.get(page, ("info", "")))
    return f'<p class="{look}">{escape_html(purpose)}{todo}</p>{said}'


def add_lead(screen: Screen, page: str, step: Callable[[Session], tuple[str, str] | None]) -> gr.Button:
    """Add a button to another tab; `step` returns its label and the tab, or None to hide it."""
    button = gr.Button("", variant="primary", visible=False, elem_id=f"{page}-next", scale=0, min_width=200)

    def draw_lead(session: Session) -> Any:
        found = step(session)
        if found is None:
            return gr.Button(visible=False)
        return gr.Button(found[0], visible=True)

    screen.show(button, draw_lead, token=step)
    screen.on(button.click, page, lambda session: (step(session) or ("", None))[1])
    return button


def job_token(kind: str) -> Callable[[Session], tuple[bool, bool]]:
    """Return a function that gives (whether any job of a session is active, whether it is of this kind)."""
    return lambda session: (
        session.busy,
        session.busy and session.job is not None and session.job.kind == kind,
    )


def start_and_stop(
    screen: Screen,
    kind: str,
    start: gr.Button,
    stop: gr.Button,
    ready: Callable[[Session], bool],
    dress: Callable[[Session], dict[str, Any]] = lambda _: {},
) -> None:
    """Connect a start and a stop button to the jobs of one kind.

    Start can be pressed when the page is ready and no job runs, Stop while a job of this kind runs. `dress`
    returns the label and the variant of the start button.
    """
    token = job_token(kind)

    def draw_buttons(session: Session) -> list[Any]:
        busy, mine = token(session)
        return [
            gr.Button(interactive=ready(session) and not busy, **dress(session)),
            gr.Button(interactive=mine),
        ]

    screen.show(
        [start, stop],
        draw_buttons,
        token=lambda s: (*token(s), ready(s), tuple(dress(s).values())),
    )
    screen.on(stop.click, kind, press_stop)


def press_stop(session: Session) -> None:
    """Stop the session's job."""
    if session.job is not None:
        REGISTRY.worker.cancel(session.job)


def progress_line(job: Job | None, place: int, *, named: bool = False) -> str:
    """Return what a job is doing, as HTML: a bar, the step, the elapsed and the remaining time.

    `place` is the number of jobs before this one. With `named`, the line says which job it is.
    """
    if job is None:
        return ""
    if job.state == "queued":
        if not place:
            return job_strip("run", f"{job.title}: starting.", "", None)
        ahead = "1 job is" if place == 1 else f"{place} jobs are"
        return job_strip("wait", f"{job.title}: waiting, {ahead} before yours.", "", None)
    if job.state == "failed":
        return job_strip("bad", job.error, "", None)
    if job.state == "stopped":
        return job_strip(
            "off", f"{job.title}: stopped after {format_duration(job.elapsed)}; {job.leaves}.", "", None
        )
    if job.state == "done":
        return job_strip("good", f"{job.title}: done in {format_duration(job.elapsed)}.", "", 1.0)
    step = job.progress
    if step is None:
        return job_strip("run", f"{job.title}: starting.", format_duration(job.elapsed), None)
    if job.stopping.is_set():
        return job_strip("run", f"{job.title}: stopping after this step.", format_duration(job.elapsed), None)
    times = f"{format_duration(job.elapsed)} so far"
    if job.remaining is not None and step.done < step.total:
        times += f", about {format_duration(job.remaining)} left in this step"
    said = f"{job.title} is going on. {step.words}" if named else step.words
    return job_strip("run", said, times, step.done / step.total if step.total else None)


def job_strip(kind: str, words: str, times: str, fraction: float | None) -> str:
    """Return one line of state with a bar under it, as HTML; without a fraction the bar only moves."""
    width = f"{100 * fraction:.1f}%" if fraction is not None else "100%"
    moving = " moving" if kind == "run" and fraction is None else ""
    now = f' aria-valuenow="{100 * fraction:.0f}"' if fraction is not None else ""
    return (
        f'<div class="job {kind}"><div class="job-words" role="status"><span>{escape_html(words)}</span>'
        f'<span class="job-times">{escape_html(times)}</span></div>'
        f'<div class="job-bar{moving}" role="progressbar" aria-label="Progress" aria-valuemin="0" '
        f'aria-valuemax="100"{now}><div style="width:{width}"></div></div></div>'
    )
