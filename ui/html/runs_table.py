"""Write the runs as an HTML table, and the deleted runs as a line of buttons. Text out, no Gradio."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from slimllm.methods.recovery import RECOVERIES
from ui.facts.runs import Run
from ui.look.formatting import (
    escape_html,
    format_change,
    format_count,
    format_figure,
    format_share,
    format_time,
    method_title,
)

# The script of both. A button raises its `data-do` as an event with the run's number. A click elsewhere in a
# row chooses the run, except on a word that the glossary explains.
PRESS = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-do]');
  const row = event.target.closest('[data-run]');
  if (!row || event.target.closest('.term')) return;
  const names = {choose: 'choose', pin: 'pin', back: 'back'};
  trigger(names[button?.dataset.do ?? 'choose'], {run: Number(row.dataset.run)});
});
"""
HEADINGS = ("Pinned", "Run", "Smaller", "Perplexity", "How", "What changed", "When")


def in_order(runs: Sequence[Run]) -> list[Run]:
    """Return the pinned runs, then the others; within each, the newest run comes first."""
    return sorted(runs, key=lambda run: (not run.pinned, -run.number))


def runs_table(runs: Sequence[Run], chosen: int | None) -> str:
    """Return the runs as an HTML table with one row per run; the chosen run is marked."""
    several = len({run.plan.model for run in runs}) > 1
    head = "".join(
        f'<th scope="col">{name if name != "Pinned" else f"<span>{name}</span>"}</th>' for name in HEADINGS
    )
    body = "".join(row_of(run, run.number == chosen, several) for run in in_order(runs))
    return (
        f'<div class="wide runs"><table><caption>All runs, pinned ones first</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def row_of(run: Run, chosen: bool, several: bool = False) -> str:
    """Return one run as a row; with `several` models in the table, the row names the model."""
    best, dense = run.best, run.columns["dense"]
    measured = best.perplexity is not None
    said = format_figure(best.perplexity or 0.0) if measured else "–"
    worse = format_change(best.perplexity or 0.0, dense.perplexity or 0.0) if measured else ""
    model = Path(run.plan.model).name if several else ""
    under = " · ".join(part for part in (model, run.note) if part)
    star = "★" if run.pinned else "☆"
    here = ' aria-current="true"' if chosen else ""
    cells = (
        f"{format_share(run.smaller)}<small>{format_count(best.parameters)}</small>",
        f"{said}<small>{worse}</small>",
        f"{escape_html(method_title(run.plan.method))}<small>{escape_html(RECOVERIES[run.plan.recovery].title)}</small>",
        f"<span>{escape_html(came_from(run))}</span>",
        escape_html(format_time(run.made)),
    )
    return (
        f'<tr data-run="{run.number}"{here}>'
        f'<td><button type="button" data-do="pin" aria-pressed="{str(run.pinned).lower()}" '
        f'aria-label="Pin {run.name}" title="Pinned runs stay on top">{star}</button></td>'
        f'<th scope="row"><button type="button" data-do="choose">{run.name}</button>'
        f"<small>{escape_html(under)}</small></th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
    )


def came_from(run: Run) -> str:
    """Return where a run's plan came from, in words."""
    if run.parent is None:
        return "a fresh start"
    return f"from Run {run.parent}: {run.told}" if run.told else f"from Run {run.parent}"


def deleted_line(numbers: Sequence[int]) -> str:
    """Return the deleted runs, the latest first, each with a button that brings it back.

    The result is empty where no run was deleted.
    """
    if not numbers:
        return ""
    buttons = "".join(
        f'<span data-run="{number}"><button type="button" data-do="back" '
        f'aria-label="Bring Run {number} back">Run {number} ↶</button></span>'
        for number in reversed(numbers)
    )
    return f'<p class="deleted">Deleted, click to bring back: {buttons}</p>'


def damaged_line(names: Sequence[str]) -> str:
    """Return a sentence on the files that could not be read, or an empty string where there are none."""
    if not names:
        return ""
    if len(names) == 1:
        return f"The file {names[0]} cannot be read, so this run is not shown; all others are complete."
    files = ", ".join(names)
    return f"The files {files} cannot be read, so these runs are not shown; all others are complete."
