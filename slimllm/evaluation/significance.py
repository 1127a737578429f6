"""The significance of differences: a rank test for speeds, and standard errors of paired losses. Pure.

Differences that chance alone explains are not reported.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence

# A difference in speed counts only if its p-value is at most this.
SURE = 0.01
# With fewer rounds of each model, no order of them has a p-value that small.
FEWEST = 5
# Up to this many rounds of both models together, every order is counted.
EXACT = 30
# The most stretches of a text whose mean losses are kept.
LOSS_PARTS = 64
# The standard errors that a difference in loss must exceed; by chance alone, 1 in 80 differences does.
ERRORS = 2.5


def rank_test(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the two-sided p-value of the rank test of Mann and Whitney for two samples.

    Source: Annals of Mathematical Statistics 18, 1947. It is the probability that, by chance alone, the ranks
    of the samples differ at least this much. Equal values have equal ranks.
    """
    ranks = doubled_ranks([*one, *other])
    n, total = len(one), len(ranks)
    if not n or n == total:
        return 1.0
    # The expected sum of the first sample's doubled ranks.
    expected = n * (total + 1)
    distance = abs(sum(ranks[:n]) - expected)
    if total <= EXACT:
        ways = subset_sums(ranks, n)
        return sum(c for s, c in enumerate(ways) if abs(s - expected) >= distance) / sum(ways)
    mean = statistics.fmean(ranks)
    variance = sum((rank - mean) ** 2 for rank in ranks) * n * (total - n) / (total * (total - 1))
    return math.erfc(max(0.0, distance - 1) / math.sqrt(2 * variance)) if variance else 1.0


def doubled_ranks(values: Sequence[float]) -> list[int]:
    """Return twice the rank of every value, from 1 on; equal values get the mean of their ranks."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks, start = [0] * len(values), 0
    for _, group in itertools.groupby(order, key=values.__getitem__):
        places = list(group)
        for place in places:
            ranks[place] = 2 * start + len(places) + 1
        start += len(places)
    return ranks


def subset_sums(numbers: Sequence[int], size: int) -> list[int]:
    """Return in how many ways `size` of the numbers add up to each sum, from 0 on."""
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
    """Return the means of at most 64 equal stretches of a text's losses, in order.

    Losses at the end that do not fill a stretch are ignored.
    """
    size = -(-len(losses) // LOSS_PARTS) if losses else 1
    return tuple(statistics.fmean(losses[i : i + size]) for i in range(0, len(losses) - size + 1, size))


def paired_difference(one: Sequence[float], other: Sequence[float]) -> tuple[float, float] | None:
    """Return the mean difference `other` − `one` over stretches of one text, and its standard error.

    Return None if the numbers of stretches differ, if there are fewer than two, or if a loss is not finite.
    """
    if len(one) != len(other) or len(one) < 2:
        return None
    apart = [b - a for a, b in zip(one, other, strict=True)]
    if not all(map(math.isfinite, apart)):
        return None
    return statistics.fmean(apart), statistics.stdev(apart) / math.sqrt(len(apart))


def losses_differ(one: Sequence[float], other: Sequence[float]) -> bool | None:
    """Return whether two models' losses on the same stretches differ significantly; None if unknown."""
    found = paired_difference(one, other)
    return None if found is None else abs(found[0]) > ERRORS * found[1]
