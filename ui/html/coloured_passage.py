"""Colour the tokens of a passage by how much harder they became to predict. Text out, no Gradio."""

from __future__ import annotations

import json
import math

from ui.facts.findings import Guess, Passage, Piece
from ui.facts.runs import LABELS, best_name
from ui.look.formatting import escape_html, format_figure, format_share

# For each level, the rise of the loss in nats from which it begins, its CSS class and its words.
LEVELS = (
    (4.0, "l4", "lost: over 50 times less likely"),
    (2.0, "l3", "7 to 50 times"),
    (1.0, "l2", "3 to 7 times"),
    (0.25, "l1", "up to 3 times less likely"),
    (-0.25, "l0", "as before"),
    (-math.inf, "up", "more likely than before"),
)


def passage_html(passage: Passage, name: str) -> str:
    """Return a passage as HTML: summary, coloured tokens, the details of one token, and the legend.

    The details are at first those of the token that lost most.
    """
    rises = [piece.rise(name) if piece.guesses else -math.inf for piece in passage.pieces]
    worst = max(range(len(rises)), key=rises.__getitem__)
    says = [token_fields(piece, name) for piece in passage.pieces]
    tokens = "".join(
        token_html(piece, name, place, place == worst) for place, piece in enumerate(passage.pieces)
    )
    if passage.begins_with:
        tokens = f'<span class="tk first begun">{escape_html(passage.begins_with)}</span>{tokens}'
        first = (
            f"The models read {escape_html(passage.begins_with)} first, as their tokenizer begins a text, "
            "so the "
            "first token can be predicted."
        )
    else:
        first = "The first token has nothing before it to go by."
    legend = "".join(f'<li><span class="tk {level}">word</span> {words}</li>' for _, level, words in LEVELS)
    data = escape_html(json.dumps(says, ensure_ascii=False))
    return (
        f'<p class="tk-words">{escape_html(passage_summary(passage, name))}</p>'
        f'<div class="tk-box" data-says="{data}"><div class="tk-text" role="listbox" tabindex="-1" '
        f'aria-label="The passage, word by word" aria-orientation="horizontal">{tokens}</div>'
        f"{detail_html(says[worst], name)}</div>"
        f'<ul class="tk-legend" aria-label="Colours">{legend}</ul>'
        f'<p class="foot">From {escape_html(passage.source)}. {first}</p>'
    )


def token_html(piece: Piece, name: str, place: int, worst: bool) -> str:
    """Return one token as HTML.

    A line break is drawn as a sign before it breaks the line, and a token of white space alone has a label
    for screen readers.
    """
    text = escape_html(piece.text).replace("\n", "↵\n")
    if not piece.guesses:
        return f'<span class="tk first">{text}</span>'
    state = f'tabindex="{0 if worst else -1}" aria-selected="{"true" if worst else "false"}"'
    if not piece.text.strip():
        gap = "line break" if "\n" in piece.text else "space"
        state += f' aria-label="{gap}"'
    return (
        f'<span class="tk {level_of(piece.rise(name))}" role="option" {state} data-i="{place}">{text}</span>'
    )


def level_of(rise: float) -> str:
    """Return the CSS class of a rise of the loss in nats."""
    return next(level for limit, level, _ in LEVELS if rise >= limit)


def detail_html(says: list[str], name: str) -> str:
    """Return what each model predicted for one token, in cells that the script fills anew."""
    word, rise, *cells = (f"<span data-field>{escape_html(words)}</span>" for words in says)
    rows = "".join(
        f'<tr><th scope="row">{label}</th><td>{cells[2 * i]}</td><td>{cells[2 * i + 1]}</td></tr>'
        for i, label in enumerate((LABELS["dense"], LABELS[name]))
    )
    return (
        f'<div class="tk-detail" aria-live="polite"><p><strong>{word}</strong> {rise}</p><table><thead>'
        '<tr><th scope="col">Model</th><th scope="col">Gave it</th><th scope="col">Expected most</th></tr>'
        f"</thead><tbody>{rows}</tbody></table></div>"
    )


def token_fields(piece: Piece, name: str) -> list[str]:
    """Return six texts about one token; all are empty where the model has no guess for it.

    They are the token, its rise, and for the dense and the other model the probability that it gave the token
    and what it expected most.
    """
    if name not in piece.guesses:
        return ["", "", "", "", "", ""]
    dense, other = piece.guesses["dense"], piece.guesses[name]
    return [
        quote_token(piece.text),
        rise_words(piece.rise(name)),
        format_share(math.exp(-dense.loss)),
        expected_words(dense),
        format_share(math.exp(-other.loss)),
        expected_words(other),
    ]


def expected_words(guess: Guess) -> str:
    """Return the token that a model expected most, with its probability."""
    return f"{quote_token(guess.likeliest)} {format_share(guess.certainty)}"


def quote_token(text: str) -> str:
    """Return a token in quotation marks; line breaks in a token of white space become ↵."""
    return f"“{text.strip() or text.replace(chr(10), '↵')}”"


def rise_words(rise: float) -> str:
    """Return a rise of the loss in words; `rise` is in nats."""
    if not math.isfinite(rise):
        return "can no longer be foreseen at all"
    signed = f"{'+' if rise > 0 else '−' if rise < 0 else '±'}{abs(rise):.2f} nats"
    times = math.exp(min(abs(rise), 30.0))
    if times < 1.05:
        return f"{signed}: as likely as before"
    return f"{signed}: {format_figure(times, 1)} times {'less' if rise > 0 else 'more'} likely than before"


def passage_summary(passage: Passage, name: str) -> str:
    """Return by how many nats the loss rose on average, and in how many tokens half of the loss lies."""
    rises = [min(rise, 30.0) for rise in passage.rises(name)]
    if not rises:
        return "This passage has nothing to judge."
    mean, ups = sum(rises) / len(rises), sorted((rise for rise in rises if rise > 0), reverse=True)
    if mean <= 0.005:
        return f"{LABELS[name]} reads this passage no worse than the dense model."
    half, count = sum(ups) / 2, 0
    while half > 0:
        half -= ups[count]
        count += 1
    times = format_figure(math.exp(mean))
    return (
        f"{LABELS[name]}: the loss rose by {mean:.2f} nats a token, so that the average token became {times} "
        f"times less likely. Half of all that was lost sits in {count} of {len(rises)} tokens."
    )


def best_reader(passage: Passage) -> str:
    """Return the name of the best pruned model that read a passage."""
    return best_name({name for piece in passage.pieces for name in piece.guesses})
