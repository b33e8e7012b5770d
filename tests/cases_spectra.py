"""Matrices with planted spectra, and operators that misbehave on purpose."""

from dataclasses import dataclass

import torch

from unstick.spectrum.operator import DenseOperator


@dataclass(frozen=True)
class Spectrum:
    """A name and the eigenvalues, ascending, to plant into a random basis."""

    name: str
    eigenvalues: tuple[float, ...]

    def __str__(self):
        return self.name

    @property
    def radius(self):
        return max(abs(x) for x in self.eigenvalues)

    def matrix(self, seed, dtype=torch.float64):
        """Q diag(eigenvalues) Qᵀ for a random orthogonal Q, rounded to dtype."""
        Q = rotation(len(self.eigenvalues), seed)
        A = (Q * torch.tensor(self.eigenvalues, dtype=torch.float64)) @ Q.T
        return ((A + A.T) / 2).to(dtype)

    def operator(self, seed, dtype=torch.float64):
        return DenseOperator(self.matrix(seed, dtype))


def rotation(dim, seed):
    """A random orthogonal matrix in float64."""
    return torch.linalg.qr(torch.randn(dim, dim, generator=rng(seed), dtype=torch.float64))[0]


def rng(seed):
    return torch.Generator().manual_seed(seed)


def _planted(name, *parts):
    values = [float(x) for part in parts for x in part]
    return Spectrum(name, tuple(sorted(values)))


def _even(low, high, count):
    return torch.linspace(low, high, count, dtype=torch.float64).tolist()


SADDLE = _planted("saddle", [-1.0, -0.3], _even(0, 0.5, 57), [3.0])
PLUS_MINUS = _planted("plus-minus", [-1.0, 1.0], _even(-0.5, 0.5, 58))
CLUSTERED = _planted("clustered", _even(-1, -0.9996, 5), _even(0, 1, 50), _even(2, 2.004, 5))
REPEATED = _planted("repeated", [-1.0] * 3, [0.0] * 54, [2.0] * 3)
FLAT = _planted("flat", [0.0] * 60)
STIFF = _planted("stiff", (10.0 ** torch.linspace(-8, 2, 60, dtype=torch.float64)).tolist())
TINY_NEGATIVE = _planted("tiny-negative", [-0.01], _even(0, 1, 58), [100.0])
SPECTRA = [SADDLE, PLUS_MINUS, CLUSTERED, REPEATED, FLAT, STIFF, TINY_NEGATIVE]

DTYPES = [torch.float32, torch.float64]


def rounding(dtype, radius):
    """How far two correct computations on a 60 x 60 matrix of this norm may differ."""
    return 60 * torch.finfo(dtype).eps * max(radius, torch.finfo(dtype).tiny)


class Wrapped(DenseOperator):
    """Counts products; holds nan, or is interrupted, at one of them."""

    def __init__(self, matrix, *, nan_at=None, interrupt_at=None):
        super().__init__(matrix)
        self.products, self.nan_at, self.interrupt_at = 0, nan_at, interrupt_at

    def matvec(self, v):
        return self.matmat(v[:, None])[:, 0]

    def matmat(self, V):
        W = super().matmat(V)
        for j in range(V.shape[1]):
            self.products += 1
            if self.products == self.interrupt_at:
                raise KeyboardInterrupt
            if self.products == self.nan_at:
                W[0, j] = float("nan")
        return W
