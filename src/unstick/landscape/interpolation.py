"""The loss between two checkpoints of one model, along the straight line through both.

Answers: is there a barrier between them, and does the loss change steadily from one to the other?
Does not answer: whether a curved way avoids the barrier, or which of the two generalizes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf, isfinite, nan
from typing import Any, Literal

import torch
from torch import Tensor

from unstick.errors import BadCheckpoint, BadData
from unstick.landscape.grid import Progress, check_measures, measure
from unstick.landscape.line import measured
from unstick.landscape.statistics import keeping, recomputed
from unstick.problem.cost import NOTHING, Cost
from unstick.problem.guard import put_back_buffers
from unstick.problem.problem import Problem
from unstick.record import Fact, Record, number

__all__ = ["Interpolation", "interpolate"]

State = Mapping[str, Any]
Row = dict[str, list[float]]

SLACK = 1e-9  # of the largest loss: a smaller rise or barrier is arithmetic
WORDS = {
    "travel": "buffers go from one checkpoint's to the other's, those of whole numbers at the middle",
    "recompute": "running statistics of batch normalization are recomputed from the problem's data at every point",
    "keep": "buffers stay as the model has them",
}


@dataclass(frozen=True, slots=True, eq=False)
class Interpolation(Record):
    """What was measured at (1 − t)·first + t·second."""

    fractions: Tensor  # [k] float64 ascending; holds 0, the first checkpoint, and 1, the second
    distances: Tensor  # [k] float64 in parameter space, from the first
    losses: Tensor  # [k] float64; inf and nan stay, and nan where an interruption left nothing
    barrier: (
        float | None
    )  # most that the loss between both lies above the straight line through their losses
    barrier_at: (
        float | None
    )  # the fraction where; None: interrupted, or an end whose loss is not finite
    monotone: bool | None  # between both the loss never turns, but for arithmetic
    buffers: str  # "travel", "recompute" or "keep"
    accuracies: Tensor | None = None  # [k] float64
    gradient_norms: Tensor | None = None  # [k] float64
    held_out_losses: Tensor | None = None  # [k] float64
    held_out_accuracies: Tensor | None = None  # [k] float64
    held_out_barrier: float | None = None
    notes: tuple[str, ...] = ()
    outcome: str = "complete"  # or "interrupted"
    cost: Cost = NOTHING

    def headline(self) -> str:
        """Whether there is a barrier."""
        if self.barrier is None:
            return "The loss between two checkpoints; whether there is a barrier was not measured."
        if self.barrier <= SLACK * float(self.losses[torch.isfinite(self.losses)].abs().max()):
            return "There is no barrier between the two checkpoints."
        return f"A barrier of {number(self.barrier)} between the two checkpoints, at {number(self.barrier_at)} of the way."

    def facts(self) -> list[Fact]:
        """The ends, the way between them, and what became of the buffers."""
        ends = [float(self.losses[int((self.fractions - t).abs().argmin())]) for t in (0.0, 1.0)]
        length = float(self.distances[-1] / self.fractions[-1])
        facts: list[Fact] = [
            ("losses of both", " and ".join(number(loss) for loss in ends)),
            ("distance", number(length)),
            ("barrier", number(self.barrier)),
            ("monotone", {True: "yes", False: "no", None: "not measured"}[self.monotone]),
            *measured(self.losses, self.accuracies, self.gradient_norms),
        ]
        if self.held_out_losses is not None:
            facts.append(("held-out barrier", number(self.held_out_barrier)))
            held = measured(self.held_out_losses, self.held_out_accuracies, None)
            facts += [(f"held-out {name}", told) for name, told in held]
        facts.append(("buffers", WORDS[self.buffers]))
        facts += [("note", note) for note in self.notes]
        return [*facts, ("outcome", self.outcome), ("cost", str(self.cost))]


def interpolate(
    problem: Problem,
    first: State | Tensor,
    second: State | Tensor,
    *,
    points: int = 51,
    beyond: float = 0.0,
    buffers: Literal["travel", "recompute", "keep"] | None = None,
    measures: Sequence[str] = ("loss",),
    held_out: Problem | None = None,
    progress: Progress | None = None,
) -> Interpolation:
    """Measure on the straight line through two checkpoints; the model stays where it is.

    A barrier is no proof of two valleys: symmetries of a network put equal functions far apart. Nor does the width on
    either side tell which one generalizes: larger weights look flatter.

    Args:
        problem: What is minimized; its own parameters do not matter.
        first: A state dict of the model, or its trainable parameters [n].
        second: The same.
        points: How many, evenly spaced from −beyond to 1 + beyond; both checkpoints are added where they are not among
            them.
        beyond: How far to go on past either, as a fraction of the distance.
        buffers: "travel": they are interpolated, as parameters are; whole numbers come from the nearer checkpoint.
            "recompute": the statistics of batch normalization come from the problem's data at every point, and other
            buffers travel where both checkpoints hold them. "keep": as the model has them. None: they travel between
            state dicts, and stay between vectors.
        measures: Of "loss", "accuracy" and "gradient norm"; the loss is always measured.
        held_out: The same model with other data: losses, and accuracies where they are measured, on these too.
        progress: Called with (stage, done, total) before every point, and at the end.

    Returns:
        On Ctrl-C the points so far, the others nan, with outcome "interrupted".

    Raises:
        BadCheckpoint: A checkpoint that does not fit the model, or has no buffers that could travel.
        BadData: Both are the same point, or an argument is out of range.
        BadModel: As for ``scan``; or several processes share a problem whose statistics are to be recomputed.
        KeyboardInterrupt: Only before the first point is there.

    Cost:
        A third of a gradient a point for the loss, as much again for each of recomputing, accuracy and held-out loss,
        and a gradient for its norm.

    References:
        Goodfellow, Vinyals, Saxe (2015), Qualitatively characterizing neural network optimization problems.
        Entezari, Sedghi, Saukh, Neyshabur (2022), The role of permutation invariance in linear mode connectivity.

    Example:
        >>> problem = Problem.from_function(lambda x: (x[0] ** 2 - 1) ** 2, torch.zeros(1))
        >>> found = interpolate(problem, torch.tensor([-1.0]), torch.tensor([1.0]), points=5)
        >>> found.losses.tolist(), found.barrier, found.barrier_at
        ([0.0, 0.5625, 1.0, 0.5625, 0.0], 1.0, 0.5)
    """
    problem.require_whole("interpolation")
    if points < 2 or not 0 <= beyond < inf:
        raise BadData(f"points={points} and beyond={beyond}; expected at least 2, and at least 0")
    _check_held_out(problem, held_out)
    before, before_held = problem.spent, held_out.spent if held_out is not None else NOTHING
    one, two = (
        _read(problem, given, name) for given, name in ((first, "first"), (second, "second"))
    )
    length = float(torch.linalg.vector_norm(two.theta - one.theta))
    if not 0 < length < inf:
        raise BadData(
            f"the two checkpoints are {length} apart; expected two finite, different ones"
        )
    how = _choice(problem, buffers, one, two)
    chosen = check_measures(problem, measures)
    fractions = _fractions(points, beyond)
    rows: list[Row] = []
    outcome = "complete"
    with put_back_buffers(problem.model):
        try:
            for t in fractions.tolist():
                if progress is not None:
                    progress("interpolation", len(rows), len(fractions))
                theta = _between(one.theta, two.theta, t).to(problem.device, problem.dtype)
                _set_buffers(problem, one, two, t, theta, how)
                rows.append(_measured(problem, held_out, theta, chosen))
            if progress is not None:
                progress("interpolation", len(rows), len(fractions))
        except KeyboardInterrupt:
            if not rows:
                raise
            outcome = "complete" if len(rows) == len(fractions) else "interrupted"
    spent = problem.spent - before
    if held_out is not None:
        spent = spent + (held_out.spent - before_held)
    notes = _notes(one, two, fractions, how)
    return _result(fractions, length, rows, how, notes, outcome, spent)


@dataclass(frozen=True, slots=True, eq=False)
class _Checkpoint:
    """One end of the line."""

    theta: Tensor  # [n] float64 on the CPU
    buffers: dict[str, Tensor] | None  # None: a vector has none


def _read(problem: Problem, given: State | Tensor, name: str) -> _Checkpoint:
    """What a checkpoint holds of the model, refused where it does not fit."""
    if isinstance(given, Tensor):
        if given.shape != (problem.n,):
            raise BadCheckpoint(
                f"the {name} checkpoint has shape {list(given.shape)}; expected a state dict, or parameters [{problem.n}]"
            )
        return _Checkpoint(given.detach().to("cpu", torch.float64), None)
    own: dict[str, Any] = problem.model.state_dict()
    for key, value in own.items():
        if isinstance(value, Tensor) and getattr(given.get(key), "shape", None) != value.shape:
            held = (
                f"of shape {list(given[key].shape)}"
                if isinstance(given.get(key), Tensor)
                else "missing"
            )
            raise BadCheckpoint(
                f"{key} is {held} in the {name} checkpoint; expected {list(value.shape)}: a state dict of this model"
            )
    moving, buffers = set(problem.layout.names), dict(problem.model.named_buffers())
    for key, parameter in problem.model.named_parameters():
        if key in moving or key not in given:
            continue
        if not torch.equal(given[key].to(parameter), parameter.detach()):
            raise BadCheckpoint(
                f"{key} is not trained in this problem, and the {name} checkpoint has another one; expected the model's: "
                "load it first"
            )
    theta = torch.cat(
        [given[key].detach().reshape(-1).to("cpu", torch.float64) for key in problem.layout.names]
    )
    return _Checkpoint(theta, {key: given[key] for key in buffers if key in given})


def _choice(problem: Problem, wanted: str | None, one: _Checkpoint, two: _Checkpoint) -> str:
    """What becomes of the buffers."""
    both = one.buffers is not None and two.buffers is not None
    if wanted is None:
        return "travel" if both else "keep"
    if wanted not in WORDS:
        raise BadData(f"buffers is {wanted!r}; expected {', '.join(map(repr, WORDS))}")
    if wanted == "travel" and not both:
        raise BadCheckpoint(
            "a checkpoint given as a vector has no buffers that could travel; expected two state dicts, or "
            "buffers='recompute' or 'keep'"
        )
    if wanted == "recompute" and not keeping(problem.model):
        raise BadData(
            "the model has no batch normalization that keeps statistics; expected buffers='travel' or 'keep'"
        )
    return wanted


def _check_held_out(problem: Problem, held_out: Problem | None) -> None:
    if held_out is None:
        return
    if held_out.model is not problem.model or held_out.layout.names != problem.layout.names:
        raise BadData(
            "held_out is a problem of another model; expected the same one, with other data"
        )


def _fractions(points: int, beyond: float) -> Tensor:
    """From −beyond to 1 + beyond; 0 and 1 among them."""
    span = torch.linspace(-beyond, 1 + beyond, points, dtype=torch.float64)
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    apart = (span.unsqueeze(1) - ends).abs().amin(1) > 1e-9
    return torch.cat([span[apart], ends]).sort().values


def _between(one: Tensor, two: Tensor, t: float) -> Tensor:
    """(1 − t)·one + t·two in float64, just the one or the other at its end; whole numbers come from the nearer."""
    if t in (0.0, 1.0) or not one.is_floating_point():
        return one if t <= 0.5 else two
    return (1 - t) * one.to("cpu", torch.float64) + t * two.to("cpu", torch.float64)


def _set_buffers(
    problem: Problem, one: _Checkpoint, two: _Checkpoint, t: float, theta: Tensor, how: str
) -> None:
    """Give the model the buffers of a point on the line; the caller puts its own back."""
    if how == "keep":
        return
    own = dict(problem.model.named_buffers())
    with torch.no_grad():
        if one.buffers is not None and two.buffers is not None:
            for name in one.buffers:
                own[name].copy_(_between(one.buffers[name], two.buffers[name], t))
        if how == "recompute":
            for name, value in recomputed(problem, theta).items():
                own[name].copy_(value)


def _measured(
    problem: Problem, held_out: Problem | None, theta: Tensor, measures: Sequence[str]
) -> Row:
    """What is measured at one point, on the held-out data too."""
    here = theta.unsqueeze(0)
    row = measure(problem, here, measures)
    if held_out is not None:
        kept = [name for name in measures if name != "gradient norm"]
        row |= {f"held-out {name}": found for name, found in measure(held_out, here, kept).items()}
    return row


def _notes(one: _Checkpoint, two: _Checkpoint, fractions: Tensor, how: str) -> tuple[str, ...]:
    """Where a running variance that goes on past a checkpoint ends below zero."""
    if how != "travel" or one.buffers is None or two.buffers is None:
        return ()
    outermost = [float(fractions[0]), float(fractions[-1])]
    below = any(
        bool((_between(value, two.buffers[name], t) < 0).any())
        for name, value in one.buffers.items()
        for t in outermost
        if name.endswith("running_var")
    )
    if not below:
        return ()
    return (
        "beyond the checkpoints a running variance falls below zero, where the loss is not finite: "
        "buffers='recompute' avoids that",
    )


def _result(
    fractions: Tensor,
    length: float,
    rows: Sequence[Row],
    how: str,
    notes: tuple[str, ...],
    outcome: str,
    cost: Cost,
) -> Interpolation:
    def column(name: str) -> Tensor | None:
        if name not in rows[0]:
            return None
        values = [row[name][0] for row in rows] + [nan] * (len(fractions) - len(rows))
        return torch.tensor(values, dtype=torch.float64)

    losses, held = column("loss"), column("held-out loss")
    assert losses is not None, "the loss is always measured"
    barrier, at = _barrier(fractions, losses, outcome)
    return Interpolation(
        fractions=fractions,
        distances=fractions * length,
        losses=losses,
        barrier=barrier,
        barrier_at=at,
        monotone=_monotone(fractions, losses, outcome),
        buffers=how,
        accuracies=column("accuracy"),
        gradient_norms=column("gradient norm"),
        held_out_losses=held,
        held_out_accuracies=column("held-out accuracy"),
        held_out_barrier=None if held is None else _barrier(fractions, held, outcome)[0],
        notes=notes,
        outcome=outcome,
        cost=cost,
    )


def _chord(fractions: Tensor, losses: Tensor, outcome: str) -> tuple[Tensor, Tensor] | None:
    """Fractions and losses from one checkpoint to the other; None where they are not all there, or an end is not finite."""
    inside = (fractions >= 0) & (fractions <= 1)
    t, loss = fractions[inside], losses[inside]
    whole = outcome == "complete" and isfinite(float(loss[0])) and isfinite(float(loss[-1]))
    return (t, loss) if whole else None


def _barrier(fractions: Tensor, losses: Tensor, outcome: str) -> tuple[float | None, float | None]:
    """How far the loss rises above the straight line through both ends, and where; inf where it is not finite."""
    chord = _chord(fractions, losses, outcome)
    if chord is None:
        return None, None
    t, loss = chord
    above = torch.nan_to_num(loss - ((1 - t) * loss[0] + t * loss[-1]), nan=inf, posinf=inf)
    highest = int(above.argmax())
    return float(above[highest]), float(t[highest])


def _monotone(fractions: Tensor, losses: Tensor, outcome: str) -> bool | None:
    chord = _chord(fractions, losses, outcome)
    if chord is None:
        return None
    slack = SLACK * float(chord[1].abs().max())
    steps = [after - here for here, after in pairwise(chord[1].tolist())]
    return all(step <= slack for step in steps) or all(step >= -slack for step in steps)
