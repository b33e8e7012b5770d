# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false
# torch's operations on lists of tensors, which its own optimizers are built on, have no public names.
"""Optimizers made for large batches, in which every tensor has a step length of its own: LARS and LAMB.

Answers: how does a step follow from gradients and the lengths of the tensors they move?
Does not answer: whether that pays: at one budget, tuned alike, plain momentum is as good in many studies.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, cast, overload

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from unstick.errors import BadModel, BadRecipe
from unstick.training.settings import check_below_one, check_not_negative, check_positive

__all__ = ["LAMB", "LARS", "TensorWise"]


class TensorWise(Optimizer, ABC):
    """An optimizer whose step moves lists of tensors of one device, type and treatment."""

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Move every parameter that has a gradient.

        Args:
            closure: Computes the loss and its gradients again; called once, before the move.

        Returns:
            What ``closure`` returned.

        Raises:
            BadModel: A gradient is sparse; nothing has moved.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        lists = [(group, _alike(group)) for group in self.param_groups]
        for group, alike in lists:
            for (_device, _dtype, plain), parameters in alike.items():
                gradients = [cast(Tensor, parameter.grad) for parameter in parameters]
                self._move(group, parameters, gradients, plain=plain)
        return loss

    @abstractmethod
    def _move(
        self,
        group: dict[str, Any],
        parameters: list[Tensor],
        gradients: list[Tensor],
        *,
        plain: bool,
    ) -> None:
        """Move a list of tensors; plain ones without decay and without a step length of their own."""

    def _memory(self, name: str, parameters: list[Tensor]) -> list[Tensor]:
        """A tensor of the optimizer's state for each parameter; zero at first."""
        for parameter in parameters:
            if name not in self.state[parameter]:
                self.state[parameter][name] = torch.zeros_like(parameter)
        return [self.state[parameter][name] for parameter in parameters]


class LARS(TensorWise):
    """Momentum SGD in which every tensor's step is a fixed part of its own length.

    With η the trust coefficient, β the weight decay and γ the learning rate, for each tensor w with gradient g:
    λ = η‖w‖/(‖g‖ + β‖w‖); v ← momentum·v + γλ(g + βw); w ← w − v. Where ‖w‖ or the denominator is 0, λ is 1.

    Args:
        params: As for any optimizer of torch.
        lr: γ; a good one is a hundred times that of SGD or more, for λ is about η.
        momentum: Part of the last step that is taken again.
        weight_decay: β, coupled: added to the gradient before the step length is applied.
        trust: η.
        lr_in_momentum: As the paper writes it: a step keeps the learning rate it was made with. False:
            v ← momentum·v + λ(g + βw), w ← w − γv, as torch's SGD does and most code of LARS; the two differ
            once the learning rate changes.
        skip_vectors: Tensors of at most one dimension, such as biases and the parameters of normalization, take plain
            momentum steps without decay. The paper treats all tensors alike, and so does the default here.

    Raises:
        BadRecipe: A setting out of range.

    References:
        You, Gitman, Ginsburg (2017), Large batch training of convolutional networks.

    Example:
        >>> w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> w.grad = torch.tensor([0.0, 2.0])
        >>> LARS([w], lr=1.0, trust=0.1, weight_decay=0.0).step()
        >>> [round(x, 6) for x in w.tolist()]
        [3.0, 3.5]
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        *,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        trust: float = 1e-3,
        lr_in_momentum: bool = True,
        skip_vectors: bool = False,
    ) -> None:
        check_not_negative(lr=lr, weight_decay=weight_decay, trust=trust)
        check_below_one(momentum=momentum)
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "weight_decay": weight_decay,
                "trust": trust,
                "lr_in_momentum": lr_in_momentum,
                "skip_vectors": skip_vectors,
            },
        )

    def _move(
        self,
        group: dict[str, Any],
        parameters: list[Tensor],
        gradients: list[Tensor],
        *,
        plain: bool,
    ) -> None:
        steps, decay = gradients, group["weight_decay"]
        if not plain:
            lengths = _norms(parameters)
            below = _norms(gradients) + decay * lengths
            defined = (lengths > 0) & (below > 0)
            rates = torch.where(defined, group["trust"] * lengths / below, 1.0)
            steps = list(torch._foreach_add(gradients, parameters, alpha=decay))
            torch._foreach_mul_(steps, list(rates.unbind()))
        inside, outside = (group["lr"], 1.0) if group["lr_in_momentum"] else (1.0, group["lr"])
        velocity = self._memory("velocity", parameters)
        torch._foreach_mul_(velocity, group["momentum"])
        torch._foreach_add_(velocity, steps, alpha=inside)
        torch._foreach_add_(parameters, velocity, alpha=-outside)


class LAMB(TensorWise):
    """Adam in which every tensor's step is as long as the tensor, times the learning rate.

    r = m̂/(√v̂ + ε) with Adam's corrected moments; x ← x − lr·φ(‖x‖)/‖r + λx‖·(r + λx) for each tensor x. Where
    φ(‖x‖) or ‖r + λx‖ is 0, the quotient is 1.

    Args:
        params: As for any optimizer of torch.
        lr: The learning rate, the part of its own length that a tensor moves.
        betas: Parts of the two moments that are kept.
        eps: ε, above 0.
        weight_decay: λ, inside the quotient.
        clamp: (low, high): φ(z) = min(max(z, low), high). None: φ(z) = z.
        bias_correction: False: m and v in place of m̂ and v̂, as an earlier version of the paper had it.
        skip_vectors: Tensors of at most one dimension take Adam's steps without decay. The paper treats all tensors
            alike, and so does the default here.

    Raises:
        BadRecipe: A setting out of range.

    References:
        You et al. (2020), Large batch optimization for deep learning: training BERT in 76 minutes, algorithm 2.

    Example:
        >>> x = torch.nn.Parameter(torch.tensor([3.0, 4.0]).double())
        >>> x.grad = torch.tensor([0.0, 2.0]).double()
        >>> LAMB([x], lr=0.1, weight_decay=0.0).step()  # r = (0, 1)
        >>> [round(value, 6) for value in x.tolist()]
        [3.0, 3.5]
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        clamp: tuple[float, float] | None = None,
        bias_correction: bool = True,
        skip_vectors: bool = False,
    ) -> None:
        check_not_negative(lr=lr, weight_decay=weight_decay)
        check_positive(eps=eps)
        check_below_one(**{"betas[0]": betas[0], "betas[1]": betas[1]})
        if clamp is not None and not 0 <= clamp[0] <= clamp[1]:
            raise BadRecipe(f"clamp is {clamp}; expected (low, high) with 0 ≤ low ≤ high, or None")
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "clamp": clamp,
                "bias_correction": bias_correction,
                "skip_vectors": skip_vectors,
            },
        )

    def _move(
        self,
        group: dict[str, Any],
        parameters: list[Tensor],
        gradients: list[Tensor],
        *,
        plain: bool,
    ) -> None:
        first, second = group["betas"]
        means = self._memory("mean", parameters)
        squares = self._memory("square", parameters)
        torch._foreach_lerp_(means, gradients, 1 - first)
        torch._foreach_mul_(squares, second)
        torch._foreach_addcmul_(squares, gradients, gradients, value=1 - second)
        steps = self._corrected(group, parameters, means, squares)
        if not plain:
            torch._foreach_add_(steps, parameters, alpha=group["weight_decay"])
            lengths, low_high = _norms(parameters), group["clamp"]
            if low_high is not None:
                lengths = lengths.clamp(*low_high)
            below = _norms(steps)
            rates = torch.where((lengths > 0) & (below > 0), lengths / below, 1.0)
            torch._foreach_mul_(steps, list(rates.unbind()))
        torch._foreach_add_(parameters, steps, alpha=-group["lr"])

    def _corrected(
        self,
        group: dict[str, Any],
        parameters: list[Tensor],
        means: list[Tensor],
        squares: list[Tensor],
    ) -> list[Tensor]:
        """m̂/(√v̂ + ε) as new tensors; each parameter counts its own updates."""
        first, second = group["betas"]
        counts = [self.state[parameter].get("updates", 0) + 1 for parameter in parameters]
        for parameter, count in zip(parameters, counts, strict=True):
            self.state[parameter]["updates"] = count
        below = list(torch._foreach_sqrt(squares))
        if group["bias_correction"]:
            torch._foreach_div_(below, [math.sqrt(1 - second**count) for count in counts])
            means = list(torch._foreach_div(means, [1 - first**count for count in counts]))
        torch._foreach_add_(below, group["eps"])
        return list(torch._foreach_div(means, below))


def _alike(
    group: Mapping[str, Any],
) -> dict[tuple[torch.device, torch.dtype, bool], list[Tensor]]:
    """The parameters of a group that have gradients, by device, type, and whether they are taken plainly."""
    lists: dict[tuple[torch.device, torch.dtype, bool], list[Tensor]] = {}
    for parameter in group["params"]:
        if parameter.grad is None:
            continue
        if parameter.grad.is_sparse:
            raise BadModel(
                f"a parameter of shape {list(parameter.shape)} has a sparse gradient; expected a dense one: use "
                "sparse=False in nn.Embedding, or torch.optim.SparseAdam for it"
            )
        plain = bool(group.get("skip_vectors")) and parameter.ndim <= 1
        lists.setdefault((parameter.device, parameter.dtype, plain), []).append(parameter)
    return lists


def _norms(tensors: list[Tensor]) -> Tensor:
    """The Euclidean length of each tensor, shape [k]; no length leaves its device."""
    return torch.stack(list(torch._foreach_norm(tensors)))
