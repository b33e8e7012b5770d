"""What methods that see all data at once have in common: a step is whole or not at all, and a state goes on exactly.

Answers: what is measured around a step, when does a step stand, and what does such a method remember?
Does not answer: where a step leads (``curvature``).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from unstick.errors import BadCheckpoint, BadModel, NonFinite
from unstick.problem.problem import Hessian, Problem
from unstick.training.settings import check_positive

__all__ = ["SHARE", "TRIES", "FullBatchMethod"]

SHARE = 1e-4
"""Part of the predicted decrease that must be measured for a step to stand (Armijo's condition)."""

TRIES = 60
"""Halvings, or quadruplings of the damping, of one step: far below any rounding."""


class FullBatchMethod(ABC):
    """A method whose step moves the model's parameters, and is whole or not at all.

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
        check_positive(lr=lr)
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


def _fits(value: object, ours: Tensor | float, n: int) -> bool:
    """Whether a value is of the kind that a state holds there; a vector of parameters may be absent: empty."""
    if not isinstance(ours, Tensor):
        return isinstance(value, (int, float))
    if not isinstance(value, Tensor) or value.ndim != 1:
        return False
    return value.dtype == ours.dtype and len(value) in (len(ours), n, 0)
