"""Weights and inputs of a layer's readers, in the float64 in which the arithmetic is done."""

from __future__ import annotations

from torch import Tensor, nn

from slimllm.families import writer_blocks
from slimllm.models import Subject
from slimllm.rankings import ChannelSite
from slimllm.types import Moments


def double(weight: Tensor) -> Tensor:
    """The weight in float64 beside the moments, where the arithmetic is done."""
    return weight.detach().cpu().double()


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
    writers = [double(block) for block in writer_blocks(layer, subject.family.mlp)]
    return ChannelSite(down, moments, writers, input_sq.double(), pinned, seed, learned)
