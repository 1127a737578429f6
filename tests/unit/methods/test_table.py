"""Claims about the table of methods: each row prunes every way it offers, costs what was planned, and what
does not combine is refused with the reason."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from slimllm import pipeline
from slimllm.calibration import texts
from slimllm.core.errors import Refusal
from slimllm.core.shapes import LayerShape
from slimllm.core.types import Analysis, Calibration
from slimllm.evaluation import evaluate
from slimllm.export import checkpoint
from slimllm.methods.recovery import RECOVERIES
from slimllm.methods.table import METHODS, fill_options
from slimllm.models import loading
from slimllm.models.loading import Subject
from slimllm.planning import forecast, plan_json, plan_making, rules
from slimllm.planning.allocation import ALLOCATIONS, step_scores
from slimllm.planning.rules import PlanRules
from tests.support.tiny_models import FAMILY_CONFIGS, tiny_subject

CALIBRATION = Calibration(samples=6, length=32)
QUICK = {"ddp": {"steps": 3, "target": 0.3}}


@pytest.fixture
def text(page: Path) -> texts.Text:
    return texts.find_text(str(page))


def analysis_of(subject: Subject, text: texts.Text, name: str) -> Analysis:
    job = pipeline.analyse_model(subject, text, CALIBRATION, method_name=name, options=QUICK.get(name))
    return pipeline.finish_job(job)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_prunes_with_every_recovery_and_unit_it_offers(name: str, text: texts.Text) -> None:
    subject = tiny_subject("llama")
    analysis = analysis_of(subject, text, name)
    dense = {key: value.clone() for key, value in subject.model.state_dict().items()}
    ids = texts.evaluation_tokens(text, subject.tokenizer, limit=300)
    for recovery in METHODS[name].recoveries or RECOVERIES:
        for unit in analysis.layers[0].attention:
            plan = plan_making.make_plan(analysis, PlanRules(0.3, recovery=recovery, unit=unit, align=1))
            pruned = pipeline.finish_job(pipeline.prune_model(subject, plan, text, analysis))
            shape = pruned.subject.shape
            assert shape.parameters == forecast.forecast_plan(analysis, plan).parameters
            assert shape.parameters == sum(p.numel() for p in pruned.subject.model.parameters())
            assert math.isfinite(
                pipeline.finish_job(evaluate.measure_perplexity(pruned.subject, ids, 32)).perplexity
            )
            assert plan_json.plan_from_text(plan_json.plan_text(plan)) == plan
    assert all(torch.equal(dense[key], value) for key, value in subject.model.state_dict().items())


@pytest.mark.parametrize("name", METHODS)
def test_a_plan_alone_prunes_to_the_same_bits_as_with_its_analysis(name: str, text: texts.Text) -> None:
    subject = tiny_subject("qwen3")
    analysis = analysis_of(subject, text, name)
    plan = plan_making.make_plan(analysis, PlanRules(0.3, align=1))
    one, two = (
        pipeline.finish_job(pipeline.prune_model(subject, plan, text, known)).subject.model.state_dict()
        for known in (analysis, None)
    )
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_meets_its_budget(name: str, text: texts.Text) -> None:
    subject = tiny_subject("llama")
    analysis = analysis_of(subject, text, name)
    step = max(layer.dense for layer in subject.shape.layers) if name == "block-influence" else 200
    for ratio in (0.2, 0.4):
        plan = plan_making.make_plan(analysis, PlanRules(ratio, align=1))
        left = forecast.decoder_parameters(subject.shape, plan)
        assert abs(left - (1 - ratio) * subject.shape.decoder) <= step or name == "slimllm-published"


# Whole layers ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("family", list(FAMILY_CONFIGS))
def test_dropped_layers_are_those_of_highest_cosine_and_the_rest_is_a_stock_model(
    family: str, text: texts.Text, tmp_path: Path
) -> None:
    subject = tiny_subject(family)
    analysis = analysis_of(subject, text, "block-influence")
    plan = plan_making.make_plan(analysis, PlanRules(0.34))
    gone = [index for index, heads in enumerate(plan.heads) if not heads]
    assert gone == [max(range(3), key=lambda i: analysis.cosine[i])]
    pruned = pipeline.finish_job(pipeline.prune_model(subject, plan, text))
    ids = texts.evaluation_tokens(text, subject.tokenizer, limit=40)[None]
    with torch.inference_mode():
        skipped = without_layers(subject, gone, ids)
        logits = pruned.subject.model(input_ids=ids, use_cache=False).logits
    assert torch.allclose(logits, skipped, atol=1e-5)
    assert pruned.subject.model.config.num_hidden_layers == 2
    assert forecast.forecast_plan(analysis, plan).parameters == pruned.subject.shape.parameters
    if family not in ("llama", "gemma3_text"):  # a fresh process takes seconds
        return
    told = pipeline.finish_job(checkpoint.export_checkpoint(pruned, tmp_path / "out"))
    assert told.verified
    assert told.tier == "native"
    again = loading.load_model(str(tmp_path / "out"), device="cpu", dtype="float32")
    assert again.shape.parameters == forecast.forecast_plan(analysis, plan).parameters
    whole = "".join(evaluate.generate_text(again, "A model", max_new_tokens=6))
    assert whole == "".join(evaluate.generate_text(again, "A model", max_new_tokens=6, use_cache=False))


def without_layers(subject: Subject, gone: list[int], ids: torch.Tensor) -> torch.Tensor:
    """Logits of the dense model when these layers hand their input on."""

    def skip(_: object, inputs: tuple[torch.Tensor, ...], kwargs: dict[str, torch.Tensor], output: object):
        hidden = inputs[0] if inputs else kwargs["hidden_states"]
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handles = [subject.layers[i].register_forward_hook(skip, with_kwargs=True) for i in gone]
    try:
        return subject.model(input_ids=ids, use_cache=False).logits
    finally:
        for handle in handles:
            handle.remove()


# Rankings and allocations of single rows -------------------------------------------------------------------


def test_standing_equals_an_oracle_that_sorts_all_units(text: texts.Text) -> None:
    subject = tiny_subject("llama", num_key_value_heads=6)
    analysis = analysis_of(subject, text, "flap")
    plan = plan_making.make_plan(analysis, PlanRules(0.3, align=1, recovery="none"))
    units = []
    for index, (layer, found) in enumerate(zip(subject.shape.layers, analysis.layers, strict=True)):
        for of_heads, scores, cost in (
            (True, found.attention["kv-group"].ranking.scores, layer.head_cost + layer.group_cost),
            (False, found.mlp.ranking.scores, layer.channel_cost),
        ):
            mean = scores.mean()
            spread = (scores - mean).square().mean().sqrt()
            units += [(float((s - mean) / spread), index, of_heads, cost) for s in scores]
    heads, channels = [6] * 3, [96] * 3
    left, budget = subject.shape.decoder, 0.7 * subject.shape.decoder
    for _, index, of_heads, cost in sorted(units):
        if left <= budget:
            break
        if of_heads:
            heads[index] -= 1
        else:
            channels[index] -= 1
        left -= cost
    assert plan.heads == tuple(heads)
    assert sum(abs(a - b) for a, b in zip(plan.channels, channels, strict=True)) <= 3 * 3


def test_steps_of_balanced_heads_take_one_of_every_group() -> None:
    layer = LayerShape(6, 2, 8, 1, 1, 1, 0, False, False)
    scores = torch.tensor([3.0, 1.0, 2.0, 30.0, 10.0, 20.0])
    assert step_scores(scores, layer, "query-head").tolist() == [5.5, 11.0, 16.5]
    assert step_scores(scores, layer, "kv-group").tolist() == [2.0, 20.0]


# What does not combine -------------------------------------------------------------------------------------


def test_what_does_not_combine_is_refused_with_the_reason(text: texts.Text) -> None:
    subject = tiny_subject("llama")
    whole = analysis_of(subject, text, "block-influence")
    with pytest.raises(Refusal, match="nothing is left to repair"):
        plan_making.make_plan(whole, PlanRules(0.3, recovery="regression"))
    with pytest.raises(Refusal, match="allocation of its own"):
        plan_making.make_plan(whole, PlanRules(0.3, allocation="uniform"))
    usual = analysis_of(subject, text, "wanda-sp")
    with pytest.raises(Refusal, match="belongs to block-influence"):
        plan_making.make_plan(usual, PlanRules(0.3, allocation="whole-layers"))
    with pytest.raises(Refusal, match="value-column"):
        plan_making.make_plan(usual, PlanRules(0.3, unit="value-column"))
    with pytest.raises(Refusal, match="query-head"):
        plan_making.make_plan(analysis_of(subject, text, "fasp"), PlanRules(0.3, unit="query-head"))


def test_every_row_combines_with_its_own_defaults() -> None:
    for name, row in METHODS.items():
        assert rules.combination_hindrance(name, row.recovery, row.allocation) == ""
    for allocation in ALLOCATIONS:
        assert all(method in METHODS for method in ALLOCATIONS[allocation].methods)


def test_options_of_the_wrong_kind_or_range_are_refused() -> None:
    assert fill_options("ddp", {"steps": 20}) == {"steps": 20, "target": 0.2}
    for given in ({"steps": 0}, {"steps": 1.5}, {"steps": True}, {"target": "x"}, {"target": 2}, {"pace": 1}):
        with pytest.raises(Refusal, match="Method 'ddp' has no option"):
            fill_options("ddp", given)
    with pytest.raises(Refusal, match="greedy"):
        fill_options("slimllm", {"greedy": 1})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"heads": [0, 6, 6]}, "kept or dropped as a whole"),
        ({"heads": [0, 0, 0], "channels": [0, 0, 0]}, "drops every layer"),
        ({"unit": "value-column"}, "which method magnitude does not"),
        ({"unit": "value-column", "method": "fasp", "options": {}, "heads": [9] * 3}, "columns in layer 0"),
        ({"method": "ddp", "options": {}, "recovery": "bias", "allocation": "gates"}, "does not combine"),
    ],
)
def test_plans_that_cannot_be_are_refused(changes: dict[str, object], words: str, text: texts.Text) -> None:
    subject = tiny_subject("llama")
    plan = plan_making.make_plan(analysis_of(subject, text, "magnitude"), PlanRules(0.2, recovery="none"))
    data = {**plan_json.plan_to_dict(plan), **changes}
    with pytest.raises(Refusal, match=words):
        plan_making.check_plan(plan_json.plan_from_text(json.dumps(data)), subject.shape)
