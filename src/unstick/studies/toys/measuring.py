"""How toys are measured: surfaces, points, paths and models, all by the package's own means.

Answers: what is the loss there, what kind of point is this, and where does an optimizer go from here?
Does not answer: which surface shows what; each toy's own file does.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from unstick.critical.classifying import classify
from unstick.critical.curvature import Progress
from unstick.critical.escaping import Escape, escape
from unstick.landscape.plane import Plane, scan
from unstick.problem.problem import Problem
from unstick.studies.toys.toy import Chord, Cut, Ground, Spot, Taylor, Trail
from unstick.training.optimizers import make_optimizer
from unstick.training.recipe import Recipe

__all__ = ["Draft", "Land", "Rival", "cut", "leap", "nothing_to_tell", "race", "spot", "taylor"]

EVERY = 200  # steps that are all kept; later ones grow apart by 4 %
ANGLES = 72  # directions in which the error of a Taylor model is looked for
ROUNDING = 1e-13  # an error below this is no cubic term but arithmetic


def nothing_to_tell(_stage: str, _done: float, _total: float) -> None:
    """The progress of those who do not ask."""


@dataclass(slots=True)
class Land:
    """A ground while it is measured."""

    name: str
    plane: Plane
    spots: list[Spot] = field(default_factory=list[Spot])
    paths: list[Trail] = field(default_factory=list[Trail])
    taylors: list[Taylor] = field(default_factory=list[Taylor])

    @classmethod
    def of(
        cls, name: str, problem: Problem, x: Tensor, y: Tensor, names: tuple[str, str]
    ) -> "Land":
        """The losses of a problem in two parameters at every pair of coordinates."""
        problem.write(torch.zeros(2, dtype=torch.float64))
        first, second = torch.eye(2, dtype=torch.float64)
        plane = scan(problem, first, second, x=x, y=y, names=names)
        _go_on(plane.outcome)
        return cls(name, plane)

    def ground(self) -> Ground:
        """As far as it was measured."""
        return Ground(
            self.name, self.plane, tuple(self.spots), tuple(self.paths), tuple(self.taylors)
        )


@dataclass(frozen=True, slots=True)
class Rival:
    """An optimizer at one rate, under the name of the path it would make."""

    name: str
    recipe: Recipe


def spot(problem: Problem, name: str, at: Iterable[float], *, seed: int) -> Spot:
    """Classify a point; the problem stands there afterwards."""
    place = torch.tensor(list(at), dtype=torch.float64)
    problem.write(place)
    found = classify(problem, seed=seed)
    _go_on(found.outcome)
    return Spot(name, place, found, found.lowest_directions)


def race(
    problem: Problem,
    start: Tensor,
    rivals: Sequence[Rival],
    *,
    goal: float = -math.inf,
    stays: int = 0,
    most: int,
    progress: Progress = nothing_to_tell,
) -> list[Trail]:
    """Let optimizers go from one start in step; of those that share a name, the first at the goal ends the others.

    Args:
        problem: Whose loss falls; its own parameters do not move.
        start: Shape [n].
        rivals: Optimizers of ``make_optimizer`` at their rates.
        goal: A loss that counts as arrived, …
        stays: … once it has not been exceeded for so many steps more: what only flies past has not arrived.
        most: Steps after which all stop.
        progress: Called with (stage, done, total).

    Returns:
        One path for each name: of the first to arrive (on a tie, the lower loss), else of the lowest last loss.

    Cost:
        A value and a gradient for each rival and step.
    """
    at = [nn.Parameter(start.clone()) for _ in rivals]
    optimizers = [
        make_optimizer(rival.recipe, [theta], samples=1)
        for rival, theta in zip(rivals, at, strict=True)
    ]
    gone: list[list[Tensor]] = [[] for _ in rivals]
    losses: list[list[float]] = [[] for _ in rivals]
    running, arrived = list(range(len(rivals))), set[str]()
    for step in range(most + 1):
        progress("paths", step, most)
        here = torch.stack([at[k].detach().clone() for k in running])
        heights = problem.values(here).tolist()
        for k, place, height in zip(running, here, heights, strict=True):
            gone[k].append(place)
            losses[k].append(height)
        arrived |= {rivals[k].name for k in running if _is_there(losses[k], goal, stays)}
        going = [
            place
            for place, k in enumerate(running)
            if rivals[k].name not in arrived and math.isfinite(heights[place])
        ]
        if not going or step == most:
            break
        running, here = [running[place] for place in going], here[going]
        for k, gradient in zip(running, problem.gradients(here), strict=True):
            at[k].grad = gradient
            optimizers[k].step()
    return [
        _winner(rivals, gone, losses, name, goal, stays)
        for name in dict.fromkeys(rival.name for rival in rivals)
    ]


def leap(problem: Problem, start: Iterable[float], *, seed: int) -> tuple[Escape, Trail]:
    """Escape from a point, and the straight way it went; the problem stands at its end."""
    begin = torch.tensor(list(start), dtype=torch.float64)
    problem.write(begin)
    moved = escape(problem, seed=seed)
    _go_on(moved.outcome)
    end = problem.parameters()
    part = torch.linspace(0, 1, 25, dtype=torch.float64).unsqueeze(1)
    points = begin + part * (end - begin)
    return moved, Trail("escape", torch.arange(25), points, problem.values(points), None, (), None)


def taylor(problem: Problem, name: str, at: Tensor, *, radius: float) -> Taylor:
    """The model of second order at a point over a square patch, and how far off it is at each distance."""
    problem.write(at)
    value, gradient = problem.value_and_gradient()
    hessian = problem.hessian().matmat(torch.eye(2, dtype=torch.float64))

    def model(d: Tensor) -> Tensor:
        return value + d @ gradient + 0.5 * ((d @ hessian) * d).sum(-1)

    side = torch.linspace(-radius, radius, 25, dtype=torch.float64)
    patch = torch.stack(torch.meshgrid(side, side, indexing="xy"), dim=-1)
    distances = torch.logspace(-2, math.log10(radius), 25, dtype=torch.float64)
    angles = torch.arange(ANGLES, dtype=torch.float64) * (2 * math.pi / ANGLES)
    ring = torch.stack([angles.cos(), angles.sin()], dim=-1)
    away = distances[:, None, None] * ring  # [m, angles, 2]
    measured = problem.values((at + away).reshape(-1, 2)).reshape(away.shape[:2])
    errors = (measured - model(away)).abs().amax(1)
    return Taylor(
        name=name,
        at=at,
        value=value,
        gradient=gradient,
        hessian=hessian,
        x=at[0] + side,
        y=at[1] + side,
        losses=model(patch),
        distances=distances,
        errors=errors,
        order=_order(distances, errors),
    )


def cut(
    problem: Problem,
    name: str,
    x: Tensor,
    *,
    x_name: str,
    spots: Sequence[Spot] = (),
    chords: Sequence[Chord] = (),
) -> Cut:
    """The loss over one parameter."""
    return Cut(name, x_name, x, problem.values(x.unsqueeze(1)), tuple(spots), tuple(chords))


@dataclass(slots=True)
class Draft:
    """A toy while it is measured: an interruption leaves what is there."""

    lands: list[Land] = field(default_factory=list[Land])
    cuts: list[Cut] = field(default_factory=list[Cut])
    escape: Escape | None = None
    problems: list[Problem] = field(default_factory=list[Problem])  # whose costs count


def _go_on(outcome: str) -> None:
    """Pass on an interruption that a part of the package answered with the best so far."""
    if "interrupted" in outcome:
        raise KeyboardInterrupt


def kept_steps(last: int) -> list[int]:
    """The steps of a path that are kept: all at first, then ever fewer, and the last."""
    steps = list(range(min(EVERY, last) + 1))
    while steps[-1] < last:
        steps.append(min(last, math.ceil(1.04 * steps[-1])))
    return steps


def _winner(
    rivals: Sequence[Rival],
    gone: Sequence[Sequence[Tensor]],
    losses: Sequence[Sequence[float]],
    name: str,
    goal: float,
    stays: int,
) -> Trail:
    """The path of the rival that ended lowest, of those that arrived where one did."""
    ours = [k for k, rival in enumerate(rivals) if rival.name == name]
    best = min(
        ours,
        key=lambda k: (
            not _is_there(losses[k], goal, stays),
            losses[k][-1] if math.isfinite(losses[k][-1]) else math.inf,
        ),
    )
    last = len(losses[best]) - 1
    kept = kept_steps(last)
    return Trail(
        name=name,
        steps=torch.tensor(kept),
        points=torch.stack(list(gone[best]))[kept],
        losses=torch.tensor(losses[best], dtype=torch.float64)[kept],
        lr=rivals[best].recipe.lr,
        tried=tuple(rivals[k].recipe.lr or 0.0 for k in ours) if len(ours) > 1 else (),
        reached=last - stays if _is_there(losses[best], goal, stays) else None,
    )


def _is_there(losses: Sequence[float], goal: float, stays: int) -> bool:
    """Whether the goal was reached and has been kept for so many steps."""
    return len(losses) > stays and all(loss <= goal for loss in losses[-stays - 1 :])


def _order(distances: Tensor, errors: Tensor) -> float:
    """Slope of log error against log distance over the nearest third, where errors are more than rounding."""
    near = errors[: len(errors) // 3]
    if float(near.min()) < ROUNDING:
        return math.nan
    steps = torch.log(distances[len(near) - 1] / distances[0])
    return float(torch.log(near[-1] / near[0]) / steps)
