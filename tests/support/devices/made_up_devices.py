"""Devices that are not here: modules in place of `torch.cuda`, `torch.xpu` and `torch.mps`.

They have the functions that the rows of `devices.KINDS` call, with the signatures of the installed torch.
"""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any
from unittest.mock import create_autospec

import pytest
import torch

from slimllm.core import devices

GIB = 2**30


def imitate_module(module: Any, answers: dict[str, Any]) -> SimpleNamespace:
    """Return a module whose functions take what those of `module` take and return these answers."""
    return SimpleNamespace(
        **{
            name: create_autospec(getattr(module, name), return_value=value)
            for name, value in answers.items()
        }
    )


def imitate_card(module: Any, *titles: str, native: bool = True, emulated: bool = True) -> SimpleNamespace:
    """Return `torch.cuda` or `torch.xpu` with cards of these titles.

    `native` says whether they compute in bfloat16, `emulated` whether torch does it for them. 60 of 80 GiB
    are free, and torch keeps 3 for new tensors.
    """
    made = imitate_module(
        module,
        {
            "is_available": bool(titles),
            "device_count": len(titles),
            "mem_get_info": (60 * GIB, 80 * GIB),
            "memory_reserved": 5 * GIB,
            "memory_allocated": 2 * GIB,
            "max_memory_allocated": 4 * GIB,
            "reset_peak_memory_stats": None,
            "empty_cache": None,
            "synchronize": None,
            "is_bf16_supported": None,
            "get_device_name": "",
        },
    )
    made.get_device_name.side_effect = lambda device: titles[device.index or 0]
    made.is_bf16_supported.side_effect = lambda including_emulation=True: (
        native or (emulated and including_emulation)
    )
    assert hasattr(module, "device")
    made.device = contextlib.nullcontext
    return made


def imitate_apple() -> SimpleNamespace:
    """Return `torch.mps` of a Mac that recommends 12 GiB; 5 are taken, 2 of them by tensors."""
    return imitate_module(
        torch.mps,
        {
            "device_count": 1,
            "recommended_max_memory": 12 * GIB,
            "driver_allocated_memory": 5 * GIB,
            "current_allocated_memory": 2 * GIB,
            "empty_cache": None,
            "synchronize": None,
        },
    )


def install_kind(patch: pytest.MonkeyPatch, row: devices.DeviceKind) -> None:
    """Put a row into the table, and make its kind torch's present accelerator."""
    patch.setitem(devices.KINDS, row.name, row)
    patch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device(row.name))


def install_cuda(patch: pytest.MonkeyPatch, *titles: str, **support: bool) -> SimpleNamespace:
    """Pretend that CUDA cards of these titles are here, and return their module."""
    made = imitate_card(torch.cuda, *titles, **support)
    install_kind(patch, devices.describe_card("cuda", made, devices.KINDS["cuda"].needs, "nccl"))
    return made


def install_apple(patch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Pretend that this is a Mac with Apple silicon and macOS 14, and return its module."""
    made = imitate_apple()
    install_kind(patch, devices.describe_apple(made))
    patch.setattr(torch.backends.mps, "is_macos_or_newer", lambda *_: True)
    return made
