"""Methods that see all data at once and get past saddles: by noise, by negative curvature, by Newton steps.

Answers: which update follows from the exact loss, gradient and Hessian products here?
Does not answer: what kind of point this is; a method that has finished has found no way on, which proves nothing.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from unstick.errors import BadCheckpoint, BadModel, BadRecipe, NonFinite
from unstick.problem.problem import Hessian, Problem
from unstick.spectrum.ends import ends
from unstick.spectrum.krylov import Krylov, Ritz
from unstick.spectrum.operator import SymmetricOperator

__all__ = [
    "FullBatchMethod",
    "NegativeCurvatureDescent",
    "PerturbedGradientDescent",
    "SaddleFreeNewton",
]

SHARE = 1e-4
"""Part of the predicted decrease that must be measured for a step to stand (Armijo's condition)."""

TRIES = 60  # halvings, or quadruplings of the damping, of one step: far below any rounding


class FullBatchMethod(ABC):
    """What the methods here share: a step moves the model's parameters, and is whole or not at all.

    Attributes:
        problem: What is minimized.
        lr: Length of a step as a factor; may be set between steps.
        finished: No step was found that leads on; further steps only measure.
        updates: Steps that were taken before it had finished, the one that found so included.
        gradient_norm: ‖g‖ before the last step; nan before the first.
        update_norm: ‖θ after − θ before‖ of the last step; nan before the first.
    """

    _remembered: ClassVar[tuple[str, ...]]  # attributes of the class's own in ``state_dict``
    _shared = ("lr", "finished", "updates", "gradient_norm", "update_norm")

    def __init__(self, problem: Problem, *, lr: float, seed: int) -> None:
        problem.require_whole(type(self).__name__)
        _check_positive(lr=lr)
        self.problem = problem
        self.lr = lr
        self.finished = False
        self.updates = 0
        self.gradient_norm = math.nan
        self.update_norm = math.nan
        self._generator = torch.Generator().manual_seed(seed)
        self._mode = "kept"  # of Hessian products

    def step(self) -> float:
        """Move the model once.

        Returns:
            The loss before the move.

        Raises:
            NonFinite: The loss, its gradient or a Hessian product holds inf or nan. After this and any other error
                the model and the method are as before the step.

        Cost:
            One gradient, and what the method adds.
        """
        loss, gradient = self.problem.value_and_gradient()
        if not (math.isfinite(loss) and bool(torch.isfinite(gradient).all())):
            raise NonFinite(
                f"after {self.updates} updates the loss is {loss:g} or its gradient holds inf or nan; expected finite "
                "numbers: go back to an earlier checkpoint and take a smaller lr"
            )
        copies, state, theta = self.problem.layout.copies(), self.state_dict(), self._theta()
        try:
            self.gradient_norm = float(torch.linalg.vector_norm(gradient))
            if not self.finished:
                self._move(theta, loss, gradient)
                self.updates += 1
            self.update_norm = float(torch.linalg.vector_norm(self._theta() - theta))
        except BaseException:
            self.problem.layout.restore(copies)
            self.load_state_dict(state)
            raise
        return loss

    def state_dict(self) -> dict[str, Tensor | int | float]:
        """All that decides how it goes on, but for the parameters: those are in the model's own state."""
        state: dict[str, Tensor | int | float] = {"generator": self._generator.get_state()}
        for name in (*self._shared, *self._remembered):
            value = getattr(self, name)
            state[name] = value.clone() if isinstance(value, Tensor) else value
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where another one was that was made with the same arguments.

        Raises:
            BadCheckpoint: Not the state of such a method; nothing has changed.
        """
        ours = self.state_dict()
        if set(state) != set(ours):
            raise BadCheckpoint(
                f"the state holds {', '.join(sorted(state))}; expected {', '.join(sorted(ours))}, as state_dict() of "
                f"a {type(self).__name__} gives it"
            )
        n = self.problem.n
        wrong = [name for name, value in state.items() if not _fits(value, ours[name], n)]
        if wrong:
            raise BadCheckpoint(
                f"{', '.join(wrong)} in the state is of another kind than a {type(self).__name__} writes; expected "
                "what its state_dict() gave"
            )
        try:
            self._generator.set_state(state["generator"].cpu())
        except RuntimeError as error:
            raise BadCheckpoint(
                "generator in the state is not one of torch's CPU; expected what state_dict() gave"
            ) from error
        for name in (*self._shared, *self._remembered):
            value = state[name]
            setattr(self, name, value.clone() if isinstance(value, Tensor) else value)

    @abstractmethod
    def _move(self, theta: Tensor, loss: float, gradient: Tensor) -> None:
        """Write the next parameters, or set ``finished``."""

    def _theta(self) -> Tensor:
        """The parameters [n] in a type that loses none of their bits."""
        layout = self.problem.layout
        return layout.read(torch.promote_types(layout.dtype, self.problem.dtype))

    def _hessian(self) -> Hessian:
        """The Hessian here, by kept graphs where the model allows them.

        Few products are wanted at each point, and graphs are quick to make; nor do timings choose, so runs repeat.
        """
        if self._mode == "kept":
            try:
                return self.problem.hessian(mode="kept")
            except BadModel:
                self._mode = "auto"
        return self.problem.hessian()

    def _accept(self, theta: Tensor, loss: float, *, decrease: float) -> bool:
        """Write θ; unless the loss measured there is lower by ``decrease``, put every bit back."""
        copies = self.problem.layout.copies()
        self.problem.write(theta)
        after = self.problem.value()
        if after < loss and loss - after >= decrease:
            return True
        self.problem.layout.restore(copies)
        return False

    def _shorten(
        self,
        theta: Tensor,
        direction: Tensor,
        loss: float,
        *,
        step: float,
        slope: float,
        bend: float,
    ) -> bool:
        """Halve the step along a direction of this slope and negative curvature until the measured loss falls."""
        for _ in range(TRIES):
            predicted = -(step * slope + 0.5 * step**2 * bend)
            if not self._resolved(predicted, loss):
                return False
            if self._accept(theta + step * direction, loss, decrease=SHARE * predicted):
                return True
            step /= 2
        return False

    def _resolved(self, decrease: float, loss: float) -> bool:
        """Whether a decrease of the loss could be seen in the arithmetic."""
        return decrease > torch.finfo(self.problem.dtype).eps * abs(loss)


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
        _check_positive(radius=radius, threshold=threshold, wait=wait, decrease=decrease)
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
        _check_positive(
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
        _check_positive(rank=rank, damping=damping)
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


def _fits(value: object, ours: Tensor | float, n: int) -> bool:
    """Whether a value is of the kind that a state holds there; a vector of parameters may be absent: empty."""
    if not isinstance(ours, Tensor):
        return isinstance(value, (int, float))
    if not isinstance(value, Tensor) or value.ndim != 1:
        return False
    return value.dtype == ours.dtype and len(value) in (len(ours), n, 0)


def _check_positive(**given: float) -> None:
    for name, value in given.items():
        if not (math.isfinite(value) and value > 0):
            raise BadRecipe(f"{name} is {value}; expected a finite number > 0")
