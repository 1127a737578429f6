"""Fingerprints of weights, texts and code, computed from their content.

Stored results are found by fingerprint, never by name.
"""

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

# Up to this many bytes everything is hashed; of larger weights, samples of every tensor.
WHOLE = 1 << 26
# The bytes of a sample, and the samples per tensor.
SAMPLE_BYTES, SAMPLES = 1 << 13, 8
# The samples of a file whose tensors are not known.
BLOCKS = 4096
# The bytes at the beginning of such a file that are always hashed.
HEADER = 1 << 22
# The modules whose code determines the moments.
DECIDING = (
    *("calibration/moments", "calibration/gram", "calibration/distributed"),
    *("core/held_out", "models/families", "models/modeling_slim"),
)


@dataclass(frozen=True)
class Fingerprint:
    """The identity of some weights.

    `content` does not depend on where the weights are stored. `exact` also contains the time at which large
    files were last written, because samples of large files may miss a change.
    """

    content: str
    exact: str


@dataclass(frozen=True)
class ReadFrom:
    """The fingerprint of the files that a model was read from, valid only for that model object."""

    model: weakref.ref[Any]
    fingerprint: Fingerprint


def hash_files(files: Sequence[Path], beside: Iterable[Path] = ()) -> Fingerprint:
    """Return the fingerprint of weight files and of small files `beside` them.

    The small files are hashed whole. Raise `OSError` if a file cannot be read.
    """
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
    """Yield (start, bytes) of the parts of a large file to hash: its header and samples of every tensor."""
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
    """Yield (start, bytes) of evenly spaced samples of a file part, including both of its ends."""
    if size <= SAMPLE_BYTES * count:
        yield start, size
        return
    for place in range(count):
        yield start + (size - SAMPLE_BYTES) * place // (count - 1), SAMPLE_BYTES


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return the hash of tensors in memory as 32 hexadecimal digits.

    Of tensors of more than `WHOLE` bytes together, only samples of each are hashed.
    """
    found = hashlib.sha256()
    whole = sum(tensor.nbytes for tensor in tensors.values()) <= WHOLE
    for name in sorted(tensors):
        flat = tensors[name].detach().contiguous().flatten().view(torch.uint8)  # (bytes,)
        found.update(f"{name} {tuple(tensors[name].shape)} {tensors[name].dtype}".encode())
        for start, count in [(0, flat.numel())] if whole else spread_samples(0, flat.numel(), SAMPLES):
            found.update(flat[start : start + count].cpu().numpy().tobytes())
    return found.hexdigest()[:32]


def hash_words(words: Iterable[str]) -> str:
    """Return the hash of a sequence of strings as 32 hexadecimal digits."""
    return hashlib.sha256(json.dumps([*words]).encode()).hexdigest()[:32]


def hash_tokens(tokens: Tensor) -> str:
    """Return the hash of token ids (S, T), including their shape, as 32 hexadecimal digits."""
    return hash_tensors({"tokens": tokens})


@cache
def hash_code() -> str:
    """Return the hash of the modules and library versions that determine the moments."""
    found = hashlib.sha256()
    for name in DECIDING:
        found.update((Path(__file__).parents[1] / f"{name}.py").read_bytes())
    for package in ("torch", "transformers"):
        found.update(metadata.version(package).encode())
    return found.hexdigest()[:32]


def told_changes(then: Mapping[str, str], now: Mapping[str, str], text: str, model: str) -> list[str]:
    """Return one sentence for each of text and weights that has changed between two sets of fingerprints.

    A fingerprint that is missing from either set counts as unchanged.
    """

    said = []
    if is_other(then, now, "weights"):
        said.append(f"The weights of '{model}' are others than those that the plan was made for.")
    if is_other(then, now, "tokens"):
        said.append(f"The text '{text}' has changed since the plan was made from it.")
    return said


def is_other(then: Mapping[str, str], now: Mapping[str, str], *names: str) -> bool:
    """Return whether one of the named fingerprints, or any without names, is known to have changed."""
    return any(then.get(name) and now.get(name) and then[name] != now[name] for name in names or now)


def reason_to_read(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return one sentence that says why stored moments cannot be used again.

    Return an empty string if the stored moments were made for another request or if nothing has changed.
    """
    if any(then.get(name) != now.get(name) for name in ("model", "calibration", "dtype", "weighted")):
        return ""
    if then.get("code") != now.get("code") or then.get("format") != now.get("format"):
        return "The stored moments are by another version of this program, so the text is read again."
    if then.get("weights") != now.get("weights"):
        return "The model's weights have changed since its moments were stored, so the text is read again."
    if then.get("tokens") != now.get("tokens"):
        return "The text has changed since its moments were stored, so it is read again."
    return ""
