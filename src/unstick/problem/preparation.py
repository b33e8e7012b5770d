"""From what a user gives to an evaluation: batches weighed and regrouped, weight decay laid out, a type chosen."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from unstick.errors import BadData, BadModel, UnstickError
from unstick.problem.batches import Batch, place, regroup, size_of
from unstick.problem.evaluation import Evaluation, check_weights
from unstick.problem.layout import Layout
from unstick.problem.objective import BatchLoss

__all__ = ["divided", "in_type", "regrouped", "spread_decay", "weighed"]

SMALL = 100_000_000  # parameters times samples up to which float64 costs little
SMALL_PARAMETERS = 20_000


def divided(batch_loss: BatchLoss, weigh: Callable[[Batch], float]) -> BatchLoss:
    """A loss that is a sum over a batch, made a mean."""
    return lambda model, batch: batch_loss(model, batch) / weigh(batch)


def spread_decay(layout: Layout, weight_decay: float | Mapping[str, float]) -> Tensor | None:
    """The weight decay of every parameter, float64 [n], or ``None`` where it is zero.

    Raises:
        BadModel: An unknown name, or a number that is negative or not finite.
    """
    if not isinstance(weight_decay, Mapping):
        given = dict.fromkeys(layout.names, float(weight_decay))
    else:
        unknown = [name for name in weight_decay if name not in layout.names]
        if unknown:
            raise BadModel(
                f"weight_decay names {', '.join(unknown)}; there are {', '.join(layout.names)}"
            )
        given = {name: float(value) for name, value in weight_decay.items()}
    if any(not 0 <= value < float("inf") for value in given.values()):
        raise BadModel(f"weight_decay is {weight_decay}; expected finite numbers ≥ 0")
    return layout.spread(given) if any(given.values()) else None


def weighed(
    blank: Evaluation, batches: Sequence[Batch], weigh: Callable[[Batch], float]
) -> Evaluation:
    """The evaluation of these batches, each with its weight.

    Raises:
        BadData: The weights cannot be computed, or cannot average.
    """
    placed = [place(batch, blank.layout.device, blank.dtype) for batch in batches]
    weights: list[float] = []
    for index, batch in enumerate(placed):
        try:
            weights.append(weigh(batch))
        except UnstickError:
            raise
        except Exception as error:  # whatever a user's function raises
            first = " ".join(str(error).split())
            raise BadData(
                f"weight() failed on batch {index}: {type(error).__name__}: {first}; expected a number"
            ) from error
    check_weights(weights)
    return blank.on(placed, weights)


def regrouped(
    given: Evaluation, batches: list[Batch], weigh: Callable[[Batch], float], notes: list[str]
) -> Evaluation:
    """The batches regrouped to a size that computes well, where that cannot change the loss."""
    grouped = regroup(batches)
    if [size_of(batch) for batch in grouped] == [size_of(batch) for batch in batches]:
        return given
    evaluation = weighed(given, grouped, weigh)
    if evaluation.adds_up(weigh):
        return evaluation
    notes.append(
        "batches left as given: the loss of a batch is not the mean of its samples' losses"
    )
    return given


def in_type(evaluation: Evaluation, dtype: torch.dtype | None, notes: list[str]) -> Evaluation:
    """The evaluation in the type asked for; unasked, small problems go to float64 where the model can."""
    if dtype is not None:
        return evaluation.cast(dtype)
    n, work = evaluation.layout.n, evaluation.layout.n * evaluation.samples
    if evaluation.dtype == torch.float64 or n > SMALL_PARAMETERS or work > SMALL:
        return evaluation
    wide = evaluation.widened()
    if wide is None:
        return evaluation
    notes.append("computed in float64: the problem is small")
    return wide
