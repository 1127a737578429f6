"""The three-way table and its verdict, and the table of several methods, as HTML. Text out, no Gradio, no
model."""

from __future__ import annotations

import math
from collections.abc import Sequence

from slimllm.allocation import ALLOCATIONS
from slimllm.recovery import RECOVERIES
from ui.runs import LABELS, NAMES, Budget, Column, Entry, Protocol
from ui.session import Comparison
from ui.words import change, count, duration, figure, method_title, note, safe, share, size


def table_of(columns: dict[str, Column], protocol: Protocol, recovery: str) -> str:
    """Rows of figures, a column per model, each with its change against the dense one."""
    names = [name for name in NAMES if name != "recovered" or recovery != "none"]
    if "recovered" in columns and "pruned" not in columns:  # the method cannot do without its recovery
        names.remove("pruned")
    if "tuned" in columns:
        names.append("tuned")
    dense = columns.get("dense")
    rows = (
        ("Parameters", "", lambda c: c.parameters, count),
        ("Memory of the weights", "", lambda c: c.bytes, size),
        ("Perplexity", "how surprised it is by real text; lower is better", lambda c: c.perplexity, figure),
        ("Writing speed", "tokens per second, one text at a time", lambda c: c.tokens_per_second, speed),
        ("Error per layer, predicted", "mean over layers", lambda c: c.error_predicted, share),
        ("Error per layer, measured", "mean over layers", lambda c: c.error_measured, share),
    )
    head = "".join(f'<th scope="col">{LABELS[name]}</th>' for name in names)
    body = ""
    for title, hint, of, say in rows:
        cells = ""
        for name in names:
            column = columns.get(name)
            value = None if column is None else of(column)
            base = None if dense is None else of(dense)
            relative = change(value, base) if name != "dense" and value is not None and base else ""
            quiet = name == "dense" and title.startswith("Error")
            said = "–" if quiet else "…" if value is None else safe(say(value))
            cells += f"<td>{said}<small>{relative}</small></td>"
        body += f'<tr><th scope="row">{title}<small>{hint}</small></th>{cells}</tr>'
    measured = next((c.tokens for c in columns.values() if c.tokens), 0)
    how = f"{measured:,} tokens of " if measured else ""
    foot = (
        f"Perplexity over {how}{safe(protocol.text)}, evaluation part, in windows of {protocol.window:,} "
        "tokens that do not overlap. Percentages are changes against the dense model. "
        f"Recovery: {safe(recovery)}."
    )
    return (
        f'<div class="wide"><table class="figures"><thead><tr><th scope="col">What</th>{head}</tr></thead>'
        f'<tbody>{body}</tbody></table></div><p class="foot">{foot}</p>'
    )


def speed(number: float) -> str:
    return f"{figure(number, 1)} tokens/s"


def verdict(comparison: Comparison) -> str:
    """What the figures mean, in plain words."""
    dense, pruned = comparison.columns.get("dense"), comparison.columns.get("pruned")
    best = comparison.columns.get("recovered") or pruned
    if dense is None or best is None or not dense.perplexity or best.perplexity is None:
        return ""
    smaller = 1 - best.parameters / dense.parameters
    worse = best.perplexity / dense.perplexity
    if smaller <= 0:
        return note("good", "Nothing was removed, so nothing changed.")
    if worse < 1.1:
        kind, judgement = "good", "It reads almost as well as before."
    elif worse < 1.5:
        kind, judgement = "good", "It reads noticeably worse, but still well."
    elif worse < 4:
        kind, judgement = (
            "info",
            "It lost much of its fluency; a smaller cut or another recovery may serve better.",
        )
    else:
        kind, judgement = "bad", "It is badly damaged: cut less, or spread the cut differently."
    said = f"The model became {share(smaller)} smaller and is {figure(worse)} times as perplexed. {judgement}"
    if pruned is not None and best is not pruned and pruned.perplexity and math.isfinite(pruned.perplexity):
        if best.perplexity < pruned.perplexity:
            way = f"from {figure(pruned.perplexity)} to {figure(best.perplexity)}"
            said += f" Recovery brought perplexity down {way}."
        else:
            said += " Recovery did not help this time."
    return note(kind, said)


# Several methods --------------------------------------------------------------------------------------------

HEADINGS = (
    "Method", "Recovery", "Allocation", "Parameters", "Size", "Perplexity", "Against dense", "Excess loss",
    "Time", "",
)  # fmt: skip


def latest(entries: Sequence[Entry]) -> list[Entry]:
    """The entries of the budget that was compared last."""
    return [entry for entry in entries if entry.budget == entries[-1].budget]


def methods_table(entries: Sequence[Entry]) -> str:
    """All entries as one table, those of each budget together, the best first; a button takes a plan."""
    budgets = list(dict.fromkeys(entry.budget for entry in reversed(entries)))
    head = "".join(f'<th scope="col">{name}</th>' for name in HEADINGS)
    body = ""
    for budget in budgets:
        mine = [(i, entry) for i, entry in enumerate(entries) if entry.budget == budget]
        mine.sort(key=lambda pair: perplexity_of(pair[1]))
        if len(budgets) > 1:
            body += (
                f'<tr><th class="budget" scope="rowgroup" colspan="{len(HEADINGS)}">{about(budget)}</th></tr>'
            )
        body += dense_row(mine[0][1].dense)
        body += "".join(method_row(i, entry) for i, entry in mine)
    foot = f"{about(budgets[0])}. " if len(budgets) == 1 else ""
    foot += (
        "Excess loss is ln(perplexity / dense perplexity), per token. Time is scoring and pruning; the text "
        "is read once for all methods that need no more than its moments."
    )
    table = f'<table class="methods"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="wide">{table}</div><p class="foot">{foot}</p>'


def about(budget: Budget) -> str:
    """A budget in words."""
    of = "all parameters" if budget.count == "all" else "the layers"
    read, how = budget.calibration, budget.protocol
    limit = f"at most {how.limit:,} tokens of " if how.limit else ""
    return safe(
        f"{share(budget.ratio)} of {of} removed, having read {read.samples * read.length:,} tokens of "
        f"{read.text}; perplexity on {limit}{how.text} in windows of {how.window:,}"
    )


def perplexity_of(entry: Entry) -> float:
    found = entry.column.perplexity if entry.column else None
    return math.inf if found is None else found


def dense_row(dense: Column) -> str:
    said = "–" if dense.perplexity is None else figure(dense.perplexity)
    cells = ("", "", count(dense.parameters), "", said, "", "", "", "")
    return f'<tr class="dense"><th scope="row">Dense</th>{"".join(f"<td>{c}</td>" for c in cells)}</tr>'


def method_row(index: int, entry: Entry) -> str:
    """One entry; a refused one says why across the table."""
    title = safe(method_title(entry.method))
    name = f"Your plan<small>{title}</small>" if entry.present else title
    head = f'<th scope="row">{name}</th>'
    if entry.plan is None or entry.column is None:
        return f'<tr>{head}<td class="why" colspan="{len(HEADINGS) - 1}">{safe(entry.refusal)}</td></tr>'
    plan, column, dense = entry.plan, entry.column, entry.dense
    allocation = ALLOCATIONS[plan.allocation].title if plan.allocation in ALLOCATIONS else "By hand"
    perplexity = math.nan if column.perplexity is None else column.perplexity
    cells = (
        RECOVERIES[plan.recovery].title,
        allocation,
        count(column.parameters),
        change(column.parameters, dense.parameters),
        figure(perplexity),
        change(perplexity, dense.perplexity or 0.0),
        "–" if entry.excess is None else f"{entry.excess:.3f}",
        duration(entry.seconds),
    )
    said = "your plan" if entry.present else method_title(entry.method)
    button = (
        f'<button type="button" data-row="{index}" aria-label="Take the plan of {safe(said)} into Tune">'
        "To Tune</button>"
    )
    return f"<tr>{head}{''.join(f'<td>{safe(cell)}</td>' for cell in cells)}<td>{button}</td></tr>"
