"""Claims about chance: the rank test beside counting every order, spreads beside their formula, and what is
said of speeds."""

from __future__ import annotations

import itertools
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from slimllm import pipeline
from slimllm.calibration import texts
from slimllm.evaluation import evaluate
from slimllm.evaluation.significance import (
    EXACT,
    FEWEST,
    LOSS_PARTS,
    SURE,
    losses_differ,
    paired_difference,
    part_means,
    rank_test,
)
from slimllm.evaluation.speed_words import compare_speeds
from tests.support.tiny_models import tiny_subject


def wins(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Mann and Whitney's U: how many pairs the first sample wins, ties counting half."""
    return sum((a > b) + (a == b) / 2 for a in one for b in other)


def counted(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """The p-value by trying every way of dealing the values."""
    values, n = (*one, *other), len(one)
    middle = n * len(other) / 2
    distance, hits, ways = abs(wins(one, other) - middle), 0, 0
    for places in itertools.combinations(range(len(values)), n):
        mine = tuple(values[i] for i in places)
        rest = tuple(v for i, v in enumerate(values) if i not in places)
        hits += abs(wins(mine, rest) - middle) >= distance - 1e-9
        ways += 1
    return hits / ways


@pytest.mark.parametrize(("n", "m"), [(1, 1), (2, 3), (3, 3), (4, 5), (5, 5), (2, 7)])
@pytest.mark.parametrize("values", [3, 1000])  # many ties, hardly any
def test_oracle_rank_test_counts_every_order(n: int, m: int, values: int) -> None:
    dice = random.Random(n * 10 + m)
    for _ in range(5):
        one, other = (tuple(float(dice.randrange(values)) for _ in range(k)) for k in (n, m))
        assert rank_test(one, other) == pytest.approx(counted(one, other))
        assert rank_test(other, one) == pytest.approx(rank_test(one, other))


def test_known_p_values() -> None:
    assert rank_test((1, 2, 3), (4, 5, 6)) == pytest.approx(0.1)
    assert rank_test(range(5), range(5, 10)) == pytest.approx(2 / 252)
    assert rank_test((1, 1, 1), (1, 1, 1)) == 1
    assert rank_test((), (1, 2)) == 1


def test_many_rounds_take_the_normal_law_which_is_near_the_exact_one() -> None:
    dice = random.Random(1)
    n = EXACT // 2
    one, other = ([dice.gauss(mean, 1) for _ in range(n)] for mean in (0, 0.7))
    exact = rank_test(one, other)
    near = rank_test([*one, min(one) - 1], [*other, max(one + other) + 1])
    assert near < exact < 0.2
    assert rank_test(list(range(40)), list(range(40, 80))) < 1e-10
    assert rank_test([1.0] * 40, [1.0] * 40) == 1


def test_chance_alone_is_called_a_difference_as_rarely_as_promised() -> None:
    dice = random.Random(0)
    false = 0
    for _ in range(400):
        one, other = ([dice.lognormvariate(2, 0.5) for _ in range(FEWEST)] for _ in range(2))
        false += rank_test(one, other) <= SURE
    assert false <= 12  # 0.8 % of 400 is 3


def test_every_difference_in_speed_can_be_told_with_the_fewest_rounds() -> None:
    slow, fast = [float(i) for i in range(FEWEST)], [float(i) for i in range(10, 10 + FEWEST)]
    assert rank_test(slow, fast) <= SURE
    assert compare_speeds([10.0, 10.1, 9.9, 10.0, 10.05], [10.15, 10.16, 10.2, 10.17, 10.18], "reads") == (
        "It reads about as fast (10.2 against 9.9–10.1 tokens/s)."
    )
    assert compare_speeds([], fast, "reads") == ""


def test_oracle_paired_difference() -> None:
    one, other = (1.0, 2.0, 4.0), (1.5, 3.0, 3.0)
    found = paired_difference(one, other)
    assert found is not None
    apart = torch.tensor([0.5, 1.0, -1.0], dtype=torch.float64)
    assert found == pytest.approx((float(apart.mean()), float(apart.std() / 3**0.5)))
    assert paired_difference(one, other[:2]) is None
    assert paired_difference((1.0,), (2.0,)) is None
    assert paired_difference(one, (1.0, 2.0, math.inf)) is None
    assert losses_differ(one, other) is False
    assert losses_differ(one, tuple(v + 1 + i / 100 for i, v in enumerate(one))) is True
    assert losses_differ((), ()) is None


@pytest.mark.parametrize("count", [1, 5, LOSS_PARTS, LOSS_PARTS + 1, 1000])
def test_parts_are_equal_stretches_of_all_losses(count: int) -> None:
    losses = [float(i) for i in range(count)]
    found = part_means(losses)
    size = math.ceil(count / LOSS_PARTS)
    assert len(found) == count // size <= LOSS_PARTS
    assert found[0] == sum(losses[:size]) / size


def test_oracle_losses_of_stretches_have_the_mean_loss(page: Path) -> None:
    subject = tiny_subject("llama")
    ids = texts.evaluation_tokens(texts.find_text(str(page)), subject.tokenizer, limit=40 * 16)
    found = pipeline.finish_job(evaluate.measure_perplexity(subject, ids, 16))
    assert len(found.losses) == found.windows == 40
    assert sum(found.losses) / 40 == pytest.approx(found.nll, rel=1e-6)
    first = pipeline.finish_job(evaluate.measure_perplexity(subject, ids[:16], 16))
    assert found.losses[0] == pytest.approx(first.nll, rel=1e-6)


def test_models_take_their_rounds_in_turns() -> None:
    order: list[tuple[str, int]] = []

    def rounds(name: str) -> Any:
        for step in range(3):
            order.append((name, step))
            yield step
        return evaluate.Speed((1.0,), (2.0,), 1, 1)

    found = pipeline.finish_job(
        evaluate.measure_in_turns({name: rounds(name) for name in ("dense", "pruned")})
    )
    assert order == [(name, step) for step in range(3) for name in ("dense", "pruned")]
    assert list(found) == ["dense", "pruned"]
