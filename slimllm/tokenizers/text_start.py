"""The beginning of every text: the tokens that a tokenizer puts before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# The first of these that a tokenizer has a token for shows its beginning.
PROBES = ("x", "a", "1")


@dataclass(frozen=True)
class Beginning:
    """The tokens before every text, such as Gemma's <bos>: their `ids` and `words`.

    Many tokenizers have none.
    """

    ids: tuple[int, ...] = ()
    words: str = ""

    @property
    def predicted_from(self) -> int:
        """The position of the first token that a model is asked to predict in a text.

        That is the token after the beginning, or without a beginning the second token.
        """
        return max(1, len(self.ids))


def find_beginning(tokenizer: Any) -> Beginning:
    """Return the beginning of a tokenizer's texts, found by comparing a text with and without special tokens.

    Tokens after a text, such as an end-of-text token, are ignored.
    """
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
    """Return the token ids (n,) of a text with the beginning before them, unless they already have it."""
    front = ids.new_tensor(beginning.ids)
    return ids if torch.equal(ids[: len(front)], front) else torch.cat((front, ids))  # (beginning + n,)


def cut_windows(ids: Tensor, length: int, beginning: Beginning) -> Tensor:
    """Cut the token ids (n,) of a text into windows (k, length) that do not overlap.

    Each window begins as a text does, and the beginning counts towards its length. Tokens at the end that do
    not fill a window are left out.
    """
    if not beginning.ids:
        count = len(ids) // length
        return ids[: count * length].view(count, length)  # (k · length,) → (k, length)
    rows: list[Tensor] = []
    start = 0
    while True:
        window = begin_ids(ids[start : start + length], beginning)[:length]
        if len(window) < length:
            return torch.stack(rows) if rows else ids.new_empty(0, length)  # (k, length)
        begun = torch.equal(ids[start : start + len(beginning.ids)], window[: len(beginning.ids)])
        start += length if begun else length - len(beginning.ids)
        rows.append(window)
