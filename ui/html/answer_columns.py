"""Write a prompt and the models' answers side by side as HTML, differing words marked. No Gradio."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher

from ui.facts.comparison import Answer
from ui.facts.runs import LABELS, NAMES
from ui.look.formatting import escape_html


def answer_html(place: int | str, answer: Answer) -> str:
    """Return a prompt and the answers to it, one column per model, as HTML.

    `place` is part of the ids of the elements.
    """
    names = [name for name in NAMES if name in answer.texts]
    dense = answer.texts.get("dense", "")
    columns = ""
    for name in names:
        text = answer.texts[name]
        words = escape_html(text.strip()) if name == "dense" else marked_html(text, dense, whole=answer.done)
        said = agreement_words(text, dense) if answer.done and name != "dense" else ""
        columns += (
            f'<div class="answer"><h4>{LABELS[name]}</h4><p id="answer-{place}-{name}" class="answer-text">'
            f"{words or '…'}</p><small>{said}</small></div>"
        )
    return (
        f'<section class="answers"><p class="prompt">{escape_html(answer.prompt)}</p>'
        f'<div class="answer-row" style="--columns: {max(1, len(names))}">{columns}</div></section>'
    )


def marked_html(text: str, dense: str, *, whole: bool) -> str:
    """Return the text as HTML, with every word marked that differs from the dense model's answer.

    The last word is not marked unless the text is `whole`, because more letters may follow.
    """
    words = re.findall(r"\S+", text)
    new = differing_words(words, dense.split())
    if not whole and words:
        new.discard(len(words) - 1)
    count = iter(range(len(words)))
    parts = re.split(r"(\s+)", text.strip())
    return "".join(
        escape_html(part)
        if not part.strip()
        else f"<mark>{escape_html(part)}</mark>"
        if next(count) in new
        else escape_html(part)
        for part in parts
    )


def differing_words(words: Sequence[str], dense: Sequence[str]) -> set[int]:
    """Return the positions of the words that are not in the longest common subsequence with `dense`."""
    threads = SequenceMatcher(None, dense, words, autojunk=False).get_matching_blocks()
    shared = {place for thread in threads for place in range(thread.b, thread.b + thread.size)}
    return set(range(len(words))) - shared


def agreement_words(text: str, dense: str) -> str:
    """Return how far an answer agrees with the dense model's, in a sentence."""
    mine, other = text.split(), dense.split()
    if mine == other:
        return "Word for word the same."
    shorter = min(len(mine), len(other))
    same = next((i for i in range(shorter) if mine[i] != other[i]), shorter)
    if not same:
        return "Different from the first word on."
    return f"The same for the first {same} word{'' if same == 1 else 's'}."
