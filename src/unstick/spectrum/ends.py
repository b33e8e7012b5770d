"""Both ends of the spectrum from one Krylov basis.

Answers: the lowest and highest eigenpairs, each with its true residual, and how far the ends can reach.
Does not answer: how many eigenvalues lie between; exact counts are ``inertia.py``, an estimate ``density.py``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from unstick.record import Fact, Record, number
from unstick.spectrum.bounds import Reach, reach
from unstick.spectrum.interval import Interval
from unstick.spectrum.krylov import Krylov, Ritz
from unstick.spectrum.operator import SymmetricOperator
from unstick.spectrum.storage import Storage

__all__ = ["Ends", "Pairs", "Snapshot", "ends"]

LEAST_STEPS = 5
"""Block steps before convergence is believed: a warm start can be an exact but no longer outermost eigenvector."""


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Approximate eigenpairs at one end; an eigenvalue of A lies within ``residuals`` of each value."""

    values: Tensor  # [k] float64, outermost first
    vectors: Tensor  # [dim, k] unit columns
    residuals: Tensor  # [k] ‖Av − λv‖, float64
    converged: Tensor  # [k] bool


@dataclass(frozen=True, slots=True, eq=False)
class Ends(Record):
    """The two ends of the spectrum: Ritz pairs, and intervals for the outermost eigenvalues."""

    lowest: Pairs
    highest: Pairs
    lambda_min: Interval
    lambda_max: Interval
    ritz_values: Tensor  # [m] ascending, float64
    noise_floor: float  # an eigenvalue inside ±noise_floor is zero to the arithmetic
    asymmetry: float  # largest |uᵀAv − vᵀAu| seen over unit u, v of the basis
    products: int
    outcome: str  # "converged", "exhausted" (the basis holds everything reachable), "budget", "stopped", "interrupted"

    def headline(self) -> str:
        """Where the spectrum begins and ends."""
        complete = self.outcome in ("converged", "exhausted")
        ended = "" if complete else f" ({self.outcome}: the best answer so far)"
        return f"Eigenvalues from {number(self.lambda_min.value)} to {number(self.lambda_max.value)}{ended}."

    def facts(self) -> list[Fact]:
        """Intervals, pairs, noise and cost."""
        return [
            ("λ min", str(self.lambda_min)),
            ("λ max", str(self.lambda_max)),
            ("lowest", _listed(self.lowest)),
            ("highest", _listed(self.highest)),
            ("noise floor", f"{number(self.noise_floor)} (asymmetry {number(self.asymmetry)})"),
            ("outcome", self.outcome),
            ("cost", f"{self.products} operator products"),
        ]


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """What is known after an expansion, without the vectors."""

    lowest_values: Tensor  # [≤ lowest] float64, outermost first
    lowest_residuals: Tensor
    highest_values: Tensor  # [≤ highest] float64, outermost first
    highest_residuals: Tensor
    noise_floor: float
    products: int


def ends(
    operator: SymmetricOperator,
    *,
    generator: torch.Generator,
    lowest: int = 1,
    highest: int = 1,
    tolerance: float | tuple[float, float] = (1e-2, 1e-3),
    block: int | None = None,
    start: Tensor | None = None,
    max_products: int | None = None,
    max_basis: int = 64,
    confidence: float = 1 - 1e-6,
    storage: Storage | None = None,
    stop: Callable[[Snapshot], bool] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Ends:
    """Find the lowest and highest eigenpairs by thick-restart block Lanczos, both from one basis.

    Args:
        operator: Symmetric map A on vectors of shape [dim].
        generator: On the CPU; draws the random starts, so equal seeds give equal results.
        lowest: Eigenpairs wanted at the lower end.
        highest: Eigenpairs wanted at the upper end.
        tolerance: A pair has converged when ‖Av − λv‖ ≤ tolerance·|λ|, or is within the noise floor,
            below which nothing can be told; one number, or one each for (lowest, highest).
        block: Random starts. A block of b sees at most b copies of a repeated eigenvalue before it is
            exhausted. None: 1 for one pair an end, else 2.
        start: Warm start, [dim] or [dim, k], such as the vectors of an earlier call. Column i is added to random
            start i mod block, so a step costs no more than a cold one; the random part sees what the warm one misses,
            and carries the probability. It halves the products where the vectors are nearly right, such as at the same
            point to smaller residuals, and saves nothing, or costs a tenth, where one has turned away: the slowest pair
            sets the cost. Fewer products also prove less: the outer bounds are wider than after a cold start.
        max_products: Most products to spend; None: 1,000, or four times dim if that is less.
        max_basis: Columns kept before a thick restart; made larger where the pairs wanted need it.
        confidence: Probability with which both outer bounds hold together.
        storage: Where the basis is kept: on the device, in the CPU's memory, on disk, or a shard in each process.
        stop: Called after every expansion; true ends the search with outcome "stopped".
        progress: Called with (products so far, max_products) after every expansion.

    Returns:
        Pairs with true residuals (fewer than wanted only if the budget ended first). ``lambda_min.high`` and
        ``lambda_max.low`` are rigorous up to the noise floor; ``lambda_min.low`` and ``lambda_max.high``
        hold with ``confidence`` over the random starts, and are rigorous once the basis is the whole space.
        A small residual proves that an eigenvalue is near, not that none lies beyond: the interval tells that.

    Raises:
        ValueError: Arguments out of range or of the wrong shape.
        NonFinite: A product holds inf or nan.
        KeyboardInterrupt: Only before the first product is known; later the outcome is "interrupted".

    Cost:
        Tens to hundreds of products; (max_basis + k)·dim numbers; O(products·max_basis·dim) arithmetic.

    References:
        Wu, Simon (2000), Thick-restart Lanczos method; those of ``bounds.reach`` for the intervals.

    Example:
        >>> from unstick.spectrum.operator import DenseOperator
        >>> A = DenseOperator(torch.diag(torch.tensor([-1.0, 0.5, 1.0, 2.0]).double()))
        >>> found = ends(A, generator=torch.Generator().manual_seed(0))
        >>> [round(x, 6) for x in (found.lambda_min.value, found.lambda_max.value)], found.outcome
        ([-1.0, 2.0], 'exhausted')
    """
    _check_counts(operator.dim, lowest, highest, block, max_basis, max_products, confidence)
    wanted = _Wanted(min(lowest, operator.dim), min(highest, operator.dim), *_both(tolerance))
    block = block or (1 if lowest <= 1 and highest <= 1 else 2)
    budget = max_products or min(1000, 4 * operator.dim)
    space = Krylov(operator, generator=generator, block=block, warm=start, storage=storage)
    room = max(max_basis, 2 * (wanted.lowest + wanted.highest) + 4 * space.frontier + 8)
    seen: Reach | None = None
    while True:
        try:
            space.expand(budget - space.products)
            ritz = space.ritz()
            if progress is not None:
                progress(space.products, budget)
            outcome = _outcome(space, ritz, wanted, budget)
            if outcome == "" and stop is not None and stop(_snapshot(space, ritz, wanted)):
                outcome = "stopped"
        except KeyboardInterrupt:
            if space.multiplied == 0:
                raise
            outcome = "interrupted"
            break
        if outcome:
            break
        if space.frontier == 0:
            space.inject()
        elif space.basis.size + space.frontier > room and room < operator.dim:
            seen = seen or reach(space, ritz, failure=1 - confidence)
            space.restart(ritz.coordinates[:, wanted.kept(len(ritz.values), room // 2)])
    return _result(space, wanted, seen, confidence, outcome)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """How many pairs, and how exact."""

    lowest: int
    highest: int
    low_tolerance: float
    high_tolerance: float

    def low(self, m: int) -> Tensor:
        """Indices of the wanted lowest among m ascending Ritz values, outermost first."""
        return torch.arange(min(self.lowest, m))

    def high(self, m: int) -> Tensor:
        """Indices of the wanted highest among m ascending Ritz values, outermost first."""
        return m - 1 - torch.arange(min(self.highest, m))

    def kept(self, m: int, count: int) -> Tensor:
        """Indices to keep in a restart: the wanted ones, and spare ones inside them at each wanted end."""
        spare = max(0, count - self.lowest - self.highest)
        share = spare * (self.lowest > 0) // ((self.lowest > 0) + (self.highest > 0))
        below = min(self.lowest + share, m)
        above = min(self.highest + spare - share, m - below)
        return torch.cat([torch.arange(below), torch.arange(m - above, m)])

    def converged(self, space: Krylov, ritz: Ritz) -> Tensor:
        """Which of the wanted pairs are exact enough, lowest first, then highest."""
        at = torch.cat([self.low(len(ritz.values)), self.high(len(ritz.values))])
        tolerance = torch.full((len(at),), self.high_tolerance, dtype=torch.float64)
        tolerance[: min(self.lowest, len(ritz.values))] = self.low_tolerance
        allowed = (tolerance * ritz.values[at].abs()).clamp_min(space.noise_floor)
        return ritz.residuals[at] <= allowed


def _outcome(space: Krylov, ritz: Ritz, wanted: _Wanted, budget: int) -> str:
    """How the search has ended, or "" if it goes on."""
    enough = space.multiplied >= min(wanted.lowest + wanted.highest, space.basis.dim)
    copies = space.starts >= max(
        wanted.lowest, wanted.highest
    )  # each start shows one copy of every eigenvalue
    if space.complete or (space.frontier == 0 and enough and copies):
        return "exhausted"
    settled = space.since_start >= (space.unrestarted if space.injected else LEAST_STEPS)
    if space.frontier and enough and settled and bool(wanted.converged(space, ritz).all()):
        return "converged"
    return "budget" if space.products >= budget else ""


def _result(
    space: Krylov, wanted: _Wanted, seen: Reach | None, confidence: float, outcome: str
) -> Ends:
    """The record of what the space holds now."""
    ritz = space.ritz()
    m, noise = len(ritz.values), space.noise_floor
    seen = seen or reach(space, ritz, failure=1 - confidence)
    low, high = float(ritz.values[0]), float(ritz.values[-1])
    sure = 1.0 if space.complete else confidence
    below, above = (low, high) if space.complete else (min(seen.low, low), max(seen.high, high))
    converged, split = wanted.converged(space, ritz), min(wanted.lowest, m)
    return Ends(
        lowest=_pairs(space, ritz, wanted.low(m), converged[:split]),
        highest=_pairs(space, ritz, wanted.high(m), converged[split:]),
        lambda_min=Interval(low, below - noise, low + noise, sure if below > -inf else 1.0, 1.0),
        lambda_max=Interval(high, high - noise, above + noise, 1.0, sure if above < inf else 1.0),
        ritz_values=ritz.values,
        noise_floor=noise,
        asymmetry=space.asymmetry,
        products=space.products,
        outcome=outcome,
    )


def _pairs(space: Krylov, ritz: Ritz, at: Tensor, converged: Tensor) -> Pairs:
    vectors = space.basis.combine(ritz.coordinates[:, at])
    return Pairs(ritz.values[at], vectors, ritz.residuals[at], converged)


def _snapshot(space: Krylov, ritz: Ritz, wanted: _Wanted) -> Snapshot:
    low, high = wanted.low(len(ritz.values)), wanted.high(len(ritz.values))
    return Snapshot(
        ritz.values[low],
        ritz.residuals[low],
        ritz.values[high],
        ritz.residuals[high],
        space.noise_floor,
        space.products,
    )


def _listed(pairs: Pairs) -> str:
    both = zip(pairs.values.tolist(), pairs.residuals.tolist(), strict=True)
    return (
        ", ".join(f"{number(value)} ± {number(residual, 2)}" for value, residual in both)
        or "none asked for"
    )


def _both(tolerance: float | tuple[float, float]) -> tuple[float, float]:
    both = tolerance if isinstance(tolerance, tuple) else (tolerance, tolerance)
    if min(both) < 0:
        raise ValueError(f"tolerance is {tolerance}; expected numbers ≥ 0")
    return both


def _check_counts(
    dim: int,
    lowest: int,
    highest: int,
    block: int | None,
    max_basis: int,
    max_products: int | None,
    confidence: float,
) -> None:
    if dim < 1:
        raise ValueError(f"the operator has dim {dim}; expected at least 1")
    if lowest < 0 or highest < 0 or lowest + highest < 1:
        raise ValueError(
            f"lowest={lowest}, highest={highest}; expected counts ≥ 0, at least one of them > 0"
        )
    least = {"block": block, "max_basis": max_basis, "max_products": max_products}
    for name, value in least.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; expected at least 1")
    if not 0 < confidence < 1:
        raise ValueError(
            f"confidence is {confidence}; expected a probability between 0 and 1, both excluded"
        )
