"""Hessian-vector products of one evaluation, four ways.

Answers: H v by double backward on a kept graph, on a rebuilt one, forward-over-reverse, or by differences of gradients.
Does not answer: which way to take; ``hessian`` probes that.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.func import grad, jvp

from unstick.problem.batches import Batch, leaves, size_of
from unstick.problem.evaluation import Evaluation
from unstick.problem.memory import plan_graphs

__all__ = ["Difference", "Forward", "Kept", "Products", "saved_bytes"]

COLUMNS = 64  # most columns in one backward pass


class Products(ABC):
    """Products with the Hessian of the data term at a fixed θ; weight decay is the operator's business.

    Args:
        evaluation: The loss.
        theta: Where, shape [n].
    """

    name: str

    def __init__(self, evaluation: Evaluation, theta: Tensor) -> None:
        self.evaluation = evaluation
        self.theta = theta.detach()

    @abstractmethod
    def times(self, V: Tensor) -> Tensor:
        """H V for the columns of V, shape [n, k]; called inside the guard."""


class Kept(Products):
    """Double backward, the graph of the gradient kept for as many batches as ``memory`` bytes hold beside the work.

    The others are rebuilt for every call. ``batched`` sends many columns through one backward pass, no more than
    ``memory`` holds; ``plan_graphs`` is the arithmetic.
    """

    name = "double backward"

    def __init__(
        self,
        evaluation: Evaluation,
        theta: Tensor,
        memory: float,
        per_sample: float,
        *,
        keep: bool = True,
    ) -> None:
        super().__init__(evaluation, theta)
        self.batched = False
        self._leaf = self.theta.clone().requires_grad_()
        sizes = [size_of(batch) or 1 for batch in evaluation.batches]
        vector = self.theta.nbytes
        plan = plan_graphs(sizes, per_sample=per_sample, vector=vector, memory=memory, keep=keep)
        self._width = min(COLUMNS, plan.columns(memory) or COLUMNS)
        self._kept: list[Tensor | None] = []
        for stays, size, share, batch in zip(
            plan.kept, sizes, evaluation.shares, evaluation.batches, strict=True
        ):
            if not stays:
                self._kept.append(None)
                continue
            self._kept.append(evaluation.at(self._leaf, lambda s=share, b=batch: self._graph(s, b)))
            evaluation.meter.count("gradient", size)

    def _graph(self, share: float, batch: Batch) -> Tensor:
        loss = share * self.evaluation.objective.loss_of(batch)
        if not loss.requires_grad:
            return torch.zeros_like(self.theta)
        return torch.autograd.grad(loss, self._leaf, create_graph=True, materialize_grads=True)[0]

    def times(self, V: Tensor) -> Tensor:
        """H V for the columns of V, shape [n, k]."""
        return self.evaluation.at(self._leaf, lambda: self._times(V))

    def _times(self, V: Tensor) -> Tensor:
        total = torch.zeros_like(V)
        ev = self.evaluation
        for kept, share, batch in zip(self._kept, ev.shares, ev.batches, strict=True):
            size = size_of(batch) or 1
            gradient = self._graph(share, batch) if kept is None else kept
            ev.meter.count("product/rebuilt" if kept is None else "product/kept", size)
            ev.meter.count("product/kept", (V.shape[1] - 1) * size)  # the graph serves all columns
            if not gradient.requires_grad:  # a loss linear in the parameters
                continue
            width = self._width if self.batched else 1
            for some, into in zip(V.split(width, 1), total.split(width, 1), strict=True):
                into += self._through(gradient, some)
        return total

    def _through(self, gradient: Tensor, V: Tensor) -> Tensor:
        """The columns of V sent back through the graph of a gradient, all in one pass."""
        if V.shape[1] == 1:
            ahead = torch.autograd.grad(
                gradient, self._leaf, V[:, 0], retain_graph=True, materialize_grads=True
            )
            return ahead[0].unsqueeze(1)
        together = torch.autograd.grad(
            gradient,
            self._leaf,
            V.T,
            retain_graph=True,
            is_grads_batched=True,
            materialize_grads=True,
        )
        return together[0].T


class Forward(Products):
    """Forward-over-reverse: the directional derivative of the gradient by ``torch.func.jvp``."""

    name = "forward-over-reverse"

    def times(self, V: Tensor) -> Tensor:
        """H V for the columns of V, shape [n, k]."""
        total = torch.zeros_like(V)
        ev = self.evaluation
        for share, batch in zip(ev.shares, ev.batches, strict=True):
            for k in range(V.shape[1]):
                gradient = grad(lambda t, b=batch: ev.batch_loss(t, b))
                total[:, k] += share * jvp(gradient, (self.theta,), (V[:, k],))[1]
        ev.meter.count("product/forward", V.shape[1] * ev.samples)
        return total


class Difference(Products):
    """Central differences of gradients, with a measured error; works with whatever has a gradient."""

    name = "finite differences of gradients"

    def __init__(self, evaluation: Evaluation, theta: Tensor) -> None:
        super().__init__(evaluation, theta)
        # The step that balances truncation (h²) against rounding (eps/h), in units of the parameters' size.
        eps = torch.finfo(self.theta.dtype).eps
        self.step = eps ** (1 / 3) * max(1.0, float(torch.linalg.vector_norm(self.theta)))
        self.error = (
            math.nan
        )  # estimated norm of the error of H v for a unit v, from the first product

    def times(self, V: Tensor) -> Tensor:
        """H V for the columns of V, shape [n, k]."""
        columns = [self._one(V[:, k]) for k in range(V.shape[1])]
        return torch.stack(columns, dim=1)

    def _one(self, v: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(v)
        if float(length) == 0.0:
            return torch.zeros_like(v)
        unit = v / length
        ahead, behind = self.sides(unit, self.step)
        product = (ahead - behind) / (2 * self.step)
        if math.isnan(self.error):
            ahead, behind = self.sides(unit, 2 * self.step)
            wide = (ahead - behind) / (4 * self.step)
            self.error = (
                float(torch.linalg.vector_norm(wide - product)) / 3 + torch.finfo(v.dtype).eps
            )
        return product * length

    def sides(self, unit: Tensor, step: float) -> tuple[Tensor, Tensor]:
        """The gradients of the data term a step ahead and a step behind."""
        return self.gradient(self.theta + step * unit), self.gradient(self.theta - step * unit)

    def gradient(self, theta: Tensor) -> Tensor:
        """The gradient of the data term."""
        decay = self.evaluation.decay
        _, gradient = self.evaluation.unguarded(theta)
        return gradient if decay is None else gradient - decay * theta


def saved_bytes(evaluation: Evaluation) -> float:
    """Bytes that a kept graph takes for each sample, measured on the evaluation's batches.

    Cost:
        One gradient of those batches.
    """
    theta = evaluation.theta().requires_grad_()
    given = {
        leaf.untyped_storage().data_ptr() for batch in evaluation.batches for leaf in leaves(batch)
    }
    held_anyway = [theta, *evaluation.objective.parameters()]
    given.update(tensor.untyped_storage().data_ptr() for tensor in held_anyway)
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in given:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()

    def gradient(batch: Batch) -> Tensor | None:
        loss = evaluation.objective.loss_of(batch)
        if not loss.requires_grad:
            return None
        return torch.autograd.grad(loss, theta, create_graph=True, materialize_grads=True)[0]

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        graphs = [evaluation.at(theta, lambda b=batch: gradient(b)) for batch in evaluation.batches]
    del graphs
    evaluation.meter.count("gradient", evaluation.samples)
    return sum(seen.values()) / evaluation.samples
