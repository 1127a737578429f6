"""The exceptions for requests that cannot be met, and text that is safe to show.

Such text is one line and contains no access tokens.
"""

from __future__ import annotations

import re

LONGEST_LINE = 900  # characters
TOKENS = re.compile(r"\bhf_[A-Za-z0-9]{6,}")


class Refusal(ValueError):
    """A request that cannot be met, described in one sentence that names the thing and the remedy.

    The message is a single line that is safe to show anywhere, even where it quotes other people's text.
    """

    def __init__(self, words: str):
        super().__init__(one_line(words))


class Stopped(Refusal):
    """The end of work that the person who started it has stopped."""


def without_tokens(words: str) -> str:
    """Return the text with every access token of the model hub masked."""
    return TOKENS.sub("hf_…", words)


def one_line(words: object) -> str:
    """Return the text as one line of printable characters.

    Access tokens of the model hub are masked, and the middle of a text longer than 900 characters is left
    out.
    """
    line = without_tokens(" ".join(str(words).split()))
    line = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in line)
    return line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE - 300]} … {line[-300:]}"
