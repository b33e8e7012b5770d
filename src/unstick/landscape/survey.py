"""What there is to look at around a point, in one record: a plane, sharpness, and the same function written otherwise.

Answers: what does the landscape look like here, how sharp is it, and how much of that is only how the function is written?
Does not answer: whether the point is critical.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from unstick.errors import BadModel
from unstick.landscape.directions import Direction, axes, random_direction
from unstick.landscape.grid import Progress
from unstick.landscape.line import axis_of, distances_of
from unstick.landscape.plane import Plane, scan
from unstick.landscape.rescaling import Rescaled, rescalable, rescaling_study
from unstick.landscape.sharpness import Sharpness, sharpness
from unstick.problem.cost import Cost
from unstick.problem.problem import Problem
from unstick.record import Fact, Record

__all__ = ["Kind", "Survey", "rewritten", "survey"]

Kind = Literal["random", "eigenvectors", "gradient"]
"""The planes that there are."""

ALPHAS = (0.25, 1.0, 4.0)
SIDE = 25  # points of a side of the planes of a rescaled network


@dataclass(frozen=True, slots=True, eq=False)
class Survey(Record):
    """Pictures and measures around one point; what was not asked for is ``None``."""

    plane: Plane
    sharpness: Sharpness | None
    rescaled: Rescaled | None
    rescaled_normalized: tuple[Plane, ...]  # one an α: along filter-normalized directions
    rescaled_plain: tuple[Plane, ...]  # along the same directions, not normalized
    outcome: str  # "complete" or "interrupted"
    cost: Cost

    def headline(self) -> str:
        """What is in it."""
        return self.plane.headline()

    def facts(self) -> list[Fact]:
        """The facts of every part."""
        facts: list[Fact] = []
        for part in (self.plane, self.sharpness, self.rescaled):
            if part is not None:
                facts += [fact for fact in part.facts() if fact[0] not in ("cost", "outcome")]
        return [*facts, ("outcome", self.outcome), ("cost", str(self.cost))]


def survey(
    problem: Problem,
    *,
    along: Kind = "random",
    x: Tensor | None = None,
    y: Tensor | None = None,
    points: int = 51,
    reach: float | None = None,
    measures: Sequence[str] = ("loss",),
    sharp: bool = False,
    rewrite: bool = False,
    seed: int = 0,
    budget: float = 200,
    store: str | Path | None = None,
    progress: Progress | None = None,
) -> Survey:
    """Scan a plane through the model's parameters, and measure its sharpness beside it.

    Args:
        problem: What is minimized.
        along: "random" (two filter-normalized directions), "eigenvectors" (of the lowest and the highest eigenvalue, never
            normalized) or "gradient" (−g against the eigenvector of the lowest eigenvalue).
        x: Distances of the first axis; None: ``points`` of them over ``reach``.
        y: Of the second.
        points: Of each side.
        reach: Distance to each side; None: one length of normalized directions, else as far as the loss visibly changes.
        measures: Of "loss", "accuracy" and "gradient norm".
        sharp: Measure λ max, Keskar's φ and adaptive sharpness too.
        rewrite: Rescale two layers of a network of rectified units, which computes the same, and measure again.
        seed: Of directions and starts.
        budget: Gradients for eigenvectors, and as many for sharpness.
        store: A file that keeps the plane's finished rows.
        progress: Called with (stage, done, total).

    Raises:
        BadData: Unknown directions, or as for ``scan``.
        BadModel: Nothing can be rescaled, or as for ``scan``.

    Cost:
        points² thirds of a gradient, and what eigenvectors, sharpness and the rescaled networks take.
    """
    before = problem.spent
    first, second = axes(problem, along, seed=seed, budget=budget)
    plane = scan(
        problem,
        first,
        second,
        x=_span(problem, first, x, points, reach),
        y=_span(problem, second, y, points, reach),
        measures=measures,
        store=store,
        progress=progress,
    )
    measured = None
    rescaled: Rescaled | None = None
    normalized: tuple[Plane, ...] = ()
    plain: tuple[Plane, ...] = ()
    if sharp and plane.outcome == "complete":
        measured = sharpness(problem, budget=budget, seed=seed, progress=progress)
    if rewrite and plane.outcome == "complete":
        rescaled, normalized, plain = rewritten(problem, seed=seed, progress=progress)
    parts = (plane, measured, rescaled)
    stopped = any(part is not None and part.outcome == "interrupted" for part in parts)
    return Survey(
        plane=plane,
        sharpness=measured,
        rescaled=rescaled,
        rescaled_normalized=normalized,
        rescaled_plain=plain,
        outcome="interrupted" if stopped else "complete",
        cost=problem.spent - before,
    )


def rewritten(
    problem: Problem,
    *,
    alphas: Sequence[float] = ALPHAS,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[Rescaled, tuple[Plane, ...], tuple[Plane, ...]]:
    """One function written in several ways, and the planes of each: by filter-normalized directions and by plain ones.

    Raises:
        BadModel: The model has no two layers that can be rescaled.
    """
    pairs = rescalable(problem.model)
    if not pairs:
        raise BadModel(
            "no two layers can be rescaled; expected a chain of linear or convolutional layers with ReLU between them and no "
            "normalization"
        )
    found = rescaling_study(problem, alphas=alphas, layers=pairs[0], seed=seed, progress=progress)
    at = torch.linspace(-1, 1, SIDE, dtype=torch.float64)
    own = [direction.length for direction in _pair(problem, seed, filtered=True)]
    normalized, plain = list[Plane](), list[Plane]()
    kept = problem.layout.copies()
    try:
        for theta in found.thetas:
            problem.write(theta)
            pair = _pair(problem, seed, filtered=True)
            normalized.append(_picture(problem, pair, [one.length for one in pair], at))
            plain.append(_picture(problem, _pair(problem, seed, filtered=False), own, at))
    finally:
        problem.layout.restore(kept)
    return found, tuple(normalized), tuple(plain)


def _picture(
    problem: Problem, pair: Sequence[Direction], lengths: Sequence[float], at: Tensor
) -> Plane:
    named = [replace(one, name=f"random direction {k + 1}") for k, one in enumerate(pair)]
    x, y = (at * length for length in lengths)
    return scan(problem, named[0], named[1], x=x, y=y, perpendicular=False)


def _pair(problem: Problem, seed: int, *, filtered: bool) -> list[Direction]:
    normalize = "filter" if filtered else "none"
    return [random_direction(problem, seed=2 * seed + k, normalize=normalize) for k in range(2)]


def _span(
    problem: Problem, direction: Direction, given: Tensor | None, points: int, reach: float | None
) -> Tensor:
    """What was given, or an even span as far as there is something to see."""
    if given is not None:
        return given
    if reach is None:
        reach = float(
            distances_of(problem, axis_of(problem, direction, direction.name), None, "x")[-1]
        )
    return torch.linspace(-reach, reach, points, dtype=torch.float64)
