"""Offloaded decoder layers: their weights stay on disk and are in memory only while a layer is used.

An offloaded layer loads its parameters when its forward begins or when it is opened (`open_layer`), and frees
them after the last use. Forward passes of the whole model, generation, and a stream through single layers all
work unchanged, but take the time to read. For a device with memory of its own, the next layer is read
meanwhile.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from slimllm.core.devices import kind_of
from slimllm.core.errors import Refusal

# A file and a tensor's name in it.
Place = tuple[Path, str]


class OnDisk:
    """The parameters of one layer on disk.

    `places` maps each parameter to its place, `dtype` is the dtype to load it in (None: that of the file),
    and `device` is where it is needed. With an executor `ahead`, parameters can be read in advance.
    """

    def __init__(
        self,
        places: Mapping[str, Place],
        dtype: torch.dtype | None,
        device: torch.device,
        ahead: Executor | None = None,
    ) -> None:
        self.places, self.dtype, self.device, self.ahead = places, dtype, device, ahead
        self.coming: Future[dict[str, Tensor]] | None = None
        self.written = {file: file_stamp(file) for file, _ in places.values()}

    def prepare(self) -> None:
        """Start to read in advance, if there is an executor."""
        if self.ahead and self.coming is None:
            self.coming = self.ahead.submit(self.read)

    def __call__(self) -> dict[str, Tensor]:
        """Return the parameters by name, on the device.

        Raise `Refusal` if a file has changed or cannot be read.
        """
        coming, self.coming = self.coming, None
        found = coming.result() if coming else self.read()
        return {name: tensor.to(self.device, non_blocking=True) for name, tensor in found.items()}

    def read(self) -> dict[str, Tensor]:
        """Return the parameters by name in the machine's memory, pinned for a device that has its own.

        Raise `Refusal` if a file has changed or cannot be read.
        """
        wanted: dict[Path, list[tuple[str, str]]] = defaultdict(list)
        for name, (file, key) in self.places.items():
            wanted[file].append((name, key))
        found: dict[str, Tensor] = {}
        for file, pairs in wanted.items():
            if file_stamp(file) not in (None, self.written[file]):
                raise Refusal(
                    f"Weights in '{file}' have changed since they were loaded; load the model again."
                )
            try:
                with safe_open(file, "pt") as tensors:
                    found |= {name: tensors.get_tensor(key).to(self.dtype) for name, key in pairs}
            except OSError as failure:
                raise Refusal(
                    f"Weights in '{file}' cannot be read any more; load the model again."
                ) from failure
        if kind_of(self.device).owns_memory:
            found = {name: tensor.pin_memory() for name, tensor in found.items()}
        return found

    def __deepcopy__(self, memo: dict[int, Any]) -> OnDisk:
        return self


def file_stamp(file: Path) -> tuple[int, int] | None:
    """Return the size in bytes and the modification time in nanoseconds of a file, or None if it is gone."""
    try:
        state = file.stat()
    except OSError:
        return None
    return state.st_size, state.st_mtime_ns


class OffloadedLayer:
    """The offloading of one layer: its first user loads the parameters, and its last user frees them.

    `row` holds the offloading of all layers in order, so that the next layer can be read in advance.
    """

    def __init__(self, layer: nn.Module, fetch: OnDisk, row: list[OffloadedLayer]) -> None:
        self.layer, self.fetch, self.users = layer, fetch, 0
        self.row, self.place = row, len(row)
        row.append(self)

    def begin(self, *_: object) -> None:
        """Add a user of the layer; load the parameters for the first one."""
        # The count rises first, because `end` is called even if loading fails.
        self.users += 1
        if self.users == 1:
            fill_layer(self.layer, self.fetch())
            for later in self.row[self.place + 1 : self.place + 2]:
                if not later.users:
                    later.fetch.prepare()

    def end(self, *_: object) -> None:
        """Remove a user of the layer; free the parameters after the last one."""
        self.users -= 1
        if not self.users:
            empty_layer(self.layer)


def offload_layer(layer: nn.Module, fetch: OnDisk, row: list[OffloadedLayer]) -> None:
    """Offload a layer, as the next one in its row, and free its present parameters."""
    offloaded = OffloadedLayer(layer, fetch, row)
    layer.offloaded = offloaded  # type: ignore[assignment]
    layer.register_forward_pre_hook(offloaded.begin)
    layer.register_forward_hook(offloaded.end, always_call=True)
    empty_layer(layer)


@contextlib.contextmanager
def open_layer(layer: nn.Module) -> Iterator[None]:
    """Keep the layer's parameters in memory for the block."""
    offloaded: OffloadedLayer | None = getattr(layer, "offloaded", None)
    if offloaded is None:
        yield
        return
    try:
        offloaded.begin()
        yield
    finally:
        offloaded.end()


def is_offloaded(model: Any) -> bool:
    """Return whether some layers of the model are offloaded."""
    return any(isinstance(getattr(module, "offloaded", None), OffloadedLayer) for module in model.modules())


def is_spread(model: Any) -> bool:
    """Return whether accelerate has distributed the model over several devices."""
    return getattr(model, "hf_device_map", None) is not None


def check_resident(model: Any, what: str) -> None:
    """Raise `Refusal` for work that needs all weights at once if the model is offloaded."""
    if is_offloaded(model):
        raise Refusal(
            f"{what} needs all weights in memory, and this model is larger than it; take a smaller model or "
            "a machine with more memory."
        )


def put_away(layer: nn.Module, file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write the parameters of an open offloaded layer to a file; from now on the layer is loaded from there.

    `tensors` are the parameters as they are to be stored.
    """
    held = dict(layer.named_parameters())
    save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, file)
    offloaded: OffloadedLayer = layer.offloaded  # type: ignore[assignment]
    before, dtype = offloaded.fetch, next(iter(held.values())).dtype
    offloaded.fetch = OnDisk({name: (file, name) for name in held}, dtype, before.device, before.ahead)


def offload_as_stored(layer: nn.Module) -> None:
    """Let an offloaded layer load its parameters in the dtypes of its files from now on."""
    offloaded: OffloadedLayer = layer.offloaded  # type: ignore[assignment]
    offloaded.fetch = OnDisk(offloaded.fetch.places, None, torch.device("cpu"))
    found = {}
    for name, (file, key) in offloaded.fetch.places.items():
        with safe_open(file, "pt") as tensors:
            found[name] = tensors.get_tensor(key).to("meta")
    fill_layer(layer, found)


def fill_layer(layer: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Set the layer's parameters to these tensors."""
    for name, tensor in tensors.items():
        parent, _, leaf = name.rpartition(".")
        setattr(layer.get_submodule(parent), leaf, nn.Parameter(tensor, requires_grad=False))


def empty_layer(layer: nn.Module) -> None:
    """Free the layer's parameters and keep only their shapes."""
    fill_layer(layer, {name: tensor.detach().to("meta") for name, tensor in layer.named_parameters()})
