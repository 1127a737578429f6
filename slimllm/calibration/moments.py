"""The moments of the readers' inputs, from streaming calibration tokens through one layer at a time.

Only the hidden states of the tokens are kept in memory, never the activations of all layers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from slimllm.calibration.gram import Gram
from slimllm.core.held_out import HeldOut, HeldTokens, find_held_tokens, join_held_out
from slimllm.core.tensor_moves import read_sum
from slimllm.core.types import Drift, LayerMoments, Moments
from slimllm.models.families import linear_of
from slimllm.models.layer_offload import open_layer
from slimllm.models.loading import Subject
from slimllm.models.modeling_slim import Selected

TOKENS_PER_BATCH = 4096


@dataclass(eq=False)
class Stream:
    """The calibration tokens between two layers.

    `hidden` holds hidden states (b, T, o) per batch, `arguments` the keyword arguments of each layer, and
    `held`, if set, the held-out tokens.
    """

    hidden: list[Tensor]
    arguments: list[dict[str, Any]]
    held: HeldTokens | None = None

    @property
    def tokens(self) -> int:
        """The number of tokens."""
        return sum(batch.shape[0] * batch.shape[1] for batch in self.hidden)


class _Reached(Exception):
    """The signal that ends a forward pass at the first decoder layer, whose input is all that is needed."""


class Accumulator:
    """Running first and second moments of (…, d) activations, summed in float32 on their device.

    Without `second`, the mean square of each activation takes the place of the mean. With `weighted`, every
    token is multiplied by `residual_weights`, which are known only after the layer has run. The activations
    of the tokens `held` are also kept. Until the moments are asked for, nothing is read from the device.
    """

    def __init__(
        self,
        second: bool = True,
        weighted: bool = False,
        goal: Goal | None = None,
        held: HeldTokens | None = None,
    ) -> None:
        self.weighted, self.goal, self.held = weighted, goal, held
        self.tokens = 0
        # With weights, their sum () in every batch.
        self.masses: list[Tensor] = []
        self.total: Tensor | None = None
        self.gram = Gram() if second else None
        self.pending: Tensor | None = None
        # With a goal: Σ e (o,) and Σ e xᵀ (o, d).
        self.lacking: tuple[Tensor, Tensor] | None = None
        # One part for every batch.
        self.kept: list[HeldOut] = []

    def see(self, activations: Tensor) -> None:
        """Take a batch of activations (b, T, d).

        It is added at once, or, if its weights or its goal need the layer's output, when `settle` is called.
        """
        if self.weighted or self.goal:
            self.pending = activations.detach()
        else:
            self.add(activations)

    def settle(self, output: Tensor) -> None:
        """Add the pending batch, now that the layer's output (b, T, o) is known."""
        if self.pending is None:
            return
        weights = residual_weights(output) if self.weighted else None
        lack = self.goal.lack(output).flatten(0, -2) if self.goal else None  # (t, o)
        self.add(self.pending, weights, lack)
        if lack is not None:
            lack = lack if weights is None else lack * weights.flatten()[:, None]  # (t, o)
            # (o,) and (o, t) @ (t, d) → (o, d)
            sums = lack.sum(0), lack.T @ self.pending.flatten(0, -2).float()
            before = self.lacking
            self.lacking = sums if before is None else (before[0].add_(sums[0]), before[1].add_(sums[1]))
        self.pending = None

    def add(self, activations: Tensor, weights: Tensor | None = None, lack: Tensor | None = None) -> None:
        """Add activations (…, d) with optional weights (…,) and, beside a dense stream, the lack (t, o)."""
        x = activations.detach().flatten(0, -2)  # (t, d)
        each = None if weights is None else weights.flatten()  # (t,)
        if self.held is not None:
            self.keep(self.held.within(self.tokens, self.tokens + len(x)), x, each, lack)
        counted = x.float() if each is None else x.float() * each[:, None]
        total = counted.sum(0) if self.gram else (counted * x).sum(0)  # (d,)
        self.tokens += len(x)
        if each is not None:
            self.masses.append(each.sum())
        self.total = total if self.total is None else self.total.add_(total)
        if self.gram:
            self.gram.add(x, each)

    def keep(self, held: Tensor, x: Tensor, weights: Tensor | None, lack: Tensor | None) -> None:
        """Keep the activations, weights and lack of the held-out tokens (k,) of a batch (t, d)."""
        counted = torch.ones(len(held), device=x.device) if weights is None else weights[held]  # (k,)
        self.kept.append(HeldOut(x[held], counted, None if lack is None else lack[held]))  # (k, d), (k, o)

    @property
    def mass(self) -> float:
        """The sum of the weights of all tokens, which without weights is their number."""
        return read_sum(self.masses) if self.masses else float(self.tokens)

    @property
    def mean(self) -> Tensor:
        """The weighted mean (d,), or the mean square without `second`."""
        assert self.total is not None
        return self.total / self.mass

    @property
    def moments(self) -> Moments:
        """The moments of all batches."""
        assert self.gram is not None
        assert self.total is not None
        mass = self.mass
        # (o,) and (o, d)
        drift = Drift(*(part / mass for part in self.lacking)) if self.lacking else None
        held = join_held_out(self.kept) if self.kept else None
        gram = self.gram.whole.div_(mass)
        return Moments(self.total / mass, gram, self.tokens, mass / max(1, self.tokens), drift, held)


@dataclass(eq=False)
class Goal:
    """The dense residual stream behind a site, which a pruned stream is compared with batch by batch.

    `residuals` holds it (b, T, o) per batch. `behind` names the module that reads the stream there; it is
    empty if the stream is the layer's output. `reached` is the pruned stream (b, T, o) of the current batch.
    """

    residuals: list[Tensor]
    behind: str = ""
    batch: int = 0
    reached: Tensor | None = None

    def lack(self, output: Tensor) -> Tensor:
        """Return the dense minus the pruned stream (b, T, o) of the next batch, in float32."""
        own = self.reached if self.behind else output
        assert own is not None
        self.batch += 1
        return self.residuals[self.batch - 1].float() - own.float()


def residual_weights(output: Tensor) -> Tensor:
    """Return 1 / ‖h‖² (b, T) of the residual stream h (b, T, o) at every token.

    Every layer normalises the stream before it reads it, so the effect of an error depends on its size
    relative to the stream. Without weights, the few tokens with huge activations (attention sinks) outweigh
    all others.
    """
    square = output.detach().float().square().sum(-1)  # (b, T)
    return 1 / square.clamp_min(torch.finfo(square.dtype).eps)


@torch.inference_mode()
def embed_tokens(subject: Subject, tokens: Tensor, held: Tensor | None = None) -> Stream:
    """Return the stream that enters layer 0, for tokens (S, T), of which `held` (S, T) bool are held out.

    A forward pass of the first sample records the keyword arguments of every layer, because masks and rotary
    embeddings differ between layers in some families. All samples have the same length, so the arguments
    broadcast over batches.
    """
    trunk = subject.model.get_submodule(subject.family.trunk)
    layers = subject.layers
    arguments: list[dict[str, Any]] = []
    hidden: list[Tensor] = []

    def record(_: nn.Module, __: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
        """Record the keyword arguments of a layer."""
        arguments.append({name: value for name, value in kwargs.items() if name != "hidden_states"})

    def reach(_: nn.Module, inputs: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
        """Record the input (b, T, o) of the first layer and end the forward pass."""
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
    return Stream(hidden, arguments, None if held is None else find_held_tokens(held, subject.device))


def run_layer(layer: nn.Module, hidden: Tensor, arguments: dict[str, Any]) -> Tensor:
    """Return the layer's output (b, T, o) for one batch (b, T, o)."""
    output = layer(hidden, **arguments)
    return output[0] if isinstance(output, tuple) else output


@torch.inference_mode()
def layer_passes(
    layer: nn.Module, stream: Stream, index: int, accumulators: Mapping[str, Accumulator] | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (input, output) of the layer, each (b, T, o), for every batch; the stream stays as it is.

    Meanwhile the input of each named linear layer goes to its accumulator.
    """
    watched = accumulators or {}

    def watcher(accumulator: Accumulator) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda linear, inputs: accumulator.see(read_by(linear, inputs[0]))

    handles = [
        linear_of(layer, name).register_forward_pre_hook(watcher(accumulator))
        for name, accumulator in watched.items()
    ]
    goals = [a.goal for a in watched.values() if a.goal and a.goal.behind]
    handles += [
        layer.get_submodule(goal.behind).register_forward_pre_hook(input_catcher(goal)) for goal in goals
    ]
    try:
        with open_layer(layer):
            for hidden in stream.hidden:
                output = run_layer(layer, hidden, stream.arguments[index])
                for accumulator in watched.values():
                    accumulator.settle(output)
                yield hidden, output
    finally:
        for handle in handles:
            handle.remove()


def read_by(linear: nn.Module, given: Tensor) -> Tensor:
    """Return the inputs (…, d) that a linear layer has weights for, of the inputs (…, n) given to it."""
    return given[..., linear.places] if isinstance(linear, Selected) else given  # (…, d)


def input_catcher(goal: Goal) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    """Return a hook that stores what the module reads in `goal.reached`."""

    def catch(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        goal.reached = inputs[0].detach()

    return catch


@torch.inference_mode()
def lead_streams(layer: nn.Module, stream: Stream, index: int, between: str) -> tuple[Goal, Goal]:
    """Return the dense residual streams behind the attention and behind the MLP; advance the stream.

    `between` names the module that reads the stream between the two sites.
    """
    middle = Goal([], between)
    handle = layer.get_submodule(between).register_forward_pre_hook(input_catcher(middle))
    try:
        for i, (_, output) in enumerate(layer_passes(layer, stream, index)):
            assert middle.reached is not None
            middle.residuals.append(middle.reached)
            stream.hidden[i] = output
    finally:
        handle.remove()
    return middle, Goal(list(stream.hidden))


def watch_linears(
    layer: nn.Module, stream: Stream, index: int, accumulators: dict[str, Accumulator]
) -> dict[str, Accumulator]:
    """Return the accumulators after one pass of the layer over the stream, which stays as it is."""
    for _ in layer_passes(layer, stream, index, accumulators):
        pass
    return accumulators


def advance_stream(
    layer: nn.Module, stream: Stream, index: int, accumulators: Mapping[str, Accumulator] | None = None
) -> None:
    """Replace the stream by the layer's output."""
    for i, (_, after) in enumerate(layer_passes(layer, stream, index, accumulators)):
        stream.hidden[i] = after


def advance_compared(
    layer: nn.Module, stream: Stream, index: int, accumulators: Mapping[str, Accumulator]
) -> float:
    """Replace the stream by the layer's output, and return the mean cosine of input and output."""
    cosines: list[Tensor] = []
    for i, (before, after) in enumerate(layer_passes(layer, stream, index, accumulators)):
        cosines.append(torch.cosine_similarity(before.float(), after.float(), dim=-1).sum())
        stream.hidden[i] = after
    return read_sum(cosines) / stream.tokens


def advance_measured(
    layer: nn.Module, stream: Stream, index: int, readers: Sequence[str]
) -> dict[str, float]:
    """Replace the stream by the layer's output, and return E‖W x‖² of each named reader, without biases."""
    energies: dict[str, list[Tensor]] = {name: [] for name in readers}

    def watcher(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def add(reader: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
            linear = output if reader.bias is None else output - reader.bias  # type: ignore[operator]
            energies[name].append(linear.float().square().sum())

        return add

    handles = [linear_of(layer, name).register_forward_hook(watcher(name)) for name in readers]
    try:
        advance_stream(layer, stream, index)
    finally:
        for handle in handles:
            handle.remove()
    return {name: read_sum(parts) / stream.tokens for name, parts in energies.items()}


def collect_moments(subject: Subject, stream: Stream, index: int, weighted: bool = False) -> LayerMoments:
    """Return the moments of one dense layer from one pass; the stream becomes its output."""
    layer, family = subject.layers[index], subject.family
    attention, mlp = (Accumulator(weighted=weighted, held=stream.held) for _ in range(2))
    inputs = Accumulator(second=False, weighted=weighted)
    found = {family.attention.reader: attention, family.mlp.reader: mlp}
    cosine = advance_compared(layer, stream, index, {**found, next(iter(family.mlp.writers)): inputs})
    return LayerMoments(attention.moments, mlp.moments, inputs.mean, cosine)
