"""The Load tab: a model by name, and a card that says what it is made of and what can be pruned."""

from __future__ import annotations

from typing import Any

import gradio as gr

from slimllm.core.attention_unit import UNITS
from slimllm.core.shapes import Shape
from slimllm.export.model_inspection import attention_words, model_parts
from ui.facts.resources.placement import placement_facts, placement_sentence
from ui.look.formatting import escape_html, format_bytes, format_count, format_share, note_html
from ui.page.elements import add_intro, add_lead, job_line, start_and_stop
from ui.page.screen import Screen
from ui.session.forms import LoadForm
from ui.session.limits import Limits
from ui.session.loaded import Loaded
from ui.session.registry import REGISTRY
from ui.session.session import Session
from ui.tasks import work

PURPOSE = "Choose the language model that you want to make smaller."
# Where the starter comes from, on one's own machine and on a shared server.
ORIGIN = {
    False: " that came with this program. Its first load takes about 20 s, later ones a few seconds.",
    True: ".",
}
PARTS = (
    ("embeddings", "Words in and out", "the tables that turn words into numbers and back; they stay whole"),
    ("attention", "Attention heads", "the parts that look back at earlier words; {heads}"),
    ("mlp", "MLP channels", "the parts that store and transform what was read; channels can be removed"),
    ("other", "Norms", "small rescaling steps; they stay whole"),
)


def build(screen: Screen, model: str) -> None:
    """Add the components and events of the tab; the model box contains `model` at first."""
    add_intro(
        screen,
        "load",
        PURPOSE,
        lambda s: "" if s.loaded else f"Press Load to begin{the_starter(s)}.",
    )
    name = gr.Textbox(
        model,
        label="Model",
        info=model_hint(REGISTRY.settings.limits),
        elem_id="load-model",
        max_lines=1,
    )
    with gr.Row(elem_classes="bar"):
        button = gr.Button(
            "Load", variant="primary", elem_id="load-button", scale=0, min_width=120, interactive=False
        )
        stop = gr.Button("Stop", elem_id="load-stop", scale=0, min_width=90, interactive=False)
        add_lead(
            screen, "load", lambda s: ("Next: analyse it", "analyse") if s.loaded and not s.busy else None
        )
        job_line(screen, "load", "load-progress")
    card = gr.HTML(elem_id="load-card", padding=False)
    screen.show(card, draw_card, "subject")
    screen.keep([name], "load", lambda s: source_form(s, model).list_values(), LoadForm.take_entered)
    start_and_stop(screen, "load", button, stop, lambda _: True, dress_load)
    screen.on(button.click, "load", press_load, name)
    screen.on(name.submit, "load", press_load, name)


def model_hint(limits: Limits) -> str:
    """Return which models can be named."""
    if limits.models is None:
        return "smollm2 (the starter), a folder, a .gguf file, or a hub id such as Qwen/Qwen3-0.6B"
    return f"one of: {', '.join(limits.models)}"


def the_starter(session: Session) -> str:
    """Return what is special about the starter on one's own machine; empty on a shared server."""
    return "" if session.limits.shared else "; the starter needs no network"


def source_form(session: Session, model: str) -> LoadForm:
    """Return the content of the model box: what was entered, else the loaded model, else `model`."""
    usual = LoadForm(session.loaded.subject.source if session.loaded else model)
    return LoadForm.find_in(session) or usual


def dress_load(session: Session) -> dict[str, Any]:
    """Return the label and the look of the load button, which stands out until a model is loaded."""
    if session.loaded:
        return {"value": "Load another", "variant": "secondary"}
    return {"value": "Load", "variant": "primary"}


def press_load(session: Session, source: str) -> None:
    """Start loading a model; raise `Refusal` if another job of the session is active."""
    work.start_load(REGISTRY, session, source)


def draw_card(session: Session) -> str:
    """Return the model card as HTML."""
    if session.loaded is None:
        return (
            '<div class="card empty"><p>No model yet. The starter, <b>SmolLM2-135M</b>, is a small real '
            f"language model{ORIGIN[session.limits.shared]}</p>"
            f"<p>{escape_html(placement_sentence(session.settings.device))}</p></div>"
        )
    shape = session.loaded.subject.shape
    facts = "".join(
        f"<div><dt>{escape_html(k)}</dt><dd>{escape_html(v)}</dd></div>"
        for k, v in model_facts(session.loaded)
    )
    notes = "".join(note_html("info", words) for words in session.loaded.subject.notes)
    return (
        f'<div class="card"><h3>{escape_html(session.loaded.subject.source)}</h3>'
        f'<dl class="facts">{facts}</dl>'
        f"{parts_bar(shape)}{notes}"
        f'<div class="pair"><div><h4>What can be pruned</h4>'
        f"<ul>{list_items(prunable_items(session.loaded))}</ul></div>"
        "<div><h4>What can be taken "
        f"away</h4><ul>{list_items(export_items(session.loaded))}</ul></div></div></div>"
    )


def list_items(sentences: list[str]) -> str:
    """Return sentences as the items of an HTML list."""
    return "".join(f"<li>{escape_html(text)}</li>" for text in sentences)


def model_facts(loaded: Loaded) -> list[tuple[str, str]]:
    """Return (label, value) of every fact on the card."""
    shape, subject = loaded.subject.shape, loaded.subject
    groups = f"{shape.heads} in {shape.groups} KV groups" if shape.groups != shape.heads else f"{shape.heads}"
    return [
        ("Family", shape.family),
        ("Parameters", format_count(shape.parameters)),
        ("Layers", f"{len(shape.layers)}"),
        ("Heads per layer", groups),
        ("Channels per layer", f"{shape.channels:,}"),
        ("Longest text", f"{shape.max_length:,} tokens"),
        ("Memory", format_bytes(shape.parameters * subject.dtype.itemsize)),
        *placement_facts(subject, loaded.device, loaded.dtype),
        ("Reads about", f"{loaded.rates.reading:,.0f} tokens/s"),
    ]


def parts_bar(shape: Shape) -> str:
    """Return the parameters by part as HTML: a bar and its legend."""
    found = model_parts(shape)
    heads = "heads stay, and can become narrower" if shape.layers[0].whole else "heads can be removed"
    bar = "".join(
        f'<span class="part {key}" style="width:{100 * found[key] / shape.parameters:.2f}%" '
        f'title="{escape_html(label)}"></span>'
        for key, label, _ in PARTS
    )
    legend = "".join(
        f'<li><span class="part {key}"></span><b>{label}</b> <span class="amount">{format_count(found[key])} '
        f"({format_share(found[key] / shape.parameters)})</span><small>{why.format(heads=heads)}</small></li>"
        for key, label, why in PARTS
    )
    return (
        f'<div class="parts" role="img" aria-label="Parameters by part">{bar}</div>'
        f'<ul class="legend">{legend}</ul>'
    )


def prunable_items(loaded: Loaded) -> list[str]:
    """Return sentences on what can be pruned, and in how many steps."""
    shape = loaded.subject.shape
    layer = shape.layers[0]
    per_group = layer.heads // layer.groups
    special = attention_words(loaded.subject)
    said = [special] if special else []
    for unit in () if layer.whole else shape.units:
        if UNITS[unit].takes_groups:
            heads = f"groups of {per_group} heads" if per_group > 1 else "single heads"
            said.append(f"Attention in {heads}: {layer.steps(unit)} steps per layer.")
        else:
            said.append(
                f"Or the same number of heads out of every KV group: {layer.steps(unit)} steps per layer."
            )
    said.append(f"MLP channels one by one: {shape.channels:,} steps per layer.")
    parts = ("mlp",) if layer.whole else ("attention", "mlp")
    removable = sum(model_parts(shape)[part] for part in parts)
    said.append(
        f"Together up to {format_share(removable / shape.parameters, 0)} of all parameters are in reach."
    )
    return said


def export_items(loaded: Loaded) -> list[str]:
    """Return sentences on the checkpoints that a pruned model can be stored as."""
    return [*loaded.outlook, "In every case the plan, as a small JSON file."]
