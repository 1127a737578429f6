"""Loading: what works, and one sentence for everything that does not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from slimllm.models import loading


def test_a_folder_loads_ready_for_study(tiny_folder: Path) -> None:
    subject = loading.load_model(str(tiny_folder), dtype="float32")
    assert subject.shape.widths == ((6, 3, 96),) * 3
    assert subject.shape.parameters == sum(p.numel() for p in subject.model.parameters())
    assert not subject.model.training
    assert not any(p.requires_grad for p in subject.model.parameters())


def test_the_dtype_is_as_asked(tiny_folder: Path) -> None:
    for name in ("float32", "bfloat16", "float16"):
        assert loading.load_model(str(tiny_folder), dtype=name).dtype == getattr(torch, name)


@pytest.mark.slow
def test_the_starter_model_loads_and_bfloat16_agrees_with_float32() -> None:
    from slimllm import pipeline
    from slimllm.calibration import texts
    from slimllm.evaluation import evaluate

    said: list[str] = []
    subject = loading.load_model("smollm2", dtype="bfloat16", say=said.append)
    assert any("Converting" in words for words in said)
    assert subject.shape.widths == ((9, 3, 1536),) * 30
    again: list[str] = []
    exact = loading.load_model("smollm2", dtype="float32", say=again.append)
    assert not again  # converted once
    ids = texts.evaluation_tokens(texts.find_text("encyclopedia"), exact.tokenizer, limit=1280)
    a, b = (pipeline.finish_job(evaluate.measure_perplexity(s, ids)).perplexity for s in (subject, exact))
    assert a == pytest.approx(b, rel=0.03)
