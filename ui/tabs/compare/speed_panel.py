"""The speed panel: reading and writing speed of all models, measured on request and in turns."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

import gradio as gr

from slimllm.evaluation.evaluate import Speed
from slimllm.evaluation.speed_words import compare_speeds, rounds_span
from ui.facts.runs import LABELS, best_name
from ui.look.formatting import escape_html, format_duration, format_figure, note_html
from ui.page.elements import add_heading, job_line, start_and_stop
from ui.page.inputs import Number
from ui.page.screen import Screen
from ui.session.forms import SpeedForm
from ui.session.registry import REGISTRY
from ui.session.requests import whole_number
from ui.session.session import Session
from ui.tasks import model_probes

PURPOSE = (
    "How fast each model reads a prompt (prefill) and writes an answer (decode) on this machine. Leave the "
    "machine alone meanwhile."
)
EMPTY = "The speeds appear here once they are measured."
# Tokens of a page, which are roughly 500 words.
PAGE = 700


def build(screen: Screen) -> None:
    """Add the components and events of the panel."""
    add_heading(screen, "pace", "How fast is it?", PURPOSE, lambda s: "" if s.comparison else "Prune first.")
    usual = SpeedForm()
    with gr.Row(elem_classes="controls"):
        length, new_tokens, rounds = (
            Number(value, label=label, info=info, precision=0, elem_id=f"compare-pace-{name}", min_width=140)
            for value, label, info, name in (
                (usual.length, "Prompt", "tokens to read", "length"),
                (usual.new_tokens, "Answer", "tokens to write", "new"),
                (usual.rounds, "Rounds", "of which the median counts", "rounds"),
            )
        )
    with gr.Row(elem_classes="bar"):
        button = gr.Button(
            "Measure speed", elem_id="compare-pace-button", scale=0, min_width=160, interactive=False
        )
        stop = gr.Button("Stop", elem_id="compare-pace-stop", scale=0, min_width=90, interactive=False)
        job_line(screen, "pace", "compare-pace-progress", beside=("compare", "passage", "topics"))
    table = gr.HTML(elem_id="compare-pace", padding=False)
    screen.show(table, draw_speeds, "pace", "table")
    start_and_stop(screen, "pace", button, stop, lambda s: s.comparison is not None)
    screen.keep([length, new_tokens, rounds], "pace", SpeedForm.list_shown, SpeedForm.take_entered)
    screen.on(button.click, "pace", start_measuring, length, new_tokens, rounds)


def start_measuring(session: Session, length: Any, new_tokens: Any, rounds: Any) -> None:
    """Start measuring the speed of all models.

    Raise `Refusal` if a number is not possible, if nothing has been pruned yet, or if another job of the
    session is active.
    """
    model_probes.start_pace(
        REGISTRY,
        session,
        whole_number(length, "The prompt", 1, 1_000_000),
        whole_number(new_tokens, "The answer", 1, 4096),
        whole_number(rounds, "Rounds", 1, 100),
    )


def draw_speeds(session: Session) -> str:
    """Return the speeds that were measured last, as HTML."""
    last = session.comparison
    if last is None or not last.findings.speeds:
        return note_html("quiet", EMPTY)
    loaded = session.loaded
    where = escape_html(f"on {loaded.device} in {loaded.dtype}") if loaded is not None else ""
    return speeds_html(last.findings.speeds, where)


def speeds_html(speeds: Mapping[str, Speed], where: str) -> str:
    """Return reading, writing and the time of a page for every model, with the protocol, as HTML."""
    names = [name for name in LABELS if name in speeds]
    dense, best = speeds["dense"], speeds[best_name(speeds)]
    rows = (
        ("Reading", "prefill, tokens per second", "prefill", "reads"),
        ("Writing", "decode, tokens per second", "decode", "writes"),
    )
    body = ""
    for title, hint, key, verb in rows:
        rounds = {name: getattr(speeds[name], key) for name in names}
        cells = "".join(
            f"<td>{format_figure(statistics.median(rounds[name]), 1)}"
            f"<small>{rounds_span(rounds[name])}</small></td>"
            for name in names
        )
        words = compare_speeds(getattr(dense, key), getattr(best, key), verb)
        head = f'<th scope="row">{title}<small>{hint}</small></th>'
        body += f'<tr>{head}{cells}<td class="meaning">{words}</td></tr>'
    pages = "".join(
        f"<td>{format_duration(PAGE / speeds[name].decode_tokens_per_second)}</td>" for name in names
    )
    body += (
        '<tr><th scope="row">A page of text<small>about 500 words</small></th>'
        f'{pages}<td class="meaning">How long writing one takes.</td></tr>'
    )
    head = "".join(f'<th scope="col">{LABELS[name]}</th>' for name in names)
    foot = (
        f"Measured {where}: a prompt of {dense.length:,} tokens read at once, then {dense.new_tokens:,} "
        "written one after the other, one text at a time. All models took turns, round by round, so that a "
        "busy moment slows all of them alike; a first round to warm up does not count. Medians, and below "
        "them the slowest and the fastest round. A difference is told only where chance alone would order "
        "the rounds like this less than once in a hundred times."
    )
    return (
        f'<div class="wide"><table class="figures three" style="--columns: {len(names)}"><thead><tr>'
        f'<th scope="col">What</th>{head}<th scope="col" class="meaning">In plain words</th></tr></thead>'
        f'<tbody>{body}</tbody></table></div><p class="foot">{foot}</p>'
    )
