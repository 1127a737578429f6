"""The command line as a user meets it: keys, exit status, one sentence for what cannot be done."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from slimllm.__main__ import run_command
from slimllm.cli import commands, main, terminal
from slimllm.core.types import Progress

ROOT = Path(__file__).parents[3]


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, Any, str]:
    """(exit status, JSON answer or None, stderr) of one command."""
    capsys.readouterr()
    status = main.main([*map(str, arguments), "--json"])
    out, err = capsys.readouterr()
    return status, json.loads(out) if out.strip() else None, err


@pytest.fixture
def reading(tiny_folder: Path, page: Path) -> list[object]:
    return ["--model", tiny_folder, "--text", page, "--samples", 4, "--length", 32, "--dtype", "float32"]


@pytest.mark.slow
def test_analyse_plan_prune_evaluate_generate_compare(
    tmp_path: Path, page: Path, tiny_folder: Path, reading: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    status, found, _ = call(capsys, "analyse", *reading, "--out", tmp_path / "a")
    assert status == 0
    assert (found["layers"], found["heads"], found["kv_groups"], found["channels"]) == (3, 6, 3, 96)
    assert len(found["layer_cosine"]) == 3
    assert [len(row) for row in found["head_scores"]] == [6, 6, 6]
    assert Path(found["channel_scores_file"]).is_file()
    assert {"model", "parameters", "tokens", "seconds", "peak_memory_mib"} <= set(found)

    plan = tmp_path / "plan.json"
    status, found, _ = call(
        capsys, "plan", "--analysis", tmp_path / "a", "--ratio", 0.3, "--align", 1, "--out", plan
    )
    assert status == 0
    assert found["ratio_requested"] == 0.3
    assert 0.3 <= found["ratio_achieved"] < 0.31
    assert len(found["heads"]) == len(found["channels"]) == len(found["predicted_error"]) == 3

    status, made, _ = call(
        capsys,
        "prune",
        "--model",
        tiny_folder,
        "--dtype",
        "float32",
        "--plan",
        plan,
        "--out",
        tmp_path / "small",
    )
    assert status == 0
    assert made["verified"] is True
    assert made["max_logit_difference"] <= 1e-4
    assert made["parameters_after"] < made["parameters_before"]
    assert made["tier"] in ("native", "twin", "shim", "padded")
    assert [layer["heads"] for layer in made["layers"]] == found["heads"]
    assert abs(made["bytes"] - made["parameters_after"] * 4) < 20_000
    assert {"ratio", "seconds", "peak_memory_mib"} <= set(made)

    status, score, _ = call(
        capsys,
        "evaluate",
        "--model",
        tmp_path / "small",
        "--text",
        page,
        "--window",
        32,
        "--dtype",
        "float32",
    )
    assert status == 0
    assert {"perplexity", "nll", "tokens", "windows", "window", "text", "split", "dtype", "seconds"} <= set(
        score
    )

    status, written, _ = call(
        capsys, "generate", "--model", tmp_path / "small", "--prompt", "The", "--max-new-tokens", 5
    )
    assert status == 0
    assert {"text", "tokens", "tokens_per_second"} <= set(written)

    status, both, _ = call(
        capsys,
        "compare",
        "--model",
        tiny_folder,
        "--model",
        tmp_path / "small",
        "--text",
        page,
        "--window",
        32,
        "--prompt",
        "The",
        "--max-new-tokens",
        4,
    )
    assert status == 0
    assert [len(row["generations"]) for row in both["models"]] == [1, 1]
    assert both["models"][0]["parameters"] > both["models"][1]["parameters"]


@pytest.mark.slow
def test_prune_with_a_ratio_does_it_all(
    tmp_path: Path, reading: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "small"
    status, made, _ = call(capsys, "prune", *reading, "--ratio", 0.25, "--export", "native", "--out", out)
    assert status == 0
    assert made["tier"] == "native"
    first = (out / "model.safetensors").read_bytes()
    status, _, _ = call(capsys, "prune", *reading, "--ratio", 0.25, "--export", "native", "--out", out)
    assert status == 0  # our own export is replaced
    assert (out / "model.safetensors").read_bytes() == first


def test_methods_lists_everything(capsys: pytest.CaptureFixture[str]) -> None:
    status, found, _ = call(capsys, "methods")
    assert status == 0
    assert "slimllm" in [row["name"] for row in found["methods"]]
    assert "regression" in [row["name"] for row in found["recoveries"]]
    assert "cosine" in [row["name"] for row in found["allocations"]]
    assert "llama" in found["families"]


def test_port_in_use_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    import socket

    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        assert run_command(["serve", "--port", str(busy.getsockname()[1])]) == 2
    assert "port" in capsys.readouterr().err.lower()


def interrupted(shown: str, *arguments: object) -> tuple[int, str, str]:
    """(exit status, stdout, stderr) of a command that is interrupted soon after it has shown this."""
    process = subprocess.Popen(
        [sys.executable, "-m", "slimllm", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if shown in line:
            break
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.slow
def test_interrupted_is_status_130_without_traceback(tmp_path: Path, tiny_folder: Path, page: Path) -> None:
    text = tmp_path / "long.txt"
    text.write_text(page.read_text() * 300)
    status, out, err = interrupted(
        "Perplexity", "evaluate", "--model", tiny_folder, "--text", text, "--window", 2
    )
    assert status == 130
    assert "Traceback" not in err
    assert out == ""


def test_interrupted_training_of_gates_says_that_the_dense_model_is_unchanged(
    tmp_path: Path, reading: list[object]
) -> None:
    method = ["--method", "ddp", "--option", "steps=20000", "--ratio", 0.2]
    status, out, err = interrupted(
        "begin to train", "prune", *reading, *method, "--out", tmp_path / "out", "--json"
    )
    assert status == 130
    assert re.search(
        r"the training of the gates ended at step \d+ of 20000 and left the dense model unchanged", err
    )
    assert "Traceback" not in err
    assert out == ""
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("wrong", "word"),
    [("--recovery prayer", "not known"), ("--allocation fair", "not known"), ("--allocation gates", "ddp")],
)
def test_choices_that_do_not_fit_are_refused_before_the_model_is_read(
    wrong: str, word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        commands.export_reading, "load_export", lambda *_, **__: pytest.fail("the model was read")
    )
    line = f"prune --model somewhere --ratio 0.2 {wrong} --out {tmp_path / 'out'}"
    assert main.main(line.split()) == 2
    assert word in capsys.readouterr().err


def test_words_on_a_terminal_take_the_place_of_the_progress(capsys: pytest.CaptureFixture[str]) -> None:
    report = terminal.Report()
    report.terminal = True
    report.progress(Progress("analyse", 1, 3, "Layer 1 of 3 scored"))
    report.say("slimllm: cancelled")
    assert capsys.readouterr().err == "\r\033[KLayer 1 of 3 scored\r\033[Kslimllm: cancelled\n"


def test_the_library_alone_says_where_the_page_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["serve"]) == 2
    assert "start it from the project with 'make run'" in capsys.readouterr().err
