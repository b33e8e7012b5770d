"""Loss and gradient of frozen batches at any parameter vector.

Answers: L(θ) and ∇L(θ) over all batches, weighted as one mean, at one θ or at many.
Does not answer: second derivatives (``products``), sampling noise (``noise``).
"""

import math
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from unstick.errors import BadData, BadModel, NonFinite, UnstickError
from unstick.problem.batches import (
    Batch,
    Whole,
    describe,
    leaves,
    place,
    size_of,
    split_rows,
    take,
)
from unstick.problem.cost import WORK, Cost
from unstick.problem.guard import Narrowing
from unstick.problem.layout import Layout
from unstick.problem.objective import Objective
from unstick.problem.team import ALONE, Team

__all__ = ["PROBE_SAMPLES", "REFUSALS", "Evaluation", "Meter", "check_weights", "ordinary"]

Result = TypeVar("Result")

REFUSALS = (RuntimeError, TypeError, ValueError, AttributeError, LookupError, AssertionError)
"""What torch and models raise where they do not support a transformation or a type."""

PROBE_SAMPLES = 256
MANY_BYTES = 2**28  # workspace of evaluations at many parameter vectors at once


class Meter:
    """The running account of samples, gradients and seconds.

    Args:
        full: Samples in the full data; a gradient of so many costs 1.
    """

    def __init__(self, full: int) -> None:
        self.full = full
        self.spent = Cost()
        self._running = False

    @contextmanager
    def timed(self) -> Generator[None]:
        """Add the wall time of the block; inside another timed block it is already counted."""
        if self._running:
            yield
            return
        self._running, begin = True, time.perf_counter()
        try:
            yield
        finally:
            self._running = False
            self.spent += Cost(seconds=time.perf_counter() - begin)

    def count(self, kind: str, samples: int) -> None:
        """Add evaluations of ``kind`` on so many samples in all."""
        self.spent += Cost(samples=samples, gradients=WORK[kind] * samples / self.full)

    def share(self, since: Cost, team: Team) -> None:
        """Count what all processes have evaluated since then, not this one alone."""
        if team.size == 1:
            return
        mine = self.spent - since
        samples, gradients = team.sum(
            torch.tensor([float(mine.samples), mine.gradients], dtype=torch.float64)
        ).tolist()
        self.spent = since + Cost(round(samples), gradients, mine.seconds)

    def recount(self, since: Cost, kind: str, samples: int) -> None:
        """Count so many evaluations instead of what was counted since then."""
        self.spent = since + Cost(seconds=(self.spent - since).seconds)
        self.count(kind, samples)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Everything that turns a flat parameter vector into a loss.

    ``weights`` are what each batch's mean counts for; ``decay`` [n] adds ½ Σ decay θ². Where a team shares the work,
    ``batches`` and ``weights`` are this process's part of the ``whole``.
    """

    objective: Objective
    layout: Layout
    batches: Sequence[Batch]
    weights: Sequence[float]
    dtype: torch.dtype
    training: bool
    decay: Tensor | None
    meter: Meter
    team: Team = ALONE
    whole: Whole | None = None

    @property
    def model(self) -> nn.Module:
        """The user's model."""
        return self.objective.model

    @property
    def samples(self) -> int:
        """Samples in the batches of this process (batches, where samples cannot be counted)."""
        return sum(size_of(batch) or 1 for batch in self.batches)

    @property
    def all_samples(self) -> int:
        """Samples of all processes."""
        return self.samples if self.whole is None else self.whole.samples

    @property
    def weight(self) -> float:
        """What all batches of all processes count for."""
        return sum(self.weights) if self.whole is None else self.whole.weight

    @property
    def shares(self) -> list[float]:
        """What part of the mean over all data each batch is."""
        total = self.weight
        return [weight / total for weight in self.weights]

    def pooled(self, work: Callable[[], list[Tensor]]) -> list[Tensor]:
        """The sums over all processes of what each computes on its own batches, and the cost of all.

        Cost:
            Where several processes share the work, an all-reduce of each tensor, and of three numbers.
        """
        if self.team.size == 1:
            return work()
        before = self.meter.spent
        with self.team.together():
            parts = work()
        self.meter.share(before, self.team)
        return [self.team.sum(part) for part in parts]

    def visit(self) -> AbstractContextManager[None]:
        """The guard around every evaluation."""
        return self.objective.visit(training=self.training)

    def theta(self) -> Tensor:
        """The model's current parameters [n], in the type computed with."""
        return self.layout.read(self.dtype)

    def at(self, theta: Tensor, work: Callable[[], Result]) -> Result:
        """Do some work while the model has the parameters θ; the user's own, and the buffers, stay untouched.

        Backward passes belong inside: activation checkpointing runs the model again during them.
        """
        ours = {f"model.{name}": part for name, part in self.layout.named(theta).items()}
        named: dict[str, Tensor] = {}
        for name, parameter in self.objective.named_parameters():
            named[name] = ours[name] if name in ours else _as(parameter.detach(), self.dtype)
        for name, buffer in self.objective.named_buffers():
            named[name] = _as(buffer, self.dtype).clone()
        result: Result = functional_call(self.objective, named, (work,), tie_weights=True)
        return result

    def batch_loss(self, theta: Tensor, batch: Batch) -> Tensor:
        """The scalar loss of one batch at θ, differentiable."""
        return self.at(theta, lambda: self.objective.loss_of(batch))

    def decayed(self, theta: Tensor) -> Tensor | float:
        """The weight decay term ½ Σ decay θ²."""
        return 0.0 if self.decay is None else 0.5 * (self.decay * theta * theta).sum()

    def value(self, theta: Tensor) -> float:
        """L(θ); inf or nan come back as they are."""
        with self.meter.timed(), self.visit(), torch.no_grad():
            [total] = self.pooled(lambda: [torch.tensor([self._value(theta)], dtype=torch.float64)])
            return float(total) + float(self.decayed(theta))

    def value_and_gradient(self, theta: Tensor) -> tuple[float, Tensor]:
        """L(θ) and ∇L(θ) [n]; inf or nan come back as they are."""
        with self.meter.timed(), self.visit():
            theta = ordinary(theta).detach()

            def work() -> list[Tensor]:
                loss, gradient = self._value_and_gradient(theta)
                return [torch.tensor([loss], dtype=torch.float64), gradient]

            total, gradient = self.pooled(work)
            return self._with_decay(theta, float(total), gradient)

    def values(self, thetas: Tensor) -> Tensor:
        """L at each row of ``thetas`` [m, n] → [m] float64."""
        with self.meter.timed(), self.visit(), torch.no_grad():
            thetas = ordinary(thetas)
            [total] = self.pooled(lambda: [self._values(thetas)])
            decays = [float(self.decayed(theta)) for theta in thetas]
            return total + torch.tensor(decays, dtype=torch.float64)

    def gradients(self, thetas: Tensor) -> Tensor:
        """∇L at each row of ``thetas`` [m, n] → [m, n]."""
        with self.meter.timed(), self.visit():
            thetas = ordinary(thetas)
            if len(thetas) == 0:
                return thetas
            [total] = self.pooled(lambda: [self._gradients(thetas)])
            return total if self.decay is None else total + self.decay * thetas

    def unguarded(self, theta: Tensor) -> tuple[float, Tensor]:
        """``value_and_gradient`` of this process's batches, inside a guard that the caller holds.

        So random numbers move on from one call to the next.
        """
        theta = ordinary(theta).detach()
        return self._with_decay(theta, *self._value_and_gradient(theta))

    def _value(self, theta: Tensor) -> float:
        total = 0.0
        for share, batch in zip(self.shares, self.batches, strict=True):
            total += share * float(self.batch_loss(theta, batch))
        self.meter.count("value", self.samples)
        return total

    def _value_and_gradient(self, theta: Tensor) -> tuple[float, Tensor]:
        """The data term of this process's batches."""
        theta = theta.requires_grad_()
        total, gradient = 0.0, torch.zeros_like(theta, requires_grad=False)
        for share, batch in zip(self.shares, self.batches, strict=True):
            loss, part = self.at(
                theta, lambda b=batch: _differentiated(lambda: self.objective.loss_of(b), theta)
            )
            total += share * loss
            gradient += share * part
        self.meter.count("gradient", self.samples)
        return total, gradient

    def _with_decay(self, theta: Tensor, loss: float, gradient: Tensor) -> tuple[float, Tensor]:
        if self.decay is None:
            return loss, gradient
        theta = theta.detach()
        return loss + float(self.decayed(theta)), gradient + self.decay * theta

    def _values(self, thetas: Tensor) -> Tensor:
        many = self._many(vmap(self.batch_loss, (0, None)), thetas)
        if many is None:
            return torch.tensor([self._value(theta) for theta in thetas], dtype=torch.float64)
        self.meter.count("value", len(thetas) * self.samples)
        return many.double().cpu()

    def _gradients(self, thetas: Tensor) -> Tensor:
        many = self._many(vmap(grad(self.batch_loss), (0, None)), thetas)
        if many is None:
            rows = [self._value_and_gradient(theta.detach())[1] for theta in thetas]
            return torch.stack(rows)
        self.meter.count("gradient", len(thetas) * self.samples)
        return many

    def _many(self, function: Callable[[Tensor, Batch], Tensor], thetas: Tensor) -> Tensor | None:
        """A batched function at all θ, or ``None`` where the model or the memory does not allow it."""
        width = self._together
        if width < 2 or len(thetas) < 2 or not self.batches:
            return None
        blocks: list[Tensor] = []
        try:
            for block in thetas.split(width):
                parts = [
                    s * function(block, b) for s, b in zip(self.shares, self.batches, strict=True)
                ]
                blocks.append(torch.stack(parts).sum(0))
        except REFUSALS:  # what vmap cannot batch: in-place state, data-dependent control flow
            return None
        return torch.cat(blocks)

    @property
    def _together(self) -> int:
        """How many parameter vectors to evaluate at once: batching pays where one evaluation is tiny."""
        numbers = max(
            (sum(leaf.numel() for leaf in leaves(batch)) for batch in self.batches), default=0
        )
        work = (self.layout.n + numbers) * 8 + 8 * self.layout.n * 2
        tiny = self.layout.n * max(1, self.samples) <= 200_000
        return MANY_BYTES // max(1, work) if tiny else 1

    def on(self, batches: Sequence[Batch], weights: Sequence[float]) -> "Evaluation":
        """The same model on other batches, in this process alone; those that count for nothing are left out, as their mean is 0/0."""
        counted = [
            (batch, weight) for batch, weight in zip(batches, weights, strict=True) if weight != 0
        ]
        return replace(
            self,
            batches=[b for b, _ in counted],
            weights=[w for _, w in counted],
            team=ALONE,
            whole=None,
        )

    def cast(self, dtype: torch.dtype) -> "Evaluation":
        """The same in another floating-point type."""
        device = self.layout.device
        batches = [place(batch, device, dtype) for batch in self.batches]
        decay = None if self.decay is None else self.decay.to(dtype)
        whole = self.whole
        if whole is not None:
            whole = replace(whole, first=place(whole.first, device, dtype))
        return replace(self, batches=batches, dtype=dtype, decay=decay, whole=whole)

    def widened(self) -> "Evaluation | None":
        """The same in float64, or ``None`` where the model does not take that or casts back on the way.

        A model that casts would lose in secret the digits that float64 promises.
        """
        if self.dtype == torch.float64:
            return self
        try:
            wide = self.cast(torch.float64)
            with Narrowing() as narrowing:
                wide.probe(PROBE_SAMPLES).check_first()
        except (UnstickError, *REFUSALS):
            return None
        return None if narrowing.seen else wide

    def adds_up(self, weigh: Callable[[Batch], float]) -> bool:
        """Whether a batch's loss is the mean of its samples': they do not see one another.

        Statistics of the batch, attention across it, or time along the first dimension break that. Tells by the
        loss and the gradient of up to 64 samples, whole and in halves.
        """
        whole = self.probe(64)
        batch = whole.batches[0]
        size = size_of(batch) or 0
        if size < 2:
            return False
        halves = split_rows(batch, (size + 1) // 2)
        theta, decay_free = self.theta(), replace(self, decay=None)
        try:
            loss, gradient = decay_free.on([batch], [1.0]).value_and_gradient(theta)
            parts = [decay_free.on([half], [1.0]) for half in halves]
            weights = [weigh(half) for half in halves]
            found = [
                (weight / sum(weights), *part.value_and_gradient(theta))
                for weight, part in zip(weights, parts, strict=True)
                if weight > 0
            ]
        except (UnstickError, *REFUSALS):
            return False
        slack = torch.finfo(self.dtype).eps ** 0.5
        scale = sum(share * float(part.norm()) for share, _, part in found)
        missing = gradient - sum(share * part for share, _, part in found)
        apart = abs(loss - sum(share * value for share, value, _ in found))
        return apart <= slack * abs(loss) and float(missing.norm()) <= slack * scale

    def probe(self, samples: int) -> "Evaluation":
        """The same on a few samples, spread over the first batch of all: no process has others."""
        batch = self.batches[0] if self.whole is None else self.whole.first
        size = size_of(batch) or 0
        if size > samples:
            batch = take(batch, torch.arange(samples) * size // samples)
        return self.on([batch], [1.0])

    def check_batch(self, index: int, theta: Tensor) -> None:
        """Run one batch; what the model or the loss does not take becomes one clear line.

        Raises:
            BadModel: The model or the loss raised.
            BadData: The batch is not what the loss needs.
            NonFinite: The loss or its gradient is inf or nan.
        """
        batch = self.batches[index]
        try:
            loss, gradient = self.on([batch], [1.0]).value_and_gradient(theta)
        except UnstickError:
            raise
        except Exception as error:  # whatever a user's model raises
            first = " ".join(str(error).strip().split("\n")[0].split())
            raise BadModel(
                f"model and loss failed on batch {index} ({describe(batch)}): {type(error).__name__}: {first}; "
                "expected a batch that they take"
            ) from error
        what = f"loss is {loss}" if not math.isfinite(loss) else "gradient is not finite"
        if not math.isfinite(loss) or not torch.isfinite(gradient).all():
            buffers = [
                name
                for name, b in self.model.named_buffers()
                if b.is_floating_point() and not b.isfinite().all()
            ]
            where = f" (buffers not finite: {', '.join(buffers)})" if buffers else ""
            raise NonFinite(
                f"the {what} on batch {index} ({describe(batch)}), at finite data and parameters{where}; expected finite "
                "numbers: look for log(0), 0/0 or overflow in the model or the loss"
            )

    def check_first(self) -> None:
        """``check_batch`` on the first batch; on a few samples of another's, where this process has none."""
        ours = self if self.batches else self.probe(PROBE_SAMPLES)
        ours.check_batch(0, self.theta())

    def check_connected(self) -> None:
        """Refuse a loss that depends on no trainable parameter, by its graph.

        Raises:
            BadModel: No batch's loss has a gradient function; a gradient that is merely zero is fine.
        """
        theta = self.theta().requires_grad_()
        with self.team.together(), self.visit():
            connected = any(self.batch_loss(theta, batch).requires_grad for batch in self.batches)
        if float(self.team.sum(torch.tensor([float(connected)]))):
            return
        raise BadModel(
            "the loss does not depend on any trainable parameter (its graph holds none); expected one computed from "
            "the model's outputs: look for .detach() or torch.no_grad()"
        )

    def check_finite(self) -> None:
        """``check_batch`` on every batch."""
        theta = self.theta()
        for index in range(len(self.batches)):
            self.check_batch(index, theta)


def check_weights(weights: Sequence[float]) -> None:
    """Refuse weights that cannot average.

    Raises:
        BadData: A weight is negative or not finite, or all are zero.
    """
    for index, weight in enumerate(weights):
        if not 0 <= weight < math.inf:
            raise BadData(f"the weight of batch {index} is {weight}; expected a finite number ≥ 0")
    if sum(weights) <= 0:
        raise BadData(
            "no batch has any weight: every target is ignored, or weight() returns 0 throughout"
        )


def ordinary(tensor: Tensor) -> Tensor:
    """A tensor that autograd can save: a copy of one made under ``torch.inference_mode``."""
    return tensor.clone() if tensor.is_inference() else tensor


def _differentiated(compute: Callable[[], Tensor], theta: Tensor) -> tuple[float, Tensor]:
    """A loss and its gradient with respect to the leaf θ, zero where it does not depend on θ."""
    loss = compute()
    zero = torch.zeros_like(theta, requires_grad=False)
    if not loss.requires_grad:
        return float(loss), zero
    try:
        return float(loss.detach()), torch.autograd.grad(loss, theta, materialize_grads=True)[0]
    except RuntimeError as error:
        if not ("checkpoint" in str(error).lower() and ".grad()" in str(error)):
            raise
    compute().backward()  # all that reentrant checkpointing allows; no leaf but θ needs a gradient
    found, theta.grad = theta.grad, None
    return float(loss.detach()), zero if found is None else found


def _as(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor
