"""Stream calibration tokens through one decoder layer at a time and accumulate the moments of what its
readers read.

Only the hidden state of the tokens is held, never the activations of all layers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from slimllm.families import part
from slimllm.models import Subject
from slimllm.types import LayerMoments, Moments

TOKENS_PER_BATCH = 4096


@dataclass(eq=False)
class Stream:
    """The calibration tokens on their way: hidden states (b, T, o) per batch, and each layer's own call
    arguments."""

    hidden: list[Tensor]
    arguments: list[dict[str, Any]]

    @property
    def tokens(self) -> int:
        return sum(batch.shape[0] * batch.shape[1] for batch in self.hidden)


class _Reached(Exception):
    """Ends a forward at the first decoder layer: its input is all that is wanted."""


class Accumulator:
    """Running first and second moments of (…, d) activations, summed in float32."""

    def __init__(self, second: bool = True) -> None:
        self.second = second
        self.tokens = 0
        self.total: Tensor | None = None
        self.product: Tensor | None = None

    def add(self, activations: Tensor) -> None:
        x = activations.detach().flatten(0, -2).float()  # (t, d)
        total = x.sum(0) if self.second else x.square().sum(0)
        self.tokens += len(x)
        self.total = total if self.total is None else self.total.add_(total)
        if self.second:
            if self.product is None:
                self.product = x.new_zeros(x.shape[1], x.shape[1])
            self.product.addmm_(x.T, x)

    @property
    def mean(self) -> Tensor:
        assert self.total is not None
        return (self.total / self.tokens).cpu()

    @property
    def moments(self) -> Moments:
        assert self.product is not None
        return Moments(self.mean, (self.product / self.tokens).cpu(), self.tokens)


@contextlib.contextmanager
def watching(module: nn.Module, *accumulators: tuple[str, Accumulator]) -> Iterator[None]:
    """While open, the input of each named linear inside `module` goes to its accumulator."""

    def watcher(accumulator: Accumulator) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, inputs: accumulator.add(inputs[0])

    handles = [
        part(module, name).register_forward_pre_hook(watcher(accumulator))
        for name, accumulator in accumulators
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def embed(subject: Subject, tokens: Tensor) -> Stream:
    """The stream that enters layer 0, for tokens (S, T).

    One dry forward of a single sample records every layer's own keyword arguments: masks and rotary
    embeddings differ from layer to layer in some families. All samples have the same length, so the
    arguments broadcast over batches.
    """
    trunk = subject.model.get_submodule(subject.family.trunk)
    layers = subject.layers
    arguments: list[dict[str, Any]] = []
    hidden: list[Tensor] = []

    def record(_: nn.Module, __: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
        arguments.append({name: value for name, value in kwargs.items() if name != "hidden_states"})

    def reach(_: nn.Module, inputs: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
        hidden.append(inputs[0] if inputs else kwargs["hidden_states"])
        raise _Reached

    tokens = tokens.to(subject.device)
    handles = [layer.register_forward_pre_hook(record, with_kwargs=True) for layer in layers]
    try:
        trunk(input_ids=tokens[:1], use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    handle = layers[0].register_forward_pre_hook(reach, with_kwargs=True)
    try:
        for batch in tokens.split(max(1, TOKENS_PER_BATCH // tokens.shape[1])):
            with contextlib.suppress(_Reached):
                trunk(input_ids=batch, use_cache=False)
    finally:
        handle.remove()
    return Stream(hidden, arguments)


def run(layer: nn.Module, hidden: Tensor, arguments: dict[str, Any]) -> Tensor:
    """The layer's output (b, T, o) for one batch."""
    output = layer(hidden, **arguments)
    return output[0] if isinstance(output, tuple) else output


@torch.inference_mode()
def passes(layer: nn.Module, stream: Stream, index: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(input, output) of the layer for every batch of the stream, which stays as it is."""
    for hidden in stream.hidden:
        yield hidden, run(layer, hidden, stream.arguments[index])


def watch(
    layer: nn.Module, stream: Stream, index: int, accumulators: dict[str, Accumulator]
) -> dict[str, Accumulator]:
    """The accumulators of the named linears, filled while the layer runs once over the stream, which stays
    as it is."""
    with watching(layer, *accumulators.items()):
        for _ in passes(layer, stream, index):
            pass
    return accumulators


def advance(layer: nn.Module, stream: Stream, index: int) -> float:
    """Runs the layer for good: the stream becomes its output. Returns the mean cosine of input and output."""
    total = 0.0
    for i, (before, after) in enumerate(passes(layer, stream, index)):
        total += torch.cosine_similarity(before.float(), after.float(), dim=-1).sum().item()
        stream.hidden[i] = after
    return total / stream.tokens


def advance_measured(
    layer: nn.Module, stream: Stream, index: int, readers: Sequence[str]
) -> dict[str, float]:
    """Runs the layer for good and returns E‖W x‖² of the named readers, their biases left out."""
    energies = dict.fromkeys(readers, 0.0)

    def watcher(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def add(reader: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
            linear = output if reader.bias is None else output - reader.bias  # type: ignore[operator]
            energies[name] += linear.float().square().sum().item()

        return add

    handles = [part(layer, name).register_forward_hook(watcher(name)) for name in readers]
    try:
        advance(layer, stream, index)
    finally:
        for handle in handles:
            handle.remove()
    return {name: energy / stream.tokens for name, energy in energies.items()}


def collect(subject: Subject, stream: Stream, index: int) -> LayerMoments:
    """The moments of one dense layer, from one pass; the stream moves on to its output."""
    layer, family = subject.layers[index], subject.family
    attention, mlp, inputs = Accumulator(), Accumulator(), Accumulator(second=False)
    writer = next(iter(family.mlp.writers))
    with watching(layer, (family.attention.reader, attention), (family.mlp.reader, mlp), (writer, inputs)):
        cosine = advance(layer, stream, index)
    return LayerMoments(attention.moments, mlp.moments, inputs.mean, cosine)
