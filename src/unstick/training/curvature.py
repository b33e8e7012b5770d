"""Methods that see all data at once and get past saddles: by noise, by negative curvature, by Newton steps.

Answers: which update follows from the exact loss, gradient and Hessian products here?
Does not answer: what kind of point this is; a method that has finished has found no way on, which proves nothing.
"""

import math

import torch
from torch import Tensor

from unstick.problem.problem import Problem
from unstick.spectrum.ends import ends
from unstick.spectrum.krylov import Krylov, Ritz
from unstick.spectrum.operator import SymmetricOperator
from unstick.training.full_batch import SHARE, TRIES, FullBatchMethod
from unstick.training.settings import check_positive

__all__ = ["NegativeCurvatureDescent", "PerturbedGradientDescent", "SaddleFreeNewton"]


class PerturbedGradientDescent(FullBatchMethod):
    """Gradient descent that adds noise where the gradient is small, and stops where noise does not help.

    Where ‖g‖ ≤ threshold and the last noise is at least ``wait`` updates ago, the update is a random vector, uniform
    in a ball. If ``wait`` gradient steps later the loss has not fallen by ``decrease``, the point before the noise is
    taken back, and the method has finished. The loss may rise by what the noise costs.

    Args:
        problem: What is minimized.
        lr: Length of a gradient step over ‖g‖.
        radius: Of the ball, in the parameters' units.
        threshold: On ‖g‖.
        wait: Gradient steps that an escape may take; out of a saddle it needs about ln(1/radius)/(lr·|λ_min|).
        decrease: Of the loss, that an escape must bring. The theory's values of all four fit no real problem.
        seed: Of the noise.

    Raises:
        BadRecipe: A setting out of range.
        BadModel: The model's parameters are sharded.

    Cost:
        One gradient a step.

    References:
        Jin, Ge, Netrapalli, Kakade, Jordan (2017), How to escape saddle points efficiently, algorithm 2.

    Example:
        >>> problem = Problem.from_function(lambda x: (1 - x[0] * x[1]) ** 2, torch.zeros(2))
        >>> method = PerturbedGradientDescent(problem, lr=0.1)
        >>> losses = [method.step() for _ in range(200)]
        >>> losses[0], losses[-1] < 1e-3, method.finished
        (1.0, True, True)
    """

    _remembered = ("since", "loss_before", "before")

    def __init__(
        self,
        problem: Problem,
        *,
        lr: float,
        radius: float = 1e-2,
        threshold: float = 1e-3,
        wait: int = 50,
        decrease: float = 1e-6,
        seed: int = 0,
    ) -> None:
        super().__init__(problem, lr=lr, seed=seed)
        check_positive(radius=radius, threshold=threshold, wait=wait, decrease=decrease)
        self.radius, self.threshold, self.wait, self.decrease = radius, threshold, wait, decrease
        self.since = wait  # gradient steps since the last noise
        self.loss_before = math.nan  # before that noise
        self.before = self._theta()[
            :0
        ]  # the parameters [n] before it; empty when it has been judged

    def _move(self, theta: Tensor, loss: float, gradient: Tensor) -> None:
        if len(self.before) and self.since >= self.wait:
            if self.loss_before - loss < self.decrease:
                self.problem.write(self.before)
                self.finished = True
            self.before = self.before[:0]
        if self.finished:
            return
        if self.gradient_norm <= self.threshold and self.since >= self.wait:
            self.since, self.loss_before, self.before = 0, loss, theta
            self.problem.write(theta + self._noise().to(theta))
        else:
            self.since += 1
            self.problem.write(theta - self.lr * gradient)

    def _noise(self) -> Tensor:
        """Uniform in the ball: a normal vector has the direction, the n-th root of a uniform number the length."""
        n = self.problem.n
        direction = torch.randn(n, generator=self._generator, dtype=torch.float64)
        part = float(torch.rand(1, generator=self._generator, dtype=torch.float64)) ** (1 / n)
        return self.radius * part * direction / torch.linalg.vector_norm(direction)


class NegativeCurvatureDescent(FullBatchMethod):
    """Gradient descent that follows the lowest eigenvector of the Hessian where the gradient is small.

    Every step lowers the measured loss: it is halved until it does. Both ways along an eigenvector lead down; the
    one with gᵀv ≤ 0 is taken. It has finished where ‖g‖ ≤ threshold, or no gradient step lowers the loss any more,
    and no curvature below −least_curvature was found whose direction does. That none was found is likely, not proved.

    Args:
        problem: What is minimized.
        lr: Length of a gradient step over ‖g‖, before it is halved.
        threshold: On ‖g‖.
        least_curvature: Eigenvalues above minus this count as none.
        length: Of a step along an eigenvector, before it is halved, in the parameters' units.
        products: Most Hessian products of one search for the eigenvector.
        seed: Of the search's starts.

    Attributes:
        lambda_min: The lowest eigenvalue that the last search found; nan before.

    Raises:
        BadRecipe: A setting out of range.
        BadModel: The model's parameters are sharded.

    Cost:
        Four thirds of a gradient a step, and a third for each halving; with a search, tens of products on top.

    References:
        Curtis, Robinson (2019), Exploiting negative curvature in deterministic and stochastic optimization.

    Example:
        >>> problem = Problem.from_function(lambda x: (1 - x[0] * x[1]) ** 2, torch.zeros(2))
        >>> method = NegativeCurvatureDescent(problem, lr=0.1)
        >>> losses = [method.step() for _ in range(100)]
        >>> losses[0], losses[1] < 0.3, method.finished
        (1.0, True, True)
    """

    _remembered = ("lambda_min",)

    def __init__(
        self,
        problem: Problem,
        *,
        lr: float,
        threshold: float = 1e-3,
        least_curvature: float = 1e-3,
        length: float = 1.0,
        products: int = 200,
        seed: int = 0,
    ) -> None:
        super().__init__(problem, lr=lr, seed=seed)
        check_positive(
            threshold=threshold, least_curvature=least_curvature, length=length, products=products
        )
        self.threshold, self.least_curvature = threshold, least_curvature
        self.length, self.products = length, products
        self.lambda_min = math.nan

    def _move(self, theta: Tensor, loss: float, gradient: Tensor) -> None:
        steep = self.gradient_norm > self.threshold
        slope = -(self.gradient_norm**2)
        if steep and self._shorten(theta, -gradient, loss, step=self.lr, slope=slope, bend=0.0):
            return
        operator = self._hessian()
        found = ends(
            operator,
            generator=self._generator,
            lowest=1,
            highest=0,
            max_products=self.products,
        )
        if found.outcome == "interrupted":
            raise KeyboardInterrupt
        self.lambda_min = found.lambda_min.value
        if found.lambda_min.high + operator.error() < -self.least_curvature:
            v, slope = _downward(found.lowest.vectors[:, 0], gradient)
            bend = self.lambda_min
            if self._shorten(theta, v, loss, step=self.length, slope=slope, bend=bend):
                return
        self.finished = True


class SaddleFreeNewton(FullBatchMethod):
    """Newton steps that go down along negative curvature too: −(|H| + μ)⁻¹g, in a Krylov space of H.

    With V an orthonormal basis of the space and T = VᵀHV, the step is −lr·V(|T| + μ)⁻¹Vᵀg. μ is quadrupled until the
    measured loss falls, and divided by five after that. The space starts at g plus a random vector a tenth as long: of
    g alone it would miss the negative curvature that symmetry hides from g. Where no such step lowers the loss, as at
    a saddle, where g = 0, the lowest Ritz vector is followed if its curvature is negative; where that fails too, the
    method has finished.

    Args:
        problem: What is minimized.
        rank: Hessian products of a step, and the dimension of the space; all of it if that is no larger.
        damping: μ at first, in the units of eigenvalues.
        lr: Length of a step as a part of the whole one.
        seed: Of the random parts.

    Attributes:
        damping: μ of the next step.

    Raises:
        BadRecipe: A setting out of range.
        BadModel: The model's parameters are sharded.

    Cost:
        ``rank`` products, four thirds of a gradient, a third for each quadrupling; rank·n numbers of memory.

    References:
        Dauphin et al. (2014), Identifying and attacking the saddle point problem in high-dimensional non-convex
        optimization.

    Example:
        >>> problem = Problem.from_function(lambda x: x[0] ** 2 - x[1] ** 2, torch.tensor([1.0, 0.5]))
        >>> method = SaddleFreeNewton(problem, damping=1e-9)
        >>> method.step(), [round(x, 6) + 0 for x in problem.parameters().tolist()]  # |H| = 2
        (0.75, [0.0, 1.0])
    """

    _remembered = ("damping",)

    def __init__(
        self,
        problem: Problem,
        *,
        rank: int = 20,
        damping: float = 1e-3,
        lr: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(problem, lr=lr, seed=seed)
        check_positive(rank=rank, damping=damping)
        self.rank = rank
        self.damping = damping

    def _move(self, theta: Tensor, loss: float, gradient: Tensor) -> None:
        operator = self._hessian()
        space = self._space(operator, gradient)
        ritz = space.ritz()
        if self._newton(theta, loss, gradient, space, ritz):
            return
        lowest = float(ritz.values[0])
        if lowest < -(space.noise_floor + operator.error()):
            v = space.basis.combine(ritz.coordinates[:, :1])[:, 0]
            v, slope = _downward(v, gradient)
            if self._shorten(theta, v, loss, step=self.lr, slope=slope, bend=lowest):
                return
        self.finished = True

    def _space(self, operator: SymmetricOperator, gradient: Tensor) -> Krylov:
        """The space of ``rank`` products; started afresh where one start has shown all that it can."""
        space = Krylov(operator, generator=self._generator, warm=gradient)
        while space.products < min(self.rank, operator.dim):
            if space.frontier == 0:
                space.inject()
            space.expand()
        return space

    def _newton(
        self, theta: Tensor, loss: float, gradient: Tensor, space: Krylov, ritz: Ritz
    ) -> bool:
        """Try steps of growing damping; whether one stands."""
        V = space.basis.block(0, space.multiplied)
        along = ritz.coordinates.T @ space.basis.inner(V, gradient.unsqueeze(1))[:, 0]
        sizes, damping = ritz.values.abs(), self.damping
        for _ in range(TRIES):
            parts = along / (sizes + damping)
            predicted = self.lr * float(along @ parts)
            if not self._resolved(predicted, loss):
                return False
            step = space.basis.combine((ritz.coordinates @ parts).unsqueeze(1))[:, 0]
            if self._accept(theta - self.lr * step, loss, decrease=SHARE * predicted):
                least = torch.finfo(self.problem.dtype).eps * space.scale
                self.damping = max(damping / 5, least)
                return True
            damping *= 4
        return False


def _downward(v: Tensor, gradient: Tensor) -> tuple[Tensor, float]:
    """The one of v and −v that does not lead up, and the slope along it, ≤ 0."""
    slope = float(gradient @ v)
    return (-v, -slope) if slope > 0 else (v, slope)
