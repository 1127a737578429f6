"""Claims about Taylor scores: they equal plain autograd on a copy and finite differences; the model stays as
it is."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from slimllm.core.errors import Refusal
from slimllm.core.types import Moments
from slimllm.methods.recovery import cut_columns
from slimllm.methods.taylor import loss_gradients, taylor_scores
from slimllm.models.families import linear_of
from slimllm.models.loading import Subject, make_subject
from slimllm.models.shared_copy import share_model
from slimllm.pruning.surgery import slice_attention, slice_mlp
from tests.support.tiny_models import tiny_model, tiny_subject, tiny_tokenizer

HEADS, GROUPS, SIZE, CHANNELS = 6, 3, 8, 96  # of the tiny models
NOTHING = Moments(torch.zeros(0), torch.zeros(0, 0), 0)

pytestmark = pytest.mark.usefixtures("one_thread")


def some_tokens(samples: int = 3, length: int = 12) -> Tensor:
    return torch.randint(0, 255, (samples, length), generator=torch.Generator().manual_seed(0))


def naive_products(found: Subject, tokens: Tensor) -> dict[str, Tensor]:
    """|w · g| of every parameter from one backward of the library's own loss on a copy, all samples at
    once."""
    model = copy.deepcopy(found.model).requires_grad_(True)
    model(input_ids=tokens, labels=tokens).loss.backward()
    return {name: (p * p.grad).abs().detach() for name, p in model.named_parameters()}


def writer_rows(products: dict[str, Tensor], index: int, groups: int) -> dict[str, Tensor]:
    """The rows of each writing space of one layer, whatever the family calls them."""
    start = f"model.layers.{index}."
    if f"{start}self_attn.qkv_proj.weight" in products:
        fused = products[f"{start}self_attn.qkv_proj.weight"]
        q, kv = HEADS * SIZE, groups * SIZE
        both = products[f"{start}mlp.gate_up_proj.weight"]
        return {
            "q": fused[:q],
            "k": fused[q : q + kv],
            "v": fused[q + kv :],
            "gate": both[:CHANNELS],
            "up": both[CHANNELS:],
        }
    names = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj"}
    if f"{start}mlp.fc1.weight" in products:
        names["up"] = "mlp.fc1"
    else:
        names |= {"gate": "mlp.gate_proj", "up": "mlp.up_proj"}
    return {letter: products[f"{start}{name}.weight"] for letter, name in names.items()}


def naive_scores(found: Subject, tokens: Tensor, index: int) -> tuple[list[float], list[float]]:
    """The heads' and channels' sums of one layer, unit by unit."""
    products = naive_products(found, tokens)
    groups = found.shape.layers[index].groups
    rows = writer_rows(products, index, groups)
    family, per = found.family, HEADS // groups
    start = f"model.layers.{index}."
    o, down = (products[f"{start}{site.reader}.weight"] for site in (family.attention, family.mlp))
    heads, channels = [], []
    for h in range(HEADS):
        mine, read = slice(h * SIZE, (h + 1) * SIZE), slice(h // per * SIZE, (h // per + 1) * SIZE)
        shared = float(rows["k"][read].sum() + rows["v"][read].sum()) / per
        heads.append(float(rows["q"][mine].sum() + o[:, mine].sum()) + shared)
    for c in range(CHANNELS):
        written = sum(float(rows[name][c].sum()) for name in ("gate", "up") if name in rows)
        channels.append(float(down[:, c].sum()) + written)
    return heads, channels


def test_oracle_taylor_of_every_family(any_subject: Subject) -> None:
    tokens = some_tokens()
    found = taylor_scores(any_subject, tokens)
    assert len(found) == 3
    for index in (0, 2):
        heads, channels = naive_scores(any_subject, tokens, index)
        torch.testing.assert_close(found[index].heads, torch.tensor(heads), rtol=2e-4, atol=1e-6)
        torch.testing.assert_close(found[index].channels, torch.tensor(channels), rtol=2e-4, atol=1e-6)


def test_oracle_gradients_are_finite_differences_of_the_mean_loss() -> None:
    found, tokens, step = tiny_subject("llama"), some_tokens(), 3e-3
    products = loss_gradients(found, tokens)
    for name in ("model.layers.1.self_attn.k_proj.weight", "model.layers.0.mlp.down_proj.weight"):
        weight, grad = products[name]
        row, column = divmod(int(grad.abs().argmax()), grad.shape[1])  # where rounding hides the least
        model = copy.deepcopy(found.model)
        losses = []
        for change in (step, -2 * step):
            model.get_parameter(name)[row, column] += change
            logits = model(input_ids=tokens).logits[:, :-1].flatten(0, 1)
            losses.append(float(torch.nn.functional.cross_entropy(logits, tokens[:, 1:].flatten())))
        assert torch.equal(weight, found.model.get_parameter(name))
        assert float(grad[row, column]) == pytest.approx((losses[0] - losses[1]) / (2 * step), rel=1e-2)


def test_only_decoder_linears_get_gradients() -> None:
    found = tiny_subject("llama")
    linears = [n for n, m in found.model.model.layers.named_modules() if isinstance(m, torch.nn.Linear)]
    assert sorted(loss_gradients(found, some_tokens())) == sorted(f"model.layers.{n}.weight" for n in linears)


def test_taylor_leaves_the_model_bit_for_bit_as_it_was(any_subject: Subject) -> None:
    model: Any = any_subject.model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    same = dict(model.named_parameters())
    taylor_scores(any_subject, some_tokens(1, 6))
    assert dict(model.named_parameters()).keys() == same.keys()
    for name, parameter in model.named_parameters():
        assert parameter is same[name]
        assert not parameter.requires_grad
        assert parameter.grad is None
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert not model.training


def test_the_shared_modules_never_hold_other_parameters_while_gradients_run() -> None:
    """Other threads may use the dense model at the same time, and two runs must not restore each other's."""
    found = tiny_subject("llama")
    watched = linear_of(found.layers[1], "mlp.down_proj")
    own, seen = watched.weight, []

    def peek(*_: Any) -> None:
        seen.append(watched.weight is own)

    handle = torch.nn.modules.module.register_module_forward_pre_hook(peek)
    try:
        loss_gradients(found, some_tokens(1, 6))
    finally:
        handle.remove()
    assert seen
    assert all(seen)


def test_taylor_is_the_mean_over_samples_not_their_sum() -> None:
    found, tokens = tiny_subject("llama"), some_tokens(1)
    once, thrice = taylor_scores(found, tokens), taylor_scores(found, tokens.repeat(3, 1))
    for a, b in zip(once, thrice, strict=True):
        torch.testing.assert_close(a.heads, b.heads)
        torch.testing.assert_close(a.channels, b.channels)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_taylor_works_where_gradients_are_switched_off(context: Any) -> None:
    found = tiny_subject("llama")
    expected = taylor_scores(found, some_tokens())
    with context():
        scores = taylor_scores(found, some_tokens())
        assert not torch.is_grad_enabled()
    for a, b in zip(scores, expected, strict=True):
        assert torch.equal(a.heads, b.heads)
        assert not a.heads.requires_grad


def test_taylor_of_a_bfloat16_model_is_float32_and_close() -> None:
    tokens = some_tokens()
    exact = taylor_scores(tiny_subject("llama"), tokens)
    rough = taylor_scores(make_subject("tiny", tiny_model("llama").bfloat16(), tiny_tokenizer()), tokens)
    for a, b in zip(exact, rough, strict=True):
        assert b.heads.dtype == b.channels.dtype == torch.float32
        torch.testing.assert_close(b.heads, a.heads, rtol=0.1, atol=1e-3)
        assert float(torch.corrcoef(torch.stack((a.channels, b.channels)))[0, 1]) > 0.99


def test_oracle_taylor_of_a_model_that_is_already_pruned() -> None:
    """Widths differ from layer to layer: each layer is scored by its own."""
    dense = tiny_subject("llama")
    model = share_model(dense.model)
    layer, shape = model.model.layers[1], dense.shape.layers[1]
    heads, channels = torch.tensor([0, 3, 4]), torch.arange(10, 50)
    columns = (heads[:, None] * SIZE + torch.arange(SIZE)).flatten()
    o, down = (linear_of(dense.layers[1], name).weight for name in ("self_attn.o_proj", "mlp.down_proj"))
    slice_attention(layer, dense.family, shape, SIZE, heads, cut_columns(o, NOTHING, columns))
    slice_mlp(layer, dense.family, shape, channels, cut_columns(down, NOTHING, channels))
    narrow = make_subject("narrow", model, dense.tokenizer)
    found, products = taylor_scores(narrow, some_tokens()), naive_products(narrow, some_tokens())
    assert [len(layer.heads) for layer in found] == [6, 3, 6]
    assert [len(layer.channels) for layer in found] == [96, 40, 96]
    start = "model.layers.1."
    expected = products[f"{start}self_attn.o_proj.weight"].sum(0).view(3, SIZE).sum(1)
    for name in ("q", "k", "v"):  # one head per group: nothing is shared
        expected += products[f"{start}self_attn.{name}_proj.weight"].sum(1).view(3, SIZE).sum(1)
    torch.testing.assert_close(found[1].heads, expected, rtol=2e-4, atol=1e-6)


def test_gradients_that_are_not_finite_are_refused_in_a_sentence() -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = torch.nan
    with pytest.raises(Refusal, match=r"not finite.*--dtype float32"):
        taylor_scores(make_subject("tiny", model, tiny_tokenizer()), some_tokens(1, 6))
