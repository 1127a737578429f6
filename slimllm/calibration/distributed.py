"""Several processes that share the reading of a calibration text (torchrun): each sums the moments of its
samples, the first one gets the sum of all and goes on alone."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch
from torch import Tensor, distributed

from slimllm.core.errors import Refusal
from slimllm.core.held_out import HeldOut
from slimllm.core.types import LayerMoments, Moments


def is_distributed() -> bool:
    """Whether torchrun started this process as one of several."""
    return distributed.is_torchelastic_launched() and int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextlib.contextmanager
def join_processes() -> Iterator[None]:
    """While open, the processes that torchrun started can talk to each other; nothing happens in a single
    one."""
    if not is_distributed():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


def is_joined() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def process_rank() -> int:
    """The number of this process; the first one, and a single one, is 0."""
    return distributed.get_rank() if is_joined() else 0


def own_samples(tokens: Tensor) -> Tensor:
    """This process's samples of (S, T); a `Refusal` where there are fewer samples than processes."""
    if not is_joined():
        return tokens
    size = distributed.get_world_size()
    if len(tokens) < size:
        raise Refusal(f"{len(tokens)} samples cannot be shared by {size} processes; use more --samples.")
    return tokens[process_rank() :: size]


def first_says(value: bool) -> bool:
    """What the first process said; every process must ask."""
    if not is_joined():
        return value
    said = torch.tensor([int(value)], device=exchange_device())
    distributed.broadcast(said, 0)
    return bool(said.item())


def sum_layer_moments(found: LayerMoments) -> LayerMoments:
    """The moments of all processes' samples together, in every process."""
    if not is_joined():
        return found
    return LayerMoments(
        sum_moments(found.attention),
        sum_moments(found.mlp),
        mean_over_processes(found.mlp_input_sq, found.mlp.tokens * found.mlp.weight),
        float(mean_over_processes(torch.tensor([found.cosine], dtype=torch.float64), found.mlp.tokens)),
    )


def sum_moments(found: Moments) -> Moments:
    mass = found.tokens * found.weight
    tokens, masses = sum_over_processes(torch.tensor([found.tokens, mass], dtype=torch.float64)).tolist()
    return Moments(
        mean_over_processes(found.mean, mass),
        mean_over_processes(found.gram, mass),
        int(tokens),
        masses / tokens,
        held=None
        if found.held is None
        else HeldOut(gather_rows(found.held.inputs), gather_rows(found.held.weights)),
    )


def gather_rows(own: Tensor) -> Tensor:
    """The rows (n, …) of all processes, one after the other."""
    counts = torch.zeros(distributed.get_world_size(), dtype=torch.int64)
    counts[process_rank()] = len(own)
    counts = sum_over_processes(counts)
    start = int(counts[: process_rank()].sum())
    rows = own.new_zeros(int(counts.sum()), *own.shape[1:])
    rows[start : start + len(own)] = own
    return sum_over_processes(rows)


def mean_over_processes(own: Tensor, mass: float) -> Tensor:
    """The mean of all processes' means, each counted by the mass it is the mean of."""
    masses = float(sum_over_processes(torch.tensor([mass], dtype=torch.float64)))
    return sum_over_processes(own * (mass / masses))


def sum_over_processes(own: Tensor) -> Tensor:
    held = own.to(exchange_device(), copy=True)
    distributed.all_reduce(held)
    return held.to(own.device)


def exchange_device() -> torch.device:
    """Where the processes exchange tensors."""
    return torch.device("cuda" if distributed.get_backend() == "nccl" else "cpu")
