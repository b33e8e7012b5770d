"""How fast the loss rises around a point, by three measures.

Answers: the largest curvature, Keskar's largest rise within a small box, the largest rise under changes in proportion to
the parameters; and whether two points may be compared by them.
Does not answer: whether the model generalizes. Only points of the same training loss and the same parametrization compare:
``rescaling`` changes the first two measures as it likes, and not the function.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unstick.errors import BadData, BadModel, BudgetTooSmall, NonFinite, TooLittleMemory
from unstick.problem.cost import Cost
from unstick.problem.problem import Problem
from unstick.record import Fact, Record, number
from unstick.spectrum.ends import Ends, ends
from unstick.spectrum.interval import Interval

__all__ = ["Comparison", "Sharpness", "compare", "sharpness"]

Progress = Callable[[str, float, float], None]

CORNERS = 5  # steps to the corner that the gradient points at, after the search
ROUNDING = 1e-12  # losses that differ by less are equal


@dataclass(frozen=True, slots=True, eq=False)
class Sharpness(Record):
    """Three measures at one point; every rise is one that was found, so a lower bound on the largest."""

    loss: float
    lambda_max: Interval | None  # None: interrupted before
    epsilons: tuple[float, ...]
    phi: tuple[float | None, ...]  # Keskar's φ, percent of 1 + loss, one an ε; None: not reached
    best_start: tuple[str | None, ...]  # from where the search found it
    subspace: int | None  # dimension of the random subspace of φ; None: all parameters
    adaptive: float | None  # rise of the loss within ‖δ/θ‖ ≤ radius
    radius: float
    iterations: int
    n: int
    outcome: str  # "complete", "budget" or "interrupted": the best so far
    cost: Cost

    def headline(self) -> str:
        """The measures, as far as they were taken."""
        told = [f"{name} {number(value)}" for name, value in _measures(self)]
        ended = "" if self.outcome == "complete" else f" ({self.outcome}: as far as it got)"
        return f"Sharpness at loss {number(self.loss)}: {', '.join(told) or 'not measured'}{ended}."

    def facts(self) -> list[Fact]:
        """Each measure with what it is worth, and the warning."""
        where = "all parameters" if self.subspace is None else f"{self.subspace} random directions"
        searched = f"a lower bound, from {self.iterations} iterations a start"
        boxes = [
            (f"φ, ε = {number(epsilon)}", f"{_percent(phi)} ({searched}; box over {where})")
            for epsilon, phi in zip(self.epsilons, self.phi, strict=True)
        ]
        return [
            ("λ max", "not measured" if self.lambda_max is None else str(self.lambda_max)),
            *boxes,
            ("adaptive", f"{number(self.adaptive)} within ‖δ/θ‖ ≤ {number(self.radius)} (a lower bound)"),
            ("comparable with", "a point of the same training loss and parametrization, no other: rescaling two layers "
             "changes λ max and φ but not the function"),
            ("outcome", self.outcome),
            ("cost", str(self.cost)),
        ]  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Comparison(Record):
    """Two points beside one another: which is sharper, or why that cannot be said."""

    losses: tuple[float, float]
    measures: tuple[str, ...]  # those that both have
    ratios: tuple[float, ...]  # the second's over the first's, one a measure
    tolerance: float
    margin: float
    outcome: str  # "first", "second" (is sharper), "equal", "disagree", "different losses" or "different settings"

    def headline(self) -> str:
        """The verdict."""
        match self.outcome:
            case "different losses":
                return (
                    f"Not comparable: the losses are {number(self.losses[0])} and {number(self.losses[1])}; compare at equal "
                    f"training loss (within {100 * self.tolerance:g} %)."
                )
            case "different settings":
                return "Not comparable: the two were not measured with the same settings."
            case "first" | "second":
                return f"The {self.outcome} is sharper by every measure taken."
            case "equal":
                return f"Equally sharp within {100 * self.margin:g} %."
            case _:
                return "The measures disagree on which is sharper."

    def facts(self) -> list[Fact]:
        """Losses and ratios."""
        ratios = zip(self.measures, self.ratios, strict=True)
        return [
            ("losses", f"{number(self.losses[0])} and {number(self.losses[1])}"),
            *((name, f"the second's is {number(ratio)} times the first's") for name, ratio in ratios),
            ("means", "nothing where the parametrizations differ; not that the flatter one generalizes better"),
        ]  # fmt: skip


def sharpness(
    problem: Problem,
    *,
    epsilons: Sequence[float] = (1e-3, 5e-4),
    subspace: int | None = None,
    iterations: int = 10,
    starts: int = 1,
    adaptive: bool = True,
    radius: float = 0.5,
    budget: float = 300,
    seed: int = 0,
    progress: Progress | None = None,
) -> Sharpness:
    """Measure λ_max, Keskar's φ and adaptive sharpness at the model's parameters; the model stays where it is.

    φ = 100·(max f(θ + Az) − f(θ)) / (1 + f(θ)) over the box |z_i| ≤ ε(|(A⁺θ)_i| + 1). L-BFGS-B climbs in coordinates that
    make the box a cube, with the loss scaled so that its mean slope at the start is 1: at a minimum the slope is so small
    that it would not move otherwise. It starts from the top eigenvector, as long as the box allows, and from seeded uniform
    points of the box, never from the center, where the gradient vanishes; then it walks from the best point to the corners
    that the gradient points at. Adaptive sharpness is the largest rise over δ = |θ| ∘ u with ‖u‖ ≤ ``radius``: from seeded
    directions u, each step goes where the slope is largest on the sphere.

    Args:
        problem: What is minimized.
        epsilons: Sizes of the box.
        subspace: Search the span of so many random unit directions A [n, p] instead of all parameters; Keskar took 100.
        iterations: Of L-BFGS-B from each start, and steps of adaptive sharpness.
        starts: Random starts of each search.
        adaptive: Measure adaptive sharpness as well.
        radius: Of adaptive sharpness, in units of each parameter's own size.
        budget: Most work, in full-data gradients; at most half of it goes to λ_max.
        seed: Seed of the random starts and directions.
        progress: Called with (stage, done, total).

    Returns:
        λ_max with its interval; of the others, the largest rise that was found. More iterations may find more.

    Raises:
        BadData: Arguments out of range.
        BadModel: The parameters are sharded.
        BudgetTooSmall: The budget does not pay for five Hessian products.
        NonFinite: The loss is inf or nan within a box or radius.
        TooLittleMemory: The random directions take more than ``problem.memory``.
        KeyboardInterrupt: Only before the first product; later the outcome is "interrupted".

    Cost:
        Tens of Hessian products, and about (iterations + 2)·(starts + 1) + 5 gradients an ε.

    References:
        Keskar et al. (2017), On large-batch training for deep learning, metric 2.1.
        Kwon et al. (2021), ASAM; Andriushchenko et al. (2023), A modern look at the relationship between sharpness and
        generalization.

    Example:
        >>> problem = Problem.from_function(lambda x: (x**2).sum(), torch.zeros(1))
        >>> found = sharpness(problem)
        >>> found.lambda_max.value, [round(phi, 9) for phi in found.phi]
        (2.0, [0.0001, 2.5e-05])
    """
    _check(problem, epsilons, subspace, iterations, starts, radius)
    loss = _Loss(problem, budget)
    here, _ = loss(loss.theta)
    if here <= -1:
        raise BadModel(f"the loss is {here:g}; φ divides by 1 + loss and expects one above −1")
    generator = torch.Generator().manual_seed(seed)
    tell = progress or (lambda _stage, _done, _total: None)
    found: Ends | None = None
    boxes: list[_Search] = []
    ball: _Search | None = None
    outcome = "complete"
    try:
        found = _largest(loss, generator, tell)
        if found.outcome == "interrupted":
            raise KeyboardInterrupt
        A = _directions(problem, subspace, generator)
        for epsilon in epsilons:
            tell("sharpness", len(boxes), len(epsilons) + adaptive)
            boxes.append(_box(loss, here, epsilon, A))
            _climb(boxes[-1], found.highest.vectors[:, 0], iterations, starts, generator)
        if adaptive:
            tell("sharpness", len(epsilons), len(epsilons) + 1)
            ball = _Search(loss, here, loss.theta.abs() * radius, None)
            _go_round(ball, iterations, starts, generator)
    except _SpentError:
        outcome = "budget"
    except KeyboardInterrupt:
        if found is None:
            raise
        outcome = "interrupted"
    missing = (None,) * (len(epsilons) - len(boxes))
    return Sharpness(
        loss=here,
        lambda_max=None if found is None else found.lambda_max,
        epsilons=tuple(epsilons),
        phi=(*(box.phi for box in boxes), *missing),
        best_start=(*(box.best_start for box in boxes), *missing),
        subspace=subspace,
        adaptive=None if ball is None or ball.best is None else ball.best - here,
        radius=radius,
        iterations=iterations,
        n=problem.n,
        outcome=outcome,
        cost=problem.spent - loss.before,
    )


def compare(
    first: Sharpness, second: Sharpness, *, tolerance: float = 0.1, margin: float = 0.05
) -> Comparison:
    """Say which of two points is sharper, where that can be said.

    Args:
        first: One.
        second: The other, measured with the same settings.
        tolerance: Losses further apart than this share of the larger one are not comparable: the curvature of a
            cross-entropy falls with the loss itself, so training longer flattens by as much.
        margin: Measures within this share of one another count as equal; a search finds the same rise to a few percent.

    Returns:
        A verdict only where every measure that both have agrees.

    Example:
        >>> wide, steep = (Problem.from_function(lambda x, a=a: a * (x**2).sum(), torch.zeros(2)) for a in (1, 9))
        >>> compare(sharpness(wide), sharpness(steep)).headline()
        'The second is sharper by every measure taken.'
    """
    apart = abs(first.loss - second.loss)
    measured = dict(_measures(second))
    both = [(name, value, measured[name]) for name, value in _measures(first) if name in measured]
    both = [(name, one, other) for name, one, other in both if max(one, other) > ROUNDING]
    ratios = [other / one if one else math.inf for _, one, other in both]
    sides = {0 if abs(r - 1) <= margin else (1 if r > 1 else -1) for r in ratios}
    if _settings(first) != _settings(second):
        outcome = "different settings"
    elif apart > max(tolerance * max(abs(first.loss), abs(second.loss)), ROUNDING):
        outcome = "different losses"
    elif sides <= {0}:
        outcome = "equal"
    else:
        outcome = "second" if sides == {1} else "first" if sides == {-1} else "disagree"
    return Comparison(
        losses=(first.loss, second.loss),
        measures=tuple(name for name, _, _ in both),
        ratios=tuple(ratios),
        tolerance=tolerance,
        margin=margin,
        outcome=outcome,
    )


class _SpentError(Exception):
    """The budget is used up; caught where the searches were started."""


class _Loss:
    """The loss and its gradient at any parameters, until the budget is used up."""

    def __init__(self, problem: Problem, budget: float) -> None:
        self.problem, self.budget, self.before = problem, budget, problem.spent
        self.theta = problem.parameters()
        self._evaluation = problem.require_whole("sharpness")

    @property
    def left(self) -> float:
        """Gradients that may still be spent."""
        return self.budget - (self.problem.spent - self.before).gradients

    def __call__(self, theta: Tensor) -> tuple[float, Tensor]:
        """Both at θ [n], as float64."""
        if self.left < 1:
            raise _SpentError
        loss, gradient = self._evaluation.value_and_gradient(theta)
        if not math.isfinite(loss) or not bool(torch.isfinite(gradient).all()):
            raise NonFinite(
                f"the loss is {loss} near the parameters, or its gradient is not finite; expected finite ones in the whole "
                "neighborhood: take smaller epsilons, or a smaller radius"
            )
        return loss, gradient.double()


class _Search:
    """The loss at θ + A(widths ∘ u), and the largest that was seen.

    Args:
        loss: The loss.
        here: The loss at u = 0, in the set.
        widths: [p], what u_i = 1 stands for.
        A: Directions [n, p]; None: the parameters themselves.
    """

    def __init__(self, loss: _Loss, here: float, widths: Tensor, A: Tensor | None) -> None:
        self.widths, self._loss, self._here, self._A = widths.double(), loss, here, A
        self.best: float | None = None  # nothing was looked at yet
        self.best_start: str | None = None
        self.best_point = torch.zeros_like(self.widths)

    @property
    def phi(self) -> float | None:
        """The largest rise seen, as Keskar measures it."""
        return None if self.best is None else 100 * (self.best - self._here) / (1 + self._here)

    def back(self, vector: Tensor) -> Tensor:
        """A vector [n] of the parameters' space, such as a gradient, as u sees it: widths ∘ Aᵀ vector."""
        along = vector if self._A is None else self._A.T @ vector.to(self._A)
        return self.widths * along.to(self.widths)

    def slope(self, u: Tensor, start: str) -> tuple[float, Tensor]:
        """The loss at u and its gradient there, [p]; remembered where it is the largest so far."""
        step = (self.widths * u).to(self._loss.theta)
        value, gradient = self._loss(
            self._loss.theta + (step if self._A is None else self._A @ step)
        )
        if self.best is None:
            self.best, self.best_start = self._here, "center"
        if value > self.best:
            self.best, self.best_start, self.best_point = value, start, u.clone()
        return value, self.back(gradient)


def _box(loss: _Loss, here: float, epsilon: float, A: Tensor | None) -> _Search:
    """Keskar's box around θ."""
    inside = loss.theta if A is None else torch.linalg.lstsq(A, loss.theta.unsqueeze(1))[0][:, 0]
    return _Search(loss, here, epsilon * (inside.abs() + 1), A)


def _climb(
    box: _Search, top: Tensor, iterations: int, starts: int, generator: torch.Generator
) -> None:
    """L-BFGS-B from every start, then corners from the best point."""
    along = box.back(top) / box.widths.square()  # Aᵀv in units of u
    points = {"top eigenvector": along / along.abs().max()}
    for k in range(starts):
        uniform = torch.rand(len(along), generator=generator, dtype=torch.float64)
        points[f"random {k + 1}"] = (2 * uniform - 1).to(along)
    for name, u in points.items():
        _lbfgs(box, u, iterations, name)
    start, u = box.best_start or "center", box.best_point
    for _ in range(CORNERS):
        u, last = box.slope(u, start)[1].sign(), u
        if torch.equal(u, last):
            break


def _lbfgs(box: _Search, u: Tensor, iterations: int, start: str) -> None:
    """SciPy's L-BFGS-B for the largest loss in the cube."""
    from scipy.optimize import minimize  # slow to import

    here, slope = box.slope(u, start)
    scale = float(slope.abs().mean())
    if scale == 0:
        return

    def down(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        value, slope = box.slope(torch.from_numpy(x.copy()).to(u), start)
        return (here - value) / scale, (-slope / scale).cpu().numpy()

    # no tolerance ends it: rises are tiny beside the loss
    options = {"maxiter": iterations, "ftol": 0.0, "gtol": 0.0}
    bounds = np.tile([-1.0, 1.0], (len(u), 1))
    search = cast("Any", minimize)
    search(down, u.cpu().numpy(), jac=True, method="L-BFGS-B", bounds=bounds, options=options)


def _go_round(ball: _Search, iterations: int, starts: int, generator: torch.Generator) -> None:
    """Steps over the unit sphere of u, each to where the slope points, from random points of it."""
    for k in range(starts):
        u = torch.randn(len(ball.widths), generator=generator, dtype=torch.float64)
        u = (u / u.norm()).to(ball.widths)
        for _ in range(iterations):
            slope = ball.slope(u, f"random {k + 1}")[1]
            length = torch.linalg.vector_norm(slope)
            if float(length) == 0:
                break
            u = slope / length
        else:
            ball.slope(u, f"random {k + 1}")


def _largest(
    loss: _Loss, generator: torch.Generator, tell: Callable[[str, float, float], None]
) -> Ends:
    """The largest eigenvalue of the Hessian at the parameters, for at most half of the budget."""
    operator = loss.problem.hessian()
    products = int((loss.budget / 2 - operator.setup_price) / operator.product_price)
    if products < min(5, operator.dim):
        raise BudgetTooSmall(
            f"budget={loss.budget:g} gradients: half of it pays for {max(0, products)} Hessian products; expected at least "
            f"{min(5, operator.dim)}: raise the budget"
        )
    return ends(
        operator,
        generator=generator,
        lowest=0,
        tolerance=1e-3,
        max_products=products,
        progress=lambda done, total: tell("largest eigenvalue", done, total),
    )


def _directions(problem: Problem, count: int | None, generator: torch.Generator) -> Tensor | None:
    """Seeded random unit directions [n, p]."""
    if count is None:
        return None
    size = problem.n * count * problem.dtype.itemsize
    if size > problem.memory:
        raise TooLittleMemory(
            f"{count} random directions take {size / 2**30:.1f} GiB; expected at most {problem.memory / 2**30:.1f} GiB: take "
            "fewer, or give the problem more memory"
        )
    columns = [
        torch.randn(problem.n, generator=generator, dtype=torch.float64) for _ in range(count)
    ]
    A = torch.stack([column / column.norm() for column in columns], dim=1)
    return A.to(problem.device, problem.dtype)


def _percent(phi: float | None) -> str:
    return number(phi) + ("" if phi is None else " %")


def _measures(of: Sharpness) -> list[tuple[str, float]]:
    """Name and number of each measure taken; curvature below zero is no sharpness."""
    known = [] if of.lambda_max is None else [("λ max", max(0.0, of.lambda_max.value))]
    boxes = zip(of.epsilons, of.phi, strict=True)
    known += [(f"φ({number(epsilon)})", phi) for epsilon, phi in boxes if phi is not None]
    return known + ([] if of.adaptive is None else [("adaptive", of.adaptive)])


def _settings(of: Sharpness) -> tuple[object, ...]:
    return of.epsilons, of.subspace, of.radius, of.iterations, of.n


def _check(
    problem: Problem,
    epsilons: Sequence[float],
    subspace: int | None,
    iterations: int,
    starts: int,
    radius: float,
) -> None:
    if not epsilons or not all(0 < epsilon < math.inf for epsilon in epsilons):
        raise BadData(f"epsilons are {tuple(epsilons)}; expected finite numbers > 0, at least one")
    if subspace is not None and not 1 <= subspace <= problem.n:
        raise BadData(f"subspace={subspace}; expected 1 to the {problem.n} parameters, or None")
    if iterations < 1 or starts < 1:
        raise BadData(f"iterations={iterations}, starts={starts}; expected at least 1 of each")
    if not 0 < radius < math.inf:
        raise BadData(f"radius is {radius}; expected a finite number > 0")
