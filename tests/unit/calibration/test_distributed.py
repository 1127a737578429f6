"""Claims about several processes that share a calibration text: the same moments and scores as one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from slimllm.calibration import distributed
from slimllm.core.devices import CPU, KINDS
from slimllm.core.errors import Refusal
from tests.support.devices.made_up_devices import install_apple, install_cuda

ROOT = Path(__file__).parents[3]
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "slimllm")


def run(*words: str, home: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "SLIMLLM_HOME": str(home), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, env=env, capture_output=True, text=True, timeout=300
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", ["slimllm", "best"])
def test_two_processes_find_what_one_finds(
    method: str, tiny_folder: Path, page: Path, tmp_path: Path
) -> None:
    asked = ["analyse", "--model", str(tiny_folder), "--text", str(page), "--samples", "7", "--length", "32"]
    asked += ["--method", method, "--dtype", "float32", "--json", "--out"]
    answers = []
    for name, how in (("one", ("slimllm",)), ("two", TORCHRUN)):
        done = run(*how, *asked, str(tmp_path / name), home=tmp_path / "home")
        assert done.returncode == 0, done.stderr[-2000:]
        answers.append(json.loads(done.stdout))
    one, two = answers
    assert one["tokens"] == two["tokens"] == 7 * 32
    assert two["layer_cosine"] == pytest.approx(one["layer_cosine"], rel=1e-5)
    for mine, theirs in zip(one["head_scores"], two["head_scores"], strict=True):
        assert theirs == pytest.approx(mine, rel=1e-5)
    for index in range(one["layers"]):
        mine, theirs = (
            load_file(tmp_path / n / "moments" / f"layer_{index:03d}.safetensors") for n in ("one", "two")
        )
        assert mine.keys() == theirs.keys()
        for key, tensor in mine.items():
            scale = float(tensor.abs().max())
            assert float((tensor - theirs[key]).abs().max()) <= 1e-5 * scale, key


@pytest.mark.slow
def test_moments_found_before_are_used_by_two_processes_as_well(
    tiny_folder: Path, page: Path, tmp_path: Path
) -> None:
    asked = ["analyse", "--model", str(tiny_folder), "--text", str(page), "--samples", "4", "--length", "32"]
    asked += ["--dtype", "float32", "--json", "--out", str(tmp_path / "out")]
    first, second = (run(*how, *asked, home=tmp_path / "home") for how in (("slimllm",), TORCHRUN))
    assert second.returncode == 0, second.stderr[-2000:]
    assert json.loads(second.stdout)["head_scores"] == json.loads(first.stdout)["head_scores"]


@pytest.mark.slow
def test_fewer_samples_than_processes_are_one_sentence(tiny_folder: Path, page: Path, tmp_path: Path) -> None:
    asked = ["analyse", "--model", str(tiny_folder), "--text", str(page), "--samples", "1", "--length", "32"]
    done = run(*TORCHRUN, *asked, "--out", str(tmp_path / "out"), home=tmp_path / "home")
    assert done.returncode != 0
    assert "1 samples cannot be shared by 2 processes; use more --samples." in done.stderr
    assert "slimllm/calibration/distributed.py" not in done.stderr


@pytest.mark.slow
def test_other_commands_refuse_several_processes(tiny_folder: Path, tmp_path: Path) -> None:
    asked = ["prune", "--model", str(tiny_folder), "--ratio", "0.2", "--out", str(tmp_path / "out")]
    done = run(*TORCHRUN, *asked, home=tmp_path / "home")
    assert done.returncode != 0
    assert "Several processes can share 'analyse', not 'prune'" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.fixture
def second_of_two(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """This process is the second of two; what it asks of torch is recorded instead of done."""
    done: list[object] = []
    for name, value in (("WORLD_SIZE", "2"), ("LOCAL_WORLD_SIZE", "2"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.distributed, "is_torchelastic_launched", lambda: True)
    monkeypatch.setattr(torch.distributed, "init_process_group", done.append)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: None)
    monkeypatch.setattr(torch.accelerator, "set_device_index", done.append)
    return done


def test_device_of_a_process_is_the_card_with_its_number(
    second_of_two: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    install_cuda(monkeypatch, "NVIDIA H200", "NVIDIA H200")
    with distributed.join_processes(torch.device("cuda")):
        assert second_of_two == [1, "nccl"]
    second_of_two.clear()
    with distributed.join_processes(CPU):
        assert second_of_two == ["gloo"]
    second_of_two.clear()
    install_apple(monkeypatch)
    with distributed.join_processes(torch.device("mps")):
        assert second_of_two == ["gloo"]


def test_device_count_below_that_of_processes_is_refused(
    second_of_two: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    install_cuda(monkeypatch, "NVIDIA H200")
    with pytest.raises(Refusal) as caught, distributed.join_processes(torch.device("cuda")):
        pass
    assert str(caught.value) == (
        "2 processes need as many devices of the kind cuda, and 1 are here; start fewer, or use --device cpu."
    )
    assert second_of_two == []


@pytest.mark.parametrize(("backend", "name"), [("nccl", "cuda"), ("xccl", "xpu"), ("gloo", "cpu")])
def test_device_on_which_processes_exchange(backend: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: backend)
    assert distributed.exchange_device().type == name
    assert list(KINDS)[-1] == "cpu"
