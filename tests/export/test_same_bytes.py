"""The same plan gives the same bytes as when the hashes beside this file were stored, method by method.

Rounding depends on the processor, so the hashes hold where a fixed computation has the stored hash, too; on
others the test is skipped. After a change that is meant to move numbers: SLIMLLM_STORE_HASHES=1.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import slimllm
from slimllm.methods.table import METHODS
from tests.support.tiny_models import PAGE

pytestmark = pytest.mark.usefixtures("one_thread")

STORE = Path(__file__).with_name("same_bytes.json")
STORED: dict[str, str] = json.loads(STORE.read_text()) if STORE.exists() else {}


def hash_tensors(tensors: dict[str, torch.Tensor]) -> str:
    """A hash of names, dtypes, shapes and bits."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:32]


def probe_arithmetic() -> str:
    """The hash of what this processor makes of the operations that pruning uses most."""
    torch.manual_seed(0)
    found = {}
    for dtype in (torch.float32, torch.float64):
        x = torch.randn(96, 96, dtype=dtype)
        gram = x @ x.T + 96 * torch.eye(96, dtype=dtype)
        found |= {
            f"gram {dtype}": gram,
            f"eigh {dtype}": torch.linalg.eigh(gram)[0],
            f"cholesky {dtype}": torch.linalg.cholesky(gram),
            f"solve {dtype}": torch.linalg.solve(gram, x),
            f"exp {dtype}": torch.softmax(x, -1).exp(),
        }
    return hash_tensors(found)


def check_hash(name: str, now: str) -> None:
    """Compares with what is stored; stores it where that is asked for."""
    if os.environ.get("SLIMLLM_STORE_HASHES"):
        STORED[name] = now
        STORE.write_text(json.dumps(STORED, indent=1, sort_keys=True) + "\n")
    assert STORED[name] == now


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_method_writes_the_bytes_that_it_wrote_before(
    method: str, tiny_folder: Path, tmp_path: Path
) -> None:
    arithmetic = probe_arithmetic()
    if os.environ.get("SLIMLLM_STORE_HASHES"):
        check_hash("arithmetic", arithmetic)
    if STORED.get("arithmetic") != arithmetic:
        pytest.skip("this processor rounds otherwise than the one on which the hashes were stored")
    file = tmp_path / "page.txt"
    file.write_text(PAGE * 40, encoding="utf-8")
    subject, text = slimllm.load(str(tiny_folder)), slimllm.text(str(file))
    analysis = slimllm.analyse(subject, text, slimllm.Calibration(text.name, 8, 32), method=method)
    plan = slimllm.plan(analysis, 0.3)
    pruned = slimllm.prune(subject, plan, text)
    slimllm.save(pruned, tmp_path / "out")
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert tensors
    check_hash(method, hash_tensors(tensors))
