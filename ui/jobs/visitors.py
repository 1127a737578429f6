"""Identify visitors, and limit how much of a shared server one visitor may use at once. No Gradio."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from slimllm.core.errors import Refusal

HOUR = 3600.0


@dataclass(frozen=True)
class Visitor:
    """The account of a visitor, empty where no login is needed, and the address of their machine."""

    account: str = ""
    place: str = ""


NOBODY = Visitor()


def giving_way(entries: Iterable[tuple[str, Visitor, float]]) -> str | None:
    """Return the name of the entry to remove when there are too many, or None where there are none.

    Each entry is (name, owner, time of its last use). The entry that was unused for longest goes, among those
    of the owner who has most, so that no visitor can push out the others.
    """
    rows = list(entries)
    if not rows:
        return None
    count = Counter(owner for _, owner, _ in rows)
    return min(rows, key=lambda row: (-count[row[1]], row[2]))[0]


@dataclass
class Places:
    """Count how many of something each visitor has at the moment, and how many all visitors have together.

    `most_each` and `most` are the limits; `words` is the sentence of the `Refusal`.
    """

    most_each: int
    most: int
    words: str
    taken: Counter[Visitor] = field(default_factory=Counter)

    @contextmanager
    def place(self, visitor: Visitor) -> Iterator[None]:
        """Take a place while the context is open.

        Raise a `Refusal` where none is free.
        """
        if self.taken[visitor] >= self.most_each or self.taken.total() >= self.most:
            raise Refusal(self.words)
        self.taken[visitor] += 1
        try:
            yield
        finally:
            self.taken[visitor] -= 1
            if not self.taken[visitor]:
                del self.taken[visitor]


@dataclass
class Allowance:
    """Count how much each visitor brought within the last hour.

    `most_each` and `most` are the limits for one visitor and for all together.
    """

    most_each: int
    most: int
    clock: Callable[[], float] = time.monotonic
    brought: deque[tuple[float, Visitor, int]] = field(default_factory=deque)

    def bring(self, visitor: Visitor, amount: int) -> bool:
        """Count an amount and return True, or return False where it is over a limit."""
        now = self.clock()
        while self.brought and self.brought[0][0] <= now - HOUR:
            self.brought.popleft()
        mine = sum(size for _, whose, size in self.brought if whose == visitor)
        if mine + amount > self.most_each or sum(size for *_, size in self.brought) + amount > self.most:
            return False
        if self.brought and self.brought[-1][1] == visitor and now - self.brought[-1][0] < 1.0:
            when, _, size = self.brought.pop()
            # One entry per second, not one per packet.
            self.brought.append((when, visitor, size + amount))
        else:
            self.brought.append((now, visitor, amount))
        return True
