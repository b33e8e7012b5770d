"""Copies of a stuck run, trained on for a few updates: what its optimizer really does from here.

Answers: where does training get to from this checkpoint, unchanged or with one setting changed?
Does not answer: what that means (``rules``).

The user's model and optimizer are copied together, so that each copy has the optimizer's memory and nothing touches them.
"""

import math
from collections.abc import Generator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from unstick.diagnosis.run import Run
from unstick.problem.batches import Batch, leaves, merge, place, size_of, take
from unstick.problem.guard import devices_of, put_back_randomness, seed_randomness
from unstick.problem.layout import layout_of
from unstick.problem.objective import Objective
from unstick.problem.problem import Problem
from unstick.training.order import BatchOrder, generator_for

__all__ = ["Arm", "Bench", "cloud"]


@dataclass(frozen=True, slots=True, eq=False)
class Arm:
    """A copy that was trained on."""

    losses: tuple[float, ...]  # of the batches, before each update
    loss: float  # of all data, afterwards, weight decay included; nan or inf where it blew up
    data_loss: float  # the same without weight decay
    moved: Tensor  # θ after − θ before, [n]

    @property
    def blew_up(self) -> bool:
        """Whether a loss was not finite."""
        return not (math.isfinite(self.loss) and all(map(math.isfinite, self.losses)))


class Bench:
    """Where copies of a run are trained on.

    Args:
        run: What is known of the stuck training.
        problem: Its problem with the optimizer's own weight decay.
    """

    def __init__(self, run: Run, problem: Problem) -> None:
        evaluation = problem.require_whole("diagnosis")
        self._run, self._problem = run, problem
        self._objective = evaluation.objective
        whole = merge(list(evaluation.batches)) if evaluation.batches else None
        tensors = whole is not None and bool(leaves(whole))
        self.batch: Batch = whole if tensors else evaluation.batches[0]
        self.samples = (size_of(self.batch) or 0) if tensors else 0
        own = {id(p) for p in problem.model.parameters()}
        theirs = [] if run.optimizer is None else run.optimizer.param_groups
        self.fits = bool(theirs) and any(id(p) in own for g in theirs for p in g["params"])

    @property
    def batch_size(self) -> int:
        """Samples of an update; all of them where nothing else is known."""
        asked = self._run.batch_size
        return max(1, self.samples) if asked is None else min(asked, max(1, self.samples))

    def updates_for(self, gradients: float, *, batch: float = 1.0) -> int:
        """How many updates so many gradients pay for, at ``batch`` times the run's batch size."""
        size = min(max(1.0, self.batch_size * batch), max(1, self.samples))
        return max(1, int(gradients * max(1, self.samples) / size))

    def go_on(
        self,
        updates: int,
        *,
        seed: int,
        rate: float = 1.0,
        batch: float = 1.0,
        clip: bool = True,
        decay: bool = True,
        momentum: float | None = None,
    ) -> Arm:
        """Train a copy on.

        Args:
            updates: How many.
            seed: Of the batches and of noise inside the model.
            rate: Multiple of every group's learning rate.
            batch: Multiple of the batch size.
            clip: Whether gradients are clipped as in the run.
            decay: Whether weights decay as in the run.
            momentum: Instead of the optimizer's own, where it has one.

        Cost:
            A gradient for as many samples as the data have, and a loss.
        """
        objective, optimizer = deepcopy((self._objective, self._run.optimizer))
        assert optimizer is not None
        model = objective.model
        before = layout_of(model).read(self._problem.dtype)
        losses: list[float] = []
        limit = self._run.clip_norm if clip else None
        devices = devices_of(model)
        with put_back_randomness(devices), self._gradients_apart(), torch.enable_grad():
            seed_randomness(generator_for("model", seed).initial_seed(), devices)
            model.train()
            for group in optimizer.param_groups:
                group["lr"] = group["lr"] * rate
                if not decay:
                    group["weight_decay"] = 0.0
                if momentum is not None and "momentum" in group:
                    group["momentum"] = momentum
            size = min(max(1, round(self.batch_size * batch)), max(1, self.samples))
            order = BatchOrder(max(1, self.samples), size, seed=seed)
            data = self._data(model, self.batch)
            for _ in range(updates):
                rows = order.next()
                part = data if order.whole or not self.samples else take(data, rows)
                losses.append(_update(objective, optimizer, part, limit))
                if not math.isfinite(losses[-1]):
                    break
        after = layout_of(model).read(self._problem.dtype)
        evaluation = self._problem.require_whole("diagnosis")
        evaluation.meter.count("gradient", updates * size)
        finite = bool(torch.isfinite(after).all()) and math.isfinite(losses[-1])
        loss = self._loss(objective) if finite else math.nan
        decayed = float(evaluation.decayed(after)) if finite else 0.0
        return Arm(tuple(losses), loss + decayed, loss, after - before)

    @contextmanager
    def _gradients_apart(self) -> Generator[None]:
        """A loss that names the user's model itself leaves no gradient there."""
        own = list(self._problem.model.parameters())
        before = [p.grad for p in own]
        try:
            for p in own:
                p.grad = None
            yield
        finally:
            for p, grad in zip(own, before, strict=True):
                p.grad = grad

    def _loss(self, objective: Objective) -> float:
        """The loss of all data by a copy, with the batch statistics that it has gathered."""
        evaluation = self._problem.require_whole("diagnosis")
        total = 0.0
        with objective.visit(training=evaluation.training), torch.no_grad():
            for share, batch in zip(evaluation.shares, evaluation.batches, strict=True):
                total += share * float(objective.loss_of(self._data(objective.model, batch)))
        evaluation.meter.count("value", evaluation.samples)
        return total

    def restart(self, updates: int, *, seed: int) -> float:
        """Train a copy from new initial parameters, with the optimizer's settings and none of its memory.

        Modules that know how to initialize themselves do; other parameters are drawn as wide as they are now.

        Returns:
            The loss of all data afterwards; nan where it blew up.

        Cost:
            As ``go_on``.
        """
        run, objective, optimizer = self._run, *deepcopy((self._objective, self._run.optimizer))
        assert optimizer is not None
        _draw_anew(objective.model, seed)
        optimizer.state.clear()
        rates = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        fresh = object.__new__(Bench)
        fresh._run = replace(run, optimizer=optimizer)
        fresh._problem, fresh._objective = self._problem, objective
        fresh.batch, fresh.samples, fresh.fits = self.batch, self.samples, self.fits
        return fresh.go_on(updates, seed=seed).loss

    def _data(self, model: nn.Module, batch: Batch) -> Batch:
        kinds = [p.dtype for p in model.parameters() if p.is_floating_point()]
        return place(batch, self._problem.device, kinds[0])


def cloud(problem: Problem, points: int, *, seed: int) -> float:
    """The lowest loss at so many random parameters, as wide as the present ones; nan where none is finite.

    Cost:
        A third of a gradient a point.
    """
    theta = problem.parameters()
    generator = torch.Generator().manual_seed(seed)
    width = max(1.0, float(theta.abs().max()))
    drawn = width * torch.randn(points, len(theta), generator=generator, dtype=torch.float64)
    losses = problem.values(drawn.to(theta))
    known = losses[torch.isfinite(losses)]
    return float(known.min()) if len(known) else math.nan


def _update(objective: Any, optimizer: Optimizer, batch: Batch, limit: float | None) -> float:
    optimizer.zero_grad()
    loss = cast("Tensor", objective.loss_of(batch))
    if not loss.requires_grad:
        return float(loss)
    loss.backward()
    value = float(loss.detach())
    if not math.isfinite(value):
        return value
    if limit is not None:
        nn.utils.clip_grad_norm_([p for p in objective.parameters() if p.grad is not None], limit)
    optimizer.step()
    return value


def _draw_anew(model: nn.Module, seed: int) -> None:
    """New initial parameters: by the modules' own ``reset_parameters``, others N(0, as wide as they are); frozen ones stay."""
    devices = devices_of(model)
    with put_back_randomness(devices), torch.no_grad():
        seed_randomness(generator_for("model", seed).initial_seed(), devices)
        frozen = [(p, p.clone()) for p in model.parameters() if not p.requires_grad]
        reset: set[int] = set()
        for module in model.modules():
            again = getattr(module, "reset_parameters", None)
            if callable(again):
                again()
                reset |= {id(p) for p in module.parameters(recurse=False)}
        for parameter in model.parameters():
            if id(parameter) not in reset and parameter.requires_grad:
                width = max(1.0, float(parameter.abs().max()))
                parameter.copy_(width * torch.randn(parameter.shape).to(parameter))
        for parameter, value in frozen:
            parameter.copy_(value)
