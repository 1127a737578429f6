"""The settings of the Analyse tab: the text, the method and its options, and what the analysis will take."""

from __future__ import annotations

from typing import Any

import gradio as gr

from slimllm.core.errors import Refusal
from slimllm.methods.interface import Option
from slimllm.methods.table import METHODS, find_method
from slimllm.planning import rules
from ui.facts.combinations import all_options, label_of, options_of
from ui.facts.resources import estimates
from ui.look.formatting import escape_html, format_bytes, format_duration, note_html
from ui.page.inputs import Number
from ui.page.screen import Screen
from ui.session.forms import FIRST, AnalyseForm
from ui.session.registry import REGISTRY
from ui.session.requests import calibration_of, text_choices
from ui.session.session import Session

DEFAULT = AnalyseForm()
PATHS = "or the path of a .txt, .jsonl or .parquet file"


def build_controls(screen: Screen) -> tuple[Any, ...]:
    """Add the controls of the text and the method, and those of all options; return them.

    Only the options of the chosen method are visible. The order is that of `AnalyseForm`.
    """
    limits = REGISTRY.settings.limits
    hint = "what the model reads" if limits.shared else PATHS
    with gr.Row(elem_classes="controls"):
        text = gr.Dropdown(
            text_choices(limits),
            value=DEFAULT.text,
            allow_custom_value=True,
            label="Text to read",
            info=hint,
            elem_id="analyse-text",
            scale=3,
            min_width=230,
        )
        samples, length, seed = (
            Number(
                value, label=label, info=info, precision=0, elem_id=f"analyse-{label.lower()}", min_width=110
            )
            for value, label, info in (
                (DEFAULT.samples, "Samples", "pieces of text"),
                (DEFAULT.length, "Length", "tokens in each"),
                (DEFAULT.seed, "Seed", "which pieces"),
            )
        )
        chosen = gr.Dropdown(
            [(row.title, name) for name, row in METHODS.items()],
            value=DEFAULT.method,
            label="Method",
            info="how importance is judged",
            elem_id="analyse-method",
            scale=2,
            min_width=190,
        )
    words = gr.HTML(elem_id="analyse-method-words", padding=False)
    with gr.Row(elem_classes="controls method-options"):
        options = [option_box(name, option) for name, option in all_options()]
    screen.show(words, draw_method_words, "preflight")
    if options:
        screen.show(options, draw_options, "preflight")
    return text, samples, length, seed, chosen, *options


def option_box(name: str, option: Option) -> Any:
    """Return a checkbox or a number for one option of the method `name`."""
    common: dict[str, Any] = {
        "label": label_of(option),
        "elem_id": f"analyse-option-{name}-{option.name}",
        "min_width": 220,
        "visible": name == FIRST,
    }
    if isinstance(option.default, bool):
        return gr.Checkbox(option.default, info=option.words, **common)
    words = f"{option.words} From {option.low:g} to {option.high:g}."
    precision = 0 if isinstance(option.default, int) else None
    return Number(option.default, info=words, precision=precision, **common)


def chosen_method(session: Session) -> str:
    """Return the name of the chosen method, or FIRST if there is no such method."""
    name = str(AnalyseForm.of_session(session).method)
    return name if name in METHODS else FIRST


def draw_method_words(session: Session) -> str:
    """Return a sentence on the chosen method, and its paper, as HTML."""
    row = find_method(chosen_method(session))
    source = f" <span>{escape_html(row.paper)}</span>" if row.paper else ""
    return f'<p class="method-words">{escape_html(row.words)}{source}</p>'


def draw_options(session: Session) -> list[Any]:
    """Return updates that show only the options of the chosen method."""
    name = chosen_method(session)
    return [
        (gr.Checkbox if isinstance(option.default, bool) else gr.Number)(visible=owner == name)
        for owner, option in all_options()
    ]


def draw_preflight(session: Session) -> str:
    """Return how much time and memory the analysis will take, or why it is not possible, as HTML."""
    if session.loaded is None:
        return ""
    form, name = AnalyseForm.of_session(session), chosen_method(session)
    try:
        calibration = calibration_of(form)
        options = options_of(name, form.options)
        if calibration.length > session.loaded.subject.shape.max_length:
            raise Refusal(
                f"This model reads at most {session.loaded.subject.shape.max_length:,} tokens at once."
            )
    except Refusal as refusal:
        return note_html("bad", str(refusal))
    subject, tokens = session.loaded.subject, estimates.analysis_tokens(calibration)
    seconds = estimates.analysis_seconds(subject, session.loaded.rates, calibration, name, options)
    memory = estimates.analysis_bytes(subject, calibration)
    said = (
        f"Reads {tokens:,} tokens. About {format_duration(seconds)} and {format_bytes(memory)} of extra "
        "memory."
    )
    if extra := longest_part(name, options):
        said += f" {extra}"
    doubt = rules.text_doubt(session.loaded.subject.shape, find_method(name).recovery, tokens)
    return note_html("quiet", said) + (note_html("info", doubt) if doubt else "")


def longest_part(name: str, options: dict[str, Any]) -> str:
    """Return a sentence on what a method does besides reading the text; empty if that is all."""
    row = find_method(name)
    if row.probes:
        return "Most of that goes into damaging every layer in turn, to see how far the output moves."
    if row.learns == "gates":
        steps = int(options.get("steps", 300))
        return f"Most of that goes into training its gates, for {steps:,} steps."
    if row.learns:
        return "It also computes gradients, which takes memory for the whole model at once."
    return ""
