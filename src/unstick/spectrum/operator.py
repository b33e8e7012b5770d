"""The one seam: a symmetric linear map, seen only through its products."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["DenseOperator", "SymmetricOperator", "assemble"]


class SymmetricOperator(Protocol):
    """A symmetric map A on vectors of shape [dim]; every algorithm takes this and nothing else."""

    @property
    def dim(self) -> int:
        """Length of the vectors: of whole ones, where each process holds a shard."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the vectors and the products."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the vectors and the products live."""
        ...

    def matvec(self, v: Tensor) -> Tensor:
        """The product A v, shape [dim]."""
        ...

    def matmat(self, V: Tensor) -> Tensor:
        """The products A V of the columns of V, shape [dim, k]."""
        ...


class DenseOperator:
    """A symmetric matrix as an operator.

    Args:
        matrix: Shape [dim, dim], symmetric; only its products are used.

    Raises:
        ValueError: The matrix is not square.
    """

    def __init__(self, matrix: Tensor) -> None:
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise ValueError(f"matrix has shape {tuple(matrix.shape)}; expected [dim, dim]")
        self.matrix = matrix

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return self.matrix.shape[0]

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the matrix."""
        return self.matrix.dtype

    @property
    def device(self) -> torch.device:
        """Where the matrix lives."""
        return self.matrix.device

    def matvec(self, v: Tensor) -> Tensor:
        """The product A v, shape [dim]."""
        return self.matrix @ v

    def matmat(self, V: Tensor) -> Tensor:
        """The products A V, shape [dim, k]."""
        return self.matrix @ V


def assemble(
    operator: SymmetricOperator,
    *,
    chunk: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """The matrix of an operator, shape [dim, dim], from products with the identity.

    Args:
        operator: Symmetric map A.
        chunk: Columns multiplied at once.
        progress: Called with (columns done, dim) after every chunk.

    Cost:
        dim products and dim² numbers.

    Example:
        >>> assemble(DenseOperator(torch.diag(torch.tensor([1.0, 2.0])))).tolist()
        [[1.0, 0.0], [0.0, 2.0]]
    """
    n = operator.dim
    matrix = torch.empty(n, n, dtype=operator.dtype, device=operator.device)
    for begin in range(0, n, chunk):
        end = min(n, begin + chunk)
        columns = torch.zeros(n, end - begin, dtype=operator.dtype, device=operator.device)
        columns[torch.arange(begin, end), torch.arange(end - begin)] = 1.0
        matrix[:, begin:end] = operator.matmat(columns)
        if progress is not None:
            progress(end, n)
    return matrix
