"""The sensitivity of a model's output to errors in single sites, measured on a few windows.

An error in one layer matters more than an equally large one in another. Each site is cut and refitted alone
while the rest of the model stays dense. The sensitivity is the change of the output per unit of error.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from slimllm.analysis.layer_sites import dense_weight
from slimllm.calibration import moments as streaming
from slimllm.core.arithmetic import Arithmetic
from slimllm.core.shapes import Grouping, SiteName
from slimllm.core.tensor_moves import read_sum
from slimllm.core.types import LayerAnalysis, LayerMoments, Moments
from slimllm.methods.recovery import RECOVERIES, Dense
from slimllm.models.families import linear_of
from slimllm.models.loading import Subject
from slimllm.models.shared_copy import drop_layers, share_model

# The windows that every probe reads, and their tokens.
WINDOWS, WINDOW = 8, 128
# The share of channels that a layer keeps while its MLP is probed.
KEPT_SHARE = 0.7
RECOVERY = "least-squares"
# Smaller errors are rounding.
LEAST = 1e-12
# The log-probabilities that are compared at once: few enough to stay in the processor's cache.
AT_ONCE = 2**18


class Head:
    """The end of a model: log-probabilities from the stream behind its last layer.

    It is the model's own forward on a copy of its modules with a single layer that returns the given stream,
    so it includes the final norm, scale or cap of every family. The copy shares all weights.
    """

    def __init__(self, subject: Subject) -> None:
        self.model = share_model(subject.model)
        drop_layers(self.model, subject.family, range(len(subject.layers) - 1))
        self.hidden = torch.empty(0)
        last: nn.Module = self.model.get_submodule(subject.family.layers)[0]
        last.forward = lambda *_, **__: self.hidden

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """Return logits (b, T, vocab) in the model's dtype from a stream (b, T, o)."""
        self.hidden = hidden
        tokens = torch.zeros(hidden.shape[:2], dtype=torch.int64, device=hidden.device)
        logits: Tensor = self.model(input_ids=tokens, use_cache=False).logits
        return logits


@dataclass(eq=False)
class Probe:
    """A few windows on their way through the dense model.

    `answers` holds the dense model's final log-probabilities (b, T, vocab) per batch.
    """

    subject: Subject
    stream: streaming.Stream
    head: Head
    answers: list[Tensor]
    arithmetic: Arithmetic

    @torch.inference_mode()
    def move(self, index: int, found: LayerMoments, layer: LayerAnalysis) -> dict[SiteName, float]:
        """Return the sensitivity of both sites of layer `index`, and advance the windows through the layer.

        Its unit is nats of KL(dense ‖ cut) per token and per unit of error × energy.
        """
        shape, subject = self.subject.shape.layers[index], self.subject
        unit, site = next(iter(layer.attention.items()))
        grouping = Grouping(shape.heads, shape.groups, unit, shape.values)
        width = shape.widest(unit) * max(1, shape.steps(unit) - 1) // shape.steps(unit)
        kept = site.ranking.kept(width, shape.widest(unit))  # (k,)
        inputs = grouping.inputs_of(kept, shape.values)  # (m,)
        channels = max(1, int(shape.channels * KEPT_SHARE))
        readers = subject.family.attention.reader, subject.family.mlp.reader
        sensitivity: dict[SiteName, float] = {
            "attention": self.damage(index, readers[0], found.attention, inputs),
            "mlp": self.damage(index, readers[1], found.mlp, layer.mlp.ranking.kept(channels)),
        }
        streaming.advance_stream(subject.layers[index], self.stream, index)
        return sensitivity

    def damage(self, index: int, reader: str, moments: Moments, kept: Tensor) -> float:
        """Return the KL per unit of error if one reader keeps only the inputs `kept` (k,) and is refitted.

        Both are computed on the text of the refit, because the effect of a unit of error is the same on any
        text.
        """
        layer = self.subject.layers[index]
        weight, place = dense_weight(layer, reader, self.arithmetic)
        moments, kept = moments.double(place), kept.to(place)
        repair = RECOVERIES[RECOVERY].repair(weight, moments, kept)
        size = Dense(weight, moments).squared_error(kept, repair) * moments.weight
        if size < LEAST:
            return 0.0
        with replaced_reader(linear_of(layer, reader), repair.weight, repair.bias, kept):
            hidden = [output for _, output in streaming.layer_passes(layer, self.stream, index)]
        damaged = streaming.Stream(hidden, self.stream.arguments)
        for later in range(index + 1, len(self.subject.layers)):
            streaming.advance_stream(self.subject.layers[later], damaged, later)
        return self.distance(damaged) / size

    def distance(self, damaged: streaming.Stream) -> float:
        """Return KL(dense ‖ cut) in nats per token."""
        parts, count, first = [], 0, self.subject.beginning.predicted_from
        for hidden, dense in zip(damaged.hidden, self.answers, strict=True):
            known = dense[:, first - 1 :].flatten(0, 1)  # (b, T, vocab) → (n, vocab)
            parts.append(sum_divergence(known, self.head.logits(hidden)[:, first - 1 :].flatten(0, 1)))
            count += len(known)
        return max(0.0, read_sum(parts)) / count


def sum_divergence(dense: Tensor, logits: Tensor) -> Tensor:
    """Return Σ KL(dense ‖ cut) in nats () over tokens of log-probabilities (n, vocab) and logits (n, vocab).

    A few tokens are compared at once. All together would pass through the memory five times.
    """
    rows = max(1, AT_ONCE // dense.shape[1])
    parts = [
        (known.exp() * (known - torch.log_softmax(cut.float(), -1))).sum()
        for known, cut in zip(dense.split(rows), logits.split(rows), strict=True)
    ]
    return torch.stack(parts).sum()


@torch.inference_mode()
def start_probe(subject: Subject, tokens: Tensor, arithmetic: Arithmetic) -> Probe:
    """Return a probe in front of layer 0, on the first tokens of the last of these samples (S, T)."""
    windows = tokens[-WINDOWS:, :WINDOW]
    end = streaming.embed_tokens(subject, windows)
    for index, layer in enumerate(subject.layers):
        streaming.advance_stream(layer, end, index)
    head = Head(subject)
    answers = [torch.log_softmax(head.logits(hidden).float(), -1) for hidden in end.hidden]
    return Probe(subject, streaming.embed_tokens(subject, windows), head, answers, arithmetic)


@contextlib.contextmanager
def replaced_reader(reader: nn.Module, weight: Tensor, bias: Tensor | None, kept: Tensor) -> Iterator[None]:
    """Replace a reader's output in the block by that of a reader of the inputs `kept` (k,) only.

    `weight` (o, k) and `bias` (o,) are its repair; the bias is added to the reader's own.
    """
    like: Tensor = reader.weight  # type: ignore[assignment]
    new = weight.to(like.dtype).to(like.device)
    shift = None if bias is None else bias.to(like.dtype).to(like.device)
    own: Tensor | None = reader.bias  # type: ignore[assignment]
    if own is not None:
        shift = own if shift is None else own + shift

    places = kept.to(like.device)

    def answer_instead(_: nn.Module, inputs: tuple[Tensor, ...], __: Tensor) -> Tensor:
        read = streaming.read_by(reader, inputs[0])  # (b, T, d)
        return nn.functional.linear(read[..., places], new, shift)

    handle = reader.register_forward_hook(answer_instead)
    try:
        yield
    finally:
        handle.remove()
