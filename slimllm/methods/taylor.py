"""LLM-Pruner: importance by gradients of the loss, which moments of single layers do not contain.

Heads and channels are then ranked by it (`ranking.rank_learned_heads`, `rank_learned_channels`). The given
model is never changed: gradients flow to views of its weights inside a copy of its modules.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from slimllm.core.attention_unit import UnitName
from slimllm.core.errors import Refusal
from slimllm.core.shapes import LayerShape
from slimllm.core.types import Progress, UnitScores
from slimllm.methods.interface import Learning, Options
from slimllm.models.families import Family, Site, linear_of
from slimllm.models.loading import Subject
from slimllm.models.shared_copy import share_model

# The number of texts that LLM-Pruner uses, and the tokens of each.
TAYLOR_SAMPLES, TAYLOR_LENGTH = 10, 64


def learn_from_gradients(
    subject: Subject, tokens: Tensor, options: Options, unit: UnitName, seed: int
) -> Learning:
    """Learn the importance of every unit from the first of the calibration tokens (S, T).

    Yield `Progress`, and return one `UnitScores` per layer.
    """
    yield Progress("gradients", 0, 1, "One backward pass for the gradients")
    return taylor_scores(subject, tokens[:TAYLOR_SAMPLES, :TAYLOR_LENGTH])


def taylor_scores(subject: Subject, tokens: Tensor) -> tuple[UnitScores, ...]:
    """Score every unit by first-order Taylor importance (arXiv 2305.11627, element-wise) on tokens (S, T).

    The score is Σ |w · ∂loss/∂w| over all weights of a unit, for every layer's heads (H,) and channels (c,),
    in float32 on the CPU. A head has its rows of q, its columns of o and an equal share of the k and v rows
    that it reads. A channel has its rows of the writers and its column of the reader. Biases do not count.
    Raise `Refusal` if a gradient is not finite.
    """
    found = loss_gradients(subject, tokens)
    scores = []
    for index, shape in enumerate(subject.shape.layers):
        products = {}
        for name in site_linears(subject.family):
            weight, grad = found.pop(full_name(subject.family, index, name))
            products[name] = (weight.float() * grad).abs()  # (rows, columns)
        layer = layer_scores(products, subject.family, shape, subject.shape.head_size)
        scores.append(UnitScores(layer.heads.cpu(), layer.channels.cpu()))
    if not all(
        torch.isfinite(layer.heads).all() and torch.isfinite(layer.channels).all() for layer in scores
    ):
        raise Refusal(
            "The gradients of this model are not finite on this text; load it with --dtype float32."
        )
    return tuple(scores)


def loss_gradients(subject: Subject, tokens: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Return every decoder linear's weight and the gradient of the mean loss over tokens (S, T), by name.

    Gradients are in float32. Samples are processed one by one, so that only one sample's activations are in
    memory beside the gradients.
    """
    first = subject.beginning.predicted_from
    # The caller may be in inference mode, which has no gradients.
    with torch.inference_mode(False), torch.enable_grad():
        # functional_call swaps parameters inside the modules that it is given, so it gets a copy.
        model = share_model(subject.model)
        views = {
            full_name(subject.family, index, name): linear_of(layer, name).weight.detach().requires_grad_()
            for index, layer in enumerate(subject.layers)
            for name in site_linears(subject.family)
        }
        total = {name: torch.zeros_like(view, dtype=torch.float32) for name, view in views.items()}
        for sample in tokens.to(subject.device).clone().split(1):
            inputs = {"input_ids": sample, "use_cache": False}
            logits = torch.func.functional_call(model, views, kwargs=inputs).logits  # (1, T, vocab)
            logits = logits[0, first - 1 : -1]  # (predicted tokens, vocab)
            loss = torch.nn.functional.cross_entropy(logits.float(), sample[0, first:])
            grads = torch.autograd.grad(loss, list(views.values()))
            for name, grad in zip(views, grads, strict=True):
                total[name].add_(grad.float(), alpha=1 / len(tokens))
    return {name: (view.detach(), total[name]) for name, view in views.items()}


def site_linears(family: Family) -> list[str]:
    """Return the linear layers that write or read a prunable space, by their names inside a layer."""
    return [name for site in (family.attention, family.mlp) for name in (*site.writers, site.reader)]


def full_name(family: Family, index: int, name: str) -> str:
    """Return the name of a linear layer's weight in the whole model."""
    return f"{family.layers}.{index}.{name}.weight"


def layer_scores(products: Mapping[str, Tensor], family: Family, shape: LayerShape, size: int) -> UnitScores:
    """Return the sums of one layer's |w · g| (rows, columns) over its heads (H,) and channels (c,).

    `products` holds them by linear layer; `size` is the head size.
    """
    counts = {"q": shape.heads, "k": shape.groups, "v": shape.groups}
    sizes = {"q": size, "k": size, "v": shape.values}
    heads = products[family.attention.reader].sum(0).view(shape.heads, -1).sum(1)  # (o, H·e) → (H,)
    per_group = shape.heads // shape.groups
    for letter, values in sum_written(products, family.attention, counts, sizes):
        heads += values if letter == "q" else values.repeat_interleave(per_group) / per_group  # (G,) → (H,)
    channels = products[family.mlp.reader].sum(0)  # (o, c) → (c,)
    for _, values in sum_written(products, family.mlp, {"c": shape.channels}, {"c": 1}):
        channels += values  # (c,)
    return UnitScores(heads, channels)


def sum_written(
    products: Mapping[str, Tensor], site: Site, counts: Mapping[str, int], sizes: Mapping[str, int]
) -> list[tuple[str, Tensor]]:
    """Return the letter and the sums (n,) over the rows of each unit, for every block of a site's writers.

    A block has `counts` units of its letter, of `sizes` rows each.
    """
    blocks = []
    for name, letters in site.writers.items():
        lengths = [counts[letter] * sizes[letter] for letter in letters]
        rows = products[name].sum(1).split(lengths)  # (n · size,) each
        blocks += [
            (letter, row.view(counts[letter], -1).sum(1)) for letter, row in zip(letters, rows, strict=True)
        ]
    return blocks
