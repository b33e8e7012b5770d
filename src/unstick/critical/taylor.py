"""The second-order Taylor model along a line, beside the loss measured there.

Answers: how much decrease do slope and curvature predict along a direction, and how much is there?
Does not answer: which direction to take.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from unstick.critical.probing import losses_along
from unstick.errors import BadData
from unstick.problem.problem import Problem
from unstick.record import Fact, Record, number

__all__ = ["Profile", "predicted_decrease", "profile"]


@dataclass(frozen=True, slots=True, eq=False)
class Profile(Record):
    """The loss along one direction, measured, beside what the Taylor model predicts."""

    name: str
    steps: Tensor  # [k] float64 ascending, distance in parameter space along the unit direction; holds 0
    losses: Tensor  # [k] float64 measured; inf and nan stay
    predicted: Tensor  # [k] loss + t·gᵀd + ½ t²·dᵀHd
    slope: float  # gᵀd
    curvature: float  # dᵀHd
    best_step: float  # where the lowest loss was measured

    def headline(self) -> str:
        """Where the lowest loss along the line is."""
        best = self.losses[torch.isfinite(self.losses)].min()
        return f"Along the {self.name} the loss is lowest, {number(float(best))}, at distance {number(self.best_step)}."

    def facts(self) -> list[Fact]:
        """Slope, curvature and how far the model holds."""
        at = int((self.steps - self.best_step).abs().argmin())
        here = float(self.losses[int(self.steps.abs().argmin())])
        return [
            ("slope", number(self.slope)),
            ("curvature", number(self.curvature)),
            ("predicted decrease", number(here - float(self.predicted[at]))),
            ("measured decrease", number(here - float(self.losses[at]))),
        ]


def predicted_decrease(
    problem: Problem, displacement: Tensor, *, gradient: Tensor | None = None
) -> float:
    """The decrease that the Taylor model predicts for a displacement s: −(gᵀs + ½ sᵀHs).

    Args:
        problem: What is minimized, at the point of expansion.
        displacement: Shape [n].
        gradient: At this point, if you have it.

    Cost:
        One Hessian product, and one gradient unless given.

    Example:
        >>> problem = Problem.from_function(lambda x: (x**2).sum(), torch.tensor([1.0, 0.0]))
        >>> predicted_decrease(problem, torch.tensor([-1.0, 0.0]))
        1.0
    """
    s = _vector(problem, displacement)
    g = problem.gradient() if gradient is None else gradient
    product = problem.hessian().matvec(s).double()
    return -float(g.double() @ s.double() + 0.5 * (s.double() @ product))


def profile(
    problem: Problem,
    direction: Tensor,
    *,
    steps: Tensor,
    name: str = "direction",
    gradient: Tensor | None = None,
) -> Profile:
    """Measure the loss along a direction and compare it with the Taylor model.

    Args:
        problem: What is minimized, at the point of expansion.
        direction: Shape [n], any non-zero length; normalized.
        steps: Distances [k]; 0 is added.
        name: What to call the direction.
        gradient: At this point, if you have it.

    Raises:
        BadData: The direction is zero or has another shape.

    Cost:
        k thirds of a gradient, one Hessian product, and one gradient unless given.

    Example:
        >>> problem = Problem.from_function(lambda x: x[0] ** 2 - x[1] ** 2, torch.zeros(2))
        >>> line = profile(problem, torch.tensor([0.0, 3.0]), steps=torch.tensor([-1.0, 1.0]))
        >>> line.curvature, line.losses.tolist(), line.predicted.tolist()
        (-2.0, [-1.0, 0.0, -1.0], [-1.0, 0.0, -1.0])
    """
    d = _vector(problem, direction)
    length = torch.linalg.vector_norm(d)
    if float(length) == 0 or not torch.isfinite(length):
        raise BadData(f"the direction has length {float(length)}; expected a finite one above 0")
    d = d / length
    g = problem.gradient() if gradient is None else gradient
    slope = float(g.double() @ d.double())
    curvature = float(d.double() @ problem.hessian().matvec(d).double())
    at = torch.cat([steps.double().cpu(), torch.zeros(1, dtype=torch.float64)]).unique()
    losses = losses_along(problem, problem.parameters(), d, at)
    here = float(losses[at == 0])
    best = torch.where(torch.isfinite(losses), losses, torch.inf).argmin()
    return Profile(
        name=name,
        steps=at,
        losses=losses,
        predicted=here + slope * at + 0.5 * curvature * at**2,
        slope=slope,
        curvature=curvature,
        best_step=float(at[best]),
    )


def _vector(problem: Problem, direction: Tensor) -> Tensor:
    if direction.shape != (problem.n,):
        raise BadData(f"the direction has shape {list(direction.shape)}; expected [{problem.n}]")
    return direction.to(problem.device, problem.dtype)
