"""Unexpected exceptions of libraries, including Rust panics, as one sentence."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from slimllm.core.errors import Refusal, one_line

# These end the work without anything having failed.
ENDINGS = (KeyboardInterrupt, SystemExit, GeneratorExit)
LONGEST_FAILURE = 160


@dataclass(frozen=True)
class KnownFailure:
    """A failure that many libraries report in their own ways, and the sentence that people read instead.

    It is known by the name of its exception (`types`), or by a pattern in its message. `{what}` in the
    sentence stands for the first group of the pattern.
    """

    types: tuple[str, ...]
    pattern: re.Pattern[str]
    sentence: str


KNOWN = (
    KnownFailure(
        ("MemoryError",),
        re.compile(r"DefaultCPUAllocator|Cannot allocate memory"),
        "There was not enough memory; use fewer or shorter samples, or a smaller model.",
    ),
    KnownFailure(
        ("OutOfMemoryError",),
        # Apple's driver, CUDA and ROCm outside torch's allocator, their libraries, and Intel's driver.
        re.compile(
            r"MPS backend out of memory|Invalid buffer size|kIOGPUCommandBufferCallbackErrorOutOfMemory"
            r"|(?:CUDA|HIP) error: out of memory|_STATUS_ALLOC_FAILED"
            r"|_ERROR_OUT_OF_(?:DEVICE_MEMORY|RESOURCES)"
        ),
        "The device's memory is full; end other programs that use it, use fewer or shorter samples, "
        "a smaller model, or --device cpu.",
    ),
    KnownFailure(
        (),
        re.compile(
            r"'?([\w:.]+)'? is not currently (?:implemented|supported) (?:for|on) the \w+ (?:device|backend)"
            r"|Could not run '([\w:.]+)' with arguments from the '\w+' backend"
        ),
        "The device lacks an operation that this needs ({what}); use --device cpu, or, on a Mac, set "
        "PYTORCH_ENABLE_MPS_FALLBACK=1.",
    ),
)
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
    if words := known_sentence(failure):
        return words
    lines = str(failure).strip().splitlines() or [""]
    return one_line(
        f"Something went wrong: {type(failure).__name__}: {lines[0][:LONGEST_FAILURE]}".rstrip(": ")
    )


def known_sentence(failure: BaseException) -> str:
    """Return the sentence of the known failure that this is, or an empty string."""
    for known in KNOWN:
        found = known.pattern.search(str(failure))
        if found or type(failure).__name__ in known.types:
            what = next((group for group in found.groups() if group), "") if found else ""
            return known.sentence.format(what=what)
    return ""


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
