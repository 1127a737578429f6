"""Deterministic Differentiable Pruning (arXiv 2603.08065): learned gates for heads and channels.

All weights stay frozen. A gate m = ReLU(z) multiplies what its unit passes to the reader. A second, steeper
curve of the same latent z is the retention, which says how far the unit counts as kept, and Lagrange
multipliers push the mean retention to the target. Heads and channels are then ranked by their gates
(`ranking.rank_learned_heads` and `rank_learned_channels`).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from slimllm.core.attention_unit import UNITS, UnitName
from slimllm.core.errors import Refusal
from slimllm.core.shapes import Grouping
from slimllm.core.types import Progress, UnitScores
from slimllm.methods.interface import Learning, Options
from slimllm.models.families import linear_of
from slimllm.models.loading import Subject

# With it the stretched sigmoid is exactly 0 at gate 0, and 1 at gate 2μ.
STEEPNESS = math.log(11)
MU_FIRST, MU_LAST = 0.5, 0.1
# A latent further below zero would take too long to return.
LOWEST = -0.1
# The standard deviation of the first latents around 1, the gate of the dense model.
SPREAD = 0.01
PAPER_STEPS = 1000
# Latents that change by more than 0.2 per step do not learn.
MOST_HURRY = 10


@dataclass(frozen=True)
class Training:
    """How gates are learned.

    `target` is the share of heads, and of channels, to remove. The rates and the weight of the KL are the
    paper's for its 1,000 steps of 32,768 tokens; the steps here suit a small model on a CPU, and `hurry`
    compensates for their number. `lr_lambda` is the learning rate of λ1 and λ3, `lr_square` that of λ2, and
    `warmup` is a share of the steps.
    """

    target: float
    steps: int = 300
    tokens_per_step: int = 256
    lr_gate: float = 2e-2
    lr_lambda: float = 2e-2
    lr_square: float = 4e-1
    distill: float = 2.0
    warmup: float = 0.1
    seed: int = 0

    @property
    def hurry(self) -> float:
        """The factor on the learning rates in a training shorter than the paper's.

        Without it, μ falls, and with μ the pull on open gates, before the multipliers are strong enough to
        move any: on the starter model, nearly all channels are then still open after 200 steps.
        """
        return min(max(1.0, PAPER_STEPS / self.steps), MOST_HURRY)


def learn_gates(subject: Subject, tokens: Tensor, options: Options, unit: UnitName, seed: int) -> Learning:
    """Learn the importance of every unit by training gates on the calibration tokens (S, T).

    Yield `Progress`, and return one `UnitScores` per layer.
    """
    training = Training(target=options["target"], steps=options["steps"], seed=seed)
    yield Progress("gates", 0, training.steps, "The gates begin to train")
    return (yield from train_gates(subject, tokens, training, unit))


def gate_retention(gates: Tensor, mu: float) -> Tensor:
    """Return the retention (n,) of gates (n,), from 0 to 1: clamp(1.2 σ(ln 11 (m − μ)/μ) − 0.1, 0, 1).

    The gradient passes straight through the clamp, so that a fully kept unit still has a gradient.
    """
    stretched = 1.2 * torch.sigmoid(STEEPNESS * (gates - mu) / mu) - 0.1
    return straight_through(stretched, stretched.clamp(0, 1))


def straight_through(soft: Tensor, hard: Tensor) -> Tensor:
    """Return the values of `hard`, exactly, with the gradient of `soft`."""
    return hard.detach() + (soft - soft.detach())


def anneal_mu(step: int, steps: int) -> float:
    """Return μ at a step of `steps`: it falls from 0.5 to 0.1, fast at first."""
    return MU_FIRST - (MU_FIRST - MU_LAST) * math.sqrt(step / steps)


def learning_rate_share(step: int, steps: int, warmup: float) -> float:
    """Return the factor of the learning-rate schedule at a step: a warm-up to 1, then a half cosine to 0."""
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising)))


def sparsity_penalty(kept: Tensor, target: float, multipliers: Tensor) -> Tensor:
    """Return λ1 Δ + λ2 Δ² + λ3 mean s(1 − s) for the retention s (n,) of all units of one type and λ (3,).

    Δ = (1 − mean s) − target is the share that is removed beyond the target.
    """
    excess = 1 - kept.mean() - target
    undecided = (kept * (1 - kept)).mean()
    return torch.stack((excess, excess.square(), undecided)) @ multipliers  # (3,) @ (3,) → ()


@contextlib.contextmanager
def gate_readers(subject: Subject, gates: Sequence[UnitScores]) -> Iterator[None]:
    """Multiply every reader's input by its layer's gates, heads (H,) and channels (c,), in the block."""
    family, handles = subject.family, []
    try:
        for layer, gate in zip(subject.layers, gates, strict=True):
            for name, units in ((family.attention.reader, gate.heads), (family.mlp.reader, gate.channels)):
                reader = linear_of(layer, name)
                inputs = units.repeat_interleave(reader.in_features // len(units))  # (n,) → (d,)
                handles.append(reader.register_forward_pre_hook(gate_hook(inputs)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def gate_hook(gate: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    """Return a hook that multiplies a linear layer's input (b, T, d) by the gate (d,).

    The product is computed in float32 also in models of lower precision.
    """

    def multiply_inputs(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return ((inputs[0] * gate).to(inputs[0].dtype), *inputs[1:])

    return multiply_inputs


def log_probabilities(subject: Subject, batch: Tensor) -> Tensor:
    """Return the log-probabilities (b, T, vocab) of the next token after each position, in float32."""
    return subject.model(input_ids=batch, use_cache=False).logits.float().log_softmax(-1)


def gated_losses(subject: Subject, batch: Tensor, gates: Sequence[UnitScores]) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy of the gated model on the batch (b, T), and KL(dense ‖ gated).

    Both are means over the tokens after the tokenizer's beginning.
    """
    with torch.no_grad():
        dense = log_probabilities(subject, batch)
    with gate_readers(subject, gates):
        ours = log_probabilities(subject, batch)
    first = subject.beginning.predicted_from
    dense, ours = dense[:, first - 1 :], ours[:, first - 1 :]  # (b, T − first + 1, vocab)
    ce = -ours[:, :-1].gather(-1, batch[:, first:, None]).mean()  # (b, T − first, 1) → ()
    # (b · (T − first + 1), vocab) → ()
    kl = nn.functional.kl_div(ours.flatten(0, 1), dense.flatten(0, 1), reduction="batchmean", log_target=True)
    return ce, kl


class Trainer:
    """The latents of all layers end to end, the multipliers, and their optimiser.

    `heads` (units of all layers,) and `channels` (channels of all layers,) are latents. `linear` (2, 2) holds
    λ1 and λ3, and `square` (2,) λ2, of heads and of channels. Between two steps the trainer does not touch
    the model. Its methods leave inference mode, which callers may have entered and in which no tensor can be
    learned.
    """

    @torch.inference_mode(False)
    def __init__(self, subject: Subject, training: Training, unit: UnitName) -> None:
        layers = subject.shape.layers
        self.subject, self.training = subject, training
        self.random = torch.Generator().manual_seed(training.seed)
        self.groupings = [Grouping(layer.heads, layer.groups, unit) for layer in layers]
        # (H,) of every layer
        self.unit_of_head = [grouping.unit_of_head().to(subject.device) for grouping in self.groupings]
        self.heads = self.latents([grouping.units for grouping in self.groupings])
        self.channels = self.latents([layer.channels for layer in layers])
        # Rows are heads and channels, columns λ1 and λ3.
        self.linear = torch.zeros(2, 2, device=subject.device)
        # λ2 of heads and of channels.
        self.square = torch.zeros(2, device=subject.device)
        self.rates = (training.lr_gate, training.lr_lambda, training.lr_square)
        self.learned = [self.heads, self.channels, self.linear, self.square]
        for tensor in self.learned:
            tensor.requires_grad_(True)
        groups: list[dict[str, Any]] = [
            {"params": [self.heads, self.channels]},
            {"params": [self.linear], "maximize": True},
            {"params": [self.square], "maximize": True},
        ]
        self.optimiser = torch.optim.AdamW(groups, weight_decay=0.0)

    def latents(self, sizes: Sequence[int]) -> Tensor:
        """Return random first latents (n,) near 1 for all layers' units of one type."""
        return (1 + SPREAD * torch.randn(sum(sizes), generator=self.random)).to(self.subject.device)

    def gates(self) -> list[UnitScores]:
        """Return the gates m ≥ 0 of every layer; all heads of a unit have the same gate."""
        units = [grouping.units for grouping in self.groupings]
        widths = [layer.channels for layer in self.subject.shape.layers]
        heads = straight_through(self.heads, self.heads.relu()).split(units)  # (units,) of each layer
        channels = straight_through(self.channels, self.channels.relu()).split(widths)  # (c,) of each layer
        return [
            UnitScores(h[unit_of], c)  # (units,) → (H,)
            for unit_of, h, c in zip(self.unit_of_head, heads, channels, strict=True)
        ]

    def kept(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the retention of all head units (n,) and of all channels (n,) with the μ of this step."""
        mu = anneal_mu(step, self.training.steps)
        return tuple(  # type: ignore[return-value]
            gate_retention(straight_through(z, z.relu()), mu) for z in (self.heads, self.channels)
        )

    @torch.inference_mode(False)
    @torch.enable_grad()
    def step(self, number: int, batch: Tensor) -> dict[str, float]:
        """Learn from one batch (b, T), and return the losses and mean retentions before the update."""
        training = self.training
        ce, kl = gated_losses(self.subject, batch.to(self.subject.device, copy=True), self.gates())
        kept = self.kept(number)
        lagrangian = sum(
            sparsity_penalty(s, training.target, torch.stack((line[0], square, line[1])))
            for s, line, square in zip(kept, self.linear, self.square, strict=True)
        )
        loss = ce + training.distill * kl + lagrangian
        # backward() would also give a gradient to weights that the caller left trainable.
        for tensor, gradient in zip(self.learned, torch.autograd.grad(loss, self.learned), strict=True):
            tensor.grad = gradient
        share = training.hurry * learning_rate_share(number, training.steps, training.warmup)
        for group, rate in zip(self.optimiser.param_groups, self.rates, strict=True):
            group["lr"] = rate * share
        self.optimiser.step()
        with torch.no_grad():
            self.heads.clamp_(min=LOWEST)
            self.channels.clamp_(min=LOWEST)
        values = {
            "loss": loss,
            "ce": ce,
            "kl": kl,
            "kept_heads": kept[0].mean(),
            "kept_channels": kept[1].mean(),
        }
        # One read of the device for all of them.
        return dict(zip(values, torch.stack([*values.values()]).tolist(), strict=True))

    @torch.inference_mode(False)
    @torch.no_grad()
    def result(self) -> tuple[UnitScores, ...]:
        """Return the gates of every layer on the CPU, detached from the training."""
        return tuple(UnitScores(gate.heads.cpu(), gate.channels.cpu()) for gate in self.gates())


def check_training(tokens: Tensor, training: Training, unit: UnitName) -> None:
    """Raise `Refusal` if a training cannot be run."""
    if UNITS[unit].narrows_heads:
        raise Refusal(
            f"Gates are learned for whole heads, not for unit '{unit}'; use kv-group or query-head."
        )
    if not 0 < training.target < 1:
        raise Refusal(
            f"Gates cannot be trained to remove {training.target:.0%} of the units; "
            "use a target above 0 % and below 100 %."
        )
    if training.steps < 1:
        raise Refusal(f"Gates cannot be trained in {training.steps} steps; use at least 1.")
    if tokens.ndim != 2 or not len(tokens) or tokens.shape[1] < 2:
        raise Refusal("Gates are trained on samples of at least 2 tokens; use a longer calibration text.")


def sample_batches(tokens: Tensor, size: int, random: torch.Generator) -> Iterator[Tensor]:
    """Yield batches (size, T) of the samples (S, T) for ever; every sample comes once per round."""
    # The indices of samples that have not been used in this round.
    waiting = torch.empty(0, dtype=torch.int64)
    while True:
        while len(waiting) < size:
            waiting = torch.cat((waiting, torch.randperm(len(tokens), generator=random)))  # (waiting + S,)
        yield tokens[waiting[:size].to(tokens.device)]  # (S, T) → (size, T)
        waiting = waiting[size:]


def train_gates(subject: Subject, tokens: Tensor, training: Training, unit: UnitName) -> Learning:
    """Train gates m ≥ 0 of every layer's heads (H,) and channels (c,) on samples (S, T), and return them.

    The units with the smallest gates are to be removed first. With whole KV groups as units, the heads of a
    group have one gate. Every step yields its losses and mean retentions, so that the training can be drawn
    and stopped. The model's weights never change, and it has hooks only during a step. Raise `Refusal` if the
    training cannot be run or diverges.
    """
    check_training(tokens, training, unit)
    trainer = Trainer(subject, training, unit)
    size = max(1, training.tokens_per_step // tokens.shape[1])
    for number, batch in zip(
        range(training.steps), sample_batches(tokens, size, trainer.random), strict=False
    ):
        state = trainer.step(number, batch)
        if not math.isfinite(state["loss"]):
            raise Refusal(
                f"The training of gates diverged at step {number + 1}; use dtype float32 or smaller rates."
            )
        words = (
            f"Loss {state['loss']:.2f}, keeping {state['kept_heads']:.0%} of the heads "
            f"and {state['kept_channels']:.0%} of the channels"
        )
        yield Progress("gates", number + 1, training.steps, words, state)
    return trainer.result()
