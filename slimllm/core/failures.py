"""What nobody foresaw, in one sentence: exceptions of libraries, panics included."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

from slimllm.core.errors import Refusal, one_line

ENDINGS = (KeyboardInterrupt, SystemExit, GeneratorExit)  # which are nobody's failure
LONGEST_FAILURE = 160
Given = ParamSpec("Given")
Answer = TypeVar("Answer")


def is_failure(raised: BaseException) -> bool:
    """Whether something raised is a failure rather than an end. Panics of libraries in Rust derive from
    `BaseException`, too."""
    return not isinstance(raised, ENDINGS)


def is_interruption(raised: BaseException) -> bool:
    """Return whether a Ctrl-C ended the work. It can come while a library tidies up, which then raises
    something else, such as an `OSError` about a file that it has closed already: the interruption is in the
    chain of what it handled."""
    chain: list[BaseException] = [raised]
    for each in chain:
        chain += [one for one in (each.__cause__, each.__context__) if one and one not in chain]
    return any(isinstance(each, KeyboardInterrupt) for each in chain)


def sentence_of(failure: BaseException) -> str:
    """What went wrong, in one sentence."""
    if isinstance(failure, Refusal):
        return str(failure)
    if isinstance(failure, MemoryError) or type(failure).__name__ == "OutOfMemoryError":
        return "There was not enough memory; use fewer or shorter samples, or a smaller model."
    lines = str(failure).strip().splitlines() or [""]
    return one_line(
        f"Something went wrong: {type(failure).__name__}: {lines[0][:LONGEST_FAILURE]}".rstrip(": ")
    )


@contextlib.contextmanager
def as_refusals() -> Iterator[None]:
    """Turns whatever fails inside into a `Refusal` whose cause it is."""
    try:
        yield
    except Refusal:
        raise
    except BaseException as failure:
        if not is_failure(failure):
            raise
        raise Refusal(sentence_of(failure)) from failure


def refuse_failures(action: Callable[Given, Answer]) -> Callable[Given, Answer]:
    """The action, which fails with a `Refusal` only."""

    @functools.wraps(action)
    def act_or_refuse(*values: Given.args, **named: Given.kwargs) -> Answer:
        with as_refusals():
            return action(*values, **named)

    return act_or_refuse
