"""Claims about scores: every ranking equals a naive one on activations; broken inputs give no NaN; pins hold.

The naive versions below never see moments: they sum head outputs, correlate them and search in plain loops.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from slimllm.core.shapes import Grouping, LayerShape
from slimllm.core.types import Moments, Pin, Ranking
from slimllm.methods import scores
from slimllm.methods.method_table import METHODS, fill_options
from slimllm.methods.rankings import ChannelSite, HeadSite
from slimllm.planning.budget import bounds_of

KV = [Grouping(6, 6, "kv-group"), Grouping(8, 4, "kv-group"), Grouping(12, 6, "kv-group")]
BALANCED = [Grouping(6, 2, "query-head"), Grouping(8, 2, "query-head"), Grouping(9, 3, "query-head")]
GROUPINGS = [*KV, *BALANCED]
HEADED = [name for name, row in METHODS.items() if "value-column" not in row.units]  # the others cut no heads
SIZE, OUTPUTS, TOKENS = 3, 5, 60


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Matrices this small are many times faster on one thread, above all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def named(grouping: Grouping) -> str:
    return f"{grouping.heads}q{grouping.groups}kv-{grouping.unit}"


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def activations(t: int, d: int, seed: int) -> Tensor:
    """Correlated features with a mean that is not zero (t, d)."""
    return normal(t, d, seed=seed) @ normal(d, d, seed=seed + 1) / d**0.5 + normal(d, seed=seed + 2)


def moments_of(x: Tensor) -> Moments:
    return Moments(x.mean(0), x.T @ x / len(x), len(x))


def head_case(grouping: Grouping, seed: int) -> tuple[Tensor, Tensor]:
    """Activations (t, d) and o_proj (o, d) for a grouping."""
    d = grouping.heads * SIZE
    return activations(TOKENS, d, seed), normal(OUTPUTS, d, seed=seed + 3)


def channel_case(seed: int) -> tuple[Tensor, Tensor, list[Tensor], Tensor]:
    """A gated MLP: input (t, o), down_proj (o, c), both writers (c, o), its channels' activations (t, c)."""
    x, gate, up = activations(TOKENS, 6, seed), normal(16, 6, seed=seed + 5), normal(16, 6, seed=seed + 6)
    return x, normal(6, 16, seed=seed + 7), [gate, up], torch.nn.functional.silu(x @ gate.T) * (x @ up.T)


def head_ranking(name: str, x: Tensor, weight: Tensor, grouping: Grouping, **options: bool) -> Ranking:
    site = HeadSite(weight, moments_of(x), grouping, learned=normal(grouping.heads, seed=21).abs())
    return METHODS[name].heads(site, fill_options(name, options))


def channel_ranking(name: str, seed: int, pinned: Tensor | None = None, **options: bool) -> Ranking:
    x, down, writers, inner = channel_case(seed)
    learned = normal(16, seed=22).abs()
    site = ChannelSite(down, moments_of(inner), writers, x.square().mean(0), pinned, learned=learned)
    return METHODS[name].channels(site, fill_options(name, options))


def unit_outputs(x: Tensor, weight: Tensor, grouping: Grouping, per_head: bool = False) -> Tensor:
    """What each unit (or head) adds to the output (n, t, o)."""
    heads = [
        x[:, h * SIZE : (h + 1) * SIZE] @ weight[:, h * SIZE : (h + 1) * SIZE].T
        for h in range(grouping.heads)
    ]
    if per_head or grouping.unit == "query-head":
        return torch.stack(heads)
    per = grouping.heads // grouping.groups
    return torch.stack([sum(heads[g * per : (g + 1) * per], torch.zeros(())) for g in range(grouping.groups)])


def naive_similarity(outputs: Tensor, kept: list[int]) -> float:
    """SlimLLM's s(S) by torch.corrcoef on activations; a constant output counts 0."""
    part, whole, found = outputs[kept].sum(0), outputs.sum(0), 0.0
    for k in range(outputs.shape[2]):
        pair = torch.stack((part[:, k], whole[:, k]))
        if (pair.std(1) > 1e-9 * (1 + pair.abs().amax(1))).all():
            found += float(torch.corrcoef(pair)[0, 1].abs())
    return found


def naive_start(values: list[float], step: int, grouping: Grouping) -> list[int]:
    """The `step` best units of every pool."""
    pools = grouping.pools.tolist()
    kept = []
    for pool in sorted(set(pools)):
        members = [u for u in range(len(pools)) if pools[u] == pool]
        kept += sorted(members, key=lambda u: -values[u])[:step]
    return kept


def naive_search(outputs: Tensor, kept: list[int], values: list[float], grouping: Grouping) -> list[int]:
    """One pass over the cut units, least important first, each taking its best strictly improving swap."""
    pools = grouping.pools.tolist()
    cut = sorted((u for u in range(len(outputs)) if u not in kept), key=lambda u: values[u])
    for new in cut:
        best = naive_similarity(outputs, kept)
        swap = kept
        for old in kept:
            trial = [u for u in kept if u != old] + [new]
            value = naive_similarity(outputs, trial)
            if pools[old] == pools[new] and value > best:
                best, swap = value, trial
        kept = swap
    return kept


def naive_head_subsets(x: Tensor, weight: Tensor, grouping: Grouping, search: bool) -> list[list[int]]:
    """The kept heads at every step, in ascending order."""
    outputs = unit_outputs(x, weight, grouping)
    everyone = list(range(len(outputs)))
    values = [-naive_similarity(outputs, [v for v in everyone if v != u]) for u in everyone]
    found = []
    for step in range(grouping.steps + 1):
        kept = naive_start(values, step, grouping)
        kept = naive_search(outputs, kept, values, grouping) if search else kept
        found.append([h for h, u in enumerate(grouping.unit_of_head().tolist()) if u in kept])
    return found


def kept_at_every_step(ranking: Ranking, grouping: Grouping) -> list[list[int]]:
    return [ranking.kept(j * grouping.heads // grouping.steps).tolist() for j in range(grouping.steps + 1)]


# Heads -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grouping", GROUPINGS, ids=named)
def test_oracle_head_covariance(grouping: Grouping) -> None:
    x, weight = head_case(grouping, seed=1)
    outputs = unit_outputs(x, weight, grouping, per_head=True)  # (H, t, o)
    centred = outputs - outputs.mean(1, keepdim=True)
    expected = torch.einsum("gto,hto->ogh", centred, centred) / len(x)
    torch.testing.assert_close(scores.head_covariance(moments_of(x).cov, weight, grouping.heads), expected)


@pytest.mark.parametrize("grouping", GROUPINGS, ids=named)
def test_oracle_pearson_head_scores(grouping: Grouping) -> None:
    x, weight = head_case(grouping, seed=2)
    outputs = unit_outputs(x, weight, grouping, per_head=True)
    everyone = list(range(grouping.heads))
    whole = naive_similarity(outputs, everyone)
    naive = [(whole - naive_similarity(outputs, [g for g in everyone if g != h])) / OUTPUTS for h in everyone]
    found = head_ranking("slimllm", x, weight, grouping)
    torch.testing.assert_close(found.scores, torch.tensor(naive, dtype=torch.float64), atol=1e-10, rtol=1e-8)
    assert found.order.tolist() == sorted(everyone, key=lambda h: -naive[h])


def test_oracle_similarity_of_any_subset() -> None:
    grouping = Grouping(5, 5, "kv-group")
    x, weight = head_case(grouping, seed=3)
    cov = scores.head_covariance(moments_of(x).cov, weight, 5)
    outputs = unit_outputs(x, weight, grouping)
    for code in range(2**5):
        kept = torch.tensor([bool(code >> h & 1) for h in range(5)])
        naive = naive_similarity(outputs, kept.nonzero().flatten().tolist())
        assert float(scores.kept_similarity(cov, kept)) == pytest.approx(naive, abs=1e-9)


@pytest.mark.parametrize("grouping", GROUPINGS, ids=named)
@pytest.mark.parametrize("search", [True, False], ids=["greedy", "plain"])
def test_oracle_pearson_head_subsets(grouping: Grouping, search: bool) -> None:
    for seed in (10, 20, 30):
        x, weight = head_case(grouping, seed)
        found = head_ranking("slimllm", x, weight, grouping, greedy=search)
        assert kept_at_every_step(found, grouping) == naive_head_subsets(x, weight, grouping, search)


@pytest.mark.parametrize("unit", [KV, BALANCED], ids=["kv-group", "query-head"])
def test_greedy_search_changes_some_sets_and_never_lowers_similarity(unit: list[Grouping]) -> None:
    changed = 0
    for grouping in unit:
        x, weight = head_case(grouping, seed=40)
        outputs = unit_outputs(x, weight, grouping, per_head=True)
        plain, searched = (
            kept_at_every_step(head_ranking("slimllm", x, weight, grouping, greedy=g), grouping)
            for g in (False, True)
        )
        for before, after in zip(plain, searched, strict=True):
            changed += before != after
            assert naive_similarity(outputs, after) >= naive_similarity(outputs, before) - 1e-9
    assert changed


@pytest.mark.parametrize("grouping", GROUPINGS, ids=named)
@pytest.mark.parametrize("name", ["wanda-sp", "magnitude"])
def test_oracle_summed_head_scores(name: str, grouping: Grouping) -> None:
    x, weight = head_case(grouping, seed=5)
    values = [0.0] * grouping.heads
    for j in range(x.shape[1]):
        if name == "wanda-sp":
            values[j // SIZE] += sum(abs(float(w)) for w in weight[:, j]) * float((x[:, j] ** 2).sum()) ** 0.5
        else:
            values[j // SIZE] += float((weight[:, j] ** 2).sum()) ** 0.5
    found = head_ranking(name, x, weight, grouping)
    torch.testing.assert_close(found.scores, torch.tensor(values, dtype=torch.float64))
    units = [0.0] * grouping.units
    for head, unit in enumerate(grouping.unit_of_head().tolist()):
        units[unit] += values[head]
    for step, kept in enumerate(kept_at_every_step(found, grouping)):
        best = naive_start(units, step, grouping)
        assert kept == [h for h, u in enumerate(grouping.unit_of_head().tolist()) if u in best]


# Channels --------------------------------------------------------------------------------------------------


def test_oracle_pca_channel_scores() -> None:
    x, down, writers, inner = channel_case(seed=6)
    y = inner @ down.T
    y = y - y.mean(0)
    values, vectors = torch.linalg.eigh(y.T @ y / len(y))
    weights = [1 / (1 + float(torch.exp(-abs(v) / values.abs().mean()))) for v in values]
    naive = []
    for j in range(inner.shape[1]):
        along = [float(down[:, j] @ vectors[:, i]) * weights[i] for i in range(len(weights))]
        value = float((inner[:, j] ** 2).sum()) ** 0.5 * sum(a * a for a in along) ** 0.5
        for writer in writers:
            value += (
                sum(float(writer[j, k]) ** 2 * float((x[:, k] ** 2).sum()) for k in range(x.shape[1])) ** 0.5
            )
        naive.append(value)
    found = channel_ranking("slimllm", seed=6)
    torch.testing.assert_close(found.scores, torch.tensor(naive, dtype=torch.float64))
    assert found.order.tolist() == sorted(range(len(naive)), key=lambda j: -naive[j])


def test_oracle_wanda_and_magnitude_channel_scores() -> None:
    _, down, _, inner = channel_case(seed=7)
    columns = range(inner.shape[1])
    norms = [float((down[:, j] ** 2).sum()) ** 0.5 for j in columns]
    products = [float(down[:, j].abs().sum()) * float((inner[:, j] ** 2).sum()) ** 0.5 for j in columns]
    for name, naive in (("magnitude", norms), ("wanda-sp", products)):
        found = channel_ranking(name, seed=7)
        torch.testing.assert_close(found.scores, torch.tensor(naive, dtype=torch.float64))
        assert found.kept(5).tolist() == sorted(sorted(columns, key=lambda j: -naive[j])[:5])


def test_keep_lowest_keeps_the_lowest_one_percent_and_cuts_the_next() -> None:
    values = normal(300, seed=8)
    ascending = values.argsort().tolist()
    found = scores.rank_inputs(values, keep_lowest=0.01)
    for width in (3, 4, 150, 299, 300):
        assert found.kept(width).tolist() == sorted(ascending[:3] + ascending[300 - (width - 3) :])


def test_keep_lowest_is_off_in_the_paper_preset_and_on_in_the_published_one() -> None:
    assert not fill_options("slimllm", {})["keep_lowest"]
    assert fill_options("slimllm-published", {})["keep_lowest"]
    down, inner, x = normal(4, 200, seed=1), activations(50, 200, seed=2), activations(50, 4, seed=3)
    site = ChannelSite(down, moments_of(inner), [normal(200, 4, seed=4)], x.square().mean(0))
    plain, published = (
        METHODS[n].channels(site, fill_options(n, {})) for n in ("slimllm", "slimllm-published")
    )
    assert plain.order[-2:].tolist() == published.order[:2].tolist()
    assert plain.order[:-2].tolist() == published.order[2:].tolist()


# Broken inputs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, 0.1, 1000.7], ids=["zero", "small", "large"])
def test_oracle_constant_output_counts_zero_in_pearson(value: float) -> None:
    grouping = Grouping(4, 4, "kv-group")
    x, weight = head_case(grouping, seed=50)
    x[:, 0] = x[:, 7] = value  # one constant input in head 0, one in head 2
    weight[2] = 0
    weight[2, 0], weight[2, 7] = 0.7, 0.3  # output 2 reads nothing else
    cov = scores.head_covariance(moments_of(x).cov, weight, 4)
    outputs = unit_outputs(x, weight, grouping)
    for kept in ([0], [1], [0, 1], [0, 2], [1, 2, 3], [0, 1, 2, 3]):
        mask = torch.zeros(4, dtype=torch.bool)
        mask[kept] = True
        assert float(scores.kept_similarity(cov, mask)) == pytest.approx(
            naive_similarity(outputs, kept), abs=1e-7
        )


def broken(x: Tensor, kind: str) -> Tensor:
    x = x.clone()
    if kind == "dead channel":
        x[:, 4] = 0
    elif kind == "dead site":
        x[:] = 0
    elif kind == "constant site":
        x[:] = x[:1]
    elif kind == "one token":
        x = x[:1]
    elif kind == "sink token":
        x[0] *= 1e4
    return x


@pytest.mark.parametrize("kind", ["dead channel", "dead site", "constant site", "one token", "sink token"])
@pytest.mark.parametrize("name", HEADED)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_broken_inputs_give_finite_scores_and_complete_orders(
    kind: str, name: str, dtype: torch.dtype
) -> None:
    x, weight = head_case(KV[1], seed=9)
    moments = moments_of(broken(x, kind).to(dtype))
    site = HeadSite(weight.to(dtype), moments, KV[1], learned=torch.ones(8))
    channels = ChannelSite(
        weight.to(dtype),
        moments,
        [normal(24, OUTPUTS, seed=3).to(dtype)],
        torch.zeros(OUTPUTS, dtype=dtype),
        learned=torch.ones(24),
    )
    found = (
        METHODS[name].heads(site, fill_options(name, {})),
        METHODS[name].channels(channels, fill_options(name, {})),
    )
    for ranking, n in zip(found, (8, 24), strict=True):
        assert torch.isfinite(ranking.scores).all()
        assert sorted(ranking.order.tolist()) == list(range(n))
        assert len(ranking.kept(n // 2)) == n // 2


# Invariance, kept sets, pins, chance -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["slimllm", "wanda-sp", "magnitude"])
def test_permuting_units_permutes_scores_and_kept_sets(name: str) -> None:
    grouping, shuffle = Grouping(6, 6, "kv-group"), torch.tensor([3, 0, 5, 1, 4, 2])
    x, weight = head_case(grouping, seed=11)
    columns = (shuffle[:, None] * SIZE + torch.arange(SIZE)).flatten()
    before = head_ranking(name, x, weight, grouping)
    after = head_ranking(name, x[:, columns], weight[:, columns], grouping)
    torch.testing.assert_close(after.scores, before.scores[shuffle])
    for width in range(7):
        assert sorted(shuffle[after.kept(width)].tolist()) == before.kept(width).tolist()
    mlp, down, writers, inner = channel_case(seed=12)
    mix = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    site = ChannelSite(
        down[:, mix], moments_of(inner[:, mix]), [w[mix] for w in writers], mlp.square().mean(0)
    )
    mixed, straight = METHODS[name].channels(site, fill_options(name, {})), channel_ranking(name, seed=12)
    torch.testing.assert_close(mixed.scores, straight.scores[mix])
    assert mix[mixed.order].tolist() == straight.order.tolist()


@pytest.mark.parametrize("grouping", GROUPINGS, ids=named)
@pytest.mark.parametrize("name", HEADED)
def test_kept_is_ascending_and_has_equally_many_heads_of_every_pool(name: str, grouping: Grouping) -> None:
    found = head_ranking(name, *head_case(grouping, seed=13), grouping)
    group_of = torch.arange(grouping.heads) // (grouping.heads // grouping.groups)
    for step, kept in enumerate(kept_at_every_step(found, grouping)):
        assert kept == sorted(set(kept))
        assert len(kept) == step * grouping.heads // grouping.steps
        per_group = torch.bincount(group_of[kept], minlength=grouping.groups).tolist()
        whole = grouping.heads // grouping.groups
        allowed = {0, whole} if grouping.unit == "kv-group" else {step}
        assert set(per_group) <= allowed
    channels = channel_ranking(name, seed=13)
    for width in range(17):
        kept = channels.kept(width).tolist()
        assert kept == sorted(set(kept))
        assert len(kept) == width


@pytest.mark.parametrize("grouping", GROUPINGS, ids=named)
@pytest.mark.parametrize("name", HEADED)
def test_pinned_heads_are_honoured_at_every_feasible_width(name: str, grouping: Grouping) -> None:
    x, weight = head_case(grouping, seed=14)
    layer = LayerShape(grouping.heads, grouping.groups, 16, 1, 1, 1, 0, False, False)
    free = head_ranking(name, x, weight, grouping).order.tolist()
    worst, best = free[-1], free[0]  # protect what would go first, force out what would stay
    if grouping.unit_of_head()[worst] == grouping.unit_of_head()[best]:
        best = next(h for h in free if grouping.unit_of_head()[h] != grouping.unit_of_head()[worst])
    protected, forced = (Pin(0, "attention", worst),), (Pin(0, "attention", best),)
    pinned = torch.zeros(grouping.heads, dtype=torch.int64)
    pinned[worst], pinned[best] = 1, -1
    bounds = bounds_of(layer, 0, grouping.unit, 1, protected, forced)
    learned = normal(grouping.heads, seed=21).abs()
    site = HeadSite(weight, moments_of(x), grouping, pinned, learned=learned)
    found = METHODS[name].heads(site, fill_options(name, {}))
    assert len(bounds.heads) == grouping.steps - 1
    for width in bounds.heads:
        kept = found.kept(width).tolist()
        assert len(kept) == width
        assert worst in kept
        assert best not in kept


@pytest.mark.parametrize("name", METHODS)
def test_pinned_channels_are_honoured_at_every_feasible_width(name: str) -> None:
    free = channel_ranking(name, seed=15).order.tolist()
    pinned = torch.zeros(16, dtype=torch.int64)
    pinned[free[-3:]], pinned[free[:2]] = 1, -1
    found = channel_ranking(name, seed=15, pinned=pinned)
    for width in range(3, 15):
        kept = found.kept(width).tolist()
        assert set(free[-3:]) <= set(kept)
        assert not set(free[:2]) & set(kept)
    if name != "slimgpt":  # there, what is gone already changes what goes next
        assert [j for j in found.order.tolist() if pinned[j] == 0] == free[2:-3]


def test_chance_is_seeded_and_leaves_the_global_generator_alone() -> None:
    state = torch.random.get_rng_state()
    first, again, other = (scores.random_scores(50, seed) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.random.get_rng_state())
