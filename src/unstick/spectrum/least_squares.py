"""The shortest vector x that makes Ax − b as short as products with A allow, for a symmetric A that may be singular.

Answers: which x of the Krylov space of b minimizes ‖Ax − b‖, and how far is that from solved?
Does not answer: what lies outside that space; a part of b in the kernel of A cannot be reached by any x.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from unstick.errors import NonFinite
from unstick.record import Fact, Record, number
from unstick.spectrum.basis import Basis
from unstick.spectrum.krylov import NOISE_FACTOR
from unstick.spectrum.operator import SymmetricOperator

__all__ = ["LeastSquares", "minimum_residual"]


@dataclass(frozen=True, slots=True, eq=False)
class LeastSquares(Record):
    """A minimizer of ‖Ax − b‖ over a Krylov space, and the two ways in which it can be a solution."""

    solution: Tensor  # [dim] x
    residual: Tensor  # [dim] b − Ax, by the basis
    residual_norm: float  # ‖b − Ax‖
    right_norm: float  # ‖b‖
    stationarity: (
        float  # ‖A(b − Ax)‖ / (‖A‖‖b − Ax‖): 0 at a least-squares solution; 0.0 without a residual
    )
    scale: float  # ‖A‖₂, a lower bound from the basis
    rank: int  # directions of the basis in which A was inverted
    truncated: int  # directions in which |A| is below rcond·‖A‖: x has no part there
    products: int
    outcome: (
        str  # "solved" (‖b − Ax‖ small), "stationary" (A(b − Ax) small), "exhausted" or "steps"
    )

    def headline(self) -> str:
        """How it ended."""
        told = {
            "solved": "Solved",
            "stationary": "A least-squares solution: what is left of b cannot be reached",
            "exhausted": "The Krylov space is exhausted: the best there is in it",
            "steps": "Not converged: the best of the steps allowed",
        }[self.outcome]
        left = self.residual_norm / self.right_norm if self.right_norm else 0.0
        return f"{told}; ‖b − Ax‖ is {number(left)} of ‖b‖."

    def facts(self) -> list[Fact]:
        """Residuals, what was truncated, cost."""
        return [
            ("length of x", number(float(torch.linalg.vector_norm(self.solution.double())))),
            ("stationarity", f"‖A(b − Ax)‖ / (‖A‖‖b − Ax‖) = {number(self.stationarity)}"),
            ("rank", f"{self.rank}, {self.truncated} directions truncated"),
            ("outcome", self.outcome),
            ("cost", f"{self.products} operator products"),
        ]


def minimum_residual(
    operator: SymmetricOperator,
    b: Tensor,
    *,
    steps: int | None = None,
    tolerance: float = 1e-10,
    rcond: float | None = None,
    scale: float = 0.0,
    progress: Callable[[int, int], None] | None = None,
) -> LeastSquares:
    """The shortest minimizer of ‖Ax − b‖ in the Krylov space of b, by fully re-orthogonalized Lanczos.

    What MINRES-QLP iterates to, from a basis that is kept: columns stay orthogonal where its recurrences lose digits,
    so nearly singular operators are no trouble, and memory grows with the steps.

    Args:
        operator: Symmetric map A on vectors of shape [dim], indefinite or singular too.
        b: Right-hand side, shape [dim].
        steps: Most products, at least 1; None: dim. One more is taken to measure the stationarity.
        tolerance: Stop when ‖b − Ax‖ ≤ tolerance·‖b‖, or ‖A(b − Ax)‖ ≤ tolerance·‖A‖‖b − Ax‖.
        rcond: Directions in which |A| is below rcond·‖A‖ get no part of x, so that it cannot blow up. None:
            10·dim·eps, the rounding of the products.
        scale: A known lower bound on ‖A‖. Products with vectors that grow from b do not show it where b lies in
            directions that A hardly sees; with it such a b is stationary from the start.
        progress: Called with (products so far, steps).

    Returns:
        The solution with measured residuals; where A is singular and b has a part in its kernel, A⁺b.

    Raises:
        ValueError: Wrong shape, steps < 1, a negative tolerance.
        NonFinite: b or a product holds inf or nan.

    Cost:
        At most steps + 1 products, (steps + 2)·dim numbers, O(steps²·dim) arithmetic.

    References:
        Choi, Paige, Saunders (2011), MINRES-QLP: a Krylov subspace method for indefinite or singular symmetric systems.

    Example:
        >>> from unstick.spectrum.operator import DenseOperator
        >>> A = DenseOperator(torch.diag(torch.tensor([2.0, -1.0, 0.0]).double()))
        >>> found = minimum_residual(A, torch.tensor([2.0, 3.0, 5.0]).double())
        >>> [round(x, 9) for x in found.solution.tolist()], round(found.residual_norm, 9)
        ([1.0, -3.0, 0.0], 5.0)
    """
    dim, eps = operator.dim, torch.finfo(operator.dtype).eps
    limit = min(dim if steps is None else steps, dim)
    _check(b, dim, limit, tolerance)
    right = b.to(operator.device, operator.dtype)
    basis = Basis(dim, dtype=operator.dtype, device=operator.device, capacity=min(limit + 2, 128))
    beta = float(basis.absorb(right[:, None], floor=0.0).coefficients.sum())
    if beta == 0:
        zero = torch.zeros_like(right)
        return LeastSquares(zero, zero, 0.0, 0.0, 0.0, 0.0, 0, 0, 0, "solved")
    cutoff = 10 * dim * eps if rcond is None else rcond
    projected, outcome = torch.zeros(1, 0, dtype=torch.float64), ""
    inner = _Inner(torch.zeros(0).double(), torch.tensor([beta]).double(), 0, 0)
    while not outcome:
        projected, scale = _expanded(operator, basis, projected, scale)
        p, left = projected.shape[1], inner.residual
        if float((projected @ left).norm()) <= tolerance * scale * float(left.norm()):
            outcome = (
                "stationary"  # what A hardly sees is the rest of b, and no reason for a long x
            )
        inner = _solved(projected, beta, max(cutoff, tolerance) if outcome else cutoff, scale)
        if progress is not None:
            progress(p, limit)
        if float(inner.residual.norm()) <= max(tolerance, eps) * beta:
            outcome = "solved"
        elif not outcome and basis.size == p:
            outcome = "exhausted"
        elif not outcome and p >= limit:
            outcome = "steps"
    return _record(operator, basis, projected, inner, beta, scale, outcome)


@dataclass(frozen=True, slots=True, eq=False)
class _Inner:
    """The least-squares problem in the coordinates of the basis."""

    coordinates: Tensor  # [p] of x
    residual: Tensor  # [p or p + 1] of b − Ax
    rank: int
    truncated: int


def _expanded(
    operator: SymmetricOperator, basis: Basis, T: Tensor, scale: float
) -> tuple[Tensor, float]:
    """The projection with one more column multiplied, and the norm of A seen so far."""
    p = T.shape[1]
    w = _product(operator, basis.block(p, p + 1)[:, 0], p + 1)
    scale = max(scale, float(torch.linalg.vector_norm(w.double())))
    image = basis.absorb(w[:, None], floor=NOISE_FACTOR * torch.finfo(w.dtype).eps * scale)
    grown = torch.zeros(basis.size, p + 1, dtype=torch.float64)
    grown[: T.shape[0], :p] = T
    grown[:, p:] = image.coefficients
    return grown, scale


def _solved(T: Tensor, beta: float, cutoff: float, scale: float) -> _Inner:
    """The shortest minimizer of ‖β·e₁ − T y‖ without the directions in which T is small."""
    right = torch.zeros(len(T), dtype=torch.float64)
    right[0] = beta
    U, sizes, Vh = torch.linalg.svd(T, full_matrices=False)
    kept = sizes > cutoff * max(scale, float(sizes[0]))
    y = Vh[kept].T @ ((U[:, kept].T @ right) / sizes[kept])
    rank = int(kept.sum())
    return _Inner(y, right - T @ y, rank, len(sizes) - rank)


def _record(
    operator: SymmetricOperator,
    basis: Basis,
    T: Tensor,
    inner: _Inner,
    beta: float,
    scale: float,
    outcome: str,
) -> LeastSquares:
    """The answer in full vectors; one more product tells what A makes of the residual."""
    p = T.shape[1]
    solution = basis.combine(inner.coordinates[:, None])[:, 0]
    residual = basis.combine(inner.residual[:, None])[:, 0]
    norm = float(inner.residual.norm())
    stationarity, products = 0.0, p
    if norm > 0 and scale > 0 and len(inner.residual) == p:  # within the multiplied columns
        stationarity = float((T @ inner.residual).norm()) / (scale * norm)
    elif norm > 0 and scale > 0:
        unit = residual / torch.linalg.vector_norm(residual)
        image = _product(operator, unit, p + 1)
        stationarity = float(torch.linalg.vector_norm(image.double())) / scale
        products += 1
    return LeastSquares(
        solution=solution,
        residual=residual,
        residual_norm=norm,
        right_norm=beta,
        stationarity=stationarity,
        scale=scale,
        rank=inner.rank,
        truncated=inner.truncated,
        products=products,
        outcome=outcome,
    )


def _product(operator: SymmetricOperator, v: Tensor, index: int) -> Tensor:
    """A v, checked to be finite."""
    w = operator.matvec(v)
    if not bool(torch.isfinite(w).all()):
        raise NonFinite(
            f"product {index} of the operator holds inf or nan; expected finite numbers: look for overflow in the "
            "model at these parameters"
        )
    return w


def _check(b: Tensor, dim: int, steps: int, tolerance: float) -> None:
    if b.shape != (dim,):
        raise ValueError(f"b has shape {tuple(b.shape)}; expected [{dim}]")
    if steps < 1:
        raise ValueError(f"steps is {steps}; expected at least 1")
    if tolerance < 0:
        raise ValueError(f"tolerance is {tolerance}; expected a number ≥ 0")
    if not bool(torch.isfinite(b).all()):
        raise NonFinite("the right-hand side b holds inf or nan; expected finite numbers")
