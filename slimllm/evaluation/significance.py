"""What of a difference chance alone explains, so that nothing is said that was not measured: a rank test for
the speeds of rounds, and the spread of paired losses. Pure."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence

SURE = 0.01  # a difference in speed that chance alone brings this often is none
FEWEST = 5  # rounds of each model, below which no order of them is rare enough
EXACT = 30  # rounds of both together up to which every order is counted
LOSS_PARTS = 64  # stretches of a text, at most, whose mean losses are kept
ERRORS = 2.5  # standard errors that a difference in loss must exceed; chance alone brings 1 in 80 so far


def rank_test(one: Sequence[float], other: Sequence[float]) -> float:
    """How often, by chance alone, the ranks of two samples are at least as far apart: the two-sided p-value
    of Mann and Whitney (Annals of Mathematical Statistics 18, 1947). Equal values share their ranks."""
    ranks = doubled_ranks([*one, *other])
    n, total = len(one), len(ranks)
    if not n or n == total:
        return 1.0
    expected = n * (total + 1)  # of the sum of the first sample's doubled ranks
    distance = abs(sum(ranks[:n]) - expected)
    if total <= EXACT:
        ways = subset_sums(ranks, n)
        return sum(c for s, c in enumerate(ways) if abs(s - expected) >= distance) / sum(ways)
    mean = statistics.fmean(ranks)
    variance = sum((rank - mean) ** 2 for rank in ranks) * n * (total - n) / (total * (total - 1))
    return math.erfc(max(0.0, distance - 1) / math.sqrt(2 * variance)) if variance else 1.0


def doubled_ranks(values: Sequence[float]) -> list[int]:
    """Twice the rank of every value, from 1; equal ones share the mean of theirs."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks, start = [0] * len(values), 0
    for _, group in itertools.groupby(order, key=values.__getitem__):
        places = list(group)
        for place in places:
            ranks[place] = 2 * start + len(places) + 1
        start += len(places)
    return ranks


def subset_sums(numbers: Sequence[int], size: int) -> list[int]:
    """In how many ways `size` of the numbers add up to each sum, from 0 on."""
    width = sum(numbers) + 1
    ways = [[0] * width for _ in range(size + 1)]
    ways[0][0] = 1
    for number in numbers:
        for k in range(size, 0, -1):
            row, below = ways[k], ways[k - 1]
            for s in range(number, width):
                row[s] += below[s - number]
    return ways[size]


def part_means(losses: Sequence[float]) -> tuple[float, ...]:
    """The means of at most 64 equal stretches of a text's losses, in order; what is left over at the end is
    left out."""
    size = -(-len(losses) // LOSS_PARTS) if losses else 1
    return tuple(statistics.fmean(losses[i : i + size]) for i in range(0, len(losses) - size + 1, size))


def paired_difference(one: Sequence[float], other: Sequence[float]) -> tuple[float, float] | None:
    """The mean of `other` less `one`, stretch by stretch of the same text, and its standard error; None where
    they are not of the same stretches, or of fewer than two."""
    if len(one) != len(other) or len(one) < 2:
        return None
    apart = [b - a for a, b in zip(one, other, strict=True)]
    if not all(map(math.isfinite, apart)):
        return None
    return statistics.fmean(apart), statistics.stdev(apart) / math.sqrt(len(apart))


def losses_differ(one: Sequence[float], other: Sequence[float]) -> bool | None:
    """Whether two models' losses on the same stretches differ by more than chance explains; None where that
    is not known."""
    found = paired_difference(one, other)
    return None if found is None else abs(found[0]) > ERRORS * found[1]
