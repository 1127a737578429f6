"""Unexpected exceptions of libraries, including Rust panics, as one sentence."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

from slimllm.core.errors import Refusal, one_line

# These end the work without anything having failed.
ENDINGS = (KeyboardInterrupt, SystemExit, GeneratorExit)
LONGEST_FAILURE = 160
Given = ParamSpec("Given")
Answer = TypeVar("Answer")


def is_failure(raised: BaseException) -> bool:
    """Return whether an exception is a failure and not a request to end.

    Panics of libraries written in Rust derive from `BaseException` too, and count as failures.
    """
    return not isinstance(raised, ENDINGS)


def is_interruption(raised: BaseException) -> bool:
    """Return whether Ctrl-C ended the work.

    Ctrl-C can arrive while a library cleans up. The library then raises something else, such as an `OSError`
    about a file that is already closed, and the `KeyboardInterrupt` is in the chain of causes and contexts.
    """
    chain: list[BaseException] = [raised]
    for each in chain:
        chain += [one for one in (each.__cause__, each.__context__) if one and one not in chain]
    return any(isinstance(each, KeyboardInterrupt) for each in chain)


def sentence_of(failure: BaseException) -> str:
    """Return one sentence that says what went wrong."""
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
    """Turn every failure inside the block into a `Refusal`, with the failure as its cause.

    Exceptions that are not failures (`is_failure`) pass unchanged.
    """
    try:
        yield
    except Refusal:
        raise
    except BaseException as failure:
        if not is_failure(failure):
            raise
        raise Refusal(sentence_of(failure)) from failure


def refuse_failures(action: Callable[Given, Answer]) -> Callable[Given, Answer]:
    """Return the action wrapped so that it fails only with a `Refusal`."""

    @functools.wraps(action)
    def act_or_refuse(*values: Given.args, **named: Given.kwargs) -> Answer:
        with as_refusals():
            return action(*values, **named)

    return act_or_refuse
