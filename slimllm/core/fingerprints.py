"""What weights, texts and code are, told by their content: by it a stored result is found again, never by a
name."""

from __future__ import annotations

import hashlib
import json
import struct
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

WHOLE = 1 << 26  # bytes up to which everything is read; beyond, samples of every tensor
SAMPLE_BYTES, SAMPLES = 1 << 13, 8  # bytes of a sample, and samples per tensor
BLOCKS = 4096  # samples of a file whose tensors are not known
HEADER = 1 << 22  # bytes at the beginning of such a file that are read in any case
# modules that decide what moments are
DECIDING = (
    *("calibration/moments", "calibration/gram", "calibration/distributed"),
    *("core/held_out", "models/families", "models/modeling_slim"),
)


@dataclass(frozen=True)
class Fingerprint:
    """What some weights are. `content` is the same wherever they lie; `exact` tells apart, too, what samples
    may not: when large files were last written."""

    content: str
    exact: str


@dataclass(frozen=True)
class ReadFrom:
    """What a model was read from, as long as it is that very model."""

    model: weakref.ref[Any]
    fingerprint: Fingerprint


def hash_files(files: Sequence[Path], beside: Iterable[Path] = ()) -> Fingerprint:
    """The fingerprint of weight files, and of small files `beside` them that are read whole."""
    found, sizes = hashlib.sha256(), [file.stat().st_size for file in files]
    for file in beside:
        found.update(file.read_bytes())
    whole = sum(sizes) <= WHOLE
    for file, size in zip(files, sizes, strict=True):
        found.update(struct.pack("<q", size))
        with file.open("rb") as opened:
            for start, count in [(0, size)] if whole else sampled_parts(file, size):
                opened.seek(start)
                found.update(opened.read(count))
    content = found.hexdigest()[:32]
    written = "" if whole else "".join(f"-{file.stat().st_mtime_ns:x}" for file in files)
    return Fingerprint(content, content + hashlib.sha256(written.encode()).hexdigest()[:8])


def sampled_parts(file: Path, size: int) -> Iterator[tuple[int, int]]:
    """(start, bytes) of the parts of a large file that are read: its header, and samples of every tensor."""
    if file.suffix != ".safetensors":
        yield 0, min(HEADER, size)
        yield from spread_samples(0, size, BLOCKS)
        return
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        header = json.loads(opened.read(min(length, size)))
    yield 0, 8 + length
    for name in sorted(header.keys() - {"__metadata__"}):
        start, end = header[name]["data_offsets"]
        yield from spread_samples(8 + length + start, end - start, SAMPLES)


def spread_samples(start: int, size: int, count: int) -> Iterator[tuple[int, int]]:
    """(start, bytes) of samples that lie evenly in a part of a file, both of its ends among them."""
    if size <= SAMPLE_BYTES * count:
        yield start, size
        return
    for place in range(count):
        yield start + (size - SAMPLE_BYTES) * place // (count - 1), SAMPLE_BYTES


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """The hash of tensors in memory: all of them, or where they are large samples of each."""
    found = hashlib.sha256()
    whole = sum(tensor.nbytes for tensor in tensors.values()) <= WHOLE
    for name in sorted(tensors):
        flat = tensors[name].detach().contiguous().flatten().view(torch.uint8)
        found.update(f"{name} {tuple(tensors[name].shape)} {tensors[name].dtype}".encode())
        for start, count in [(0, flat.numel())] if whole else spread_samples(0, flat.numel(), SAMPLES):
            found.update(flat[start : start + count].cpu().numpy().tobytes())
    return found.hexdigest()[:32]


def hash_words(words: Iterable[str]) -> str:
    """The hash of some words in their order."""
    return hashlib.sha256(json.dumps([*words]).encode()).hexdigest()[:32]


def hash_tokens(tokens: Tensor) -> str:
    """The hash of token ids and their shape."""
    return hash_tensors({"tokens": tokens})


@cache
def hash_code() -> str:
    """The hash of the program text that decides moments, with the versions of what computes them."""
    found = hashlib.sha256()
    for name in DECIDING:
        found.update((Path(__file__).parents[1] / f"{name}.py").read_bytes())
    for package in ("torch", "transformers"):
        found.update(metadata.version(package).encode())
    return found.hexdigest()[:32]


def told_changes(then: Mapping[str, str], now: Mapping[str, str], text: str, model: str) -> list[str]:
    """What has changed of text and weights since something was made by them, a sentence each; what is not
    known of either has not changed."""

    said = []
    if is_other(then, now, "weights"):
        said.append(f"The weights of '{model}' are others than those that the plan was made for.")
    if is_other(then, now, "tokens"):
        said.append(f"The text '{text}' has changed since the plan was made from it.")
    return said


def is_other(then: Mapping[str, str], now: Mapping[str, str], *names: str) -> bool:
    """Whether one of these fingerprints, by default any, is known to have changed."""
    return any(then.get(name) and now.get(name) and then[name] != now[name] for name in names or now)


def reason_to_read(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Why stored moments of the same name do not serve, in one sentence; empty where others were asked
    for."""
    if any(then.get(name) != now.get(name) for name in ("model", "calibration", "dtype", "weighted")):
        return ""
    if then.get("code") != now.get("code") or then.get("format") != now.get("format"):
        return "The stored moments are by another version of this program, so the text is read again."
    if then.get("weights") != now.get("weights"):
        return "The model's weights have changed since its moments were stored, so the text is read again."
    if then.get("tokens") != now.get("tokens"):
        return "The text has changed since its moments were stored, so it is read again."
    return ""
