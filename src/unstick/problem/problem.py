"""What is minimized: a model, a loss and frozen data, as a function of one flat parameter vector.

Answers: the loss, its gradient, its noise and its Hessian at the model's current parameters, or at others.
Does not answer: what kind of point this is (``critical``), or what eigenvalues the Hessian has (``spectrum``).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from unstick.errors import BadData, BadModel, NonFinite
from unstick.problem.along import check_along, displaced, values_along
from unstick.problem.batches import Batch, choose_rows, digest, freeze, leaves
from unstick.problem.cost import Cost
from unstick.problem.dense import dense_hessians
from unstick.problem.determinism import check_deterministic
from unstick.problem.evaluation import PROBE_SAMPLES, Evaluation, Meter, check_weights
from unstick.problem.guard import unwrapped
from unstick.problem.hessian import Choice, HessianOperator, Records, choose
from unstick.problem.layout import Layout, layout_of
from unstick.problem.memory import DEFAULT_MEMORY, available, check_graphs
from unstick.problem.noise import GradientNoise, gradient_noise
from unstick.problem.objective import (
    BatchLoss,
    Objective,
    as_module,
    known_lower_bound,
    separable,
    supervised,
    weigher,
)
from unstick.problem.preparation import (
    decay_for,
    divided,
    fitted,
    in_type,
    part_of_samples,
    regrouped,
    shared_out,
    spread_decay,
    weighed,
)
from unstick.problem.sharded import (
    ShardedEvaluation,
    ShardedHessian,
    is_sharded,
    sharded_out,
    team_of_shards,
)
from unstick.problem.team import Group, Team, check_alike, team_of

__all__ = ["Hessian", "Problem"]

Hessian = HessianOperator | ShardedHessian
"""The Hessian of a problem as an operator: of whole vectors, or of shards."""


class Problem:
    """A loss over frozen data, always at the model's current parameters.

    The model is left as it was by everything here: mode, buffers, random state, ``.grad`` and ``requires_grad``.

    Args:
        model: Any module. Only parameters with ``requires_grad`` count; tied ones once. ``torch.compile``,
            ``DataParallel``, ``DistributedDataParallel`` and autocast inside the model are undone for the evaluations
            here, not for you.
        data: A DataLoader, a pair of tensors (inputs, targets), or a sequence of batches. Read once and kept: the same
            samples in the same order ever after.
        loss: ``loss(model(inputs), targets)`` → scalar, for batches (inputs, targets). Inputs may be a tensor, a
            sequence of arguments or a mapping of keyword arguments.
        batch_loss: Instead of ``loss``: ``batch_loss(model, batch)`` → scalar, for any batches.
        weight: What a batch's mean counts for, such as its number of tokens; by default the loss's own denominator
            (class weights, ``ignore_index``), else the number of samples.
        mode: "eval" or "train". In train mode batch statistics come from the batches as given.
        samples: Keep only a seeded random subset of so many samples.
        memory: Bytes for the frozen data, and as many for Hessian products: the graphs kept between them and the work on
            one batch. Batches are cut to fit where the loss is a mean over samples. None: 2 GiB, and more for a single
            batch that cannot be cut, if the machine has it.
        weight_decay: Adds ½·weight_decay·‖θ‖²: one number, or one for each parameter name (others 0).
        dtype: Type to compute in; by default float64 for small problems whose model allows it (parameters × samples
            up to 1e8), else the parameters' own, at least float32.
        seed: Seed of subsets and probes.
        group: The processes that share the work: a process group; None for all of them where ``torch.distributed``
            is initialized; "alone" for none. Each makes the same calls on the same model and data, holds a part of the
            data, and gets the answer that one process would get.

    Raises:
        BadModel: No trainable parameter, a loss that is not a scalar, or a model that fails on the first batch.
        BadData: No data, misshapen data, or more than ``memory`` holds.
        NonFinite: Data, parameters, loss or gradient hold inf or nan; says which and where.
        NonDeterministic: Two evaluations of the first batch differ; says in which module.

    Cost:
        One pass over the data, and a few evaluations of at most 256 samples.

    Example:
        >>> problem = Problem.from_function(lambda x: (1 - x[0] * x[1]) ** 2, torch.zeros(2))
        >>> problem.value(), problem.gradient().tolist()
        (1.0, [0.0, 0.0])
    """

    @torch.inference_mode(False)  # what is frozen inside it could not be differentiated later
    def __init__(
        self,
        model: nn.Module,
        data: Any,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        batch_loss: BatchLoss | None = None,
        weight: Callable[[Batch], float | Tensor] | None = None,
        mode: str = "eval",
        samples: int | None = None,
        memory: int | None = None,
        weight_decay: float | Mapping[str, float] = 0.0,
        dtype: torch.dtype | None = None,
        seed: int = 0,
        group: Group = None,
    ) -> None:
        if (loss is None) == (batch_loss is None):
            raise BadModel(
                "expected one of loss= (for batches (inputs, targets)) and batch_loss= (for any batch)"
            )
        if mode not in ("eval", "train"):
            raise BadModel(f"mode is {mode!r}; expected 'eval' or 'train'")
        limit = DEFAULT_MEMORY if memory is None else memory
        if dtype not in (None, torch.float32, torch.float64):
            raise BadModel(f"dtype is {dtype}; expected torch.float32 or torch.float64")
        inner = unwrapped(model)
        layout = layout_of(inner)
        sharded = is_sharded(inner)
        team = team_of_shards(inner) if sharded else team_of(group)
        with team.together():
            layout.check_finite(inner)
            batches, notes = freeze(data, samples=samples, seed=seed, memory=limit)
        _check_alike(team, None if sharded else layout, batches)
        weigh = weigher(loss, weight)
        chosen = batch_loss if loss is None else supervised(loss)
        assert chosen is not None
        if getattr(loss, "reduction", "mean") == "sum":
            weigh = weigher(None, weight)
            chosen = divided(chosen, weigh)
            what = "what weight() counts" if weight is not None else "the number of samples"
            notes.append(f"the loss has reduction='sum': divided by {what}")
        wide = layout.dtype if layout.dtype.itemsize >= 4 else torch.float32
        blank = Evaluation(
            objective=Objective(model, chosen, as_module(loss)),
            layout=layout,
            batches=[],
            weights=[],
            dtype=wide,
            training=mode == "train",
            decay=None,
            meter=Meter(1),
        )
        divisible = loss is not None and weight is None and mode == "eval" and separable(loss)
        if sharded:
            with team.together():
                whole = weighed(blank, batches, weigh)
                if dtype not in (None, wide):
                    raise BadModel(
                        f"dtype is {dtype} and the sharded parameters are {wide}; expected the same: they are computed "
                        "with where they are"
                    )
                decay = spread_decay(layout, weight_decay)
            decay = None if decay is None else decay.to(layout.device, wide)
            whole = replace(whole, decay=decay, meter=Meter(whole.samples))
            shards = sharded_out(whole, weigh, notes, team=team, divisible=divisible)
            price = shards.meter.spent.seconds / max(1.0, shards.meter.spent.gradients)
            self._seconds_per_gradient = max(team.gather(price))
            self._keep(shards, weigh, limit, seed, notes)
            self._strict = memory is not None
            self.lower_bound = known_lower_bound(
                loss, [batch[1] for batch in batches] if loss is not None else []
            )
            self.samples = shards.all_samples if any(leaves(batch) for batch in batches) else 0
            return
        with team.together():
            given = evaluation = weighed(blank, batches, weigh)
            if divisible:
                evaluation = regrouped(given, batches, weigh, notes)
                evaluation = fitted(evaluation, weigh, limit)
            evaluation = in_type(replace(evaluation, meter=Meter(evaluation.samples)), dtype, notes)
            if divisible:
                evaluation = fitted(evaluation, weigh, limit)  # another type takes other memory
            if team.size > 1:
                by_rows = divisible and evaluation.adds_up(weigh)
                evaluation = shared_out(evaluation, team, weigh, notes, by_rows=by_rows)
        if (decay := spread_decay(layout, weight_decay)) is not None:
            evaluation = replace(evaluation, decay=decay.to(layout.device, evaluation.dtype))
        try:
            self._start(evaluation, weigh, limit, seed, notes)
            self._strict = memory is not None
        except (NonFinite, BadModel):
            given.check_finite()  # name the batch as the user knows it
            raise
        targets = [batch[1] for batch in batches] if loss is not None else []
        self.lower_bound = known_lower_bound(loss, targets)
        self.samples = evaluation.all_samples if any(leaves(batch) for batch in batches) else 0

    def _start(
        self,
        evaluation: Evaluation,
        weigh: Callable[[Batch], float],
        memory: int,
        seed: int,
        notes: Sequence[str],
    ) -> None:
        team, since = evaluation.team, evaluation.meter.spent
        with team.together():
            evaluation.check_first()
        evaluation.check_connected()
        before = evaluation.meter.spent.seconds
        with team.together():
            evaluation.check_finite()
        # The slowest process makes the others wait.
        self._seconds_per_gradient = max(team.gather(evaluation.meter.spent.seconds - before))
        evaluation.meter.share(since, team)
        first = evaluation.probe(PROBE_SAMPLES)
        with team.together(), evaluation.visit():
            check_deterministic(evaluation.model, lambda: first.unguarded(first.theta()))
        self._keep(evaluation, weigh, memory, seed, notes)
        if evaluation.objective.autocasts:
            self._notes.append(
                f"the model's own autocast is left out: computed in {str(evaluation.dtype).removeprefix('torch.')} throughout"
            )

    def _keep(
        self,
        evaluation: Evaluation | ShardedEvaluation,
        weigh: Callable[[Batch], float],
        memory: int,
        seed: int,
        notes: Sequence[str],
    ) -> None:
        self._evaluation = evaluation
        self._weigh = weigh
        self._memory = memory
        self._seed = seed
        self._notes = list(notes)
        self._choice: dict[str, Choice] = {}

    @classmethod
    @torch.inference_mode(False)
    def from_function(
        cls,
        function: Callable[[Tensor], Tensor],
        x0: Tensor,
        *,
        lower_bound: float | None = None,
        dtype: torch.dtype | None = None,
    ) -> Self:
        """The problem of minimizing a scalar function of a vector; no data, no noise.

        Args:
            function: Maps a tensor [n] to a scalar tensor, differentiably.
            x0: Where, shape [n]; copied. Move it by ``problem.model.x``.
            lower_bound: A value that the function cannot fall below, if you know one.
            dtype: Type to compute in; by default float64 where the function allows it, else x0's.

        Raises:
            BadModel, NonFinite, NonDeterministic: As for any problem.
        """
        if x0.ndim != 1 or x0.numel() == 0 or not x0.is_floating_point():
            raise BadModel(
                f"x0 has shape {list(x0.shape)} and type {x0.dtype}; expected floating point [n]"
            )
        problem = cls(
            _Vector(x0),
            [()],
            batch_loss=lambda model, _batch: function(cast("_Vector", model).x),
            dtype=dtype,
            group="alone",  # there is nothing to share: each process computes the same
        )
        problem.lower_bound = lower_bound
        return problem

    @property
    def model(self) -> nn.Module:
        """The user's model, without wrappers such as ``torch.compile`` and ``DistributedDataParallel``."""
        return self._evaluation.model

    @property
    def n(self) -> int:
        """Number of trainable parameters, over all processes where they are sharded."""
        ours = self._evaluation
        return ours.n if isinstance(ours, ShardedEvaluation) else ours.layout.n

    @property
    def sharded(self) -> bool:
        """Whether vectors are this process's shards, ``layout.n`` long, because the model's parameters are."""
        return isinstance(self._evaluation, ShardedEvaluation)

    @property
    def team(self) -> Team:
        """The processes that share this problem."""
        return self._evaluation.team

    def require_whole(self, what: str) -> Evaluation:
        """The evaluation of a model whose parameters are whole.

        Raises:
            BadModel: They are sharded.
        """
        if isinstance(self._evaluation, ShardedEvaluation):
            raise BadModel(
                f"{what} needs whole parameter vectors, and this model's are sharded over {self.team.size} processes; on "
                "shards work curvature_ends, spectral_density and the problem's values, gradients and Hessian products"
            )
        return self._evaluation

    @property
    def layout(self) -> Layout:
        """Where each parameter lies in [n]."""
        return self._evaluation.layout

    @property
    def dtype(self) -> torch.dtype:
        """The type computed in."""
        return self._evaluation.dtype

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return self._evaluation.layout.device

    @property
    def memory(self) -> int:
        """Bytes for Hessian products: the graphs kept between them and the work on one batch."""
        return self._memory

    @property
    def data_bytes(self) -> int:
        """Bytes of the frozen data that this process holds."""
        ours = self._evaluation
        held = ours.data if isinstance(ours, ShardedEvaluation) else ours
        return sum(leaf.nbytes for batch in held.batches for leaf in leaves(batch))

    def free_memory(self, device: torch.device | None = None) -> float | None:
        """Bytes that can still be taken on a device, by default the parameters'; None where that cannot be known.

        Where several processes share the problem, the least of them all.
        """
        everyone = self._evaluation.team.gather(available(device or self.device))
        known = [free for free in everyone if free is not None]
        return min(known) if known else None

    @property
    def notes(self) -> tuple[str, ...]:
        """What was chosen or changed on the way, one line each."""
        return tuple(self._notes)

    @property
    def spent(self) -> Cost:
        """Everything that this problem has cost so far."""
        return self._evaluation.meter.spent

    def price(self, gradients: float) -> float:
        """Seconds that so many full-data gradients are expected to take, as measured when the problem was made."""
        return gradients * self._seconds_per_gradient

    def parameters(self) -> Tensor:
        """The model's current trainable parameters as a flat vector [n], a copy."""
        return self._evaluation.theta()

    def value(self) -> float:
        """The loss over all data. Cost: a third of a gradient."""
        return self._evaluation.value(self.parameters())

    def gradient(self) -> Tensor:
        """The gradient of the loss over all data, shape [n], in the type computed in. Cost: one gradient."""
        return self._evaluation.value_and_gradient(self.parameters())[1]

    def value_and_gradient(self) -> tuple[float, Tensor]:
        """Both at once. Cost: one gradient."""
        return self._evaluation.value_and_gradient(self.parameters())

    def values(self, thetas: Tensor) -> Tensor:
        """The losses at many parameter vectors [m, n] → [m] float64; inf and nan come back as they are.

        Raises:
            BadData: ``thetas`` has another shape.

        Cost:
            m thirds of a gradient, at once where the problem is small enough.
        """
        return self._evaluation.values(self._many(thetas))

    def values_along(
        self,
        origin: Tensor,
        directions: Tensor,
        coordinates: Tensor,
        *,
        progress: Callable[[float, float], None] | None = None,
    ) -> Tensor:
        """The losses at ``origin + coordinates @ directions`` → [m] float64; inf and nan come back as they are.

        For many points on a line or a plane, faster than ``values``: what is affine in the parameters, such as the first
        layer, is computed once for each direction. Checked against separate evaluations at three points; a model for
        which that cannot be done has its points evaluated by themselves, and ``notes`` says why.

        Args:
            origin: Shape [n].
            directions: Shape [k, n]; up to eight are fast.
            coordinates: Shape [m, k].
            progress: Called with points done and points in all.

        Raises:
            BadData: A shape does not fit, or a number is not finite.

        Cost:
            m thirds of a gradient. Before the first, some tenths of a millisecond for each operation of the model.

        Example:
            >>> problem = Problem.from_function(lambda x: x[0] ** 2 - x[1] ** 2, torch.zeros(2))
            >>> problem.values_along(torch.zeros(2), torch.eye(2), torch.tensor([[2.0, 1.0], [0.0, 1.0]])).tolist()
            [3.0, -1.0]
        """
        given = check_along(origin, directions, coordinates, self.layout.n)
        start, spread, at = (part.to(self.device, self.dtype) for part in given)
        ours = self._evaluation
        if isinstance(ours, ShardedEvaluation):
            return displaced(ours.values, start, spread, at, progress=progress)
        return values_along(
            ours, self._weigh, start, spread, at, notes=self._notes, progress=progress
        )

    def gradients(self, thetas: Tensor) -> Tensor:
        """The gradients at many parameter vectors [m, n] → [m, n].

        Raises:
            BadData: ``thetas`` has another shape.

        Cost:
            m gradients, at once where the problem is small enough.
        """
        return self._evaluation.gradients(self._many(thetas))

    def hessians(self, thetas: Tensor) -> Tensor:
        """The dense Hessians at many parameter vectors [m, n] → [m, n, n].

        Raises:
            BadData: ``thetas`` has another shape.
            BadModel: The parameters are sharded, or automatic differentiation gives no Hessian that passes the self-test.

        Cost:
            m gradients and m·n Hessian products, many at once where the model can be batched.
        """
        ours = self.require_whole("hessians")
        choice, _ = self._chosen("auto")
        if choice.mode == "difference":
            raise BadModel(
                "dense Hessians need second derivatives, and this model gives only finite differences of gradients "
                f"({choice.note}); use Hessian products"
            )
        return dense_hessians(ours, self._many(thetas), memory=self._memory)

    def gradient_noise(
        self,
        *,
        gradient: Tensor | None = None,
        accuracy: float = 0.05,
        everything: bool = False,
        seed: int = 0,
    ) -> GradientNoise | None:
        """The trace of the covariance of per-sample gradients; see ``noise.gradient_noise``.

        Args:
            gradient: The full gradient [n] if you have it; else it is computed.
            accuracy: Relative standard error of the trace at which to stop.
            everything: Use every sample.
            seed: Seed of the order of samples.

        Returns:
            The noise, or None where there are no samples to tell apart.

        Raises:
            BadModel: The parameters are sharded.
        """
        ours = self.require_whole("gradient noise")
        if self.samples < 2:
            return None
        full = self.gradient() if gradient is None else gradient
        return gradient_noise(
            ours, self._weigh, full, seed=seed, accuracy=accuracy, everything=everything
        )

    def hessian(self, *, mode: str = "auto") -> Hessian:
        """The Hessian at the current parameters, as a symmetric operator.

        Args:
            mode: "auto", "kept", "linearized", "rebuilt", "forward" or "difference"; auto probes support and speed once, tests the
                candidates, and adds to ``notes`` what it chose and why.

        Raises:
            BadModel: The mode does not work for this model.
            TooLittleMemory: One batch takes more than ``memory``, or more than the machine has.

        Cost:
            The first time, about 20 gradients of at most 256 samples.
        """
        ours = self._evaluation
        if isinstance(ours, ShardedEvaluation):
            if mode not in ("auto", "difference"):
                raise BadModel(
                    f"Hessian products by mode {mode!r} need a graph of the gradient, which a sharded model does not give; "
                    "use mode 'auto' or 'difference'"
                )
            return ShardedHessian(ours)
        choice, records = self._chosen(mode)
        operator = HessianOperator(ours, choice, self._memory, records)
        if operator.mode in ("kept", "linearized", "rebuilt"):
            with ours.team.together():
                check_graphs(operator.graphs, self._memory, self.device, strict=self._strict)
        return operator

    def hessian_is_blind(self) -> bool:
        """Whether finite differences see curvature here that second derivatives do not (kinks, such as ReLU at 0)."""
        return not self.sharded and self._chosen("auto")[0].blind

    def _chosen(self, mode: str) -> tuple[Choice, Records | None]:
        """The way of computing products; the first time, also what was recorded on the way."""
        records = None
        if mode not in self._choice:
            ours = self.require_whole("the choice of a mode")
            with ours.team.together():
                choice, records = choose(ours, mode, self._memory, self._seed)
            choice = ours.team.agree(choice)  # its timings decide, and clocks differ
            self._choice[mode] = choice
            self._notes.append(choice.note)
        return self._choice[mode], records

    @torch.inference_mode(False)
    def restrict(self, patterns: str | Sequence[str]) -> "Problem":
        """The same problem in only the parameters whose names match a pattern, such as ``layers.0.*``, or one of several.

        The others stay fixed.

        Raises:
            BadModel: Nothing matches one of the patterns, or the parameters are sharded.
        """
        ours = self.require_whole("restrict")
        layout = ours.layout.restrict(patterns)
        decay = None
        if ours.decay is not None:
            parts = ours.layout.named(ours.decay)
            decay = torch.cat([parts[name].reshape(-1) for name in layout.names])
        part = self._like(replace(ours, layout=layout, decay=decay, meter=Meter(ours.meter.full)))
        part._choice.update(self._choice)  # a block of the Hessian works as the whole of it does
        return part

    @torch.inference_mode(False)
    def subset(self, samples: int, *, seed: int = 0) -> "Problem":
        """The same problem on a seeded random subset of its samples; its costs are in full-data gradients.

        Raises:
            BadData: Fewer than one sample, or none that counts.
            BadModel: The parameters are sharded.
        """
        ours = self.require_whole("subset")
        if samples < 1:
            raise BadData(f"samples={samples}; expected at least 1")
        if ours.whole is not None:
            drawn = part_of_samples(ours, samples, seed, self._weigh)
        else:
            batches = choose_rows(ours.batches, samples, seed)
            weights = [self._weigh(batch) for batch in batches]
            check_weights(weights)
            drawn = ours.on(batches, weights)
        part = self._like(replace(drawn, meter=Meter(ours.meter.full)))
        part.samples = min(self.samples, drawn.all_samples)
        return part

    @torch.inference_mode(False)
    def with_decay(self, weight_decay: float | Mapping[str, float]) -> "Problem":
        """The same problem with another weight decay: one number, or one for each parameter name (others 0).

        Raises:
            BadModel: An unknown name, a negative number, or sharded parameters.
        """
        ours = self.require_whole("with_decay")
        decay = spread_decay(ours.layout, weight_decay)
        placed = None if decay is None else decay.to(ours.layout.device, ours.dtype)
        other = self._like(replace(ours, decay=placed))
        other._choice.update(self._choice)  # curvature gains a multiple of the identity, no more
        return other

    @torch.inference_mode(False)
    def with_model(self, model: nn.Module) -> "Problem":
        """The same data and loss with another model, at a cost of its own.

        Weight decay goes with parameters of the same name and shape; where it is one number, with all.

        Raises:
            BadModel, BadData, NonFinite: As for any problem: the model does not fit the data or the loss.
        """
        ours = self.require_whole("with_model")
        objective = Objective(model, ours.objective.batch_loss, ours.objective.loss)
        layout = layout_of(objective.model)
        layout.check_finite(objective.model)
        decay = None if ours.decay is None else decay_for(layout, ours.layout, ours.decay)
        fresh = replace(
            ours, objective=objective, layout=layout, decay=decay, meter=Meter(ours.meter.full)
        )
        fresh.check_first()
        fresh.check_connected()
        fresh.check_finite()
        return self._like(fresh)

    def write(self, theta: Tensor) -> None:
        """Move the model: set its trainable parameters from [n], each rounded to its own type."""
        self.layout.write(theta)

    def _like(self, evaluation: Evaluation) -> "Problem":
        other = object.__new__(type(self))
        other._evaluation = evaluation
        other._weigh, other._memory, other._seed = self._weigh, self._memory, self._seed
        other._strict = self._strict
        other._notes, other._choice = [], {}
        other._seconds_per_gradient = self._seconds_per_gradient
        other.lower_bound, other.samples = self.lower_bound, self.samples
        return other

    def _many(self, thetas: Tensor) -> Tensor:
        length = self.layout.n
        if thetas.ndim != 2 or thetas.shape[1] != length:
            raise BadData(
                f"thetas have shape {list(thetas.shape)}; expected [m, {length}], a parameter vector a row"
            )
        return thetas.to(self.device, self.dtype)


def _check_alike(team: Team, layout: Layout | None, batches: Sequence[Batch]) -> None:
    """Refuse processes that were given different models or data: their sums would mean nothing."""
    if team.size == 1:
        return
    if layout is not None:
        check_alike(
            team,
            digest([layout.read(layout.dtype)]),
            "the parameters",
            "load the same checkpoint, or seed before the model is made",
        )
    check_alike(
        team,
        digest(batches),
        "the data",
        "give every process all of them in the same order (no DistributedSampler, shuffling only with a seed); they "
        "are shared out here",
    )


class _Vector(nn.Module):
    """The model behind ``from_function``: one parameter ``x`` [n]."""

    def __init__(self, x0: Tensor) -> None:
        super().__init__()
        self.x = nn.Parameter(x0.detach().clone())
