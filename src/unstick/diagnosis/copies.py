"""A copy of a stuck run that may be changed and trained on; nothing of it is the user's.

Answers: what does this optimizer do to this model from here, with these settings?
Does not answer: what to change (``remedies``), or what the outcome means (``rules``).

Model and optimizer are copied together, so that the copy has the optimizer's memory. The learning rate stays what it is:
a scheduler is not stepped, since whether it was called at updates or epochs is not known.
"""

import math
from collections.abc import Callable
from copy import deepcopy
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]
from torch.optim import Optimizer

from unstick.problem.batches import take
from unstick.problem.guard import devices_of, put_back_randomness, seed_randomness
from unstick.problem.layout import layout_of
from unstick.training.normalization import hand_over
from unstick.training.order import BatchOrder, generator_for

if TYPE_CHECKING:
    from unstick.diagnosis.bench import Bench

__all__ = ["Copy"]


class Copy:
    """A model with its loss and its optimizer, and how they are used.

    Args:
        bench: Where it is trained on.
        seed: Of its batches and of noise inside the model.
    """

    def __init__(self, bench: "Bench", seed: int) -> None:
        run = bench.run
        self.objective, optimizer = deepcopy((bench.objective, run.optimizer))
        assert optimizer is not None
        self.optimizer: Optimizer = optimizer
        self.bench, self.seed = bench, seed
        self.batch_size = bench.batch_size
        self.clip_norm = run.clip_norm
        self.warmup = 0  # updates over which the rate rises to what it is
        self.losses: list[float] = []  # of the batches, before each update
        self._order: BatchOrder | None = None
        # by the name that the parameters had in the run, whatever becomes of the model
        self.parameters = dict(self.model.named_parameters())

    @property
    def model(self) -> nn.Module:
        """The model, to be changed at will."""
        return self.objective.model

    @property
    def blew_up(self) -> bool:
        """Whether a loss or a parameter was not finite."""
        if self.losses and not math.isfinite(self.losses[-1]):
            return True
        return not all(bool(torch.isfinite(p).all()) for p in self.model.parameters())

    def train(self, updates: int) -> None:
        """Train on for so many updates, or until a loss is not finite.

        Cost:
            A gradient for as many samples as the data have.
        """
        if self.blew_up:
            return
        bench, model, done = self.bench, self.model, len(self.losses)
        devices = devices_of(model)
        samples = max(1, bench.samples)
        _to_training(model)
        if self._order is None:
            size = min(self.batch_size, samples)
            alone = samples % size == 1 and size > 1 and _needs_company(model)
            self._order = BatchOrder(samples, size, seed=self.seed, drop_last=alone)
        order = self._order
        with (
            bench.timed(),
            put_back_randomness(devices),
            bench.gradients_apart(),
            torch.enable_grad(),
        ):
            seed = generator_for("model", self.seed).initial_seed() + done
            seed_randomness(seed, devices)
            data = bench.data(model, bench.batch)
            for update in range(done, done + updates):
                rows = order.next()
                part = data if order.whole or not bench.samples else take(data, rows)
                self.losses.append(self._update(part, self._pace(update)))
                if not math.isfinite(self.losses[-1]):
                    break
        bench.count_gradients((len(self.losses) - done) * order.batch_size)

    def loss(self) -> float:
        """The loss of all data, with the batch statistics that the copy has gathered; nan where it blew up."""
        return math.nan if self.blew_up else self.bench.loss_of(self.objective)

    def set_rates(self, change: Callable[[float], float]) -> None:
        """Another learning rate for each group of parameters, from the present one."""
        for group in self.optimizer.param_groups:
            group["lr"] = change(float(group["lr"]))

    def to_first_rates(self) -> None:
        """The learning rates that the groups began with, as far as a scheduler left them."""
        for group in self.optimizer.param_groups:
            group["lr"] = group.get("initial_lr", group["lr"])

    def forget(self) -> None:
        """The optimizer's memory is of other parameters."""
        self.optimizer.state.clear()

    def step_by(self, kind: Callable[..., Optimizer], **settings: Any) -> None:
        """Another optimizer for the same groups of parameters, each with its own weight decay."""
        groups = [
            {"params": group["params"], "weight_decay": group.get("weight_decay", 0.0)}
            for group in self.optimizer.param_groups
        ]
        self.optimizer = kind(groups, **settings)

    def move_to(self, theta: Tensor) -> None:
        """Other parameters, [n]."""
        layout_of(self.model).write(theta)

    def put_in(self, model: nn.Module) -> None:
        """A model with normalization inserted, in place of its own; the optimizer goes on with its parameters."""
        twins = hand_over(self.optimizer, self.model, model)
        self.parameters = {name: twins[p] for name, p in self.parameters.items()}
        self.objective.model = model

    def _pace(self, update: int) -> float:
        return min(1.0, (update + 1) / self.warmup) if self.warmup else 1.0

    def _update(self, batch: Any, pace: float) -> float:
        self.optimizer.zero_grad()
        loss = self.objective.loss_of(batch)
        if not loss.requires_grad:
            return float(loss)
        cast("Any", loss).backward()
        value = float(loss.detach())
        if not math.isfinite(value):
            return value
        if self.clip_norm is not None:
            trained = [p for p in self.objective.parameters() if p.grad is not None]
            nn.utils.clip_grad_norm_(trained, self.clip_norm)
        if pace == 1.0:
            self.optimizer.step()
            return value
        rates = [group["lr"] for group in self.optimizer.param_groups]
        self.set_rates(lambda rate: rate * pace)
        self.optimizer.step()
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        return value


def _needs_company(model: nn.Module) -> bool:
    """Whether batch normalization is training, which knows no deviation of one sample."""
    return any(isinstance(m, _BatchNorm) and m.training for m in model.modules())


def _to_training(model: nn.Module) -> None:
    """As the user trains it.

    A model in training keeps its modes; one that was being evaluated is set to training, all but batch normalization
    whose own parameters are frozen.
    """
    if model.training:
        return
    model.train()
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        if isinstance(module, _BatchNorm) and own and not any(p.requires_grad for p in own):
            module.eval()
