"""Models whose parameters are shards, as ``torch.distributed.fsdp.fully_shard`` leaves them: loss, gradient, products.

Answers: L(θ), ∇L(θ) and H v where every process holds a part of θ, of the gradient and of v, and never more.
Does not answer: anything that needs a graph of the gradient, since there is none: products are differences of gradients.

Vectors are this process's shards end to end: [n here]. Every call is one of all processes together, since the model
itself gathers parameters and scatters gradients in each forward and backward pass.
"""

import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from unstick.errors import BadModel, NonDeterministic, NonFinite, StaleOperator, UnstickError
from unstick.problem.batches import Batch, describe, size_of, split_rows
from unstick.problem.evaluation import PROBE_SAMPLES, Evaluation, Meter, check_weights
from unstick.problem.layout import Layout
from unstick.problem.memory import Graphs
from unstick.problem.preparation import shared_out
from unstick.problem.products import first_step, settle
from unstick.problem.team import Team
from unstick.record import number

__all__ = ["ShardedEvaluation", "ShardedHessian", "is_sharded", "sharded_out", "team_of_shards"]

REPEATS = 50  # units of rounding that two evaluations may differ by
SLOPE_AGREES = 0.25  # a gradient further from the loss's own change than this has another weight


def is_sharded(model: nn.Module) -> bool:
    """Whether a parameter of the model is a ``DTensor``."""
    module = sys.modules.get("torch.distributed.tensor")  # unless it was imported there are none
    return module is not None and any(isinstance(p, module.DTensor) for p in model.parameters())


def team_of_shards(model: nn.Module) -> Team:
    """The processes over which a model's parameters are spread.

    Raises:
        BadModel: A parameter is whole, spread over another mesh, replicated, or in half precision.
    """
    from torch.distributed.tensor import DTensor, Shard

    meshes: list[Any] = []
    for name, parameter in model.named_parameters():
        if not isinstance(parameter, DTensor):
            raise BadModel(
                f"parameter {name} is whole while others are sharded; expected all sharded: call fully_shard on the "
                "model itself too, after its parts"
            )
        spread = [type(placement).__name__ for placement in parameter.placements]
        if len(spread) != 1 or not isinstance(parameter.placements[0], Shard):
            raise BadModel(
                f"parameter {name} is placed as {', '.join(spread)}; expected one Shard: fully sharded over a mesh of "
                "one dimension"
            )
        if parameter.dtype not in (torch.float32, torch.float64):
            raise BadModel(
                f"parameter {name} has type {parameter.dtype}; expected float32 or float64: differences of gradients "
                "drown in the rounding of shorter types"
            )
        meshes.append(parameter.device_mesh)
    if any(mesh != meshes[0] for mesh in meshes):
        raise BadModel("the parameters are spread over several meshes; expected one for all")
    mesh = meshes[0]
    return Team(mesh.get_local_rank(), mesh.size(), mesh.get_group())


@dataclass(frozen=True, eq=False)
class ShardedEvaluation:
    """Loss and gradient of a sharded model; ``data`` holds this process's batches and the layout of its shards."""

    data: Evaluation
    rounds: Sequence[tuple[float, Batch]]  # share and batch; as many in every process
    n: int  # parameters over all processes

    @property
    def model(self) -> nn.Module:
        """The user's model."""
        return self.data.model

    @property
    def layout(self) -> Layout:
        """Where each shard lies in this process's vectors."""
        return self.data.layout

    @property
    def dtype(self) -> torch.dtype:
        """The type of the parameters."""
        return self.data.dtype

    @property
    def meter(self) -> Meter:
        """The running account."""
        return self.data.meter

    @property
    def team(self) -> Team:
        """The processes."""
        return self.data.team

    @property
    def all_samples(self) -> int:
        """Samples of all processes."""
        return self.data.all_samples

    def theta(self) -> Tensor:
        """The current shards, [n here]."""
        return self.layout.read(self.dtype)

    def norm(self, vector: Tensor) -> float:
        """The Euclidean length of the whole vector."""
        return float(self.team.sum(vector.double().square().sum().reshape(1))) ** 0.5

    def value(self, theta: Tensor) -> float:
        """L(θ); inf or nan come back as they are."""
        with self._visit(theta), torch.no_grad():
            total = 0.0
            for share, batch in self.rounds:
                loss = float(self.data.objective.loss_of(batch))
                total += share * loss if share else 0.0
            self.meter.count("value", self.all_samples)
        return self._pooled(total) + self._decayed(theta)

    def value_and_gradient(self, theta: Tensor) -> tuple[float, Tensor]:
        """L(θ) and this process's part of ∇L(θ), [n here]."""
        loss, gradient = self.of_data(theta)
        if self.data.decay is None:
            return loss, gradient
        return loss + self._decayed(theta), gradient + self.data.decay * theta

    def of_data(self, theta: Tensor) -> tuple[float, Tensor]:
        """``value_and_gradient`` without weight decay."""
        with self._visit(theta):
            total = 0.0
            for share, batch in self.rounds:
                loss = self.data.objective.loss_of(batch)
                total += share * float(loss.detach()) if share else 0.0
                # Every process takes part in every round; the model averages gradients over the processes.
                (loss * (share * self.team.size)).backward()
            gradient = torch.cat([_flat(p, self.dtype) for p in self._trainable()])
            self.meter.count("gradient", self.all_samples)
        return self._pooled(total), gradient

    def values(self, thetas: Tensor) -> Tensor:
        """L at each row of ``thetas`` [m, n here] → [m] float64, one after another."""
        return torch.tensor([self.value(theta) for theta in thetas], dtype=torch.float64)

    def gradients(self, thetas: Tensor) -> Tensor:
        """∇L at each row of ``thetas`` [m, n here] → [m, n here], one after another."""
        rows = [self.value_and_gradient(theta)[1] for theta in thetas]
        return torch.stack(rows) if rows else thetas

    def _trainable(self) -> list[nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]

    def _pooled(self, total: float) -> float:
        return float(self.team.sum(torch.tensor([total], dtype=torch.float64)))

    def _decayed(self, theta: Tensor) -> float:
        decay = self.data.decay
        return 0.0 if decay is None else self._pooled(float((decay * theta * theta).sum()) / 2)

    @contextmanager
    def _visit(self, theta: Tensor) -> Generator[None]:
        """The shards hold θ; afterwards parameters, ``.grad`` and buffers are as before, bit for bit."""
        parameters = list(self.model.parameters())
        gradients = [parameter.grad for parameter in parameters]
        shards = self.layout.copies()
        buffers = [(buffer, buffer.detach().clone()) for buffer in self.model.buffers()]
        with self.meter.timed(), self.data.visit():
            try:
                for parameter in parameters:
                    parameter.grad = None
                self.layout.write(theta)
                _forget_gathered(self.model)
                yield
            finally:
                self.layout.restore(shards)
                _forget_gathered(self.model)
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.grad = gradient
                with torch.no_grad():
                    for buffer, before in buffers:
                        buffer.copy_(before)


class ShardedHessian:
    """H at the parameters of its making by central differences of gradients, on shards.

    Args:
        evaluation: The loss whose Hessian it is.

    ``dim`` is the number of parameters over all processes; vectors are shards.
    """

    mode = "difference"
    product_price = 2.0
    setup_price = 6.0  # the step's length and the error estimate

    def __init__(self, evaluation: ShardedEvaluation) -> None:
        self._evaluation = evaluation
        self._theta = evaluation.theta()
        self._step = first_step(evaluation.dtype, evaluation.norm(self._theta))
        self._error: float | None = None

    @property
    def dim(self) -> int:
        """Number of parameters over all processes."""
        return self._evaluation.n

    @property
    def graphs(self) -> Graphs:
        """None is kept; what a gradient's own graph takes on top is the model's business."""
        return Graphs((), 0.0, 0.0, 0.0, 0.0)

    @property
    def dtype(self) -> torch.dtype:
        """The type computed with."""
        return self._evaluation.dtype

    @property
    def device(self) -> torch.device:
        """Where the shards live."""
        return self._evaluation.layout.device

    def matvec(self, v: Tensor) -> Tensor:
        """This process's part of H v, [n here].

        Raises:
            StaleOperator: The parameters have changed since ``hessian()``, in any process.
            NonFinite: The product holds inf or nan, in any process.
        """
        evaluation = self._evaluation
        with evaluation.team.together():
            if not torch.equal(evaluation.theta(), self._theta):
                raise StaleOperator(
                    "the model's parameters have changed since hessian() was called; a Hessian belongs to one point: "
                    "call problem.hessian() again"
                )
        v = v.to(self.device, self.dtype)
        length = evaluation.norm(v)
        if length == 0.0:
            return torch.zeros_like(v)
        if self._error is None:
            self._step, self._error, product = settle(
                lambda step: self._quotient(v / length, step), self._step, evaluation.norm
            )
        else:
            product = self._quotient(v / length, self._step)
        product *= length
        if evaluation.data.decay is not None:
            product += evaluation.data.decay * v
        with evaluation.team.together():
            if not bool(torch.isfinite(product).all()):
                raise NonFinite(
                    "a Hessian product holds inf or nan; expected finite numbers: look for overflow in the model at "
                    "these parameters"
                )
        return product

    def matmat(self, V: Tensor) -> Tensor:
        """This process's part of H V, [n here, k]."""
        return torch.stack([self.matvec(v) for v in V.T], dim=1)

    def error(self) -> float:
        """Estimated norm of the error of H v for unit v beyond rounding, from the first product."""
        return self._error or 0.0

    def _quotient(self, unit: Tensor, step: float) -> Tensor:
        _, ahead = self._evaluation.of_data(self._theta + step * unit)
        _, behind = self._evaluation.of_data(self._theta - step * unit)
        return (ahead - behind) / (2 * step)


def sharded_out(
    data: Evaluation,
    weigh: Callable[[Batch], float],
    notes: list[str],
    *,
    team: Team,
    divisible: bool,
) -> ShardedEvaluation:
    """The evaluation of a sharded model from all batches, each process with its part; tried before it is given.

    Args:
        data: All batches, the same in every process, beside the layout of this process's shards.
        weigh: What the mean of a batch counts for.
        notes: Where to say what was done.
        team: The processes of the model's mesh.
        divisible: Whether the loss is known to be a mean over samples.

    Raises:
        BadModel: The model fails on the first batch, or its gradients are not the slopes of its loss.
        NonFinite: The loss or its gradient is inf or nan.
        NonDeterministic: Two evaluations differ.

    Cost:
        Three gradients, two losses, and a few evaluations of at most 256 samples.
    """
    n = sum(team.gather(data.layout.n))
    check_weights(data.weights)
    meter = data.meter
    same = replace(data.probe(PROBE_SAMPLES), team=team, meter=Meter(1))
    _try(same, team, n)
    by_rows = divisible and _adds_up(same, weigh, team, n)
    ours = replace(shared_out(data, team, weigh, notes, by_rows=by_rows), meter=Meter(meter.full))
    assert ours.whole is not None
    turns = max(team.gather(len(ours.batches)))
    idle = [(0.0, ours.whole.first)] * (turns - len(ours.batches))
    evaluation = ShardedEvaluation(ours, [*zip(ours.shares, ours.batches, strict=True), *idle], n)
    _check(evaluation)
    notes.append(
        f"the parameters are sharded over {team.size} processes: {n:,} in all; Hessian products are differences of "
        "gradients, and no vector is ever gathered"
    )
    return evaluation


def _try(same: Evaluation, team: Team, n: int) -> None:
    """Run a few samples, the same in every process: so a model that fails does so everywhere, and nobody waits."""
    batch = same.batches[0]
    try:
        ShardedEvaluation(same, [(1.0 / team.size, batch)], n).of_data(same.theta())
    except UnstickError:
        raise
    except Exception as error:  # whatever a user's model raises
        first = " ".join(str(error).strip().split("\n")[0].split())
        raise BadModel(
            f"model and loss failed on the first samples ({describe(batch)}): {type(error).__name__}: {first}; expected a "
            "batch that they take"
        ) from error


def _adds_up(same: Evaluation, weigh: Callable[[Batch], float], team: Team, n: int) -> bool:
    """Whether the loss of a few samples is the mean of its two halves' losses; every process tries the same ones."""
    batch = same.batches[0]
    halves = split_rows(batch, ((size_of(batch) or 0) + 1) // 2)
    weights = [weigh(half) for half in halves]
    if len(halves) != 2 or not min(weights) > 0:
        return False
    theta = same.theta()

    def loss(part: Batch) -> float:
        return ShardedEvaluation(same, [(1.0 / team.size, part)], n).value(theta)

    parts = sum(weight * loss(half) for weight, half in zip(weights, halves, strict=True))
    whole = loss(batch)
    slack = torch.finfo(same.dtype).eps ** 0.5
    return abs(whole - parts / sum(weights)) <= slack * abs(whole)


def _check(evaluation: ShardedEvaluation) -> None:
    """Finite, repeatable, and a gradient that says how the loss changes; the same outcome in every process."""
    theta, team, eps = evaluation.theta(), evaluation.team, torch.finfo(evaluation.dtype).eps
    loss, gradient = evaluation.value_and_gradient(theta)
    size = evaluation.norm(gradient)
    if not (loss - loss == 0 and size - size == 0):
        raise NonFinite(
            f"the loss is {loss} and the gradient's length {size}, at finite parameters; expected finite numbers: look "
            "for log(0), 0/0 or overflow in the model or the loss"
        )
    again, gradient_again = evaluation.value_and_gradient(theta)
    apart = evaluation.norm(gradient - gradient_again)
    if abs(loss - again) > REPEATS * eps * abs(loss) or apart > 2 * REPEATS * eps * size:
        raise NonDeterministic(
            f"two evaluations of the same data differ (loss {number(loss, 9)} and {number(again, 9)}, gradients by "
            f"{number(apart)}); use mode='eval', or make the model repeat itself"
        )
    # Beside θ, as at a critical point every gradient is zero.
    generator = torch.Generator().manual_seed(team.rank)
    aside = torch.randn(len(theta), generator=generator, dtype=torch.float64).to(theta)
    there = theta + 0.01 * max(1.0, evaluation.norm(theta)) / evaluation.norm(aside) * aside
    value, slope = evaluation.value_and_gradient(there)
    steep = evaluation.norm(slope)
    if steep == 0.0:
        return
    step = eps ** (1 / 3) * max(1.0, evaluation.norm(there))
    sides = evaluation.values(
        torch.stack([there + sign * step / steep * slope for sign in (1, -1)])
    )
    measured = float(sides[0] - sides[1]) / (2 * step)
    noise = 20 * eps * abs(value) / step
    if abs(measured - steep) > SLOPE_AGREES * steep + noise:
        raise BadModel(
            f"the gradient has length {number(steep)} and the loss rises along it by {number(measured)} a unit; expected "
            "the same: leave FSDP's gradient divide factors as they are, and let all processes synchronize gradients"
        )


def _flat(parameter: nn.Parameter, dtype: torch.dtype) -> Tensor:
    """This process's part of a parameter's gradient, zero where it has none."""
    gradient: Any = parameter.grad
    if gradient is None:
        local: Any = parameter.detach()
        return torch.zeros(local.to_local().numel(), dtype=dtype, device=local.device)
    return gradient.to_local().reshape(-1).to(dtype)


def _forget_gathered(model: nn.Module) -> None:
    """Free parameters that were gathered from the shards: they are copies of what the shards were."""
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
