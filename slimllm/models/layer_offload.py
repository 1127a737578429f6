"""Decoder layers whose weights lie on disk and are in memory only while the layer is used.

A lent layer loads what it needs when its forward begins, or when it is opened (`open_layer`), and lets go of
it after the last use. Nothing else has to know: a forward of the whole model, generation and a stream through
single layers all work, at the price of reading. On a CUDA device the next layer is read meanwhile.
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

from slimllm.core.errors import Refusal

Place = tuple[Path, str]  # a file and a tensor's name in it


class OnDisk:
    """Where the parameters of one layer are, in which dtype (None stands for that of the files) and on which
    device they are wanted. With an executor `ahead` they can be read before they are asked for."""

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
        """Begins to read, where there is an executor for it."""
        if self.ahead and self.coming is None:
            self.coming = self.ahead.submit(self.read)

    def __call__(self) -> dict[str, Tensor]:
        """The parameters by name; a `Refusal` where a file is gone."""
        coming, self.coming = self.coming, None
        found = coming.result() if coming else self.read()
        return {name: tensor.to(self.device, non_blocking=True) for name, tensor in found.items()}

    def read(self) -> dict[str, Tensor]:
        """The parameters in the machine's memory, from where a CUDA device can fetch them by itself."""
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
        if self.device.type == "cuda":
            found = {name: tensor.pin_memory() for name, tensor in found.items()}
        return found

    def __deepcopy__(self, memo: dict[int, Any]) -> OnDisk:
        return self


def file_stamp(file: Path) -> tuple[int, int] | None:
    """Size and time of the last change of a file; None where it is gone."""
    try:
        state = file.stat()
    except OSError:
        return None
    return state.st_size, state.st_mtime_ns


class Lent:
    """Gives a layer its parameters with its first user and takes them back after the last. It stands in a
    `row` with those of the other layers, and lets the next one's be read ahead."""

    def __init__(self, layer: nn.Module, fetch: OnDisk, row: list[Lent]) -> None:
        self.layer, self.fetch, self.users = layer, fetch, 0
        self.row, self.place = row, len(row)
        row.append(self)

    def begin(self, *_: object) -> None:
        self.users += 1  # first: the end comes even where fetching fails
        if self.users == 1:
            fill_layer(self.layer, self.fetch())
            for later in self.row[self.place + 1 : self.place + 2]:
                if not later.users:
                    later.fetch.prepare()

    def end(self, *_: object) -> None:
        self.users -= 1
        if not self.users:
            empty_layer(self.layer)


def offload_layer(layer: nn.Module, fetch: OnDisk, row: list[Lent]) -> None:
    """Makes the layer a lent one, the next in its row; what it holds now is let go."""
    lent = Lent(layer, fetch, row)
    layer.lent = lent  # type: ignore[assignment]
    layer.register_forward_pre_hook(lent.begin)
    layer.register_forward_hook(lent.end, always_call=True)
    empty_layer(layer)


@contextlib.contextmanager
def open_layer(layer: nn.Module) -> Iterator[None]:
    """While open, the layer has its parameters."""
    lent: Lent | None = getattr(layer, "lent", None)
    if lent is None:
        yield
        return
    try:
        lent.begin()
        yield
    finally:
        lent.end()


def is_lent(model: Any) -> bool:
    """Whether some layers of the model are in memory only while they are used."""
    return any(isinstance(getattr(module, "lent", None), Lent) for module in model.modules())


def is_spread(model: Any) -> bool:
    """Whether accelerate has put the model onto several devices."""
    return getattr(model, "hf_device_map", None) is not None


def check_resident(model: Any, what: str) -> None:
    """Refuses work that needs all weights at once on a model that lends its layers."""
    if is_lent(model):
        raise Refusal(
            f"{what} needs all weights in memory, and this model is larger than it; take a smaller model or "
            "a machine with more memory."
        )


def put_away(layer: nn.Module, file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes the parameters of an open lent layer, as they are to be `stored`, to a file, from which it is
    lent from then on."""
    held = dict(layer.named_parameters())
    save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, file)
    lent: Lent = layer.lent  # type: ignore[assignment]
    before, dtype = lent.fetch, next(iter(held.values())).dtype
    lent.fetch = OnDisk({name: (file, name) for name in held}, dtype, before.device, before.ahead)


def lend_as_stored(layer: nn.Module) -> None:
    """Lets a lent layer have its parameters from now on as they are in their files."""
    lent: Lent = layer.lent  # type: ignore[assignment]
    lent.fetch = OnDisk(lent.fetch.places, None, torch.device("cpu"))
    found = {}
    for name, (file, key) in lent.fetch.places.items():
        with safe_open(file, "pt") as tensors:
            found[name] = tensors.get_tensor(key).to("meta")
    fill_layer(layer, found)


def fill_layer(layer: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Gives the layer these parameters."""
    for name, tensor in tensors.items():
        parent, _, leaf = name.rpartition(".")
        setattr(layer.get_submodule(parent), leaf, nn.Parameter(tensor, requires_grad=False))


def empty_layer(layer: nn.Module) -> None:
    """Leaves of the layer's parameters only their shapes."""
    fill_layer(layer, {name: tensor.detach().to("meta") for name, tensor in layer.named_parameters()})
