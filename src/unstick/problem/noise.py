"""How much the gradient would change with other samples.

Answers: tr Σ, the trace of the covariance of per-sample gradients, in all and in each parameter tensor.
Does not answer: whether a point is critical; sampling error never makes it so.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.utils import _pytree as pytree

from unstick.problem.batches import Batch, merge, size_of, split_rows, take
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
    sizes = [size_of(batch) for batch in evaluation.batches]
    if any(size is None for size in sizes) or sum(size or 0 for size in sizes) < 2:
        return None
    theta = evaluation.theta()
    center = gradient if evaluation.decay is None else gradient - evaluation.decay * theta
    limit = None if everything else accuracy
    with evaluation.meter.timed(), evaluation.visit():
        if not evaluation.training and _separates(evaluation, weigh, theta):
            return _collect(evaluation, weigh, theta, center, seed, limit, 1)
        group = min(MICRO_BATCH, evaluation.samples // 2)  # of a single group nothing can be told
        return _collect(evaluation, weigh, theta, center, seed, limit, group) if group > 1 else None


def _collect(
    evaluation: Evaluation,
    weigh: Weigh,
    theta: Tensor,
    center: Tensor,
    seed: int,
    accuracy: float | None,
    group: int,
) -> GradientNoise:
    total = evaluation.samples
    mean_weight = sum(evaluation.weights) / total
    diagonal = torch.zeros_like(center, dtype=torch.float64)
    count, sums, squares = 0, 0.0, 0.0
    mean = error = math.nan
    for gradients, weights in _draw(evaluation, weigh, theta, seed, group):
        # A group's mean deviates by Σ/group, so group times its square estimates Σ; z = 1 for equal weights.
        z = (weights / (group * mean_weight)).to(gradients.dtype).unsqueeze(1)
        deviations = (z * (gradients - center)).double().square_().mul_(group)
        deviations *= total / max(1, total - group)  # drawn without replacement
        each = deviations.sum(1)
        diagonal += deviations.sum(0)
        count, sums, squares = (
            count + len(each),
            sums + float(each.sum()),
            squares + float(each.square().sum()),
        )
        mean = sums / count
        error = math.sqrt(max(0.0, squares / count - mean**2) / (count - 1)) if count > 1 else mean
        if accuracy is not None and count >= 32 and error <= accuracy * mean:
            break
    used = min(total, count * group)
    traces = evaluation.layout.sums(diagonal / count)
    error = 0.0 if used == total and group == 1 else error
    return GradientNoise(
        mean, error, traces, used, total, "per-sample" if group == 1 else "micro-batches"
    )


def _draw(
    evaluation: Evaluation, weigh: Weigh, theta: Tensor, seed: int, group: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Gradients [c, n] and weights [c] of single samples, or of groups of samples, in random order."""
    sizes = [size_of(batch) or 0 for batch in evaluation.batches]
    order = torch.randperm(sum(sizes), generator=torch.Generator().manual_seed(seed))
    starts = torch.tensor([0, *sizes]).cumsum(0)
    if group > 1:
        for chosen in order.split(group):
            if len(chosen) < group:
                return
            pieces = _gather(evaluation, chosen, starts)
            weights = [weigh(piece) for piece in pieces]
            _, gradient = replace(evaluation, decay=None).on(pieces, weights).unguarded(theta)
            yield (
                gradient.unsqueeze(0),
                torch.tensor([sum(weights)], dtype=torch.float64, device=theta.device),
            )
        return
    rows = max(1, min(256, CHUNK_BYTES // (16 * evaluation.layout.n)))
    for chosen in order.split(max(rows, 64)):
        for piece in _gather(evaluation, chosen, starts):
            for part in split_rows(piece, rows):
                yield _per_sample(evaluation, weigh, theta, part)


def _gather(evaluation: Evaluation, chosen: Tensor, starts: Tensor) -> list[Batch]:
    """The chosen samples: one batch where they fit together, else a piece of each batch."""
    owner = torch.bucketize(chosen, starts[1:], right=True)
    pieces = [
        take(evaluation.batches[index], chosen[owner == index] - starts[index])
        for index in owner.unique().tolist()
    ]
    whole = merge(pieces)
    return pieces if whole is None else [whole]


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
