"""Measure one model by a protocol: its size, the tokens it reads, its perplexity. No Gradio."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator

from torch import Tensor

from slimllm.calibration import texts
from slimllm.core.fingerprints import hash_tokens
from slimllm.core.types import Progress
from slimllm.evaluation import evaluate
from slimllm.models.loading import Subject
from ui.facts.runs import Column, Protocol


def size_of(subject: Subject) -> Column:
    """Return a column with only a model's sizes: its parameters, and their bytes in its dtype."""
    parameters = subject.shape.parameters
    return Column(parameters, parameters * subject.dtype.itemsize)


def with_tokens(protocol: Protocol, subject: Subject, offline: bool) -> Protocol:
    """Return the protocol with the fingerprint of the tokens that its text has now.

    The text of the same name may change later. Raise `Refusal` if there is no such text.
    """
    ids = read_tokens(protocol, subject, offline)
    return dataclasses.replace(protocol, tokens=hash_tokens(ids))


def read_tokens(protocol: Protocol, subject: Subject, offline: bool) -> Tensor:
    """Return the token ids (n,) that a protocol measures on; n is at most its limit, if it has one."""
    text = texts.find_text(protocol.text, offline=offline)
    return texts.evaluation_tokens(text, subject.tokenizer, limit=protocol.limit or None)


def measured_column(subject: Subject, protocol: Protocol, offline: bool) -> Generator[Progress, None, Column]:
    """Measure a model's perplexity, and return a column with it and the model's sizes."""
    ids = read_tokens(protocol, subject, offline)
    found = yield from evaluate.measure_perplexity(subject, ids, protocol.window)
    return dataclasses.replace(
        size_of(subject), perplexity=found.perplexity, tokens=found.tokens, losses=found.losses
    )
