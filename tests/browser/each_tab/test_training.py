"""What trains on the page, in a real browser on a tiny model: the gates of `ddp`, and fine-tuning. Either can
be stopped half-way, which changes no weight and says so."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from tests.support.serving import JOB
from tests.support.visitor import BROWSER, Visitor, expect
from ui.session.registry import REGISTRY
from ui.session.session import Session

pytestmark = BROWSER


@pytest.fixture
def visitor(visitor: Visitor) -> Visitor:
    """A person whose model is loaded."""
    visitor.load()
    return visitor


def session_of(visitor: Visitor) -> Session:
    """What the app, which runs in this process, holds for this browser."""
    return REGISTRY.open(visitor.page.evaluate("localStorage.getItem('slimllm-browser')"))


def fingerprint(model: Any) -> str:
    """A hash of all weights, by name and by every bit."""
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        found.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return found.hexdigest()


def test_ddp_stopped_half_way_leaves_the_dense_model_unchanged_and_says_so(
    visitor: Visitor, text_file: str
) -> None:
    page, dense = visitor.page, session_of(visitor).subject.model
    before = fingerprint(dense)
    visitor.tab("Analyse")
    visitor.choose("analyse-method", "DDP")
    visitor.set("analyse-text", text_file)
    visitor.set("analyse-samples", "8")
    visitor.set("analyse-length", "32")
    visitor.set("analyse-option-ddp-steps", "20000")
    expect(page.locator("#analyse-preflight")).to_contain_text("training its gates, for 20,000 steps")
    page.click("#analyse-button")
    expect(page.locator("#analyse-training .main-svg").first).to_be_visible()
    expect(page.locator("#analyse-progress")).to_contain_text("of the channels")
    page.click("#analyse-stop")
    line = page.locator("#analyse-progress")
    expect(line).to_contain_text("stopped after")
    expect(line).to_contain_text("of 20000 and left the dense model unchanged")
    assert fingerprint(dense) == before
    assert not any(module._forward_pre_hooks for module in dense.modules())


def test_fine_tuning_becomes_a_run_that_is_exported_and_can_be_stopped(
    visitor: Visitor, text_file: str
) -> None:
    pytest.importorskip("peft")
    page, session = visitor.page, session_of(visitor)
    visitor.analyse(text_file)
    visitor.tab("Compare")
    for name, value in (("text", text_file), ("window", "32"), ("limit", "512"), ("prompt", "")):
        visitor.set(f"compare-{name}", value)
    page.click("#compare-button")
    expect(page.locator("#compare-progress")).to_contain_text("done", timeout=JOB)
    dense, pruned = session.subject.model, session.results.weights[1]["recovered"].subject.model
    before = fingerprint(dense), fingerprint(pruned)

    visitor.tab("History")
    page.get_by_role("button", name="Fine-tune what was pruned").click()
    visitor.set("polish-text", text_file)
    visitor.set("polish-steps", "12")
    visitor.set("polish-rate", "0.01")
    expect(page.locator("#polish-preflight")).to_contain_text("6,144 tokens")
    page.click("#polish-button")
    expect(page.locator("#polish-progress")).to_contain_text("done", timeout=JOB)
    expect(page.locator("#polish-curve .main-svg").first).to_be_visible()
    expect(page.locator("#polish-table td").nth(2)).to_contain_text("−")
    expect(page.locator("#polish-table")).to_contain_text("measured on what it learned")
    expect(page.locator("#history-intro")).to_contain_text("Run 2 is Run 1, fine-tuned 12 steps")
    expect(page.locator("#history-table")).to_contain_text("from Run 1: fine-tuned 12 steps")
    page.click("#history-export")
    expect(page.locator("#history-progress")).to_contain_text("done", timeout=JOB)
    expect(page.locator("#history-made")).to_contain_text("loaded again in a fresh process")

    visitor.set("polish-steps", "20000")
    page.click("#polish-button")
    expect(page.locator("#polish-progress")).to_contain_text("loss")
    page.click("#polish-stop")
    expect(page.locator("#polish-progress")).to_contain_text("of 20000 and left the pruned model unchanged")
    expect(page.locator("#polish-table td").nth(2)).to_contain_text("−")
    assert (fingerprint(dense), fingerprint(pruned)) == before
    assert [run.number for run in session.runs] == [1, 2]
