"""Write the three-way table, its verdict, and the table of several methods as HTML. No Gradio, no model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from slimllm.methods.recovery import RECOVERIES
from slimllm.planning.allocation import ALLOCATIONS
from ui.facts.comparison import Comparison
from ui.facts.runs import LABELS, NAMES, Budget, Column, Entry, Protocol
from ui.facts.verdicts import (
    Columns,
    on_errors,
    on_memory,
    on_parameters,
    on_perplexity,
    on_writing,
    say_nothing,
    verdict_sentences,
)
from ui.look.formatting import (
    escape_html,
    format_bytes,
    format_change,
    format_count,
    format_duration,
    format_figure,
    format_share,
    method_title,
    note_html,
)


def speed_words(number: float) -> str:
    """Return a speed in tokens per second, in words."""
    return f"{format_figure(number, 1)} tokens/s"


@dataclass(frozen=True)
class Row:
    """A row of the table.

    `of` gets the figure of a column, `say` writes it, and `judge` says what the row means.
    """

    title: str
    hint: str
    of: Callable[[Column], float | None]
    say: Callable[[float], str]
    judge: Callable[[Columns], str]
    # Whether the row shows the change against the dense model.
    relative: bool = True


ROWS = (
    Row("Parameters", "all weights of the model", lambda c: c.parameters, format_count, on_parameters),
    Row("Memory of the weights", "as they are held now", lambda c: c.bytes, format_bytes, on_memory),
    Row("Perplexity", "how surprised it is by real text; lower is better", lambda c: c.perplexity,
        format_figure, on_perplexity),
    Row("Writing speed", "one text at a time", lambda c: c.tokens_per_second, speed_words,
        on_writing, relative=False),
    Row("Error per layer, predicted", "on text held out, mean over layers", lambda c: c.error_predicted,
        format_share, say_nothing),
    Row("Error per layer, measured", "on text held out, mean over layers", lambda c: c.error_measured,
        format_share, on_errors),
)  # fmt: skip


def table_of(columns: Columns, protocol: Protocol, recovery: str) -> str:
    """Return the figures as an HTML table: one row per figure, one column per model.

    Each figure has its change against the dense one, and each row says in plain words what it means.
    """
    names = [name for name in NAMES if name != "recovered" or recovery != "none"]
    # The method does not work without its recovery, so it has no column without it.
    if "recovered" in columns and "pruned" not in columns:
        names.remove("pruned")
    names = [name for name in names if name != "tuned" or name in columns]
    head = "".join(f'<th scope="col">{LABELS[name]}</th>' for name in names)
    body = "".join(line_of(row, names, columns) for row in ROWS)
    measured = next((c.tokens for c in columns.values() if c.tokens), 0)
    how = f"{measured:,} tokens of " if measured else ""
    foot = (
        f"Perplexity over {how}{escape_html(protocol.text)}, evaluation part, in "
        f"{escape_html(windows_of(protocol))}. "
        "Percentages are changes against the dense model. "
        f"Recovery: {escape_html(RECOVERIES[recovery].title if recovery in RECOVERIES else recovery)}."
    )
    return (
        '<div class="wide"><table class="figures three" '
        f'style="--columns: {len(names)}"><thead><tr><th scope="col">What</th>'
        f'{head}<th scope="col" class="meaning">In plain words</th></tr></thead>'
        f'<tbody>{body}</tbody></table></div><p class="foot">{foot}</p>'
    )


def windows_of(protocol: Protocol) -> str:
    """Return in words how the text is cut into windows."""
    begun = ""
    if protocol.begins_with:
        begun = f" and begin with {protocol.begins_with}, as the tokenizer begins texts; it is not counted"
    return f"windows of {protocol.window:,} tokens that do not overlap{begun}"


def line_of(row: Row, names: Sequence[str], columns: Columns) -> str:
    """Return one row: a dash where a figure makes no sense, and dots while it is missing."""
    dense = columns.get("dense")
    base = None if dense is None else row.of(dense)
    cells = ""
    for name in names:
        column = columns.get(name)
        value = None if column is None else row.of(column)
        relative = ""
        if row.relative and name != "dense" and value is not None and base:
            relative = format_change(value, base)
        quiet = name == "dense" and row.title.startswith("Error")
        said = "–" if quiet else "…" if value is None else escape_html(row.say(value))
        cells += f"<td>{said}<small>{relative}</small></td>"
    meaning = escape_html(row.judge(columns))
    return (
        f'<tr><th scope="row">{row.title}<small>{row.hint}</small></th>{cells}'
        f'<td class="meaning">{meaning}</td></tr>'
    )


def verdict_html(comparison: Comparison) -> str:
    """Return the verdict on a comparison in plain words, as HTML."""
    return note_html(*verdict_sentences(comparison.columns, comparison.plan))


# Several methods --------------------------------------------------------------------------------------------

HEADINGS = (
    "Method", "Recovery", "Allocation", "Parameters", "Size", "Perplexity", "Against dense", "Excess loss",
    "Time", "",
)  # fmt: skip


def latest_entries(entries: Sequence[Entry]) -> list[Entry]:
    """Return the entries of the budget that was compared last."""
    return [entry for entry in entries if entry.budget == entries[-1].budget]


def methods_table(entries: Sequence[Entry]) -> str:
    """Return all entries as one HTML table, grouped by budget, the best first.

    A button takes the plan of a row into Tune.
    """
    budgets = list(dict.fromkeys(entry.budget for entry in reversed(entries)))
    head = "".join(f'<th scope="col">{name}</th>' for name in HEADINGS)
    body = ""
    for budget in budgets:
        mine = [(i, entry) for i, entry in enumerate(entries) if entry.budget == budget]
        mine.sort(key=lambda pair: perplexity_of(pair[1]))
        if len(budgets) > 1:
            body += f'<tr><th class="budget" scope="rowgroup" colspan="{len(HEADINGS)}">'
            body += f"{budget_words(budget)}</th></tr>"
        body += dense_row(mine[0][1].dense)
        body += "".join(method_row(i, entry) for i, entry in mine)
    foot = f"{budget_words(budgets[0])}. " if len(budgets) == 1 else ""
    foot += (
        "Excess loss is ln(perplexity / dense perplexity), per token. Time is scoring and pruning; the text "
        "is read once for all methods that need no more than its moments."
    )
    table = f'<table class="methods"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="wide">{table}</div><p class="foot">{foot}</p>'


def budget_words(budget: Budget) -> str:
    """Return a budget in words, as HTML."""
    of = "all parameters" if budget.count == "all" else "the layers"
    read, how = budget.calibration, budget.protocol
    limit = f"at most {how.limit:,} tokens of " if how.limit else ""
    return escape_html(
        f"{format_share(budget.ratio)} of {of} removed, having read {read.samples * read.length:,} tokens of "
        f"{read.text}; perplexity on {limit}{how.text} in {windows_of(how)}"
    )


def perplexity_of(entry: Entry) -> float:
    """Return the perplexity of an entry, or infinity where it has none."""
    found = entry.column.perplexity if entry.column else None
    return math.inf if found is None else found


def dense_row(dense: Column) -> str:
    """Return the row of the dense model."""
    said = "–" if dense.perplexity is None else format_figure(dense.perplexity)
    cells = ("", "", format_count(dense.parameters), "", said, "", "", "", "")
    return f'<tr class="dense"><th scope="row">Dense</th>{"".join(f"<td>{c}</td>" for c in cells)}</tr>'


def method_row(index: int, entry: Entry) -> str:
    """Return the row of one entry; that of a refused entry gives the reason across the table."""
    title = escape_html(method_title(entry.method))
    name = f"Your plan<small>{title}</small>" if entry.present else title
    head = f'<th scope="row">{name}</th>'
    if entry.plan is None or entry.column is None:
        return (
            f'<tr>{head}<td class="why" colspan="{len(HEADINGS) - 1}">{escape_html(entry.refusal)}</td></tr>'
        )
    plan, column, dense = entry.plan, entry.column, entry.dense
    allocation = ALLOCATIONS[plan.allocation].title if plan.allocation in ALLOCATIONS else "By hand"
    perplexity = math.nan if column.perplexity is None else column.perplexity
    cells = (
        RECOVERIES[plan.recovery].title,
        allocation,
        format_count(column.parameters),
        format_change(column.parameters, dense.parameters),
        format_figure(perplexity),
        format_change(perplexity, dense.perplexity or 0.0),
        "–" if entry.excess is None else f"{entry.excess:.3f}",
        format_duration(entry.seconds),
    )
    said = "your plan" if entry.present else method_title(entry.method)
    button = (
        f'<button type="button" data-row="{index}" '
        f'aria-label="Take the plan of {escape_html(said)} into Tune">'
        "To Tune</button>"
    )
    return f"<tr>{head}{''.join(f'<td>{escape_html(cell)}</td>' for cell in cells)}<td>{button}</td></tr>"
