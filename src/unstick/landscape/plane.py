"""The loss over a line or a plane through a point, to look at.

Answers: what does the loss surface look like along one direction, or in the plane of two?
Does not answer: what the other directions hide.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

import torch
from torch import Tensor

from unstick.errors import BadData
from unstick.landscape.directions import Direction
from unstick.landscape.grid import Progress, measure_grid
from unstick.landscape.line import (
    Axis,
    Line,
    axis_of,
    distances_of,
    measured,
    notes_of,
    told_axis,
)
from unstick.problem.cost import NOTHING, Cost
from unstick.problem.problem import Problem
from unstick.record import Fact, Record, number

__all__ = ["Plane", "scan", "shaped", "unfolded"]

NAMES = ("first direction", "second direction")
AT_ONCE = 8  # points of a line measured together, and kept together
PARALLEL = 1e-6  # the length of what two unit vectors do not share, below which they span no plane
ALIKE = (
    1e-3  # a cosine below which the second direction's curvature is that of its perpendicular part
)


@dataclass(frozen=True, slots=True, eq=False)
class Plane(Record):
    """What was measured over a plane; axes are distances in parameter space from its center, along unit vectors."""

    x: Tensor  # [kx] float64 along the first direction
    y: Tensor  # [ky] float64 along the second, or the part of it that is orthogonal to the first
    losses: Tensor  # [ky, kx] float64; inf and nan stay, and nan where an interruption left nothing
    x_name: str
    y_name: str
    cosine: float  # between the two directions as given
    perpendicular: bool = True  # False: the axes meet at the cosine
    x_unit: float = (
        1.0  # lengths of the directions as given; x / x_unit is the coordinate relative to one
    )
    y_unit: float = 1.0
    accuracies: Tensor | None = None  # [ky, kx] float64
    gradient_norms: Tensor | None = None  # [ky, kx] float64
    curvatures: tuple[float, float] | None = None  # at the center along x and y: eigenvalues
    path: Tensor | None = None  # [k, 2] float64: a trajectory's projection on the plane, in order
    path_losses: Tensor | None = None  # [k] float64 of the trajectory itself, not of its projection
    explained: tuple[float, float] | None = (
        None  # shares of the trajectory's variance along x and y
    )
    notes: tuple[str, ...] = ()
    outcome: str = "complete"  # or "interrupted"
    cost: Cost = NOTHING

    def headline(self) -> str:
        """What was scanned."""
        ended = "" if self.outcome == "complete" else f" ({self.outcome})"
        return f"The loss over a plane: {len(self.x)} by {len(self.y)} points{ended}."

    def facts(self) -> list[Fact]:
        """Axes, what was measured, and what to know about it."""
        made = "made perpendicular" if self.perpendicular else "left so"
        facts: list[Fact] = [
            ("x", told_axis(self.x_name, self.x, self.x_unit)),
            ("y", told_axis(self.y_name, self.y, self.y_unit)),
            *measured(self.losses, self.accuracies, self.gradient_norms),
            ("cosine of the directions", f"{number(self.cosine)}, {made}"),
        ]
        if self.curvatures is not None:
            along = " and ".join(number(value) for value in self.curvatures)
            facts.append(("curvatures at the center", f"{along} along x and y"))
        if self.explained is not None:
            shares = " and ".join(f"{100 * share:.3g} %" for share in self.explained)
            facts.append(("variance of the trajectory", f"{shares} along x and y"))
        facts += [("note", note) for note in self.notes]
        return [*facts, ("outcome", self.outcome), ("cost", str(self.cost))]


@overload
def scan(
    problem: Problem,
    first: Tensor | Direction,
    second: None = None,
    *,
    x: Tensor | None = None,
    y: None = None,
    measures: Sequence[str] = ("loss",),
    perpendicular: None = None,
    store: str | Path | None = None,
    names: tuple[str, ...] | None = None,
    progress: Progress | None = None,
) -> Line: ...


@overload
def scan(
    problem: Problem,
    first: Tensor | Direction,
    second: Tensor | Direction,
    *,
    x: Tensor | None = None,
    y: Tensor | None = None,
    measures: Sequence[str] = ("loss",),
    perpendicular: bool | None = None,
    store: str | Path | None = None,
    names: tuple[str, ...] | None = None,
    progress: Progress | None = None,
) -> Plane: ...


def scan(
    problem: Problem,
    first: Tensor | Direction,
    second: Tensor | Direction | None = None,
    *,
    x: Tensor | None = None,
    y: Tensor | None = None,
    measures: Sequence[str] = ("loss",),
    perpendicular: bool | None = None,
    store: str | Path | None = None,
    names: tuple[str, ...] | None = None,
    progress: Progress | None = None,
) -> Line | Plane:
    """Measure at θ + x·d₁, or at θ + x·d₁ + y·d₂ for every pair of distances; the model stays where it is.

    Args:
        problem: What is minimized.
        first: Direction of x, [n], any non-zero length; normalized to d₁.
        second: Direction of y, [n], normalized to d₂; None for a line.
        x: Distances [kx]. None: 51, one length of a filter-normalized direction to both sides, or of another one as far
            as it takes the loss to change by half of itself.
        y: Distances [ky]; None: as for x.
        measures: Of "loss", "accuracy" and "gradient norm"; the loss is always measured.
        perpendicular: Whether d₂ is only the part of the second direction that is orthogonal to d₁. None: unless one of
            them is filter-normalized, as its parts would no longer have the parameters' lengths.
        store: A file to append every finished row to. Where it holds rows of the same scan, they are taken from it and
            not measured again; a line that was torn when the process was killed is dropped.
        names: What to call the axes; None: the directions' own names.
        progress: Called with (stage, rows done, rows) now and then, and at the end.

    Returns:
        A ``Line`` or a ``Plane``. On Ctrl-C the rows so far, the others nan, with outcome "interrupted". Nothing is
        smoothed, filled or cut.

    Raises:
        BadData: A direction has another shape, is zero, or the two are parallel; or the store holds another scan.
        BadModel: No classes to measure accuracy by, or the parameters are sharded.
        Unreadable: The store is another file.
        KeyboardInterrupt: Only before the first row is there.

    Cost:
        A third of a gradient a point for the loss, as much for accuracy, and a gradient for its norm.

    References:
        Goodfellow, Vinyals, Saxe (2015), Qualitatively characterizing neural network optimization problems.
        Li, Xu, Taylor, Studer, Goldstein (2018), Visualizing the loss landscape of neural nets.

    Example:
        >>> problem = Problem.from_function(lambda x: x[0] ** 2 - x[1] ** 2, torch.zeros(2))
        >>> at = torch.tensor([-1.0, 0.0, 1.0])
        >>> plane = scan(problem, torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), x=at, y=at)
        >>> plane.losses.tolist()
        [[0.0, -1.0, 0.0], [1.0, 0.0, 1.0], [0.0, -1.0, 0.0]]
        >>> scan(problem, torch.tensor([0.0, 5.0]), x=at).losses.tolist()
        [-1.0, 0.0, -1.0]
    """
    problem.require_whole("scan")
    wanted = 1 if second is None else 2
    if names is not None and len(names) < wanted:
        raise BadData(f"names is {names!r}; expected a name for each of {wanted} directions")
    one = axis_of(problem, first, _name(first, names, 0))
    if second is not None:
        two = axis_of(problem, second, _name(second, names, 1))
        oblique = one.relative or two.relative if perpendicular is None else not perpendicular
        return _plane(problem, one, two, oblique, (x, y), measures, store, progress)
    if y is not None:
        raise BadData("y is given without a second direction; expected x only, along a line")
    return _line(problem, one, x, measures, store, progress)


def unfolded(x: Tensor, y: Tensor) -> Sequence[Tensor]:
    """The coordinates [kx, 2] of every row of a grid."""
    return [torch.stack([x, height.expand(len(x))], dim=1) for height in y]


def _line(
    problem: Problem,
    axis: Axis,
    x: Tensor | None,
    measures: Sequence[str],
    store: str | Path | None,
    progress: Progress | None,
) -> Line:
    before = problem.spent
    at = distances_of(problem, axis, x, "x")
    grid = measure_grid(
        problem,
        problem.parameters(),
        axis.unit.unsqueeze(0),
        at.unsqueeze(1).split(AT_ONCE),
        measures=measures,
        stage="line",
        store=store,
        progress=progress,
    )
    return Line(
        x=at,
        losses=grid.losses,
        x_name=axis.name,
        x_unit=axis.length,
        accuracies=grid.accuracies,
        gradient_norms=grid.gradient_norms,
        curvature=axis.curvature,
        notes=notes_of(problem),
        outcome=grid.outcome,
        cost=problem.spent - before,
    )


def _plane(
    problem: Problem,
    one: Axis,
    two: Axis,
    oblique: bool,
    at: tuple[Tensor | None, Tensor | None],
    measures: Sequence[str],
    store: str | Path | None,
    progress: Progress | None,
) -> Plane:
    before = problem.spent
    cosine, across = _across(one, two)
    two = two if oblique else across
    x, y = distances_of(problem, one, at[0], "x"), distances_of(problem, two, at[1], "y")
    grid = measure_grid(
        problem,
        problem.parameters(),
        torch.stack([one.unit, two.unit]),
        unfolded(x, y),
        measures=measures,
        stage="plane",
        store=store,
        progress=progress,
    )
    curvatures = None
    if one.curvature is not None and two.curvature is not None:
        curvatures = (one.curvature, two.curvature)
    return Plane(
        x=x,
        y=y,
        losses=grid.losses.reshape(len(y), len(x)),
        x_name=one.name,
        y_name=two.name,
        cosine=cosine,
        perpendicular=not oblique,
        x_unit=one.length,
        y_unit=two.length,
        accuracies=shaped(grid.accuracies, x, y),
        gradient_norms=shaped(grid.gradient_norms, x, y),
        curvatures=curvatures,
        notes=notes_of(problem),
        outcome=grid.outcome,
        cost=problem.spent - before,
    )


def shaped(values: Tensor | None, x: Tensor, y: Tensor) -> Tensor | None:
    """What was measured at all points, row by row, as [ky, kx]."""
    return None if values is None else values.reshape(len(y), len(x))


def _across(one: Axis, two: Axis) -> tuple[float, Axis]:
    """The cosine of two axes, and the second one made orthogonal to the first.

    Raises:
        BadData: They are parallel.
    """
    cosine = float(one.unit.double() @ two.unit.double())
    across = two.unit - (one.unit @ two.unit) * one.unit
    length = torch.linalg.vector_norm(across)
    if float(length) < PARALLEL:
        raise BadData(
            f"{one.name} and {two.name} are parallel (cosine {cosine:.6g}); expected two that span a plane"
        )
    curvature = two.curvature if abs(cosine) < ALIKE else None
    return cosine, replace(two, unit=across / length, curvature=curvature)


def _name(direction: Tensor | Direction, names: tuple[str, ...] | None, at: int) -> str:
    if names is not None:
        return names[at]
    return direction.name if isinstance(direction, Direction) else NAMES[at]
