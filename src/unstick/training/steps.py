"""One update of one model, whatever the optimizer.

Answers: what is done with a batch?
Does not answer: which batch, at which rate, how often (``loop``).
"""

from collections.abc import Callable, Mapping
from math import inf, isfinite, nan
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from unstick.errors import NonFinite
from unstick.problem.batches import Batch
from unstick.problem.objective import BatchLoss
from unstick.problem.problem import Problem
from unstick.training.curvature import (
    NegativeCurvatureDescent,
    PerturbedGradientDescent,
    SaddleFreeNewton,
)
from unstick.training.full_batch import FullBatchMethod
from unstick.training.rmsprop_warmup import RMSpropWarmUp

__all__ = ["CURVATURE", "CurvatureStep", "GradientStep", "Step"]

CURVATURE: Final[Mapping[str, Callable[..., FullBatchMethod]]] = {
    "perturbed-gradient-descent": PerturbedGradientDescent,
    "negative-curvature": NegativeCurvatureDescent,
    "saddle-free-newton": SaddleFreeNewton,
}
"""Methods that ask a whole problem, by the names that recipes have for them."""


class Step(Protocol):
    """An update and what is known of the last one."""

    gradient_norm: float | None
    update_norm: float | None

    @property
    def finished(self) -> bool:
        """Whether no further update would change anything."""
        ...

    def take(self, batch: Batch, *, rate: float, epoch: float) -> float:
        """Update once; the loss of the batch before. Where that is not finite, nothing moves."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What ``load_state_dict`` needs."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another one was."""
        ...


class GradientStep:
    """Backward pass, clipping, and an optimizer of torch's kind.

    Args:
        model: What is trained.
        batch_loss: Of model and batch.
        optimizer: Moves the model's parameters.
        rate: The rate that the groups' own rates are for; another rate scales them all alike.
        clip_norm: Gradients longer than this are shortened to it.
        norms: Measure the norms of gradient and update.
    """

    def __init__(
        self,
        model: nn.Module,
        batch_loss: BatchLoss,
        optimizer: Optimizer,
        *,
        rate: float,
        clip_norm: float | None,
        norms: bool,
    ) -> None:
        self.gradient_norm: float | None = None
        self.update_norm: float | None = None
        self.optimizer = optimizer
        self._model, self._batch_loss = model, batch_loss
        self._clip_norm, self._norms = clip_norm, norms
        self._rates = [group["lr"] / rate if rate else 1.0 for group in optimizer.param_groups]
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._warming = optimizer if isinstance(optimizer, RMSpropWarmUp) else None
        self._rate = rate

    @property
    def finished(self) -> bool:
        """Never: a mini-batch cannot tell."""
        return False

    def take(self, batch: Batch, *, rate: float, epoch: float) -> float:
        """Update once; the loss of the batch before. Where that is not finite, nothing moves."""
        optimizer = self.optimizer
        if rate != self._rate:
            self._rate = rate
            for group, share in zip(optimizer.param_groups, self._rates, strict=True):
                group["lr"] = rate * share
        if self._warming is not None:
            self._warming.set_epoch(epoch)
        for parameter in self._parameters:  # zero_grad(), without its hooks for profilers
            parameter.grad = None
        loss = self._batch_loss(self._model, batch)
        loss.backward()
        value = loss.item()
        if not isfinite(value):
            return value
        if not self._norms and self._clip_norm is None:
            optimizer.step()
            return value
        self._step_measured()
        return value

    def _step_measured(self) -> None:
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        total = _norm(gradients)
        self.gradient_norm = total
        limit = self._clip_norm
        if limit is not None and limit < total < inf:  # as torch's clip_grad_norm_
            for gradient in gradients:
                gradient.mul_(limit / (total + 1e-6))
        if not self._norms:
            self.optimizer.step()
            return
        before = self._flat()
        self.optimizer.step()
        self.update_norm = torch.linalg.vector_norm(self._flat().sub_(before)).item()

    def _flat(self) -> Tensor:
        with torch.no_grad():
            return torch.cat([p.reshape(-1) for p in self._parameters])

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's; also an epoch that it holds."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another one was."""
        self.optimizer.load_state_dict(state)
        self._rate = float("nan")  # the groups' rates came with the state: set them anew


class CurvatureStep:
    """A full-batch method that asks a whole problem; the batch that it is given is that problem's.

    Args:
        name: One of ``CURVATURE``.
        problem: At the model that is trained.
        settings: Of the method, with ``lr``.
        seed: Of its random directions.
    """

    def __init__(
        self, name: str, problem: Problem, settings: Mapping[str, float], *, seed: int
    ) -> None:
        self.gradient_norm: float | None = None
        self.update_norm: float | None = None
        given: dict[str, Any] = dict(settings)
        del given["weight_decay"]  # the problem has it
        self._method = CURVATURE[name](problem, seed=seed, **given)

    @property
    def finished(self) -> bool:
        """Neither slope nor negative curvature is left."""
        return self._method.finished

    def take(self, batch: Batch, *, rate: float, epoch: float) -> float:
        """Update once; the loss before."""
        del batch, epoch
        self._method.lr = rate
        try:
            value = self._method.step()
        except NonFinite:
            return nan
        self.gradient_norm = self._method.gradient_norm
        self.update_norm = self._method.update_norm
        return value

    def state_dict(self) -> dict[str, Any]:
        """The method's."""
        return self._method.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another one was."""
        self._method.load_state_dict(state)


def _norm(tensors: list[Tensor]) -> float:
    """The length of all tensors as one vector."""
    return torch.linalg.vector_norm(torch.cat([tensor.reshape(-1) for tensor in tensors])).item()
