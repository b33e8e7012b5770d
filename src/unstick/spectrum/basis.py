"""An orthonormal basis: every inner product taken with its columns, and all that is made of them.

Answers: which part of a block of vectors lies in the basis, which outside, and how to grow or shrink it.
Does not answer: anything about an operator, that is ``krylov.py``; where the columns are kept, that is ``storage.py``.

Sums over the entries run in float64 chunk by chunk, whatever the dtype of the columns, so
coefficients are as accurate as the stored vectors allow and no second copy of the basis is ever made.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from unstick.spectrum.storage import Columns, Storage

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
    remainder: Tensor  # [length, k]


@dataclass(frozen=True, slots=True, eq=False)
class Absorption:
    """A block W in terms of the grown basis: W = V·coefficients, up to what was discarded."""

    coefficients: Tensor  # [new size, k] float64, on the CPU
    discarded: float  # Frobenius norm of the remainders too short to become columns


class Basis:
    """Orthonormal columns V of shape [dim, size] in one growing buffer.

    Vectors come from, and go to, one device. Where the storage keeps the columns elsewhere, work is done there: vectors
    travel, the basis does not. Where it says that each process holds a shard, vectors have the shard's length instead
    of dim, every sum runs over all processes, and the basis is never gathered.

    Args:
        dim: Length of the columns, over all processes.
        dtype: float32 or float64.
        device: Where the vectors live.
        capacity: Columns to make room for at first; the buffer doubles when it is full.
        storage: Where the columns are kept, and which part of them; by default all of them, on the device.

    Raises:
        ValueError: Another dtype: half precision cannot keep columns orthogonal.

    Example:
        >>> V = Basis(3, dtype=torch.float64, device=torch.device("cpu"))
        >>> W = torch.tensor([[3.0, 3.0], [0.0, 4.0], [0.0, 0.0]]).double()
        >>> V.absorb(W, floor=1e-12).coefficients.tolist()
        [[3.0, 3.0], [0.0, 4.0]]
    """

    def __init__(
        self,
        dim: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
        capacity: int = 16,
        storage: Storage | None = None,
    ) -> None:
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"vectors have dtype {dtype}; a basis needs torch.float32 or torch.float64"
            )
        storage = storage or Storage()
        self.dim = dim
        self.size = 0
        self.length = dim if storage.shard is None else storage.shard.length
        self._shard = storage.shard
        self._device = device
        self._kept = Columns(
            storage, self.length, dtype=dtype, device=device, capacity=min(max(capacity, 1), dim)
        )
        # float64 sums are also immune to TF32; Apple's devices have no float64
        self._work = torch.float32 if device.type == "mps" else torch.float64

    def block(self, start: int, stop: int) -> Tensor:
        """Columns start to stop - 1, shape [length, stop - start]; where possible a view: do not write to it."""
        return self._kept.rows[start:stop].T.to(self._device)

    def append(self, block: Tensor) -> None:
        """Add orthonormal columns, shape [length, k]; that they are orthonormal is the caller's word."""
        stop = self.size + block.shape[1]
        self._kept.reserve(stop, self.size, most=self.dim)
        self._kept.rows[self.size : stop] = block.T
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
        return self._over_all(total)

    def lengths(self, W: Tensor) -> Tensor:
        """Euclidean length of each column of W, float64 on the CPU, shape [k]."""
        squares = torch.zeros(W.shape[1], dtype=torch.float64)
        for rows in self._chunks(W.shape[1]):
            squares += W[rows].to(self._work).square().sum(0).to("cpu", torch.float64)
        return self._over_all(squares).sqrt()

    def scales(self, W: Tensor) -> Tensor:
        """A size of each column of W that no entry exceeds, shape [k]: the largest, or a sum of largest ones."""
        largest = W.abs().amax(0) if len(W) else W.new_zeros(W.shape[1])
        return largest if self._shard is None else self._shard.sum(largest)

    def project(self, W: Tensor) -> Projection:
        """Split W, shape [length, k], into its part in the basis and the rest.

        Done twice, because once leaves a remainder that is orthogonal only relative to W, not to itself. The first
        coefficients are summed in the vectors' own type: the second, in float64, correct them.

        Cost:
            4·length·size·k multiplications, three passes over the basis, two blocks of memory; where processes hold
            shards, two all-reduces of size·k numbers.
        """
        V, block = self._kept.rows[: self.size].T, W.to(self._kept.device)
        first = self._over_all(_products(V, block))
        remainder, second = self._taken_off(block, V, first)
        second = self._over_all(second)
        for column, y in zip(remainder.T, second.to(V).T, strict=True):
            column -= torch.mv(V, y)  # so short that its rounding does not matter
        return Projection(first + second, remainder.to(self._device))

    def absorb(self, W: Tensor, *, floor: float) -> Absorption:
        """Grow the basis by the part of W, shape [length, k], that lies outside it.

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
        """The vectors V[:, :p] Y for Y of shape [p, k] with p ≤ size, shape [length, k]."""
        V = self._kept.rows[: Y.shape[0]].T
        weights = Y.to(V.device, self._work)
        out = torch.empty(Y.shape[1], self.length, dtype=V.dtype, device=V.device).T
        for rows in self._chunks(sum(Y.shape)):
            out[rows] = (V[rows].to(self._work) @ weights).to(V.dtype)
        return out.to(self._device)

    def compress(self, Y: Tensor) -> None:
        """Replace the first p columns by V[:, :p] Y, in place; the columns after them are kept.

        Args:
            Y: Shape [p, k], k ≤ p ≤ size, with orthonormal columns.
        """
        p, k = Y.shape
        V = self._kept.rows.T
        weights = Y.to(V.device, self._work)
        for rows in self._chunks(p + k):
            V[rows, :k] = (V[rows, :p].to(self._work) @ weights).to(V.dtype)
        kept = self.size - p
        for column in range(
            kept
        ):  # one at a time: both ranges overlap, and a copy of all may not fit
            self._kept.rows[k + column] = self._kept.rows[p + column].clone()
        self.size = k + kept

    def _taken_off(self, W: Tensor, V: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """W − V·coefficients, rounded once, and this process's part of its inner products with V, in one pass."""
        Y = coefficients.to(V.device, self._work)
        out = torch.empty(W.shape[1], W.shape[0], dtype=W.dtype, device=W.device).T
        inside = torch.zeros(V.shape[1], W.shape[1], dtype=torch.float64)
        for rows in self._chunks(V.shape[1] + 2 * W.shape[1]):
            some = V[rows].to(self._work)
            out[rows] = (W[rows].to(self._work) - some @ Y).to(W.dtype)
            inside += (some.T @ out[rows].to(self._work)).to("cpu", torch.float64)
        return out, inside

    def _over_all(self, total: Tensor) -> Tensor:
        """The sum over all processes of what each found in its shard."""
        return total if self._shard is None else self._shard.sum(total)

    def _chunks(self, width: int) -> Iterator[slice]:
        """Ranges of rows such that a chunk of ``width`` columns stays small."""
        numbers = CHUNK_NUMBERS * (1 if self._kept.device.type == "cpu" else ACCELERATOR_CHUNKS)
        rows = max(1, numbers // max(width, 1))
        return (
            slice(start, min(start + rows, self.length)) for start in range(0, self.length, rows)
        )


def _products(V: Tensor, W: Tensor) -> Tensor:
    """VᵀW in the vectors' own type, given back as float64 on the CPU."""
    return (V.T @ W).to("cpu", torch.float64)
