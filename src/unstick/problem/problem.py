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
from unstick.problem.batches import Batch, choose_rows, freeze, leaves
from unstick.problem.cost import Cost
from unstick.problem.determinism import check_deterministic
from unstick.problem.evaluation import PROBE_SAMPLES, Evaluation, Meter, check_weights
from unstick.problem.guard import unwrapped
from unstick.problem.hessian import Choice, HessianOperator, choose
from unstick.problem.layout import Layout, layout_of
from unstick.problem.noise import GradientNoise, gradient_noise
from unstick.problem.objective import (
    BatchLoss,
    Objective,
    known_lower_bound,
    separable,
    supervised,
    weigher,
)
from unstick.problem.preparation import divided, in_type, regrouped, spread_decay, weighed

__all__ = ["Problem"]


class Problem:
    """A loss over frozen data, always at the model's current parameters.

    The model is left as it was by everything here: mode, buffers, random state, ``.grad`` and ``requires_grad``.

    Args:
        model: Any module. Only parameters with ``requires_grad`` count; tied ones once. ``torch.compile`` is undone
            for the evaluations here, not for you.
        data: A DataLoader, a pair of tensors (inputs, targets), or a sequence of batches. Read once and kept: the same
            samples in the same order ever after.
        loss: ``loss(model(inputs), targets)`` → scalar, for batches (inputs, targets). Inputs may be a tensor, a
            sequence of arguments or a mapping of keyword arguments.
        batch_loss: Instead of ``loss``: ``batch_loss(model, batch)`` → scalar, for any batches.
        weight: What a batch's mean counts for, such as its number of tokens; by default the loss's own denominator
            (class weights, ``ignore_index``), else the number of samples.
        mode: "eval" or "train". In train mode batch statistics come from the batches as given.
        samples: Keep only a seeded random subset of so many samples.
        memory: Bytes for the frozen data, and as many for the graphs kept between Hessian products.
        weight_decay: Adds ½·weight_decay·‖θ‖²: one number, or one for each parameter name (others 0).
        dtype: Type to compute in; by default float64 for small problems whose model allows it (parameters × samples
            up to 1e8), else the parameters' own, at least float32.
        seed: Seed of subsets and probes.

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
        memory: int = 2 * 2**30,
        weight_decay: float | Mapping[str, float] = 0.0,
        dtype: torch.dtype | None = None,
        seed: int = 0,
    ) -> None:
        if (loss is None) == (batch_loss is None):
            raise BadModel(
                "expected one of loss= (for batches (inputs, targets)) and batch_loss= (for any batch)"
            )
        if mode not in ("eval", "train"):
            raise BadModel(f"mode is {mode!r}; expected 'eval' or 'train'")
        if dtype not in (None, torch.float32, torch.float64):
            raise BadModel(f"dtype is {dtype}; expected torch.float32 or torch.float64")
        inner = unwrapped(model)
        layout = layout_of(inner)
        layout.check_finite(inner)
        batches, notes = freeze(data, samples=samples, seed=seed, memory=memory)
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
            objective=Objective(inner, chosen, loss if isinstance(loss, nn.Module) else None),
            layout=layout,
            batches=[],
            weights=[],
            dtype=wide,
            training=mode == "train",
            decay=None,
            meter=Meter(1),
        )
        given = evaluation = weighed(blank, batches, weigh)
        if loss is not None and weight is None and mode == "eval" and separable(loss):
            evaluation = regrouped(given, batches, weigh, notes)
        evaluation = in_type(replace(evaluation, meter=Meter(evaluation.samples)), dtype, notes)
        if (decay := spread_decay(layout, weight_decay)) is not None:
            evaluation = replace(evaluation, decay=decay.to(layout.device, evaluation.dtype))
        try:
            self._start(evaluation, weigh, memory, seed, notes)
        except NonFinite:
            given.check_finite()  # name the batch as the user knows it
            raise
        targets = [batch[1] for batch in batches] if loss is not None else []
        self.lower_bound = known_lower_bound(loss, targets)
        self.samples = evaluation.samples if any(leaves(batch) for batch in batches) else 0

    def _start(
        self,
        evaluation: Evaluation,
        weigh: Callable[[Batch], float],
        memory: int,
        seed: int,
        notes: Sequence[str],
    ) -> None:
        evaluation.check_first()
        evaluation.check_connected()
        before = evaluation.meter.spent.seconds
        evaluation.check_finite()
        self._seconds_per_gradient = evaluation.meter.spent.seconds - before
        first = evaluation.probe(PROBE_SAMPLES)
        with evaluation.visit():
            check_deterministic(evaluation.model, lambda: first.unguarded(first.theta()))
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
        )
        problem.lower_bound = lower_bound
        return problem

    @property
    def model(self) -> nn.Module:
        """The user's model (without a ``torch.compile`` wrapper)."""
        return self._evaluation.model

    @property
    def n(self) -> int:
        """Number of trainable parameters."""
        return self._evaluation.layout.n

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

    def gradients(self, thetas: Tensor) -> Tensor:
        """The gradients at many parameter vectors [m, n] → [m, n].

        Raises:
            BadData: ``thetas`` has another shape.

        Cost:
            m gradients, at once where the problem is small enough.
        """
        return self._evaluation.gradients(self._many(thetas))

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
        """
        if self.samples < 2:
            return None
        full = self.gradient() if gradient is None else gradient
        return gradient_noise(
            self._evaluation, self._weigh, full, seed=seed, accuracy=accuracy, everything=everything
        )

    def hessian(self, *, mode: str = "auto") -> HessianOperator:
        """The Hessian at the current parameters, as a symmetric operator.

        Args:
            mode: "auto", "kept", "rebuilt", "forward" or "difference"; auto probes support and speed once, tests the
                candidates, and adds to ``notes`` what it chose and why.

        Raises:
            BadModel: The mode does not work for this model.

        Cost:
            The first time, about 20 gradients of at most 256 samples.
        """
        return HessianOperator(self._evaluation, self._chosen(mode), self._memory)

    def hessian_is_blind(self) -> bool:
        """Whether finite differences see curvature here that second derivatives do not (kinks, such as ReLU at 0)."""
        return self._chosen("auto").blind

    def _chosen(self, mode: str) -> Choice:
        if mode not in self._choice:
            choice = choose(self._evaluation, mode, self._memory, self._seed)
            self._choice[mode] = choice
            self._notes.append(choice.note)
        return self._choice[mode]

    @torch.inference_mode(False)
    def restrict(self, pattern: str) -> "Problem":
        """The same problem in only the parameters whose names match, such as ``layers.0.*``; others stay fixed.

        Raises:
            BadModel: No parameter matches.
        """
        ours = self._evaluation
        layout = ours.layout.restrict(pattern)
        decay = None
        if ours.decay is not None:
            parts = ours.layout.named(ours.decay)
            decay = torch.cat([parts[name].reshape(-1) for name in layout.names])
        return self._like(replace(ours, layout=layout, decay=decay, meter=Meter(ours.meter.full)))

    @torch.inference_mode(False)
    def subset(self, samples: int, *, seed: int = 0) -> "Problem":
        """The same problem on a seeded random subset of its samples; its costs are in full-data gradients.

        Raises:
            BadData: Fewer than one sample, or none that counts.
        """
        ours = self._evaluation
        if samples < 1:
            raise BadData(f"samples={samples}; expected at least 1")
        batches = choose_rows(ours.batches, samples, seed)
        weights = [self._weigh(batch) for batch in batches]
        check_weights(weights)
        part = self._like(replace(ours.on(batches, weights), meter=Meter(ours.meter.full)))
        part.samples = min(self.samples, part._evaluation.samples)
        return part

    def write(self, theta: Tensor) -> None:
        """Move the model: set its trainable parameters from [n], each rounded to its own type."""
        self.layout.write(theta)

    def _like(self, evaluation: Evaluation) -> "Problem":
        other = object.__new__(type(self))
        other._evaluation = evaluation
        other._weigh, other._memory, other._seed = self._weigh, self._memory, self._seed
        other._notes, other._choice = [], {}
        other._seconds_per_gradient = self._seconds_per_gradient
        other.lower_bound, other.samples = self.lower_bound, self.samples
        return other

    def _many(self, thetas: Tensor) -> Tensor:
        if thetas.ndim != 2 or thetas.shape[1] != self.n:
            raise BadData(
                f"thetas have shape {list(thetas.shape)}; expected [m, {self.n}], a parameter vector a row"
            )
        return thetas.to(self.device, self.dtype)


class _Vector(nn.Module):
    """The model behind ``from_function``: one parameter ``x`` [n]."""

    def __init__(self, x0: Tensor) -> None:
        super().__init__()
        self.x = nn.Parameter(x0.detach().clone())
