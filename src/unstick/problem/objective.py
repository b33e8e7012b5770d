"""The loss of one batch as a function of the parameters, and what that batch weighs in the whole.

Answers: what scalar does the user minimize on this batch, is it a mean over what, and how low can it get?
Does not answer: the loss over all data; ``Problem`` sums the batches.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from unstick.errors import BadData, BadModel
from unstick.problem.batches import Batch, describe, size_of
from unstick.problem.guard import unwrapped, visiting, wrappers

__all__ = [
    "BatchLoss",
    "Objective",
    "as_module",
    "known_lower_bound",
    "separable",
    "supervised",
    "weigher",
]

BatchLoss = Callable[[nn.Module, Batch], Tensor]
"""A user's function from model and batch to a scalar."""

Loss = Callable[[Tensor, Tensor], Tensor]
Result = TypeVar("Result")

ELEMENTWISE = (
    nn.MSELoss,
    nn.L1Loss,
    nn.SmoothL1Loss,
    nn.HuberLoss,
    nn.BCELoss,
    nn.BCEWithLogitsLoss,
)
CLASSIFYING = (nn.CrossEntropyLoss, nn.NLLLoss)

MODULES: Mapping[Any, Callable[[], nn.Module]] = {
    functional.cross_entropy: nn.CrossEntropyLoss,
    functional.nll_loss: nn.NLLLoss,
    functional.mse_loss: nn.MSELoss,
    functional.l1_loss: nn.L1Loss,
    functional.smooth_l1_loss: nn.SmoothL1Loss,
    functional.huber_loss: nn.HuberLoss,
    functional.binary_cross_entropy: nn.BCELoss,
    functional.binary_cross_entropy_with_logits: nn.BCEWithLogitsLoss,
}
"""Losses given as a function mean what their module with default arguments means."""


class Objective(nn.Module):
    """Model and loss in one module, so that ``functional_call`` reaches the model inside any user function.

    The model is the user's own, without ``wrappers``; those are remembered, for functions that call them all the same.
    """

    def __init__(self, model: nn.Module, batch_loss: BatchLoss, loss: nn.Module | None) -> None:
        super().__init__()
        self.model = unwrapped(model)
        self.wrappers = wrappers(model)  # a tuple: these are no parts
        self.autocasts = False  # whether an evaluation has come by an autocast of the model's own
        self.loss = loss  # so that its buffers (class weights) follow the type computed in
        self.batch_loss = batch_loss

    def forward(self, work: Callable[[], Result]) -> Result:
        """Any work on this module; ``functional_call`` holds other parameters in place for as long as it lasts."""
        return work()

    def visit(self, *, training: bool) -> AbstractContextManager[None]:
        """The guard around every evaluation."""
        return visiting(
            self, training=training, around=self.wrappers, on_autocast=self._notice_autocast
        )

    def _notice_autocast(self) -> None:
        self.autocasts = True

    def loss_of(self, batch: Batch) -> Tensor:
        """The scalar loss of a batch."""
        value = cast("object", self.batch_loss(self.model, batch))
        if not isinstance(value, Tensor):
            raise BadModel(f"the loss is a {type(value).__name__}; expected a scalar tensor")
        if value.numel() != 1:
            raise BadModel(
                f"the loss has shape {list(value.shape)}; expected a scalar: take its mean (reduction='mean')"
            )
        return value.reshape(())


def supervised(loss: Loss) -> BatchLoss:
    """The batch loss of ``loss(model(inputs), targets)`` on batches (inputs, targets).

    Inputs may be a tensor, a sequence of arguments or a mapping of keyword arguments.
    """
    elementwise = isinstance(as_module(loss), ELEMENTWISE)
    called = (
        type(loss).__name__
        if isinstance(loss, nn.Module)
        else getattr(loss, "__name__", "the loss")
    )

    def batch_loss(model: nn.Module, batch: Batch) -> Tensor:
        inputs, targets = _pair(batch)
        if isinstance(inputs, Mapping):
            outputs = model(**cast("Mapping[str, Any]", inputs))
        elif isinstance(inputs, (tuple, list)):
            outputs = model(*cast("Sequence[Any]", inputs))
        else:
            outputs = model(inputs)
        if elementwise and outputs.shape != targets.shape:
            raise BadData(
                f"the model's outputs have shape {list(outputs.shape)} and the targets {list(targets.shape)}; "
                f"{called} would broadcast them: give targets of the outputs' shape"
            )
        return loss(outputs, targets)

    return batch_loss


def separable(loss: Loss) -> bool:
    """Whether the loss is known to be a mean over samples, so that they may be regrouped."""
    return isinstance(as_module(loss), (*ELEMENTWISE, *CLASSIFYING))


def weigher(
    loss: Loss | None, weight: Callable[[Batch], float | Tensor] | None
) -> Callable[[Batch], float]:
    """What the mean of a batch counts for: the number of things it is a mean over.

    ``weight`` decides when given; else the loss's own denominator (class weights, ``ignore_index``, one term
    a token); else the number of samples; 1 where a batch has no countable samples.
    """
    if weight is not None:
        given = weight
        return lambda batch: float(given(batch))
    chosen = as_module(loss)
    if isinstance(chosen, CLASSIFYING):
        return lambda batch: _denominator(chosen, _pair(batch)[1])
    return lambda batch: float(size_of(batch) or 1)


def known_lower_bound(loss: Loss | None, targets: Sequence[Tensor]) -> float | None:
    """The value below which the loss cannot fall, where its form shows one: 0, or ``None``."""
    loss = as_module(loss)
    if isinstance(loss, (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss)):
        return 0.0
    if isinstance(loss, nn.CrossEntropyLoss):
        hard = all(not target.is_floating_point() for target in targets)
        return 0.0 if hard and loss.label_smoothing == 0 else None
    if isinstance(loss, (nn.BCELoss, nn.BCEWithLogitsLoss)):
        hard = all(bool(((target == 0) | (target == 1)).all()) for target in targets)
        return 0.0 if hard else None
    return None


def as_module(loss: Loss | None) -> nn.Module | None:
    """The loss as a module, where it is one or has one of the same meaning."""
    if loss is None or isinstance(loss, nn.Module):
        return loss
    return next((make() for function, make in MODULES.items() if function is loss), None)


def _pair(batch: Batch) -> tuple[Any, Tensor]:
    if not isinstance(batch, (tuple, list)) or len(cast("Sequence[Any]", batch)) != 2:
        raise BadData(
            f"a batch is a {type(batch).__name__} ({describe(batch)}); expected (inputs, targets): "
            "with other batches give batch_loss= instead of loss="
        )
    inputs, targets = cast("Sequence[Any]", batch)
    if not isinstance(targets, Tensor):
        raise BadData(
            f"the targets are a {type(targets).__name__}; expected a tensor: with other batches give "
            "batch_loss= instead of loss="
        )
    return inputs, targets


def _denominator(loss: nn.CrossEntropyLoss | nn.NLLLoss, targets: Tensor) -> float:
    if targets.is_floating_point():  # class probabilities: one term for each sample or place
        return float(targets.numel() / targets.shape[min(1, targets.ndim - 1)])
    counted = targets[targets != loss.ignore_index]
    weight = loss.weight
    if weight is None:
        return float(counted.numel())
    if counted.numel() and not 0 <= int(counted.min()) <= int(counted.max()) < len(weight):
        raise BadData(
            f"the targets run from {int(counted.min())} to {int(counted.max())} and there are {len(weight)} class weights; "
            f"expected classes 0 to {len(weight) - 1}"
        )
    return float(weight.to(counted.device).double()[counted].sum(dtype=torch.float64))
