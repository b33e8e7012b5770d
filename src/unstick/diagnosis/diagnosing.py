"""Diagnose a stalled training: what the point is, what that means, and a way out that was tried.

Answers: is this point the reason why the loss stands still, and does leaving it work?
Does not answer: causes that need the training's history (steps, schedules, noise); where the point is not the reason,
the answer is ``undecided`` and says so.
"""

from dataclasses import dataclass
from enum import StrEnum

from unstick.critical.classifying import classify
from unstick.critical.curvature import Progress
from unstick.critical.escaping import LEAST, Escape, escape
from unstick.critical.point import Kind, Point
from unstick.diagnosis.portrait import Portrait, paint
from unstick.problem.cost import Cost
from unstick.problem.problem import Problem
from unstick.record import Fact, Record, number

__all__ = ["Cause", "Diagnosis", "Support", "diagnose"]


class Cause(StrEnum):
    """Why the loss stands still, as far as the point itself tells."""

    STRICT_SADDLE = "strict-saddle"
    DEGENERATE_POINT = "degenerate-point"
    LOCAL_MINIMUM = "local-minimum"
    UNDECIDED = "undecided"


CAUSES = {
    Kind.SADDLE: Cause.STRICT_SADDLE,
    Kind.MAXIMUM: Cause.STRICT_SADDLE,
    Kind.DEGENERATE: Cause.DEGENERATE_POINT,
    Kind.MINIMUM: Cause.LOCAL_MINIMUM,
    Kind.NOT_CRITICAL: Cause.UNDECIDED,
    Kind.UNDECIDED: Cause.UNDECIDED,
}


@dataclass(frozen=True, slots=True)
class Support:
    """What speaks for a cause."""

    cause: Cause
    strength: (
        float  # 1.0: proved; 0.5: the point fits, but something that would decide was not tried
    )
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Diagnosis(Record):
    """The answer to a stalled training, with its evidence."""

    cause: Cause
    causes: tuple[Support, ...]  # ranked
    summary: str  # what it is, what it means, what to do next, in plain words
    point: Point
    escape: Escape | None  # tried from here and undone; None where there was nothing to try
    portrait: Portrait | None
    cost: Cost  # verdict and escape; the pictures have their own
    outcome: str  # "complete", "budget" or "interrupted"

    def headline(self) -> str:
        """The verdict in plain words."""
        return self.point.headline()

    def facts(self) -> list[Fact]:
        """Summary, proof, what was tried, then the numbers."""
        facts = [("cause", str(self.cause)), ("summary", self.summary)]
        facts += [fact for fact in self.point.facts() if fact[0] not in ("cost", "note")]
        if self.escape is not None:
            facts += [("escape", self.escape.headline()), ("how", self.escape.outcome)]
        facts.append(("cost", str(self.cost)))
        if self.portrait is not None:
            facts.append(("pictures", f"{self.portrait.headline()} {self.portrait.cost}"))
        return facts + [fact for fact in self.point.facts() if fact[0] == "note"]


def diagnose(
    problem: Problem,
    *,
    budget: float = 500,
    seed: int = 0,
    pictures: bool = True,
    progress: Progress | None = None,
) -> Diagnosis:
    """Decide what kind of point training stands on, prove it, try to leave it, and draw it.

    Args:
        problem: What is minimized. The model is left exactly as it was: the escape is tried and undone.
        budget: Most work for verdict and escape, in full-data gradients; pictures have their own.
        seed: Seed of everything random.
        pictures: Compute the portrait too.
        progress: Called with (stage, done, total).

    Returns:
        The diagnosis; on Ctrl-C the best answer so far with ``outcome`` "interrupted".

    Raises:
        BudgetTooSmall: The budget does not pay for any answer.
        NonFinite: The Hessian holds inf or nan.

    Cost:
        As ``classify`` and ``escape``; pictures about 25 s at most.

    Example:
        >>> import torch
        >>> problem = Problem.from_function(lambda x: (1 - x[0] * x[1]) ** 2, torch.zeros(2))
        >>> diagnosis = diagnose(problem, pictures=False)
        >>> str(diagnosis.cause), diagnosis.escape.loss_after < 0.2, problem.value()
        ('strict-saddle', True, 1.0)
    """
    before = problem.spent
    point = classify(problem, budget=budget, seed=seed, progress=progress)
    outcome, tried, portrait = point.outcome, None, None
    if outcome != "interrupted":
        left = budget - (problem.spent - before).gradients
        tried = _try_escape(problem, point, left, seed, progress)
        if tried is not None and "interrupted" in tried.outcome:
            outcome = "interrupted"
    cost = problem.spent - before
    if pictures and outcome != "interrupted":
        portrait = paint(problem, point, tried, seed=seed, progress=progress)
        outcome = "interrupted" if portrait.outcome == "interrupted" else outcome
    cause = CAUSES[point.kind]
    return Diagnosis(
        cause=cause,
        causes=(Support(cause, _strength(point), (point.proof,)),),
        summary=summarize(point, tried, problem.samples),
        point=point,
        escape=tried,
        portrait=portrait,
        cost=cost,
        outcome=outcome,
    )


def _try_escape(
    problem: Problem, point: Point, budget: float, seed: int, progress: Progress | None
) -> Escape | None:
    """Escape, and put every parameter's bits back, whatever happens."""
    if point.kind in (Kind.NOT_CRITICAL, Kind.MINIMUM) or point.escape_direction is None:
        return None
    if budget < LEAST:
        return None
    copies = problem.layout.copies()
    try:
        return escape(problem, point=point, budget=budget, seed=seed, progress=progress)
    finally:
        problem.layout.restore(copies)


def _strength(point: Point) -> float:
    if point.kind in (Kind.SADDLE, Kind.MAXIMUM):
        return 1.0
    return 0.5 if point.kind in (Kind.DEGENERATE, Kind.MINIMUM) else 0.0


def summarize(point: Point, tried: Escape | None, samples: int) -> str:
    """Two to four sentences: what it is, what it means, what to do next."""
    where = f"at loss {number(point.loss, 6)}"
    everything = f"all {samples:,} samples" if samples else "the function"
    if tried is not None and tried.moved:
        way_out = (
            f"A way out was tried on {everything} and undone: {tried.outcome}, distance {number(tried.step)}, the loss falls "
            f"from {number(tried.loss_before)} to {number(tried.loss_after)}. Make that step (unstick.escape), "
            "then train on as before."
        )
    else:
        way_out = "No step that was tried lowers the loss; more budget, or noise and a restart, are what is left."
    if point.kind == Kind.SADDLE:
        return (
            f"Training stands on a saddle point {where}. The gradient is used up, so gradient descent hardly moves; "
            f"yet the loss curves downward in other directions. {way_out}"
        )
    if point.kind == Kind.MAXIMUM:
        return f"Training stands on a maximum {where}: every curved direction leads down. {way_out}"
    if point.kind == Kind.MINIMUM:
        return (
            f"Training has reached a minimum {where}: no small step lowers the loss, so no optimizer will from here. If "
            "this loss is too high, the model, the data or the objective must change, or training must start elsewhere; "
            "restarts were not tried."
        )
    if point.kind == Kind.DEGENERATE:
        return (
            f"Training stands on a critical point {where} where second derivatives show no way down and cannot exclude "
            f"one. {way_out if point.escape_direction is not None else _flat()}"
        )
    if point.kind == Kind.NOT_CRITICAL:
        return (
            f"The loss could still fall {where}: a single step along the negative gradient lowers it by "
            f"{number(point.slope_decrease)}. This point is not the reason why training stands still. Look at how "
            "training steps: learning rate and schedule, gradient clipping, batch size, or simply more patience."
        )
    return (
        f"It could not be decided what holds training {where}. The proof line says what would tell."
    )


def _flat() -> str:
    return (
        "Finite steps in random directions found none either: most likely a flat minimum, whose zero eigenvalues come from "
        "symmetries of the model."
    )
