"""The samples that a training takes its batches from, held in memory.

Answers: what are these rows of the data; how good is a model on all of them?
Does not answer: which rows come next (``order``).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unstick.data.dataset import Dataset
from unstick.errors import BadData
from unstick.problem.batches import Batch, describe, freeze, leaves, merge, place, size_of, take
from unstick.problem.guard import put_back_modes
from unstick.problem.objective import BatchLoss, supervised
from unstick.record import number
from unstick.training.normalization import keeping_statistics, recompute_statistics

__all__ = ["Samples", "Score", "evaluate", "loss_of_batches"]

AT_ONCE = 4096  # samples of an evaluation that go through the model together
UNLIMITED = 2**62


@dataclass(frozen=True, slots=True)
class Score:
    """How good a model was on a set of samples, in eval mode, after so many updates."""

    update: int
    split: str  # "training", "validation" or "test"
    loss: float
    accuracy: float | None  # share whose largest output is the target's; None: no classes

    def __str__(self) -> str:
        """``loss 0.4411, accuracy 0.9306``."""
        accuracy = "" if self.accuracy is None else f", accuracy {self.accuracy:.4f}"
        return f"loss {number(self.loss)}{accuracy}"


class Samples:
    """Data as one batch of all samples.

    Args:
        data: A ``Dataset`` (its training part), a pair (inputs, targets), or batches that fit together: a list, or a
            DataLoader, which is read once: what it draws anew each epoch, such as augmentations, is drawn once.
        model: Batches come where its parameters are, and in their floating-point type.

    Raises:
        BadData: No sample, or batches that cannot be joined into one.
    """

    def __init__(self, data: Any, model: nn.Module) -> None:
        if isinstance(data, Dataset):
            data = (data.train_inputs, data.train_targets)
        batches, _ = freeze(data, samples=None, seed=0, memory=UNLIMITED)
        whole = merge(batches)
        count = None if whole is None else size_of(whole)
        if whole is None or not count:
            shapes = "; ".join(describe(batch) for batch in batches[:3])
            raise BadData(
                f"the batches ({shapes}) do not join into one; expected tensors with one row for each sample"
            )
        parameters = [p for p in model.parameters() if p.is_floating_point()]
        self.device = parameters[0].device if parameters else torch.device("cpu")
        dtype = parameters[0].dtype if parameters else torch.float32
        self.batch: Batch = place(whole, self.device, dtype)
        self.count = count
        pair = isinstance(self.batch, (tuple, list)) and len(leaves(self.batch)) == 2
        self._pair = pair and all(isinstance(part, Tensor) for part in self.batch)

    def take(self, rows: Tensor) -> Batch:
        """The given samples, in this order."""
        rows = rows.to(self.device)
        if self._pair:
            inputs, targets = self.batch
            return inputs.index_select(0, rows), targets.index_select(0, rows)
        return take(self.batch, rows)

    def renew_statistics(self, model: nn.Module, size: int) -> None:
        """Compute a model's batch statistics anew over these samples, if it keeps any, so many at once.

        A last batch of one sample is left out: alone it has no variance.
        """
        if keeping_statistics(model):
            batches = list(self.batches(size))
            if len(batches) > 1 and self.count % size == 1:
                batches.pop()
            recompute_statistics(model, batches)

    def batches(self, size: int) -> Iterator[Batch]:
        """All samples in order, so many at once."""
        for start in range(0, self.count, size):
            yield take(self.batch, torch.arange(start, min(start + size, self.count)))


def loss_of_batches(
    loss: Callable[[Tensor, Tensor], Tensor] | None, batch_loss: BatchLoss | None
) -> BatchLoss:
    """The loss of a batch from either of the two ways to give it.

    Raises:
        BadData: Both, or none.
    """
    if batch_loss is not None and loss is None:
        return batch_loss
    if loss is not None and batch_loss is None:
        return supervised(loss)
    raise BadData(
        "expected one of loss= (for batches (inputs, targets)) and batch_loss= (for any batch)"
    )


@torch.no_grad()
def evaluate(
    model: nn.Module,
    data: Any,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    *,
    batch_loss: BatchLoss | None = None,
    split: str = "validation",
    update: int = 0,
) -> Score:
    """The mean loss of a model on data, and its accuracy where targets are classes; in eval mode.

    Args:
        model: Put back into its mode afterwards.
        data: As for ``train``, or what ``Samples`` made of it.
        loss: ``loss(model(inputs), targets)``.
        batch_loss: Instead: ``batch_loss(model, batch)``.
        split: What these samples are called.
        update: After how many updates.

    Cost:
        One forward pass over the data.
    """
    samples = data if isinstance(data, Samples) else Samples(data, model)
    chosen = loss_of_batches(loss, batch_loss)
    total, right, counted = 0.0, 0, 0
    seen: list[object] = []

    def watch(_model: nn.Module, _inputs: Any, outputs: Any) -> None:
        seen.append(outputs)

    with put_back_modes(model), model.register_forward_hook(watch):
        model.eval()
        for batch in samples.batches(AT_ONCE):
            seen.clear()
            size = size_of(batch) or 0
            total += float(chosen(model, batch)) * size
            hits = _hits(seen[-1] if seen else None, batch) if loss is not None else None
            if hits is not None:
                right, counted = right + hits, counted + size
    accuracy = right / counted if counted == samples.count else None
    return Score(update, split, total / samples.count, accuracy)


def _hits(outputs: object, batch: Batch) -> int | None:
    """How many samples are classified as their target says; None where targets are no classes."""
    targets = batch[1]
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or outputs.shape[1] < 2:
        return None
    if targets.ndim != 1 or targets.is_floating_point():
        return None
    return int((outputs.argmax(1) == targets).sum())
