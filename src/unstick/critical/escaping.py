"""Leave a critical point: move where the loss was measured to fall, or put the model back untouched.

Answers: which step out of this point lowers the full loss, and by how much, before and after?
Does not answer: what training does next.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from unstick.critical.classifying import classify
from unstick.critical.curvature import Progress
from unstick.critical.point import Kind, Point
from unstick.critical.probing import (
    noise_of_loss,
    random_directions,
    scan_directions,
    search,
    signed,
)
from unstick.critical.taylor import predicted_decrease
from unstick.errors import BadModel, BudgetTooSmall
from unstick.problem.cost import Cost
from unstick.problem.problem import Problem
from unstick.record import Fact, Record, number

__all__ = ["LEAST", "Escape", "escape"]

PERTURBATIONS = 24
LEAST = 12  # gradients: one direction, the Taylor model, and the measurement after the move


@dataclass(frozen=True, slots=True, eq=False)
class Escape(Record):
    """A move out of a critical point, verified on all data, or none."""

    moved: bool
    loss_before: float
    loss_after: float  # measured again at the parameters that the model now holds; loss_before when not moved
    predicted_decrease: float  # by the Taylor model for the step taken; 0.0 when not moved
    direction: Tensor | None  # [n] unit
    step: float  # distance moved
    along: int  # directions of negative curvature combined; 0 for a finite step found by scanning
    outcome: str  # one sentence
    cost: Cost

    def headline(self) -> str:
        """Whether it moved, and what that gained."""
        if not self.moved:
            return "Not moved: the model is where it was, bit for bit."
        return f"Escaped: the loss fell from {number(self.loss_before, 6)} to {number(self.loss_after, 6)}."

    def facts(self) -> list[Fact]:
        """How, and predicted against observed."""
        facts = [("outcome", self.outcome)]
        if self.moved:
            facts += [
                ("distance", number(self.step)),
                ("decrease", number(self.loss_before - self.loss_after)),
                ("Taylor predicted", number(self.predicted_decrease)),
            ]
        return [*facts, ("cost", str(self.cost))]


@dataclass(slots=True)
class _Way:
    """Where the search for a way out has got to."""

    theta: Tensor
    loss: float
    steps: list[float] = field(default_factory=list[float])
    bent: bool = False  # the steps follow negative curvature
    interrupted: bool = False

    def told(self) -> str:
        """How it went, in one sentence."""
        early = " (interrupted: the best so far)" if self.interrupted else ""
        if self.bent:
            plural = "s" if len(self.steps) > 1 else ""
            return f"moved along {len(self.steps)} direction{plural} of negative curvature{early}"
        return f"moved by a finite step: second derivatives show no way down, the measured loss does{early}"


def escape(
    problem: Problem,
    *,
    point: Point | None = None,
    budget: float = 200,
    seed: int = 0,
    progress: Progress | None = None,
) -> Escape:
    """Move the model out of a critical point, if a step can be found that lowers the full loss.

    Several directions of negative curvature are followed one after another, each by a line search on the frozen
    loss; where the Hessian shows none, finite steps are tried. The loss is measured again at the parameters
    written; if it has not fallen beyond its noise, every parameter gets its old bits back, also on an error.

    Args:
        problem: What is minimized.
        point: The verdict here, if you have it; else ``classify`` is called within the budget.
        budget: Most work, in full-data gradients.
        seed: Seed of ``classify`` and of finite steps.
        progress: Called with (stage, done, total).

    Returns:
        The move, with the loss before and after as proof.

    Raises:
        BudgetTooSmall: As ``classify``.
        BadModel: ``point`` belongs to other parameters.

    Cost:
        With a given point about 5 gradients, and 3 for each further direction.

    Example:
        >>> problem = Problem.from_function(lambda x: (1 - x[0] * x[1]) ** 2, torch.zeros(2))
        >>> moved = escape(problem)
        >>> moved.moved, moved.loss_before, moved.loss_after < 0.2
        (True, 1.0, True)
    """
    problem.require_whole("escape")
    before = problem.spent
    if point is not None and budget < LEAST:
        raise BudgetTooSmall(
            f"budget={budget:g} gradients; an escape takes about {LEAST} at least: raise the budget"
        )
    found = point or classify(problem, budget=budget, seed=seed, progress=progress)
    theta = problem.parameters()
    loss = problem.value()
    if abs(loss - found.loss) > 4 * found.loss_noise + 1e-6 * abs(loss):
        raise BadModel(
            f"the point was classified at loss {found.loss:g}, but the loss here is {loss:g}; "
            "classify again: the model has moved"
        )
    way = _Way(theta, loss)
    left = budget - (problem.spent - before).gradients
    try:
        if found.outcome == "interrupted" and point is None:
            raise KeyboardInterrupt
        _search(problem, found, way, left, seed, progress or (lambda _stage, _done, _total: None))
    except KeyboardInterrupt:
        way.interrupted = True
    return _move(problem, found, theta, loss, way, before)


def _move(
    problem: Problem, point: Point, theta: Tensor, loss: float, way: _Way, before: Cost
) -> Escape:
    """Write the way's end and measure there; put every bit back if that is no lower, or fails."""

    def stayed(why: str) -> Escape:
        return Escape(False, loss, loss, 0.0, None, 0.0, 0, why, problem.spent - before)

    if not way.steps:
        return stayed(_why_not(point, way))
    displacement = way.theta - theta
    distance = float(torch.linalg.vector_norm(displacement))
    predicted = predicted_decrease(problem, displacement)
    copies = problem.layout.copies()
    try:
        problem.write(way.theta)
        after = problem.value()
        noise = noise_of_loss(problem, problem.parameters(), after, seed=0)
    except BaseException:
        problem.layout.restore(copies)
        raise
    if not loss - after > 2 * max(point.loss_noise, noise):
        problem.layout.restore(copies)
        return stayed("the decrease did not survive rounding to the model's type")
    return Escape(
        moved=True,
        loss_before=loss,
        loss_after=after,
        predicted_decrease=predicted,
        direction=(displacement / distance).to(problem.layout.dtype),
        step=distance,
        along=len(way.steps) if way.bent else 0,
        outcome=way.told(),
        cost=problem.spent - before,
    )


def _why_not(point: Point, way: _Way) -> str:
    if way.interrupted:
        return "interrupted before a way out was found"
    if point.kind == Kind.MINIMUM:
        return (
            "this is a minimum: no small step lowers the loss; another start or another model may"
        )
    if point.kind == Kind.NOT_CRITICAL:
        return "not a critical point, nothing to escape from: going on along the negative gradient pays"
    return "no direction tried lowers the loss by more than its noise"


def _search(
    problem: Problem, point: Point, way: _Way, left: float, seed: int, tell: Progress
) -> None:
    """Follow what is known to lead down; where nothing is, take random finite steps."""
    if point.kind in (Kind.NOT_CRITICAL, Kind.MINIMUM):
        return
    start = problem.spent
    way.bent = bool((point.lowest_curvatures < -point.tau).any())
    directions = _ways_out(point, way.theta)
    for done, direction in enumerate(directions):
        tell("escape", done, len(directions))
        if way.steps and (problem.spent - start).gradients > left - 8:
            break
        known = done == 0 and point.escape_direction is not None
        if not (known and _go_as_measured(problem, way, direction, point)):
            _follow(problem, way, direction, point)
    tell("escape", 1, 1)
    if way.steps or point.escape_direction is not None:
        return
    affordable = max(1, min(PERTURBATIONS, int(left * 3 / 14)))
    others = random_directions(problem, affordable, seed=seed + 1)  # not those of classify
    found = scan_directions(problem, way.theta, way.loss, others, noise=point.loss_noise)
    if found is not None:
        direction, step, gain = found
        way.theta, way.loss, way.bent = way.theta + step * direction, way.loss - gain, False
        way.steps.append(step)


def _ways_out(point: Point, theta: Tensor) -> list[Tensor]:
    """The direction along which the loss was measured to fall, then the others of negative curvature."""
    known = [] if point.escape_direction is None else [point.escape_direction.to(theta)]
    negative = point.lowest_directions[
        :, (point.lowest_curvatures < -point.tau).to(point.lowest_directions.device)
    ]
    others = [v.to(theta) for v in negative.T]
    return known + [v for v in others if not known or abs(float(v @ known[0])) < 0.9]


def _go_as_measured(problem: Problem, way: _Way, v: Tensor, point: Point) -> bool:
    """Take the step that the verdict found, if the loss there is lower now too."""
    there = way.theta + point.escape_step * v
    loss = float(problem.values(there.unsqueeze(0))[0])
    if not way.loss - loss > 2 * point.loss_noise:
        return False
    way.theta, way.loss = there, loss
    way.steps.append(point.escape_step)
    return True


def _follow(problem: Problem, way: _Way, v: Tensor, point: Point) -> None:
    """Line search from where the way has got to; the first along both signs and all scales, later ones near it."""
    gradient = problem.gradients(way.theta.unsqueeze(0))[0]
    v = signed(v, gradient)
    found = search(
        problem,
        way.theta,
        way.loss,
        v,
        slope=float(gradient.double() @ v.double()),
        curvature=float(point.lowest_curvatures[0]) if way.bent else None,
        both=True,
        around=max(way.steps) if way.steps else None,
        noise=point.loss_noise,
    )
    if found.decrease > 2 * point.loss_noise:
        way.theta = way.theta + found.step * v
        way.loss = found.loss
        way.steps.append(abs(found.step))
