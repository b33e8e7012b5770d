"""Three ways to walk down the gradient's norm to a point where it is zero.

Answers: where do Levenberg-Marquardt, Newton-MR and L-BFGS on ½‖∇L‖² end from a given start, and why there?
Does not answer: whether that is a critical point; ``finding`` judges.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unstick.problem.problem import Problem
from unstick.spectrum.least_squares import minimum_residual

__all__ = ["Walk", "gradient_norm", "levenberg_marquardt", "newton_mr", "walks_from"]

DAMPING = 1e-2  # μ at first; damping adds to the squares of eigenvalues
MORE, LESS = (
    4.0,
    5.0,
)  # μ is multiplied by the first on a reject, divided by the second on an accept
CREEP = (
    20,
    1e-6,
)  # so many accepted steps that together lower ‖g‖² by less than this part: stalled
TOGETHER = 2**27  # numbers in the Hessians of all starts that are worked on at once, 1 GB

STEP, SHRINK, SUFFICIENT = 0.1, 0.5, 1e-4  # α, β, ρ of the line search: autocrit's
CONDITION = 1e-7  # |λ| below this part of ‖H‖ gets no part of a step: autocrit's acondlim
SOLVED = 1e-10  # relative residual of the inner solve: autocrit's rtol
LONGEST = 10.0  # a step, in units of max(1, ‖θ‖): further out the model behind it means nothing

Done = Callable[[int, "Walk"], None]
"""Called with the number of a start and its walk when that ends."""


@dataclass(slots=True)
class Walk:
    """One start on its way."""

    theta: Tensor  # [n]
    losses: list[float]  # at the start and after each accepted step
    squares: list[float]  # ‖g‖² there
    ended: str = ""  # "converged", "stalled", "steps", "budget" or "interrupted"
    steps: int = 0  # tried

    def take(self, theta: Tensor, loss: float, square: float) -> None:
        """Accept a step; too many that gain next to nothing end the walk."""
        self.theta = theta
        self.losses.append(loss)
        self.squares.append(square)
        count, part = CREEP
        if len(self.squares) > count and square > (1 - part) * self.squares[-1 - count]:
            self.ended = "stalled"


def walks_from(problem: Problem, starts: Tensor) -> list[Walk]:
    """Walks that stand at their starts. Cost: 4/3 gradients for each."""
    losses = problem.values(starts).tolist()
    squares = _squares(problem.gradients(starts)).tolist()
    rows = zip(starts, losses, squares, strict=True)
    return [Walk(theta.clone(), [loss], [square]) for theta, loss, square in rows]


def rounding(norm: float, theta: Tensor) -> float:
    """‖g‖² that a change of θ in its last digit makes: nothing below it is worth a step."""
    size = max(1.0, float(torch.linalg.vector_norm(theta.double())))
    return (torch.finfo(theta.dtype).eps * norm * size) ** 2


def levenberg_marquardt(
    problem: Problem,
    walks: list[Walk],
    *,
    steps: int,
    spent: Callable[[], bool],
    done: Done,
    tell: Callable[[int], None],
) -> None:
    """Walk all starts together: p = −V (λ c / (λ² + μ)) with g = V c, by dense Hessians.

    A rejected step needs no new Hessian: only μ grows. Starts whose walk has ended leave the batch.

    Args:
        problem: What is minimized.
        walks: Where each start stands; moved on in place.
        steps: Most steps tried for each.
        spent: Whether the budget is used up.
        done: Called when a walk ends.
        tell: Called with the number of walks that have ended.

    References:
        Moré (1978), The Levenberg-Marquardt algorithm: implementation and theory.
    """
    width = max(1, TOGETHER // problem.n**2)
    for first in range(0, len(walks), width):
        _Batch(problem, walks, range(first, min(first + width, len(walks)))).run(
            steps, spent, done, tell
        )


class _Batch:
    """Starts that are walked together, each with its gradient, eigenpairs and damping."""

    def __init__(self, problem: Problem, walks: list[Walk], members: range) -> None:
        self.problem, self.walks = problem, walks
        self.live = list(members)
        thetas = torch.stack([walks[i].theta for i in members])
        self.gradient = dict(zip(members, problem.gradients(thetas), strict=True))
        self.damping = dict.fromkeys(members, DAMPING)
        self.pairs: dict[int, tuple[Tensor, Tensor]] = {}  # eigenvalues [n] and Vᵀ [n, n]

    def run(
        self, steps: int, spent: Callable[[], bool], done: Done, tell: Callable[[int], None]
    ) -> None:
        while self.live:
            self._refresh()
            trials = {i: self._trial(i) for i in self.live if not self.walks[i].ended}
            if trials:
                self._try(trials)
            over = spent()
            for i in self.live:
                walk = self.walks[i]
                if not walk.ended and (over or walk.steps >= steps):
                    walk.ended = "budget" if over else "steps"
            for i in [i for i in self.live if self.walks[i].ended]:
                self.live.remove(i)
                self.pairs.pop(i, None)
                done(i, self.walks[i])
            tell(sum(1 for walk in self.walks if walk.ended))

    def _refresh(self) -> None:
        """Eigenpairs where a step was accepted."""
        stale = [i for i in self.live if i not in self.pairs]
        if not stale:
            return
        H = self.problem.hessians(torch.stack([self.walks[i].theta for i in stale]))
        usable = torch.isfinite(H).flatten(1).all(1)
        H[~usable] = 0.0
        values, V = torch.linalg.eigh(H)
        for k, i in enumerate(stale):
            walk = self.walks[i]
            self.pairs[i] = (values[k], V[k].mT)
            if not bool(usable[k]):
                walk.ended = "stalled"
            elif walk.squares[-1] <= rounding(float(values[k].abs().max()), walk.theta):
                walk.ended = "converged"

    def _trial(self, i: int) -> Tensor:
        values, Vt = self.pairs[i]
        c = Vt @ self.gradient[i]
        return self.walks[i].theta - Vt.T @ (values * c / (values.square() + self.damping[i]))

    def _try(self, trials: dict[int, Tensor]) -> None:
        thetas = torch.stack(list(trials.values()))
        gradients = self.problem.gradients(thetas)
        squares = _squares(gradients)
        before = torch.tensor([self.walks[i].squares[-1] for i in trials], dtype=torch.float64)
        better = squares < before  # False where a gradient is not finite
        losses = iter(self.problem.values(thetas[better.to(thetas.device)]).tolist())
        for k, i in enumerate(trials):
            walk = self.walks[i]
            walk.steps += 1
            if bool(better[k]):
                walk.take(thetas[k].clone(), next(losses), float(squares[k]))
                self.gradient[i] = gradients[k]
                self.damping[i] /= LESS
                del self.pairs[i]
            else:
                self.damping[i] *= MORE
                if _is_nothing(thetas[k] - walk.theta, walk.theta):
                    walk.ended = "stalled"


def newton_mr(
    problem: Problem,
    walk: Walk,
    *,
    steps: int,
    columns: int,
    spent: Callable[[], bool],
) -> None:
    """Minimum-residual Newton steps with backtracking on ‖g‖²; moves the problem's model.

    A step p minimizes ‖Hp + g‖ in the Krylov space of g. It is taken where ‖g(θ + αp)‖² ≤ ‖g‖² + 2ρα pᵀHg; α is halved
    until then, and doubled up to 1 for the next step.

    Args:
        problem: A problem of its own, whose model may move.
        walk: Where the start stands; moved on in place.
        steps: Most Newton steps.
        columns: Most Hessian products a step.
        spent: Whether the budget is used up.

    References:
        Roosta, Liu, Xu, Mahoney (2018), Newton-MR: inexact Newton method with minimum residual sub-problem solver;
        Frye et al. (2021) for its parameters.
    """
    alpha = STEP
    problem.write(walk.theta)
    gradient = problem.gradient()
    while not walk.ended:
        found = minimum_residual(
            problem.hessian(), -gradient, steps=columns, tolerance=SOLVED, rcond=CONDITION
        )
        size = max(1.0, float(torch.linalg.vector_norm(walk.theta.double())))
        length = float(torch.linalg.vector_norm(found.solution.double()))
        cut = min(1.0, LONGEST * size / length) if length else 0.0
        if walk.squares[-1] <= rounding(found.scale, walk.theta):
            walk.ended = "converged"
            return
        p, gain = cut * found.solution, cut * (found.right_norm**2 - found.residual_norm**2)
        walk.steps += 1
        while True:
            if gain <= 0 or _is_nothing(alpha * p, walk.theta):
                walk.ended = "stalled"
                return
            there = walk.theta + alpha * p
            problem.write(there)
            loss, gradient = problem.value_and_gradient()
            square = float(_squares(gradient[None])[0])
            if square <= walk.squares[-1] - 2 * SUFFICIENT * alpha * gain:
                break
            alpha *= SHRINK
        alpha = min(1.0, alpha / SHRINK)
        walk.take(there, loss, square)
        if not walk.ended and (spent() or walk.steps >= steps):
            walk.ended = "budget" if spent() else "steps"


class _Enough(Exception):
    """The budget is used up inside SciPy."""


def gradient_norm(problem: Problem, walk: Walk, *, steps: int, spent: Callable[[], bool]) -> None:
    """SciPy's L-BFGS-B on ½‖∇L‖², whose gradient H∇L is one product; moves the problem's model.

    Args:
        problem: A problem of its own, whose model may move.
        walk: Where the start stands; moved on in place.
        steps: Most iterations.
        spent: Whether the budget is used up.
    """
    from scipy.optimize import minimize  # slow to import, and seldom needed

    like, latest = walk.theta, [walk.losses[0], walk.squares[0], math.inf]

    def evaluate(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        if spent():
            raise _Enough
        problem.write(torch.from_numpy(x).to(like))
        loss, gradient = problem.value_and_gradient()
        square = float(_squares(gradient[None])[0])
        if not math.isfinite(square):
            return 1e300, np.zeros_like(x)
        slope = problem.hessian().matvec(gradient).double().cpu().numpy()
        latest[:] = [loss, square, float(np.linalg.norm(slope))]
        return 0.5 * square, slope

    def accepted(x: NDArray[np.float64]) -> None:
        loss, square, slope = latest
        walk.steps += 1
        walk.take(torch.from_numpy(x.copy()).to(like), loss, square)
        norm = slope / max(square**0.5, torch.finfo(torch.float64).tiny)
        if square <= rounding(norm, walk.theta):
            walk.ended = "converged"
        if walk.ended:
            raise StopIteration

    try:
        cast("Any", minimize)(
            evaluate,
            walk.theta.double().cpu().numpy(),
            jac=True,
            method="L-BFGS-B",
            callback=accepted,
            options={
                "maxiter": steps,
                "maxfun": 20 * steps,
                "ftol": 0.0,
                "gtol": 0.0,
                "maxcor": 20,
            },
        )
    except _Enough:
        walk.ended = "budget"
    walk.ended = walk.ended or ("steps" if walk.steps >= steps else "stalled")


def _squares(gradients: Tensor) -> Tensor:
    """‖g‖² of each row, float64 on the CPU; nan where an entry is not finite."""
    squares = gradients.double().square().sum(1)
    return torch.where(torch.isfinite(squares), squares, torch.nan).cpu()


def _is_nothing(step: Tensor, theta: Tensor) -> bool:
    """Whether a step is lost in the last digits of θ."""
    size = max(1.0, float(torch.linalg.vector_norm(theta.double())))
    return float(torch.linalg.vector_norm(step.double())) <= torch.finfo(theta.dtype).eps * size
