"""Texts: disjoint parts, seeded samples, files, and one sentence for what cannot be read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch
from tokenizers import normalizers

from slimllm.calibration import documents, texts
from slimllm.core.errors import Refusal
from slimllm.core.types import Calibration
from tests.support.tiny_models import PAGE, tiny_tokenizer


def sample(source: texts.Text, **changes: Any) -> torch.Tensor:
    wanted = Calibration(text=source.name, **{"samples": 4, "length": 16, **changes})
    return texts.calibration_tokens(source, tiny_tokenizer(), wanted, max_length=512)


def test_the_encyclopedias_parts_are_disjoint_and_whole() -> None:
    source = texts.find_text("encyclopedia")
    calibration, evaluation = set(source.part("calibration")), set(source.part("evaluation"))
    assert not calibration & evaluation
    assert 7000 < len(calibration) < 9000
    assert 1500 < len(evaluation) < 2600
    assert len(texts.list_topics()) == 12


def test_a_topic_is_part_of_the_encyclopedia() -> None:
    topic = texts.find_text("encyclopedia/Mathematics").part("evaluation")
    assert topic
    assert set(topic) < set(texts.find_text("encyclopedia").part("evaluation"))


def test_the_encyclopedia_is_read_once_until_its_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "articles.json"
    monkeypatch.setattr(texts, "starter_file", lambda *_: file)
    for topic in ("Birds", "Fish"):
        file.write_text(json.dumps({"A title": {"topic": topic, "extract": "Words."}}))
        assert texts.list_topics() == [topic]
    assert texts.read_articles() is texts.read_articles()


def test_samples_are_seeded() -> None:
    source = texts.find_text("encyclopedia/Mathematics")
    assert torch.equal(sample(source), sample(source))
    assert not torch.equal(sample(source), sample(source, seed=1))
    assert sample(source).shape == (4, 16)


def test_crops_of_one_long_document_are_seeded_and_differ(page: Path) -> None:
    source = texts.find_text(str(page))
    crops = sample(source)
    assert torch.equal(crops, sample(source))
    assert not torch.equal(crops, sample(source, seed=3))
    assert len({tuple(row) for row in crops.tolist()}) == 4


ROWS = [" = Title = \n", "", "one\r\ntwo", None, " ", "é\ud800", "  indented\n\n", "last"]
DOCUMENTS = [" = Title = \n", "one\r\ntwo", "é\ufffd", "  indented\n\n", "last"]


def write(path: Path, rows: list[str | None]) -> Path:
    """The rows as a file of the kind that its name says."""
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps({"n": 1, "text": row}) for row in rows), encoding="utf-8")
    else:
        clean = [row and row.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for row in rows]
        table = pyarrow.Table.from_pylist([{"n": 1, "text": row} for row in clean])
        pyarrow.parquet.write_table(table, path, row_group_size=3)
    return path


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_rows_of_a_file_are_documents(name: str, tmp_path: Path) -> None:
    found = texts.find_text(str(write(tmp_path / name, ["one", "two", ""]))).part("evaluation")
    assert list(found) == ["one", "two"]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_rows_are_documents_unless_they_are_blank(name: str, tmp_path: Path) -> None:
    found = texts.find_text(str(write(tmp_path / name, ROWS))).part("evaluation")
    assert list(found) == DOCUMENTS
    assert (len(found), found[-1], found[1:3]) == (5, "last", DOCUMENTS[1:3])
    assert list(documents.in_order(found, [4, 0, 2, 1, 3], 2)) == [DOCUMENTS[i] for i in (4, 0, 2, 1, 3)]


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_lines_may_end_in_any_way(line_end: str, mark: str, tmp_path: Path) -> None:
    lines = [json.dumps({"text": row}) for row in ("one", "two", "three")]
    file = tmp_path / "x.jsonl"
    file.write_bytes((mark + line_end.join(["", *lines, ""])).encode())
    found = texts.find_text(str(file)).part("evaluation")
    assert [found[place] for place in range(len(found))] == list(found) == ["one", "two", "three"]
    plain = tmp_path / "x.txt"
    plain.write_bytes((mark + line_end.join(["one", "two"])).encode())
    assert list(texts.find_text(str(plain)).part("evaluation")) == ["one\ntwo"]


def test_the_same_rows_by_the_hub_and_by_a_file_give_the_same_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [f"{row or ''} {i}" * (i % 7) for i in range(90) for row in ROWS]
    files = [write(tmp_path / name, [*ROWS, *rows]) for name in ("rows.parquet", "rows.jsonl")]
    monkeypatch.setattr(texts, "fetched_data", lambda *_: files[0])
    held = texts.Text("held", lambda _: list(texts.find_text(str(files[0])).part("evaluation")))
    sources = [texts.find_text("wikitext2"), *(texts.find_text(str(file)) for file in files), held]
    tokenizer = tiny_tokenizer()
    whole = [texts.evaluation_tokens(source, tokenizer) for source in sources]
    some = [texts.evaluation_tokens(source, tokenizer, limit=777) for source in sources]
    drawn = [sample(source, samples=40, seed=5) for source in sources]
    for found in (whole, some, drawn):
        assert all(torch.equal(found[0], other) for other in found[1:])
    assert tokenizer.decode(whole[0]).startswith("".join(d + "\n\n" for d in DOCUMENTS))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ('{"text": "a"}\n[1]', "is no object with a 'text' field"),
        ('{"text": "a"}\n{"text": ["b", "c"]}', "is no text but list"),
        ('{"text": "a"}\n{"text"', "cannot be read as .jsonl"),
    ],
)
def test_bad_input_rows_further_on_are_refused_when_they_are_reached(
    rows: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / "x.jsonl").write_text(rows)
    source = texts.find_text(str(tmp_path / "x.jsonl"))
    with pytest.raises(Refusal, match=words):
        texts.evaluation_tokens(source, tiny_tokenizer())
    with pytest.raises(Refusal, match=words):
        sample(source)


class Counting:
    """A tokenizer that says how many letters it was given."""

    def __init__(self) -> None:
        self.plain, self.letters = tiny_tokenizer(), 0
        self.is_fast = True

    def __call__(self, text: str, **how: Any) -> Any:
        self.letters += len(text)
        return self.plain(text, **how)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plain, name)


@pytest.mark.parametrize("name", ["x.txt", "x.jsonl", "x.parquet"])
def test_the_work_is_bounded_by_what_is_asked_for(name: str, tmp_path: Path) -> None:
    row = f"{PAGE * 20}Zürich. "
    if name == "x.txt":
        (tmp_path / name).write_text("".join(f"{i} {row}" for i in range(300)))
    else:
        write(tmp_path / name, [f"{i} {row}" for i in range(300)])
    source = texts.find_text(str(tmp_path / name))
    size = 300 * len(row)
    assert size > texts.SMALL_DOCUMENT
    tokenizer = Counting()
    ids = texts.evaluation_tokens(source, tokenizer, limit=2048)
    assert tiny_tokenizer().decode(ids).startswith(f"0 {row}"[:2000])
    assert tokenizer.letters < 150_000
    tokenizer = Counting()
    wanted = Calibration(name, 4, 16)
    rows = texts.calibration_tokens(source, tokenizer, wanted, max_length=512)
    assert rows.shape == (4, 16)
    assert tokenizer.letters < 150_000
    assert torch.equal(rows, sample(source))
    assert not torch.equal(rows, sample(source, seed=1))
    said = [tiny_tokenizer().decode(row) for row in sample(source, samples=60).tolist()]
    assert all(words.strip("\ufffd") in row * 2 or any(c.isdigit() for c in words) for words in said)
    assert len(set(said)) > 40


def test_places_all_over_a_long_document_are_drawn(tmp_path: Path) -> None:
    file = tmp_path / "x.txt"
    file.write_text("".join(f"{i:07d}é " for i in range(400_000)), encoding="utf-8")
    rows = sample(texts.find_text(str(file)), samples=40, length=20)
    numbers = [int(n) for row in rows for n in re.findall(r"(\d{7})", tiny_tokenizer().decode(row))]
    assert min(numbers) < 40_000
    assert max(numbers) > 360_000
    assert len(numbers) >= 40


def test_a_long_document_of_few_tokens_is_read_whole(tmp_path: Path) -> None:
    file = tmp_path / "x.txt"
    file.write_text(" " * texts.SMALL_DOCUMENT + PAGE)
    made = tiny_tokenizer()
    made.backend_tokenizer.normalizer = normalizers.Strip()
    wanted = Calibration(str(file), 4, 16)
    rows = texts.calibration_tokens(texts.find_text(str(file)), made, wanted, max_length=512)
    assert rows.shape == (4, 16)


def test_documents_are_joined_by_blank_lines() -> None:
    ids = texts.tokenize_documents(["ab", "c"], tiny_tokenizer())
    assert tiny_tokenizer().decode(ids) == "ab\n\nc\n\n"
    assert len(texts.tokenize_documents(["ab", "c"], tiny_tokenizer(), limit=3)) == 3


def test_the_page_is_long_enough_for_the_tests() -> None:
    assert len(PAGE) > 400
