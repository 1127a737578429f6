"""Hold what was found out about the models of a comparison: a passage, topics, speeds. Pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from slimllm.calibration.documents import TextFile
from slimllm.evaluation.evaluate import Speed, TokenLosses
from slimllm.tokenizers.token_stretches import Letters

# Most characters of a passage.
LETTERS = 900


@dataclass(frozen=True)
class Guess:
    """What a model predicted for a piece.

    `loss` is in nats; `likeliest` is the token that the model held to be the likeliest, and `certainty` its
    probability.
    """

    loss: float
    likeliest: str
    certainty: float


@dataclass(frozen=True)
class Piece:
    """A token of a passage, or several tokens that make up one character.

    `guesses` holds the guess of every model. It is empty for the first piece where no token stands before it.
    """

    text: str
    guesses: Mapping[str, Guess]

    def rise(self, name: str) -> float:
        """Return by how many nats this model's loss is above the dense one's.

        The result is 0 where either loss is unknown or where the difference is not a number.
        """
        if name not in self.guesses or "dense" not in self.guesses:
            return 0.0
        difference = self.guesses[name].loss - self.guesses["dense"].loss
        return 0.0 if math.isnan(difference) else difference


@dataclass(frozen=True)
class Passage:
    """A passage, its source, and what all models predicted for its pieces.

    `begins_with` is the token that the models read before the passage, or empty.
    """

    source: str
    pieces: tuple[Piece, ...]
    begins_with: str = ""

    def rises(self, name: str) -> list[float]:
        """Return the rise in nats of every piece that the models had to predict."""
        return [piece.rise(name) for piece in self.pieces if piece.guesses]


@dataclass
class Findings:
    """What was measured on the models of one comparison so far; a job adds to it while it runs.

    `topics` holds the perplexity by topic and model, measured in windows of `window` tokens that begin with
    `begins_with`. `counts` holds the tokens measured by topic, `too_short` the tokens of the topics that fill
    no window, and `spreads` the standard error of a pruned model's loss minus the dense one's, by topic and
    model. `speeds` holds the speed by model.
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
        """Clear the topics measured so far, and note how the next ones are measured."""
        self.topics, self.counts, self.too_short, self.spreads = {}, {}, {}, {}
        self.window, self.begins_with = window, begins_with

    def found(self) -> Found:
        """Return the part that is kept with a run."""
        topics, spreads = (
            {topic: dict(known) for topic, known in found.items()} for found in (self.topics, self.spreads)
        )
        counts, too_short = dict(self.counts), dict(self.too_short)
        return Found(self.passage, topics, counts, self.window, too_short, self.begins_with, spreads)


@dataclass(frozen=True)
class Found:
    """What was found out about the models of a run, as it is kept with the run.

    The fields are those of `Findings`. Speeds are among the figures of the run instead.
    """

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
    """Return the tokens as pieces of whole characters; the loss of a piece is the sum over its tokens.

    `ids` (t,) are the tokens of the passage. Where no token stands before them, the losses in `made` begin
    with the second token.
    """
    pieces, start, known = [], 0, ""
    for end in range(1, len(ids) + 1):
        text = decode(list(ids[:end]))
        # A character may take several tokens.
        if text.endswith("\ufffd") and end < len(ids):
            continue
        guesses = {}
        for name, found in made.items():
            # The first token that was predicted.
            first = len(ids) - len(found.losses)
            if start >= first:
                guesses[name] = guess_of(found, start - first, end - first, decode)
        pieces.append(Piece(text[len(known) :], guesses))
        start, known = end, text
    return tuple(pieces)


def guess_of(found: TokenLosses, start: int, end: int, decode: Callable[[list[int]], str]) -> Guess:
    """Return what a model predicted for the tokens whose entries run from `start` to before `end`."""
    return Guess(
        float(found.losses[start:end].sum()),
        decode([int(found.likeliest[start])]),
        float(found.certainty[start]),
    )


def find_excerpt(documents: Sequence[str], number: int) -> str:
    """Return passage `number` of a text: the beginning of a document, or a stretch of the only one.

    The count starts again after the last passage. The result is empty where the text has no passage.
    """
    found, count = list_passages(documents), 0
    for passage in found:
        if count == number:
            return passage
        count += 1
    return next(itertools.islice(list_passages(documents), number % count, None)) if count else ""


def list_passages(documents: Sequence[str]) -> Iterator[str]:
    """Yield the passages of a text, reading no more of it than the caller asks for."""
    if isinstance(documents, TextFile):
        yield from split_stretches(documents.pieces())
        return
    found = (text.strip() for text in documents if text.strip())
    some = list(itertools.islice(found, 2))
    yield from map(cut_excerpt, itertools.chain(some, found)) if len(some) > 1 else split_stretches(some)


def split_stretches(pieces: Iterable[str]) -> Iterator[str]:
    """Yield stretches of a long text that arrives in pieces; each stretch begins with a word."""
    letters, text, more = Letters(pieces), "", "all"
    while more:
        while len(text.rstrip()) <= LETTERS and (more := letters.read(16 * LETTERS)):
            text = (text + more).lstrip()
        while text and (not more or len(text.rstrip()) > LETTERS):
            stretch = cut_excerpt(text if more else text.rstrip())
            yield stretch
            text = text[len(stretch) :].strip() if not more else text[len(stretch) :].lstrip()


def cut_excerpt(text: str) -> str:
    """Return the beginning of a text, up to the last space within LETTERS characters."""
    if len(text) <= LETTERS:
        return text
    return text[: max(text.rfind(" ", 0, LETTERS), 0) or LETTERS]
