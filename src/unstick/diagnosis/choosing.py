"""Which remedies are worth a trial for what was found, and which are not, and why.

Answers: what is tried for these causes, in which order, and what cannot help?
Does not answer: what does help; that is measured (``trials``).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import nn
from torch.optim import SGD

from unstick.critical.escaping import Escape
from unstick.diagnosis import remedies as r
from unstick.diagnosis.bench import Bench
from unstick.diagnosis.cause import HEALTHY, Cause
from unstick.diagnosis.evidence import FEW, Evidence, is_plain
from unstick.diagnosis.remedies import Remedy
from unstick.diagnosis.rules import Support
from unstick.diagnosis.surgery import (
    NotPossible,
    hidden_activations,
    takes_shares_only,
    trailing_modules,
)
from unstick.problem.objective import CLASSIFYING, ELEMENTWISE

__all__ = ["Choice", "choose", "draw_remedies", "remedy_of"]

MOST = 12
"""Remedies that are tried at most: more would leave each too few updates."""

SURE = 0.9
"""Strength of a cause beside progress that its remedies are tried for."""

PROVED = 0.7
"""Strength of a floor of the model that restarts have confirmed; below, remedies may still refute it."""

RECTIFYING = (*r.RECTIFIERS, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU)
"""Activations that He's start is made for."""

STARTS = 64
"""Random starts of a small problem that the best is taken of."""

FOR: Final[Mapping[Cause, tuple[str, ...]]] = {
    Cause.STRICT_SADDLE: ("escape", "noise", "new start", "best start", "rate × 10", "Adam 0.01", "Adam 0.05"),
    Cause.DEGENERATE_POINT: ("escape", "noise", "new start", "best start"),
    Cause.LOCAL_MINIMUM: ("best start", "new start", "noise"),
    Cause.ZERO_GRADIENT_PATH: (
        "outputs", "other outputs", "outputs & standardized & start", "other outputs & start", "unfrozen",
    ),
    Cause.DEAD_UNITS: (
        "revive", "leaky", "new start & rate ÷ 10", "new start & rate ÷ 100", "new start & rate ÷ 1000", "leaky & start",
        "normalize & start", "leaky & start & rate × 3", "new start", "outputs & standardized & start",
    ),
    Cause.SATURATED_UNITS: ("rescale", "new start", "normalize", "new start & rate ÷ 10", "Adam 0.001"),
    Cause.VANISHING_GRADIENT: (
        "normalize & start", "normalize & rate × 10", "rectified & start", "rectified & normalize & start",
        "rectified & normalize & start & rate × 10", "new start", "escape", "best start", "noise", "rate × 100",
    ),
    Cause.SYMMETRIC_UNITS: ("noise", "new start", "escape"),
    Cause.NON_FINITE: (
        "new start & rate ÷ 10", "new start & rate ÷ 100", "rate ÷ 10", "rate ÷ 2", "new start & rate of curvature",
        "new start & clip", "outputs & start", "normalize & start",
    ),
    Cause.UNSCALED_INPUTS: (
        "inputs", "inputs & start", "outputs & inputs & start", "inputs & start & Adam 0.001", "inputs & start & Adam 0.01",
        "normalize & start", "outputs & inputs & start & Adam 0.001",
    ),
    Cause.UNSCALED_TARGETS: (
        "standardized & start", "standardized", "targets & start", "standardized & start & rate × 10",
        "standardized & start & Adam 0.01",
    ),
    Cause.LOSS_OUTPUT_MISMATCH: (
        "outputs", "outputs & rate × 10", "outputs & start", "outputs & inputs & start",
        "outputs & inputs & start & Adam 0.001", "other outputs & start", "outputs & Adam 0.001",
    ),
    Cause.LEARNING_RATE_TOO_LARGE: (
        "rate ÷ 10", "rate ÷ 100", "new start & rate ÷ 10", "new start & rate ÷ 100", "new start & rate of curvature",
        "new start & rate ÷ 1000", "rate ÷ 2", "rate of curvature",
    ),
    Cause.LEARNING_RATE_TOO_SMALL: (
        "rate × 10", "rate × 100", "rate × 1000", "rate of curvature", "Adam 0.001", "Adam 0.01", "Adam 0.05", "momentum 0.9",
    ),
    Cause.SCHEDULE_EXHAUSTED: ("highest rate", "warm-up", "highest rate ÷ 10", "Adam 0.001", "Adam 0.01"),
    Cause.GRADIENT_CLIPPING: ("no clipping", "clip", "no clipping & rate ÷ 10", "Adam 0.001"),
    Cause.ILL_CONDITIONED_VALLEY: (
        "momentum 0.9", "momentum 0.99 slower", "momentum 0.98 slower", "Adam 0.01", "Adam 0.1", "rate of curvature", "normalize",
    ),
    Cause.GRADIENT_NOISE_FLOOR: (
        "batch × 16", "batch by noise", "rate ÷ 10", "batch × 64", "batch × 16 & rate ÷ 10", "rate ÷ 100", "Adam 0.001",
    ),
    Cause.OVER_REGULARIZED: ("decay ÷ 100", "no decay", "decay ÷ 100 & new start", "no decay & new start", "decay ÷ 10000 & new start"),
    Cause.UNDECIDED: (
        "rate × 10", "rate ÷ 10", "Adam 0.01", "Adam 0.05", "momentum 0.9", "noise", "best start", "new start", "batch × 16",
        "normalize & start", "escape",
    ),
}  # fmt: skip
"""What is tried for a cause, the likeliest first; "&" joins. Most are what ``MEANS`` advises, others stand beside them so that
what helps is told from what comes with it: a rate alone beside Adam, a start alone beside one with another rate."""

NOTHING_HELPS: Final[Mapping[Cause, str]] = {
    Cause.PROGRESSING: "training goes on: there is nothing to mend",
    Cause.MODEL_FLOOR: "no other rate, batch, momentum or start reached lower: only another model or other data can",
}


@dataclass(frozen=True, slots=True)
class Choice:
    """What is tried, and what is not."""

    remedies: tuple[Remedy, ...]
    skipped: tuple[tuple[str, str], ...]  # remedy or kind of remedy, and why it was not tried

    def without_dearest(self) -> "Choice":
        """One remedy less: the one that takes most by itself, else the last."""
        dearest = max(reversed(self.remedies), key=lambda remedy: remedy.price)
        rest = tuple(remedy for remedy in self.remedies if remedy is not dearest)
        return Choice(rest, (*self.skipped, (dearest.name, "the budget does not pay for it")))


def choose(
    bench: Bench, evidence: Evidence, causes: Sequence[Support], tried: Escape | None
) -> Choice:
    """The remedies for the first cause and the one after it.

    Args:
        bench: Of the run.
        evidence: What was measured.
        causes: Ranked.
        tried: A way out of the point, if one was found.

    Cost:
        A forward pass on a few samples.
    """
    first = causes[0].cause
    if first == Cause.MODEL_FLOOR and causes[0].strength < PROVED:
        first = Cause.UNDECIDED
    if first in HEALTHY:
        # a training that goes on may still be slowed down by what is certain
        sure = [c for c in causes[1:3] if c.strength >= SURE and c.cause not in HEALTHY]
        if first == Cause.MODEL_FLOOR or not sure:
            return Choice((), (("every remedy", NOTHING_HELPS[first]),))
        first = sure[0].cause
    shelf = _Shelf(bench, evidence, tried)
    names = list(FOR[first])
    for other in causes[1:3] if first != Cause.ZERO_GRADIENT_PATH else ():
        if other.strength >= 0.5 and other.cause not in HEALTHY:
            names += FOR[other.cause][:4]
    found: dict[str, Remedy] = {}
    skipped: dict[str, str] = {}
    if useless := _useless(first, evidence):
        skipped[useless[0]] = useless[1]
    for name in dict.fromkeys(names):
        try:
            remedy = shelf.get(name)
        except NotPossible as why:
            skipped[name] = str(why)
            continue
        if useless and _is_useless(remedy, first, evidence):
            continue
        found.setdefault(remedy.name, remedy)
    chosen = list(found.values())
    skipped.update((remedy.name, "others were likelier") for remedy in chosen[MOST:])
    return Choice(tuple(chosen[:MOST]), tuple(skipped.items()))


def remedy_of(bench: Bench, evidence: Evidence, tried: Escape | None, key: str) -> Remedy:
    """The remedy of this key, made again.

    Raises:
        NotPossible: It does not fit this run.
    """
    return _Shelf(bench, evidence, tried).get(key)


def draw_remedies(
    bench: Bench, evidence: Evidence, tried: Escape | None, *, count: int, seed: int
) -> list[Remedy]:
    """So many remedies of all that fit this run, whatever its causes: what choosing by cause is compared with."""
    shelf = _Shelf(bench, evidence, tried)
    names = list(dict.fromkeys(name for some in FOR.values() for name in some))
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).tolist()
    found: dict[str, Remedy] = {}
    for place in order:
        try:
            remedy = shelf.get(names[place])
        except NotPossible:
            continue
        found.setdefault(remedy.name, remedy)
        if len(found) == count:
            break
    return list(found.values())


def _useless(cause: Cause, e: Evidence) -> tuple[str, str] | None:
    """What provably changes nothing here."""
    if cause == Cause.ZERO_GRADIENT_PATH:
        return (
            "every optimizer, rate, batch and start",
            "the gradient is zero for every sample at any parameters: nothing that follows it moves",
        )
    if e.point.gradient_norm == 0.0:
        return (
            "every optimizer, rate and batch",
            "the gradient here is exactly zero: a step of any length stays where it is",
        )
    return None


def _is_useless(remedy: Remedy, cause: Cause, e: Evidence) -> bool:
    if cause == Cause.ZERO_GRADIENT_PATH:
        return "model" not in remedy.groups
    return e.point.gradient_norm == 0.0 and set(remedy.groups) <= {"step", "batch"}


class _Shelf:
    """Remedies by name, made for this run."""

    def __init__(self, bench: Bench, evidence: Evidence, tried: Escape | None) -> None:
        self.bench, self.evidence, self.tried = bench, evidence, tried
        self._basic: dict[str, Callable[[], Remedy]] = {
            "escape": self._escape,
            "noise": lambda: r.noise(1.0),
            "new start": self._new_start,
            "start": self._new_start,
            "best start": self._best_start,
            "revive": self._revive,
            "rescale": r.rescale,
            "normalize": r.normalize,
            "leaky": lambda: r.activations(hidden_activations(bench, r.RECTIFIERS), nn.ELU),
            "rectified": lambda: r.activations(hidden_activations(bench, r.SIGMOIDS), nn.ReLU),
            "outputs": lambda: self._outputs(0),
            "other outputs": lambda: self._outputs(1),
            "unfrozen": self._unfrozen,
            "inputs": lambda: self._standardize(inputs=True, targets=False),
            "targets": lambda: self._standardize(inputs=False, targets=True),
            "standardized": lambda: self._standardize(inputs=True, targets=True),
            "highest rate": self._highest_rate,
            "highest rate ÷ 10": lambda: self._highest_rate(0.1),
            "warm-up": self._warm_up,
            "rate of curvature": self._rate_of_curvature,
            "momentum 0.9": lambda: self._momentum(0.9, 1.0),
            "momentum 0.98 slower": lambda: self._momentum(0.98, 0.25),
            "momentum 0.99 slower": lambda: self._momentum(0.99, 0.5),
            "batch × 16": lambda: self._batch(16),
            "batch × 64": lambda: self._batch(64),
            "batch by noise": self._batch_by_noise,
            "no clipping": lambda: self._clip(None),
            "clip": lambda: self._clip(max(1e-6, evidence.point.gradient_norm)),
            "no decay": lambda: self._decay(0.0),
            "decay ÷ 100": lambda: self._decay(0.01),
            "decay ÷ 10000": lambda: self._decay(1e-4),
        }

    def get(self, name: str) -> Remedy:
        """By name, or names joined by "&".

        Raises:
            NotPossible: It does not fit this run.
        """
        first, *rest = [self._one(part) for part in name.split(" & ")]
        return sum(rest, first)

    def _one(self, name: str) -> Remedy:
        made = self._basic.get(name)
        if made is not None:
            return replace(made(), key=name)
        kind, _, told = name.rpartition(" ")
        try:
            value = float(told)
        except ValueError:
            value = 0.0
        if not 0 < value < math.inf or kind not in ("rate ×", "rate ÷", "Adam"):
            raise NotPossible(f"no remedy is called {name!r}")
        if kind == "Adam":
            return replace(self._adam(value), key=name)
        return replace(r.rate(value if kind == "rate ×" else 1 / value), key=name)

    def _escape(self) -> Remedy:
        if self.tried is None or not self.tried.moved or self.tried.direction is None:
            raise NotPossible("no way out of this point was found")
        problem = self.bench.problem
        theta = problem.parameters()
        to = theta + self.tried.step * self.tried.direction.to(theta)
        return r.move_to(to, self.tried.outcome)

    def _new_start(self) -> Remedy:
        model = self.bench.objective.model
        if all(p.ndim < 2 for p in model.parameters()):
            return r.new_start(None)
        rectified = any(isinstance(module, RECTIFYING) for module in model.modules())
        return r.new_start("he" if rectified else "xavier")

    def _best_start(self) -> Remedy:
        if self.bench.problem.n > FEW:
            raise NotPossible(f"more than {FEW} parameters: random ones are no better than a start")
        return r.best_start(STARTS)

    def _revive(self) -> Remedy:
        signals = self.evidence.signals
        if signals is None or not any(layer.dead_units for layer in signals.layers):
            raise NotPossible("no unit is dead")
        return r.revive(signals)

    def _standardize(self, *, inputs: bool, targets: bool) -> Remedy:
        optimizer = self.bench.run.optimizer
        return r.standardize(
            self.bench.batch,
            inputs=inputs,
            targets=targets,
            plain=optimizer is not None and is_plain(optimizer),
            squared=isinstance(self.bench.objective.loss, nn.MSELoss),
        )

    def _outputs(self, which: int) -> Remedy:
        names, output = trailing_modules(self.bench)
        offered = _outputs_for(self.bench.objective.loss, output)
        if len(offered) > 1 and takes_shares_only(self.bench, output):
            offered = offered[:1]
        if which >= len(offered):
            raise NotPossible("there is one output layer that the loss can take")
        new = offered[which]
        model = self.bench.objective.model
        if [type(model.get_submodule(name)) for name in names] == [type(new)]:
            raise NotPossible(f"the outputs are those of {type(new).__name__} already")
        kinds = [f"{type(model.get_submodule(name)).__name__} ({name})" for name in names]
        return r.outputs(names, new, told=" and ".join(kinds))

    def _unfrozen(self) -> Remedy:
        if all(p.requires_grad for p in self.bench.objective.model.parameters()):
            raise NotPossible("no parameter is frozen")
        return r.unfreeze()

    def _adam(self, value: float) -> Remedy:
        steps = self.evidence.steps
        if steps is not None and steps.adaptive:
            raise NotPossible(f"{steps.optimizer} is adaptive already: its rate is tried alone")
        return r.adam(value)

    def _momentum(self, value: float, multiple: float) -> Remedy:
        optimizer = self.bench.run.optimizer
        if not isinstance(optimizer, SGD):
            raise NotPossible(f"{type(optimizer).__name__} has no momentum to set")
        if any(group["momentum"] >= value for group in optimizer.param_groups):
            raise NotPossible("there is as much momentum already")
        return r.momentum(value, multiple=multiple)

    def _highest_rate(self, part: float = 1.0) -> Remedy:
        highest = self._remembered() * part
        name = "highest rate" if part == 1 else f"highest rate ÷ {1 / part:g}"
        return r.rate_of(highest, name, f"the rate back to {highest:.3g}")

    def _warm_up(self) -> Remedy:
        return r.warm_up(self._remembered(), 20)

    def _remembered(self) -> float:
        steps = self.evidence.steps
        if steps is None or not steps.rate < 0.5 * steps.highest_rate:
            raise NotPossible("the rate is as high as it ever was")
        return steps.highest_rate

    def _rate_of_curvature(self) -> Remedy:
        steps = self.evidence.steps
        if steps is None or steps.adaptive:
            raise NotPossible("the curvature tells the rate of plain steps only")
        return r.rate_by_curvature(self.bench.samples)

    def _batch(self, multiple: float) -> Remedy:
        size = min(self.bench.samples, round(self.bench.batch_size * multiple))
        if size <= self.bench.batch_size:
            raise NotPossible("every batch holds all samples already")
        return r.batch_of(size, f"batch × {multiple:g}")

    def _batch_by_noise(self) -> Remedy:
        scale = self.evidence.noise_scale
        if scale is None:
            raise NotPossible("the noise scale is undetermined")
        size = min(self.bench.samples, 2 ** max(0, round(math.log2(max(1.0, scale)))))
        if size <= self.bench.batch_size:
            raise NotPossible("batches are as large as the noise scale already")
        return r.batch_of(size, "batch of the noise scale")

    def _clip(self, limit: float | None) -> Remedy:
        now = self.bench.run.clip_norm
        if limit is None and now is None:
            raise NotPossible("gradients are not clipped")
        return r.clip(limit)

    def _decay(self, multiple: float) -> Remedy:
        steps = self.evidence.steps
        if steps is None or not (steps.coupled or steps.decoupled):
            raise NotPossible("weights do not decay")
        return r.decay(multiple)


def _outputs_for(loss: nn.Module | None, output: torch.Tensor) -> list[nn.Module]:
    """What the loss can take, the likeliest first."""
    if isinstance(loss, nn.NLLLoss):
        return [nn.LogSoftmax(-1)]
    if isinstance(loss, nn.BCELoss):
        return [nn.Sigmoid()]
    if isinstance(loss, (*CLASSIFYING, *ELEMENTWISE)):
        return [nn.Identity()]
    several = output.ndim > 1 and output.shape[-1] > 1
    return [nn.Softmax(-1) if several else nn.Sigmoid(), nn.Identity()]
