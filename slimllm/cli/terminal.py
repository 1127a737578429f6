"""What a person at a terminal sees: words and progress on stderr, an answer on stdout."""

from __future__ import annotations

import sys
import time
from typing import Any

from slimllm.core.json_io import to_plain_json
from slimllm.core.types import NOTE, Progress


class Report:
    """Words and progress for the person, on stderr: a line that rewrites itself on a terminal, else every
    few seconds."""

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty()
        self.last = 0.0
        self.step: Progress | None = None  # the latest, whether shown or not

    def say(self, words: str) -> None:
        fresh = "\r\033[K" if self.terminal else ""  # a line that rewrites itself may be there
        # at once, while `print` can be interrupted before the end of the line
        sys.stderr.write(f"{fresh}{words}\n")
        sys.stderr.flush()

    def progress(self, step: Progress) -> None:
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


def print_answer(answer: dict[str, Any]) -> None:
    """Prints an answer for reading: one line per key, long lists shortened."""
    for key, value in to_plain_json(answer).items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            print(f"{key}:")
            for row in value:
                print("  " + "  ".join(f"{name} {shorten_value(inner)}" for name, inner in row.items()))
        else:
            print(f"{key}: {shorten_value(value)}")


def show_card(answer: dict[str, Any]) -> None:
    """Prints a card; why a model is refused is said on stderr."""
    if answer["supported"]:
        print("\n".join(answer["lines"]))


def shorten_value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return " ".join(shorten_value(inner) for inner in value)
    return str(value)
