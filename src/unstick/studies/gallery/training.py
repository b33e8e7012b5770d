"""A training as a recipe of plain torch: the same seed always ends at the same bits, recorded update by update.

Answers: what run does this model leave behind on these data after so many updates?
Does not answer: whether that run stalls, or why; ``stalls`` and ``healthy`` label them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from unstick.diagnosis.run import Run
from unstick.errors import NonFinite
from unstick.problem.guard import put_back_randomness
from unstick.problem.problem import Problem
from unstick.trace import RunTrace
from unstick.training.order import BatchOrder, generator_for

__all__ = ["Descent", "Loss", "Training"]

Data = Callable[[], tuple[Tensor, Tensor]]
Loss = Callable[[Tensor, Tensor], Tensor]
Optimizing = Callable[[Iterable[Tensor]], Optimizer]


@dataclass(frozen=True, slots=True)
class Training:
    """A model, its data, and how it is trained.

    Attributes:
        data: Makes the inputs [N, …] and targets [N, …].
        model: Makes the model of a seed, at its first parameters.
        optimizer: Makes torch's optimizer of the trainable parameters.
        updates: How many are made.
        batch_size: Of each; None: all samples.
        loss: ``loss(model(inputs), targets)``, a mean over samples.
        scheduler: Makes torch's scheduler, which steps after every update.
        clip_norm: As for ``clip_grad_norm_``.
    """

    data: Data
    model: Callable[[int], nn.Module]
    optimizer: Optimizing
    updates: int
    batch_size: int | None = None
    loss: Loss = nn.CrossEntropyLoss()  # noqa: RUF009 - it holds no state
    scheduler: Callable[[Optimizer], Any] | None = None
    clip_norm: float | None = None

    def run(self, seed: int, *, updates: int | None = None) -> Run:
        """Train from the first parameters of this seed.

        Args:
            seed: Of first parameters, order of samples and dropout.
            updates: Instead of ``self.updates``.

        Returns:
            The run as a user would hand it over, its optimizer with its memory. Where the loss stopped being finite,
            history ends with that, and the rest is as it was where loss and gradient were finite for the last time.

        Raises:
            NonFinite: They are not even before the first update.
        """
        inputs, targets = self.data()
        limit = self.updates if updates is None else updates
        model, optimizer, scheduler, trace = self._go(seed, limit)
        done = len(trace.loss)
        if trace.loss and not isfinite(trace.loss[-1]):
            done = max(0, done - 2)  # where the last finite loss was computed
            model, optimizer, scheduler, _ = self._go(seed, done)
        while True:
            try:
                problem = Problem(model, (inputs, targets), self.loss)
                break
            except NonFinite:
                done -= 1
                if done < 0:
                    raise
                model, optimizer, scheduler, _ = self._go(seed, done)
        size = len(inputs) if self.batch_size is None else self.batch_size
        return Run(problem, optimizer, size, trace, scheduler, self.clip_norm)

    def _go(self, seed: int, updates: int) -> tuple[nn.Module, Optimizer, Any, RunTrace]:
        inputs, targets = self.data()
        with put_back_randomness([]):
            torch.default_generator.manual_seed(generator_for("model", seed).initial_seed())
            model = self.model(seed)
            optimizer = self.optimizer([p for p in model.parameters() if p.requires_grad])
            scheduler = None if self.scheduler is None else self.scheduler(optimizer)
            order = BatchOrder(len(inputs), self.batch_size, seed=seed)
            model.train()

            def loss() -> tuple[Tensor, int]:
                if order.whole:
                    return self.loss(model(inputs), targets), len(inputs)
                rows = order.next()
                return self.loss(model(inputs[rows]), targets[rows]), len(rows)

            trace = _follow(loss, optimizer, updates, scheduler, self.clip_norm)
        return model, optimizer, scheduler, trace


@dataclass(frozen=True, slots=True)
class Descent:
    """A scalar function without data, minimized from a point.

    Attributes:
        function: Maps [n] to a scalar.
        start: The point, n numbers.
        optimizer: As for ``Training``.
        updates: How many are made.
    """

    function: Callable[[Tensor], Tensor]
    start: tuple[float, ...]
    optimizer: Optimizing
    updates: int

    def run(self, seed: int, *, updates: int | None = None) -> Run:
        """Descend; the seed changes nothing."""
        del seed
        point = torch.tensor(self.start, dtype=torch.float64)
        problem = Problem.from_function(self.function, point, lower_bound=0.0)
        optimizer = self.optimizer(problem.model.parameters())
        x = problem.model.get_parameter("x")
        trace = _follow(
            lambda: (self.function(x), None),
            optimizer,
            self.updates if updates is None else updates,
        )
        return Run(problem, optimizer, history=trace)


def _follow(
    loss: Callable[[], tuple[Tensor, int | None]],
    optimizer: Optimizer,
    updates: int,
    scheduler: Any = None,
    clip_norm: float | None = None,
) -> RunTrace:
    """Update so often, or until the loss is not finite, and record each."""
    trace = RunTrace()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for _ in range(updates):
        optimizer.zero_grad()
        value, size = loss()
        rate, number, norm = float(optimizer.param_groups[0]["lr"]), value.item(), None
        if isfinite(number):
            value.backward()
            if clip_norm is not None:
                norm = float(clip_grad_norm_(parameters, clip_norm))
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
        trace.record(loss=number, lr=rate, batch_size=size, gradient_norm=norm)
        if not isfinite(number):
            break
    return trace
