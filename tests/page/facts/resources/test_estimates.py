"""What an analysis is said to take counts every part of it."""

from __future__ import annotations

import time

import pytest

from slimllm import pipeline
from slimllm.calibration import texts
from slimllm.core.types import Calibration
from slimllm.methods.table import METHODS, fill_options
from tests.support.tiny_models import tiny_subject
from ui.facts.resources.estimates import Rates, analysis_seconds, measure_rates

READING = Calibration("page", 16, 128)
EVEN = Rates(reading=1000.0, head=1e-4, arithmetic=1e-3)


def estimate(name: str, rates: Rates = EVEN) -> float:
    return analysis_seconds(tiny_subject(), rates, READING, name, fill_options(name, {}))


def test_probing_and_training_count() -> None:
    plain = estimate("slimllm")
    layers, tokens = 3, 8 * 128
    probing = tokens * ((layers + 2) / EVEN.reading + (2 * layers + 1) * EVEN.head)
    assert estimate("best") == pytest.approx(plain + probing)
    assert estimate("ddp") == pytest.approx(plain + 300 * 256 * 5 / EVEN.reading)
    assert estimate("llm-pruner") == pytest.approx(plain + 10 * 64 * 3 / EVEN.reading)


def test_every_rate_is_measured() -> None:
    rates = measure_rates(tiny_subject(), 1000.0)
    assert rates.reading == 1000.0
    assert 0 < rates.head < 1
    assert 0 < rates.arithmetic < 10


@pytest.mark.slow
@pytest.mark.timed
@pytest.mark.parametrize("name", ["slimllm", "best"])
def test_the_estimate_is_right_within_a_factor_of_two_on_the_starter(name: str) -> None:
    from slimllm.evaluation import evaluate
    from slimllm.export import export_reading

    subject = export_reading.load_export(
        "smollm2", device="cpu", dtype="auto", offline=True, say=lambda _: None
    )
    found = pipeline.finish_job(evaluate.measure_speed(subject, length=128, new_tokens=1, repeats=2))
    rates = measure_rates(subject, found.prefill_tokens_per_second)
    wanted = analysis_seconds(subject, rates, READING, name, fill_options(name, {}))
    text = texts.find_text("encyclopedia", offline=True)
    start = time.perf_counter()
    pipeline.finish_job(pipeline.analyse_model(subject, text, READING, method_name=name))
    assert 0.5 < (time.perf_counter() - start) / wanted < 2


def test_every_method_has_an_estimate() -> None:
    assert all(estimate(name) > 0 for name in METHODS)
