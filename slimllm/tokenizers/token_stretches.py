"""The token ids of a long text, stretch by stretch, so that only as much as needed is tokenised.

The ids are the same as those of the whole text. Stretches overlap. Two neighbours are joined inside their
overlap, where both have the same tokens at the same characters several times in a row: the tokens at a place
depend only on the characters around it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

STRETCH = 1 << 15  # characters
# The characters that two stretches share.
OVERLAP = 2048
# The characters at both ends of the overlap that are not used, because a word or a run of spaces may be cut.
MARGIN = 512
# The tokens in a row that must be the same.
AGREED = 8
# A token's id, the position of its first character, and the position after its last.
Token = tuple[int, int, int]


class Letters:
    """A reader of the characters of a text that comes in pieces."""

    def __init__(self, pieces: Iterable[str]) -> None:
        self.pieces, self.rest = iter(pieces), ""

    def read(self, count: int) -> str:
        """Return the next `count` characters, or fewer at the end."""
        parts = [self.rest]
        have = len(self.rest)
        while have < count and (piece := next(self.pieces, None)) is not None:
            parts.append(piece)
            have += len(piece)
        joined = "".join(parts)
        self.rest = joined[count:]
        return joined[:count]


def token_ids(pieces: Iterable[str], tokenizer: Any) -> Iterator[Sequence[int]]:
    """Yield the token ids of the joined pieces, without special tokens, stretch by stretch.

    If two stretches do not agree, as in a word of thousands of characters, they are read as one. A tokenizer
    that does not give the characters of its tokens reads the whole text at once.
    """
    if not getattr(tokenizer, "is_fast", False):
        yield tokenizer("".join(pieces), add_special_tokens=False, verbose=False).input_ids
        return
    letters = Letters(pieces)
    text = letters.read(STRETCH)
    tokens, size = tokens_of(text, tokenizer), STRETCH
    while more := letters.read(size):
        common = text[-OVERLAP:]
        later = tokens_of(common + more, tokenizer)
        seam = seam_between(tokens, later, len(text) - len(common))
        if seam is None:
            text += more
            tokens, size = tokens_of(text, tokenizer), len(text)
            continue
        yield [token for token, _, _ in tokens[: seam[0]]]
        text, tokens, size = common + more, later[seam[1] :], STRETCH
    yield [token for token, _, _ in tokens]


def tokens_of(text: str, tokenizer: Any) -> list[Token]:
    """Return the tokens of a text with the characters that each stands for."""
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return [
        (token, start, end) for token, (start, end) in zip(found.input_ids, found.offset_mapping, strict=True)
    ]


def seam_between(earlier: Sequence[Token], later: Sequence[Token], shift: int) -> tuple[int, int] | None:
    """Return the indices of one token in both stretches, in the middle of a run of tokens that agree.

    Return None if there is no such run. The later stretch begins `shift` characters after the earlier one.
    """
    trusted = range(MARGIN, OVERLAP - MARGIN)
    places = {
        (token, start - shift, end - shift): number
        for number, (token, start, end) in enumerate(earlier)
        if start - shift in trusted
    }
    run, last = 0, -1
    for number, token in enumerate(later):
        place = places.get(token, -1)
        run = 0 if place < 0 else run + 1 if run and place == last + 1 else 1
        last = place
        if run == AGREED:
            return place - AGREED // 2, number - AGREED // 2
    return None
