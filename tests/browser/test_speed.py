"""The page's benchmark end to end on a tiny case."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("playwright.sync_api")  # which the benchmark imports too
from benchmarks import page as benchmark
from tests.support.visitor import BROWSER

pytestmark = BROWSER


def test_the_benchmark_measures_every_goal(capsys: pytest.CaptureFixture[str]) -> None:
    small = benchmark.Model(layers=6, heads=4, groups=2, head_size=8, channels=64, vocabulary=256)
    assert benchmark.main(["--json", "--cases", "large", "--repeats", "2", "--updates", "3"], small) == 0
    report = json.loads(capsys.readouterr().out)
    case = report["cases"]["large"]
    assert set(case["goals"]) == set(benchmark.GOALS) - {"preview"}  # which needs weights
    for key, row in case["goals"].items():
        assert set(row) >= {"goal", "unit", "median", "p95", "faster_half", "repeats", "met"}
        assert row["median"] > 0 or key == "heap"
    assert case["goals"]["map"]["repeats"] == 3
    assert set(case["tabs"]) == set(benchmark.TABS)
    assert case["frames"]["p50"] > 0
    assert "| undo" in benchmark.table(report)
