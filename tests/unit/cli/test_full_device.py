"""A device that is full ends a command with one sentence that names the remedy; nothing is half-written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from slimllm import pipeline
from slimllm.calibration import texts
from slimllm.cli import main
from slimllm.core.types import Calibration
from slimllm.evaluation import evaluate
from slimllm.models import loading
from slimllm.planning import plan_making
from slimllm.planning.rules import PlanRules
from slimllm.pruning import finetuning
from tests.support.tiny_models import tiny_model, tiny_tokenizer

FULL = "end other programs that use it, use fewer or shorter samples, a smaller model, or --device cpu"
REASONS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("MPS backend out of memory (MPS allocated: 9.05 GiB)"),
]


def fill_at(patch: pytest.MonkeyPatch, module: Any, name: str, reason: Exception, call: int = 1) -> None:
    """Let a function of a module fail at its n-th call."""
    plain, calls = getattr(module, name), []

    def fail_later(*given: Any, **named: Any) -> Any:
        calls.append(name)
        if len(calls) == call:
            raise reason
        return plain(*given, **named)

    patch.setattr(module, name, fail_later)


@pytest.mark.parametrize("reason", REASONS, ids=["cuda", "mps"])
@pytest.mark.parametrize(
    ("command", "module", "function", "call"),
    [
        ("prune --ratio 0.3 --method random --align 1", pipeline, "prune_layer", 2),
        ("evaluate --window 16", evaluate, "window_losses", 1),
        ("generate --prompt A", evaluate, "next_logits", 3),
        ("tune --batch 2 --epochs 1", finetuning, "training_step", 2),
    ],
    ids=["prune", "evaluate", "generate", "tune"],
)
def test_device_that_is_full(
    command: str,
    module: Any,
    function: str,
    call: int,
    reason: Exception,
    tiny_folder: Path,
    page: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name, *more = command.split()
    out = tmp_path / "out" / "small"
    out.parent.mkdir()
    if name in ("prune", "tune"):
        more += ["--out", str(out), "--samples", "4", "--length", "32"]
    if name != "generate":
        more += ["--text", str(page)]
    fill_at(monkeypatch, module, function, reason, call)
    assert main.main([name, "--model", str(tiny_folder), *more, "--dtype", "float32", "--device", "cpu"]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    last = next(line for line in reversed(said) if line.startswith("slimllm: "))
    assert last.startswith(f"slimllm: The device's memory is full; {FULL}; details are in ")
    assert "Traceback" not in "".join(said)
    assert list(out.parent.iterdir()) == []


def test_device_that_is_full_while_a_model_is_loaded(
    tiny_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_at(monkeypatch, loading, "read_model", REASONS[0])
    assert main.main(["generate", "--model", str(tiny_folder), "--prompt", "A", "--device", "cpu"]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last == f"slimllm: '{tiny_folder}' was not loaded: the device's memory is full; {FULL}."


def test_device_that_is_full_leaves_the_model_as_it_was(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next job in the same program, with smaller settings, gives what it would have given alone."""
    subject = loading.make_subject("tiny", tiny_model("llama"), tiny_tokenizer())
    text, wanted = texts.find_text(str(page)), Calibration(samples=4, length=32)
    analysis = pipeline.finish_job(pipeline.analyse_model(subject, text, wanted, method_name="slimllm"))
    plan = plan_making.make_plan(analysis, PlanRules(0.3, align=1))

    def logits_of_pruned() -> torch.Tensor:
        pruned = pipeline.finish_job(pipeline.prune_model(subject, plan, text))
        with torch.inference_mode():
            return pruned.subject.model(torch.arange(40)[None]).logits

    alone = logits_of_pruned()
    with monkeypatch.context() as patch:
        fill_at(patch, pipeline, "prune_layer", torch.OutOfMemoryError("CUDA out of memory."), 2)
        with pytest.raises(torch.OutOfMemoryError):
            logits_of_pruned()
    assert torch.equal(logits_of_pruned(), alone)
