"""Weights and inputs of a layer's readers, in the float64 in which the arithmetic is done."""

from __future__ import annotations

from torch import Tensor, nn

from slimllm.core.held_out import HeldOut
from slimllm.core.types import Moments
from slimllm.methods.interface import ChannelSite
from slimllm.models.families import writer_blocks
from slimllm.models.loading import Subject


def to_float64(weight: Tensor) -> Tensor:
    """The weight in float64 beside the moments, where the arithmetic is done."""
    return weight.detach().cpu().double()


def split_held_out(moments: Moments) -> tuple[Moments, HeldOut]:
    """What repairs are fitted to whose errors are told, and the tokens that these are told on."""
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
    writers = [to_float64(block) for block in writer_blocks(layer, subject.family.mlp)]
    return ChannelSite(down, moments, writers, input_sq.double(), pinned, seed, learned)
