"""Claims about what the best preset adds: weighted moments, the drift of the pruned stream, the guided refit,
and the measured sensitivity are those of plain activations."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from slimllm import pipeline
from slimllm.analysis import sensitivity
from slimllm.calibration import moments as streaming
from slimllm.calibration import texts
from slimllm.core.arithmetic import Arithmetic
from slimllm.core.types import Calibration, Drift, Moments
from slimllm.methods import recovery
from slimllm.methods.recovery import GUIDANCE, GUIDED_DAMPING, RECOVERIES, Dense
from slimllm.models.families import linear_of
from slimllm.models.loading import Subject
from slimllm.planning import forecast, plan_making
from slimllm.planning.rules import PlanRules
from slimllm.pruning.layer_pruning import Work
from tests.support.tiny_models import FAMILY_CONFIGS, MORE_CONFIGS, tiny_subject

TOKENS = torch.randint(0, 250, (5, 21), generator=torch.Generator().manual_seed(4))
CALIBRATION = Calibration(samples=6, length=32)
FOLLOWED = [name for name in (*FAMILY_CONFIGS, *MORE_CONFIGS) if tiny_subject(name).family.between]


@pytest.fixture
def text(page: Path) -> texts.Text:
    return texts.find_text(str(page))


def caught(subject: Subject, name: str, index: int, what: str = "input") -> Tensor:
    """What a module of one layer reads or gives over all tokens, in one forward of the whole model."""
    seen: list[Tensor] = []
    module = subject.layers[index].get_submodule(name) if name else subject.layers[index]

    def keep(_: object, inputs: tuple[Tensor, ...], output: object) -> None:
        found = output if what == "output" else inputs[0]
        seen.append(found[0] if isinstance(found, tuple) else found)  # type: ignore[arg-type]

    handle = module.register_forward_hook(keep)
    with torch.inference_mode():
        subject.model(input_ids=TOKENS, use_cache=False)
    handle.remove()
    return seen[0].double().flatten(0, 1)


# Weights ---------------------------------------------------------------------------------------------------


def test_oracle_weighted_moments_count_tokens_by_the_residual_behind_the_layer(any_subject: Subject) -> None:
    stream = streaming.embed_tokens(any_subject, TOKENS)
    for index in range(2):
        found = streaming.collect_moments(any_subject, stream, index, weighted=True)
        weights = 1 / caught(any_subject, "", index, "output").square().sum(1)
        for got, name in (
            (found.attention, any_subject.family.attention.reader),
            (found.mlp, any_subject.family.mlp.reader),
        ):
            x = caught(any_subject, name, index)
            mean = sum(w * row for w, row in zip(weights, x, strict=True)) / weights.sum()
            gram = sum(w * torch.outer(row, row) for w, row in zip(weights, x, strict=True)) / weights.sum()
            torch.testing.assert_close(got.mean.double(), mean, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(got.gram.double(), gram, atol=1e-5, rtol=1e-4)
            assert got.weight == pytest.approx(float(weights.mean()), rel=1e-4)
            assert got.tokens == TOKENS.numel()


def test_weighted_halves_add_up_to_the_whole() -> None:
    subject = tiny_subject("llama")
    halves = [
        streaming.collect_moments(subject, streaming.embed_tokens(subject, half), 0, weighted=True)
        for half in TOKENS.split([2, 3])
    ]
    whole = streaming.collect_moments(subject, streaming.embed_tokens(subject, TOKENS), 0, weighted=True)
    both = halves[0] + halves[1]
    torch.testing.assert_close(both.mlp.gram, whole.mlp.gram, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(both.mlp_input_sq, whole.mlp_input_sq, atol=1e-6, rtol=1e-4)
    assert both.mlp.weight == pytest.approx(whole.mlp.weight, rel=1e-5)


# The guide -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FOLLOWED)
def test_oracle_drift_is_what_the_pruned_stream_lacks_behind_each_site(family: str) -> None:
    dense, other = tiny_subject(family), tiny_subject(family, seed=9)
    stream, guide = streaming.embed_tokens(other, TOKENS), streaming.embed_tokens(dense, TOKENS)
    between = dense.family.between
    for index in range(2):
        goals = streaming.lead_streams(dense.layers[index], guide, index, between)
        for goal, site, where in (
            (goals[0], dense.family.attention, between),
            (goals[1], dense.family.mlp, ""),
        ):
            wanted = {site.reader: streaming.Accumulator(goal=goal)}
            found = streaming.watch_linears(other.layers[index], stream, index, wanted)[site.reader].moments
            side = "input" if where else "output"
            lack = caught(dense, where, index, side) - caught(other, where, index, side)
            x = caught(other, site.reader, index)
            assert found.drift is not None
            torch.testing.assert_close(found.drift.mean.double(), lack.mean(0), atol=1e-4, rtol=1e-3)
            torch.testing.assert_close(found.drift.cross.double(), lack.T @ x / len(x), atol=1e-4, rtol=1e-3)
        streaming.advance_stream(other.layers[index], stream, index)


@pytest.mark.parametrize("family", FOLLOWED)
def test_what_a_reader_writes_is_added_to_the_stream_as_it_is(family: str) -> None:
    """Why `between` may be named: only then is a fit towards the stream a fit of the reader's output."""
    subject = tiny_subject(family)
    name = subject.family.between
    written = caught(subject, subject.family.attention.reader, 1, "output")
    added = caught(subject, name, 1) - caught(subject, "", 0, "output")
    torch.testing.assert_close(added, written, atol=1e-5, rtol=1e-4)
    written = caught(subject, subject.family.mlp.reader, 1, "output")
    added = caught(subject, "", 1, "output") - caught(subject, name, 1)
    torch.testing.assert_close(added, written, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kept", [[0, 2, 3, 6], list(range(7))])
def test_oracle_guided_is_the_ridge_fit_towards_the_moved_target(kept: list[int]) -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(80, 7, generator=random, dtype=torch.float64) @ torch.randn(
        7, 7, generator=random, dtype=torch.float64
    )
    x = x + 1
    e = torch.randn(80, 4, generator=random, dtype=torch.float64) + x[:, :4]
    weight = torch.randn(4, 7, generator=random, dtype=torch.float64)
    drift = Drift(e.mean(0), e.T @ x / len(x))
    moments = Moments(x.mean(0), x.T @ x / len(x), len(x), drift=drift)
    found = recovery.guided_refit(weight, moments, torch.tensor(kept))
    whole = len(kept) == 7
    target = x @ weight.T + GUIDANCE * e
    inputs = x[:, kept]
    if not whole:
        target, inputs = target - target.mean(0), inputs - inputs.mean(0)
    second = moments.gram if whole else moments.cov
    delta = GUIDED_DAMPING * second.diagonal().mean()
    rows = [inputs / len(x) ** 0.5, torch.eye(len(kept), dtype=torch.float64) * delta.sqrt()]
    goals = [target / len(x) ** 0.5, weight[:, kept].T * delta.sqrt()]
    naive = torch.linalg.lstsq(torch.cat(rows), torch.cat(goals)).solution.T
    torch.testing.assert_close(found.weight, naive)
    if whole:
        assert found.bias is None
    else:
        assert found.bias is not None
        left = x @ weight.T + GUIDANCE * e - x[:, kept] @ found.weight.T - found.bias
        assert left.mean(0).abs().max() < 1e-9


def test_guided_without_drift_is_least_squares_with_its_ridge() -> None:
    x = torch.randn(60, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weight = torch.randn(3, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    moments, kept = Moments(x.mean(0), x.T @ x / 60, 60), torch.tensor([0, 1, 4])
    one = recovery.guided_refit(weight, moments, kept)
    two = recovery.least_squares(weight, moments, kept, damping=GUIDED_DAMPING)
    assert torch.equal(one.weight, two.weight)


def test_guided_pruning_ends_nearer_to_the_dense_stream(text: texts.Text) -> None:
    """What the guide is for, on the calibration text itself."""
    subject = tiny_subject("llama")
    analysis = pipeline.finish_job(pipeline.analyse_model(subject, text, CALIBRATION))
    tokens = texts.calibration_tokens(text, subject.tokenizer, CALIBRATION, max_length=512)
    distance = {}
    for name in ("least-squares", "guided"):
        plan = plan_making.make_plan(analysis, PlanRules(0.3, recovery=name, align=1, allocation="uniform"))
        pruned = pipeline.finish_job(pipeline.prune_model(subject, plan, text)).subject
        assert pruned.shape.parameters == forecast.forecast_plan(analysis, plan).parameters
        with torch.inference_mode():
            both = [m.model.model(input_ids=tokens, use_cache=False)[0] for m in (subject, pruned)]
        distance[name] = float((both[0] - both[1]).square().mean())
    assert distance["guided"] < distance["least-squares"]


def test_nothing_is_refitted_before_the_first_cut(text: texts.Text) -> None:
    subject = tiny_subject("llama")
    analysis = pipeline.finish_job(pipeline.analyse_model(subject, text, CALIBRATION))
    plan = plan_making.make_plan(analysis, PlanRules(0.3, recovery="guided", align=1))
    plan = dataclasses.replace(plan, heads=(6, 6, 6), channels=(96, 48, 96))
    pruned = pipeline.finish_job(pipeline.prune_model(subject, plan, text)).subject
    for index, (attention, mlp) in enumerate([(True, True), (True, False), (False, False)]):
        for same, site in ((attention, subject.family.attention), (mlp, subject.family.mlp)):
            before = linear_of(subject.layers[index], site.reader).weight
            after = linear_of(pruned.layers[index], site.reader).weight
            assert (before.shape == after.shape and torch.equal(before, after)) is same


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text", "granite", "phi"])
def test_where_the_stream_cannot_be_followed_guided_still_prunes(family: str, text: texts.Text) -> None:
    subject = tiny_subject(family)
    plan = plan_making.make_plan(
        pipeline.finish_job(pipeline.analyse_model(subject, text, CALIBRATION)),
        PlanRules(0.3, recovery="guided", align=1),
    )
    pruned = pipeline.finish_job(pipeline.prune_model(subject, plan, text)).subject
    assert pruned.shape.decoder < subject.shape.decoder
    assert Work(subject, pruned, plan, streaming.embed_tokens(subject, TOKENS)).goals(1) == (None, None)


# Sensitivity -----------------------------------------------------------------------------------------------


def test_oracle_sensitivity_is_the_kl_of_a_model_with_one_damaged_site(any_subject: Subject) -> None:
    """The naive way: write the refitted reader, zeros for what is cut, into a copy of the model."""
    subject = any_subject
    probe = sensitivity.start_probe(subject, TOKENS, Arithmetic(subject.device))
    stream = streaming.embed_tokens(subject, TOKENS)
    with torch.inference_mode():
        dense = torch.log_softmax(subject.model(input_ids=TOKENS, use_cache=False).logits.double(), -1)
    for index in range(2):
        moments = streaming.collect_moments(subject, stream, index)
        for site, found in (
            (subject.family.attention, moments.attention),
            (subject.family.mlp, moments.mlp),
        ):
            reader = linear_of(subject.layers[index], site.reader)
            kept = torch.arange(0, reader.in_features, 2)
            got = probe.damage(index, site.reader, found, kept)
            weight, bias = reader.weight, reader.bias
            repair = RECOVERIES["least-squares"].repair(weight.double(), found.double(), kept)
            size = Dense(weight.double(), found.double()).squared_error(kept, repair)
            full = torch.zeros_like(weight)
            full[:, kept] = repair.weight.to(full)
            assert repair.bias is not None
            try:
                reader.weight = torch.nn.Parameter(full, requires_grad=False)
                shift = repair.bias.to(full) + (0 if bias is None else bias)
                reader.bias = torch.nn.Parameter(shift, requires_grad=False)
                with torch.inference_mode():
                    logits = subject.model(input_ids=TOKENS, use_cache=False).logits.double()
            finally:
                reader.weight, reader.bias = weight, bias
            damaged = torch.log_softmax(logits, -1)
            naive = float((dense.exp() * (dense - damaged)).sum()) / TOKENS.numel()
            assert got * size == pytest.approx(naive, rel=2e-2, abs=1e-6)
        streaming.advance_stream(subject.layers[index], probe.stream, index)


@pytest.mark.parametrize("at_once", [1, 100, 2**18])
def test_oracle_divergence_is_the_same_however_many_tokens_are_compared_at_once(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensitivity, "AT_ONCE", at_once)
    noise = torch.Generator().manual_seed(3)
    dense, cut = torch.randn(2, 7, 33, generator=noise, dtype=torch.float64).log_softmax(-1)
    naive = sum(float(p.exp() @ (p - q)) for p, q in zip(dense, cut, strict=True))
    found = sensitivity.sum_divergence(dense.float(), cut.float() + 5)
    assert float(found) == pytest.approx(naive, rel=1e-5)


def test_probing_leaves_the_model_as_it_was(text: texts.Text) -> None:
    subject = tiny_subject("gemma3_text")
    before = {name: value.clone() for name, value in subject.model.state_dict().items()}
    analysis = pipeline.finish_job(pipeline.analyse_model(subject, text, CALIBRATION, method_name="best"))
    assert all(layer.sensitivity["mlp"] >= 0 for layer in analysis.layers)
    assert any(layer.sensitivity["mlp"] > 0 for layer in analysis.layers)
    for name, value in subject.model.state_dict().items():
        assert torch.equal(before[name], value)
    for module in subject.model.modules():
        assert not module._forward_pre_hooks
        assert not module._forward_hooks
        assert "forward" not in vars(module)
    assert subject.model.config.num_hidden_layers == 3
