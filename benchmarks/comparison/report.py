"""Report the methods' benchmark: excess losses, verdicts on the goals, tables as text and Markdown. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from benchmarks.comparison.cells import BEST, FLOOR, YARDSTICK, row_of
from slimllm.methods.table import METHODS

Cell = dict[str, Any]
# Sizes count as equal within this share of the decoder parameters.
EQUAL = 0.002
# The excess loss of `best` may be at most this share of the other's.
GOALS = {"yardstick": 0.65, "next": 0.95}
YARDSTICK_RECOVERY = "regression"


def perplexity(nll: float | str) -> float:
    """Return exp(nll); `nll` may be a string, because JSON stores numbers that it lacks as text."""
    value = float(nll)
    return math.exp(value) if value < 700 else math.inf if value > 0 else math.nan


def completed(cell: Cell, dense: Cell) -> Cell:
    """Return the cell with the figures that follow from the dense model's cell.

    These are the perplexities, the excess losses ln(ppl / dense) by text and window, their means over texts
    by window, the removed share, and how far the size is off.
    """
    if "refused" in cell:
        return cell
    budget = (1 - cell["ratio"]) * dense["decoder"]
    excess = {
        text: {window: float(nll) - float(dense["nll"][text][window]) for window, nll in windows.items()}
        for text, windows in cell["nll"].items()
    }
    first = next(iter(excess.values()))
    return {
        **cell,
        "perplexity": {t: {w: perplexity(nll) for w, nll in by.items()} for t, by in cell["nll"].items()},
        "excess": excess,
        "mean_excess": {w: sum(by[w] for by in excess.values()) / len(excess) for w in first},
        "removed": 1 - cell["decoder"] / dense["decoder"],
        "off": cell["decoder"] / budget - 1,
    }


def loss(cell: Cell) -> float:
    """Return the mean excess loss at the first window, by which methods are compared; infinite if broken."""
    value = float(next(iter(cell["mean_excess"].values())))
    return value if math.isfinite(value) else math.inf


def name(cell: Cell) -> str:
    """Return the name of a cell's row."""
    return ":".join(cell[key] for key in ("method", "recovery", "allocation"))


def one(cells: Sequence[Cell], words: str) -> Cell | None:
    """Return the cell of the row NAME[:RECOVERY], or None where there is none."""
    if words.split(":")[0] not in METHODS:
        return None
    wanted = row_of(words).name
    return next((cell for cell in cells if name(cell) == wanted), None)


def verdict(cells: Sequence[Cell], ratio: float) -> dict[str, Any]:
    """Return the verdict on the goals at one ratio, by mean excess loss at the first window.

    A rival may be smaller than requested but not larger, a row compared with the floor larger but not
    smaller.
    """
    here = [cell for cell in cells if cell["ratio"] == ratio and "refused" not in cell]
    best, floor = one(here, BEST), one(here, FLOOR)
    yardstick = one(here, f"{YARDSTICK}:{YARDSTICK_RECOVERY}")
    rivals = [c for c in here if c["method"] != BEST and not c["trained"] and c["off"] <= EQUAL]
    nearest = min(rivals, key=loss, default=None)
    against: dict[str, Any] = {}
    for key, other in (("yardstick", yardstick), ("next", nearest)):
        share = loss(best) / loss(other) if best and other and 0 < loss(other) < math.inf else None
        against[key] = {
            "row": name(other) if other else None,
            "share": share,
            "goal": GOALS[key],
            "met": share is not None and share <= GOALS[key],
        }
    worse = [
        c for c in here if floor and c is not floor and c["off"] >= -EQUAL and not loss(c) <= loss(floor)
    ]
    return {
        "ratio": ratio,
        "best": name(best) if best else None,
        "best_off_size": bool(best and abs(best["off"]) > EQUAL),
        "against": against,
        "floor": name(floor) if floor else None,
        "worse_than_floor": [name(cell) for cell in worse],
        "off_size": {name(c): c["off"] for c in here if abs(c["off"]) > EQUAL},
        "refused": {name(c): c["refused"] for c in cells if c["ratio"] == ratio and "refused" in c},
    }


# Tables ----------------------------------------------------------------------------------------------------


def header(answer: dict[str, Any]) -> list[str]:
    """Return the header of a table."""
    windows = [str(window) for window in answer["evaluation"]["windows"]]
    return [
        *("method", "recovery", "allocation", "decoder M", "removed"),
        *(f"{text} {window}" for text in answer["evaluation"]["texts"] for window in windows),
        *(f"excess {window}" for window in windows),
        *("analyse s", "prune s", "peak MiB"),
    ]


def line(cell: Cell) -> list[str]:
    """Return one row of the table; a star marks a trained method, ≠ a size that is off."""
    start = [
        cell["method"] + "*" * cell.get("trained", False),
        cell.get("recovery", ""),
        cell.get("allocation", ""),
    ]
    seconds, peak = cell.get("seconds"), cell.get("peak_mib")
    return [
        *start,
        f"{cell['decoder'] / 1e6:.2f}",
        f"{cell['removed']:.2%}" + " ≠" * (abs(cell["off"]) > EQUAL),
        *(short(ppl) for by_window in cell["perplexity"].values() for ppl in by_window.values()),
        *(f"{excess:.3f}" for excess in cell["mean_excess"].values()),
        *((f"{seconds[step]:.0f}" if seconds else "") for step in ("analyse", "prune")),
        f"{max(map(float, peak.values())):,.0f}" if peak else "",
    ]


def short(value: float) -> str:
    """Return a perplexity with four significant digits, or as a whole number where it is large."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def tables(answer: dict[str, Any]) -> list[tuple[float, list[list[str]], list[str]]]:
    """Return (ratio, lines, sentences) for every ratio.

    The lines are those of the table with its header, best rows first; the sentences stand below it.
    """
    found = []
    for judged in answer["verdicts"]:
        here = [c for c in answer["cells"] if c["ratio"] == judged["ratio"] and "refused" not in c]
        lines = [header(answer), line(answer["dense"]), *map(line, sorted(here, key=loss))]
        found.append((judged["ratio"], lines, sentences(judged)))
    return found


def sentences(judged: dict[str, Any]) -> list[str]:
    """Return the verdict at one ratio in sentences."""
    found = []
    for key, what in (("yardstick", "the paper's own"), ("next", "the best other training-free row")):
        each = judged["against"][key]
        if judged["best"] is None or each["row"] is None or each["share"] is None:
            found.append(f"`{BEST}` against {what}: cannot be told, a row is missing.")
            continue
        met = "met" if each["met"] else "NOT met"
        found.append(
            f"`{BEST}` loses {each['share']:.3f} times what {what} (`{each['row']}`) loses; "
            f"goal {each['goal']:g}: {met}."
        )
    if judged["floor"] is None:
        found.append(f"Nothing can be held against `{FLOOR}`: that row is missing.")
    else:
        worse = ", ".join(f"`{row}`" for row in judged["worse_than_floor"]) or "none"
        found.append(f"Worse than `{FLOOR}`: {worse}.")
    off = ", ".join(f"`{row}` {off:+.1%}" for row, off in judged["off_size"].items()) or "none"
    found.append(f"Size off by more than {EQUAL:.1%} (≠): {off}.")
    found += [f"Refused: `{row}`: {why}" for row, why in judged["refused"].items()]
    return found


def setting(answer: dict[str, Any]) -> list[str]:
    """Return sentences on the conditions under which all cells were measured."""
    calibration, evaluation = answer["calibration"], answer["evaluation"]
    read = ", ".join(f"{label}: first {count:,} tokens" for label, (count, _) in evaluation["texts"].items())
    windows = " and ".join(map(str, evaluation["windows"]))
    begun = f", each begun with {evaluation['begins_with']}" if evaluation.get("begins_with") else ""
    return [
        f"{answer['date']}; {answer['machine']}; source {answer['source']}.",
        f"Calibration {calibration['samples']} × {calibration['length']} tokens of {calibration['text']}, "
        f"seed {calibration['seed']}; attention unit {answer['unit']}, channels in multiples of "
        f"{answer['align']}.",
        f"Perplexity over windows of {windows} tokens{begun} ({read}); excess: mean over texts of "
        "ln(ppl / dense); rows in order of the excess at the first window. A star marks methods that train.",
        "Analyse: from moments that are collected once for all methods. Peak: resident memory of the whole "
        "process, or of the device on CUDA.",
    ]


def plain_text(answer: dict[str, Any]) -> str:
    """Return aligned tables for the terminal."""
    parts = ["\n".join(setting(answer))]
    for ratio, lines, below in tables(answer):
        widths = [max(len(row[i]) for row in lines) for i in range(len(lines[0]))]
        aligned = [
            "  ".join(
                cell.ljust(width) if i < 3 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in lines
        ]
        parts.append("\n".join([f"{ratio:.0%} of the decoder parameters removed", *aligned, *below]))
    if answer["missing"]:
        parts.append(f"Missing: {', '.join(answer['missing'])}.")
    return "\n\n".join(parts)


def markdown(answer: dict[str, Any]) -> str:
    """Return the tables as Markdown for docs/benchmarks.md."""
    parts = [f"`{answer['command']}`", *setting(answer)]
    for ratio, lines, below in tables(answer):
        ruler = ["---"] * 3 + ["---:"] * (len(lines[0]) - 3)
        rows = [f"| {' | '.join(row)} |" for row in (lines[0], ruler, *lines[1:])]
        parts += [f"### {ratio:.0%} of the decoder parameters removed", "\n".join(rows)]
        parts.append("\n".join(f"- {sentence}" for sentence in below))
    if answer["missing"]:
        parts.append(f"Missing: {', '.join(answer['missing'])}.")
    return "\n\n".join(parts)
