# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false
# torch's operations on lists of tensors, which its own optimizers are built on, have no public names.
"""An optimizer made for the first epochs of large-batch training: RMSprop that turns into SGD.

Answers: how do the two share a step, and what is the share at this epoch?
Does not answer: whether that pays; a warm-up of the learning rate (``schedules``) is the plainer remedy.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from unstick.errors import BadRecipe
from unstick.training.layerwise import TensorWise
from unstick.training.settings import check_below_one, check_not_negative, check_positive

__all__ = ["RMSpropWarmUp", "sgd_share"]


class RMSpropWarmUp(TensorWise):
    """RMSprop at first, momentum SGD in the end, one turning into the other as the epochs go.

    m ← μ₂m + (1 − μ₂)g²; Δ ← μ₁Δ − (α_SGD + α_RMSprop/(√m + ε))g; θ ← θ + ηΔ, with α_SGD = ``sgd_share`` of the
    epoch and α_RMSprop = (1 − α_SGD)·lr_rmsprop/η. Call ``set_epoch`` before the updates of an epoch, or before
    each update with a fraction. While η is 0 nothing moves and nothing is remembered.

    Args:
        params: As for any optimizer of torch.
        lr: η, the learning rate of SGD.
        lr_rmsprop: The learning rate of RMSprop.
        momentum: μ₁.
        smoothing: μ₂.
        eps: ε, outside the root and above 0.
        weight_decay: Coupled: weight_decay·θ is added to g.
        center: Epoch at which half of the step is SGD's.
        period: Half of it is the time from there to all SGD.
        skip_vectors: Tensors of at most one dimension are not decayed.

    Raises:
        BadRecipe: A setting out of range.

    References:
        Akiba, Suzuki, Fukuda (2017), Extremely large minibatch SGD: training ResNet-50 on ImageNet in 15 minutes.

    Example:
        >>> x = torch.nn.Parameter(torch.zeros(1))
        >>> optimizer = RMSpropWarmUp([x], lr=0.1)
        >>> optimizer.set_epoch(20)
        >>> x.grad = torch.ones(1)
        >>> optimizer.step()  # all SGD by now
        >>> round(x.item(), 6)
        -0.1
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        *,
        lr_rmsprop: float = 3e-4,
        momentum: float = 0.9,
        smoothing: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        center: float = 10.0,
        period: float = 5.0,
        skip_vectors: bool = False,
    ) -> None:
        check_not_negative(lr=lr, lr_rmsprop=lr_rmsprop, weight_decay=weight_decay)
        check_positive(eps=eps)
        check_below_one(momentum=momentum, smoothing=smoothing)
        sgd_share(0.0, center=center, period=period)
        super().__init__(
            params,
            {
                "lr": lr,
                "lr_rmsprop": lr_rmsprop,
                "momentum": momentum,
                "smoothing": smoothing,
                "eps": eps,
                "weight_decay": weight_decay,
                "center": center,
                "period": period,
                "skip_vectors": skip_vectors,
                "epoch": 0.0,
            },
        )

    def set_epoch(self, epoch: float) -> None:
        """Say which epoch the next updates belong to, fractions included; kept in ``state_dict``.

        Raises:
            BadRecipe: Not a finite number ≥ 0.
        """
        check_not_negative(epoch=epoch)
        for group in self.param_groups:
            group["epoch"] = float(epoch)

    def _move(
        self,
        group: dict[str, Any],
        parameters: list[Tensor],
        gradients: list[Tensor],
        *,
        plain: bool,
    ) -> None:
        if group["lr"] == 0:
            return
        share = sgd_share(group["epoch"], center=group["center"], period=group["period"])
        adaptive = (1 - share) * group["lr_rmsprop"] / group["lr"]
        if group["weight_decay"] and not plain:
            gradients = list(torch._foreach_add(gradients, parameters, alpha=group["weight_decay"]))
        squares = self._memory("square", parameters)
        torch._foreach_mul_(squares, group["smoothing"])
        torch._foreach_addcmul_(squares, gradients, gradients, value=1 - group["smoothing"])
        velocity = self._memory("velocity", parameters)
        torch._foreach_mul_(velocity, group["momentum"])
        torch._foreach_add_(velocity, gradients, alpha=-share)
        if adaptive:  # else it is all SGD by now
            below = list(torch._foreach_sqrt(squares))
            torch._foreach_add_(below, group["eps"])
            torch._foreach_addcdiv_(velocity, gradients, below, value=-adaptive)
        torch._foreach_add_(parameters, velocity, alpha=group["lr"])


def sgd_share(epoch: float, *, center: float = 10.0, period: float = 5.0) -> float:
    """The part α_SGD of SGD in a step of ``RMSpropWarmUp``: 0 long before ``center``, ½ there, 1 from half a period on.

    ½·exp(2(e − center)/period) before the center, then ½ + (e − center)/period up to 1. The slope 1/period is the
    one that joins both pieces and their slopes; with 2/period, as some code has it, the share overshoots to 1.5.

    Args:
        epoch: e, fractions included.
        center: As in ``RMSpropWarmUp``.
        period: As in ``RMSpropWarmUp``.

    Raises:
        BadRecipe: ``center`` is not finite, or ``period`` is not a positive number.

    References:
        Akiba, Suzuki, Fukuda (2017), Extremely large minibatch SGD: training ResNet-50 on ImageNet in 15 minutes.

    Example:
        >>> [sgd_share(epoch) for epoch in (10, 11, 12, 12.5, 90)]
        [0.5, 0.7, 0.9, 1.0, 1.0]
    """
    check_positive(period=period)
    if not math.isfinite(center):
        raise BadRecipe(f"center is {center}; expected a finite epoch")
    if epoch < center:
        return 0.5 * math.exp(2 * (epoch - center) / period)
    return min(1.0, 0.5 + (epoch - center) / period)
