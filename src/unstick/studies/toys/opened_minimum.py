"""A minimum in one dimension that a second dimension opens into a saddle.

Answers: how can a point with walls on both sides have a way out?
Does not answer: how often the minima of a slice are saddles of the whole; the curvature of a network tells.

The loss is x⁴/4 − x²/2 + tx + y⁴/4 − y²/2 + 0.3xy² with t = 105/512. Where y = 0 its slope in y is 0, and its slope in x
is x³ − x + t = (x − 7/8)(x² + 7x/8 − 15/64). The eigenvalues at x₀ = 7/8 are 3x₀² − 1 and 0.6x₀ − 1.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from unstick.critical.curvature import Progress
from unstick.problem.problem import Problem
from unstick.studies.toys.measuring import Draft, Land, Rival, cut, leap, race, spot
from unstick.studies.toys.toy import Check, Trail
from unstick.training.recipe import Recipe

__all__ = ["measure"]

TILT = 105 / 512  # of the two wells along x
TIE = 0.3  # of the tilt to y²: far enough along y the wall is gone
UPPER = 7 / 8  # the upper minimum along x
RATE = 0.2
START = 1.6  # where the descent along x begins
MOST = 200
HELD = "with y held at 0"


def measure(draft: Draft, seed: int, progress: Progress) -> list[Check]:
    """The cut with its minima, the surface with the same point, and both ways on from there."""
    rival = Recipe(optimizer="gradient-descent", batch_size=None, lr=RATE)
    slice_ = Problem.from_function(_slice, torch.zeros(1, dtype=torch.float64))
    problem = Problem.from_function(_loss, torch.zeros(2, dtype=torch.float64))
    draft.problems += [slice_, problem]
    x = torch.linspace(-1.7, 1.7, 121, dtype=torch.float64)
    high, top, low = UPPER, (-7 + math.sqrt(109)) / 16, (-7 - math.sqrt(109)) / 16
    progress("points", 0, 3)
    spots = [
        spot(slice_, name, (at,), seed=seed)
        for name, at in (("upper minimum", high), ("barrier", top), ("lower minimum", low))
    ]
    draft.cuts.append(cut(slice_, HELD, x, x_name="x", spots=spots))
    grid = torch.linspace(-1.7, 1.7, 69, dtype=torch.float64)
    land = Land.of("with y free", problem, grid, grid, ("x", "y"))
    draft.lands.append(land)
    land.spots.append(spot(problem, "the same point", (high, 0.0), seed=seed))
    begin = torch.tensor([START, 0.0], dtype=torch.float64)
    along = Rival(f"descent {HELD}", rival)  # the slope in y is 0 there, so it stays
    land.paths += race(problem, begin, [along], most=40, progress=progress)
    draft.escape, way = leap(problem, (high, 0.0), seed=seed)
    land.paths.append(_later(way, land.paths[-1]))
    onward = Rival("descent from there", rival)
    (path,) = race(problem, way.points[-1], [onward], most=MOST, progress=progress)
    land.paths.append(_later(path, land.paths[-1]))
    land.spots.append(spot(problem, "where it ends", land.paths[-1].points[-1].tolist(), seed=seed))
    return _checks(land)


def _loss(at: Tensor) -> Tensor:
    x, y = at
    return x**4 / 4 - x**2 / 2 + TILT * x + y**4 / 4 - y**2 / 2 + TIE * x * y**2


def _slice(at: Tensor) -> Tensor:
    return _loss(torch.stack([at[0], torch.zeros_like(at[0])]))


def _later(path: Trail, before: Trail) -> Trail:
    """The path as one that begins where another ends."""
    return replace(path, steps=path.steps + before.steps[-1])


def _checks(land: Land) -> list[Check]:
    here, end = land.spots
    smallest, largest = here.point.eigenvalues.tolist()
    fall = here.point.loss - end.point.loss
    return [
        Check("eigenvalue along x", largest, 3 * UPPER**2 - 1, "3x₀² − 1"),
        Check("eigenvalue along y", smallest, 2 * TIE * UPPER - 1, "0.6x₀ − 1"),
        Check("fall of the loss from here to the end", fall, None, "measured at both"),
    ]
