"""What libraries raise when a device is full or lacks an operation becomes one sentence with the remedy. The
messages are those of torch 2.13 and the drivers below it."""

from __future__ import annotations

import pytest
import torch

from slimllm.core.errors import Refusal
from slimllm.core.failures import as_refusals, sentence_of

MACHINE = "There was not enough memory; use fewer or shorter samples, or a smaller model."
DEVICE = (
    "The device's memory is full; end other programs that use it, use fewer or shorter samples, a smaller "
    "model, or --device cpu."
)


def allocation_failure() -> RuntimeError:
    """What torch says itself when the processor's memory is not enough."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    return caught.value


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (MemoryError(), MACHINE),
        (allocation_failure(), MACHINE),
        (OSError(12, "Cannot allocate memory"), MACHINE),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total"), DEVICE),
        (torch.OutOfMemoryError("XPU out of memory. Tried to allocate 2.00 GiB."), DEVICE),
        (
            RuntimeError("MPS backend out of memory (MPS allocated: 9.05 GiB, other allocations: 1 MiB)"),
            DEVICE,
        ),
        (RuntimeError("Invalid buffer size: 16.00 GiB"), DEVICE),
        (torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be"), DEVICE),
        (RuntimeError("HIP error: out of memory"), DEVICE),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), DEVICE),
        (
            RuntimeError("level_zero backend failed with error: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)"),
            DEVICE,
        ),
    ],
)
def test_device_or_machine_without_memory(failure: Exception, words: str) -> None:
    assert sentence_of(failure) == words
    with pytest.raises(Refusal) as caught, as_refusals():
        raise failure
    assert str(caught.value) == words


@pytest.mark.parametrize(
    ("words", "operation"),
    [
        (
            "The operator 'aten::linalg_qr.out' is not currently implemented for the MPS device. If you want",
            "aten::linalg_qr.out",
        ),
        (
            "Could not run 'aten::_linalg_eigh' with arguments from the 'XPU' backend. This could be because",
            "aten::_linalg_eigh",
        ),
    ],
)
def test_device_without_an_operation(words: str, operation: str) -> None:
    assert sentence_of(NotImplementedError(words)) == (
        f"The device lacks an operation that this needs ({operation}); use --device cpu, or, on a Mac, set "
        "PYTORCH_ENABLE_MPS_FALLBACK=1."
    )


def test_other_failures_name_themselves() -> None:
    assert sentence_of(RuntimeError("memory is a fine thing")) == (
        "Something went wrong: RuntimeError: memory is a fine thing"
    )
    assert sentence_of(Refusal("MPS backend out of memory")) == "MPS backend out of memory"
