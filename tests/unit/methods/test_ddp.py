"""Gates: the curves are the paper's, a gated model is the model with scaled readers, training meets its
target and finds what is dead, and the dense model is never touched."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from slimllm.core.errors import Refusal
from slimllm.core.types import Progress, UnitScores
from slimllm.methods import ddp
from slimllm.methods.ddp import Training, train_gates
from slimllm.models.families import linear_of
from slimllm.models.loading import Subject
from tests.support.tiny_models import PAGE, tiny_subject

LENGTH = 32

pytestmark = pytest.mark.usefixtures("one_thread")


def page_tokens(subject: Subject, samples: int = 16) -> Tensor:
    """Samples (S, 32) of the page, one token per byte."""
    ids = subject.tokenizer(PAGE * 2, return_tensors="pt").input_ids[0]
    return ids[: samples * LENGTH].view(samples, LENGTH)


def run(
    subject: Subject, training: Training, unit: Any = "query-head", tokens: Tensor | None = None
) -> tuple[list[Progress], tuple[UnitScores, ...]]:
    """All progress of a training, and its result."""
    job = train_gates(subject, page_tokens(subject) if tokens is None else tokens, training, unit)
    seen: list[Progress] = []
    while True:
        try:
            seen.append(next(job))
        except StopIteration as end:
            return seen, end.value


def random_gates(subject: Subject, seed: int = 0) -> list[UnitScores]:
    """Gates between 0.25 and 1.75, some of them 0, all different."""
    random = torch.Generator().manual_seed(seed)

    def draw(size: int) -> Tensor:
        values = 0.25 + 1.5 * torch.rand(size, generator=random)
        values[::4] = 0
        return values

    return [UnitScores(draw(layer.heads), draw(layer.channels)) for layer in subject.shape.layers]


def scaled(subject: Subject, found: list[UnitScores]) -> Any:
    """A copy of the model whose readers' columns are multiplied by the gates, column by column."""
    model = copy.deepcopy(subject.model)
    for layer, gate in zip(model.get_submodule(subject.family.layers), found, strict=True):
        attention, mlp = (
            linear_of(layer, subject.family.attention.reader),
            linear_of(layer, subject.family.mlp.reader),
        )
        size = attention.in_features // len(gate.heads)
        for head, value in enumerate(gate.heads.tolist()):
            attention.weight[:, head * size : (head + 1) * size] *= value
        for channel, value in enumerate(gate.channels.tolist()):
            mlp.weight[:, channel] *= value
    return model


def hooks(subject: Subject) -> int:
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in subject.model.modules())


# curves


@pytest.mark.parametrize("mu", [0.5, 0.3, 0.1])
def test_oracle_retention_is_the_clamped_stretched_sigmoid(mu: float) -> None:
    values = [0.0, 0.01, 0.05, mu / 2, mu, 1.5 * mu, 2 * mu, 0.9, 1.0, 3.0]
    wanted = []
    for m in values:
        sigmoid = 1 / (1 + math.exp(-math.log(11) * (m - mu) / mu))
        wanted.append(min(max(1.2 * sigmoid - 0.1, 0.0), 1.0))
    found = ddp.gate_retention(torch.tensor(values, dtype=torch.float64), mu)
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=1e-12)
    nothing, half, whole = ddp.gate_retention(torch.tensor([0, mu, 2 * mu], dtype=torch.float64), mu).tolist()
    assert (nothing, half, whole) == pytest.approx((0, 0.5, 1), abs=1e-12)


def test_oracle_a_fully_kept_gate_still_feels_the_slope_of_the_curve() -> None:
    m, mu = torch.tensor([1.0], dtype=torch.float64, requires_grad=True), 0.4
    kept = ddp.gate_retention(m, mu)
    assert kept.item() == 1  # beyond 2μ, where a plain clamp has no slope
    (slope,) = torch.autograd.grad(kept.sum(), m)

    def curve(value: float) -> float:
        return 1.2 / (1 + math.exp(-math.log(11) * (value - mu) / mu)) - 0.1

    assert slope.item() == pytest.approx((curve(1 + 1e-5) - curve(1 - 1e-5)) / 2e-5, rel=1e-6)


def test_oracle_straight_through_has_the_hard_values_and_the_soft_gradient() -> None:
    z = torch.tensor([-0.1, 0.0, 0.7, 1.1], requires_grad=True)
    m = ddp.straight_through(z, z.relu())
    assert m.tolist() == z.relu().tolist()
    assert torch.autograd.grad(m.sum(), z)[0].tolist() == [1, 1, 1, 1]


def test_oracle_mu_falls_from_a_half_to_a_tenth_by_the_square_root() -> None:
    found = [ddp.anneal_mu(step, 8) for step in range(9)]
    assert found == pytest.approx([0.5 - 0.4 * (step / 8) ** 0.5 for step in range(9)])
    assert (found[0], found[2], found[8]) == pytest.approx((0.5, 0.3, 0.1))


def test_oracle_penalty_is_the_lagrangian_term_by_term() -> None:
    kept, target, (one, two, three) = [0.0, 0.25, 0.5, 1.0, 1.0], 0.4, (-0.7, 3.0, 0.2)
    excess = (1 - sum(kept) / 5) - target
    undecided = sum(s * (1 - s) for s in kept) / 5
    wanted = one * excess + two * excess**2 + three * undecided
    found = ddp.sparsity_penalty(torch.tensor(kept), target, torch.tensor([one, two, three]))
    assert found.item() == pytest.approx(wanted, rel=1e-6)


def test_the_rate_warms_up_and_then_falls_to_almost_nothing() -> None:
    rates = [ddp.learning_rate_share(step, 100, 0.1) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10] == max(rates) == 1
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert rates[55] == pytest.approx(0.5)
    assert 0 < rates[-1] < 0.001
    assert ddp.learning_rate_share(0, 1, 0.1) == 1


def test_a_shorter_training_hurries_but_never_leaps() -> None:
    assert [Training(0.3, steps=n).hurry for n in (1, 50, 100, 250, 1000, 4000)] == [10, 10, 10, 4, 1, 1]
    subject = tiny_subject()
    start = torch.cat([layer.channels for layer in run(subject, Training(0.3, steps=1, lr_gate=0))[1]])
    after = torch.cat([layer.channels for layer in run(subject, Training(0.3, steps=1))[1]])
    # the first step of Adam is the rate itself, 10 × 2e-2, up or down
    torch.testing.assert_close((after - start).abs(), torch.full_like(start, 0.2), rtol=0.01, atol=0)


# the gated forward


def test_oracle_gating_a_reader_is_scaling_its_columns(any_subject: Subject) -> None:
    found, tokens = random_gates(any_subject), page_tokens(any_subject, 3)
    with torch.no_grad():
        wanted = scaled(any_subject, found)(input_ids=tokens, use_cache=False).logits
        dense = any_subject.model(input_ids=tokens, use_cache=False).logits
        with ddp.gate_readers(any_subject, found):
            ours = any_subject.model(input_ids=tokens, use_cache=False).logits
    torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-4)
    assert (ours - dense).abs().max() > 0.1
    assert hooks(any_subject) == 0


def test_oracle_losses_are_those_of_the_scaled_model_summed_token_by_token() -> None:
    subject = tiny_subject()
    found, tokens = random_gates(subject), page_tokens(subject, 2)
    ce, kl = ddp.gated_losses(subject, tokens, found)
    with torch.no_grad():
        ours = scaled(subject, found)(input_ids=tokens, use_cache=False).logits.double().softmax(-1)
        dense = subject.model(input_ids=tokens, use_cache=False).logits.double().softmax(-1)
    surprise, distance = [], []
    for sample in range(2):
        for place in range(LENGTH):
            p, q = dense[sample, place], ours[sample, place]
            distance.append(sum(p[v].item() * math.log(p[v].item() / q[v].item()) for v in range(len(p))))
            if place + 1 < LENGTH:
                surprise.append(-math.log(q[tokens[sample, place + 1]].item()))
    assert ce.item() == pytest.approx(sum(surprise) / len(surprise), rel=1e-4)
    assert kl.item() == pytest.approx(sum(distance) / len(distance), rel=1e-4)
    assert kl > 0.05


@pytest.mark.parametrize("unit", ["kv-group", "query-head"])
def test_oracle_gradients_of_the_latents_are_finite_differences(unit: Any) -> None:
    subject = tiny_subject()
    tokens = page_tokens(subject, 2)
    trainer = ddp.Trainer(subject, Training(0.3), unit)

    def loss() -> Tensor:
        return sum(ddp.gated_losses(subject, tokens, trainer.gates()))  # type: ignore[return-value]

    found = torch.autograd.grad(loss(), [trainer.heads, trainer.channels])
    with torch.no_grad():
        for latents, gradient in zip((trainer.heads, trainer.channels), found, strict=True):
            for place in gradient.abs().topk(3).indices.tolist():
                around = []
                for change in (1e-2, -2e-2):
                    latents[place] += change
                    around.append(loss().item())
                latents[place] += 1e-2
                assert (around[0] - around[1]) / 2e-2 == pytest.approx(gradient[place].item(), rel=0.03)


# training


def test_stopping_half_way_leaves_the_dense_model_bit_for_bit_as_it_was() -> None:
    subject = tiny_subject()
    subject.model.get_input_embeddings().weight.requires_grad_(True)  # somebody else's business
    before = {name: value.clone() for name, value in subject.model.state_dict().items()}
    trainable = [p.requires_grad for p in subject.model.parameters()]
    tokens = page_tokens(subject)
    with torch.no_grad():
        logits = subject.model(input_ids=tokens[:2]).logits
    job = train_gates(subject, tokens, Training(0.3, steps=20, lr_gate=0.5), "kv-group")
    for _ in range(5):
        next(job)
        assert hooks(subject) == 0
        with torch.no_grad():  # while the training waits, the model is the dense one for everybody
            assert torch.equal(subject.model(input_ids=tokens[:2]).logits, logits)
    job.close()
    assert all(torch.equal(before[name], value) for name, value in subject.model.state_dict().items())
    assert [p.requires_grad for p in subject.model.parameters()] == trainable
    assert all(p.grad is None for p in subject.model.parameters())
    assert hooks(subject) == 0
    assert not subject.model.training


def test_a_forward_that_fails_leaves_no_hook_behind() -> None:
    subject = tiny_subject()
    calls = []

    def fail(*_: Any) -> None:
        calls.append(hooks(subject))
        if len(calls) == 2:  # the first forward is the dense one
            raise RuntimeError("out of memory")

    handle = subject.layers[-1].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        run(subject, Training(0.3, steps=2))
    assert calls == [1, 1 + 2 * len(subject.layers)]
    handle.remove()
    assert hooks(subject) == 0


@pytest.mark.parametrize(("target", "unit"), [(0.25, "query-head"), (0.5, "kv-group")])
def test_training_keeps_what_was_asked_for(target: float, unit: Any) -> None:
    seen, found = run(tiny_subject(), Training(target, steps=60, tokens_per_step=128), unit)
    for kept in ("kept_heads", "kept_channels"):
        assert seen[0].result[kept] > 0.95
        assert seen[-1].result[kept] == pytest.approx(1 - target, abs=0.05)
    dropped = torch.cat([layer.channels for layer in found]) < 0.1
    assert dropped.float().mean().item() == pytest.approx(target, abs=0.05)


def test_training_finds_the_units_that_do_nothing() -> None:
    subject = tiny_subject()
    random = torch.Generator().manual_seed(5)
    dead_channels, dead_heads = [], []
    with torch.no_grad():
        for layer in subject.layers:
            attention, mlp = linear_of(layer, "self_attn.o_proj"), linear_of(layer, "mlp.down_proj")
            channels = torch.randperm(96, generator=random)[:48]
            heads = torch.randperm(6, generator=random)[:3]
            mlp.weight[:, channels] *= 1e-3
            attention.weight.view(48, 6, 8)[:, heads] *= 1e-3
            dead_channels.append(channels)
            dead_heads.append(heads)
    # to a random model a head may well be a nuisance: here it is to stay itself, not to predict the page
    _, found = run(subject, Training(0.5, steps=60, tokens_per_step=128, distill=20))
    channels = torch.cat([layer.channels for layer in found]).argsort()[: 3 * 48]
    heads = torch.cat([layer.heads for layer in found]).argsort()[: 3 * 3]
    dead = torch.cat([c + 96 * i for i, c in enumerate(dead_channels)])
    silent = torch.cat([h + 6 * i for i, h in enumerate(dead_heads)])
    assert torch.isin(channels, dead).float().mean() > 0.95
    assert sorted(heads.tolist()) == sorted(silent.tolist())


def test_without_multipliers_the_loss_falls() -> None:
    subject = tiny_subject()
    tokens = page_tokens(subject, 4)
    free = Training(0.3, steps=30, tokens_per_step=4 * LENGTH, lr_lambda=0, lr_square=0)
    seen, _ = run(subject, free, tokens=tokens)  # every batch is the same four samples
    loss = [p.result["loss"] for p in seen]
    assert loss[-1] < loss[0] - 0.2
    assert loss[0] == pytest.approx(seen[0].result["ce"] + 2 * seen[0].result["kl"], rel=1e-5)


def test_the_pull_of_the_multipliers_rises_then_the_loss_falls_as_the_target_is_met() -> None:
    seen, _ = run(tiny_subject(), Training(0.3, steps=60, tokens_per_step=128))
    loss = [p.result["loss"] for p in seen]
    peak = max(loss[:60])
    assert peak > loss[0] + 0.5
    assert sum(loss[-5:]) / 5 < peak - 0.5


def test_the_multipliers_climb_and_no_latent_sinks_out_of_reach() -> None:
    subject = tiny_subject()
    tokens = page_tokens(subject, 2)
    trainer = ddp.Trainer(subject, Training(0.3, steps=100, lr_gate=0.1, warmup=0), "query-head")
    for number in range(4):
        trainer.step(number, tokens)
    assert (trainer.square > 0).all()  # λ2 and λ3 belong to terms that are never below 0
    assert (trainer.linear[:, 1] >= 0).all()
    assert (trainer.linear[:, 0] < 0).all()  # too little is removed so far: more must lower the loss
    for latents in (trainer.heads, trainer.channels):
        assert latents.min().item() == pytest.approx(-0.1)
    assert all(layer.heads.min() >= 0 and layer.channels.min() >= 0 for layer in trainer.gates())


def test_a_group_shares_its_gate_and_heads_do_not() -> None:
    subject = tiny_subject()
    _, grouped = run(subject, Training(0.3, steps=3), "kv-group")
    _, single = run(subject, Training(0.3, steps=3), "query-head")
    for group, head in zip(grouped, single, strict=True):
        pairs = group.heads.view(3, 2)
        assert torch.equal(pairs[:, 0], pairs[:, 1])
        assert len(pairs[:, 0].unique()) == 3
        assert len(head.heads.unique()) == 6


def test_the_same_seed_gives_the_same_gates_whatever_the_caller_has_drawn() -> None:
    subject, training = tiny_subject(), Training(0.3, steps=6, seed=3)
    first = run(subject, training)
    torch.manual_seed(99)
    again = run(subject, training)
    other = run(subject, Training(0.3, steps=6, seed=4))
    assert [p.result for p in first[0]] == [p.result for p in again[0]]
    for a, b, c in zip(first[1], again[1], other[1], strict=True):
        assert torch.equal(a.heads, b.heads)
        assert torch.equal(a.channels, b.channels)
        assert not torch.equal(a.channels, c.channels)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_caller_without_gradients_gets_the_same_gates(mode: Any) -> None:
    subject, training = tiny_subject(), Training(0.3, steps=4)
    _, wanted = run(subject, training)
    with mode():
        _, found = run(subject, training, tokens=page_tokens(subject))
        assert not torch.is_grad_enabled()
    for a, b in zip(wanted, found, strict=True):
        assert torch.equal(a.heads, b.heads)
        assert torch.equal(a.channels, b.channels)


def test_every_family_can_be_trained(any_subject: Subject) -> None:
    seen, found = run(any_subject, Training(0.3, steps=2), "kv-group")
    start, _ = run(any_subject, Training(0.3, steps=2, lr_gate=0), "kv-group")
    assert [p.done for p in seen] == [1, 2]
    assert seen[1].result["ce"] != start[1].result["ce"]
    for layer, shape in zip(found, any_subject.shape.layers, strict=True):
        assert (layer.heads.shape, layer.channels.shape) == ((shape.heads,), (shape.channels,))
        for values in (layer.heads, layer.channels):
            assert values.dtype == torch.float32
            assert values.min() >= 0
            assert not values.requires_grad


def test_gates_of_a_bfloat16_model_are_learned_in_float32() -> None:
    subject = tiny_subject()
    subject.model.bfloat16()
    seen, found = run(subject, Training(0.3, steps=2, lr_gate=1e-4))
    assert all(math.isfinite(value) for value in seen[-1].result.values())
    values = torch.cat([layer.channels for layer in found])
    assert values.dtype == torch.float32
    assert not torch.equal(values, values.bfloat16().float())
    assert len(values.unique()) > 250  # bfloat16 knows only a dozen values around 1


def test_progress_can_be_drawn() -> None:
    seen, _ = run(tiny_subject(), Training(0.3, steps=3))
    assert [(p.stage, p.done, p.total) for p in seen] == [("gates", step, 3) for step in (1, 2, 3)]
    assert set(seen[0].result) == {"loss", "ce", "kl", "kept_heads", "kept_channels"}
    assert "heads" in seen[0].words


def test_every_sample_is_seen_before_any_comes_again() -> None:
    tokens = torch.arange(10).view(5, 2)
    taken = ddp.sample_batches(tokens, 2, torch.Generator().manual_seed(0))
    first = torch.cat([next(taken) for _ in range(5)])
    assert first.shape == (10, 2)
    assert sorted(first[:5, 0].tolist()) == sorted(first[5:, 0].tolist()) == [0, 2, 4, 6, 8]
    assert first[:5].tolist() != first[5:].tolist()
    assert len(next(ddp.sample_batches(tokens, 12, torch.Generator()))) == 12


@pytest.mark.parametrize(
    ("training", "tokens", "words"),
    [
        (Training(0.0), torch.zeros(2, 8), "0%"),
        (Training(1.0), torch.zeros(2, 8), "100%"),
        (Training(math.nan), torch.zeros(2, 8), "nan"),
        (Training(0.3, steps=0), torch.zeros(2, 8), "0 steps"),
        (Training(0.3), torch.zeros(2, 1), "2 tokens"),
        (Training(0.3), torch.zeros(0, 8), "2 tokens"),
    ],
)
def test_what_cannot_be_trained_is_refused(training: Training, tokens: Tensor, words: str) -> None:
    with pytest.raises(Refusal, match=words):
        run(tiny_subject(), training, tokens=tokens.long())


def test_a_training_that_diverges_is_refused() -> None:
    subject = tiny_subject()
    with torch.no_grad():
        linear_of(subject.layers[0], "mlp.down_proj").weight[0, 0] = math.nan
    with pytest.raises(Refusal, match="diverged at step 1"):
        run(subject, Training(0.3, steps=2))


def test_units_other_than_whole_heads_are_refused() -> None:
    with pytest.raises(Refusal, match="value-column"):
        run(tiny_subject(), Training(0.3, steps=1), "value-column")
