"""Dense answers from NumPy and SciPy; nothing here comes from the package."""

import numpy as np
from scipy import linalg


def eigenvalues(matrix):
    """Ascending, float64."""
    return np.linalg.eigvalsh(_array(matrix))


def residuals(matrix, values, vectors):
    """‖Av − λv‖ of each column, in float64."""
    A, V = _array(matrix), _array(vectors)
    return np.linalg.norm(A @ V - V * _array(values), axis=0)


def inertia(matrix, tau):
    """(n₊, n₀, n₋) by counting what LAPACK's QR iteration finds."""
    values = linalg.eigh(_array(matrix), eigvals_only=True, driver="ev")
    positive, negative = int((values > tau).sum()), int((values < -tau).sum())
    return positive, len(values) - positive - negative, negative


def smoothed_density(values, grid, width):
    """Mean of Gaussians of this width around the eigenvalues."""
    x = (np.asarray(grid)[:, None] - np.asarray(values)) / width
    return (np.exp(-(x**2) / 2) / (width * np.sqrt(2 * np.pi))).mean(axis=1)


def _array(x):
    return np.asarray(x, dtype=np.float64)
