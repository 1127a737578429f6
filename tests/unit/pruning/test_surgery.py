"""A sliced model equals the same model with those units silenced: each family, both units, every way of
calling it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from slimllm.core.types import Moments
from slimllm.methods.recovery import cut_columns
from slimllm.models.families import linear_of, shape_of
from slimllm.models.loading import Subject
from slimllm.models.shared_copy import share_model
from slimllm.pruning.surgery import slice_attention, slice_mlp
from tests.support.tiny_models import FAMILY_CONFIGS, tiny_subject

HEADS = {
    "kv-group": [torch.tensor([0, 1, 4, 5]), torch.tensor([2, 3]), torch.arange(6)],
    "query-head": [torch.tensor([0, 3, 4]), torch.tensor([1, 2, 5]), torch.arange(6)],
}
CHANNELS = [torch.arange(0, 96, 3), torch.arange(5, 90), torch.arange(96)]
NOTHING = Moments(torch.zeros(0), torch.zeros(0, 0), 0)


def masked(subject: Subject, heads: list[torch.Tensor]) -> Any:
    """The dense model with the readers' columns of all cut units set to zero."""
    model = copy.deepcopy(subject.model)
    family, size = subject.family, subject.shape.head_size
    for layer, kept_heads, kept_channels in zip(
        model.get_submodule(family.layers), heads, CHANNELS, strict=True
    ):
        for name, kept in (
            (family.attention.reader, (kept_heads[:, None] * size + torch.arange(size)).flatten()),
            (family.mlp.reader, kept_channels),
        ):
            weight = linear_of(layer, name).weight.data
            silent = torch.ones(weight.shape[1], dtype=torch.bool)
            silent[kept] = False
            weight[:, silent] = 0
    return model


def sliced(subject: Subject, heads: list[torch.Tensor]) -> Any:
    """The model with those units cut out."""
    model = share_model(subject.model)
    family, size = subject.family, subject.shape.head_size
    layers = model.get_submodule(family.layers)
    for layer, shape, kept_heads, kept_channels in zip(
        layers, subject.shape.layers, heads, CHANNELS, strict=True
    ):
        if len(kept_heads) < shape.heads:
            weight = linear_of(layer, family.attention.reader).weight
            repair = cut_columns(weight, NOTHING, (kept_heads[:, None] * size + torch.arange(size)).flatten())
            slice_attention(layer, family, shape, size, kept_heads, repair)
        repair = cut_columns(linear_of(layer, family.mlp.reader).weight, NOTHING, kept_channels)
        slice_mlp(layer, family, shape, kept_channels, repair)
    return model


def head_choice(subject: Subject, unit: str) -> list[torch.Tensor]:
    if subject.shape.layers[0].groups == 6:  # multi-head attention: any heads are whole groups
        return HEADS["query-head"]
    return HEADS[unit]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("unit", ["kv-group", "query-head"])
@pytest.mark.parametrize("family", list(FAMILY_CONFIGS))
def test_families_sliced_equals_masked(family: str, unit: str, attention: str) -> None:
    subject = tiny_subject(family)
    if attention == "sdpa" and not subject.model._supports_sdpa:
        pytest.skip(f"transformers offers no sdpa for {family}")
    subject.model.set_attn_implementation(attention)
    heads = head_choice(subject, unit)
    one, other = masked(subject, heads), sliced(subject, heads)
    tokens = torch.randint(0, 250, (3, 40), generator=torch.Generator().manual_seed(1))
    padding = torch.ones_like(tokens)
    padding[0, :9] = 0  # left padding
    with torch.inference_mode():
        for mask in (None, padding):
            a = one(input_ids=tokens, attention_mask=mask, use_cache=False).logits
            b = other(input_ids=tokens, attention_mask=mask, use_cache=False).logits
            seen = slice(None) if mask is None else mask.bool()
            torch.testing.assert_close(a[seen], b[seen], atol=1e-4, rtol=1e-4)
        for use_cache in (True, False):
            settings = {"max_new_tokens": 12, "do_sample": False, "use_cache": use_cache, "pad_token_id": 255}
            x = one.generate(input_ids=tokens, attention_mask=padding, **settings)
            y = other.generate(input_ids=tokens, attention_mask=padding, **settings)
            assert torch.equal(x, y)


@pytest.mark.parametrize(
    ("heads", "groups"), [(8, 8), (8, 4), (8, 2), (8, 1), (6, 3), (9, 3), (14, 2), (24, 8)]
)
def test_families_grouped_heads_slice_exactly(heads: int, groups: int) -> None:
    subject = tiny_subject(num_attention_heads=heads, num_key_value_heads=groups, hidden_size=heads * 8)
    per_group = heads // groups
    for unit in subject.shape.units:
        if unit == "kv-group":
            kept = torch.arange(heads)[per_group:] if groups > 1 else torch.arange(heads)
        else:
            kept = torch.arange(heads)[torch.arange(heads) % per_group != 0]
        one, other = masked(subject, [kept] * 3), sliced(subject, [kept] * 3)
        tokens = torch.randint(0, 250, (2, 20), generator=torch.Generator().manual_seed(2))
        with torch.inference_mode():
            torch.testing.assert_close(
                one(input_ids=tokens).logits, other(input_ids=tokens).logits, atol=1e-4, rtol=1e-4
            )


def test_the_dense_model_and_its_tensors_are_untouched(any_subject: Subject) -> None:
    before = {name: value.clone() for name, value in any_subject.model.state_dict().items()}
    model = sliced(any_subject, head_choice(any_subject, "kv-group"))
    for name, value in any_subject.model.state_dict().items():
        assert torch.equal(value, before[name])
    assert shape_of(any_subject.model, any_subject.family) == any_subject.shape
    assert model.get_input_embeddings().weight is any_subject.model.get_input_embeddings().weight


def test_sliced_tensors_are_smaller_contiguous_and_own_their_memory(any_subject: Subject) -> None:
    model = sliced(any_subject, head_choice(any_subject, "kv-group"))
    shape = shape_of(model, any_subject.family)
    assert shape.decoder < any_subject.shape.decoder
    assert shape.widths[0][2] == len(CHANNELS[0])
    for layer in model.get_submodule(any_subject.family.layers)[:2]:
        reader = linear_of(layer, any_subject.family.mlp.reader)
        assert reader.weight.is_contiguous()
        assert reader.weight.untyped_storage().nbytes() == reader.weight.numel() * 4
        assert reader.weight.shape == (reader.out_features, reader.in_features)


def test_parameters_are_counted_as_the_costs_say(any_subject: Subject) -> None:
    for layer, shape in zip(any_subject.layers, any_subject.shape.layers, strict=True):
        assert shape.dense == sum(p.numel() for p in layer.parameters())
    model = sliced(any_subject, head_choice(any_subject, "kv-group"))
    for shape, layer in zip(
        any_subject.shape.layers, shape_of(model, any_subject.family).layers, strict=True
    ):
        assert layer.dense == shape.parameters(layer.heads, layer.groups, layer.channels)


def test_tied_embeddings_count_once() -> None:
    tied = tiny_subject("llama", tie_word_embeddings=True)
    loose = tiny_subject("llama", tie_word_embeddings=False)
    assert loose.shape.parameters - tied.shape.parameters == 256 * 48
