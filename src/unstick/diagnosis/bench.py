"""Where copies of a stuck run are trained on for a few updates: what its optimizer really does from here.

Answers: where does training get to from this checkpoint, unchanged or with one setting changed?
Does not answer: what that means (``rules``).
"""

import math
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unstick.diagnosis.copies import Copy
from unstick.diagnosis.run import Run
from unstick.problem.batches import Batch, leaves, merge, place, size_of
from unstick.problem.guard import devices_of, put_back_randomness, seed_randomness
from unstick.problem.layout import layout_of
from unstick.problem.objective import Objective
from unstick.problem.problem import Problem
from unstick.training.order import generator_for

__all__ = ["Arm", "Bench", "best_of_cloud", "cloud", "draw_anew"]


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
        self.run, self.problem = run, problem
        self.objective = evaluation.objective
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
        asked = self.run.batch_size
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
        to_rate: float | None = None,
        batch: float = 1.0,
        clip: bool = True,
        decay: bool = True,
        momentum: float | None = None,
        anew: bool = False,
    ) -> Arm:
        """Train a copy on.

        Args:
            updates: How many.
            seed: Of the batches and of noise inside the model.
            rate: Multiple of every group's learning rate.
            to_rate: Learning rate of every group instead, before that.
            batch: Multiple of the batch size.
            clip: Whether gradients are clipped as in the run.
            decay: Whether weights decay as in the run.
            momentum: Instead of the optimizer's own, where it has one.
            anew: From new initial parameters, with the optimizer's first rates and none of its memory. Modules that know
                how to initialize themselves do; other parameters are drawn as wide as they are now.

        Cost:
            A gradient for as many samples as the data have, and a loss.
        """
        copy = Copy(self, seed)
        if anew:
            draw_anew(copy.model, seed)
            copy.forget()
            copy.to_first_rates()
        copy.set_rates(lambda each: (each if to_rate is None else to_rate) * rate)
        for group in copy.optimizer.param_groups:
            if not decay:
                group["weight_decay"] = 0.0
            if momentum is not None and "momentum" in group:
                group["momentum"] = momentum
        copy.batch_size = max(1, round(self.batch_size * batch))
        copy.clip_norm = self.run.clip_norm if clip else None
        layout = layout_of(copy.model)
        before = layout.read(self.problem.dtype)
        copy.train(updates)
        after = layout.read(self.problem.dtype)
        loss = copy.loss()
        evaluation = self.problem.require_whole("diagnosis")
        decayed = float(evaluation.decayed(after)) if math.isfinite(loss) else 0.0
        return Arm(tuple(copy.losses), loss + decayed, loss, after - before)

    @contextmanager
    def gradients_apart(self) -> Generator[None]:
        """A loss that names the user's model itself leaves no gradient there."""
        own = list(self.problem.model.parameters())
        before = [p.grad for p in own]
        try:
            for p in own:
                p.grad = None
            yield
        finally:
            for p, grad in zip(own, before, strict=True):
                p.grad = grad

    def loss_of(self, objective: Objective) -> float:
        """The loss of all data by a copy, with the batch statistics that it has gathered."""
        evaluation = self.problem.require_whole("diagnosis")
        total = 0.0
        visit = objective.visit(training=evaluation.training)
        with self.timed(), visit, torch.no_grad():
            for share, batch in zip(evaluation.shares, evaluation.batches, strict=True):
                total += share * float(objective.loss_of(self.data(objective.model, batch)))
        evaluation.meter.count("value", evaluation.samples)
        return total

    def timed(self) -> AbstractContextManager[None]:
        """Count the time of the block as the problem's."""
        return self.problem.require_whole("diagnosis").meter.timed()

    def count_gradients(self, samples: int) -> None:
        """Write down what training took."""
        self.problem.require_whole("diagnosis").meter.count("gradient", samples)

    def data(self, model: nn.Module, batch: Batch) -> Batch:
        """A batch as a copy takes it: on its device, in its type."""
        kinds = [p.dtype for p in model.parameters() if p.is_floating_point()]
        return place(batch, self.problem.device, kinds[0])


def cloud(problem: Problem, points: int, *, seed: int) -> float:
    """The lowest loss at so many random parameters, as wide as the present ones; nan where none is finite.

    Cost:
        A third of a gradient a point.
    """
    return best_of_cloud(problem, points, seed=seed)[1]


def best_of_cloud(problem: Problem, points: int, *, seed: int) -> tuple[Tensor, float]:
    """Those parameters [n] and their loss; the present ones and nan where none is finite.

    Cost:
        A third of a gradient a point.
    """
    theta = problem.parameters()
    generator = torch.Generator().manual_seed(seed)
    width = max(1.0, float(theta.abs().max()))
    drawn = width * torch.randn(points, len(theta), generator=generator, dtype=torch.float64)
    losses = problem.values(drawn.to(theta))
    known = torch.where(torch.isfinite(losses), losses, math.inf)
    best = int(known.argmin())
    lowest = float(known[best])
    return (drawn[best].to(theta), lowest) if math.isfinite(lowest) else (theta, math.nan)


def draw_anew(model: nn.Module, seed: int) -> None:
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
