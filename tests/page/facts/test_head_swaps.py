"""What the greedy search exchanged, in words."""

from __future__ import annotations

import dataclasses

import torch

from slimllm.core.attention_unit import UnitName
from slimllm.core.shapes import Grouping
from slimllm.core.types import Analysis, Ranking
from slimllm.methods.slimllm import rank_by_covariance
from slimllm.planning.plan_making import make_plan
from slimllm.planning.rules import PlanRules
from tests.support.made_up_analyses import synthetic_analysis
from ui.facts import head_swaps


def searched(unit: UnitName, before: list[list[int]], after: list[list[int]]) -> tuple[Analysis, Ranking]:
    """Layer 0 of an analysis of 6 heads in 3 groups whose search turned these kept sets into those."""
    analysis = synthetic_analysis(layers=4, heads=6, groups=3, head_size=8, channels=96)

    def sets(rows: list[list[int]]) -> torch.Tensor:
        found = torch.zeros(len(rows), 6, dtype=torch.bool)
        for row, heads in zip(found, rows, strict=True):
            row[heads] = True
        return found

    ranking = dataclasses.replace(
        analysis.layers[0].attention[unit].ranking, subsets=sets(after), unsearched=sets(before)
    )
    return analysis, ranking


def said(unit: UnitName, before: list[list[int]], after: list[list[int]], width: int) -> str:
    analysis, ranking = searched(unit, before, after)
    site = dataclasses.replace(analysis.layers[0].attention[unit], ranking=ranking)
    plan = make_plan(analysis, PlanRules(0.3, unit=unit))
    plan = dataclasses.replace(plan, heads=(width, *plan.heads[1:]))
    return head_swaps.describe_swaps(site, analysis.shape.layers[0], unit, 0, plan)


GROUPS = [[], [0, 1], [0, 1, 2, 3], list(range(6))]


def test_a_swap_of_groups_names_them_with_their_heads() -> None:
    words = said("kv-group", GROUPS, [[], [4, 5], [0, 1, 2, 3], list(range(6))], 2)
    assert "keeps KV group 2 (heads 4 to 5) in place of KV group 0 (heads 0 to 1)" in words
    assert "at 1 of 2 widths" in words


def test_no_swap_at_this_width_is_said_too() -> None:
    words = said("kv-group", GROUPS, [[], [4, 5], [0, 1, 2, 3], list(range(6))], 4)
    assert "found nothing better" in words
    assert "at no width" in said("kv-group", GROUPS, GROUPS, 4)


def test_single_heads_are_counted_within_their_groups() -> None:
    words = said("query-head", [[], [0, 2, 4], list(range(6))], [[], [1, 2, 5], list(range(6))], 3)
    assert "keeps heads 1 and 5 in place of heads 0 and 4, which score higher" in words


def test_nothing_cut_nothing_kept_and_no_search_have_words_of_their_own() -> None:
    assert "keeps all heads" in said("kv-group", GROUPS, GROUPS, 6)
    assert "drops this layer whole" in said("kv-group", GROUPS, GROUPS, 0)
    analysis = synthetic_analysis(layers=2, heads=6, groups=3, head_size=8, channels=96)
    site = analysis.layers[0].attention["kv-group"]
    assert "does not search" in head_swaps.describe_swaps(site, analysis.shape.layers[0], "kv-group", 0, None)


def test_the_search_itself_tells_what_it_started_from() -> None:
    random = torch.Generator().manual_seed(3)
    parts = torch.randn(5, 40, 6, generator=random, dtype=torch.float64)
    cov = torch.einsum("ota,otb->oab", parts, parts) / 40
    grouping = Grouping(6, 3, "kv-group")
    found, plain = (rank_by_covariance(cov, grouping, search=search) for search in (True, False))
    assert found.unsearched is not None
    assert torch.equal(found.unsearched, plain.subsets)
    assert plain.unsearched is None
