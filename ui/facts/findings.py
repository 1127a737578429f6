"""What was found out about the models of a comparison: a passage piece by piece, topics, speeds. Pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from slimllm.calibration.documents import TextFile
from slimllm.evaluation.evaluate import Speed, TokenLosses
from slimllm.tokenizers.token_stretches import Letters

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
    first of a passage that nothing stands in front of."""

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
    """A passage, where it is from, what all models made of it, and the token that they read in front of it,
    if any."""

    source: str
    pieces: tuple[Piece, ...]
    begins_with: str = ""

    def rises(self, name: str) -> list[float]:
        """The rise of every piece that the models had to guess."""
        return [piece.rise(name) for piece in self.pieces if piece.guesses]


@dataclass
class Findings:
    """What was asked of the models of one comparison so far; they grow while a job runs.

    `topics`: perplexity by topic and model, in windows of `window` tokens that begin with `begins_with`;
    `counts`: tokens measured by topic; `too_short`: tokens of the topics that fill no window; `spreads`: the
    standard error of a pruned model's loss less the dense one's, by topic and model. `speeds` by model.
    """

    passage: Passage | None = None
    next_passage: int = 0
    topics: dict[str, dict[str, float]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    too_short: dict[str, int] = field(default_factory=dict)
    window: int = 0
    begins_with: str = ""
    spreads: dict[str, dict[str, float]] = field(default_factory=dict)
    speeds: dict[str, Speed] = field(default_factory=dict)

    def begin_topics(self, window: int, begins_with: str) -> None:
        """Lets go of the topics measured so far."""
        self.topics, self.counts, self.too_short, self.spreads = {}, {}, {}, {}
        self.window, self.begins_with = window, begins_with

    def found(self) -> Found:
        """What is kept of them with a run."""
        topics, spreads = (
            {topic: dict(known) for topic, known in found.items()} for found in (self.topics, self.spreads)
        )
        counts, too_short = dict(self.counts), dict(self.too_short)
        return Found(self.passage, topics, counts, self.window, too_short, self.begins_with, spreads)


@dataclass(frozen=True)
class Found:
    """What was found out about the models of a run, as it is kept with it; speeds are among its figures."""

    passage: Passage | None
    topics: Mapping[str, Mapping[str, float]]
    counts: Mapping[str, int]
    window: int
    too_short: Mapping[str, int] = field(default_factory=dict)
    begins_with: str = ""
    spreads: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def pieces_of(
    ids: Sequence[int], made: Mapping[str, TokenLosses], decode: Callable[[list[int]], str]
) -> tuple[Piece, ...]:
    """The tokens as pieces of whole characters; the loss of a piece is the sum over its tokens."""
    pieces, start, known = [], 0, ""
    for end in range(1, len(ids) + 1):
        text = decode(list(ids[:end]))
        if text.endswith("\ufffd") and end < len(ids):  # a character may take several tokens
            continue
        guesses = {}
        for name, found in made.items():
            first = len(ids) - len(found.losses)  # the first token that was guessed
            if start >= first:
                guesses[name] = guess_of(found, start - first, end - first, decode)
        pieces.append(Piece(text[len(known) :], guesses))
        start, known = end, text
    return tuple(pieces)


def guess_of(found: TokenLosses, start: int, end: int, decode: Callable[[list[int]], str]) -> Guess:
    """What was made of the tokens with the entries from start to before end."""
    return Guess(
        float(found.losses[start:end].sum()),
        decode([int(found.likeliest[start])]),
        float(found.certainty[start]),
    )


def find_excerpt(documents: Sequence[str], number: int) -> str:
    """Passage `number` of a text: the beginning of a document, or a stretch of the only one; counts round."""
    found, count = list_passages(documents), 0
    for passage in found:
        if count == number:
            return passage
        count += 1
    return next(itertools.islice(list_passages(documents), number % count, None)) if count else ""


def list_passages(documents: Sequence[str]) -> Iterator[str]:
    """The passages of a text, which is read no further than they are asked for."""
    if isinstance(documents, TextFile):
        yield from split_stretches(documents.pieces())
        return
    found = (text.strip() for text in documents if text.strip())
    some = list(itertools.islice(found, 2))
    yield from map(cut_excerpt, itertools.chain(some, found)) if len(some) > 1 else split_stretches(some)


def split_stretches(pieces: Iterable[str]) -> Iterator[str]:
    """A long text that comes in pieces, in stretches that begin with a word."""
    letters, text, more = Letters(pieces), "", "all"
    while more:
        while len(text.rstrip()) <= LETTERS and (more := letters.read(16 * LETTERS)):
            text = (text + more).lstrip()
        while text and (not more or len(text.rstrip()) > LETTERS):
            stretch = cut_excerpt(text if more else text.rstrip())
            yield stretch
            text = text[len(stretch) :].strip() if not more else text[len(stretch) :].lstrip()


def cut_excerpt(text: str) -> str:
    """The beginning, up to the last space that still fits."""
    if len(text) <= LETTERS:
        return text
    return text[: max(text.rfind(" ", 0, LETTERS), 0) or LETTERS]
