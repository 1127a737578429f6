"""Claims about SlimLLM's rankings: each equals a naive one on activations; a constant output counts nothing.

The naive versions below never see moments: they sum head outputs, correlate them and search in plain loops.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from slimllm.core.shapes import Grouping
from slimllm.methods import slimllm
from slimllm.methods.interface import ChannelSite
from slimllm.methods.table import METHODS, fill_options
from tests.support.ranking_cases import (
    BALANCED,
    GROUPINGS,
    KV,
    OUTPUTS,
    SIZE,
    activations,
    channel_case,
    channel_ranking,
    head_case,
    head_ranking,
    kept_at_every_step,
    moments_of,
    naive_start,
    named,
    normal,
)

pytestmark = pytest.mark.usefixtures("one_thread")


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


# Heads -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grouping", GROUPINGS, ids=named)
def test_oracle_head_covariance(grouping: Grouping) -> None:
    x, weight = head_case(grouping, seed=1)
    outputs = unit_outputs(x, weight, grouping, per_head=True)  # (H, t, o)
    centred = outputs - outputs.mean(1, keepdim=True)
    expected = torch.einsum("gto,hto->ogh", centred, centred) / len(x)
    torch.testing.assert_close(slimllm.head_covariance(moments_of(x).cov, weight, grouping.heads), expected)


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
    cov = slimllm.head_covariance(moments_of(x).cov, weight, 5)
    outputs = unit_outputs(x, weight, grouping)
    for code in range(2**5):
        kept = torch.tensor([bool(code >> h & 1) for h in range(5)])
        naive = naive_similarity(outputs, kept.nonzero().flatten().tolist())
        assert float(slimllm.kept_similarity(cov, kept)) == pytest.approx(naive, abs=1e-9)


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


@pytest.mark.parametrize("value", [0.0, 0.1, 1000.7], ids=["zero", "small", "large"])
def test_oracle_constant_output_counts_zero_in_pearson(value: float) -> None:
    grouping = Grouping(4, 4, "kv-group")
    x, weight = head_case(grouping, seed=50)
    x[:, 0] = x[:, 7] = value  # one constant input in head 0, one in head 2
    weight[2] = 0
    weight[2, 0], weight[2, 7] = 0.7, 0.3  # output 2 reads nothing else
    cov = slimllm.head_covariance(moments_of(x).cov, weight, 4)
    outputs = unit_outputs(x, weight, grouping)
    for kept in ([0], [1], [0, 1], [0, 2], [1, 2, 3], [0, 1, 2, 3]):
        mask = torch.zeros(4, dtype=torch.bool)
        mask[kept] = True
        assert float(slimllm.kept_similarity(cov, mask)) == pytest.approx(
            naive_similarity(outputs, kept), abs=1e-7
        )


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
