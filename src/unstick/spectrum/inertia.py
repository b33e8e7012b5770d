"""Exact counts of positive, zero and negative eigenvalues of a dense symmetric matrix.

Answers: the inertia (n₊, n₀, n₋) at a tolerance τ, computed in two independent ways, and how it depends on τ.
Does not answer: anything about an operator too large to be written down; that is ``ends.py``.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from unstick.errors import NonFinite
from unstick.record import Fact, Record, number
from unstick.spectrum.ends import Pairs

__all__ = [
    "Extremes",
    "Inertia",
    "ToleranceSweep",
    "extreme_eigenvectors",
    "inertia",
    "tolerance_sweep",
]


@dataclass(frozen=True, slots=True, eq=False)
class Inertia(Record):
    """How many eigenvalues are above τ, within ±τ and below −τ."""

    positive: int
    zero: int
    negative: int
    tau: float
    eigenvalues: Tensor  # [n] float64 on the CPU, ascending
    agreed: bool  # the factorizations H ± τI = L D Lᵀ count the same

    @property
    def minimum_ratio(self) -> float:
        """n₊ / n: 1 at a strict minimum."""
        return self.positive / len(self.eigenvalues)

    @property
    def morse_index(self) -> float:
        """n₋ / n: 0 where nothing curves downward."""
        return self.negative / len(self.eigenvalues)

    def headline(self) -> str:
        """The three counts."""
        return f"{self.positive} positive, {self.zero} zero, {self.negative} negative eigenvalues."

    def facts(self) -> list[Fact]:
        """What counts as zero, the ends, and the cross-check."""
        lowest, highest = float(self.eigenvalues[0]), float(self.eigenvalues[-1])
        return [
            ("zero means", f"|λ| ≤ {number(self.tau)}"),
            ("spectrum", f"{number(lowest)} to {number(highest)}"),
            ("minimum ratio", number(self.minimum_ratio)),
            ("Morse index", number(self.morse_index)),
            (
                "LDLᵀ cross-check",
                "agrees" if self.agreed else "disagrees: an eigenvalue lies at ±τ to rounding",
            ),
        ]


@dataclass(frozen=True, slots=True, eq=False)
class ToleranceSweep(Record):
    """The inertia at several tolerances: counts that depend on τ are not facts about the matrix."""

    taus: Tensor  # [k] float64, ascending
    positive: Tensor  # [k] int64
    zero: Tensor  # [k] int64
    negative: Tensor  # [k] int64

    def headline(self) -> str:
        """Whether the counts depend on the tolerance."""
        fixed = len(set(self.negative.tolist())) == 1 and len(set(self.zero.tolist())) == 1
        return (
            "The inertia is the same at every tolerance."
            if fixed
            else "The inertia depends on the tolerance."
        )

    def facts(self) -> list[Fact]:
        """One line a tolerance."""
        rows = zip(
            *(x.tolist() for x in (self.taus, self.positive, self.zero, self.negative)), strict=True
        )
        return [
            (f"τ = {number(tau)}", f"{p} positive, {z} zero, {n} negative") for tau, p, z, n in rows
        ]


@dataclass(frozen=True, slots=True, eq=False)
class Extremes:
    """Eigenpairs at the two ends of a dense matrix; vectors in float64 on the CPU."""

    lowest: Pairs
    highest: Pairs


def inertia(
    matrix: Tensor, *, tau: float | None = None, precision: torch.dtype | None = None
) -> Inertia:
    """Count the eigenvalues of a symmetric matrix by sign, in float64, and check the counts by LDLᵀ.

    By Sylvester's law H + τI has as many negative eigenvalues as D in H + τI = L D Lᵀ, which no
    eigenvalue algorithm is needed to see; H − τI counts those at or below τ.

    Args:
        matrix: H, shape [n, n]; its symmetric part is used.
        tau: |λ| ≤ τ counts as zero. None: max(10·n·eps·‖H‖₂, ‖H − Hᵀ‖_F / 2), which covers the rounding
            of the matrix and of the eigenvalues, and what taking the symmetric part changed.
        precision: The dtype that H was computed in, whose eps enters τ; None: the dtype of ``matrix``.

    Returns:
        Counts that are exact for H up to perturbations of norm τ, where ``agreed`` is true.

    Raises:
        ValueError: Not square, empty, or tau < 0.
        NonFinite: H holds inf or nan.

    Cost:
        About 2·n³ multiplications and 4·n² float64 numbers: seconds for n = 2,000.

    References:
        Golub, Van Loan (2013), Matrix Computations, sections 4.4 and 8.1.5.

    Example:
        >>> counts = inertia(torch.diag(torch.tensor([-2.0, 0.0, 1.0, 3.0])))
        >>> (counts.positive, counts.zero, counts.negative), counts.agreed
        ((2, 1, 1), True)
    """
    H, asymmetry = _symmetric(matrix)
    eigenvalues = torch.linalg.eigvalsh(H)
    if tau is None:
        eps = torch.finfo(precision or matrix.dtype).eps
        tau = max(10 * len(H) * eps * float(eigenvalues.abs().max()), asymmetry)
    counts = tolerance_sweep(eigenvalues, [tau])
    positive, zero, negative = (int(x) for x in (counts.positive, counts.zero, counts.negative))
    identity = torch.eye(len(H), dtype=torch.float64)
    below, _ = _pivot_signs(H + tau * identity)
    under, at = _pivot_signs(H - tau * identity)
    agreed = below == negative and under + at == negative + zero
    return Inertia(positive, zero, negative, tau, eigenvalues, agreed)


def tolerance_sweep(eigenvalues: Tensor, taus: list[float] | None = None) -> ToleranceSweep:
    """Count the eigenvalues by sign at several tolerances.

    Args:
        eigenvalues: Shape [n], in any order.
        taus: Tolerances ≥ 0; None: 10⁻¹⁶ to 10⁻² times the largest |λ|, one a decade.

    Returns:
        Counts for each τ, ascending.

    Raises:
        ValueError: A negative τ.

    Example:
        >>> tolerance_sweep(torch.tensor([-1e-3, 1.0]), [0.0, 0.01]).negative.tolist()
        [1, 0]
    """
    values = eigenvalues.to("cpu", torch.float64)
    if taus is None:
        taus = [10.0**k * float(values.abs().max()) for k in range(-16, -1)]
    if min(taus, default=0.0) < 0:
        raise ValueError(f"tau is {min(taus)}; expected numbers ≥ 0")
    at = torch.tensor(sorted(taus), dtype=torch.float64)
    positive = (values > at[:, None]).sum(1)
    negative = (values < -at[:, None]).sum(1)
    return ToleranceSweep(at, positive, len(values) - positive - negative, negative)


def extreme_eigenvectors(matrix: Tensor, count: int) -> Extremes:
    """Compute the lowest ``count`` eigenpairs of a symmetric matrix, and the highest one, in float64.

    Args:
        matrix: Shape [n, n]; its symmetric part is used.
        count: Pairs at the lower end, from 1 to n.

    Returns:
        Pairs with residuals recomputed from the matrix; all count as converged.

    Raises:
        ValueError: Not square, or count out of range.
        NonFinite: The matrix holds inf or nan.

    Cost:
        About 3·n³ multiplications.

    Example:
        >>> extreme_eigenvectors(torch.diag(torch.tensor([3.0, -2.0, 1.0])), 2).lowest.values.tolist()
        [-2.0, 1.0]
    """
    H, _ = _symmetric(matrix)
    if not 1 <= count <= len(H):
        raise ValueError(f"count is {count}; expected 1 to {len(H)}")
    return Extremes(_subset(H, 0, count - 1), _subset(H, len(H) - 1, len(H) - 1))


def _subset(H: Tensor, first: int, last: int) -> Pairs:
    """Eigenpairs first to last, ascending."""
    from scipy.linalg import LinAlgError, eigh  # slow to import, and seldom needed

    try:
        found = eigh(H.numpy(), subset_by_index=(first, last))
        values, vectors = (torch.as_tensor(x) for x in found)
    except LinAlgError:  # LAPACK's bisection gives up now and then; all of them at once do not
        everything = torch.linalg.eigh(H)
        values = everything.eigenvalues[first : last + 1]
        vectors = everything.eigenvectors[:, first : last + 1]
    residuals = torch.linalg.vector_norm(H @ vectors - vectors * values, dim=0)
    return Pairs(values, vectors, residuals, torch.ones(len(values), dtype=torch.bool))


def _symmetric(matrix: Tensor) -> tuple[Tensor, float]:
    """The symmetric part in float64 on the CPU, and how much taking it changed (Frobenius norm)."""
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) == 0:
        raise ValueError(f"matrix has shape {tuple(matrix.shape)}; expected [n, n] with n ≥ 1")
    H = matrix.detach().to("cpu", torch.float64)
    if not bool(torch.isfinite(H).all()):
        raise NonFinite("the matrix holds inf or nan; expected finite numbers")
    return (H + H.T) / 2, float(torch.linalg.matrix_norm(H - H.T)) / 2


def _pivot_signs(H: Tensor) -> tuple[int, int]:
    """How many eigenvalues of D in H = L D Lᵀ are negative, and how many are zero."""
    from scipy.linalg import ldl  # slow to import, and seldom needed

    D = torch.as_tensor(ldl(H.numpy())[1])
    diagonal, off = D.diagonal(), D.diagonal(-1)
    starts = torch.cat([off != 0, torch.tensor([False])])  # the first row of each 2x2 block
    inside = starts | torch.cat([torch.tensor([False]), off != 0])
    single = diagonal[~inside]
    a, c = diagonal[:-1][off != 0], diagonal[1:][off != 0]
    determinant, middle = a * c - off[off != 0].square(), a + c
    negative = (
        (single < 0).sum() + (determinant < 0).sum() + 2 * ((determinant > 0) & (middle < 0)).sum()
    )
    return int(negative), int((single == 0).sum())
