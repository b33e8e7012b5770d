"""A surface with a minimum, a maximum and a saddle, and its model of second order at each of them.

Answers: what do slope and curvature say about the surroundings of a point, and how far can they be trusted?
Does not answer: what lies beyond the distance at which the model fails; only the loss itself tells.

The loss is p(x) + q(y) with p′ = x(x + 1)(x − 3/2) and q′ = y(y² − 1), so each critical point is a pair of roots and
its eigenvalues are p″ = 3x² − x − 3/2 and q″ = 3y² − 1.
"""

import torch
from torch import Tensor

from unstick.critical.curvature import Progress
from unstick.problem.problem import Problem
from unstick.studies.toys.measuring import Draft, Land, spot, taylor
from unstick.studies.toys.toy import Check

__all__ = ["measure"]

POINTS = {
    "the saddle": (1.5, 0.0),
    "the minimum": (-1.0, 1.0),
    "the maximum": (0.0, 0.0),
    "the slope": (0.7, -0.9),
}
RADIUS = 0.8


def measure(draft: Draft, seed: int, progress: Progress) -> list[Check]:
    """Four points with their models."""
    problem = Problem.from_function(_loss, torch.zeros(2, dtype=torch.float64))
    draft.problems.append(problem)
    x = torch.linspace(-1.75, 2.25, 65, dtype=torch.float64)
    y = torch.linspace(-1.75, 1.75, 57, dtype=torch.float64)
    land = Land.of("the loss", problem, x, y, ("x", "y"))
    draft.lands.append(land)
    for done, (name, at) in enumerate(POINTS.items()):
        progress("points", done, len(POINTS))
        land.spots.append(spot(problem, name, at, seed=seed))
        land.taylors.append(taylor(problem, name, land.spots[-1].at, radius=RADIUS))
    checks: list[Check] = []
    for one, model in zip(land.spots, land.taylors, strict=True):
        a, b = one.at.tolist()
        low, high = sorted((3 * a**2 - a - 1.5, 3 * b**2 - 1))
        smallest, largest = one.point.eigenvalues.tolist()
        form = "the smaller of 3x² − x − 3/2 and 3y² − 1"
        checks += [
            Check(f"smallest eigenvalue at {one.name}", smallest, low, form),
            Check(f"largest eigenvalue at {one.name}", largest, high, "the larger of the two"),
            Check(
                f"order of the model's error at {one.name}",
                model.order,
                3.0,
                "3: value, slope and curvature agree",
            ),
        ]
    return checks


def _loss(at: Tensor) -> Tensor:
    x, y = at
    return x**4 / 4 - x**3 / 6 - 0.75 * x**2 + y**4 / 4 - y**2 / 2
