"""The guided tour: a card above the tabs that uses the real page in a few clicks, and explains it.

Its sentences are in `story` and its pictures in `sketches`. This module starts the page's own jobs and reads
their results.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from slimllm.core.attention_unit import UNITS
from slimllm.core.types import Calibration
from slimllm.planning import forecast
from ui.charts.layer_charts import removed_shares
from ui.facts.comparison import Comparison
from ui.facts.runs import Asked, Protocol, best_name
from ui.look.formatting import escape_html, format_count, format_share, note_html
from ui.page.elements import progress_line
from ui.page.screen import Screen
from ui.session.forms import AnalyseForm
from ui.session.parts import Part
from ui.session.registry import REGISTRY
from ui.session.session import Session
from ui.tasks import comparing, work
from ui.tour import sketches, story
from ui.tour.story import STEPS, Stage, TourStep

# Enough tokens for true results, and few enough for a short wait.
READ = Calibration(samples=12, length=128)
METHOD = "slimllm"
ASKED = Asked(Protocol(limit=1024), ("Once upon a time there was a small robot who",), new_tokens=24)


@dataclass(frozen=True)
class Work:
    """The job behind a step: its kind, how to start it, and whether its result is there already."""

    kind: str
    start: Callable[[Session], Any]
    done: Callable[[Session], bool]


class Guide:
    """The jobs of the steps, and the handlers of the card's buttons."""

    def __init__(self, load: Callable[[Session], None]):
        self.works = {
            "model": Work("load", load, lambda s: s.loaded is not None),
            "matter": Work("analyse", start_analysis, lambda s: s.analysis is not None),
            "cut": Work("compare", start_comparison, is_compared),
        }

    def stage(self, session: Session, step: TourStep) -> Stage:
        """Return whether the step's job is still to come, running or done; a step without a job is done."""
        mine, job = self.works.get(step.name), session.job
        if mine is None:
            return "after"
        if job is not None and job.active and job.kind == mine.kind:
            return "during"
        return "after" if mine.done(session) else "before"

    def go(self, session: Session, to: int) -> str | None:
        """Go to a step, start its job unless that is done, and return its tab.

        A number beyond the steps ends the tour; then the answer is None.
        """
        session.tour = to if 0 <= to < len(STEPS) else None
        if session.tour is None:
            return None
        step = STEPS[to]
        if self.stage(session, step) == "before":
            self.works[step.name].start(session)
        return step.tab

    def onward(self, session: Session) -> str | None:
        """Go to the next step, or to the present one if its job is not done; return the tab."""
        at = 0 if session.tour is None else session.tour
        return self.go(session, at + (self.stage(session, STEPS[at]) == "after"))

    def back(self, session: Session) -> str | None:
        """Go to the step before, and return its tab."""
        return self.go(session, max(0, (session.tour or 0) - 1))

    def draw(self, session: Session) -> list[Any]:
        """Return the updates of the card, its content, and its buttons Back and onward."""
        if session.tour is None:
            return [gr.Column(visible=False), "", gr.skip(), gr.skip()]
        step = STEPS[session.tour]
        stage = self.stage(session, step)
        return [
            gr.Column(visible=True),
            self.card(session, step, stage),
            gr.Button(interactive=session.tour > 0),
            gr.Button(story.TRY_AGAIN if stage == "before" else step.onward, interactive=stage != "during"),
        ]

    def card(self, session: Session, step: TourStep, stage: Stage) -> str:
        """Return a step as HTML: sentences beside a picture, and the progress of its job."""
        facts = tour_facts(session) if stage == "after" else {}
        text = "".join(
            f"<p>{escape_html(sentence)}</p>" for sentence in story.step_sentences(step, stage, facts)
        )
        kind, complaint = session.notes.get("tour", ("", ""))
        job, mine = session.job, self.works.get(step.name)
        if stage == "during" and job is not None:
            text += progress_line(job, REGISTRY.worker.place(job))
        elif stage == "before" and mine is not None and job is not None and job.kind == mine.kind:
            text += progress_line(job, 0)
        place = f"Step {STEPS.index(step) + 1} of {len(STEPS)}"
        picture = PICTURES[step.name](session, step.picture)
        return (
            f'<div class="tour-card"><div class="tour-words" aria-live="polite"><p class="tour-place">{place}'
            f"</p><h2>{escape_html(step.title)}</h2>{text}{note_html(kind, complaint)}</div><figure>{picture}"
            f"<figcaption>{escape_html(step.picture)}</figcaption></figure>"
            f"{answers_html(session) if step.name == 'cost' else ''}</div>"
        )


def build(screen: Screen, start: gr.Button, load: Callable[[Session], None]) -> None:
    """Add the card of the tour, which is hidden until `start` is pressed."""
    guide = Guide(load)
    with gr.Column(visible=False, elem_id="tour") as card:
        words = gr.HTML(padding=False)
        with gr.Row(elem_classes="bar"):
            onward = gr.Button("Next", variant="primary", scale=0, min_width=170, elem_id="tour-onward")
            back = gr.Button("Back", scale=0, min_width=90, elem_id="tour-back")
            close = gr.Button("Close", scale=0, min_width=90, elem_id="tour-close")
    screen.show([card, words, back, onward], guide.draw, token=card_token)
    screen.on(start.click, "tour", partial(guide.go, to=0))
    screen.on(back.click, "tour", guide.back)
    screen.on(onward.click, "tour", guide.onward)
    screen.on(close.click, "tour", leave_tour)


def card_token(session: Session) -> Any:
    """Return what the card depends on; while a job runs, its progress as well."""
    if session.tour is None:
        return None
    job = session.job
    parts: tuple[Part, ...] = ("subject", "layers", "plan", "table", "answers")
    pulse = (id(job), job.state, round(job.elapsed)) if job is not None else ()
    return session.tour, pulse, *(session.serial[part] for part in parts), session.notes.get("tour")


def leave_tour(session: Session) -> None:
    """End the tour, and hide its card."""
    session.tour = None


def start_analysis(session: Session) -> None:
    """Start the short analysis of the tour, and show its settings on the Analyse tab."""
    work.start_analyse(REGISTRY, session, READ, METHOD)
    AnalyseForm.of_reading(READ, METHOD).fill_in(session)


def start_comparison(session: Session) -> None:
    """Start the short comparison of the tour."""
    comparing.start_compare(REGISTRY, session, ASKED)


# Facts and pictures -----------------------------------------------------------------------------------------


def is_compared(session: Session) -> bool:
    """Return whether the present plan has been pruned and measured."""
    return bool(session.comparison and session.plans and session.comparison.plan == session.plan)


def tour_facts(session: Session) -> dict[str, str]:
    """Return the facts that the sentences may need, by name, as far as they are known."""
    if session.loaded is None:
        return {}
    shape = session.subject.shape
    facts = {"layers": f"{len(shape.layers)}", "parameters": format_count(shape.parameters)}
    if session.analysis is not None and session.plans:
        view = forecast.forecast_plan(session.analysis, session.plan)
        facts |= {"tokens": f"{session.analysis.tokens:,}", "share": format_share(view.ratio, 0)}
        facts |= spread_words(removed_shares(session.plan, session.analysis.shape), story.SPREAD_PLANNED)
    if is_compared(session) and session.comparison is not None:
        facts |= cut_facts(session, session.comparison) | cost_facts(session.comparison)
    return facts


def spread_words(removed: list[float], sentences: tuple[str, str]) -> dict[str, str]:
    """Return {"spread": a sentence} on which layer loses the most and the least, or that all are equal."""
    uneven, even = sentences
    most, least = removed.index(max(removed)), removed.index(min(removed))
    return {"spread": even if most == least else uneven.format(most=most, least=least)}


def cut_facts(session: Session, comparison: Comparison) -> dict[str, str]:
    """Return how many heads and channels are gone, and from which layers the most, in words by name."""
    plan, shape, reports = comparison.plan, session.subject.shape, comparing.best_reports(comparison)
    heads = sum(layer.widest(plan.unit) for layer in shape.layers)
    channels = sum(layer.channels for layer in shape.layers)
    return {
        "heads": f"{heads - sum(r.heads for r in reports):,}",
        "all_heads": f"{heads:,} {UNITS[plan.unit].plural}",
        "channels": f"{channels - sum(r.channels for r in reports):,}",
        "all_channels": f"{channels:,}",
        "spread_cut": spread_words(removed_shares(plan, shape), story.SPREAD_CUT)["spread"],
        "mended": story.BARE if plan.recovery == "none" else story.MENDED,
    }


def cost_facts(comparison: Comparison) -> dict[str, str]:
    """Return size and perplexity before and after in words by name, or {} before both are measured."""
    dense, best = compared_columns(comparison)
    if not dense.perplexity or not best.perplexity:
        return {}
    return {
        "smaller": format_share(1 - best.parameters / dense.parameters, 0),
        "after": format_count(best.parameters),
        "dense": f"{dense.perplexity:,.0f}",
        "pruned": f"{best.perplexity:,.0f}",
        "verdict": story.verdict_words(best.perplexity / dense.perplexity),
    }


def compared_columns(comparison: Comparison) -> tuple[Any, Any]:
    """Return the columns of the dense model and of the best pruned one."""
    columns = comparison.columns
    return columns["dense"], columns[best_name(columns)]


def answers_html(session: Session) -> str:
    """Return what both models wrote, side by side, as HTML; empty before they write."""
    if not session.results.answers:
        return ""
    answer = session.results.answers[0]
    new = answer.texts.get(best_name(answer.texts), "")
    both = (("The old one", answer.texts.get("dense", "")), ("The new one", new))
    cells = "".join(f"<div><dt>{who}</dt><dd>{escape_html(text.strip())} …</dd></div>" for who, text in both)
    return f'<div class="tour-answers"><p>“{escape_html(answer.prompt)} …”</p><dl>{cells}</dl></div>'


def draw_model(session: Session, label: str) -> str:
    """Return a picture of the model's layers."""
    return sketches.layer_stack(len(session.subject.shape.layers) if session.loaded else 0, label)


def draw_matter(session: Session, label: str) -> str:
    """Return a picture of the head scores of every layer scored so far, as shares of the layer's best."""
    rows: list[list[float] | None] = []
    for found in session.analyses.partial or [None] * 12:
        scores = None if found is None else next(iter(found.attention.values())).ranking.scores.clamp(min=0)
        best = 1.0 if scores is None else max(float(scores.max()), 1e-12)
        rows.append(None if scores is None else [float(score) / best for score in scores])
    return sketches.head_squares(rows, label)


def draw_small(session: Session, label: str) -> str:
    """Return a picture of what the plan keeps of every layer."""
    if session.analysis is None or not session.plans:
        return sketches.kept_bars([1.0] * 12, label)
    return sketches.kept_bars([1 - x for x in removed_shares(session.plan, session.analysis.shape)], label)


def draw_cut(session: Session, label: str) -> str:
    """Return a picture of the heads and channels that were cut; before the cut, of the plan."""
    shown = session.comparison if is_compared(session) else None
    if shown is None or session.loaded is None:
        return draw_small(session, label)
    heads, channels = [], []
    for layer, report in zip(session.subject.shape.layers, comparing.best_reports(shown), strict=True):
        narrowed = UNITS[shown.plan.unit].narrows_heads
        size = layer.groups * layer.values if narrowed else layer.heads
        kept = set(report.kept_heads)
        heads.append([i in kept for i in range(size)])
        channels.append(report.channels / layer.channels)
    return sketches.cut_columns(heads, channels, label)


def draw_cost(session: Session, label: str) -> str:
    """Return a picture of size and perplexity before and after; before they are known, of the plan."""
    if not is_compared(session) or session.comparison is None:
        return draw_small(session, label)
    dense, best = compared_columns(session.comparison)
    before, after = dense.perplexity or 0.0, best.perplexity or 0.0
    size = (
        story.SIZE,
        dense.parameters,
        best.parameters,
        format_count(dense.parameters),
        format_count(best.parameters),
    )
    doubt = (story.DOUBT, before, after, f"{before:,.0f}", f"{after:,.0f}")
    return sketches.before_after_bars((size, doubt), label)


PICTURES: dict[str, Callable[[Session, str], str]] = {
    "model": draw_model,
    "matter": draw_matter,
    "small": draw_small,
    "cut": draw_cut,
    "cost": draw_cost,
}
