"""Hessian-vector products of one evaluation, five ways.

Answers: H v by double backward on a kept graph or on a rebuilt one, by a linearized gradient, forward-over-reverse, or
by differences of gradients.
Does not answer: which way to take; ``hessian`` probes that.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from dataclasses import replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.func import grad, jvp, vmap

from unstick.errors import UnstickError
from unstick.problem.batches import Batch, leaves, size_of
from unstick.problem.evaluation import REFUSALS, Evaluation, Meter
from unstick.problem.linearization import Linearization, form, linearize
from unstick.problem.memory import plan_graphs, together

__all__ = [
    "Difference",
    "Forward",
    "Kept",
    "Linearized",
    "Products",
    "Stored",
    "first_step",
    "graph_of_a_sample",
    "held_anyway",
    "saved_bytes",
    "settle",
]

Result = TypeVar("Result")
Along = Callable[..., Tensor]

COLUMNS = 256  # most columns at once
QUARTERINGS = 6  # of a finite step, at most: to a four-thousandth
FEW = 8  # samples that tell what the graph of one takes: the memory may not hold many more


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


class Stored(Products):
    """Products by something made once for every batch, kept for as many batches as ``memory`` bytes hold beside the work.

    For the other batches it is made anew in every call. ``batched`` sends many columns through at once, no more than
    ``memory`` holds or caches like; ``plan_graphs`` is the arithmetic.

    Args:
        evaluation: The loss.
        theta: Where, shape [n].
        memory: Bytes for all of it.
        per_sample: Bytes that are kept for each sample.
        keep: Whether any are.
    """

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
        sizes = [size_of(batch) or 1 for batch in evaluation.batches]
        vector = self.theta.nbytes
        plan = plan_graphs(sizes, per_sample=per_sample, vector=vector, memory=memory, keep=keep)
        most = together(per_sample * max(sizes, default=1), self.theta.device)
        self.width = min(COLUMNS, most, plan.columns(memory) or COLUMNS)
        self._kept: list[Any] = []
        for index, (stays, size) in enumerate(zip(plan.kept, sizes, strict=True)):
            self._kept.append(self.within(lambda i=index: self.make(i)) if stays else None)
            if stays:
                evaluation.meter.count("gradient", size)

    def times(self, V: Tensor) -> Tensor:
        """H V for the columns of V, shape [n, k]."""
        return self.within(lambda: self._times(V.T.contiguous())).T

    def _times(self, rows: Tensor) -> Tensor:
        total = torch.zeros_like(rows)
        width = self.width if self.batched else 1
        for index, (kept, batch) in enumerate(
            zip(self._kept, self.evaluation.batches, strict=True)
        ):
            size = size_of(batch) or 1
            count = self.evaluation.meter.count
            count("product/rebuilt" if kept is None else "product/kept", size)
            count("product/kept", (len(rows) - 1) * size)  # it serves all columns
            made = self.make(index) if kept is None else kept
            for some, into in zip(rows.split(width), total.split(width), strict=True):
                self.add(made, some, into)
        return total

    def within(self, work: Callable[[], Result]) -> Result:
        """What everything has to be done in."""
        return work()

    @abstractmethod
    def make(self, index: int) -> Any:
        """What is kept for a batch."""

    @abstractmethod
    def add(self, made: Any, rows: Tensor, into: Tensor) -> None:
        """Add the products of one batch with the rows, shape [k, n]."""


class Kept(Stored):
    """Double backward on the graph of the gradient."""

    name = "double backward"

    def within(self, work: Callable[[], Result]) -> Result:
        """With the parameters in place: checkpointing runs the model again in a backward pass."""
        return self.evaluation.at(self._leaf, work)

    @cached_property
    def _leaf(self) -> Tensor:
        return self.theta.clone().requires_grad_()

    def make(self, index: int) -> Tensor:
        """The gradient of a batch's part of the loss, with its graph."""
        ev = self.evaluation
        loss = ev.shares[index] * ev.objective.loss_of(ev.batches[index])
        if not loss.requires_grad:
            return torch.zeros_like(self.theta)
        return torch.autograd.grad(loss, self._leaf, create_graph=True, materialize_grads=True)[0]

    def add(self, made: Tensor, rows: Tensor, into: Tensor) -> None:
        """Send the rows back through the graph, all in one pass."""
        if not made.requires_grad:  # a loss linear in the parameters
            return
        alone = len(rows) == 1
        into += torch.autograd.grad(
            made,
            self._leaf,
            rows[0] if alone else rows,
            retain_graph=True,
            is_grads_batched=not alone,
            materialize_grads=True,
        )[0]


class Linearized(Stored):
    """The record of the gradient's directional derivative, run as far as it does not depend on the direction.

    Args:
        evaluation: The loss.
        theta: Where, shape [n].
        memory: Bytes for all of it.
        per_sample: Bytes that are kept for each sample.
        records: Records made before, by the form of the batches they serve; more are added.
    """

    name = "linearized gradient"

    def __init__(
        self,
        evaluation: Evaluation,
        theta: Tensor,
        memory: float,
        per_sample: float,
        records: dict[Hashable, Linearization] | None = None,
    ) -> None:
        self.records = {} if records is None else records
        self._forms = [form(batch) for batch in evaluation.batches]
        for batch, key in zip(evaluation.batches, self._forms, strict=True):
            if key not in self.records:
                self.records[key] = linearize(evaluation.batch_loss, theta.detach(), batch)
                evaluation.meter.count("product/forward", size_of(batch) or 1)
        super().__init__(evaluation, theta, memory, per_sample)

    @property
    def kept_bytes(self) -> int:
        """Bytes of what is kept, beside the batches and the parameters."""
        given = held_anyway(self.evaluation, self.theta)
        tensors = [tensor for made in self._kept if made is not None for tensor in made[0]]
        kept = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
        return sum(size for pointer, size in kept.items() if pointer not in given)

    def make(self, index: int) -> tuple[tuple[Tensor, ...], Along, float]:
        """Whatever the products with a batch's Hessian have in common, what is left to do, and the batch's share."""
        ev, record = self.evaluation, self.records[self._forms[index]]
        with torch.no_grad():
            common = record.ahead(self.theta, *leaves(ev.batches[index]))
        return common, record.along, ev.shares[index]

    def add(
        self, made: tuple[tuple[Tensor, ...], Along, float], rows: Tensor, into: Tensor
    ) -> None:
        """Do the rest for the rows, all at once."""
        common, along, share = made
        with torch.no_grad():
            if len(rows) == 1:
                into[0].add_(along(rows[0], *common), alpha=share)
            else:
                into.add_(vmap(lambda v: along(v, *common))(rows), alpha=share)


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
        self.step = first_step(self.theta.dtype, float(torch.linalg.vector_norm(self.theta)))
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
        if math.isnan(self.error):
            self.step, self.error, product = settle(
                lambda step: self.quotient(unit, step),
                self.step,
                lambda w: float(torch.linalg.vector_norm(w)),
            )
            return product * length
        return self.quotient(unit, self.step) * length

    def quotient(self, unit: Tensor, step: float) -> Tensor:
        """The change of the gradient over two steps, divided by them."""
        ahead, behind = self.sides(unit, step)
        return (ahead - behind) / (2 * step)

    def sides(self, unit: Tensor, step: float) -> tuple[Tensor, Tensor]:
        """The gradients of the data term a step ahead and a step behind."""
        return self.gradient(self.theta + step * unit), self.gradient(self.theta - step * unit)

    def gradient(self, theta: Tensor) -> Tensor:
        """The gradient of the data term."""
        decay = self.evaluation.decay
        _, gradient = self.evaluation.unguarded(theta)
        return gradient if decay is None else gradient - decay * theta


def first_step(dtype: torch.dtype, length: float) -> float:
    """The step that balances truncation (h²) against rounding (eps/h), in units of the parameters' length."""
    return torch.finfo(dtype).eps ** (1 / 3) * max(1.0, length)


def settle(
    quotient: Callable[[float], Tensor], first: float, norm: Callable[[Tensor], float]
) -> tuple[float, float, Tensor]:
    """The step at which a central difference is about as exact as it gets.

    From four times the first step on it is quartered, until the quotients come together no further: truncation has
    sunk by 16 each time, rounding grown by 4.

    Args:
        quotient: Of a step.
        first: Where to look, ``first_step``.
        norm: Of a quotient.

    Returns:
        The step, the estimated norm of the error there, and the quotient.

    Cost:
        Three to eight quotients.
    """
    step = first
    wide, here = quotient(4 * step), quotient(step)
    apart = norm(wide - here)
    for _ in range(QUARTERINGS):
        finer = quotient(step / 4)
        gap = norm(here - finer)
        if math.isfinite(apart) and not gap < apart / 2:
            break
        step, here, apart = step / 4, finer, gap
    else:
        gap = apart
    return step, max(apart / 15, gap / 4) + torch.finfo(here.dtype).eps, here


def saved_bytes(evaluation: Evaluation) -> float:
    """Bytes that a kept graph takes for each sample, measured on the evaluation's batches.

    Cost:
        One gradient of those batches.
    """
    theta = evaluation.theta().requires_grad_()
    given = held_anyway(evaluation, theta)
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


def graph_of_a_sample(evaluation: Evaluation) -> float | None:
    """``saved_bytes`` by a few samples, off the account; ``None`` where the loss has no second derivative."""
    few = replace(evaluation.probe(FEW), meter=Meter(1))
    try:
        with few.visit():
            return saved_bytes(few)
    except (UnstickError, *REFUSALS):
        return None


def held_anyway(evaluation: Evaluation, theta: Tensor) -> set[int]:
    """Where the tensors are that no graph takes memory for: batches, parameters, buffers."""
    batches = [leaf for batch in evaluation.batches for leaf in leaves(batch)]
    others = (*evaluation.objective.parameters(), *evaluation.objective.buffers())
    return {tensor.untyped_storage().data_ptr() for tensor in (theta, *batches, *others)}
