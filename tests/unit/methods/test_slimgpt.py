"""Claims about elimination: every step equals one that solves all anew; sets are nested, balanced; pins hold.

The naive versions below update no inverse: for every candidate they solve for the best weights of what would
be left and take the difference of the errors.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from slimllm.core.shapes import Grouping
from slimllm.core.types import Moments
from slimllm.methods import slimgpt
from slimllm.methods.recovery import least_squares
from slimllm.methods.slimgpt import (
    batch_size,
    cholesky_error,
    column_errors,
    damped_error,
    eliminate_channels,
    eliminate_heads,
    remove_inputs,
    start_elimination,
)

KV = [Grouping(4, 4, "kv-group"), Grouping(8, 4, "kv-group")]
BALANCED = [Grouping(6, 2, "query-head"), Grouping(9, 3, "query-head")]
SIZE, OUTPUTS = 3, 5

pytestmark = pytest.mark.usefixtures("one_thread")


def named(grouping: Grouping) -> str:
    return f"{grouping.heads}q{grouping.groups}kv-{grouping.unit}"


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def activations(d: int, seed: int, tokens: int = 90) -> Tensor:
    """Correlated features of very different size (t, d), so that compensation changes who is cheapest."""
    mixed = normal(tokens, d, seed=seed) @ (torch.eye(d) + 1.5 * normal(d, d, seed=seed + 1) / d**0.5)
    return mixed * normal(d, seed=seed + 2).exp()


def case(d: int, seed: int) -> tuple[Tensor, Tensor]:
    """weight (o, d) and gram (d, d)."""
    x = activations(d, seed)
    return normal(OUTPUTS, d, seed=seed + 3), x.T @ x / len(x)


def damp(gram: Tensor, damping: float = 1e-2) -> Tensor:
    return gram + damping * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)


def best_weights(weight: Tensor, damped: Tensor, kept: list[int]) -> Tensor:
    """The weights (o, d), zero outside `kept`, with the least damped error: the normal equations, solved."""
    found = torch.zeros_like(weight)
    if kept:
        found[:, kept] = torch.linalg.solve(damped[kept][:, kept], damped[kept] @ weight.T).T
    return found


def naive_error(weight: Tensor, damped: Tensor, kept: list[int]) -> float:
    change = weight - best_weights(weight, damped, kept)
    return float((change @ damped * change).sum())


def without(items: list[int], lost: list[int]) -> list[int]:
    return [i for i in items if i not in lost]


def naive_channels(weight: Tensor, gram: Tensor, smallest: int) -> tuple[list[int], list[float]]:
    """The channels in the order of removal, and the highest error met up to each of them."""
    damped, left = damp(gram), list(range(weight.shape[1]))
    gone: list[int] = []
    costs: list[float] = []
    while left:
        base = naive_error(weight, damped, left)
        errors = {j: naive_error(weight, damped, without(left, [j])) - base for j in left}
        batch = sorted(left, key=lambda j: errors[j])[: max(smallest, len(left) // 16)]
        for j in batch:
            costs.append(max([errors[j], *costs[-1:]]))
        gone, left = gone + batch, without(left, batch)
    return gone, costs


def inputs_of(units: list[int], grouping: Grouping) -> list[int]:
    width = grouping.heads // grouping.units * SIZE
    return [u * width + i for u in units for i in range(width)]


def naive_unit_error(
    weight: Tensor, damped: Tensor, grouping: Grouping, left: list[int], unit: int, exact: bool
) -> float:
    """What losing one unit costs: the true rise of the error, or grouped Cholesky from a new inverse."""
    kept, block = inputs_of(left, grouping), inputs_of([unit], grouping)
    if exact:
        rest = without(kept, block)
        return naive_error(weight, damped, rest) - naive_error(weight, damped, kept)
    inverse = torch.linalg.inv(damped[kept][:, kept])
    place = [kept.index(i) for i in block]
    root = torch.linalg.cholesky(inverse[place][:, place])
    columns = best_weights(weight, damped, kept)[:, block]
    return sum(float(columns[:, j].square().sum() / root[j, j] ** 2) for j in range(len(block)))


def naive_heads(
    weight: Tensor, gram: Tensor, grouping: Grouping, exact: bool
) -> tuple[list[list[int]], list[float]]:
    """The kept units at every width, none to all, and each unit's cost, never below its pool's before."""
    damped, pools = damp(gram), grouping.pools.tolist()
    left, kept = list(range(grouping.units)), [list(range(grouping.units))]
    costs = [0.0] * grouping.units
    for _ in range(grouping.steps):
        due = set(pools)
        while due:
            errors = {
                u: naive_unit_error(weight, damped, grouping, left, u, exact) for u in left if pools[u] in due
            }
            unit = min(errors, key=lambda u: errors[u])
            earlier = [costs[u] for u in range(grouping.units) if u not in left and pools[u] == pools[unit]]
            costs[unit] = max([errors[unit], *earlier])
            left = without(left, [unit])
            due.remove(pools[unit])
        kept.insert(0, left)
    return kept, costs


# Channels --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smallest", [1, 8], ids=["one by one", "batches"])
def test_oracle_channel_elimination(smallest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slimgpt, "SMALLEST", smallest)
    for seed in (0, 10, 20):
        weight, gram = case(36, seed)
        gone, costs = naive_channels(weight, gram, smallest)
        found = eliminate_channels(weight, gram)
        assert found.order.tolist() == gone[::-1]
        torch.testing.assert_close(
            found.scores[gone], torch.tensor(costs, dtype=torch.float64), rtol=1e-7, atol=0
        )


def test_batches_shrink_with_what_is_left() -> None:
    assert [batch_size(n) for n in (3, 8, 100, 160, 1536, 14_336, 40_000)] == [3, 8, 8, 10, 96, 896, 1024]


def test_judging_anew_differs_from_sorting_once_and_lowers_the_error() -> None:
    weight, gram = case(36, seed=30)
    once = column_errors(start_elimination(weight, gram)).argsort(descending=True)
    again = eliminate_channels(weight, gram).order
    before, after = (naive_error(weight, damp(gram), order[:12].tolist()) for order in (once, again))
    assert set(once[:12].tolist()) != set(again[:12].tolist())
    assert after < before


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_sorting_by_score_gives_the_order_of_elimination(dtype: torch.dtype) -> None:
    for seed in range(5):
        weight, gram = case(50, seed)
        found = eliminate_channels(weight.to(dtype), gram.to(dtype))
        assert found.scores.dtype == torch.float64
        assert torch.equal(found.scores.argsort(descending=True, stable=True), found.order)


def test_the_arguments_stay_as_they_are() -> None:
    weight, gram = case(24, seed=1)
    before = weight.clone(), gram.clone()
    eliminate_channels(weight, gram)
    eliminate_heads(weight, gram, KV[1])
    assert torch.equal(weight, before[0])
    assert torch.equal(gram, before[1])


# Compensation ----------------------------------------------------------------------------------------------


def test_oracle_compensation_is_ridge_least_squares_towards_the_old_weights() -> None:
    """After any removals the weights are those of one fit on activations with the ridge as further rows."""
    x, weight = activations(20, seed=2), normal(OUTPUTS, 20, seed=5)
    gram = x.T @ x / len(x)
    left = start_elimination(weight, gram)
    for lost in ([3, 4, 11], [0], [2, 9, 10, 13]):
        left = remove_inputs(left, torch.tensor(lost))
    kept = left.alive.tolist()
    assert len(kept) == 12
    root = (1e-2 * gram.diagonal().mean()).sqrt()
    inputs = torch.cat((x[:, kept] / len(x) ** 0.5, root * torch.eye(12, dtype=torch.float64)))
    targets = torch.cat((x @ weight.T / len(x) ** 0.5, root * weight[:, kept].T))
    fitted = torch.linalg.lstsq(inputs, targets).solution.T
    torch.testing.assert_close(left.weight, fitted, rtol=1e-8, atol=1e-10)
    same = least_squares(weight, Moments(torch.zeros(20, dtype=torch.float64), gram, len(x)), left.alive)
    torch.testing.assert_close(left.weight, same.weight, rtol=1e-8, atol=1e-10)
    damped = damp(gram)[kept][:, kept]
    torch.testing.assert_close(left.inverse, torch.linalg.inv(damped), rtol=1e-8, atol=1e-10)


def test_compensation_holds_on_an_ill_conditioned_gram() -> None:
    """Twelve orders of magnitude between directions, and twins: one hundred removals lose few digits."""
    d = 120
    basis = torch.linalg.qr(normal(d, d, seed=6)).Q
    gram = (basis * torch.logspace(0, -12, d, dtype=torch.float64)) @ basis.T
    twin = torch.cat((torch.arange(d), torch.arange(4)))
    gram, weight = gram[twin][:, twin], normal(OUTPUTS, d + 4, seed=7)
    for damping, tolerance in ((1e-2, 1e-11), (1e-6, 1e-7)):
        left = start_elimination(weight, gram, damping)
        for _ in range(100):
            left = remove_inputs(left, torch.tensor([len(left.alive) // 3]))
        exact = best_weights(weight, damp(gram, damping), left.alive.tolist())[:, left.alive]
        assert (left.weight - exact).norm() < tolerance * exact.norm()


def test_no_damping_counts_as_the_least_that_updates_can_bear() -> None:
    weight, gram = case(24, seed=8)
    none, least = (eliminate_channels(weight, gram, damping=d) for d in (0.0, slimgpt.LEAST_DAMPING))
    assert torch.equal(none.scores, least.scores)
    assert not torch.equal(none.scores, eliminate_channels(weight, gram, damping=1e-4).scores)


def test_a_gram_that_is_lopsided_by_rounding_counts_as_its_mean_with_its_mirror() -> None:
    weight, gram = case(12, seed=9)
    lopsided = gram + 0.01 * normal(12, 12, seed=10).triu(1)
    found, straight = (
        start_elimination(weight, lopsided),
        start_elimination(weight, (lopsided + lopsided.T) / 2),
    )
    assert torch.equal(found.inverse, straight.inverse)


# Heads -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exact", [True, False], ids=["exact", "cholesky"])
@pytest.mark.parametrize("grouping", [*KV, *BALANCED], ids=named)
def test_oracle_head_elimination(grouping: Grouping, exact: bool) -> None:
    for seed in (40, 50):
        weight, gram = case(grouping.heads * SIZE, seed)
        kept, costs = naive_heads(weight, gram, grouping, exact)
        found = eliminate_heads(weight, gram, grouping, exact=exact)
        unit_of = grouping.unit_of_head().tolist()
        members = grouping.heads // grouping.units
        for step, units in enumerate(kept):
            heads = [h for h in range(grouping.heads) if unit_of[h] in units]
            assert found.kept(step * grouping.heads // grouping.steps).tolist() == heads
        expected = torch.tensor([costs[u] / members for u in unit_of], dtype=torch.float64)
        torch.testing.assert_close(found.scores, expected, rtol=1e-7, atol=0)
        assert found.order.tolist() == sorted(range(grouping.heads), key=lambda h: -expected[h])


def test_exact_and_cholesky_choices_differ_somewhere() -> None:
    differ = 0
    for seed in range(10):
        weight, gram = case(24, seed)
        pair = [eliminate_heads(weight, gram, KV[1], exact=e).subsets for e in (True, False)]
        differ += not torch.equal(*pair)
    assert differ


def test_oracle_errors_of_blocks_are_the_true_rise_of_the_damped_error() -> None:
    weight, gram = case(18, seed=60)
    left = start_elimination(weight, gram)
    for lost in ([1, 2], [0, 7, 8]):  # from the dense reader, and from one that has lost something
        kept = left.alive.tolist()
        base = naive_error(weight, damp(gram), kept)
        for block in (lost, [5], list(range(len(kept)))):
            rest = [j for i, j in enumerate(kept) if i not in block]
            rise = naive_error(weight, damp(gram), rest) - base
            assert float(damped_error(left, torch.tensor(block))) == pytest.approx(rise, rel=1e-8)
        left = remove_inputs(left, torch.tensor(lost))
    single = torch.stack([damped_error(left, torch.tensor([j])) for j in range(len(left.alive))])
    torch.testing.assert_close(column_errors(left), single)


def test_grouped_cholesky_is_never_above_the_exact_error_of_orthogonal_columns() -> None:
    strictly = 0
    for seed in range(10):
        _, gram = case(12, seed)
        weight = torch.linalg.qr(normal(12, 12, seed=seed + 3)).Q * normal(12, seed=seed + 4)
        left, block = start_elimination(weight, gram), torch.arange(3, 8)
        grouped, exact = float(cholesky_error(left, block)), float(damped_error(left, block))
        assert grouped <= exact * (1 + 1e-12)
        strictly += grouped < exact * 0.99
        alone = torch.tensor([4])
        torch.testing.assert_close(cholesky_error(left, alone), damped_error(left, alone))
    assert strictly


def test_grouped_cholesky_can_be_above_the_exact_error_of_columns_that_are_alike() -> None:
    """The inequality is no law: losing x₁ + r·x₂ costs less than its parts where x₁ and x₂ cancel."""
    gram = torch.tensor([[1.0, -0.9], [-0.9, 1.0]], dtype=torch.float64)
    left = start_elimination(torch.tensor([[1.0, 0.9]]), gram)
    both = torch.tensor([0, 1])
    assert float(cholesky_error(left, both)) > 2 * float(damped_error(left, both))


# Nested, balanced, pinned, finite --------------------------------------------------------------------------


@st.composite
def pinned_groupings(draw: st.DrawFn) -> tuple[Grouping, Tensor, int, bool]:
    groups, per = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    unit = draw(st.sampled_from(["kv-group", "query-head"]))
    pins = draw(st.lists(st.sampled_from([0, 0, 0, 1, -1]), min_size=groups * per, max_size=groups * per))
    seed, exact = draw(st.integers(0, 1000)), draw(st.booleans())
    return Grouping(groups * per, groups, unit), torch.tensor(pins), seed, exact


@settings(max_examples=60, deadline=None)
@given(pinned_groupings())
def test_head_sets_are_nested_balanced_and_honour_pins(drawn: tuple[Grouping, Tensor, int, bool]) -> None:
    grouping, pins, seed, exact = drawn
    weight, gram = case(grouping.heads * 2, seed)
    found = eliminate_heads(weight, gram, grouping, exact=exact, pinned=pins)
    assert found.subsets is not None
    assert found.subsets.shape == (grouping.steps + 1, grouping.heads)
    assert torch.isfinite(found.scores).all()
    assert sorted(found.order.tolist()) == list(range(grouping.heads))
    group_of = torch.arange(grouping.heads) // (grouping.heads // grouping.groups)
    rank = pins.clone()  # what decides who goes first: a whole group follows its strongest pin
    if grouping.unit == "kv-group":
        for group in range(grouping.groups):
            mine = pins[group_of == group]
            rank[group_of == group] = 1 if (mine == 1).any() else -1 if (mine == -1).any() else 0
    pools = group_of if grouping.unit == "query-head" else torch.zeros_like(group_of)
    for step, kept in enumerate(found.subsets):
        assert not (kept & ~found.subsets[min(step + 1, grouping.steps)]).any()
        assert int(kept.sum()) == step * grouping.heads // grouping.steps
        whole_groups = {0, grouping.heads // grouping.groups} if grouping.unit == "kv-group" else {step}
        assert {int(kept[group_of == g].sum()) for g in range(grouping.groups)} <= whole_groups
        for pool in range(int(pools.max()) + 1):
            mine = pools == pool
            inside, outside = rank[mine & kept].tolist(), rank[mine & ~kept].tolist()
            assert not inside or not outside or min(inside) >= max(outside)


def test_pinned_channels_go_first_or_last_and_do_not_lift_the_scores_of_others() -> None:
    weight, gram = case(40, seed=70)
    free = eliminate_channels(weight, gram)
    forced, protected = (
        free.order[:3],
        free.order[-10:],
    )  # what would stay, and more than one batch that would go
    pinned = torch.zeros(40, dtype=torch.int64)
    pinned[forced], pinned[protected] = -1, 1
    found = eliminate_channels(weight, gram, pinned=pinned)
    assert set(found.order[-3:].tolist()) == set(forced.tolist())
    assert set(found.order[:10].tolist()) == set(protected.tolist())
    assert sorted(found.order.tolist()) == list(range(40))
    others = found.order[10:-3]
    assert found.scores[others].min() < found.scores[forced].min()
    assert (found.scores[others].diff() < 0).all()


@pytest.mark.parametrize("damping", [0.0, 1e-2])
@pytest.mark.parametrize("kind", ["dead", "dead site", "one token", "twins", "sink", "no weight"])
def test_broken_inputs_give_finite_scores_and_complete_orders(kind: str, damping: float) -> None:
    x, weight = activations(24, seed=80), normal(OUTPUTS, 24, seed=81)
    if kind == "dead":
        x[:, 3] = 0
    elif kind == "dead site":
        x[:] = 0
    elif kind == "one token":
        x = x[:1]
    elif kind == "twins":
        x[:, 12:] = x[:, :12]
    elif kind == "sink":
        x[0] *= 1e6
    else:
        weight = torch.zeros_like(weight)
    gram = x.T @ x / len(x)
    found = [
        eliminate_channels(weight, gram, damping=damping),
        eliminate_heads(weight, gram, KV[1], damping=damping),
        eliminate_heads(weight, gram, KV[1], damping=damping, exact=True),
    ]
    for ranking in found:
        assert torch.isfinite(ranking.scores).all()
        assert (ranking.scores >= 0).all()
        assert sorted(ranking.order.tolist()) == list(range(len(ranking.scores)))


def test_of_twins_one_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slimgpt, "SMALLEST", 1)
    x, weight = activations(16, seed=82), normal(OUTPUTS, 16, seed=83)
    x[:, 8:] = x[:, :8]
    found = eliminate_channels(weight, x.T @ x / len(x), damping=0.0)
    assert sorted(j % 8 for j in found.kept(8).tolist()) == list(range(8))


def test_a_dead_channel_goes_first_and_costs_nothing_but_the_damping() -> None:
    x, weight = activations(12, seed=84), normal(OUTPUTS, 12, seed=85)
    x[:, 5] = 0
    gram = x.T @ x / len(x)
    found = eliminate_channels(weight, gram, damping=1e-6)
    assert int(found.order[-1]) == 5
    expected = 1e-6 * float(gram.diagonal().mean() * weight[:, 5].square().sum())
    assert float(found.scores[5]) == pytest.approx(expected, rel=1e-6)
