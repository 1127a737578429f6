"""The grid: every family × unit × recovery × export. What is left computes what the whole model with the same
parts silenced does, and is stored and read again without loss."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from slimllm import pipeline
from slimllm.calibration import texts
from slimllm.core.errors import Refusal
from slimllm.core.memory import watch_peak
from slimllm.core.process_memory import resident_mib
from slimllm.core.shapes import Grouping
from slimllm.core.types import Calibration, Plan
from slimllm.evaluation import evaluate
from slimllm.export import checkpoint, formats, verification
from slimllm.methods.recovery import RECOVERIES
from slimllm.models import loading as loading_module
from slimllm.models.families import FAMILIES, linear_of, narrows_values, shape_of
from slimllm.models.loading import Pruned, Subject
from slimllm.planning import plan_making
from slimllm.planning.rules import PlanRules
from tests.support.tiny_models import (
    FAMILY_CONFIGS,
    MORE_CONFIGS,
    PAGE,
    tiny_model,
    tiny_subject,
    tiny_tokenizer,
)

pytestmark = pytest.mark.usefixtures("one_thread")

CALIBRATION = Calibration(samples=3, length=24)
TEXT = texts.Text("page", lambda _: [PAGE * 6])
TOKENS = torch.randint(0, 250, (3, 20), generator=torch.Generator().manual_seed(1))
UNITS = ("kv-group", "query-head", "value-column")


def counted(heads: int, groups: int, **more: Any) -> dict[str, Any]:
    return {"num_attention_heads": heads, "num_key_value_heads": groups, "hidden_size": heads * 8, **more}


VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in (*FAMILY_CONFIGS, *MORE_CONFIGS)},
    "llama-tied": ("llama", {"tie_word_embeddings": True}),
    "llama-biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-tied-biases": ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    **{
        f"llama-{h}-{g}": ("llama", counted(h, g))
        for h, g in ((8, 8), (8, 4), (8, 2), (8, 1), (9, 3), (14, 2), (24, 8))
    },
    "mistral-sliding": ("mistral", {"sliding_window": 8}),
    "qwen3-wide-heads": ("qwen3", {"head_dim": 16}),
    "gemma-one-kv-head": ("gemma", {"num_key_value_heads": 1, "head_dim": 16}),
    "cohere-plain": ("cohere", {"use_qk_norm": False}),
    "stablelm-parallel": ("stablelm", {"use_parallel_residual": True, "qk_layernorm": False}),
    "stablelm-parallel-norms": ("stablelm", {"use_parallel_residual": True}),
    "starcoder2-no-biases": ("starcoder2", {"use_bias": False}),
}


def subject_of(variant: str) -> Subject:
    family, changes = VARIANTS[variant]
    return tiny_subject(family, **changes)


def units_of(subject: Subject) -> list[str]:
    """The units that this model can lose, at least one, for plans that leave all heads."""
    layer = subject.shape.layers[0]
    found = [unit for unit in UNITS[:2] if layer.steps(unit) > 1 and not layer.whole] or ["kv-group"]
    return [*found, "value-column"] if narrows_values(subject.family) else found


def plan_of(subject: Subject, unit: str, recovery: str = "none", *, equal: bool = False) -> Plan:
    """A plan by hand that leaves layers of three widths, or all of the same."""
    heads, channels = [], []
    for index, layer in enumerate(subject.shape.layers):
        steps = layer.steps(unit)
        keep = max(1, steps - 1) if equal or index != 1 else max(1, steps // 2)
        if layer.whole and unit != "value-column":
            keep = steps
        heads.append(keep * layer.widest(unit) // steps)
        channels.append(64 if equal else (96, 40, 70)[index])
    return Plan(
        model=subject.source,
        family=subject.shape.family,
        widths=subject.shape.widths,
        heads=tuple(heads),
        channels=tuple(channels),
        calibration=CALIBRATION,
        method="fasp" if unit == "value-column" else "wanda-sp",
        recovery=recovery,
        allocation="hand",
        unit=unit,
    )


def prune(subject: Subject, plan: Plan) -> Pruned:
    return pipeline.finish_job(pipeline.prune_model(subject, plan, TEXT))


def silenced(dense: Subject, pruned: Pruned) -> Any:
    """The dense model whose readers have zeros for all that went, and what the repair made of the rest."""
    model, plan = copy.deepcopy(dense.model), pruned.plan
    layers = zip(
        model.get_submodule(dense.family.layers),
        pruned.subject.layers,
        dense.shape.layers,
        pruned.layers,
        strict=True,
    )
    for old, new, shape, report in layers:
        grouping = Grouping(shape.heads, shape.groups, plan.unit, dense.shape.head_size)
        inputs = grouping.inputs_of(torch.tensor(report.kept_heads), dense.shape.head_size)
        for site, kept in (
            (dense.family.attention, inputs),
            (dense.family.mlp, torch.tensor(report.kept_channels)),
        ):
            reader, left = linear_of(old, site.reader), linear_of(new, site.reader)
            weight = torch.zeros_like(reader.weight)
            weight[:, kept] = left.weight.data
            reader.weight.data = weight
            reader.bias = left.bias
    return model


def logits(model: Any, **how: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=TOKENS, use_cache=False, **how).logits


GRID = [
    pytest.param(variant, unit, recovery, id=f"{variant}-{unit}-{recovery}")
    for variant in VARIANTS
    for unit in units_of(subject_of(variant))
    for recovery in (RECOVERIES if variant in FAMILIES else ("regression", "least-squares"))
]


@pytest.mark.parametrize(("variant", "unit", "recovery"), GRID)
def test_families_pruned_equals_silenced(variant: str, unit: str, recovery: str) -> None:
    dense = subject_of(variant)
    pruned = prune(dense, plan_of(dense, unit, recovery))
    small, whole = pruned.subject.model, silenced(dense, pruned)
    assert pruned.subject.shape.decoder < dense.shape.decoder
    torch.testing.assert_close(logits(small), logits(whole), atol=1e-4, rtol=1e-4)
    assert shape_of(small, dense.family) == pruned.subject.shape
    assert pruned.subject.shape.parameters == sum(p.numel() for p in small.parameters())


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("variant", [name for name in VARIANTS if VARIANTS[name][0] in MORE_CONFIGS])
def test_families_pruned_equals_silenced_in_every_way_of_calling(variant: str, attention: str) -> None:
    """Padded batches, with and without cache. (The older families: tests/unit/pruning/test_surgery.py.)"""
    dense = subject_of(variant)
    dense.model.set_attn_implementation(attention)
    unit = units_of(dense)[0]
    pruned = prune(dense, plan_of(dense, unit, "regression"))
    small, whole = pruned.subject.model, silenced(dense, pruned)
    padding = torch.ones_like(TOKENS)
    padding[0, :6] = 0
    seen = padding.bool()
    torch.testing.assert_close(
        logits(small, attention_mask=padding)[seen],
        logits(whole, attention_mask=padding)[seen],
        atol=1e-4,
        rtol=1e-4,
    )
    for cache in (True, False):
        how = {"max_new_tokens": 8, "do_sample": False, "use_cache": cache, "pad_token_id": 255}
        with torch.inference_mode():
            one, other = (m.generate(input_ids=TOKENS, attention_mask=padding, **how) for m in (small, whole))
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["slimllm", "best", "ddp", "fasp", "block-influence"])
def test_families_whose_heads_stay_are_planned_so(name: str) -> None:
    """OLMo 2 normalises queries over all heads: a plan takes channels, value columns or whole layers."""
    subject = tiny_subject("olmo2")
    options = {"steps": 2, "target": 0.2} if name == "ddp" else {}
    job = pipeline.analyse_model(subject, TEXT, CALIBRATION, method_name=name, options=options)
    plan = plan_making.make_plan(pipeline.finish_job(job), PlanRules(0.3, align=1))
    columns = plan.unit == "value-column"
    assert all(0 < h < 8 if columns else h in (0, 6) for h in plan.heads)
    assert 0.25 < plan.ratio_achieved < 0.4
    pruned = prune(subject, plan)
    assert shape_of(pruned.subject.model, subject.family) == pruned.subject.shape
    if not columns:
        wrong = dataclasses.replace(plan, heads=(4, 6, 6), channels=(96, 96, 96))
        with pytest.raises(Refusal, match="keeps 4 heads in layer 0, but single heads of olmo2 models"):
            prune(subject, wrong)


# Exports ----------------------------------------------------------------------------------------------------

HEADED = {"stablelm", "helium"}  # classes that take the head size from the width of the model and its heads
NO_PLAIN = "different widths|no place for|no stock class|refuses|another shape|narrower than heads"


def stored(pruned: Pruned, tier: str, folder: Path) -> Subject:
    """What this program reads of the pruned model, stored as `tier`."""
    folder.mkdir()
    checkpoint.write_checkpoint(formats.choose_format(pruned, tier), pruned, folder)
    return loading_module.load_model(str(folder), device="cpu", dtype="float32")


def check_stored(pruned: Pruned, tier: str, folder: Path) -> None:
    again = stored(pruned, tier, folder)
    torch.testing.assert_close(logits(again.model), logits(pruned.subject.model), atol=1e-4, rtol=1e-4)
    assert json.loads((folder / "config.json").read_text()).get("auto_map") is None or tier == "shim"
    if tier == "shim":
        assert again.shape == pruned.subject.shape


SHELF = [
    pytest.param(variant, unit, id=f"{variant}-{unit}")
    for variant in VARIANTS
    for unit in units_of(subject_of(variant))[: None if variant in FAMILIES else 1]
]


@pytest.mark.parametrize(("variant", "unit"), SHELF)
def test_families_export_shim(variant: str, unit: str, tmp_path: Path) -> None:
    dense = subject_of(variant)
    check_stored(prune(dense, plan_of(dense, unit, "regression")), "shim", tmp_path / "shim")


@pytest.mark.parametrize(("variant", "unit"), SHELF)
def test_families_export_padded(variant: str, unit: str, tmp_path: Path) -> None:
    dense = subject_of(variant)
    check_stored(prune(dense, plan_of(dense, unit)), "padded", tmp_path / "padded")


@pytest.mark.parametrize("recovery", ["none", "regression"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_families_export_of_equal_widths(variant: str, recovery: str, tmp_path: Path) -> None:
    """Without a recovery's biases every family is stored plainly, but where its class cannot have fewer
    heads; with them where the class has places for them. The rest is refused with a reason."""
    dense = subject_of(variant)
    unit = units_of(dense)[0]
    pruned = prune(dense, plan_of(dense, unit, recovery, equal=True))
    form = formats.choose_format(pruned)
    folder = tmp_path / form.tier
    check_stored(pruned, form.tier, folder)
    fewer = unit != "value-column" and pruned.plan.heads[0] < dense.shape.heads
    if recovery == "none" and not (fewer and dense.shape.family in HEADED):
        assert form.tier in ("native", "twin")
    for tier in ("native", "twin") if form.tier == "shim" else ():
        with pytest.raises(Refusal, match=NO_PLAIN):
            formats.choose_format(pruned, tier)


# Models as people have them ---------------------------------------------------------------------------------


def saved(
    folder: Path, family: str = "llama", tokenizer: Any = None, shard: str = "1GB", **changes: Any
) -> str:
    """A tiny model as a folder."""
    kind = changes.pop("dtype", torch.float32)
    tiny_model(family, **changes).to(kind).save_pretrained(folder, max_shard_size=shard)
    (tokenizer or tiny_tokenizer()).save_pretrained(folder)
    return str(folder)


def whole_way(source: str, out: Path, unit: str = "auto", **loading: Any) -> Subject:
    """Loads, analyses, plans, prunes, stores and loads again; the result computes what was pruned."""
    subject = loading_module.load_model(source, device="cpu", offline=True, **{"dtype": "float32", **loading})
    analysis = pipeline.finish_job(pipeline.analyse_model(subject, TEXT, CALIBRATION))
    plan = plan_making.make_plan(analysis, PlanRules(0.3, align=1, unit=unit))
    pruned = pipeline.finish_job(pipeline.prune_model(subject, plan, TEXT))
    out.mkdir()
    checkpoint.write_checkpoint(formats.choose_format(pruned), pruned, out)
    again = loading_module.load_model(str(out), device="cpu", dtype=loading.get("dtype", "float32"))
    torch.testing.assert_close(logits(again.model), logits(pruned.subject.model), atol=1e-4, rtol=1e-4)
    assert again.shape.decoder < 0.75 * subject.shape.decoder
    found = pipeline.finish_job(evaluate.measure_perplexity(again, TOKENS.flatten(), window=20))
    assert 0 < found.perplexity < float("inf")
    words, count, _ = evaluate.timed_generation(again, "As ever", max_new_tokens=5, temperature=0.0, seed=0)
    assert count <= 5
    assert isinstance(words, str)
    return again


@pytest.mark.parametrize(
    ("family", "changes", "unit"),
    [
        ("qwen3", {"head_dim": 16}, "kv-group"),
        ("gemma", {"head_dim": 32, "num_key_value_heads": 1}, "query-head"),
        ("llama", counted(8, 1), "query-head"),
        ("llama", counted(9, 3), "kv-group"),
        ("llama", counted(7, 7), "kv-group"),
        ("qwen2", counted(14, 2), "query-head"),
    ],
)
def test_families_with_unusual_heads(family: str, changes: dict[str, Any], unit: str, tmp_path: Path) -> None:
    whole_way(saved(tmp_path / "m", family, **changes), tmp_path / "out", unit)


@pytest.mark.parametrize("kind", ["bfloat16", "float16", "float32"])
def test_families_weights_of_every_dtype(kind: str, tmp_path: Path) -> None:
    source = saved(tmp_path / "m", dtype=getattr(torch, kind))
    whole_way(source, tmp_path / "out")
    assert loading_module.load_model(source, device="cpu", dtype=kind).dtype == getattr(torch, kind)


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_families_pruned_in_half_precision(kind: str, tmp_path: Path) -> None:
    again = whole_way(saved(tmp_path / "m", dtype=getattr(torch, kind)), tmp_path / "out", dtype=kind)
    assert again.dtype == getattr(torch, kind)
    size = (tmp_path / "out/model.safetensors").stat().st_size
    assert size < 2 * again.shape.parameters + 16_000


def test_families_sharded_weights(tmp_path: Path) -> None:
    source = saved(tmp_path / "m", shard="60KB")
    assert len(list((tmp_path / "m").glob("model-*.safetensors"))) > 2
    whole_way(source, tmp_path / "out")


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3_text", "phi3", "olmo2"])
def test_families_long_contexts_cost_no_memory(family: str, tmp_path: Path) -> None:
    """131,072 positions: nothing may be as long as what the model could read, let alone its square."""
    source = saved(tmp_path / "m", family, max_position_embeddings=131_072)
    before, peak = resident_mib(), watch_peak(torch.device("cpu"))
    again = whole_way(source, tmp_path / "out")
    assert again.shape.max_length == 131_072
    assert peak() - before < 150


def test_families_without_pad_token_and_chat_template(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    assert tokenizer.pad_token is None
    assert tokenizer.chat_template is None
    source = saved(tmp_path / "m", tokenizer=tokenizer)
    again = whole_way(source, tmp_path / "out")
    assert again.shape.vocab == 256


def test_families_with_more_embeddings_than_words(tmp_path: Path) -> None:
    """Tables are padded to round numbers, and tokens are added: the vocabulary stays what it was."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.add_tokens(["<tool>", "<answer>"])
    for tied in (True, False):
        source = saved(tmp_path / f"m{tied}", tokenizer=tokenizer, vocab_size=320, tie_word_embeddings=tied)
        again = whole_way(source, tmp_path / f"out{tied}")
        assert again.shape.vocab == 320
        assert again.tokenizer("<tool>").input_ids == [257]
        words, _, _ = evaluate.timed_generation(
            again, "<tool> As ever", max_new_tokens=3, temperature=0.0, seed=0
        )
        assert isinstance(words, str)


# In a fresh process -----------------------------------------------------------------------------------------

ELSEWHERE = {
    "native": ("smollm3", "none", True),
    "twin": ("mistral", "regression", True),
    "shim-norms-in-rows": ("cohere", "regression", False),
    "shim-norms-in-lists": ("stablelm", "regression", False),
    "padded-norms-in-rows": ("cohere", "none", False),
    "padded-norms-in-lists": ("stablelm", "none", False),
    "shim-starcoder2": ("starcoder2", "regression", False),
}


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Pruned, str, verification.Reload]]:
    """Models of every tier, as plain transformers reads them in a process without this package."""
    root, done = tmp_path_factory.mktemp("elsewhere"), {}
    for name, (family, recovery, equal) in ELSEWHERE.items():
        dense = tiny_subject(family)
        pruned = prune(dense, plan_of(dense, "kv-group", recovery, equal=equal))
        form = formats.choose_format(pruned, name.partition("-")[0])
        (root / name).mkdir()
        checkpoint.write_checkpoint(form, pruned, root / name)
        done[name] = pruned, form.tier
    found = verification.reload_elsewhere([root / name for name in done])
    return {name: (*pair, reload) for (name, pair), reload in zip(done.items(), found, strict=True)}


@pytest.mark.slow
@pytest.mark.parametrize("name", ELSEWHERE)
def test_families_export_read_elsewhere(
    elsewhere: dict[str, tuple[Pruned, str, verification.Reload]], name: str
) -> None:
    pruned, tier, reload = elsewhere[name]
    assert tier == name.partition("-")[0]
    assert verification.compare_reload(pruned.subject, reload) <= 1e-4
