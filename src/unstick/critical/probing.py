"""The loss measured along directions: the best decrease that a straight line offers, and the noise of a loss.

Answers: how much does going along this direction pay, at any distance?
Does not answer: what kind of point it is; ``judging`` weighs what is measured here.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from unstick.problem.problem import Problem

__all__ = [
    "PROBES",
    "Search",
    "losses_along",
    "noise_of_loss",
    "random_directions",
    "scan_directions",
    "scatter_of_loss",
    "search",
    "signed",
]

DECADES = 12  # how much nearer probes may go
CONFIRMED = 4  # lowest probes of a scan whose own noise is measured
PROBES = 18  # evaluations of one search along one sign, at most
TOGETHER = 2**26  # numbers in a block of displaced parameter vectors
COARSE = tuple(10.0 ** (k / 2) for k in range(-8, 3))
"""Distances of the first probes, in units of max(1, ‖θ‖): from invisible to far beyond the parameters' own size."""


@dataclass(frozen=True, slots=True)
class Search:
    """The best that a line offers."""

    step: float  # signed distance along the unit direction; 0.0 when nothing lowers the loss
    loss: float  # measured there
    decrease: float  # loss here minus loss there; 0.0 when nothing lowers it
    by_slope: float  # best decrease that the slope accounts for: min(decrease, −slope·step) over the probes
    beyond_slope: float  # best decrease that the slope does not account for: decrease + slope·step, where downhill
    steepness: float  # best of that over the distance gone: the mean slope that curvature makes


def losses_along(problem: Problem, theta: Tensor, direction: Tensor, steps: Tensor) -> Tensor:
    """The loss at θ + t·direction for each t in ``steps`` [k] → [k] float64.

    Cost:
        k thirds of a gradient.
    """
    width = max(1, TOGETHER // theta.numel())
    d = direction.to(theta.device, theta.dtype)
    parts = [
        problem.values(theta + part.to(theta.device, theta.dtype).unsqueeze(1) * d)
        for part in steps.split(width)
    ]
    return torch.cat(parts)


def noise_of_loss(problem: Problem, theta: Tensor, loss: float, *, seed: int) -> float:
    """How far apart two losses must lie to differ: the scatter under changes of θ in its last digit.

    Args:
        problem: What is minimized.
        theta: Where, [n].
        loss: The loss there.
        seed: Seed of the changes.

    Cost:
        4/3 gradients.
    """
    return max(
        8 * torch.finfo(theta.dtype).eps * abs(loss),
        scatter_of_loss(problem, theta, loss, seed=seed),
    )


def scatter_of_loss(problem: Problem, theta: Tensor, loss: float, *, seed: int) -> float:
    """Twice the largest change of the loss under four seeded changes of θ in its last digit; finite ones count.

    Cost:
        4/3 gradients.
    """
    eps = torch.finfo(theta.dtype).eps
    generator = torch.Generator().manual_seed(seed)
    scatter = 0.0
    for _ in range(4):
        up = torch.randint(0, 2, (theta.numel(),), generator=generator, dtype=torch.int8).to(theta)
        nudged = theta * (1 + eps * (2 * up - 1))
        change = abs(float(problem.values(nudged.unsqueeze(0))[0]) - loss)
        scatter = max(scatter, change) if math.isfinite(change) else scatter
    return 2 * scatter


def signed(direction: Tensor, gradient: Tensor) -> Tensor:
    """A direction with the sign that goes downhill, gᵀd ≤ 0."""
    return -direction if float(gradient.double() @ direction.double()) > 0 else direction


def search(
    problem: Problem,
    theta: Tensor,
    loss: float,
    direction: Tensor,
    *,
    slope: float,
    curvature: float | None = None,
    both: bool = False,
    around: float | None = None,
    noise: float = 0.0,
) -> Search:
    """Look for the lowest loss along a line: probes over many scales, then closer around the best.

    Args:
        problem: What is minimized.
        theta: Where, [n].
        loss: The loss there.
        direction: Unit vector [n].
        slope: gᵀd at θ.
        curvature: dᵀHd at θ where known; adds probes where slope and curvature balance.
        both: Try the other sign too, at the best distance.
        noise: Noise of the loss: ``steepness`` must not rest on it, and no probe goes so near that less is promised.
        around: Only four distances up to twice this one instead of all scales.

    Returns:
        The best probe. Losses that are not finite count as no decrease.

    Cost:
        At most ``PROBES`` + 1 thirds of a gradient; more only where every probe rises though θ slopes down.
    """
    unit = max(1.0, float(torch.linalg.vector_norm(theta)))
    steps = (
        [unit * factor for factor in COARSE]
        if around is None
        else [around * f for f in (0.1, 0.3, 1.0, 2.0)]
    )
    if curvature and math.isfinite(curvature) and slope != 0:
        steps += [abs(slope / curvature) * factor for factor in (0.5, 1.0, 2.0)]
    tried: dict[float, float] = {}

    def probe(more: list[float]) -> None:
        fresh = [step for step in more if step not in tried]
        measured = losses_along(problem, theta, direction, torch.tensor(fresh, dtype=torch.float64))
        tried.update(zip(fresh, measured.tolist(), strict=True))

    def best() -> float:
        return min(tried, key=lambda step: tried[step] if math.isfinite(tried[step]) else math.inf)

    probe(steps)
    shrink = min(steps)
    for _ in range(DECADES):  # the loss may live on a far smaller scale than the parameters
        shrink /= 10
        promised = -slope * shrink + 0.5 * abs(curvature or 0.0) * shrink**2
        if tried[best()] < loss or around is not None or promised <= 2 * noise:
            break
        probe([shrink])
    if tried[best()] < loss and around is None:
        for spread in (10**0.25, 10**0.1):
            probe([best() / spread, best() * spread])
    if both:
        probe([-abs(best())])
    decreases = {
        step: loss - value if math.isfinite(value) else -math.inf for step, value in tried.items()
    }
    by_slope = max(0.0, *(min(gain, -slope * step) for step, gain in decreases.items()))
    beyond = {step: gain - max(0.0, -slope * step) for step, gain in decreases.items()}
    most = max(0.0, *beyond.values())
    steepness = max(0.0, *((gain - noise) / abs(step) for step, gain in beyond.items()))
    step = best()
    if decreases[step] <= 0:
        return Search(0.0, loss, 0.0, by_slope, most, steepness)
    return Search(step, tried[step], decreases[step], by_slope, most, steepness)


def random_directions(problem: Problem, count: int, *, seed: int) -> Iterator[Tensor]:
    """Unit vectors [n] in seeded random directions, one at a time."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        v = torch.randn(problem.n, generator=generator, dtype=torch.float64)
        yield (v / torch.linalg.vector_norm(v)).to(problem.device, problem.dtype)


def scan_directions(
    problem: Problem, theta: Tensor, loss: float, directions: Iterable[Tensor], *, noise: float
) -> tuple[Tensor, float, float] | None:
    """Go along ± each unit direction [n] over several scales; the best descent, if there is one.

    Returns:
        (unit direction [n], step, decrease), or None where no probe lies below the loss by more than its noise.

    Cost:
        14 thirds of a gradient for each direction, and a few to confirm.
    """
    unit = max(1.0, float(torch.linalg.vector_norm(theta)))
    distances = torch.tensor([unit * 10.0 ** (k / 2) for k in range(-4, 3)], dtype=torch.float64)
    steps = torch.cat([-distances, distances])
    best: list[tuple[float, float, Tensor]] = []
    for direction in directions:
        losses = losses_along(problem, theta, direction, steps)
        gains = torch.where(torch.isfinite(losses), loss - losses, -torch.inf)
        most = gains.topk(2)
        found = zip(most.values.tolist(), steps[most.indices].tolist(), strict=True)
        best += [(gain, step, direction) for gain, step in found if gain > 2 * noise]
        best = sorted(best, key=lambda probe: -probe[0])[:CONFIRMED]
    for gain, step, direction in best:
        there = theta + step * direction
        if gain > 2 * max(noise, noise_of_loss(problem, there, loss - gain, seed=0)):
            return (direction if step > 0 else -direction), abs(step), gain
    return None
