"""Claims about rankings that need no text: magnitude equals loops over weights; chance is seeded."""

from __future__ import annotations

import pytest
import torch

from slimllm.core.shapes import Grouping
from slimllm.methods.magnitude import random_scores
from tests.support.ranking_cases import (
    GROUPINGS,
    channel_case,
    channel_ranking,
    check_summed_heads,
    head_case,
    head_ranking,
    named,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("grouping", GROUPINGS, ids=named)
def test_oracle_magnitude_head_scores(grouping: Grouping) -> None:
    x, weight = head_case(grouping, seed=5)
    inputs = [float((weight[:, j] ** 2).sum()) ** 0.5 for j in range(x.shape[1])]
    check_summed_heads(head_ranking("magnitude", x, weight, grouping), inputs, grouping)


def test_oracle_magnitude_channel_scores() -> None:
    _, down, _, inner = channel_case(seed=7)
    columns = range(inner.shape[1])
    naive = [float((down[:, j] ** 2).sum()) ** 0.5 for j in columns]
    found = channel_ranking("magnitude", seed=7)
    torch.testing.assert_close(found.scores, torch.tensor(naive, dtype=torch.float64))
    assert found.kept(5).tolist() == sorted(sorted(columns, key=lambda j: -naive[j])[:5])


def test_chance_is_seeded_and_leaves_the_global_generator_alone() -> None:
    state = torch.random.get_rng_state()
    first, again, other = (random_scores(50, seed) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.random.get_rng_state())
