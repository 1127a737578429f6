"""Masked previews: equal to a sliced model without recovery, and nothing of the dense model is touched."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from slimllm import analyse, prune
from slimllm.calibration import texts
from slimllm.core.types import Analysis, Calibration, Pin, Plan
from slimllm.models.layer_offload import OffloadedLayer, OnDisk, offload_layer
from slimllm.models.loading import Subject
from slimllm.planning import plan_making
from slimllm.planning.rules import PlanRules
from slimllm.pruning.masking import mask_units, masks_of
from tests.support.tiny_models import PAGE, tiny_subject

TEXT = texts.Text("page", lambda _: [PAGE * 4], parts_differ=False)
CALIBRATION = Calibration("page", samples=4, length=32)


def analysed(subject: Subject, method: str) -> Analysis:
    return analyse(subject, TEXT, CALIBRATION, method=method)


def ids_of(subject: Subject) -> Tensor:
    return subject.tokenizer(PAGE, return_tensors="pt").input_ids[:, :48]


@torch.inference_mode()
def logits(subject: Subject) -> Tensor:
    return subject.model(input_ids=ids_of(subject), use_cache=False).logits


def same_as_sliced(subject: Subject, analysis: Analysis, plan: Plan) -> None:
    """Compares with the model pruned by this plan, by a method that judges both by the dense model."""
    sliced = prune(subject, plan, TEXT).subject
    ours = logits(mask_units(subject, masks_of(analysis, plan)))
    assert not torch.allclose(ours, logits(subject), atol=1e-2)
    torch.testing.assert_close(ours, logits(sliced), atol=2e-4, rtol=2e-4)


def test_masked_equals_sliced_in_every_family(any_subject: Subject) -> None:
    analysis = analysed(any_subject, "magnitude")
    plan = plan_making.make_plan(analysis, PlanRules(0.4, recovery="none", align=1))
    same_as_sliced(any_subject, analysis, plan)


@pytest.mark.parametrize("unit", ["kv-group", "query-head"])
def test_pins_are_kept_and_left_out(unit: str) -> None:
    subject = tiny_subject()
    analysis = analysed(subject, "magnitude")
    worst, best = (analysis.layers[1].mlp.ranking.order[i].item() for i in (-1, 0))
    heads = analysis.layers[1].attention[unit].ranking.scores  # type: ignore[index]
    protected = (Pin(1, "mlp", worst), Pin(1, "attention", int(heads.argmin())))
    plan = plan_making.make_plan(
        analysis,
        PlanRules(
            0.4, unit=unit, recovery="none", align=1, protected=protected, forced=(Pin(1, "mlp", best),)
        ),
    )
    same_as_sliced(subject, analysis, plan)
    mask = masks_of(analysis, plan)[1].mlp
    assert mask is not None
    assert (mask[worst], mask[best]) == (1, 0)


def test_value_columns() -> None:
    subject = tiny_subject("phi")
    analysis = analysed(subject, "fasp")
    dense = plan_making.make_plan(analysis, PlanRules(0.0, recovery="none"))
    same_as_sliced(subject, analysis, dataclasses.replace(dense, heads=(5, *dense.heads[1:])))


def test_dropped_layers_let_no_bias_out() -> None:
    subject = tiny_subject("phi")
    analysis = analysed(subject, "block-influence")
    plan = plan_making.make_plan(analysis, PlanRules(0.35, align=1))
    assert 0 in plan.heads
    same_as_sliced(subject, analysis, plan)


def test_trained_gates_multiply_what_they_let_through() -> None:
    subject = tiny_subject()
    analysis = analyse(subject, TEXT, CALIBRATION, method="ddp", options={"steps": 5})
    same_as_sliced(subject, analysis, plan_making.make_plan(analysis, PlanRules(0.4, align=1)))


def test_one_site_alone() -> None:
    subject = tiny_subject()
    analysis = analysed(subject, "magnitude")
    plan = plan_making.make_plan(analysis, PlanRules(0.4, recovery="none"))
    alone = dataclasses.replace(plan, channels=tuple(layer.channels for layer in subject.shape.layers))
    ours = logits(mask_units(subject, masks_of(analysis, plan, ("attention",))))
    assert torch.equal(ours, logits(mask_units(subject, masks_of(analysis, alone))))
    assert [mask.mlp for mask in masks_of(analysis, plan, ("attention",))] == [None] * 3


class Held(OnDisk):
    """Parameters that lie in memory."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        super().__init__({}, torch.float32, torch.device("cpu"))
        self.tensors = tensors

    def read(self) -> dict[str, torch.Tensor]:
        return self.tensors


def test_a_model_whose_layers_are_lent_is_masked_all_the_same() -> None:
    whole, load_offloaded = tiny_subject(), tiny_subject()
    analysis = analysed(whole, "magnitude")
    masks = masks_of(analysis, plan_making.make_plan(analysis, PlanRules(0.4)))
    row: list[OffloadedLayer] = []
    for layer in load_offloaded.layers:
        held = {name: tensor.detach().clone() for name, tensor in layer.named_parameters()}
        offload_layer(layer, Held(held), row)
    assert torch.equal(logits(mask_units(load_offloaded, masks)), logits(mask_units(whole, masks)))


def test_the_dense_model_is_not_touched() -> None:
    subject = tiny_subject()
    before, weights = logits(subject), {k: v.clone() for k, v in subject.model.state_dict().items()}
    analysis = analysed(subject, "slimllm")
    preview = mask_units(subject, masks_of(analysis, plan_making.make_plan(analysis, PlanRules(0.5))))
    assert torch.equal(logits(subject), before), "also while a preview is there"
    assert not torch.equal(logits(preview), before)
    assert all(torch.equal(v, weights[k]) for k, v in subject.model.state_dict().items())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in subject.model.modules())
    shared = {id(p) for p in subject.model.parameters()}
    assert all(id(p) in shared for p in preview.model.parameters()), "no weight is held twice"
