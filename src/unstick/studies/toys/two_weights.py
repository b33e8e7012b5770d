"""The smallest network: y = w₁w₂x with the target 1 at x = 1, whose loss is (1 − w₁w₂)².

Answers: what does a saddle look like from all sides, who stays on it, and who leaves?
Does not answer: whether larger networks have saddles in their way; classify a training for that.

The gradient is −2(1 − w₁w₂)·(w₂, w₁); it is zero at (0, 0) and where w₁w₂ = 1. There the eigenvalues are ±2, and
0 and 2(w₁² + w₂²).
"""

import torch
from torch import Tensor

from unstick.critical.curvature import Progress
from unstick.problem.problem import Problem
from unstick.record import number
from unstick.studies.toys.measuring import Draft, Land, Rival, leap, race, spot
from unstick.studies.toys.toy import Check, Trail
from unstick.training.recipe import Recipe

__all__ = ["measure"]

REACH = 2.2  # of the picture, each way
RATE = 0.05
BESIDE = 1e-3  # distance from the saddle at which the second descent begins
MINIMA = ((1.0, 1.0), (2.0, 0.5), (-1.0, -1.0))


def measure(draft: Draft, seed: int, progress: Progress) -> list[Check]:
    """Four points, all minima, the escape, and gradient descent from the saddle and from beside it."""
    origin = torch.zeros(2, dtype=torch.float64)
    problem = Problem.from_function(_loss, origin, lower_bound=0.0)
    draft.problems.append(problem)
    grid = torch.linspace(-REACH, REACH, 67, dtype=torch.float64)
    land = Land.of("the loss", problem, grid, grid, ("w₁", "w₂"))
    draft.lands.append(land)
    progress("points", 0, 4)
    land.spots.append(spot(problem, "(0, 0)", (0.0, 0.0), seed=seed))
    land.spots += [
        spot(problem, f"({number(a)}, {number(b)})", (a, b), seed=seed) for a, b in MINIMA
    ]
    land.paths += [_hyperbola(problem, side) for side in (1.0, -1.0)]
    draft.escape, path = leap(problem, (0.0, 0.0), seed=seed)
    land.paths.append(path)
    way = torch.randn(2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    beside = BESIDE * way / torch.linalg.vector_norm(way)
    for name, start in (
        ("descent from the saddle", origin),
        ("descent from beside it", beside),
    ):
        rival = Rival(name, Recipe(optimizer="gradient-descent", batch_size=None, lr=RATE))
        land.paths += race(problem, start, [rival], goal=1e-6, most=250, progress=progress)
    return _checks(land)


def _loss(w: Tensor) -> Tensor:
    return (1 - w[0] * w[1]) ** 2


def _hyperbola(problem: Problem, side: float) -> Trail:
    """One branch of w₁w₂ = 1, with the losses measured on it."""
    w = side * torch.logspace(-0.342, 0.342, 41, dtype=torch.float64)
    points = torch.stack([w, 1 / w], dim=1)
    name = "minima, w₁w₂ = 1"
    return Trail(
        name, torch.arange(41), points, problem.values(points), None, (), None, moves=False
    )


def _checks(land: Land) -> list[Check]:
    saddle, *minima = land.spots
    low, high = saddle.point.eigenvalues.tolist()
    checks = [
        Check("smallest eigenvalue at (0, 0)", low, -2.0, "−2, along (1, 1)/√2"),
        Check("largest eigenvalue at (0, 0)", high, 2.0, "2, along (1, −1)/√2"),
    ]
    for one in minima:
        expected = 2 * float(one.at @ one.at)
        largest = float(one.point.eigenvalues[-1])
        checks.append(Check(f"largest eigenvalue at {one.name}", largest, expected, "2(w₁² + w₂²)"))
    worst = max(float(path.losses.max()) for path in land.paths if not path.moves)
    checks.append(Check("largest loss on the hyperbola", worst, 0.0, "0 up to rounding"))
    return checks
