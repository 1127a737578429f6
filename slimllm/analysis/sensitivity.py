"""How much the model's answers move when one site alone is damaged, measured layer by layer on a few windows.

An error in one layer matters more than an equally large one in another. Each site is cut and refitted for
itself, the rest of the model runs on dense, and the change of the answers per unit of damage is kept.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from slimllm.analysis.layer_sites import to_float64
from slimllm.calibration import moments as streaming
from slimllm.core.shapes import Grouping, SiteName
from slimllm.core.types import LayerAnalysis, LayerMoments, Moments
from slimllm.methods.recovery import RECOVERIES, Dense
from slimllm.models.families import linear_of
from slimllm.models.loading import Subject
from slimllm.models.shared_copy import drop_layers, share_model

WINDOWS, WINDOW = 8, 128  # what every probe reads
KEPT_SHARE = 0.7  # of the channels that stay while a layer's MLP is probed
RECOVERY = "least-squares"
LEAST = 1e-12  # damage below this is rounding


class Head:
    """The end of a model: log probabilities from the stream behind its last layer.

    It is the model's own forward on a copy of its modules with a single layer that hands on what it is given,
    so that no family's last norm, scale or cap is forgotten. The copy shares all weights.
    """

    def __init__(self, subject: Subject) -> None:
        self.model = share_model(subject.model)
        drop_layers(self.model, subject.family, range(len(subject.layers) - 1))
        self.hidden = torch.empty(0)
        last: nn.Module = self.model.get_submodule(subject.family.layers)[0]
        last.forward = lambda *_, **__: self.hidden

    @torch.inference_mode()
    def answers(self, hidden: Tensor) -> Tensor:
        """Log probabilities (b, T, vocab) in float32 from a stream (b, T, o)."""
        self.hidden = hidden
        tokens = torch.zeros(hidden.shape[:2], dtype=torch.int64, device=hidden.device)
        return torch.log_softmax(self.model(input_ids=tokens, use_cache=False).logits.float(), -1)


@dataclass(eq=False)
class Probe:
    """A few windows on their way through the dense model, and the log probabilities (n, T, vocab) it ends
    with."""

    subject: Subject
    stream: streaming.Stream
    head: Head
    answers: list[Tensor]

    @torch.inference_mode()
    def move(self, index: int, found: LayerMoments, layer: LayerAnalysis) -> dict[SiteName, float]:
        """The sensitivity of both sites of layer `index`; the windows move on through it.

        In nats of KL(dense ‖ damaged) per token and unit of error × energy.
        """
        shape, subject = self.subject.shape.layers[index], self.subject
        unit, site = next(iter(layer.attention.items()))
        grouping = Grouping(shape.heads, shape.groups, unit, shape.values)
        width = shape.widest(unit) * max(1, shape.steps(unit) - 1) // shape.steps(unit)
        kept = site.ranking.kept(width, shape.widest(unit))
        inputs = grouping.inputs_of(kept, shape.values)
        channels = max(1, int(shape.channels * KEPT_SHARE))
        readers = subject.family.attention.reader, subject.family.mlp.reader
        sensitivity: dict[SiteName, float] = {
            "attention": self.damage(index, readers[0], found.attention, inputs),
            "mlp": self.damage(index, readers[1], found.mlp, layer.mlp.ranking.kept(channels)),
        }
        streaming.advance_stream(subject.layers[index], self.stream, index)
        return sensitivity

    def damage(self, index: int, reader: str, moments: Moments, kept: Tensor) -> float:
        """The KL per unit of damage, if one reader keeps these inputs only, refitted. Both are taken on the
        text that the refit has seen: what a unit of damage does is the same on any text."""
        layer = self.subject.layers[index]
        weight, moments = to_float64(linear_of(layer, reader).weight), moments.double()
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
        """KL(dense ‖ damaged) in nats per token."""
        total, count, first = 0.0, 0, self.subject.beginning.predicted_from
        for hidden, dense in zip(damaged.hidden, self.answers, strict=True):
            gone = self.head.answers(hidden)
            total += float((dense.exp() * (dense - gone))[:, first - 1 :].sum())
            count += dense[:, first - 1 :, 0].numel()
        return max(0.0, total) / count


@torch.inference_mode()
def start_probe(subject: Subject, tokens: Tensor) -> Probe:
    """The probe before layer 0, on the first windows of the last of these samples (S, T)."""
    windows = tokens[-WINDOWS:, :WINDOW]
    end = streaming.embed_tokens(subject, windows)
    for index, layer in enumerate(subject.layers):
        streaming.advance_stream(layer, end, index)
    head = Head(subject)
    answers = [head.answers(hidden) for hidden in end.hidden]
    return Probe(subject, streaming.embed_tokens(subject, windows), head, answers)


@contextlib.contextmanager
def replaced_reader(reader: nn.Module, weight: Tensor, bias: Tensor | None, kept: Tensor) -> Iterator[None]:
    """While open, a reader answers as if it kept these inputs only, with this weight and bias added."""
    like: Tensor = reader.weight  # type: ignore[assignment]
    new, shift = weight.to(like), None if bias is None else bias.to(like)
    own: Tensor | None = reader.bias  # type: ignore[assignment]
    if own is not None:
        shift = own if shift is None else own + shift

    def answer_instead(_: nn.Module, inputs: tuple[Tensor, ...], __: Tensor) -> Tensor:
        read = streaming.read_by(reader, inputs[0])
        return nn.functional.linear(read[..., kept.to(like.device)], new, shift)

    handle = reader.register_forward_hook(answer_instead)
    try:
        yield
    finally:
        handle.remove()
