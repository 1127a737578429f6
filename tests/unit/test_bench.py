"""The methods' benchmark end to end on a tiny model: resumable, honest about refusals, readable offline."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import accelerator, arithmetic, methods
from benchmarks.comparison import cells, measuring, report
from slimllm.core.errors import Refusal
from slimllm.methods.recovery import RECOVERIES
from slimllm.methods.table import METHODS

pytestmark = pytest.mark.usefixtures("one_thread")

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(tiny_folder: Path, page: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the benchmark with tiny tokens and returns its one JSON object."""
    settings = f"--model {tiny_folder} --texts {page} {tmp_path}/absent.txt --calibration {page} --samples 4"
    settings += f" --length 32 --windows 16 64 --tokens 512 --align 1 --json --out {tmp_path}/bench"

    def benchmark(*more: str, code: int = 0) -> dict[str, Any]:
        assert methods.main([*settings.split(), *more]) == code
        return json.loads(capsys.readouterr().out)

    return benchmark


@pytest.mark.slow
def test_end_to_end_and_never_twice(run: Run, tmp_path: Path) -> None:
    asked = ("--ratios", "0.3", "--methods", "slimllm", "random")
    first = run(*asked)
    assert first["computed"] == 3  # the dense model, and two rows
    for cell in first["cells"]:
        assert not cell["reused"]
        assert abs(cell["off"]) < 0.02
        assert cell["perplexity"]["page"]["16"] == pytest.approx(math.exp(cell["nll"]["page"]["16"]))
        excess = cell["nll"]["page"]["64"] - first["dense"]["nll"]["page"]["64"]
        assert cell["excess"]["page"]["64"] == pytest.approx(excess)
        assert cell["seconds"]["prune"] > 0
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "bench" / "cells").iterdir()}
    again = run(*asked)
    assert again["computed"] == 0
    assert all(cell["reused"] for cell in again["cells"])
    assert files == {file: file.stat().st_mtime_ns for file in files}
    assert [cell["nll"] for cell in again["cells"]] == [cell["nll"] for cell in first["cells"]]
    # another ratio or row adds its own cells, an option of the protocol changes all
    assert run("--ratios", "0.3", "--methods", "slimllm::uniform", "random")["computed"] == 1
    assert run(*asked, "--tokens", "256")["computed"] == 3
    assert run(*asked, "--samples", "5")["computed"] == 2  # the dense model reads no calibration text


@pytest.mark.slow
def test_changed_source_counts_as_new(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ("--ratios", "0.3", "--methods", "random")
    run(*asked)
    monkeypatch.setattr(cells, "source_digest", lambda: "another")
    assert run(*asked)["computed"] == 2


def test_a_digest_of_source_ignores_words_and_hears_numbers() -> None:
    before = 'def f(x):\n    """One."""\n    return x + 1  # why\n'
    assert cells.bare(before) == cells.bare('def f(x):\n    """Two."""\n\n    return (x + 1)\n')
    assert cells.bare(before) != cells.bare('def f(x):\n    """One."""\n    return x + 2\n')
    assert {"slimllm.core.types", "slimllm.methods.wanda"} <= set(cells.imported_everywhere())


@pytest.mark.slow
def test_a_refusal_is_recorded_and_the_rest_goes_on(run: Run) -> None:
    asked = ("--ratios", "0.3", "0.99", "--methods", "slimllm", "random")
    found = run(*asked)
    refused = [cell for cell in found["cells"] if "refused" in cell]
    assert [(cell["method"], cell["ratio"]) for cell in refused] == [("slimllm", 0.99), ("random", 0.99)]
    assert "At most" in refused[0]["refused"]
    assert list(found["verdicts"][1]["refused"]) == ["slimllm:regression:cosine", "random:none:uniform"]
    assert run(*asked)["computed"] == 0
    assert "Refused" in report.plain_text(found)


def test_cancelling_keeps_what_is_finished(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ("--ratios", "0.3", "--methods", "slimllm", "random")
    compute = measuring.compute

    def stop(bench: Any, row: cells.Row, ratio: float) -> dict[str, Any]:
        if row.method == "random":
            raise KeyboardInterrupt
        return compute(bench, row, ratio)

    monkeypatch.setattr(measuring, "compute", stop)
    found = run(*asked, code=1)
    assert [cell["method"] for cell in found["cells"]] == ["slimllm"]
    assert found["missing"] == ["random:none:uniform at 0.3"]
    monkeypatch.setattr(measuring, "compute", compute)
    assert run(*asked)["computed"] == 1


def test_a_crash_is_told_but_not_stored(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: Any) -> dict[str, Any]:
        raise RuntimeError("a bug")

    with monkeypatch.context() as patched:
        patched.setattr(measuring, "compute", crash)
        found = run("--ratios", "0.3", "--methods", "random", code=1)
    assert found["cells"] == []
    assert run("--ratios", "0.3", "--methods", "random")["computed"] == 1


def test_the_picture_and_the_tables(run: Run, tmp_path: Path) -> None:
    found = run("--ratios", "0.3", "--methods", "slimllm", "random")
    page = (tmp_path / "bench" / "results.html").read_text(encoding="utf-8")
    assert "slimllm:regression:cosine" in page
    assert not re.search(r"<(script|link|img|iframe)[^>]*(src|href)\s*=\s*[\"']?(https?:)?//", page)
    assert json.loads((tmp_path / "bench" / "results.json").read_text()) == found
    for text in (report.plain_text(found), report.markdown(found)):
        for words in ("slimllm", "random", "dense", "page 16", "page 64", "30%", "Worse than `random`"):
            assert words in text
    table = [row for row in report.markdown(found).splitlines() if row.startswith("|")]
    assert len({row.count("|") for row in table}) == 1
    assert len(table) == 5


@pytest.mark.parametrize("words", ["slimlm", "slimllm:regresion", "slimllm:none:cosin"])
def test_a_typing_error_is_refused_before_anything_is_computed(words: str) -> None:
    assert methods.main(["--methods", words, "--model", "nowhere"]) == 2
    with pytest.raises(Refusal, match="not known"):
        cells.rows_of([words])


def test_every_method_and_every_recovery_of_the_yardstick_is_a_row() -> None:
    rows = cells.rows_of([])
    assert len(rows) == len(set(rows))
    assert {row.method for row in rows} == set(METHODS)
    assert {row.recovery for row in rows if row.method == cells.YARDSTICK} == set(RECOVERIES)
    assert all(row.trained == (getattr(METHODS[row.method], "learns", "") == "gates") for row in rows)


def cell(name: str, loss: float, off: float = 0.0, trained: bool = False) -> dict[str, Any]:
    row = cells.row_of(name)
    known = {"method": row.method, "recovery": row.recovery, "allocation": row.allocation}
    return {**known, "ratio": 0.2, "trained": trained, "off": off, "mean_excess": {"128": loss, "1024": 9.0}}


def test_verdicts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "best", METHODS["slimllm"])
    found = report.verdict(
        [
            cell("best", 0.3),
            cell("slimllm", 0.6),
            cell("slimllm:none", 1.2),  # worse than the floor
            cell("slimllm:least-squares", 0.31),
            cell("magnitude", 0.1, off=0.05),  # larger than asked: no rival
            cell("wanda-sp", 0.2, trained=True),  # not training-free: no rival
            cell("slimllm-published", 1.5, off=-0.05),  # smaller than asked: may be worse than the floor
            cell("random", 1.0),
        ],
        0.2,
    )
    assert found["against"]["yardstick"]["share"] == pytest.approx(0.5)
    assert found["against"]["yardstick"]["met"]
    assert found["against"]["next"]["row"] == "slimllm:least-squares:cosine"
    assert not found["against"]["next"]["met"]
    assert found["worse_than_floor"] == ["slimllm:none:cosine"]
    assert set(found["off_size"]) == {
        "magnitude:none:uniform",
        "slimllm-published:regression:cosine-unclipped",
    }


def test_verdicts_where_rows_are_missing_or_broken() -> None:
    found = report.verdict([cell("slimllm", math.nan), cell("random", 1.0)], 0.2)
    assert not found["against"]["yardstick"]["met"]
    assert found["worse_than_floor"] == ["slimllm:regression:cosine"]
    assert report.verdict([], 0.2)["floor"] is None


def test_arithmetic_reports_both_sides(
    tiny_folder: Path, page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = f"--model {tiny_folder} --text {page} --samples 3 --length 32 --layers 2 --repeats 1 --json"
    assert arithmetic.main(line.split()) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["layers"] == [1, 2]
    assert found["tokens"] == 96
    assert 0 < found["ours_moments_seconds"] < found["ours_arithmetic_seconds"] < found["ours_total_seconds"]
    assert found["reference_float64_arithmetic_seconds"] > 0
    assert found["times_faster_than_reference_float64"] > 0


def test_device_benchmark_in_miniature(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(accelerator.SHAPES, "1B", accelerator.SHAPES["tiny"])
    plain = accelerator.make_random

    def make(made: Any, *where: Any) -> Any:
        if where[1] == torch.float16:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return plain(made, *where)

    monkeypatch.setattr(accelerator, "make_random", make)
    line = "--device cpu --shapes tiny 1B --samples 4 --length 32 --json --dtype"
    assert accelerator.main([*line.split(), "float32"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["device"], found["dtype"], found["tokens"]) == ("processor (cpu)", "float32", 128)
    tiny = found["shapes"]["tiny"]
    assert tiny["parameters"] == accelerator.SHAPES["tiny"].parameters
    assert tiny["projected_prune_seconds"] == pytest.approx(3 * tiny["seconds_per_layer"])
    assert 0 < tiny["forward_share"] < 1
    assert tiny["peak_mib_per_layer"] > 0
    assert {name: set(speed) for name, speed in tiny["tokens_per_second"].items()} == {
        "dense": {"reading", "writing"},
        "pruned": {"reading", "writing"},
    }
    assert accelerator.main([*line.split(), "float16"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["shapes"]["1B"]["refused"].startswith("The device's memory is full")
    assert accelerator.main([*line.split(), "float32", "--device", "toaster"]) == 2
    assert "Device 'toaster' is not known" in capsys.readouterr().err


def test_device_benchmark_has_the_sizes_it_names() -> None:
    billions = {name: made.parameters / 1e9 for name, made in accelerator.SHAPES.items() if name != "tiny"}
    assert billions == pytest.approx({"1B": 1.24, "3B": 3.21, "7B": 6.61, "13B": 12.85}, abs=0.01)
