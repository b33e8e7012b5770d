"""A ravine: ½(x² + 100 y²), a hundred times steeper across than along.

Answers: which optimizers does a ravine slow down, by how much, and does it matter that it lies along an axis?
Does not answer: how they do on noisy gradients, or away from quadratics.

Gradient descent at its best rate 2/(a + b) shrinks the distance by 1 − 2/(κ + 1) a step, the heavy ball at its best
settings by (√κ − 1)/(√κ + 1): Polyak (1964), Some methods of speeding up the convergence of iteration methods.
"""

import math

import torch
from torch import Tensor

from unstick.critical.curvature import Progress
from unstick.problem.problem import Problem
from unstick.studies.toys.measuring import Draft, Land, Rival, race
from unstick.studies.toys.toy import Check
from unstick.training.recipe import Recipe

__all__ = ["measure"]

A, B = 1.0, 100.0  # curvatures along and across; κ is their ratio
START = (-2.3, 0.35)
SHARE = 1e-3  # of the start's loss, at which a path has arrived
STAYS = 40  # steps more at that loss: who only flies past has not arrived
MOST = 400  # steps of a race
LONG = 600  # steps over which a rate is measured
TURN = math.pi / 4

RATES = {
    "gradient-descent": (0.01, 0.015, 0.019, 0.0199),
    "momentum": (0.002, 0.005, 0.01, 0.02),
    "adagrad": (0.05, 0.1, 0.2, 0.5),
    "rmsprop": (0.005, 0.01, 0.02, 0.05),
    "adam": (0.05, 0.1, 0.2, 0.5),
}
"""The rates that each is tuned over; momentum 0.9, and whatever else is at its default. The adaptive ones take no first
step longer than 0.5 in a parameter, which would leave the ravine for its walls."""

NAMES = {
    "gradient-descent": "gradient descent",
    "momentum": "momentum",
    "adagrad": "AdaGrad",
    "rmsprop": "RMSProp",
    "adam": "Adam",
}


def measure(draft: Draft, seed: int, progress: Progress) -> list[Check]:
    """Five optimizers at the fastest of their rates, along an axis and across both, and two closed forms."""
    del seed  # nothing here is random
    for name, angle in (("along an axis", 0.0), ("turned by 45°", TURN)):
        turn = _turn(angle)
        problem = Problem.from_function(
            lambda at, turn=turn: _loss(turn.T @ at), torch.zeros(2, dtype=torch.float64)
        )
        draft.problems.append(problem)
        reach = 2.4 if angle == 0 else 2.0
        x = torch.linspace(-reach, 0.6, 61, dtype=torch.float64)
        y = torch.linspace(-0.6, 0.6, 61, dtype=torch.float64) if angle == 0 else x
        land = Land.of(name, problem, x, y, ("x", "y"))
        draft.lands.append(land)
        start = turn @ torch.tensor(START, dtype=torch.float64)
        rivals = [
            Rival(NAMES[optimizer], Recipe(optimizer=optimizer, batch_size=None, lr=rate))
            for optimizer, rates in RATES.items()
            for rate in rates
        ]
        goal = SHARE * float(problem.values(start.unsqueeze(0)))
        land.paths += race(
            problem, start, rivals, goal=goal, stays=STAYS, most=MOST, progress=progress
        )
    return _rates(draft.problems[0], progress)


def _loss(at: Tensor) -> Tensor:
    return 0.5 * (A * at[0] ** 2 + B * at[1] ** 2)


def _turn(angle: float) -> Tensor:
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, -s], [s, c]], dtype=torch.float64)


def _rates(problem: Problem, progress: Progress) -> list[Check]:
    """What a step leaves of the distance, measured over the second half of a long run."""
    condition = B / A
    root = math.sqrt(condition)
    best = (root - 1) / (root + 1)
    polyak = Recipe(
        optimizer="heavy-ball", lr=4 / (math.sqrt(A) + math.sqrt(B)) ** 2, momentum=best**2
    )
    plain = Recipe(optimizer="gradient-descent", batch_size=None, lr=2 / (A + B))
    rivals = [Rival("gradient descent", plain), Rival("heavy ball", polyak)]
    start = torch.tensor(START, dtype=torch.float64)
    descent, ball = (
        race(problem, start, [rival], most=LONG, progress=progress)[0] for rival in rivals
    )
    expected = 1 - 2 / (condition + 1)
    return [
        Check("gradient descent keeps, a step", _left(descent.points, descent.steps), expected, "1 − 2/(κ + 1)"),
        Check("heavy ball keeps, a step", _left(ball.points, ball.steps), best, "(√κ − 1)/(√κ + 1), slightly more for a double root"),
    ]  # fmt: skip


def _left(points: Tensor, steps: Tensor) -> float:
    """The factor by which the distance to the minimum shrinks a step, over the second half."""
    middle = int((steps - steps[-1] // 2).abs().argmin())
    lengths = torch.linalg.vector_norm(points[[middle, -1]], dim=1)
    return float((lengths[1] / lengths[0]) ** (1 / float(steps[-1] - steps[middle])))
