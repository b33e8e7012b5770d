"""An orthonormal basis: where its columns are kept, and every inner product taken with them.

Answers: which part of a block of vectors lies in the basis, which outside, and how to grow or shrink it.
Does not answer: anything about an operator; that is ``krylov.py``.

Sums over the dim entries run in float64 chunk by chunk, whatever the dtype of the columns, so
coefficients are as accurate as the stored vectors allow and no second copy of the basis is ever made.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Absorption", "Basis", "Projection"]

CHUNK_NUMBERS = (
    1 << 19
)  # numbers converted at once: 4 MB in float64, near the caches (fastest measured on a CPU)
ACCELERATOR_CHUNKS = (
    32  # times more at once elsewhere, where starting a kernel costs more than memory
)


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """A block W split into V·coefficients + remainder, with Vᵀ remainder = 0 to working precision."""

    coefficients: Tensor  # [size, k] float64, on the CPU
    remainder: Tensor  # [dim, k]


@dataclass(frozen=True, slots=True, eq=False)
class Absorption:
    """A block W in terms of the grown basis: W = V·coefficients, up to what was discarded."""

    coefficients: Tensor  # [new size, k] float64, on the CPU
    discarded: float  # Frobenius norm of the remainders too short to become columns


class Basis:
    """Orthonormal columns V of shape [dim, size] in one growing buffer.

    Args:
        dim: Length of the columns.
        dtype: float32 or float64.
        device: Where the columns live.
        capacity: Columns to make room for at first; the buffer doubles when it is full.

    Raises:
        ValueError: Another dtype: half precision cannot keep columns orthogonal.

    Example:
        >>> V = Basis(3, dtype=torch.float64, device=torch.device("cpu"))
        >>> W = torch.tensor([[3.0, 3.0], [0.0, 4.0], [0.0, 0.0]]).double()
        >>> V.absorb(W, floor=1e-12).coefficients.tolist()
        [[3.0, 3.0], [0.0, 4.0]]
    """

    def __init__(
        self, dim: int, *, dtype: torch.dtype, device: torch.device, capacity: int = 16
    ) -> None:
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"vectors have dtype {dtype}; a basis needs torch.float32 or torch.float64"
            )
        self.dim = dim
        self.size = 0
        self._columns = torch.empty(min(max(capacity, 1), dim), dim, dtype=dtype, device=device)
        # float64 sums are also immune to TF32; Apple's devices have no float64
        self._work = torch.float32 if device.type == "mps" else torch.float64

    def block(self, start: int, stop: int) -> Tensor:
        """Columns start to stop - 1 as a view, shape [dim, stop - start]; do not write to it."""
        return self._columns[start:stop].T

    def append(self, block: Tensor) -> None:
        """Add orthonormal columns, shape [dim, k]; that they are orthonormal is the caller's word."""
        stop = self.size + block.shape[1]
        if stop > self._columns.shape[0]:
            capacity = min(max(stop, 2 * self._columns.shape[0]), max(stop, self.dim))
            grown = self._columns.new_empty(capacity, self.dim)
            grown[: self.size] = self._columns[: self.size]
            self._columns = grown
        self._columns[self.size : stop] = block.T
        self.size = stop

    def truncate(self, size: int) -> None:
        """Forget all columns after the first ``size``."""
        self.size = min(self.size, size)

    def inner(self, U: Tensor, W: Tensor) -> Tensor:
        """The inner products UᵀW of two blocks, float64 on the CPU, shape [columns of U, columns of W]."""
        total = torch.zeros(U.shape[1], W.shape[1], dtype=torch.float64)
        for rows in self._chunks(U.shape[1] + W.shape[1]):
            part = U[rows].to(self._work).T @ W[rows].to(self._work)
            total += part.to("cpu", torch.float64)
        return total

    def lengths(self, W: Tensor) -> Tensor:
        """Euclidean length of each column of W, float64 on the CPU, shape [k]."""
        squares = torch.zeros(W.shape[1], dtype=torch.float64)
        for rows in self._chunks(W.shape[1]):
            squares += W[rows].to(self._work).square().sum(0).to("cpu", torch.float64)
        return squares.sqrt()

    def project(self, W: Tensor) -> Projection:
        """Split W, shape [dim, k], into its part in the basis and the rest.

        Done twice, because once leaves a remainder that is orthogonal only relative to W, not to itself.

        Cost:
            4·dim·size·k multiplications, one block of memory.
        """
        V = self.block(0, self.size)
        total = torch.zeros(self.size, W.shape[1], dtype=torch.float64)
        remainder = W
        for _ in range(2):
            coefficients = self.inner(V, remainder)
            remainder = self._subtract(remainder, V, coefficients)
            total += coefficients
        return Projection(total, remainder)

    def absorb(self, W: Tensor, *, floor: float) -> Absorption:
        """Grow the basis by the part of W, shape [dim, k], that lies outside it.

        Args:
            W: Any finite vectors, dependent ones too.
            floor: A remainder of at most this length is rounding error and becomes no column.

        Returns:
            The coefficients of W in the grown basis, of at most k columns more.
        """
        before, k = self.size, W.shape[1]
        projection = self.project(W)
        coefficients = torch.zeros(before + k, k, dtype=torch.float64)
        coefficients[:before] = projection.coefficients
        discarded = 0.0
        for j in range(k):
            w = projection.remainder[:, j : j + 1]
            if (
                self.size > before
            ):  # against the columns this block has just added, and all others again
                again = self.project(w)
                coefficients[: self.size, j : j + 1] += again.coefficients
                w = again.remainder
            length = float(self.lengths(w))
            if length > floor and self.size < self.dim:
                self.append(w / length)
                coefficients[self.size - 1, j] = length
            else:
                discarded += length**2
        return Absorption(coefficients[: self.size], discarded**0.5)

    def combine(self, Y: Tensor) -> Tensor:
        """The vectors V[:, :p] Y for Y of shape [p, k] with p ≤ size, shape [dim, k]."""
        V = self.block(0, Y.shape[0])
        weights = Y.to(V.device, self._work)
        out = torch.empty(Y.shape[1], self.dim, dtype=V.dtype, device=V.device).T
        for rows in self._chunks(sum(Y.shape)):
            out[rows] = (V[rows].to(self._work) @ weights).to(V.dtype)
        return out

    def compress(self, Y: Tensor) -> None:
        """Replace the first p columns by V[:, :p] Y, in place; the columns after them are kept.

        Args:
            Y: Shape [p, k], k ≤ p ≤ size, with orthonormal columns.
        """
        p, k = Y.shape
        V = self._columns.T
        weights = Y.to(V.device, self._work)
        for rows in self._chunks(p + k):
            V[rows, :k] = (V[rows, :p].to(self._work) @ weights).to(V.dtype)
        kept = self.size - p
        self._columns[k : k + kept] = self._columns[p : self.size].clone()
        self.size = k + kept

    def _subtract(self, W: Tensor, V: Tensor, coefficients: Tensor) -> Tensor:
        """W − V·coefficients, rounded once."""
        Y = coefficients.to(V.device, self._work)
        out = torch.empty_like(W)
        for rows in self._chunks(V.shape[1] + 2 * W.shape[1]):
            out[rows] = (W[rows].to(self._work) - V[rows].to(self._work) @ Y).to(W.dtype)
        return out

    def _chunks(self, width: int) -> Iterator[slice]:
        """Ranges of rows such that a chunk of ``width`` columns stays small."""
        numbers = CHUNK_NUMBERS * (1 if self._columns.device.type == "cpu" else ACCELERATOR_CHUNKS)
        rows = max(1, numbers // max(width, 1))
        return (slice(start, min(start + rows, self.dim)) for start in range(0, self.dim, rows))
