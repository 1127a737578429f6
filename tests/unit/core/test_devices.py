"""Devices by name: which are here, what is said of those that are not, and what each kind can do. No device
is needed: the modules of torch are made up."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from slimllm.cli import main
from slimllm.core import devices, memory
from slimllm.core.errors import Refusal
from tests.support.devices.made_up_devices import imitate_card, install_apple, install_cuda, install_kind

CUDA, SECOND, XPU, MPS = map(torch.device, ("cuda:0", "cuda:1", "xpu:0", "mps:0"))


def test_device_auto_is_the_processor_where_there_is_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: None)
    assert devices.pick_device("auto") == devices.CPU
    # of a kind that no row describes
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("maia"))
    assert devices.pick_device("auto") == devices.CPU


def test_device_auto_is_the_accelerator_that_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    install_cuda(monkeypatch, "NVIDIA H200")
    assert devices.pick_device("auto") == torch.device("cuda")
    card = imitate_card(torch.xpu, "Intel Arc")
    install_kind(monkeypatch, devices.describe_card("xpu", card, "an Intel card", "xccl"))
    assert devices.pick_device("auto") == torch.device("xpu")
    install_apple(monkeypatch)
    assert devices.pick_device("auto") == torch.device("mps")


def test_device_names_with_and_without_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    install_cuda(monkeypatch, "NVIDIA H200", "NVIDIA T4")
    install_apple(monkeypatch)
    for name in ("cuda", "cuda:0", "cuda:1", "mps", "mps:0", "cpu"):
        assert devices.pick_device(name) == torch.device(name)
    assert devices.find_devices() == [CUDA, SECOND, MPS, devices.CPU]
    assert devices.name_device(SECOND) == "NVIDIA T4 (cuda:1)"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "cuda:2",
            "Device 'cuda:2' is not here; use auto, or one of those that are here: cuda:0 (NVIDIA H200), "
            "cuda:1 (NVIDIA T4), cpu (processor).",
        ),
        (
            "xpu",
            "Device 'xpu' is not here, because it needs an Intel card and a torch built for it; use auto, or "
            "one of those that are here: cuda:0 (NVIDIA H200), cuda:1 (NVIDIA T4), cpu (processor).",
        ),
        (
            "toaster",
            "Device 'toaster' is not known; use auto, or one of those that are here: cuda:0 (NVIDIA H200), "
            "cuda:1 (NVIDIA T4), cpu (processor).",
        ),
    ],
)
def test_device_that_is_absent_or_unknown(name: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    install_cuda(monkeypatch, "NVIDIA H200", "NVIDIA T4")
    with pytest.raises(Refusal) as caught:
        devices.pick_device(name)
    assert str(caught.value) == words


@pytest.mark.parametrize("name", ["meta", "cuda:-1", "cuda:", "mps:1", "mkldnn", "", "CUDA", "cuda:٠"])
def test_device_names_that_are_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    install_cuda(monkeypatch, "NVIDIA H200")
    with pytest.raises(Refusal, match=r"those that are here: cuda:0 \(NVIDIA H200\), cpu \(processor\)\.$"):
        devices.pick_device(name)


@pytest.mark.parametrize("command", ["evaluate", "analyse", "prune", "serve"])
def test_device_that_is_absent_ends_a_command_with_status_2(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(devices.KINDS, "xpu", dataclasses.replace(devices.KINDS["xpu"], count=lambda: 0))
    more = {"analyse": ["--out", "new"], "prune": ["--out", "new", "--ratio", "0.2"]}.get(command, [])
    assert main.main([command, "--model", "none", "--device", "xpu", *more]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith(
        "slimllm: Device 'xpu' is not here, because it needs an Intel card and a torch built"
    )
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("support", "auto", "bfloat16"),
    [
        ({"native": True}, torch.bfloat16, torch.bfloat16),
        ({"native": False}, torch.float16, torch.bfloat16),
        ({"native": False, "emulated": False}, torch.float16, None),
    ],
)
def test_device_dtype_of_a_card(
    support: dict[str, bool],
    auto: torch.dtype,
    bfloat16: torch.dtype | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install_cuda(monkeypatch, "NVIDIA T4", **support)
    assert devices.pick_dtype("auto", CUDA) == auto
    assert devices.pick_dtype("float32", CUDA) == torch.float32
    if bfloat16:
        assert devices.pick_dtype("bfloat16", CUDA) == bfloat16
        return
    with pytest.raises(Refusal) as caught:
        devices.pick_dtype("bfloat16", CUDA)
    assert str(caught.value) == (
        "NVIDIA T4 (cuda:0) does not compute in bfloat16; use --dtype float32 or float16."
    )


def test_device_dtype_where_only_half_precision_works(monkeypatch: pytest.MonkeyPatch) -> None:
    only_half = dataclasses.replace(devices.KINDS["cpu"], list_dtypes=lambda _: (torch.float16,))
    monkeypatch.setitem(devices.KINDS, "cpu", only_half)
    assert devices.pick_dtype("auto", devices.CPU) == torch.float16
    with pytest.raises(
        Refusal, match=r"^processor \(cpu\) does not compute in float32; use --dtype float16\.$"
    ):
        devices.pick_dtype("float32", devices.CPU)


def test_device_dtype_of_apple_and_of_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    install_apple(monkeypatch)
    assert devices.pick_dtype("auto", MPS) == torch.bfloat16
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda *_: False)
    assert devices.pick_dtype("auto", MPS) == torch.float16
    for fast, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(devices, "has_bfloat16_cpu", lambda fast=fast: fast)
        assert devices.pick_dtype("auto", devices.CPU) == dtype
        assert devices.pick_dtype("float16", devices.CPU) == torch.float16
    with pytest.raises(Refusal, match="use auto, float32, bfloat16 or float16"):
        devices.pick_dtype("int8", devices.CPU)


def test_device_memory_of_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    card = install_cuda(monkeypatch, "NVIDIA H200", "NVIDIA T4")
    # what is free, and what torch keeps for new tensors
    assert memory.available_mib(SECOND) == (60 + 3) * 1024
    card.mem_get_info.assert_called_with(SECOND)
    peak = memory.watch_peak(SECOND)
    card.reset_peak_memory_stats.assert_called_once_with(SECOND)
    card.max_memory_allocated.return_value = 7 * 2**30
    assert peak() == 7 * 1024
    devices.kind_of(SECOND).wait_for(SECOND)
    card.synchronize.assert_called_once_with(SECOND)
    memory.give_back()
    card.empty_cache.assert_called_once_with()


def test_device_memory_of_apple_is_the_machines_own(monkeypatch: pytest.MonkeyPatch) -> None:
    apple = install_apple(monkeypatch)
    monkeypatch.setattr(devices, "available_to_process", lambda: 100 * 1024.0)
    assert memory.available_mib(MPS) == (12 - 5 + 3) * 1024
    monkeypatch.setattr(devices, "available_to_process", lambda: 1024.0)
    assert memory.available_mib(MPS) == (1 + 3) * 1024
    apple.driver_allocated_memory.return_value = 13 * 2**30
    assert memory.available_mib(MPS) == (13 - 2) * 1024
    peak = memory.watch_peak(MPS)
    apple.empty_cache.assert_called_once_with()
    assert peak() == 13 * 1024
    devices.kind_of(MPS).wait_for(MPS)
    apple.synchronize.assert_called_once_with()


def test_device_without_hardware_gives_nothing_back() -> None:
    """`torch.mps.empty_cache` fails where there is no such device."""
    assert devices.KINDS["cpu"].count() == 1
    memory.give_back()


def test_device_kinds_say_what_they_lack() -> None:
    lacking = {name for name, kind in devices.KINDS.items() if not kind.has_float64}
    sharing = {name for name, kind in devices.KINDS.items() if not kind.owns_memory}
    assert (lacking, sharing) == ({"mps"}, {"mps", "cpu"})
    assert {name: kind.exchange for name, kind in devices.KINDS.items()} == {
        "cuda": "nccl",
        "xpu": "xccl",
        "mps": "gloo",
        "cpu": "gloo",
    }
