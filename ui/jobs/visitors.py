"""Who a visitor is, and how much of a server for many one of them may have at once. No Gradio."""

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
    """The account that somebody is logged in by, empty where none is needed, and the address of the
    machine."""

    account: str = ""
    place: str = ""


NOBODY = Visitor()


def giving_way(entries: Iterable[tuple[str, Visitor, float]]) -> str | None:
    """Of (name, owner, when it was last used) the name that gives way when there are too many: the one that
    was left alone longest, of the owner who has most. So nobody crowds out others. None of none."""
    rows = list(entries)
    if not rows:
        return None
    count = Counter(owner for _, owner, _ in rows)
    return min(rows, key=lambda row: (-count[row[1]], row[2]))[0]


@dataclass
class Places:
    """How many of something each visitor has at the moment, and all together."""

    most_each: int
    most: int
    words: str  # the sentence for whoever would have more
    taken: Counter[Visitor] = field(default_factory=Counter)

    @contextmanager
    def place(self, visitor: Visitor) -> Iterator[None]:
        """Takes a place meanwhile; a `Refusal` where none is free."""
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
    """How much each visitor brought within the last hour, counted as it comes."""

    most_each: int
    most: int
    clock: Callable[[], float] = time.monotonic
    brought: deque[tuple[float, Visitor, int]] = field(default_factory=deque)

    def bring(self, visitor: Visitor, amount: int) -> bool:
        """Counts an amount; whether it was still allowed."""
        now = self.clock()
        while self.brought and self.brought[0][0] <= now - HOUR:
            self.brought.popleft()
        mine = sum(size for _, whose, size in self.brought if whose == visitor)
        if mine + amount > self.most_each or sum(size for *_, size in self.brought) + amount > self.most:
            return False
        if self.brought and self.brought[-1][1] == visitor and now - self.brought[-1][0] < 1.0:
            when, _, size = self.brought.pop()
            self.brought.append((when, visitor, size + amount))  # one entry a second, not one a packet
        else:
            self.brought.append((now, visitor, amount))
        return True
