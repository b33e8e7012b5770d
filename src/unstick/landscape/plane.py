"""The loss over a plane through a point, to look at.

Answers: what does the loss surface look like in the plane of two directions?
Does not answer: what the other n − 2 directions hide.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from unstick.errors import BadData
from unstick.problem.problem import Problem
from unstick.record import Fact, Record, number

__all__ = ["Plane", "scan"]

TOGETHER = 2**26  # numbers in a block of displaced parameter vectors


@dataclass(frozen=True, slots=True, eq=False)
class Plane(Record):
    """Losses over a plane; axes are distances in parameter space from the model's parameters."""

    x: Tensor  # [kx] float64 along the first direction
    y: Tensor  # [ky] float64 along the part of the second that is orthogonal to the first
    losses: Tensor  # [ky, kx] float64; inf and nan stay
    x_name: str
    y_name: str
    cosine: float  # between the two directions as given

    def headline(self) -> str:
        """What was scanned."""
        return f"The loss over a plane: {len(self.x)} by {len(self.y)} points."

    def facts(self) -> list[Fact]:
        """Axes and the range of losses."""
        finite = self.losses[torch.isfinite(self.losses)]
        return [
            ("x", f"{self.x_name}, {number(float(self.x[0]))} to {number(float(self.x[-1]))}"),
            ("y", f"{self.y_name}, {number(float(self.y[0]))} to {number(float(self.y[-1]))}"),
            ("losses", f"{number(float(finite.min()))} to {number(float(finite.max()))}"),
            ("not finite", f"{self.losses.numel() - finite.numel()} points"),
            ("cosine of the directions", number(self.cosine)),
        ]


def scan(
    problem: Problem,
    first: Tensor,
    second: Tensor,
    *,
    x: Tensor,
    y: Tensor,
    names: tuple[str, str] = ("first direction", "second direction"),
    progress: Callable[[str, float, float], None] | None = None,
) -> Plane:
    """Evaluate the loss at θ + x·d₁ + y·d₂ for every pair of distances; the model stays where it is.

    Args:
        problem: What is minimized.
        first: Direction of x, [n], any non-zero length; normalized to d₁.
        second: Direction of y, [n]; d₂ is its part orthogonal to d₁, normalized.
        x: Distances [kx].
        y: Distances [ky].
        names: What to call the axes.
        progress: Called with (stage, done, total) after every row.

    Raises:
        BadData: A direction has another shape, is zero, or the two are parallel.

    Cost:
        kx·ky thirds of a gradient.

    Example:
        >>> problem = Problem.from_function(lambda x: x[0] ** 2 - x[1] ** 2, torch.zeros(2))
        >>> at = torch.tensor([-1.0, 0.0, 1.0])
        >>> plane = scan(problem, torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), x=at, y=at)
        >>> plane.losses.tolist()
        [[0.0, -1.0, 0.0], [1.0, 0.0, 1.0], [0.0, -1.0, 0.0]]
    """
    problem.require_whole("scan")
    one, two = (_unit(problem, d, name) for d, name in zip((first, second), names, strict=True))
    cosine = float(one.double() @ two.double())
    across = two - (one @ two) * one
    length = torch.linalg.vector_norm(across)
    if float(length) < 1e-6:
        raise BadData(
            f"{names[0]} and {names[1]} are parallel (cosine {cosine:.6g}); expected two that span a plane"
        )
    across = across / length
    theta = problem.parameters()
    columns = x.to(theta).unsqueeze(1) * one
    width = max(1, TOGETHER // problem.n)
    rows: list[Tensor] = []
    for done, height in enumerate(y.to(theta)):
        if progress is not None:
            progress("plane", done, len(y))
        points = (part + theta + height * across for part in columns.split(width))
        rows.append(torch.cat([problem.values(part) for part in points]))
    return Plane(x.double().cpu(), y.double().cpu(), torch.stack(rows), names[0], names[1], cosine)


def _unit(problem: Problem, direction: Tensor, name: str) -> Tensor:
    if direction.shape != (problem.n,):
        raise BadData(f"{name} has shape {list(direction.shape)}; expected [{problem.n}]")
    vector = direction.to(problem.device, problem.dtype)
    length = torch.linalg.vector_norm(vector)
    if float(length) == 0 or not torch.isfinite(length):
        raise BadData(f"{name} has length {float(length)}; expected a finite one above 0")
    return vector / length
