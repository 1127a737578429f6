"""The exceptions for requests that cannot be met, and text that is safe to show.

Such text is one line and contains no access tokens.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

LONGEST_LINE = 900  # characters
# The folders whose paths are not shown, separated as in $PATH.
HIDDEN = "SLIMLLM_HIDDEN"
SLASHES = "/\\"
# What follows the path of a folder: names of what is inside, and then no further letter of the last name.
BELOW = r"""(?:[/\\]+[^\s'",;:)/\\]+)*(?![^\s'",;:)/\\])"""
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


def hide_folders(folders: Iterable[str]) -> None:
    """Show no path below these folders from now on, in this process and in those that it starts."""
    os.environ[HIDDEN] = os.pathsep.join(folders)


def without_folders(words: str) -> str:
    """Return the text with every path below a hidden folder cut down to its last name."""
    for folder in filter(None, os.environ.get(HIDDEN, "").split(os.pathsep)):
        path = re.escape(folder.rstrip(SLASHES)) + BELOW
        words = re.sub(path, lambda found: "…/" + re.split(r"[/\\]", found[0])[-1], words)
    return words


def one_line(words: object) -> str:
    """Return the text as one line of printable characters.

    Access tokens of the model hub and hidden folders are masked, and the middle of a text longer than 900
    characters is left out.
    """
    line = without_folders(without_tokens(" ".join(str(words).split())))
    line = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in line)
    return line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE - 300]} … {line[-300:]}"
