"""Claims about values narrower than heads: a model that lost value columns equals one in which they are
silent, costs what its shape says, and is stored as shim, or filled up with zeros as a stock class.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import slimllm
from slimllm.core.errors import Refusal
from slimllm.core.types import LayerReport, Plan, Repair
from slimllm.export import checkpoint, formats, verification
from slimllm.export.formats import Form
from slimllm.export.transformers_versions import with_older_keys
from slimllm.models import loading
from slimllm.models.families import FAMILIES, family_of, linear_of, narrows_values, shape_of, value_writer
from slimllm.models.loading import Pruned, Subject
from slimllm.models.modeling_slim import Placed, Selected, Widened
from slimllm.models.shared_copy import share_model
from slimllm.pruning.surgery import slice_attention, slice_mlp, slice_values
from tests.support.exports_on_disk import Stored, stored
from tests.support.tiny_models import FAMILY_CONFIGS, tiny_subject

SIZE = 8
KEPT = (5, 8, 2)  # value columns kept in every head of the three layers
EIGHT_IN_ONE = {"num_attention_heads": 8, "num_key_value_heads": 1}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    **{family: (family, {}) for family in FAMILY_CONFIGS},
    "llama tied": ("llama", {"tie_word_embeddings": True}),
    "llama 8/1": ("llama", EIGHT_IN_ONE),
    "llama biases": ("llama", {"attention_bias": True}),
    "qwen2 8/1": ("qwen2", EIGHT_IN_ONE),
    "gemma 8/1": ("gemma", EIGHT_IN_ONE),
}


def build(name: str) -> Subject:
    family, changes = MODELS[name]
    return tiny_subject(family, **changes)


def choices(subject: Subject, kept: tuple[int, ...] = KEPT) -> list[Tensor]:
    """Value columns (G, v) of every layer, other ones in each group."""
    dice = torch.Generator().manual_seed(3)
    return [
        torch.stack([torch.randperm(SIZE, generator=dice)[:v].sort().values for _ in range(layer.groups)])
        for layer, v in zip(subject.shape.layers, kept, strict=True)
    ]


def inputs_of(kept: Tensor, heads: int) -> Tensor:
    """The inputs of o_proj that hold these columns (G, v), by the meaning of grouped heads alone."""
    each = heads // len(kept)
    return torch.tensor([h * SIZE + j for h in range(heads) for j in kept[h // each].tolist()])


def biases(subject: Subject) -> list[Tensor]:
    dice = torch.Generator().manual_seed(4)
    return [torch.randn(subject.shape.hidden, generator=dice) for _ in subject.layers]


def masked(subject: Subject, kept: list[Tensor], bias: bool = False) -> Any:
    """The dense model whose o_proj is deaf to all columns but the kept ones, with the bias of a repair."""
    model = copy.deepcopy(subject.model)
    for layer, columns, extra in zip(
        model.get_submodule(subject.family.layers), kept, biases(subject), strict=True
    ):
        reader = linear_of(layer, subject.family.attention.reader)
        deaf = torch.ones(reader.in_features, dtype=torch.bool)
        deaf[inputs_of(columns, reader.in_features // SIZE)] = False
        reader.weight.data[:, deaf] = 0
        if bias:
            reader.bias = torch.nn.Parameter(extra + (0 if reader.bias is None else reader.bias.data))
    return model


def narrowed(subject: Subject, kept: list[Tensor], bias: bool = False) -> Subject:
    """The subject without all value columns but the kept ones."""
    slim = dataclasses.replace(subject, model=share_model(subject.model))
    for layer, shape, columns, extra in zip(
        slim.layers, subject.shape.layers, kept, biases(subject), strict=True
    ):
        weight = linear_of(layer, subject.family.attention.reader).weight
        repair = Repair(weight[:, inputs_of(columns, shape.heads)], extra if bias else None)
        slice_values(layer, subject.family, shape, SIZE, columns, repair)
    return dataclasses.replace(slim, shape=shape_of(slim.model, slim.family))


def batch() -> dict[str, Tensor]:
    """Three rows of tokens, one of them padded on the left."""
    tokens = torch.randint(0, 250, (3, 24), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(tokens)
    mask[0, :7] = 0
    return {"input_ids": tokens, "attention_mask": mask}


def assert_same(one: Any, other: Any) -> None:
    """Both compute the same, read at once, and step by step with a cache."""
    given = batch()
    seen = given["attention_mask"].bool()
    with torch.inference_mode():
        a, b = (model(**given, use_cache=False).logits[seen] for model in (one, other))
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
        settings = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 255}
        texts = [m.generate(**given, **settings, use_cache=c) for m in (one, other) for c in (True, False)]
    assert all(torch.equal(texts[0], text) for text in texts[1:])


# The sliced model ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", MODELS)
def test_narrowed_equals_masked(name: str, attention: str) -> None:
    subject = build(name)
    if attention == "sdpa" and not subject.model._supports_sdpa:
        pytest.skip(f"transformers offers no sdpa for {name}")
    subject.model.set_attn_implementation(attention)
    kept = choices(subject)
    slim = narrowed(subject, kept, bias=True)
    assert_same(masked(subject, kept, bias=True), slim.model)
    reader = linear_of(slim.layers[0], subject.family.attention.reader)
    assert reader.weight.shape == (subject.shape.hidden, subject.shape.heads * 5)
    writer = linear_of(slim.layers[0], value_writer(subject.family))
    lost = subject.shape.groups * (SIZE - 5)
    assert (
        writer.weight.shape[0]
        == linear_of(subject.layers[0], value_writer(subject.family)).out_features - lost
    )
    assert (type(writer), type(reader)) == (Widened, Selected)
    assert not isinstance(
        linear_of(slim.layers[1], value_writer(subject.family)), Placed
    )  # it keeps all columns


@pytest.mark.parametrize("name", MODELS)
def test_the_dense_model_stays_bit_for_bit(name: str) -> None:
    subject = build(name)
    before = {key: value.clone() for key, value in subject.model.state_dict().items()}
    modules = {key: type(module) for key, module in subject.model.named_modules()}
    slim = narrowed(subject, choices(subject), bias=True)
    after = subject.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert {key: type(module) for key, module in subject.model.named_modules()} == modules
    assert shape_of(subject.model, subject.family) == subject.shape
    cut = (value_writer(subject.family), subject.family.attention.reader)
    dense = dict(subject.model.named_parameters())
    for key, parameter in slim.model.named_parameters():
        if any(f"{linear}." in key for linear in cut):
            assert parameter.is_contiguous()
            assert parameter.untyped_storage().nbytes() == parameter.nbytes
        else:
            assert parameter is dense[key]


@pytest.mark.parametrize("name", MODELS)
def test_the_shape_says_what_there_is(name: str) -> None:
    subject = build(name)
    slim = narrowed(subject, choices(subject), bias=True)
    assert slim.shape.widths == subject.shape.widths
    assert slim.shape.head_size == SIZE
    assert slim.shape.parameters == sum(p.numel() for p in slim.model.parameters())
    for layer, shape, dense, v in zip(
        slim.layers, slim.shape.layers, subject.shape.layers, KEPT, strict=True
    ):
        assert (dense.values, shape.values) == (SIZE, v)
        assert shape.value_cost == dense.value_cost
        added = 0 if dense.attention_bias else subject.shape.hidden
        assert shape.dense == sum(p.numel() for p in layer.parameters())
        assert shape.dense == dense.dense - (SIZE - v) * dense.value_cost + added
        assert shape.fixed == dense.fixed + added
        assert shape.head_cost == dense.head_cost - (SIZE - v) * subject.shape.hidden
        assert shape.channel_cost == dense.channel_cost


def test_one_value_column_costs_its_rows_with_their_biases_and_its_inputs() -> None:
    hidden = 48
    assert tiny_subject("llama").shape.layers[0].value_cost == 3 * hidden + 6 * hidden
    assert tiny_subject("qwen2").shape.layers[0].value_cost == 3 * (hidden + 1) + 6 * hidden
    assert tiny_subject("phi3", **EIGHT_IN_ONE).shape.layers[0].value_cost == hidden + 8 * hidden


@pytest.mark.parametrize("name", ["llama", "qwen2", "phi3", "phi"])
def test_a_narrowed_layer_can_lose_more_columns_and_then_heads(name: str) -> None:
    subject = build(name)
    family, hidden = subject.family, subject.shape.hidden
    first = choices(subject, (6, 6, 6))
    slim = narrowed(subject, first)
    for layer, shape in zip(slim.layers, slim.shape.layers, strict=True):
        again = torch.tensor([[0, 2, 5], [1, 2, 4], [3, 4, 5], [0, 1, 2], [2, 3, 5], [0, 4, 5]])[
            : shape.groups
        ]
        each = shape.heads // shape.groups
        columns = [h * 6 + j for h in range(shape.heads) for j in again[h // each].tolist()]
        repair = Repair(linear_of(layer, family.attention.reader).weight[:, columns])
        slice_values(layer, family, shape, SIZE, again, repair)
    twice = [columns.gather(1, again) for columns in first]
    assert_same(masked(subject, twice), slim.model)
    slim = dataclasses.replace(slim, shape=shape_of(slim.model, family))
    assert {layer.values for layer in slim.shape.layers} == {3}
    one, each = masked(subject, twice), subject.shape.heads // subject.shape.groups
    heads = torch.arange(each, subject.shape.heads)  # the first group goes
    for layer, deaf, shape in zip(
        slim.layers, one.get_submodule(family.layers), slim.shape.layers, strict=True
    ):
        linear_of(deaf, family.attention.reader).weight.data[:, : each * SIZE] = 0
        repair = Repair(linear_of(layer, family.attention.reader).weight[:, 3 * each :], torch.zeros(hidden))
        slice_attention(layer, family, shape, SIZE, heads, repair)
    assert_same(one, slim.model)
    after = shape_of(slim.model, family)
    assert after.parameters == sum(p.numel() for p in slim.model.parameters())
    assert {(s.heads, s.groups, s.values) for s in after.layers} == {(len(heads), len(heads) // each, 3)}


def test_a_linear_picks_its_own_part_of_what_has_the_shape_of_the_whole() -> None:
    subject = build("phi3")
    slim = narrowed(subject, choices(subject))
    for name in (value_writer(subject.family), subject.family.attention.reader):
        whole, linear = linear_of(subject.layers[0], name), linear_of(slim.layers[0], name)
        assert isinstance(linear, Placed)
        assert (linear.in_features, linear.out_features) == (whole.in_features, whole.out_features)
        assert torch.equal(linear.own(whole.weight), linear.weight)


def test_every_family_can_have_narrow_values() -> None:
    assert all(map(narrows_values, FAMILIES.values()))
    row = family_of(tiny_subject().model.config, "tiny")
    none = dataclasses.replace(row.attention, writers={"self_attn.q_proj": "q", "self_attn.kv_proj": "k"})
    assert not narrows_values(dataclasses.replace(row, attention=none))


# Stored ----------------------------------------------------------------------------------------------------


def prune(subject: Subject, *, kept: tuple[int, ...] = KEPT, bias: bool = False, cut: bool = True) -> Pruned:
    """The subject with narrow values, and with `cut` layers of different widths besides."""
    family, slim = subject.family, dataclasses.replace(subject, model=share_model(subject.model))
    if cut:
        layer, shape = slim.layers[2], subject.shape.layers[2]
        each = shape.heads // shape.groups
        heads = torch.arange(each if shape.groups > 1 else 0, shape.heads)
        inputs = (heads[:, None] * SIZE + torch.arange(SIZE)).flatten()
        repair = Repair(linear_of(layer, family.attention.reader).weight[:, inputs])
        slice_attention(layer, family, shape, SIZE, heads, repair)
        channels = torch.arange(3, 60)
        repair = Repair(linear_of(layer, family.mlp.reader).weight[:, channels])
        slice_mlp(layer, family, shape, channels, repair)
        slim = dataclasses.replace(slim, shape=shape_of(slim.model, family))
    done = narrowed(slim, choices(slim, kept), bias)
    widths = done.shape.widths
    heads, channels = tuple(row[0] for row in widths), tuple(row[2] for row in widths)
    plan = Plan(subject.source, subject.shape.family, subject.shape.widths, heads, channels)
    reports = (LayerReport(6, 96, (), (), 0.1, 0.1),) * 3
    return Pruned(done, plan, reports, 0.0, 0.0)


@dataclasses.dataclass(frozen=True)
class Case:
    """One model with narrow values, and what it should be stored as."""

    name: str
    tier: str
    stored_as: str
    bias: bool = False
    cut: bool = True
    kept: tuple[int, ...] = KEPT

    def pruned(self) -> Pruned:
        return prune(build(self.name), kept=self.kept, bias=self.bias, cut=self.cut)


SHIMS = {f"{name} shim": Case(name, "shim", "Slim", bias=True) for name in MODELS}
CASES = {
    **SHIMS,
    "llama alike": Case("llama", "shim", "Slim", cut=False, kept=(4, 4, 4)),
    "llama padded": Case("llama", "padded", "Llama"),
    "llama padded alike": Case("llama", "padded", "Llama", cut=False, kept=(4, 4, 4)),
    "llama padded biases": Case("llama biases", "padded", "Llama", bias=True),
    "llama padded 8/1": Case("llama 8/1", "padded", "Llama"),
    "mistral padded to a twin": Case("mistral", "padded", "Granite", bias=True),
    "qwen2 padded": Case("qwen2", "padded", "Qwen2"),
    "gemma padded tied": Case("gemma", "padded", "Gemma"),
    "phi3 padded": Case("phi3", "padded", "Phi3"),
    "phi padded": Case("phi", "padded", "Phi", bias=True),
}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Stored]:
    pruned = {name: case.pruned() for name, case in CASES.items()}
    wanted = {name: "auto" if case.tier == "shim" else case.tier for name, case in CASES.items()}
    return stored(tmp_path_factory.mktemp("values"), pruned, wanted, again=SHIMS)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_what_is_read_elsewhere_is_what_was_pruned(shelf: dict[str, Stored], name: str) -> None:
    case, stored = CASES[name], shelf[name]
    config = json.loads((stored.folder / "config.json").read_text())
    assert (stored.form.tier, config["architectures"]) == (case.tier, [f"{case.stored_as}ForCausalLM"])
    difference = verification.compare_reload(stored.pruned.subject, stored.reload)
    assert difference <= (1e-4 if case.tier == "padded" else 1e-6)
    tensors = load_file(stored.folder / "model.safetensors")
    floats = sum(tensor.numel() for tensor in tensors.values() if tensor.is_floating_point())
    if case.tier == "shim":
        assert floats == stored.pruned.subject.shape.parameters
        assert stored.form.words.startswith("Because values narrower than heads")
    else:
        assert floats > stored.pruned.subject.shape.parameters
        assert all(tensor.is_floating_point() for tensor in tensors.values())
        assert "slim" not in config


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_it_is_read_here_without_running_its_code(shelf: dict[str, Stored], name: str) -> None:
    stored, case = shelf[name], CASES[name]
    subject = loading.load_model(str(stored.folder), device="cpu", dtype="float32")
    assert verification.compare_reload(subject, stored.reload) <= 1e-6
    if case.tier == "shim":
        assert subject.shape == stored.pruned.subject.shape
        assert_same(stored.pruned.subject.model, subject.model)
    else:
        assert {layer.values for layer in subject.shape.layers} == {SIZE}


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIMS)
def test_a_second_round_changes_nothing(shelf: dict[str, Stored], name: str, tmp_path: Path) -> None:
    stored = shelf[name]
    subject = loading.load_model(str(stored.folder), device="cpu", dtype="float32")
    same = dataclasses.replace(stored.pruned, subject=subject)
    checkpoint.write_checkpoint(formats.choose_format(same), same, tmp_path)
    for second in (stored.second, tmp_path):  # by plain transformers, by this program
        for file in ("model.safetensors", "modeling_slim.py"):
            assert (second / file).read_bytes() == (stored.folder / file).read_bytes()
        first, again = (json.loads((f / "config.json").read_text()) for f in (stored.folder, second))
        assert first == with_older_keys(again)  # which plain transformers leaves out


@pytest.mark.slow
def test_padding_puts_columns_back_where_they_were(shelf: dict[str, Stored]) -> None:
    for name in ("llama padded alike", "qwen2 padded"):
        subject = build(CASES[name].name)
        state = load_file(shelf[name].folder / "model.safetensors")
        columns = choices(subject, CASES[name].kept)[0]
        rows = torch.tensor([g * SIZE + j for g, js in enumerate(columns.tolist()) for j in js])
        silent = torch.ones(len(columns) * SIZE, dtype=torch.bool)
        silent[rows] = False
        attention: Any = subject.layers[0].get_submodule("self_attn")
        for leaf, dense in attention.v_proj.state_dict().items():
            stored = state[f"model.layers.0.self_attn.v_proj.{leaf}"]
            assert torch.equal(stored[rows], dense[rows])
            assert not stored[silent].any()
        stored, inputs = state["model.layers.0.self_attn.o_proj.weight"], inputs_of(columns, 6)
        assert torch.equal(stored[:, inputs], attention.o_proj.weight[:, inputs])
        assert torch.count_nonzero(stored) == stored[:, inputs].numel()


def test_half_precision_leaves_the_places_whole(tmp_path: Path) -> None:
    subject = tiny_subject("llama", hidden_size=64, num_attention_heads=64, num_key_value_heads=64)
    pruned = prune(subject, cut=False, kept=(7, 7, 7))
    checkpoint.write_checkpoint(formats.choose_format(pruned), pruned, tmp_path)
    for dtype in ("bfloat16", "float16"):
        loaded = loading.load_model(str(tmp_path), device="cpu", dtype=dtype)
        for mine, theirs in zip(pruned.subject.layers, loaded.layers, strict=True):
            one, other = (linear_of(layer, "self_attn.o_proj") for layer in (mine, theirs))
            assert isinstance(one, Placed)
            assert isinstance(other, Placed)
            assert (loaded.dtype, other.places.dtype) == (other.weight.dtype, torch.int64)
            assert torch.equal(one.places, other.places)
            assert one.places.max() > 256  # more than either dtype could count to without gaps


@pytest.mark.slow
@pytest.mark.parametrize("tier", ["shim", "padded"])
def test_an_export_is_verified_and_loads_as_a_subject(tier: str, tmp_path: Path) -> None:
    pruned = prune(tiny_subject("qwen2", dtype=torch.bfloat16))
    done = list(checkpoint.export_checkpoint(pruned, tmp_path / "small", wanted=tier))[-1].result
    assert (done.tier, done.verified) == (tier, True)
    assert done.max_logit_difference <= 1e-4
    subject = slimllm.load(str(tmp_path / "small"), device="cpu")
    assert subject.shape == pruned.subject.shape  # padding is left out


@pytest.mark.parametrize("tier", ["native", "twin"])
def test_a_stock_class_is_refused(tier: str) -> None:
    pruned = prune(tiny_subject(), cut=False, kept=(4, 4, 4))
    with pytest.raises(Refusal, match=r"values narrower than heads .*; use --export auto, shim or padded"):
        formats.choose_format(pruned, tier)


@pytest.mark.slow
def test_a_checkpoint_without_its_places_is_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole: Callable[[Form], dict[str, Tensor]] = checkpoint.stored_tensors
    lost = "model.layers.2.self_attn.o_proj.places"
    monkeypatch.setattr(
        checkpoint, "stored_tensors", lambda form: {k: v for k, v in whole(form).items() if k != lost}
    )
    with pytest.raises(Refusal, match=r"does not load in a fresh process .*o_proj\.places"):
        slimllm.save(prune(tiny_subject()), tmp_path / "small")
    assert not list(tmp_path.iterdir())
