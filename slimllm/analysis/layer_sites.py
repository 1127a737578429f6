"""The inputs of computations with the moments of one layer, in float64."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from slimllm.core.arithmetic import Arithmetic
from slimllm.core.held_out import HeldOut
from slimllm.core.tensor_moves import to_float64
from slimllm.core.types import Moments
from slimllm.methods.interface import ChannelSite
from slimllm.models.families import linear_of, writer_blocks
from slimllm.models.loading import Subject


def dense_weight(layer: nn.Module, name: str, arithmetic: Arithmetic) -> tuple[Tensor, torch.device]:
    """Return a reader's weight (o, d) in float64, and the device on which it is and on which to compute."""
    weight = linear_of(layer, name).weight
    place = arithmetic.place_for(*weight.shape)
    return to_float64(weight, place), place


def split_held_out(moments: Moments) -> tuple[Moments, HeldOut]:
    """Return the moments to fit repairs to, and the held-out tokens to compute their errors on."""
    assert moments.held is not None
    return moments.fitted, moments.held


def channel_site(
    layer: nn.Module,
    subject: Subject,
    down: Tensor,
    moments: Moments,
    input_sq: Tensor,
    pinned: Tensor | None,
    seed: int,
    learned: Tensor | None = None,
) -> ChannelSite:
    """Return the inputs of a ranking of channels, in float64 on the device of the reader's weight `down`."""
    writers = [to_float64(block, down.device) for block in writer_blocks(layer, subject.family.mlp)]
    return ChannelSite(down, moments, writers, to_float64(input_sq, down.device), pinned, seed, learned)
