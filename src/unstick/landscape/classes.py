"""The share of targets that a model meets, at any parameters.

Answers: which part of the samples is classified as its target says?
Does not answer: what the loss is.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from unstick.errors import BadModel
from unstick.problem.batches import Batch
from unstick.problem.evaluation import Evaluation
from unstick.problem.problem import Problem

__all__ = ["accuracies"]

AROUND_ZERO = (nn.BCEWithLogitsLoss, nn.SoftMarginLoss)
HALFWAY = (nn.BCELoss, nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss)


def accuracies(problem: Problem, thetas: Tensor) -> Tensor:
    """The fraction of samples that are classified right, at each row of ``thetas`` [m, n] → [m] float64.

    Of several outputs the largest names the class; a single one does by its side of zero, or of the middle between both
    targets where the loss compares outputs with targets themselves. Every sample counts alike, whatever its class
    weighs in the loss; ignored targets do not count, and an output that is nan is never right.

    Raises:
        BadModel: The model's outputs and the targets are no classes, or the parameters are sharded.

    Cost:
        m thirds of a gradient.
    """
    ours = problem.require_whole("accuracy")
    reader = _Reader.of(ours)

    def work() -> list[Tensor]:
        counts = [
            torch.tensor([(0.0, 0.0), *(_hits(ours, reader, theta, b) for b in ours.batches)]).sum(
                0
            )
            for theta in thetas
        ]
        ours.meter.count("value", len(thetas) * ours.samples)
        return [torch.stack(counts).double()]

    with ours.meter.timed(), ours.visit(), torch.no_grad():
        [counted] = ours.pooled(work)
    return counted[:, 0] / counted[:, 1]


@dataclass(frozen=True, slots=True)
class _Reader:
    """How outputs and targets are compared."""

    low: float  # the lower of the two targets of a single output: 0, or −1; the other is 1
    threshold: float | None  # of a single output; None: the loss does not tell
    ignored: int | None  # a target that does not count

    @staticmethod
    def of(evaluation: Evaluation) -> "_Reader":
        """What the loss and all targets say."""
        loss = evaluation.objective.loss
        here = min((float(_targets(batch).min()) for batch in evaluation.batches), default=0.0)
        low = -1.0 if min(evaluation.team.gather(here)) < 0 else 0.0
        threshold = None
        if isinstance(loss, HALFWAY):
            threshold = (low + 1) / 2
        elif isinstance(loss, AROUND_ZERO) or low < 0:
            threshold = 0.0
        return _Reader(low, threshold, getattr(loss, "ignore_index", None))

    def hits(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor] | None:
        """Which targets are met, and which count; None where these are no classes."""
        whole = not targets.is_floating_point() and targets.dtype != torch.bool
        if outputs.ndim > 1 and outputs.shape[1] > 1 and whole:
            if targets.shape != (*outputs.shape[:1], *outputs.shape[2:]):
                return None
            counted = torch.ones_like(targets) if self.ignored is None else targets != self.ignored
            right = (outputs.argmax(1) == targets) & ~outputs.isnan().any(1)
            return right * counted, counted
        one_each = outputs.ndim > 0 and outputs.numel() == len(outputs) == targets.numel()
        values, sides = outputs.reshape(-1), targets.reshape(-1).to(outputs.dtype)
        if not one_each or self.threshold is None:
            return None
        if not bool(((sides == self.low) | (sides == 1)).all()):
            return None
        right = ((values > self.threshold) == (sides == 1)) & ~values.isnan()
        return right, torch.ones_like(right)


def _hits(
    evaluation: Evaluation, reader: _Reader, theta: Tensor, batch: Batch
) -> tuple[float, float]:
    """How many samples of a batch are right, and how many count."""
    seen: list[Any] = []
    handle = evaluation.model.register_forward_hook(
        lambda _module, _inputs, outputs: seen.append(outputs)
    )
    try:  # through the loss, which knows how the model is called
        evaluation.at(theta, lambda: evaluation.objective.loss_of(batch))
    finally:
        handle.remove()
    outputs = seen[-1] if seen else None
    found = reader.hits(outputs, _targets(batch)) if isinstance(outputs, Tensor) else None
    if found is None:
        shown = list(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise BadModel(
            f"there are no classes to measure accuracy by: the model's outputs are {shown} and the targets "
            f"{list(_targets(batch).shape)} of {_targets(batch).dtype}; expected outputs [N, classes] and whole targets, or one "
            "output a sample for two classes: leave 'accuracy' out of measures"
        )
    right, counted = found
    return float(right.sum()), float(counted.sum())


def _targets(batch: Batch) -> Tensor:
    parts = cast("tuple[Any, ...]", batch) if isinstance(batch, (tuple, list)) else ()
    if len(parts) != 2 or not isinstance(parts[1], Tensor) or not parts[1].numel():
        raise BadModel(
            "there are no classes to measure accuracy by: batches are no pairs (inputs, targets); leave 'accuracy' out of "
            "measures"
        )
    return parts[1]
