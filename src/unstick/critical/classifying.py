"""Classify a point: measure slope, curvature and finite steps in order of cost, then judge.

Answers: is this a critical point, of which kind, with what proof?
Does not answer: why training stands still; ``diagnosis`` does.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from unstick.critical.curvature import (
    KERNEL,
    NEWTON_PRODUCTS,
    Curvature,
    Progress,
    affordable,
    exactly,
    roughly,
)
from unstick.critical.judging import Descent, Evidence, is_critical, judge, zero_tolerance
from unstick.critical.point import Kind, Point
from unstick.critical.probing import (
    PROBES,
    Search,
    noise_of_loss,
    random_directions,
    scan_directions,
    scatter_of_loss,
    search,
    signed,
)
from unstick.critical.room import DIRECTIONS, check_room, is_small
from unstick.errors import BudgetTooSmall
from unstick.problem.cost import Cost
from unstick.problem.problem import Problem

__all__ = ["classify"]

LEAST_PRODUCTS = 5
MOST_PRODUCTS = 300
TRIED = 2  # most negative eigenvectors that are gone along
ALONG = (PROBES + 1 + 4) / 3  # gradients: a search, and the noise of the loss at its end
PROBING = 1 + 4 / 3 + (1 + TRIED) * ALONG
SCANNED = 24  # directions of finite scans where the Hessian is blind


def classify(
    problem: Problem,
    *,
    budget: float = 200,
    seed: int = 0,
    tolerance: float = 1e-6,
    progress: Progress | None = None,
) -> Point:
    """Decide which kind of point the model's parameters are, with a proof.

    Args:
        problem: What is minimized; the model stays where it is.
        budget: Most work, in full-data gradients; a dense Hessian (taken where it costs about ten seconds at most)
            is not counted against it.
        seed: Seed of random starts, of the samples for the sampling error, and of finite scans.
        tolerance: A slope that pays less than this fraction of the loss counts as none.
        progress: Called with (stage, done, total).

    Returns:
        The point. On Ctrl-C after the first measurements, the best answer so far with ``outcome`` "interrupted".

    Raises:
        BudgetTooSmall: The budget does not pay for any answer; says what would.
        TooLittleMemory: A batch's graph, the dense Hessian or the smallest Krylov basis does not fit.
        NonFinite: A product is not finite.

    Cost:
        Small problems: the dense Hessian, n products. Others: about 15 gradients and the products that the proof
        takes, typically 6 to 30 at a saddle; all of the budget where no negative curvature shows.

    References:
        Parlett (1998), The Symmetric Eigenvalue Problem; Kuczyński, Woźniakowski (1992) for the probability.

    Example:
        >>> problem = Problem.from_function(lambda x: (1 - x[0] * x[1]) ** 2, torch.zeros(2))
        >>> point = classify(problem)
        >>> str(point.kind), point.inertia, round(float(point.escape_direction.abs()[0]), 6)
        ('saddle', (1, 0, 1), 0.707107)
    """
    before = problem.spent
    small = is_small(problem)
    problem.require_whole("classify")
    check_room(problem)
    _check_budget(problem, budget, small, before)
    loss, gradient = problem.value_and_gradient()
    evidence = Evidence(loss=loss, gradient=gradient, theta=problem.parameters())
    try:
        _measure(problem, evidence, budget, seed, tolerance, small, before, progress)
    except KeyboardInterrupt:
        evidence.outcome = "interrupted"
    return _point(problem, evidence, tolerance, before)


def _check_budget(problem: Problem, budget: float, small: bool, before: Cost) -> None:
    operator = problem.hessian()
    needed = (problem.spent - before).gradients + PROBING + operator.setup_price
    needed += 1.0 if problem.samples else 0.0  # the sampling error, at most
    needed += 0.0 if small else operator.product_price * (LEAST_PRODUCTS + 1)
    if budget < needed:
        raise BudgetTooSmall(
            f"budget={budget:g} gradients; the smallest answer about this model takes about {needed:.0f}: raise the budget"
        )


def _measure(
    problem: Problem,
    evidence: Evidence,
    budget: float,
    seed: int,
    tolerance: float,
    small: bool,
    before: Cost,
    progress: Progress | None,
) -> None:
    """Fill the evidence, cheapest first; an interruption leaves what was measured until then."""
    tell = progress or (lambda _stage, _done, _total: None)
    theta, loss, gradient = evidence.theta, evidence.loss, evidence.gradient
    norm = evidence.gradient_norm
    evidence.single = problem.dtype != torch.float64
    evidence.blind = problem.hessian_is_blind()
    tell("slope", 0, 3)
    evidence.loss_noise = noise_of_loss(problem, theta, loss, seed=seed)
    bound = problem.lower_bound
    if bound is not None:  # at it, as far as the last digits of the parameters allow
        evidence.attained = loss - bound <= scatter_of_loss(problem, theta, loss, seed=seed)
    tell("slope", 1, 3)
    noise = problem.gradient_noise(gradient=gradient, seed=seed)
    evidence.standard_error = None if noise is None else noise.gradient_standard_error()
    tell("slope", 2, 3)
    along = torch.zeros_like(gradient)
    if norm > 0:
        along = problem.hessian().matvec(gradient)
    evidence.slope = search(
        problem,
        theta,
        loss,
        -gradient / max(norm, torch.finfo(gradient.dtype).tiny),
        slope=-norm,
        curvature=float(gradient.double() @ along.double()) / norm**2 if norm > 0 else None,
        noise=evidence.loss_noise,
    )
    tell("slope", 3, 3)
    used = (problem.spent - before).gradients
    if small:
        evidence.curvature = exactly(problem, seed=seed, progress=progress)
        budget += (problem.spent - before).gradients - used  # bounded by seconds instead
    else:
        operator = problem.hessian()
        room = affordable(operator, budget - used - ALONG * TRIED)
        products = max(LEAST_PRODUCTS, min(MOST_PRODUCTS, room))
        stationary = is_critical(evidence, tolerance) is True
        evidence.curvature = roughly(
            problem, max_products=products, thorough=stationary, seed=seed, progress=progress
        )
        if evidence.curvature.outcome == "interrupted":
            raise KeyboardInterrupt
        if evidence.curvature.outcome == "budget":
            evidence.outcome = "budget"
    curvature = evidence.curvature
    largest = max(abs(curvature.lambda_min.value), abs(curvature.lambda_max.value))
    if norm > 0 and largest > 0:
        evidence.flatness = float(torch.linalg.vector_norm(along.double())) / (largest * norm)
    _try_directions(problem, evidence, curvature, tell)

    def left() -> float:
        return budget - (problem.spent - before).gradients

    if is_critical(evidence, tolerance) and not evidence.attained:
        _try_newton(problem, evidence, curvature, left(), seed)
    if is_critical(evidence, tolerance):
        _scan(problem, evidence, curvature, left(), seed, tell)


def _try_directions(
    problem: Problem, evidence: Evidence, curvature: Curvature, tell: Progress
) -> None:
    """Go along the most negative eigenvectors, both ways."""
    negative = [
        k
        for k, value in enumerate(curvature.lowest.values.tolist())
        if value < -curvature.noise_floor
    ]
    for done, k in enumerate(negative[:TRIED]):
        tell("negative curvature", done, len(negative[:TRIED]))
        v = signed(curvature.lowest.vectors[:, k].to(evidence.theta), evidence.gradient)
        found = search(
            problem,
            evidence.theta,
            evidence.loss,
            v,
            slope=float(evidence.gradient.double() @ v.double()),
            curvature=float(curvature.lowest.values[k]),
            both=True,
            noise=evidence.loss_noise,
        )
        way = _way(problem, evidence, found, v, seed=k, curvature=float(curvature.lowest.values[k]))
        if evidence.bent is None or way.decrease > evidence.bent.decrease:
            evidence.bent = way
    evidence.tried = True


def _way(
    problem: Problem,
    evidence: Evidence,
    found: Search,
    v: Tensor,
    *,
    seed: int,
    curvature: float | None = None,
) -> Descent:
    """What a search found, with the noise at its end: far out a loss may be noisier than here."""
    noise = evidence.loss_noise
    if found.decrease > 0:
        there = evidence.theta + found.step * v
        noise = max(noise, noise_of_loss(problem, there, found.loss, seed=seed))
    direction = v if found.step >= 0 else -v
    return Descent(direction, abs(found.step), found.decrease, curvature, found, noise)


def _try_newton(
    problem: Problem, evidence: Evidence, curvature: Curvature, left: float, seed: int
) -> None:
    """Where no curvature is negative, go along the Newton step: in a narrow valley −g pays little and it pays much."""
    if float(curvature.lowest.values[0]) < -zero_tolerance(evidence, critical=True):
        return
    if evidence.gradient_norm == 0:
        return
    operator = problem.hessian()
    price = 0.0 if curvature.counts is not None else NEWTON_PRODUCTS * operator.product_price
    if left < price + ALONG:
        return
    step = curvature.newton(-evidence.gradient)
    length = float(torch.linalg.vector_norm(step))
    if not 0 < length < float("inf"):
        return
    v = step / length
    slope = float(evidence.gradient.double() @ v.double())
    found = search(
        problem,
        evidence.theta,
        evidence.loss,
        v,
        slope=slope,
        curvature=abs(slope) / length,
        noise=evidence.loss_noise,
    )
    way = _way(problem, evidence, found, v, seed=seed)
    way = replace(way, decrease=min(way.decrease, found.by_slope))  # not into another valley
    if way.real:
        evidence.valley = way


def _scan(
    problem: Problem,
    evidence: Evidence,
    curvature: Curvature,
    left: float,
    seed: int,
    tell: Progress,
) -> None:
    """Where second order finds no way down but may be blind, take finite steps."""
    tau = zero_tolerance(evidence, critical=True)
    values = curvature.eigenvalues
    if float(curvature.lowest.values[0]) < -tau or evidence.attained:
        return
    if curvature.counts is not None and float(values[0]) > tau and not evidence.blind:
        return
    count = min(SCANNED, int(left * 3 / 14) - 2)
    if count < 1:
        return
    tell("finite steps", 0, 1)
    evidence.scanned = count
    found = scan_directions(
        problem,
        evidence.theta,
        evidence.loss,
        _flat_directions(problem, curvature, count, seed),
        noise=evidence.loss_noise,
    )
    if found is not None:
        evidence.scan = Descent(*found, None, None, evidence.loss_noise)
    tell("finite steps", 1, 1)


def _flat_directions(
    problem: Problem, curvature: Curvature, count: int, seed: int
) -> Iterator[Tensor]:
    """Unit vectors: the flattest known eigenvectors, then random ones in their span or anywhere."""
    flat = curvature.kernel.to(problem.device, problem.dtype)
    known = flat[:, : count // 2]
    yield from known.T
    whole_kernel = curvature.counts is not None and 0 < flat.shape[1] < min(KERNEL, problem.n)
    for v in random_directions(problem, count - known.shape[1], seed=seed):
        inside = flat @ (flat.T @ v) if whole_kernel else v
        yield inside / torch.linalg.vector_norm(inside)


def _point(problem: Problem, evidence: Evidence, tolerance: float, before: Cost) -> Point:
    kind, proof = judge(evidence, tolerance)
    critical = kind != Kind.NOT_CRITICAL
    tau = zero_tolerance(evidence, critical)
    curvature = evidence.curvature
    inertia = None
    if curvature is not None and curvature.counts is not None:
        counts = curvature.counts
        inertia = (counts.positive, counts.zero, counts.negative)
    slope, theta, way = evidence.slope, evidence.theta, evidence.way_down
    paid = max(
        0.0 if slope is None else slope.by_slope,
        0.0 if evidence.valley is None or critical else evidence.valley.decrease,
    )
    few = slice(0, DIRECTIONS)
    nothing = torch.empty(0, dtype=torch.float64)
    return Point(
        kind=kind,
        proof=f"{proof[:1].upper()}{proof[1:]}.",
        loss=evidence.loss,
        gradient_norm=evidence.gradient_norm,
        gradient_standard_error=evidence.standard_error,
        lambda_min=None if curvature is None else curvature.lambda_min,
        lambda_max=None if curvature is None else curvature.lambda_max,
        inertia=inertia,
        minimum_ratio=None if inertia is None else inertia[0] / problem.n,
        noise_floor=0.0 if curvature is None else curvature.noise_floor,
        tau=tau,
        slope_decrease=paid,
        curvature_decrease=0.0 if evidence.bent is None else evidence.bent.decrease,
        loss_noise=evidence.loss_noise,
        escape_direction=None if way is None else way.direction.to(problem.layout.dtype),
        escape_step=0.0 if way is None else way.step,
        lowest_curvatures=nothing if curvature is None else curvature.lowest.values[few],
        lowest_directions=theta.new_empty(problem.n, 0)
        if curvature is None
        else curvature.lowest.vectors[:, few],
        eigenvalues=nothing if curvature is None else curvature.eigenvalues,
        parameters=problem.n,
        notes=problem.notes,
        outcome=evidence.outcome,
        cost=problem.spent - before,
    )
