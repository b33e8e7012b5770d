"""Linear regression on two features, one a hundred times as large as the other, raw and standardized.

Answers: what does the scale of features do to the loss surface and to gradient descent on it?
Does not answer: how much it matters behind normalization layers, which scale for themselves.

The Hessian is (2/N)·XᵀX: LeCun, Bottou, Orr, Müller (1998), Efficient BackProp, section 4.3.
"""

import torch
from torch import Tensor

from unstick.critical.curvature import Progress
from unstick.problem.problem import Problem
from unstick.studies.toys.measuring import Draft, Land, Rival, race, spot
from unstick.studies.toys.toy import Check
from unstick.training.recipe import Recipe
from unstick.training.standardizing import Standardizer, condition_number

__all__ = ["measure"]

SCALES = (1.0, 100.0)
SAMPLES = 60
WEIGHTS = (1.0, 0.03)  # that the targets are made with
NOISE = 0.1  # standard deviation of the targets' noise
START = (-2.0, 7.0)
"""From the minimum, in standardized weights: both descents begin with the same predictor."""

SHARE = 0.02  # of the excess loss at the start, at which a path has arrived
STAYS = 5
MOST = 6000
RAW = (4.0, 0.1)
"""From the minimum to the edges of the picture: w₂ is drawn 40 times as large as w₁."""

STANDARD = (8.0, 8.0)


def measure(draft: Draft, seed: int, progress: Progress) -> list[Check]:
    """Gradient descent on raw features close to its limit 2/λ, and on standardized ones at a quarter of theirs."""
    raw, targets = _data(seed)
    moved = Standardizer.fit(raw)
    checks: list[Check] = []
    for name, inputs, unit, reach, share in (
        ("raw features", raw - moved.mean, moved.deviation.flatten(), RAW, 1.9),
        (
            "standardized features",
            moved.apply(raw),
            torch.ones(2, dtype=torch.float64),
            STANDARD,
            0.5,
        ),
    ):
        problem = _regression(inputs, targets)
        draft.problems.append(problem)
        best = torch.linalg.lstsq(inputs, targets.unsqueeze(1)).solution.flatten()
        side = torch.linspace(-1, 1, 61, dtype=torch.float64)
        x, y = (middle + far * side for middle, far in zip(best, reach, strict=True))
        land = Land.of(name, problem, x, y, ("w₁", "w₂"))
        draft.lands.append(land)
        land.spots.append(spot(problem, "the minimum", best.tolist(), seed=seed))
        low, high = land.spots[0].point.eigenvalues.tolist()
        rate = share / high
        start = best + torch.tensor(START, dtype=torch.float64) / unit
        floor, above = problem.values(torch.stack([best, start])).tolist()
        rival = Rival(
            "gradient descent", Recipe(optimizer="gradient-descent", batch_size=None, lr=rate)
        )
        goal = floor + SHARE * (above - floor)
        land.paths += race(
            problem, start, [rival], goal=goal, stays=STAYS, most=MOST, progress=progress
        )
        checks.append(Check(f"condition number, {name}", high / low, condition_number(inputs).before, "that of XᵀX"))  # fmt: skip
    return checks


def _data(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(SAMPLES, 3, generator=generator, dtype=torch.float64)
    inputs = drawn[:, :2] * torch.tensor(SCALES, dtype=torch.float64)
    targets = inputs @ torch.tensor(WEIGHTS, dtype=torch.float64) + NOISE * drawn[:, 2]
    return inputs, targets - targets.mean()


def _regression(inputs: Tensor, targets: Tensor) -> Problem:
    """The mean squared error of two weights, without an intercept: inputs and targets have mean 0."""
    return Problem.from_function(
        lambda w: ((inputs @ w - targets) ** 2).mean(), torch.zeros(2, dtype=torch.float64)
    )
