"""How a tokenizer begins every text: the tokens that it puts in front, and putting them in front of what a
model reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

PROBES = ("x", "a", "1")  # the first that a tokenizer has a token for is asked about


@dataclass(frozen=True)
class Beginning:
    """The tokens in front of every text, such as Gemma's <bos>: their `ids`, and their `words`. Many
    tokenizers put none."""

    ids: tuple[int, ...] = ()
    words: str = ""

    @property
    def predicted_from(self) -> int:
        """The first place of a begun text whose token a model is asked to predict: the one behind the
        beginning, which is never predicted itself; without a beginning the second one."""
        return max(1, len(self.ids))


def find_beginning(tokenizer: Any) -> Beginning:
    """What a tokenizer puts in front of a text, by comparing it with and without special tokens; what it puts
    behind a text, such as an end-of-text token, is left out."""
    for probe in PROBES if tokenizer is not None else ():
        plain = list(tokenizer(probe, add_special_tokens=False).input_ids)
        whole = list(tokenizer(probe).input_ids)
        if not plain:
            continue
        starts = range(len(whole) - len(plain) + 1)
        count = next((start for start in starts if whole[start : start + len(plain)] == plain), 0)
        ids = tuple(map(int, whole[:count]))
        return Beginning(ids, "".join(map(str, tokenizer.convert_ids_to_tokens(list(ids)))))
    return Beginning()


def begin_ids(ids: Tensor, beginning: Beginning) -> Tensor:
    """The token ids (n,) of a text with the beginning in front, never twice."""
    front = ids.new_tensor(beginning.ids)
    return ids if torch.equal(ids[: len(front)], front) else torch.cat((front, ids))


def cut_windows(ids: Tensor, length: int, beginning: Beginning) -> Tensor:
    """The token ids (n,) of a text cut into windows (k, length) that do not overlap; each begins as a text
    does, and the beginning counts into its length. What does not fill a window at the end is left out."""
    if not beginning.ids:
        count = len(ids) // length
        return ids[: count * length].view(count, length)
    rows: list[Tensor] = []
    start = 0
    while True:
        window = begin_ids(ids[start : start + length], beginning)[:length]
        if len(window) < length:
            return torch.stack(rows) if rows else ids.new_empty(0, length)
        begun = torch.equal(ids[start : start + len(beginning.ids)], window[: len(beginning.ids)])
        start += length if begun else length - len(beginning.ids)
        rows.append(window)
