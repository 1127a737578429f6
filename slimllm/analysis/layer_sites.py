"""Weights and inputs of a layer's readers in float64, the dtype of all computations with moments."""

from __future__ import annotations

from torch import Tensor, nn

from slimllm.core.held_out import HeldOut
from slimllm.core.types import Moments
from slimllm.methods.interface import ChannelSite
from slimllm.models.families import writer_blocks
from slimllm.models.loading import Subject


def to_float64(weight: Tensor) -> Tensor:
    """Return the weight in float64 on the CPU, like the moments."""
    return weight.detach().cpu().double()


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
    """Return the inputs of a ranking of channels, in float64."""
    writers = [to_float64(block) for block in writer_blocks(layer, subject.family.mlp)]
    return ChannelSite(down, moments, writers, input_sq.double(), pinned, seed, learned)
