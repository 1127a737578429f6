"""What is refused, and words that are safe to show: one line, without access tokens."""

from __future__ import annotations

import re

LONGEST_LINE = 900  # characters
TOKENS = re.compile(r"\bhf_[A-Za-z0-9]{6,}")


class Refusal(ValueError):
    """A request that cannot be met, said in one sentence that names the thing and the remedy; a single line
    that can be shown anywhere, whatever the words of others in it."""

    def __init__(self, words: str):
        super().__init__(one_line(words))


class Stopped(Refusal):
    """What was asked for is no longer wanted, by whom it was asked."""


def without_tokens(words: str) -> str:
    """The words with every access token of the model hub made unreadable."""
    return TOKENS.sub("hf_…", words)


def one_line(words: object) -> str:
    """The words as one line of printable characters, the middle of very long ones left out, and no access
    token of the model hub among them."""
    line = without_tokens(" ".join(str(words).split()))
    line = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in line)
    return line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE - 300]} … {line[-300:]}"
