"""From what a user gives to an evaluation: batches weighed, regrouped and shared out, decay laid out, a type chosen."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from unstick.errors import BadData, BadModel, UnstickError
from unstick.problem.batches import (
    Batch,
    Whole,
    chosen_rows,
    place,
    regroup,
    rows_between,
    size_of,
    split_rows,
    take,
)
from unstick.problem.evaluation import PROBE_SAMPLES, Evaluation, check_weights
from unstick.problem.layout import Layout
from unstick.problem.memory import largest_batch, plan_graphs, together
from unstick.problem.objective import BatchLoss
from unstick.problem.products import graph_of_a_sample
from unstick.problem.team import Team

__all__ = [
    "decay_for",
    "divided",
    "fitted",
    "in_type",
    "part_of_samples",
    "regrouped",
    "shared_out",
    "spread_decay",
    "weighed",
]

SMALL = 100_000_000  # parameters times samples up to which float64 costs little
SMALL_PARAMETERS = 20_000
LEAST_ROWS = 64  # smaller batches are cut only where memory asks for it


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


def decay_for(layout: Layout, old: Layout, decay: Tensor) -> Tensor:
    """The weight decay [n] of another model: where it is one number, of all; else of equal names and shapes."""
    if bool((decay == decay[0]).all()):
        return decay[:1].expand(layout.n).clone()
    parts = old.named(decay)
    found: list[Tensor] = []
    for name, shape, size in zip(layout.names, layout.shapes, layout.sizes, strict=True):
        known = parts.get(name)
        same = known is not None and known.shape == shape
        found.append(known.reshape(-1) if known is not None and same else decay.new_zeros(size))
    return torch.cat(found)


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


def fitted(evaluation: Evaluation, weigh: Callable[[Batch], float], memory: int) -> Evaluation:
    """The batches cut to what is computed well at once, and to less where the graphs of all do not fit into the memory.

    Args:
        evaluation: Of a loss that is a mean over samples; tested before anything is cut.
        weigh: What the mean of a batch counts for.
        memory: Bytes for graphs.

    Cost:
        One gradient of eight samples.
    """
    per_sample = graph_of_a_sample(evaluation)
    if per_sample is None:
        return evaluation
    sizes = [size_of(batch) or 1 for batch in evaluation.batches]
    vector = evaluation.layout.n * evaluation.dtype.itemsize
    rows = max(LEAST_ROWS, together(per_sample, evaluation.layout.device))
    if not all(plan_graphs(sizes, per_sample=per_sample, vector=vector, memory=memory).kept):
        rows = min(rows, largest_batch(per_sample=per_sample, memory=memory))
    if max(sizes) <= rows or not evaluation.adds_up(weigh):
        return evaluation
    pieces = [piece for batch in evaluation.batches for piece in split_rows(batch, rows)]
    return evaluation.on(pieces, [weigh(piece) for piece in pieces])


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


def shared_out(
    evaluation: Evaluation,
    team: Team,
    weigh: Callable[[Batch], float],
    notes: list[str],
    *,
    by_rows: bool,
) -> Evaluation:
    """This process's part of the batches; all parts together are the whole.

    Args:
        evaluation: All batches, the same in every process.
        team: The processes.
        weigh: What the mean of a batch counts for.
        notes: Where to say how they were shared.
        by_rows: Split the samples evenly, so that one large batch is shared too; else whole batches are dealt out.
    """
    batches = evaluation.batches
    starts = _starts(batches)
    weight, samples = evaluation.weight, evaluation.samples
    first = evaluation.probe(PROBE_SAMPLES).batches[0]
    countable = all(size_of(batch) is not None for batch in batches)
    if by_rows:
        low, high = (-(-samples * rank // team.size) for rank in (team.rank, team.rank + 1))
        cut = [
            (max(start, low), rows_between(batch, start, low, high))
            for start, batch in zip(starts, batches, strict=True)
        ]
        held = [(start, part) for start, part in cut if part is not None]
    else:
        held = list(zip(starts, batches, strict=True))[team.rank :: team.size]
    weights = [weigh(part) for _, part in held]
    counted = [start for (start, _), own in zip(held, weights, strict=True) if own != 0]
    idle = max(0, team.size - (samples if by_rows else len(batches)))
    how = "the samples evenly" if by_rows else "whole batches, as the loss of one is not divided"
    rest = f"; {idle} of them have none" if idle else ""
    notes.append(f"shared by {team.size} processes: {how}{rest}")
    ours = evaluation.on([part for _, part in held], weights)
    return replace(
        ours, team=team, whole=Whole(weight, samples, first, starts=counted, countable=countable)
    )


def part_of_samples(
    evaluation: Evaluation, samples: int, seed: int, weigh: Callable[[Batch], float]
) -> Evaluation:
    """A seeded random subset of the samples of a shared evaluation: the one that a single process would take.

    Raises:
        BadData: None of them counts.
    """
    whole, team = evaluation.whole, evaluation.team
    assert whole is not None, "only a shared evaluation is asked for its part"
    chosen = torch.arange(whole.samples) < samples  # batches that cannot be counted: the first ones
    if whole.countable:
        chosen = chosen_rows(whole.samples, samples, seed)
    before = chosen.cumsum(0) - chosen.long()
    held: list[tuple[int, Batch]] = []
    for start, batch in zip(whole.starts, evaluation.batches, strict=True):
        rows = chosen[start : start + (size_of(batch) or 1)].nonzero().squeeze(1)
        if len(rows):
            held.append((int(before[start]), take(batch, rows) if whole.countable else batch))
    weights = [weigh(part) for _, part in held]
    total = float(team.sum(torch.tensor([sum(weights)], dtype=torch.float64)))
    check_weights([total])
    starts = [start for (start, _), own in zip(held, weights, strict=True) if own != 0]
    part = replace(whole, weight=total, samples=int(chosen.sum()), starts=starts)
    return replace(evaluation.on([part for _, part in held], weights), team=team, whole=part)


def _starts(batches: Sequence[Batch]) -> list[int]:
    """The number of each batch's first sample."""
    sizes = [size_of(batch) or 1 for batch in batches]
    return [sum(sizes[:index]) for index in range(len(sizes))]
