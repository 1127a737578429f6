"""Sharing the reading of a calibration text among processes (torchrun).

Each process sums the moments of its samples. The first process gets the total and continues alone.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch
from torch import Tensor, distributed

from slimllm.core.devices import KINDS, DeviceKind, kind_of
from slimllm.core.errors import Refusal
from slimllm.core.held_out import HeldOut
from slimllm.core.types import LayerMoments, Moments


def is_distributed() -> bool:
    """Return whether torchrun started this process as one of several."""
    return distributed.is_torchelastic_launched() and int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextlib.contextmanager
def join_processes(device: torch.device) -> Iterator[None]:
    """Connect the processes that torchrun started for the block; do nothing in a single process.

    Each process gets one of the cards of the device's kind. Raise `Refusal` if there are fewer cards than
    processes.
    """
    if not is_distributed():
        yield
        return
    kind = kind_of(device)
    if kind.owns_memory:
        take_card(kind)
    distributed.init_process_group(kind.exchange)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def take_card(kind: DeviceKind) -> None:
    """Make the card with this process's number on its machine the present one of its kind.

    Raise `Refusal` if there are fewer cards than processes on the machine.
    """
    count = int(os.environ["LOCAL_WORLD_SIZE"])
    if count > kind.count():
        raise Refusal(
            f"{count} processes need as many devices of the kind {kind.name}, and {kind.count()} are here; "
            "start fewer, or use --device cpu."
        )
    torch.accelerator.set_device_index(int(os.environ["LOCAL_RANK"]))


def is_joined() -> bool:
    """Return whether this process is connected to others."""
    return distributed.is_available() and distributed.is_initialized()


def process_rank() -> int:
    """Return the rank of this process; it is 0 for the first process and for a single one."""
    return distributed.get_rank() if is_joined() else 0


def own_samples(tokens: Tensor) -> Tensor:
    """Return this process's samples (S/P, T) of all samples (S, T) for P processes.

    Raise `Refusal` if there are fewer samples than processes.
    """
    if not is_joined():
        return tokens
    size = distributed.get_world_size()
    if len(tokens) < size:
        raise Refusal(f"{len(tokens)} samples cannot be shared by {size} processes; use more --samples.")
    return tokens[process_rank() :: size]  # (S/P, T)


def first_says(value: bool) -> bool:
    """Return the value that the first process passed; every process must call this."""
    if not is_joined():
        return value
    said = torch.tensor([int(value)], device=exchange_device())
    distributed.broadcast(said, 0)
    return bool(said.item())


def sum_layer_moments(found: LayerMoments) -> LayerMoments:
    """Return, in every process, the moments of all processes' samples together."""
    if not is_joined():
        return found
    return LayerMoments(
        sum_moments(found.attention),
        sum_moments(found.mlp),
        mean_over_processes(found.mlp_input_sq, found.mlp.tokens * found.mlp.weight),
        float(mean_over_processes(torch.tensor([found.cosine], dtype=torch.float64), found.mlp.tokens)),
    )


def sum_moments(found: Moments) -> Moments:
    """Return the moments of all processes' samples together, without drift."""
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
    """Return the rows (n, …) of all processes, concatenated in the order of their ranks."""
    counts = torch.zeros(distributed.get_world_size(), dtype=torch.int64)  # (P,)
    counts[process_rank()] = len(own)
    counts = sum_over_processes(counts)
    start = int(counts[: process_rank()].sum())
    rows = own.new_zeros(int(counts.sum()), *own.shape[1:])  # (n of all processes, …)
    rows[start : start + len(own)] = own
    return sum_over_processes(rows)


def mean_over_processes(own: Tensor, mass: float) -> Tensor:
    """Return the mean of all processes' means, each weighted by the mass that it is the mean of."""
    masses = float(sum_over_processes(torch.tensor([mass], dtype=torch.float64)))
    return sum_over_processes(own * (mass / masses))


def sum_over_processes(own: Tensor) -> Tensor:
    """Return the sum of all processes' tensors of the same shape, on the device of this process's own."""
    held = own.to(exchange_device(), copy=True)
    distributed.all_reduce(held)
    return held.to(own.device)


def exchange_device() -> torch.device:
    """Return the device on which processes exchange tensors."""
    backend = distributed.get_backend()
    # What several kinds use goes through the processor, which is the last row.
    return torch.device([kind.name for kind in KINDS.values() if kind.exchange == backend][-1])
