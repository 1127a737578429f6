"""The devices that torch computes on: which are here, and what the program has to know about each kind.

A kind of device is a row of `KINDS`. Only the row of the processor has run on real hardware so far; the
others were tested with made-up modules in place of `torch.cuda`, `torch.xpu` and `torch.mps`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from slimllm.core.errors import Refusal
from slimllm.core.process_memory import available_to_process, watch_process_peak

CPU = torch.device("cpu")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# With bfloat16 in hardware, and without bfloat16 at all.
MODERN = (torch.bfloat16, torch.float16, torch.float32)
OLDER = (torch.float16, torch.float32)


@dataclass(frozen=True)
class DeviceKind:
    """One kind of device; the functions that take a device read the state of that device.

    `needs` says what a machine must have, for messages. `count` returns how many devices are here.
    `list_dtypes` returns the dtypes that the device computes in, the one for `auto` first. `watch_peak` works
    as `memory.watch_peak`. `has_float64` says whether there is float64. `owns_memory` is false if the device
    takes its memory from the machine's. `exchange` is the backend by which processes exchange tensors.
    """

    name: str
    needs: str
    count: Callable[[], int]
    read_title: Callable[[torch.device], str]
    read_free_mib: Callable[[torch.device], float]
    watch_peak: Callable[[torch.device], Callable[[], float]]
    empty_cache: Callable[[], None]
    wait_for: Callable[[torch.device], None]
    list_dtypes: Callable[[torch.device], tuple[torch.dtype, ...]]
    has_float64: bool = True
    owns_memory: bool = True
    exchange: str = "gloo"


def describe_processor() -> DeviceKind:
    """Return the row of the processor."""

    def list_dtypes(_: torch.device) -> tuple[torch.dtype, ...]:
        fast = (torch.bfloat16, torch.float32) if has_bfloat16_cpu() else (torch.float32, torch.bfloat16)
        return (*fast, torch.float16)

    return DeviceKind(
        name="cpu",
        needs="a processor",
        count=lambda: 1,
        read_title=lambda _: "processor",
        read_free_mib=lambda _: available_to_process(),
        watch_peak=lambda _: watch_process_peak(),
        empty_cache=lambda: None,
        wait_for=lambda _: None,
        list_dtypes=list_dtypes,
        owns_memory=False,
    )


def describe_card(name: str, module: Any, needs: str, exchange: str) -> DeviceKind:
    """Return the row of graphics cards that torch reaches by `module`, which is `torch.cuda` or `torch.xpu`.

    Both modules have the same functions.
    """

    def read_free_mib(device: torch.device) -> float:
        # Torch keeps the memory of freed tensors, and takes it again for new ones.
        reusable = module.memory_reserved(device) - module.memory_allocated(device)
        return (module.mem_get_info(device)[0] + reusable) / 2**20

    def watch_peak(device: torch.device) -> Callable[[], float]:
        module.reset_peak_memory_stats(device)
        return lambda: module.max_memory_allocated(device) / 2**20

    def list_dtypes(device: torch.device) -> tuple[torch.dtype, ...]:
        # The question is about the current card.
        with module.device(device):
            if module.is_bf16_supported(including_emulation=False):
                return MODERN
            return (*OLDER, torch.bfloat16) if module.is_bf16_supported() else OLDER

    return DeviceKind(
        name=name,
        needs=needs,
        count=lambda: module.device_count() if module.is_available() else 0,
        read_title=lambda device: module.get_device_name(device),
        read_free_mib=read_free_mib,
        watch_peak=watch_peak,
        empty_cache=lambda: module.empty_cache(),
        wait_for=lambda device: module.synchronize(device),
        list_dtypes=list_dtypes,
        exchange=exchange,
    )


def describe_apple(module: Any) -> DeviceKind:
    """Return the row of Apple's graphics processors, which torch reaches by `module`, `torch.mps`."""

    def read_free_mib(_: torch.device) -> float:
        held = module.driver_allocated_memory()
        left = min((module.recommended_max_memory() - held) / 2**20, available_to_process())
        return max(left, 0.0) + (held - module.current_allocated_memory()) / 2**20

    def watch_peak(_: torch.device) -> Callable[[], float]:
        # Nothing reports a peak. The allocator keeps what was freed, so its total stays close to the peak.
        module.empty_cache()
        return lambda: module.driver_allocated_memory() / 2**20

    def list_dtypes(_: torch.device) -> tuple[torch.dtype, ...]:
        return MODERN if torch.backends.mps.is_macos_or_newer(14, 0) else OLDER

    return DeviceKind(
        name="mps",
        needs="a Mac with Apple silicon",
        count=lambda: module.device_count(),
        read_title=lambda _: "Apple GPU",
        read_free_mib=read_free_mib,
        watch_peak=watch_peak,
        empty_cache=lambda: module.empty_cache(),
        wait_for=lambda _: module.synchronize(),
        list_dtypes=list_dtypes,
        has_float64=False,
        owns_memory=False,
    )


# In the order in which messages list them.
KINDS: dict[str, DeviceKind] = {
    row.name: row
    for row in (
        describe_card("cuda", torch.cuda, "an NVIDIA or AMD card and a torch built for it", "nccl"),
        describe_card("xpu", torch.xpu, "an Intel card and a torch built for it", "xccl"),
        describe_apple(torch.mps),
        describe_processor(),
    )
}


def has_bfloat16_cpu() -> bool:
    """Return whether this processor multiplies bfloat16 in hardware; otherwise float32 is faster."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def kind_of(device: torch.device) -> DeviceKind:
    """Return the row of a device's kind."""
    return KINDS[device.type]


def name_device(device: torch.device) -> str:
    """Return the name that people know a device by, with torch's name: "NVIDIA H200 (cuda:0)"."""
    return f"{kind_of(device).read_title(device)} ({device})"


def find_devices() -> list[torch.device]:
    """Return the devices that are here, the processor last."""
    found = [torch.device(kind.name, index) for kind in KINDS.values() for index in range(kind.count())]
    return [CPU if device.type == "cpu" else device for device in found]


def find_accelerator() -> torch.device | None:
    """Return torch's present accelerator, or None if there is none or this program does not know its kind."""
    found = torch.accelerator.current_accelerator(check_available=True)
    return found if found is not None and found.type in KINDS else None


def pick_device(name: str) -> torch.device:
    """Return the torch device for auto, cpu, cuda, cuda:n, xpu, xpu:n or mps.

    For auto, take an accelerator if there is one. Raise `Refusal`, which lists the devices that are here, if
    there is no such device.
    """
    if name == "auto":
        return find_accelerator() or CPU
    here = find_devices()
    if name in {each for device in here for each in (str(device), device.type)}:
        return torch.device(name)
    kind = KINDS.get(name.partition(":")[0])
    if kind is None:
        reason = "is not known"
    elif not kind.count():
        reason = f"is not here, because it needs {kind.needs}"
    else:
        reason = "is not here"
    listed = ", ".join(f"{device} ({kind_of(device).read_title(device)})" for device in here)
    raise Refusal(f"Device '{name}' {reason}; use auto, or one of those that are here: {listed}.")


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the requested dtype, or for auto the one that suits the device best.

    Raise `Refusal` for an unknown name, and for a dtype that the device does not compute in.
    """
    known = kind_of(device).list_dtypes(device)
    if name == "auto":
        return known[0]
    if name not in DTYPES:
        raise Refusal(f"Dtype '{name}' is not known; use auto, float32, bfloat16 or float16.")
    if DTYPES[name] not in known:
        others = [word for word, dtype in DTYPES.items() if dtype in known]
        raise Refusal(f"{name_device(device)} does not compute in {name}; use --dtype {' or '.join(others)}.")
    return DTYPES[name]
