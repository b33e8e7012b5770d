"""The loss along a line through a point, and the axes that lines and planes are made of.

Answers: what does the loss do along one direction, and how far is it worth looking?
Does not answer: what the other n − 1 directions hide.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unstick.errors import BadData
from unstick.landscape.directions import Direction
from unstick.problem.cost import NOTHING, Cost
from unstick.problem.problem import Problem
from unstick.record import Fact, Record, number

__all__ = [
    "Axis",
    "Line",
    "axis_of",
    "distances_of",
    "measured",
    "notes_of",
    "ranged",
    "told_axis",
]

POINTS = 51  # of an axis, where none are given
VISIBLE = 0.5  # a picture of an axis without a natural unit ends where the loss has changed by this part of itself
PROBES = 10.0 ** torch.linspace(-4, 1, 21, dtype=torch.float64)
"""Distances at which that is looked for, in units of max(1, ‖θ‖)."""


@dataclass(frozen=True, slots=True, eq=False)
class Line(Record):
    """What was measured along one direction; distances in parameter space from the model's parameters."""

    x: Tensor  # [k] float64 along the unit direction
    losses: Tensor  # [k] float64; inf and nan stay, and nan where an interruption left nothing
    x_name: str
    x_unit: float = (
        1.0  # length of the direction as given; x / x_unit are coordinates relative to it
    )
    accuracies: Tensor | None = None  # [k] float64
    gradient_norms: Tensor | None = None  # [k] float64
    curvature: float | None = None  # at 0 along the direction, where it is known
    notes: tuple[str, ...] = ()
    outcome: str = "complete"  # or "interrupted"
    cost: Cost = NOTHING

    def headline(self) -> str:
        """What was measured."""
        ended = "" if self.outcome == "complete" else f" ({self.outcome})"
        return f"The loss along the {self.x_name}: {len(self.x)} points{ended}."

    def facts(self) -> list[Fact]:
        """The axis, what was measured, and the price."""
        facts: list[Fact] = [("x", told_axis(self.x_name, self.x, self.x_unit))]
        facts += measured(self.losses, self.accuracies, self.gradient_norms)
        if self.curvature is not None:
            facts.append(("curvature at the center", number(self.curvature)))
        facts += [("note", note) for note in self.notes]
        return [*facts, ("outcome", self.outcome), ("cost", str(self.cost))]


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """A direction made a unit vector, and what is known about it."""

    name: str
    unit: Tensor  # [n] of length 1
    length: float  # before
    relative: bool  # whether that length is the natural unit of a picture
    curvature: float | None


def axis_of(problem: Problem, direction: Tensor | Direction, name: str) -> Axis:
    """The axis along a direction of any length.

    Raises:
        BadData: Another shape, or no finite length above 0.
    """
    given = direction.vector if isinstance(direction, Direction) else direction
    if given.shape != (problem.n,):
        raise BadData(f"{name} has shape {list(given.shape)}; expected [{problem.n}]")
    vector = given.to(problem.device, problem.dtype)
    length = torch.linalg.vector_norm(vector)
    if float(length) == 0 or not torch.isfinite(length):
        raise BadData(f"{name} has length {float(length)}; expected a finite one above 0")
    unit, own = vector / length, float(torch.linalg.vector_norm(vector.double()))
    if isinstance(direction, Direction):
        return Axis(name, unit, own, direction.relative, direction.curvature)
    return Axis(name, unit, own, relative=False, curvature=None)


def distances_of(problem: Problem, axis: Axis, given: Tensor | None, letter: str) -> Tensor:
    """The distances to measure at, float64 on the CPU: as given, or a span on which there is something to see.

    That is one unit to both sides of a direction with a natural unit, and of another one as far as it takes the loss to
    change by half of itself.

    Raises:
        BadData: The distances given are no finite [k].

    Cost:
        Where the direction has no unit, and no distances were given, 14 gradients.
    """
    if given is not None:
        if given.ndim != 1 or len(given) == 0 or not bool(torch.isfinite(given).all()):
            raise BadData(f"{letter} has shape {list(given.shape)}; expected finite distances [k]")
        return given.detach().double().cpu()
    reach = axis.length if axis.relative else _reach(problem, axis.unit)
    return torch.linspace(-reach, reach, POINTS, dtype=torch.float64)


def _reach(problem: Problem, unit: Tensor) -> float:
    theta, loss = problem.parameters(), problem.value()
    steps = PROBES * max(1.0, float(torch.linalg.vector_norm(theta)))
    for step in steps.tolist():
        there = problem.values(torch.stack([theta - step * unit, theta + step * unit]))
        changed = (there - loss).abs() >= VISIBLE * (abs(loss) or 1.0)
        if bool(changed.any()) or not bool(torch.isfinite(there).all()):
            return step
    return float(steps[-1])


def notes_of(problem: Problem) -> tuple[str, ...]:
    """What a reader of a picture around the model's parameters has to know about the model's buffers."""
    kept = any(name.endswith("running_mean") for name, _ in problem.model.named_buffers())
    if not kept or problem.require_whole("scan").training:
        return ()
    return ("the running statistics of batch normalization stay as the model has them",)


def told_axis(name: str, at: Tensor, unit: float) -> str:
    """An axis in words: its name, its ends, and the length of the direction as given."""
    told = f"{name}, {ranged(at)}"
    return (
        told if abs(unit - 1) < 1e-6 else f"{told} (the direction's own length is {number(unit)})"
    )


def measured(
    losses: Tensor, accuracies: Tensor | None, gradient_norms: Tensor | None
) -> list[Fact]:
    """The ranges of what was measured, and how many losses are not finite."""
    facts: list[Fact] = [("losses", ranged(losses))]
    if accuracies is not None:
        facts.append(("accuracies", ranged(accuracies)))
    if gradient_norms is not None:
        facts.append(("gradient norms", ranged(gradient_norms)))
    missing = int((~torch.isfinite(losses)).sum())
    return [*facts, ("not finite", f"{missing} points")]


def ranged(values: Tensor | Sequence[float]) -> str:
    """From the lowest finite value to the highest."""
    given = torch.as_tensor(values, dtype=torch.float64)
    finite = given[torch.isfinite(given)]
    if not len(finite):
        return "none finite"
    return f"{number(float(finite.min()))} to {number(float(finite.max()))}"
