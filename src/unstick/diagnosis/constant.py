"""The loss that a model reaches without looking at its inputs.

Answers: how low can the loss get with the same output for every sample?
Does not answer: how low with the outputs that a model can reach (``reach``).
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, cast

import torch
from torch import Tensor, nn

from unstick.problem.objective import CLASSIFYING, ELEMENTWISE
from unstick.problem.problem import Problem

__all__ = ["constant_loss"]

HALVINGS = 40
LOGITS = 40.0  # beyond it a sigmoid is 0 or 1 to float64


def constant_loss(problem: Problem, output: Tensor | None) -> float | None:
    """The loss of the best constant output, where the loss is one of torch's on (inputs, targets).

    Constant are the shares of classes, the same at all places of a sample, and each number of a sample's output.

    Args:
        problem: Whose loss and targets are taken.
        output: [N, classes, …] of the model, to know how many classes there are.

    Cost:
        Forty evaluations of the loss alone, for some losses.
    """
    evaluation = problem.require_whole("diagnosis")
    given = evaluation.objective.loss
    if given is None or type(given) not in (*CLASSIFYING, *ELEMENTWISE):
        return None  # a class made of these may mean another
    loss: Any = deepcopy(given).to(evaluation.layout.device, torch.float64)
    summed = loss.reduction == "sum"  # then the problem divides by the batch's weight
    shares = [
        share / weight if summed and weight else share
        for share, weight in zip(evaluation.shares, evaluation.weights, strict=True)
    ]
    terms = [
        (share, cast("Tensor", batch[1]))
        for share, batch in zip(shares, evaluation.batches, strict=True)
        if share > 0
    ]
    if not isinstance(loss, CLASSIFYING):
        return _constant_numbers(loss, terms)
    if output is None or output.ndim < 2:
        return None
    classes = output.shape[1]
    weights = torch.stack([share * _class_weights(loss, y, classes) for share, y in terms]).sum(0)
    return float(-torch.xlogy(weights, weights / weights.sum()).sum())


def _class_weights(loss: nn.CrossEntropyLoss | nn.NLLLoss, targets: Tensor, classes: int) -> Tensor:
    """The loss of a batch is −Σ aₖ log qₖ where all outputs have the shares q of classes; a [classes], float64."""
    smooth = loss.label_smoothing if isinstance(loss, nn.CrossEntropyLoss) else 0.0
    plain = torch.ones(classes, dtype=torch.float64, device=targets.device)
    each = plain if loss.weight is None else loss.weight
    if targets.is_floating_point():
        counts = targets.double().movedim(1, -1).reshape(-1, classes).sum(0)
        places = targets.numel() / classes
        whole = places
    else:
        counted = targets[targets != loss.ignore_index].long()
        counts = torch.bincount(counted, minlength=classes).double()
        places, whole = float(counts.sum()), float((each * counts).sum())
    mixed = each * ((1 - smooth) * counts + smooth / classes * places)
    return mixed if loss.reduction == "sum" else mixed / whole


def _constant_numbers(loss: nn.Module, terms: Sequence[tuple[float, Tensor]]) -> float | None:
    """The least mean of a loss that is convex in each number of the output by itself."""
    if len({y.shape[1:] for _, y in terms}) != 1:
        return None

    def reached(constant: Tensor) -> Tensor:
        parts = [share * loss(constant.expand(y.shape), y.double()) for share, y in terms]
        return torch.stack(parts).sum()

    def slope(constant: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            at = constant.clone().requires_grad_()
            return torch.autograd.grad(reached(at), at)[0]

    low = torch.stack([y.amin(0) for _, y in terms]).amin(0).double()
    high = torch.stack([y.amax(0) for _, y in terms]).amax(0).double()
    if isinstance(loss, nn.BCEWithLogitsLoss):
        low, high = torch.full_like(low, -LOGITS), torch.full_like(high, LOGITS)
    if isinstance(loss, nn.MSELoss):  # its slope is a line: one step along it
        falls, rises = slope(low), slope(high)
        low = high = low - (high - low) * (falls / (rises - falls)).nan_to_num(0.0)
    for _ in range(0 if isinstance(loss, nn.MSELoss) else HALVINGS):
        middle = (low + high) / 2
        falling = slope(middle) < 0
        low, high = torch.where(falling, middle, low), torch.where(falling, high, middle)
    return float(reached((low + high) / 2))
