"""Moments and analyses on disk: one safetensors file per layer, opened lazily; JSON for the rest."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from slimllm.analysis.analysis_check import check_layers
from slimllm.analysis.analysis_files import (
    CHANNEL_SCORES,
    HEAD,
    KEY,
    OLD_TENSORS,
    check_moments,
    check_place,
    holds_moments,
    is_readable,
    tensor_files,
)
from slimllm.core.errors import Refusal
from slimllm.core.held_out import HeldOut
from slimllm.core.json_io import parse_dataclass
from slimllm.core.shapes import Shape, SiteName
from slimllm.core.types import (
    Analysis,
    Calibration,
    LayerAnalysis,
    LayerMoments,
    Moments,
    Ranking,
    SiteAnalysis,
)
from slimllm.files import atomic_write, file_limits
from slimllm.files.file_lock import hold_path
from slimllm.files.weight_headers import safetensors_tensors
from slimllm.methods.table import fill_options

log = logging.getLogger(__name__)

STORE_FORMAT = 2  # errors are on held-out tokens
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError)
MOST_LAYERS = 10_000
# The tensors of a reader's moments: (d,), (d, d), (n, d), (n,).
MOMENT_PARTS = ("mean", "gram", "held", "held_weights")


@dataclasses.dataclass(frozen=True)
class MomentStore:
    """The moments of a dense model for one calibration.
    Its `key` says which, so that a store is never used for another one."""

    folder: Path

    def file(self, index: int) -> Path:
        """Return the file of one layer."""
        return self.folder / f"layer_{index:03d}.safetensors"

    @property
    def files(self) -> list[Path]:
        """The files of the stored layers."""
        return sorted(self.folder.glob("layer_*.safetensors"))

    def check(self) -> None:
        """Raise `Refusal` if the folder holds anything but moments."""
        check_moments(self.folder, self.begun.folder)

    @property
    def begun(self) -> MomentStore:
        """The store in which the layers of an unfinished pass over the text wait."""
        return MomentStore(self.folder.with_name(f".{self.folder.name}.unfinished"))

    @property
    def key(self) -> dict[str, Any]:
        """The key that the store was made under, or an empty dictionary if there is none."""
        with contextlib.suppress(OSError, ValueError):
            return dict(json.loads(file_limits.read_text(self.folder / KEY, f"'{KEY}'", "make it again")))
        return {}

    def under(self, key: dict[str, Any]) -> bool:
        """Return whether the store was made under `key`."""
        return self.key == {"format": STORE_FORMAT, **key}

    def kept(self, key: dict[str, Any], layers: int) -> int:
        """Return how many layers, from the first one on, were made under `key` and can be read."""
        return next((i for i in range(layers) if not self.readable(i)), layers) if self.under(key) else 0

    def matches(self, key: dict[str, Any], layers: int) -> bool:
        """Return whether the store is complete and was made under `key`."""
        return self.kept(key, layers) == layers

    def readable(self, index: int) -> bool:
        """Return whether the file of one layer is complete."""
        return is_readable(self.file(index))

    @property
    def unwritten(self) -> str:
        """The beginning of the message about a failed write."""
        return f"The moments in '{self.folder.parent}' cannot be written"

    @contextlib.contextmanager
    def filled(self, key: dict[str, Any]) -> Iterator[MomentStore]:
        """Yield a store to fill, which replaces this one at the end of the block.
        It starts with the layers that an interrupted pass under the same key has left. After a failed write,
        nothing is left."""
        made = self.begun
        with contextlib.ExitStack() as stack:
            try:
                with atomic_write.translate_write_failures(self.unwritten):
                    stack.enter_context(self.claimed(made))
                    made.clear(key)
                yield made
                with (
                    atomic_write.translate_write_failures(self.unwritten),
                    atomic_write.scratch_folder(self.folder) as space,
                ):
                    atomic_write.place_folder(made.folder, self.folder, space, holds_moments, log.warning)
            except atomic_write.Unwritten:
                shutil.rmtree(made.folder, ignore_errors=True)
                raise

    @contextlib.contextmanager
    def claimed(self, made: MomentStore) -> Iterator[None]:
        """Make and lock the folder of an unfinished pass; raise `Refusal` if another program locked it."""

        def make_folder() -> Path:
            made.folder.mkdir(parents=True, exist_ok=True)
            return made.folder

        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(atomic_write.made_and_held(make_folder, shared_name=True))
            except BlockingIOError:
                raise Refusal(
                    f"Another program is writing the moments in '{self.folder.parent}'; wait for it, or "
                    "choose another folder."
                ) from None
            yield

    @contextlib.contextmanager
    def read(self) -> Iterator[MomentStore]:
        """Yield the store, which no other program removes during the block.
        Every reader locks the first layer file without a lock, so there can be as many readers as layers."""
        with contextlib.ExitStack() as stack:
            for file in self.files:
                # Another reader has locked the file, or the file system has no locks.
                with contextlib.suppress(OSError):
                    stack.enter_context(hold_path(file))
                    break
            yield self

    def remove_unread(self) -> None:
        """Remove the store, unless another program reads or fills it or the file system has no locks."""
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for path in (self.folder, *self.files):
                stack.enter_context(hold_path(path))
            shutil.rmtree(self.folder, ignore_errors=True)

    def clear(self, key: dict[str, Any]) -> None:
        """Remove everything from the folder except complete layers that were made under `key`."""
        same = self.under(key)
        keep = {self.file(i).name for i in range(self.kept(key, MOST_LAYERS))} | ({KEY} if same else set())
        for path in self.folder.iterdir():
            if path.is_dir():
                atomic_write.mend_leftover(path)
            elif path.name not in keep:
                path.unlink()
        if not same:
            atomic_write.write_text(self.folder / KEY, json.dumps({"format": STORE_FORMAT, **key}, indent=1))

    def save(self, index: int, moments: LayerMoments) -> None:
        """Write the moments of one layer."""
        tensors = {
            "mlp_input_sq": moments.mlp_input_sq,
            "cosine": torch.tensor([moments.cosine], dtype=torch.float64),
            "tokens": torch.tensor([moments.attention.tokens, moments.mlp.tokens]),
            "weights": torch.tensor([moments.attention.weight, moments.mlp.weight], dtype=torch.float64),
        }
        for site, found in (("attention", moments.attention), ("mlp", moments.mlp)):
            tensors |= {f"{site}.mean": found.mean, f"{site}.gram": found.gram}
            if held := found.held:
                tensors |= {f"{site}.held": held.inputs, f"{site}.held_weights": held.weights}
        tensors = {name: tensor.cpu() for name, tensor in tensors.items()}
        atomic_write.replace_file(self.file(index), lambda path: save_file(tensors, path), self.unwritten)

    def __getitem__(self, index: int) -> LayerMoments:
        """Return the stored moments of one layer."""
        with safe_open(self.file(index), framework="pt") as file:
            tokens, weights = file.get_tensor("tokens").tolist(), file.get_tensor("weights").tolist()
            attention, mlp = (
                Moments(mean, gram, count, weight, held=HeldOut(held, each))
                for mean, gram, held, each, count, weight in (
                    (*(file.get_tensor(f"{site}.{name}") for name in MOMENT_PARTS), count, weight)
                    for site, count, weight in zip(("attention", "mlp"), tokens, weights, strict=True)
                )
            )
            input_sq, cosine = (file.get_tensor(name) for name in ("mlp_input_sq", "cosine"))
            return LayerMoments(attention, mlp, input_sq, cosine.item())


def save_analysis(analysis: Analysis, folder: Path) -> Path:
    """Write an analysis, and return the path of its plain channel scores (one tensor (c,) per layer).

    analysis.json is written last and names the file of the tensors, so the earlier analysis stays complete
    until then. Raise `Refusal` if the folder holds other files of these names or cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    layers = []
    for i, layer in enumerate(analysis.layers):
        sites = {**{f"attention.{unit}": site for unit, site in layer.attention.items()}, "mlp": layer.mlp}
        energy = {name: site.energy for name, site in sites.items()}
        layers.append({"cosine": layer.cosine, "energy": energy, "sensitivity": dict(layer.sensitivity)})
        for name, site in sites.items():
            tensors |= site_tensors(f"{i}.{name}", site)
    file = f"analysis-{secrets.token_hex(4)}.safetensors"
    head = {field: getattr(analysis, field) for field in SIMPLE}
    head |= {
        "format": STORE_FORMAT,
        "tensors": file,
        "shape": dataclasses.asdict(analysis.shape),
        "calibration": dataclasses.asdict(analysis.calibration),
        "layers": layers,
    }
    scores = {
        f"layer_{i:03d}": layer.mlp.ranking.scores.contiguous() for i, layer in enumerate(analysis.layers)
    }
    check_place(folder)
    unwritten, earlier = f"The analysis in '{folder}' cannot be written", tensor_files(folder)
    try:
        atomic_write.replace_file(folder / file, lambda path: save_file(tensors, path), unwritten)
        atomic_write.replace_file(folder / CHANNEL_SCORES, lambda path: save_file(scores, path), unwritten)
        atomic_write.write_text(folder / HEAD, json.dumps(head, indent=1), unwritten)
    except atomic_write.Unwritten:
        (folder / file).unlink(missing_ok=True)
        raise
    for old in earlier:
        old.unlink(missing_ok=True)
    return folder / CHANNEL_SCORES


@dataclasses.dataclass(frozen=True)
class LayerHead:
    """The entry of one layer in analysis.json."""

    cosine: float
    energy: Mapping[str, float]
    sensitivity: Mapping[SiteName, float]


@dataclasses.dataclass(frozen=True)
class Head:
    """The content of analysis.json."""

    model: str
    method: str
    options: Mapping[str, Any]
    tokens: int
    bytes_per_parameter: float
    seconds: float
    peak_memory_mib: float
    shape: Shape
    calibration: Calibration
    layers: tuple[LayerHead, ...]
    tensors: str = OLD_TENSORS
    fingerprints: Mapping[str, str] = dataclasses.field(default_factory=dict)


FIGURES = ("tokens", "bytes_per_parameter", "seconds", "peak_memory_mib")
SIMPLE = ("model", "method", "options", "fingerprints", *FIGURES)


def site_tensors(prefix: str, site: SiteAnalysis) -> dict[str, Tensor]:
    """Return the tensors of a site by their names in the file."""
    tensors = {f"{prefix}.scores": site.ranking.scores, f"{prefix}.order": site.ranking.order}
    some = {"subsets": site.ranking.subsets, "unsearched": site.ranking.unsearched, "spectrum": site.spectrum}
    tensors |= {f"{prefix}.{name}": tensor for name, tensor in some.items() if tensor is not None}
    tensors |= {f"{prefix}.error.{name}": error for name, error in site.error.items()}
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def open_analysis(folder: Path) -> Analysis:
    """Return the analysis saved in a folder; raise `Refusal` if there is none that can be read."""
    words = "no readable analysis"
    remedy = f"make one with: python -m slimllm analyse --model … --out {folder}"
    try:
        head = json.loads(file_limits.read_text(folder / HEAD, HEAD, remedy))
        if head["format"] == 1:
            words = "an analysis by an earlier version, which told errors on the text that it had learned"
        if head.pop("format") != STORE_FORMAT:
            raise ValueError("another format")
        found = parse_dataclass(Head, head)
        tensors = folder / Path(found.tensors).name
        with file_limits.open_regular(tensors, f"'{tensors}'", remedy) as opened:
            sum(1 for _ in safetensors_tensors(opened))  # raises if the header is faulty
        with safe_open(tensors, framework="pt") as file:
            names = list(file.keys())
            layers = tuple(open_layer_analysis(file, names, i, layer) for i, layer in enumerate(found.layers))
        check_layers(found.shape, layers)
        return Analysis(
            shape=found.shape,
            calibration=found.calibration,
            layers=layers,
            **{field: getattr(found, field) for field in SIMPLE if field != "options"},
            options=fill_options(found.method, found.options),
        )
    except UNREADABLE as failure:
        raise Refusal(f"'{folder}' holds {words}; {remedy}") from failure


def open_layer_analysis(file: Any, names: list[str], index: int, found: LayerHead) -> LayerAnalysis:
    """Return the analysis of one layer from an open file."""
    sites: dict[Any, SiteAnalysis] = {
        name: open_site(file, names, f"{index}.{name}", energy) for name, energy in found.energy.items()
    }
    mlp = sites.pop("mlp")
    return LayerAnalysis(
        found.cosine,
        {name.removeprefix("attention."): site for name, site in sites.items()},
        mlp,
        found.sensitivity,
    )


def open_site(file: Any, names: list[str], prefix: str, energy: float) -> SiteAnalysis:
    """Return the analysis of one site from an open file."""

    def read_optional(name: str) -> Tensor | None:
        return file.get_tensor(f"{prefix}.{name}") if f"{prefix}.{name}" in names else None

    ranking = Ranking(
        file.get_tensor(f"{prefix}.scores"),
        file.get_tensor(f"{prefix}.order"),
        read_optional("subsets"),
        read_optional("unsearched"),
    )
    start = f"{prefix}.error."
    error = {name.removeprefix(start): file.get_tensor(name) for name in names if name.startswith(start)}
    return SiteAnalysis(ranking, error, energy, read_optional("spectrum"))
