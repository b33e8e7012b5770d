"""Which kernel multiplies float32 matrices on this CPU.

Answers: does oneDNN, which is two to three times faster on processors that are not Intel's, keep all digits here?
Does not answer: anything on other devices, or about other types.
"""

from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch

__all__ = ["fast_and_exact", "onednn_is_exact"]

EXACT = 2e-6
"""Largest relative error of a product of float32 matrices: sums of a thousand err by 4e-7, bfloat16 factors by 2e-3."""

SHAPES = ((500, 784, 128), (128, 1000, 784), (100, 128, 10), (64, 64, 64), (2000, 32, 48))


@contextmanager
def fast_and_exact(device: torch.device) -> Generator[None]:
    """Inside, oneDNN multiplies float32 matrices on a CPU where that is known to be faster and tested to be exact.

    PyTorch asks it only where bfloat16 factors are permitted. A processor without instructions for them gets oneDNN's
    own float32 kernel, with all its digits; MKL, asked otherwise, takes a slow way on processors that are not Intel's.
    """
    matmul: Any = getattr(torch.backends.mkldnn, "matmul", None)
    if device.type != "cpu" or not onednn_is_exact():
        yield
        return
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        _put_back(matmul, before)


@cache
def onednn_is_exact() -> bool:
    """Whether the processor is not Intel's, and oneDNN's products of float32 matrices of several shapes are exact.

    Cost:
        Some milliseconds, once in a process.
    """
    matmul: Any = getattr(torch.backends.mkldnn, "matmul", None)
    if matmul is None or not torch.backends.mkldnn.is_available() or not _foreign():
        return False
    before = matmul.fp32_precision
    generator = torch.Generator().manual_seed(0)
    matmul.fp32_precision = "bf16"
    try:
        return all(_error(*shape, generator) <= EXACT for shape in SHAPES)
    except RuntimeError:
        return False
    finally:
        _put_back(matmul, before)


def _error(rows: int, inner: int, columns: int, generator: torch.Generator) -> float:
    """The largest relative error over the layouts that forward and backward passes use."""
    A = torch.randn(rows, inner, generator=generator)
    B = torch.randn(inner, columns, generator=generator)
    reference = A.double() @ B.double()
    scale = torch.linalg.vector_norm(reference)
    layouts = (A @ B, A @ B.T.contiguous().T, A.T.contiguous().T @ B, torch.stack([A, A]) @ B)
    return max(
        float(torch.linalg.vector_norm(product.double() - reference) / scale) for product in layouts
    )


def _foreign() -> bool:
    """Whether the processor is known not to be Intel's."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    vendors = [line for line in text.splitlines() if line.startswith("vendor_id")]
    return bool(vendors) and "GenuineIntel" not in vendors[0]


def _put_back(matmul: Any, before: str) -> None:
    """Set a switch to what it said, by a wider switch where that one says the same."""
    matmul.fp32_precision = "none"
    if matmul.fp32_precision != before:
        matmul.fp32_precision = before
