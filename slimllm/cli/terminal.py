"""Output at a terminal: messages and progress on stderr, answers on stdout."""

from __future__ import annotations

import io
import sys
import time
from typing import Any

from slimllm.core.json_io import to_plain_json
from slimllm.core.types import NOTE, Progress


class Report:
    """Messages and progress on stderr; on a terminal, progress is a line that rewrites itself.

    Elsewhere, progress is a line every few seconds.
    """

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty()
        self.last = 0.0
        # The latest progress, whether it was shown or not.
        self.step: Progress | None = None

    def say(self, words: str) -> None:
        """Show a message on a line of its own."""
        # A progress line may be there, which is erased.
        fresh = "\r\033[K" if self.terminal else ""
        # One write, because `print` can be interrupted before the end of the line.
        sys.stderr.write(f"{fresh}{words}\n")
        sys.stderr.flush()

    def progress(self, step: Progress) -> None:
        """Show progress, unless the last line is too recent; show a note at once."""
        if step.stage == NOTE:
            self.say(step.words)
            return
        self.step = step
        now, ended = time.monotonic(), step.done == step.total
        if now - self.last < (0.1 if self.terminal else 5.0) and not ended:
            return
        self.last = now
        words = step.words or f"{step.stage}: {step.done} of {step.total}"
        if self.terminal:
            print(f"\r\033[K{words}", end="\n" if ended else "", file=sys.stderr, flush=True)
        else:
            self.say(words)


def spare_letters() -> None:
    """Let output go on after a letter that its encoding lacks, which becomes a question mark."""
    # On Windows, output that goes to a file or another program has a code page of 256 letters.
    if sys.platform == "win32" and isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def print_answer(answer: dict[str, Any]) -> None:
    """Print an answer for people, with one line per key."""
    for key, value in to_plain_json(answer).items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            print(f"{key}:")
            for row in value:
                print("  " + "  ".join(f"{name} {shorten_value(inner)}" for name, inner in row.items()))
        else:
            print(f"{key}: {shorten_value(value)}")


def show_card(answer: dict[str, Any]) -> None:
    """Print a card; the reason why a model is refused goes to stderr."""
    if answer["supported"]:
        print("\n".join(answer["lines"]))


def shorten_value(value: Any) -> str:
    """Return a value as text, with floats shortened to four digits."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return " ".join(shorten_value(inner) for inner in value)
    return str(value)
