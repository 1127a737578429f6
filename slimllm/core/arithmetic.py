"""Where a job computes with moments. The dtype is float64 everywhere.

It is the model's own device. The exceptions are a device without float64 (Apple's), a layer whose matrices do
not fit into the device's free memory, and single operations that a device lacks: these use the processor.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from slimllm.core.devices import CPU, kind_of
from slimllm.core.memory import available_mib

Step = TypeVar("Step")
Result = TypeVar("Result")
# The float64 matrices (d, d) and (o, d) that a reader with d inputs and o outputs needs at its peak. They fit
# the peaks measured at o = d and o = 3/8 d, and leave one matrix for the float32 moments and for libraries.
SQUARES, WEIGHTS = 6, 6


class Arithmetic:
    """The devices on which one job computes with moments, and what the person should know about them."""

    def __init__(self, device: torch.device = CPU) -> None:
        self.device = device if kind_of(device).has_float64 else CPU
        # One sentence for each reason to use the processor, and those that nobody has taken yet.
        self.told: dict[str, str] = {}
        self.waiting: list[str] = []
        self.fallback = Fallback(self.tell_once) if device != CPU else None

    def place_for(self, outputs: int, inputs: int) -> torch.device:
        """Return where to compute for a reader with these outputs o and inputs d.

        It is the processor if the device has too little free memory.
        """
        if self.device == CPU:
            return CPU
        need, free = needed_mib(outputs, inputs), available_mib(self.device)
        if need <= free:
            return self.device
        self.tell_once(
            "memory",
            f"A layer's matrices need {need / 1024:.1f} GB and {self.device} has {free / 1024:.1f} GB free, "
            "so the processor computes with them, which takes longer.",
        )
        return CPU

    def cover_operations(self) -> contextlib.AbstractContextManager[Any]:
        """Return a context in which the processor does what the device lacks."""
        return self.fallback or contextlib.nullcontext()

    def cover_steps(self, job: Generator[Step, None, Result]) -> Generator[Step, None, Result]:
        """Run a job with every step inside `cover_operations`."""
        while True:
            with self.cover_operations():
                try:
                    step = next(job)
                except StopIteration as end:
                    return end.value
            yield step

    def tell_once(self, reason: str, words: str) -> None:
        """Keep a sentence for the person, unless one for this reason was told before."""
        if reason not in self.told:
            self.told[reason] = words
            self.waiting.append(words)

    def take_notes(self) -> list[str]:
        """Return the sentences that nobody has taken yet."""
        notes, self.waiting = self.waiting, []
        return notes


class Fallback(TorchFunctionMode):
    """Lets the processor do the operations that a device does not have (`NotImplementedError`).

    Each one is tried on the device once, and told once.
    """

    def __init__(self, tell: Callable[[str, str], None]) -> None:
        super().__init__()
        self.tell, self.lacking = tell, set[Any]()

    def __torch_function__(self, call: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if call not in self.lacking:
            try:
                return call(*args, **kwargs)
            except NotImplementedError:
                devices = devices_of(args, kwargs)
                if not devices:
                    raise
            self.lacking.add(call)
            name = getattr(call, "__name__", str(call)).strip("_")
            self.tell(name, f"{devices[0]} lacks the operation '{name}', so the processor does it.")
        return run_on_processor(call, args, kwargs)


def run_on_processor(call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Call an operation with its tensors on the processor, and return its results on their device."""
    device = devices_of(args, kwargs)[0]
    copies = {id(each): each.cpu() for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)}
    plain_args, plain_kwargs = tree_map(lambda each: copies.get(id(each), each), (args, kwargs))
    out = call(*plain_args, **plain_kwargs)
    # An operation in place has changed a copy.
    for each in tree_leaves((args, kwargs)):
        if isinstance(each, Tensor) and out is copies[id(each)]:
            return each.copy_(out)
    return tree_map(lambda each: each.to(device) if isinstance(each, Tensor) else each, out)


def devices_of(args: Any, kwargs: Any) -> list[torch.device]:
    """Return the devices, other than the processor, of the tensors among an operation's arguments."""
    tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
    return [each.device for each in tensors if each.device != CPU]


def needed_mib(outputs: int, inputs: int) -> float:
    """Return the memory in MiB that computing with the moments of a reader (o, d) takes at its peak."""
    return (SQUARES * inputs + WEIGHTS * outputs) * inputs * torch.finfo(torch.float64).bits / 8 / 2**20
