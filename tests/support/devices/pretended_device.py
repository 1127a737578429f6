"""Pretend an accelerator on a machine without one, to find copies, synchronisations and mixed devices.

Tensors on it say that they are on the device and hold their values on the CPU. As on a real device, they
refuse to meet tensors of the CPU, and their values are seen only through a copy. Everything that crosses
between the two is counted. Speed, kernels and memory are not pretended.

    with PretendedDevice("cuda") as device:
        subject = device.move_subject(subject)
        ...
    device.counts.to_host
"""

from __future__ import annotations

import copy
import dataclasses
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from slimllm.models.loading import Subject

aten = torch.ops.aten
CPU = torch.device("cpu")
# Operations whose tensors may be on different devices: copies, and indices on the CPU.
CROSSING = ("copy_", "index", "index_put_", "index_put", "_index_put_impl_")
# Operations that wait for the device, because a shape or a Python value depends on their result.
WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "_linalg_check_errors")
# Operations that move or make values and compute nothing.
MOVING = ("copy_", "_to_copy", "clone", "detach", "cat", "stack", "index", "index_select")
MOVING += ("empty", "zeros", "ones", "full", "eye", "arange")


def list_leaves(given: Any) -> list[Any]:
    """Return the values in nested tuples, lists and dictionaries; torch's own function takes much longer."""
    if isinstance(given, dict):
        given = list(given.values())
    if not isinstance(given, tuple | list):
        return [given]
    return [leaf for each in given for leaf in list_leaves(each)]


def map_leaves(change: Callable[[Any], Any], given: Any) -> Any:
    """Return nested tuples, lists and dictionaries with every value changed."""
    if isinstance(given, dict):
        return {key: map_leaves(change, each) for key, each in given.items()}
    if isinstance(given, tuple | list):
        return type(given)([map_leaves(change, each) for each in given])
    return change(given)


@dataclass
class Counts:
    """What crossed between CPU and device: copies to either, waits for a value, and float64 operations."""

    to_device: int = 0
    to_host: int = 0
    waits: int = 0
    float64: int = 0

    def __sub__(self, earlier: Counts) -> Counts:
        """Return what was added since an earlier reading."""
        mine, theirs = dataclasses.astuple(self), dataclasses.astuple(earlier)
        return Counts(*(a - b for a, b in zip(mine, theirs, strict=True)))


class DeviceTensor(Tensor):
    """A tensor on a pretended device `home`; `raw` holds its values."""

    home: PretendedDevice
    raw: Tensor

    @staticmethod
    def __new__(cls, raw: Tensor, home: PretendedDevice) -> DeviceTensor:
        if raw.dtype == torch.float64 and not home.float64:
            raise TypeError(f"Cannot convert a tensor to float64; {home.place} has no float64.")
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            raw.size(),
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            # The engine of gradients knows real devices only.
            device=CPU,
        )
        made.home, made.raw = home, raw.detach()
        return made

    device = property(lambda self: self.home.place)  # type: ignore[assignment]
    is_cpu = property(lambda self: self.home.place == CPU)  # type: ignore[assignment]
    is_cuda = property(lambda self: self.home.place.type == "cuda")  # type: ignore[assignment]

    def __repr__(self, **_: Any) -> str:
        return f"on {self.home.place}: {self.raw!r}"

    def tolist(self) -> Any:
        """Return the values as Python numbers, which is one copy."""
        self.home.counts.to_host += 1
        return self.raw.tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        """Refuse, as tensors on devices do."""
        raise TypeError(f"can't convert a tensor on {self.home.place} to numpy; use Tensor.cpu() first")

    __array__ = numpy

    @classmethod
    def __torch_dispatch__(cls, op: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = next(each for each in list_leaves((args, kwargs)) if isinstance(each, DeviceTensor))
        return found.home.run_operation(op, args, kwargs or {})


@dataclass(eq=False)
class PretendedDevice:
    """A device that is there while its context is open.

    Without `float64` it refuses that dtype, as Apple's GPUs do. It raises `NotImplementedError` for the
    operations that it `lacks`. `host_work` and `device_work` count the computations on tensors of more than
    `limit` elements, on the CPU and on the device, by the names of the operations.
    """

    kind: str = "cuda"
    float64: bool = True
    lacks: Collection[str] = ()
    limit: int = 1_000_000
    counts: Counts = field(default_factory=Counts)
    host_work: Counter[str] = field(default_factory=Counter)
    device_work: Counter[str] = field(default_factory=Counter)

    @property
    def place(self) -> torch.device:
        """The device as torch names it."""
        return torch.device(self.kind, 0)

    def __enter__(self) -> PretendedDevice:
        self.modes = Calls(self), Operations(self)
        for mode in self.modes:
            mode.__enter__()
        return self

    def __exit__(self, *failure: Any) -> None:
        for mode in reversed(self.modes):
            mode.__exit__(*failure)

    def read_counts(self) -> Counts:
        """Return the present counts."""
        return dataclasses.replace(self.counts)

    def move_subject(self, subject: Subject) -> Subject:
        """Return the subject on this device; the given one stays where it is."""
        memo: dict[int, Any] = {
            id(b): DeviceTensor(b.detach().clone(), self) for b in subject.model.buffers()
        }
        for weight in subject.model.parameters():
            memo[id(weight)] = nn.Parameter(DeviceTensor(weight.detach().clone(), self), False)
        return dataclasses.replace(subject, model=copy.deepcopy(subject.model, memo))

    def move_tensor(self, tensor: Tensor, place: torch.device, dtype: torch.dtype | None) -> Tensor:
        """Return the tensor on this device or on the CPU, as a copy only where something changes."""
        inside, wanted = isinstance(tensor, DeviceTensor), place.type == self.kind
        if inside == wanted:
            return tensor if dtype in (None, tensor.dtype) else aten._to_copy(tensor, dtype=dtype)
        # The function keeps gradients, as moves in torch do.
        moved: Tensor = Crossing.apply(tensor, self)  # type: ignore[no-untyped-call]
        return moved if dtype is None else moved.to(dtype)

    def cross(self, tensor: Tensor) -> Tensor:
        """Return a copy of a tensor on the other side, without gradient."""
        if isinstance(tensor, DeviceTensor):
            self.counts.to_host += 1
            return tensor.raw.clone()
        self.counts.to_device += 1
        return DeviceTensor(tensor.detach().clone(), self)

    def run_operation(self, op: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run an operation on the values, and put its results where a real device would."""
        name, given = op.overloadpacket.__name__, list_leaves((args, kwargs))
        inside = [each for each in given if isinstance(each, DeviceTensor)]
        outside = [each for each in given if isinstance(each, Tensor) and not isinstance(each, DeviceTensor)]
        if not inside:
            out = op(*args, **kwargs)
            self.note_work(self.host_work, op, [*outside, *list_leaves(out)])
            return out
        if name in self.lacks:
            raise NotImplementedError(f"The operator 'aten::{name}' is not implemented for {self.place}.")
        if any(each.dim() for each in outside) and name not in CROSSING:
            raise RuntimeError(f"Expected all tensors on one device, found {self.place} and cpu in {name}")
        if name == "index" and not isinstance(args[0], DeviceTensor):
            raise RuntimeError("indices should be on the device of the indexed tensor or on the CPU")
        self.note_crossings(name, args, inside, outside)
        known = {id(each.raw): each for each in inside}
        raw_args, raw_kwargs = map_leaves(
            lambda each: each.raw if isinstance(each, DeviceTensor) else each, (args, kwargs)
        )
        out = op(*raw_args, **raw_kwargs)
        self.note_work(self.device_work, op, [*inside, *list_leaves(out)])
        # A copy into a tensor of the CPU, and a new tensor that was asked for on the CPU, stay there.
        stays = name == "copy_" and not isinstance(args[0], DeviceTensor)
        return out if stays or kwargs.get("device") is not None else self.wrap_results(out, known)

    def wrap_results(self, out: Any, known: dict[int, DeviceTensor]) -> Any:
        """Return results as tensors of this device; values that were changed in place keep their tensor."""
        return map_leaves(
            lambda each: known.get(id(each), DeviceTensor(each, self)) if type(each) is Tensor else each, out
        )

    def note_crossings(self, name: str, args: Any, inside: list[Any], outside: list[Tensor]) -> None:
        """Count what an operation on the device copies and whether the CPU waits for it."""
        self.counts.float64 += any(each.dtype == torch.float64 for each in inside)
        self.counts.waits += name in WAITING
        if name == "copy_":
            into = isinstance(args[0], DeviceTensor)
            self.counts.to_device += into and bool(outside) and outside[0].dim() > 0
            self.counts.to_host += not into
        elif name.startswith(("index", "_index")):
            indices = list_leaves(args[1])
            # An index on the CPU is copied, and the number of true entries of a mask is waited for.
            self.counts.to_device += sum(each in outside for each in indices if type(each) is Tensor)
            masked = any(isinstance(each, DeviceTensor) and each.dtype == torch.bool for each in indices)
            self.counts.waits += masked and name == "index"

    def note_work(self, work: Counter[str], op: Any, tensors: list[Any]) -> None:
        """Count a computation on large tensors."""
        name = op.overloadpacket.__name__
        sizes = [each.numel() for each in tensors if isinstance(each, Tensor) and each.device.type != "meta"]
        if max(sizes, default=0) > self.limit and name not in MOVING and not op.is_view:
            work[name] += 1


class Crossing(torch.autograd.Function):
    """A move between CPU and device, whose gradient moves back."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, home: PretendedDevice) -> Tensor:
        """Return the tensor on the other side."""
        ctx.home = home
        return home.cross(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Return the gradient on the side of the tensor."""
        return ctx.home.cross(gradients[0]), None


class Operations(TorchDispatchMode):
    """Sends every operation of torch through the device."""

    def __init__(self, home: PretendedDevice) -> None:
        super().__init__()
        self.home = home

    def __torch_dispatch__(self, op: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.home.run_operation(op, args, kwargs or {})


class Calls(TorchFunctionMode):
    """Answers calls that name a device, before torch looks for it among the real ones."""

    def __init__(self, home: PretendedDevice) -> None:
        super().__init__()
        self.home = home

    def __torch_function__(self, call: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name, first = getattr(call, "__name__", ""), args[0] if args else None
        if isinstance(first, Tensor):
            if name == "cpu":
                return self.home.move_tensor(first, CPU, None)
            if name == "to":
                return self.convert(call, first, args[1:], kwargs)
            # Torch cannot detach a subclass in inference mode.
            if name == "detach" and isinstance(first, DeviceTensor) and torch.is_inference_mode_enabled():
                return DeviceTensor(first.raw, self.home)
        asked = kwargs.get("device")
        if asked is None or torch.device(asked).type != self.home.kind:
            return call(*args, **kwargs)
        out = call(*args, **{**kwargs, "device": CPU})
        self.home.counts.to_device += call in (torch.tensor, torch.as_tensor)
        return out if isinstance(out, DeviceTensor) else DeviceTensor(out, self.home)

    def convert(self, call: Any, tensor: Tensor, rest: Any, kwargs: dict[str, Any]) -> Tensor:
        """Answer `Tensor.to`."""
        place, dtype = kwargs.get("device"), kwargs.get("dtype")
        for each in rest:
            if isinstance(each, Tensor):
                place, dtype = each.device, each.dtype
            elif isinstance(each, torch.dtype):
                dtype = each
            elif isinstance(each, str | torch.device):
                place = each
        if place is None or torch.device(place).type not in ("cpu", self.home.kind):
            return call(tensor, *rest, **kwargs)
        moved = self.home.move_tensor(tensor, torch.device(place), dtype)
        return moved.clone() if moved is tensor and kwargs.get("copy") else moved
