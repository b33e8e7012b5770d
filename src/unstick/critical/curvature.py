"""The curvature of a problem: both ends of its Hessian's spectrum, exact where that is cheap, and its density.

Answers: which eigenvalues does the Hessian have here, how sure is that, and what did it cost?
Does not answer: whether the point is critical.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unstick.critical.room import DIRECTIONS, room_for_ends, room_for_verdict
from unstick.errors import BudgetTooSmall
from unstick.problem.problem import Hessian, Problem
from unstick.spectrum.density import Density, density
from unstick.spectrum.ends import Ends, Pairs, Snapshot, ends
from unstick.spectrum.inertia import Inertia, extreme_eigenvectors, inertia
from unstick.spectrum.interval import Interval
from unstick.spectrum.operator import assemble
from unstick.spectrum.storage import Shard, Storage

__all__ = [
    "Curvature",
    "Progress",
    "affordable",
    "curvature_ends",
    "exactly",
    "restricted",
    "roughly",
    "spectral_density",
]

Progress = Callable[[str, float, float], None]
"""Called with what is being done, how much of it is done, and how much there is."""

KERNEL = 64  # eigenvectors of eigenvalues ≤ 0 computed, at most
NEWTON_PRODUCTS = 20  # of conjugate gradients, where the Hessian is not dense


@dataclass(frozen=True, slots=True, eq=False)
class Curvature:
    """What is known about the Hessian's eigenvalues at a point."""

    lowest: Pairs  # the outermost at the lower end, at least one; of a repeated eigenvalue, one random vector
    kernel: Tensor  # [n, k] orthonormal: with none negative, the eigenvectors within the noise floor, at most KERNEL
    lambda_min: Interval
    lambda_max: Interval
    eigenvalues: Tensor  # ascending: all, or Ritz values
    noise_floor: float  # inside it an eigenvalue is zero to the arithmetic
    counts: Inertia | None  # when exact
    newton: Callable[[Tensor], Tensor]  # g → about H⁻¹g, for a Hessian without negative eigenvalues
    outcome: str


def exactly(problem: Problem, *, seed: int, progress: Progress | None) -> Curvature:
    """All eigenvalues from the dense Hessian, in float64.

    Args:
        problem: What is minimized.
        seed: Seed of the vector drawn from each repeated eigenvalue's space.
        progress: Told about every block of columns.

    Cost:
        n Hessian products and about 5·n³ multiplications.
    """
    operator = problem.hessian()
    tell = (
        None if progress is None else (lambda done, total: progress("dense Hessian", done, total))
    )
    matrix = assemble(operator, progress=tell)
    counts = inertia(matrix, precision=operator.dtype)
    n = problem.n
    values = counts.eigenvalues
    floor = max(counts.tau, operator.error())
    flat = int((values <= floor).sum())
    extremes = extreme_eigenvectors(matrix, min(max(DIRECTIONS, min(flat, KERNEL)), n))
    error = floor / 10 if floor == counts.tau else floor

    def bounded(value: float) -> Interval:
        return Interval(value, value - error, value + error, 1.0, 1.0)

    return Curvature(
        lowest=_one_of_each(extremes.lowest, floor, seed),
        kernel=extremes.lowest.vectors[:, extremes.lowest.values.abs() <= floor],
        newton=_newton(matrix, floor),
        lambda_min=bounded(float(values[0])),
        lambda_max=bounded(float(values[-1])),
        eigenvalues=values,
        noise_floor=floor,
        counts=counts,
        outcome="complete",
    )


def roughly(
    problem: Problem,
    *,
    max_products: int,
    thorough: bool,
    seed: int,
    progress: Progress | None,
    patience: float = 0.1,
) -> Curvature:
    """The ends by Lanczos, until negative curvature is proved and its direction is good.

    Args:
        problem: What is minimized.
        max_products: Most Hessian products.
        thorough: Where no negative curvature shows, go on to the last product: each one tightens the bound on what may
            be hidden. Otherwise stop when both outermost values have converged.
        seed: Seed of the random start.
        progress: Told about every product.
        patience: A proved negative direction is good enough when its residual is below this fraction of |λ|.
    """

    def proved(now: Snapshot) -> bool:
        if len(now.lowest_values) == 0 or len(now.highest_values) == 0 or now.products < 6:
            return False
        low, residual = float(now.lowest_values[0]), float(now.lowest_residuals[0])
        top, top_residual = float(now.highest_values[0]), float(now.highest_residuals[0])
        both_signs = low < -10 * now.noise_floor and top > 10 * now.noise_floor
        settled = residual <= 0.01 * abs(low) and top_residual <= 0.01 * abs(top)
        return (both_signs and residual <= patience * -low) or (settled and not thorough)

    operator = problem.hessian()
    room = room_for_verdict(problem, max_products, graphs=operator.graphs.peak_bytes)
    found = ends(
        operator,
        generator=torch.Generator().manual_seed(seed),
        lowest=min(DIRECTIONS, problem.n),
        highest=1,
        tolerance=(1e-2, 1e-2),
        block=1,
        max_products=max_products,
        max_basis=room.columns,
        stop=proved,
        progress=_teller(progress, "Hessian products"),
    )
    return Curvature(
        lowest=found.lowest,
        kernel=torch.empty(problem.n, 0),
        newton=lambda rhs: _conjugate_gradients(problem, rhs, NEWTON_PRODUCTS),
        lambda_min=found.lambda_min,
        lambda_max=found.lambda_max,
        eigenvalues=found.ritz_values,
        noise_floor=found.noise_floor,
        counts=None,
        outcome=found.outcome,
    )


def curvature_ends(
    problem: Problem,
    *,
    lowest: int = 1,
    highest: int = 5,
    tolerance: float | tuple[float, float] = (1e-2, 1e-3),
    budget: float = 200,
    seed: int = 0,
    block: int = 1,
    start: Tensor | None = None,
    parameters: str | Sequence[str] | None = None,
    max_basis: int | None = None,
    storage: Storage | None = None,
    progress: Progress | None = None,
) -> Ends:
    """The lowest and highest eigenpairs of the Hessian at the model's parameters, from one Krylov basis.

    Args:
        problem: What is minimized.
        lowest: Eigenpairs wanted at the lower end.
        highest: Eigenpairs wanted at the upper end.
        tolerance: Residual ‖Hv − λv‖ over max(|λ|, noise floor) at which a pair has converged; one number, or (lowest,
            highest).
        budget: Most work, in full-data gradients; a Hessian product is two or three.
        seed: Seed of the random starts.
        block: Random starts. Of a repeated eigenvalue, as symmetric units have, as many copies are seen as there are
            starts; a block of two takes about one and a half times the products.
        start: Warm start, [n] or [n, k], such as the vectors found at an earlier checkpoint; added to the random one, so
            that a step costs no more. It pays where they are nearly right: at the same point to a smaller tolerance, or
            for the upper end some updates later. The lowest eigenvectors of a network in training turn away quickly.
        parameters: Only the block of the Hessian that belongs to parameters whose names match this pattern, or one of
            these, such as ``layers.0.*``; the others stay fixed. Vectors then have the length of that block.
        max_basis: Columns of the Krylov basis before it is restarted: fewer take less memory and more products. None:
            128, or as many as 2 GiB hold; fewer where less is free.
        storage: Where the basis is kept: the CPU's memory or a file instead of the parameters' device. Of a sharded
            model (FSDP) every process keeps its own part, and the pairs' vectors are such parts.
        progress: Told about every product.

    Returns:
        Pairs with true residuals and intervals for the outermost eigenvalues; ``outcome`` says how it ended.

    Raises:
        BudgetTooSmall: The budget does not pay for five products.
        BadModel: No parameter's name matches a pattern.
        TooLittleMemory: One batch's graph, or the smallest basis, does not fit; nothing was taken yet.

    Example:
        >>> problem = Problem.from_function(lambda x: x[0] ** 2 - x[1] ** 2, torch.zeros(2))
        >>> round(curvature_ends(problem, lowest=1, highest=1).lambda_min.value, 9)
        -2.0
    """
    problem = restricted(problem, parameters)
    before = problem.spent
    room_for = partial(
        room_for_ends,
        *(problem, lowest, highest),
        max_basis=max_basis,
        starts=max(2, block),
        storage=storage,
    )
    room_for()  # before the probe
    operator = problem.hessian()
    room = room_for(graphs=operator.graphs.peak_bytes)
    products = affordable(operator, budget - (problem.spent - before).gradients)
    if products < min(5, problem.n):
        raise BudgetTooSmall(
            f"budget={budget:g} gradients pays for {max(0, products)} Hessian products after set-up; expected at least "
            f"{min(5, problem.n)}: raise the budget"
        )
    return ends(
        operator,
        generator=torch.Generator().manual_seed(seed),
        lowest=lowest,
        highest=highest,
        tolerance=tolerance,
        block=block,
        start=start,
        max_products=products,
        max_basis=room.columns,
        storage=_stored(problem, storage),
        progress=_teller(progress, "Hessian products"),
    )


def restricted(problem: Problem, parameters: str | Sequence[str] | None) -> Problem:
    """The problem in only the parameters whose names match; all of it where no pattern is given.

    Raises:
        BadModel: Nothing matches a pattern.
    """
    return problem if parameters is None else problem.restrict(parameters)


def spectral_density(
    problem: Problem,
    *,
    starts: int = 8,
    steps: int = 40,
    seed: int = 0,
    storage: Storage | None = None,
    progress: Progress | None = None,
) -> Density:
    """How the Hessian's eigenvalues are distributed, by stochastic Lanczos quadrature with its standard error.

    Args:
        problem: What is minimized.
        starts: Random starts, at least 2.
        steps: Lanczos steps a start.
        seed: Seed of the starts.
        storage: Where the basis is kept, as for ``curvature_ends``.
        progress: Told about every product.

    Cost:
        At most starts · steps Hessian products.
    """
    return density(
        problem.hessian(),
        generator=torch.Generator().manual_seed(seed),
        starts=starts,
        steps=min(steps, problem.n),
        storage=_stored(problem, storage),
        progress=_teller(progress, "density"),
    )


def affordable(operator: Hessian, gradients: float) -> int:
    """Hessian products that so many gradients pay for, the first one's set-up included."""
    return int((gradients - operator.setup_price) / operator.product_price)


def _stored(problem: Problem, storage: Storage | None) -> Storage | None:
    """The storage asked for, of shards where the problem's vectors are."""
    if not problem.sharded:
        return storage
    team = problem.team
    return replace(
        storage or Storage(), shard=Shard(length=problem.layout.n, rank=team.rank, sum=team.sum)
    )


def _one_of_each(pairs: Pairs, floor: float, seed: int) -> Pairs:
    """A seeded random unit vector from the space of each distinct eigenvalue.

    LAPACK's basis of a repeated eigenvalue's space is arbitrary, often one hidden unit each; a random vector has a
    part of all.
    """
    generator = torch.Generator().manual_seed(seed)
    values, vectors, residuals = pairs.values, pairs.vectors, pairs.residuals
    apart = max(floor, 1e-6 * float(values.abs().max()))
    starts = [0] + [k for k in range(1, len(values)) if float(values[k] - values[k - 1]) > apart]
    columns: list[Tensor] = []
    for begin, end in zip(starts, [*starts[1:], len(values)], strict=True):
        weights = torch.randn(end - begin, generator=generator, dtype=torch.float64)
        columns.append(vectors[:, begin:end] @ (weights / torch.linalg.vector_norm(weights)))
    at = torch.tensor(starts)
    return Pairs(values[at], torch.stack(columns, dim=1), residuals[at], pairs.converged[at])


def _newton(matrix: Tensor, floor: float) -> Callable[[Tensor], Tensor]:
    """Solve with H + floor·I by Cholesky; falls back to zero where that is not positive."""

    def solve(rhs: Tensor) -> Tensor:
        H = matrix.to("cpu", torch.float64)
        shift = max(floor, torch.finfo(torch.float64).tiny) * torch.eye(len(H), dtype=torch.float64)
        factor, failed = torch.linalg.cholesky_ex((H + H.T) / 2 + shift)
        if int(failed):
            return torch.zeros_like(rhs)
        return torch.cholesky_solve(rhs.to(H).unsqueeze(1), factor).squeeze(1).to(rhs)

    return solve


def _conjugate_gradients(problem: Problem, rhs: Tensor, products: int) -> Tensor:
    """Some steps of conjugate gradients towards H⁻¹ rhs."""
    from scipy.sparse.linalg import LinearOperator, cg  # slow to import

    operator = problem.hessian()

    def matvec(v: NDArray[np.float64]) -> NDArray[np.float64]:
        return operator.matvec(torch.from_numpy(v).to(rhs)).double().cpu().numpy()

    n = problem.n
    A = cast("Any", LinearOperator)((n, n), matvec=matvec, dtype=np.float64)  # its stub is wrong
    solution, _ = cg(A, rhs.double().cpu().numpy(), maxiter=products)
    return torch.from_numpy(solution).to(rhs)


def _teller(progress: Progress | None, what: str) -> Callable[[int, int], None] | None:
    return None if progress is None else (lambda done, total: progress(what, done, total))
