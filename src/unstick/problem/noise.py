"""How much the gradient would change with other samples.

Answers: tr Σ, the trace of the covariance of per-sample gradients, in all and in each parameter tensor.
Does not answer: whether a point is critical; sampling error never makes it so.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.utils import _pytree as pytree

from unstick.problem.batches import Batch, merge, place, size_of, split_rows, take
from unstick.problem.evaluation import REFUSALS, Evaluation

__all__ = ["GradientNoise", "gradient_noise"]

Weigh = Callable[[Batch], float]

CHUNK_BYTES = 2**27  # per-sample gradients held at once
MICRO_BATCH = 8


@dataclass(frozen=True, slots=True)
class GradientNoise:
    """tr Σ with its own standard error; Σ is the covariance of the gradients of single samples."""

    trace: float
    standard_error: float  # of the trace; 0 when every sample was used
    traces: dict[str, float]  # by parameter tensor
    samples: int  # samples used
    of_samples: int  # samples in all
    method: str  # "per-sample" or "micro-batches"

    def gradient_standard_error(self, name: str | None = None) -> float:
        """√(tr Σ / N): of the whole gradient, or of one tensor's."""
        trace = self.trace if name is None else self.traces[name]
        return math.sqrt(max(0.0, trace) / self.of_samples)


def gradient_noise(
    evaluation: Evaluation,
    weigh: Weigh,
    gradient: Tensor,
    *,
    seed: int,
    accuracy: float = 0.05,
    everything: bool = False,
) -> GradientNoise | None:
    """Estimate tr Σ at the current parameters from samples drawn in random order.

    Args:
        evaluation: The loss; its batches are the samples.
        weigh: What the mean of a batch counts for.
        gradient: The full-data gradient [n], weight decay included.
        seed: Seed of the order in which samples are drawn.
        accuracy: Stop when the standard error of the trace is below this fraction of it.
        everything: Use all samples.

    Returns:
        The noise, or None where the data have fewer than two samples that can be told apart.

    Cost:
        One gradient of every sample drawn; ``accuracy`` 5 % took 64 to 2,000 samples on the tests' models.
    """
    if evaluation.whole is None:
        countable = all(size_of(batch) is not None for batch in evaluation.batches)
    else:
        countable = evaluation.whole.countable
    if not countable or evaluation.all_samples < 2:
        return None
    theta = evaluation.theta()
    center = gradient if evaluation.decay is None else gradient - evaluation.decay * theta
    limit = None if everything else accuracy
    with evaluation.meter.timed(), evaluation.visit():
        separate = not evaluation.training and _separates(evaluation, weigh, theta)
        if evaluation.team.agree(separate):
            return _collect(evaluation, weigh, theta, center, seed, limit)
        group = min(
            MICRO_BATCH, evaluation.all_samples // 2
        )  # of a single group nothing can be told
        if group < 2:
            return None
        return _collect_groups(evaluation, weigh, theta, center, seed, limit, group)


@dataclass(slots=True)
class _Running:
    """Mean and standard error of the estimates of tr Σ so far, one from each group of samples."""

    count: int = 0
    sums: float = 0.0
    squares: float = 0.0

    @property
    def mean(self) -> float:
        return self.sums / self.count

    @property
    def error(self) -> float:
        if self.count < 2:
            return self.mean
        return math.sqrt(
            max(0.0, self.squares / self.count - self.mean * self.mean) / (self.count - 1)
        )

    def known(self, accuracy: float | None) -> bool:
        """Whether the standard error is small enough to stop."""
        return accuracy is not None and self.count >= 32 and self.error <= accuracy * self.mean


def _collect(
    evaluation: Evaluation,
    weigh: Weigh,
    theta: Tensor,
    center: Tensor,
    seed: int,
    accuracy: float | None,
) -> GradientNoise:
    """From the gradients of single samples; each process takes those among its own."""
    team, total = evaluation.team, evaluation.all_samples
    before = evaluation.meter.spent
    diagonal = torch.zeros_like(center, dtype=torch.float64)
    running = _Running()
    rows = max(1, min(256, CHUNK_BYTES // (16 * evaluation.layout.n)))
    for chosen in _order(total, seed).split(max(rows, 64)):
        part = torch.zeros(2, dtype=torch.float64)
        with team.together():
            for piece in _merged([piece for _, piece in _gather(evaluation, chosen)]):
                for some in split_rows(piece, rows):
                    gradients, weights = _per_sample(evaluation, weigh, theta, some)
                    each = _deviations(evaluation, gradients - center, weights, 1)
                    diagonal += each.sum(0)
                    part += torch.stack([each.sum(), each.sum(1).square().sum()]).cpu()
        sums, squares = team.sum(part).tolist()
        running.count += len(chosen)
        running.sums += sums
        running.squares += squares
        if running.known(accuracy):
            break
    evaluation.meter.share(before, team)
    error = 0.0 if running.count == total else running.error
    traces = evaluation.layout.sums(team.sum(diagonal) / running.count)
    return GradientNoise(running.mean, error, traces, running.count, total, "per-sample")


def _collect_groups(
    evaluation: Evaluation,
    weigh: Weigh,
    theta: Tensor,
    center: Tensor,
    seed: int,
    accuracy: float | None,
    group: int,
) -> GradientNoise:
    """From the gradients of groups of samples: as many groups at once as there are processes, one for each.

    A group's samples may lie with several processes. They are sent around, as the loss of a group need not be the sum
    of its parts'.
    """
    team, total = evaluation.team, evaluation.all_samples
    before = evaluation.meter.spent
    diagonal = torch.zeros_like(center, dtype=torch.float64)
    running = _Running()
    groups = [chosen for chosen in _order(total, seed).split(group) if len(chosen) == group]
    alone = replace(evaluation, decay=None)
    for first in range(0, len(groups), team.size):
        at_once = groups[first : first + team.size]
        pieces = _sent_around(evaluation, at_once)
        found = torch.zeros(team.size, dtype=torch.float64)
        mine = torch.zeros_like(diagonal)
        with team.together():
            if team.rank < len(at_once):
                weights = [weigh(piece) for piece in pieces]
                gradient = alone.on(pieces, weights).unguarded(theta)[1]
                counted = torch.tensor([sum(weights)], dtype=torch.float64, device=theta.device)
                mine = _deviations(evaluation, (gradient - center).unsqueeze(0), counted, group)[0]
                found[team.rank] = mine.sum().cpu()
        for rank, each in enumerate(team.sum(found).tolist()[: len(at_once)]):
            # In the order of one process, so that all that is used, and paid for, is what it would use.
            running.count += 1
            running.sums += each
            running.squares += each**2
            if rank == team.rank:
                diagonal += mine
            if running.known(accuracy):
                break
        if running.known(accuracy):
            break
    evaluation.meter.recount(before, "gradient", running.count * group)
    traces = evaluation.layout.sums(team.sum(diagonal) / running.count)
    used = min(total, running.count * group)
    return GradientNoise(running.mean, running.error, traces, used, total, "micro-batches")


def _deviations(evaluation: Evaluation, apart: Tensor, weights: Tensor, group: int) -> Tensor:
    """What each group's mean, ``apart`` [c, n] from the full gradient, tells of Σ's diagonal, float64 [c, n].

    A group's mean deviates by Σ/group, so group times its square estimates Σ.
    """
    total = evaluation.all_samples
    mean_weight = evaluation.weight / total
    z = (weights / (group * mean_weight)).to(apart.dtype).unsqueeze(1)  # 1 for equal weights
    deviations = (z * apart).double().square_().mul_(group)
    deviations *= total / max(1, total - group)  # drawn without replacement
    return deviations


def _order(total: int, seed: int) -> Tensor:
    return torch.randperm(total, generator=torch.Generator().manual_seed(seed))


def _gather(evaluation: Evaluation, chosen: Tensor) -> list[tuple[int, Batch]]:
    """The chosen samples that this process holds: a piece of each batch, with the number of that batch's first."""
    sizes = [size_of(batch) or 0 for batch in evaluation.batches]
    whole = evaluation.whole
    starts = [sum(sizes[:k]) for k in range(len(sizes))] if whole is None else whole.starts
    pieces: list[tuple[int, Batch]] = []
    for start, size, batch in zip(starts, sizes, evaluation.batches, strict=True):
        inside = chosen[(chosen >= start) & (chosen < start + size)]
        if len(inside):
            pieces.append((start, take(batch, inside - start)))
    return pieces


def _merged(pieces: list[Batch]) -> list[Batch]:
    """One batch where the pieces fit together."""
    whole = merge(pieces) if pieces else None
    return pieces if whole is None else [whole]


def _sent_around(evaluation: Evaluation, groups: list[Tensor]) -> list[Batch]:
    """The samples of this process's group, whoever holds them; none where there is no group for it."""
    team = evaluation.team
    if team.size == 1:
        return _merged([piece for _, piece in _gather(evaluation, groups[0])])
    cpu = torch.device("cpu")
    held = [
        [
            (start, place(piece, cpu, evaluation.dtype))
            for start, piece in _gather(evaluation, group)
        ]
        for group in groups
    ]
    everybody = team.gather(held)
    if team.rank >= len(groups):
        return []
    pieces = sorted(
        (piece for said in everybody for piece in said[team.rank]), key=lambda piece: piece[0]
    )
    device = evaluation.layout.device
    return _merged([place(piece, device, evaluation.dtype) for _, piece in pieces])


def _per_sample(
    evaluation: Evaluation, weigh: Weigh, theta: Tensor, batch: Batch
) -> tuple[Tensor, Tensor]:
    def loss(point: Tensor, sample: Batch) -> Tensor:
        return evaluation.batch_loss(point, _tensors(sample, lambda leaf: leaf.unsqueeze(0)))

    axes = pytree.tree_map(lambda leaf: 0 if isinstance(leaf, Tensor) else None, batch)
    gradients = vmap(grad(loss), (None, axes))(theta, batch)
    size = size_of(batch) or 0
    evaluation.meter.count("gradient", size)
    weights = [weigh(_tensors(batch, lambda leaf, i=i: leaf[i : i + 1])) for i in range(size)]
    # A sample that counts for nothing (an ignored target) has the mean 0/0.
    counted = torch.tensor(weights, dtype=torch.float64, device=theta.device)
    return torch.where((counted > 0).unsqueeze(1), gradients, 0.0), counted


def _separates(evaluation: Evaluation, weigh: Weigh, theta: Tensor) -> bool:
    """Whether gradients of single samples can be had, and make up the gradient of a batch."""
    part = replace(evaluation.probe(64), decay=None)
    try:
        gradients, weights = _per_sample(evaluation, weigh, theta, part.batches[0])
        if not weights.sum() > 0:
            return False
        mean = (weights / weights.sum()).to(gradients.dtype) @ gradients
        slack = torch.finfo(mean.dtype).eps ** 0.5 * float(gradients.norm())
        return float((mean - part.unguarded(theta)[1]).norm()) <= slack
    except REFUSALS:  # what vmap cannot batch
        return False


def _tensors(batch: Batch, change: Callable[..., Tensor]) -> Batch:
    return pytree.tree_map_only(Tensor, change, batch)
