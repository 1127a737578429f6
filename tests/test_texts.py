"""Texts: disjoint parts, seeded samples, files, and one sentence for what cannot be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import PAGE, tiny_tokenizer

from slimllm import texts
from slimllm.types import Calibration


def sample(source: texts.Text, **changes: Any) -> torch.Tensor:
    wanted = Calibration(text=source.name, **{"samples": 4, "length": 16, **changes})
    return texts.calibration_tokens(source, tiny_tokenizer(), wanted, max_length=512)


def test_the_encyclopedias_parts_are_disjoint_and_whole() -> None:
    source = texts.text("encyclopedia")
    calibration, evaluation = set(source.part("calibration")), set(source.part("evaluation"))
    assert not calibration & evaluation
    assert 7000 < len(calibration) < 9000
    assert 1500 < len(evaluation) < 2600
    assert len(texts.topics()) == 12


def test_a_topic_is_part_of_the_encyclopedia() -> None:
    topic = texts.text("encyclopedia/Mathematics").part("evaluation")
    assert topic
    assert set(topic) < set(texts.text("encyclopedia").part("evaluation"))


def test_samples_are_seeded() -> None:
    source = texts.text("encyclopedia/Mathematics")
    assert torch.equal(sample(source), sample(source))
    assert not torch.equal(sample(source), sample(source, seed=1))
    assert sample(source).shape == (4, 16)


def test_crops_of_one_long_document_are_seeded_and_differ(page: Path) -> None:
    source = texts.text(str(page))
    crops = sample(source)
    assert torch.equal(crops, sample(source))
    assert not torch.equal(crops, sample(source, seed=3))
    assert len({tuple(row) for row in crops.tolist()}) == 4


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    else:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_rows_of_a_file_are_documents(name: str, tmp_path: Path) -> None:
    file = write(tmp_path / name, [{"text": "one"}, {"text": "two"}, {"text": ""}])
    assert list(texts.text(str(file)).part("evaluation")) == ["one", "two"]


def test_documents_are_joined_by_blank_lines() -> None:
    ids = texts.tokens(["ab", "c"], tiny_tokenizer())
    assert tiny_tokenizer().decode(ids) == "ab\n\nc\n\n"
    assert len(texts.tokens(["ab", "c"], tiny_tokenizer(), limit=3)) == 3


def test_the_page_is_long_enough_for_the_tests() -> None:
    assert len(PAGE) > 400
