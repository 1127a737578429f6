"""What was found out about the models of a comparison: a passage piece by piece, topics, speeds. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from slimllm.evaluate import Speed, TokenLosses

LETTERS = 900  # of a long document that make one passage


@dataclass(frozen=True)
class Guess:
    """What a model made of a piece: its loss in nats, what it held for likeliest instead, how probable that
    was."""

    loss: float
    likeliest: str
    certainty: float


@dataclass(frozen=True)
class Piece:
    """A token of a passage, or several that make up one character; the guess of every model, none for the
    first."""

    text: str
    guesses: Mapping[str, Guess]

    def rise(self, name: str) -> float:
        """By how many nats the loss of this model is above that of the dense one; 0 where neither is
        known."""
        if name not in self.guesses or "dense" not in self.guesses:
            return 0.0
        difference = self.guesses[name].loss - self.guesses["dense"].loss
        return 0.0 if math.isnan(difference) else difference


@dataclass(frozen=True)
class Passage:
    """A passage, where it is from, and what all models made of it."""

    source: str
    pieces: tuple[Piece, ...]

    def rises(self, name: str) -> list[float]:
        """The rise of every piece but the first, which no model had to guess."""
        return [piece.rise(name) for piece in self.pieces if piece.guesses]


@dataclass
class Findings:
    """What was asked of the models of one comparison so far; they grow while a job runs.

    `topics`: perplexity by topic and model, in windows of `window` tokens; `counts`: tokens measured by
    topic. `speeds` by model.
    """

    passage: Passage | None = None
    next_passage: int = 0
    topics: dict[str, dict[str, float]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    window: int = 0
    speeds: dict[str, Speed] = field(default_factory=dict)

    def found(self) -> Found:
        """What is kept of them with a run."""
        topics = {topic: dict(measured) for topic, measured in self.topics.items()}
        return Found(self.passage, topics, dict(self.counts), self.window)


@dataclass(frozen=True)
class Found:
    """What was found out about the models of a run, as it is kept with it; speeds are among its figures."""

    passage: Passage | None
    topics: Mapping[str, Mapping[str, float]]
    counts: Mapping[str, int]
    window: int


def pieces_of(
    ids: Sequence[int], made: Mapping[str, TokenLosses], decode: Callable[[list[int]], str]
) -> tuple[Piece, ...]:
    """The tokens as pieces of whole characters; the loss of a piece is the sum over its tokens."""
    pieces, start, known = [], 0, ""
    for end in range(1, len(ids) + 1):
        text = decode(list(ids[:end]))
        if text.endswith("\ufffd") and end < len(ids):  # a character may take several tokens
            continue
        guesses = {name: guess(found, start, end, decode) for name, found in made.items()} if start else {}
        pieces.append(Piece(text[len(known) :], guesses))
        start, known = end, text
    return tuple(pieces)


def guess(found: TokenLosses, start: int, end: int, decode: Callable[[list[int]], str]) -> Guess:
    """What was made of the tokens from start to before end; the first token is not in `found`."""
    return Guess(
        float(found.losses[start - 1 : end - 1].sum()),
        decode([int(found.likeliest[start - 1])]),
        float(found.certainty[start - 1]),
    )


def excerpt(documents: Sequence[str], number: int) -> str:
    """Passage `number` of a text: the beginning of a document, or a stretch of the only one; counts round."""
    whole = [text.strip() for text in documents if text.strip()]
    if len(whole) == 1:
        whole = stretches(whole[0])
    return cut(whole[number % len(whole)]) if whole else ""


def stretches(text: str) -> list[str]:
    """A long text in pieces that begin with a word."""
    found = []
    while text:
        piece = cut(text)
        found.append(piece)
        text = text[len(piece) :].strip()
    return found


def cut(text: str) -> str:
    """The beginning, up to the last space that still fits."""
    if len(text) <= LETTERS:
        return text
    return text[: max(text.rfind(" ", 0, LETTERS), 0) or LETTERS]
