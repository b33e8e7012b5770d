"""The running statistics of batch normalization at other parameters than the model's.

Answers: what would they be there, over the problem's data?
Does not answer: what the loss is with them.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from unstick.errors import BadData, BadModel
from unstick.problem.problem import Problem

__all__ = ["keeping", "recomputed"]

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm


def keeping(model: nn.Module) -> dict[str, BatchNorm]:
    """The batch normalization of a model that keeps statistics, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, BatchNorm) and module.track_running_stats
    }


def recomputed(problem: Problem, theta: Tensor) -> Mapping[str, Tensor]:
    """The running means and variances that the problem's data give at θ, by buffer name; the model keeps its own.

    Each batch is normalized by its own statistics, and counts as it counts in the loss; variances are means of those
    within the batches. Everything but batch normalization acts as in evaluation.

    Args:
        problem: Whose frozen batches are looked at.
        theta: Where, [n].

    Raises:
        BadModel: Several processes share the problem, or its parameters are sharded.
        BadData: A batch has no variance: one sample.

    Cost:
        A third of a gradient.

    References:
        Izmailov, Podoprikhin, Garipov, Vetrov, Wilson (2018), Averaging weights leads to wider optima.
    """
    ours = problem.require_whole("recomputing batch statistics")
    if ours.team.size > 1:
        raise BadModel(
            f"batch statistics are recomputed by one process, and {ours.team.size} share this problem; expected "
            "buffers='travel' or 'keep', or a problem with group='alone'"
        )
    norms = keeping(ours.model)
    found: dict[str, Tensor] = {}

    def add(share: float) -> None:
        for name, module in norms.items():
            for kind in ("running_mean", "running_var"):
                key, seen = f"{name}.{kind}", share * getattr(module, kind).double()
                found[key] = found[key] + seen if key in found else seen

    momenta = [(module, module.momentum) for module in norms.values()]
    with ours.meter.timed(), ours.visit(), torch.no_grad():
        try:
            for module, _ in momenta:
                module.train()
                module.momentum = 1.0  # the statistics of the last batch alone
            for share, batch in zip(ours.shares, ours.batches, strict=True):

                def work(batch: object = batch, share: float = share) -> None:
                    ours.objective.loss_of(batch)
                    add(share)

                ours.at(theta, work)
        except ValueError as error:
            raise BadData(
                f"batch statistics cannot be recomputed: {error}; expected at least two "
                "samples a batch"
            ) from None
        finally:
            for module, momentum in momenta:
                module.momentum = momentum
    ours.meter.count("value", ours.samples)
    return found
