"""Diagnose a stalled training: the cause with its evidence, what the point is, and a way out that was tried.

Answers: why does the loss stand still, if it does, and what is there to do?
Does not answer: which remedy is the best of several at equal cost.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from torch.optim import Optimizer

from unstick.critical.curvature import Progress
from unstick.critical.escaping import LEAST, Escape, escape
from unstick.critical.point import Kind, Point
from unstick.diagnosis.cause import HEALTHY, Cause
from unstick.diagnosis.evidence import Evidence, gather
from unstick.diagnosis.portrait import Portrait, paint
from unstick.diagnosis.rules import Support, support
from unstick.diagnosis.run import Run
from unstick.problem.cost import Cost
from unstick.problem.problem import Problem
from unstick.record import Fact, Record, number
from unstick.trace import RunTrace

__all__ = ["Diagnosis", "Support", "diagnose"]


CRITICAL: Final = (Cause.STRICT_SADDLE, Cause.DEGENERATE_POINT, Cause.LOCAL_MINIMUM)
"""Causes that the point itself is."""

HEADLINES: Final[Mapping[Cause, str]] = {
    Cause.PROGRESSING: "You are fine: training goes on, or has learned its task.",
    Cause.MODEL_FLOOR: "Nothing leads down from here: this is as low as the model gets by small steps.",
    Cause.ZERO_GRADIENT_PATH: "A part of the model never gets a gradient, whatever its parameters.",
    Cause.DEAD_UNITS: "A layer is dead: its units pass no gradient back for any sample.",
    Cause.SATURATED_UNITS: "Units are saturated: they sit where their activation is flat.",
    Cause.VANISHING_GRADIENT: "The gradient vanishes on its way back through the layers.",
    Cause.SYMMETRIC_UNITS: "Units are copies of each other, and equal gradients keep them so.",
    Cause.NON_FINITE: "The loss stopped being finite.",
    Cause.UNSCALED_INPUTS: "The inputs are far from the scale that the layers are made for.",
    Cause.UNSCALED_TARGETS: "The targets are far from what the outputs can reach.",
    Cause.LOSS_OUTPUT_MISMATCH: "The loss does not fit the model's output layer.",
    Cause.LEARNING_RATE_TOO_LARGE: "The learning rate is too large.",
    Cause.LEARNING_RATE_TOO_SMALL: "The learning rate is too small.",
    Cause.SCHEDULE_EXHAUSTED: "The schedule has used up the learning rate.",
    Cause.GRADIENT_CLIPPING: "Clipping shortens every step.",
    Cause.ILL_CONDITIONED_VALLEY: "A narrow valley: steps go to and fro across it instead of along it.",
    Cause.GRADIENT_NOISE_FLOOR: "The noise of small batches undoes what the gradient gains.",
    Cause.OVER_REGULARIZED: "Weight decay holds the parameters where the data would not.",
}

MEANS: Final[Mapping[Cause, str]] = {
    Cause.PROGRESSING: "Nothing needs to be changed for progress. Worry when the loss of as many updates again is no lower than "
    "this by a twentieth of what is left.",
    Cause.MODEL_FLOOR: "Copies of the training with other rates, batches and momentum did not get lower, nor did steps along −g or "
    "negative curvature. What may: another model, other data, or another start (restarts were not tried).",
    Cause.ZERO_GRADIENT_PATH: "No optimizer can move what has no gradient. Look at the output layer (a softmax over one unit, a ReLU "
    "behind the last layer), at frozen or detached parts, and at heads that are zero.",
    Cause.DEAD_UNITS: "Initialize the dead layer anew and train with a smaller rate, or use an activation with a slope on both "
    "sides (leaky ReLU, ELU); at the same rate it may die again.",
    Cause.SATURATED_UNITS: "Shrink the weights of that layer (Xavier or He initialization), or normalize before its activation.",
    Cause.VANISHING_GRADIENT: "Use an activation with a steeper slope (ReLU) with He initialization, normalization between layers, or "
    "fewer layers.",
    Cause.SYMMETRIC_UNITS: "Break the symmetry: initialize the weights at random (Xavier or He), or add noise to them once.",
    Cause.NON_FINITE: "Go back to a checkpoint before that update; look for logarithms, divisions and exponentials of outputs.",
    Cause.UNSCALED_INPUTS: "Standardize the inputs: mean 0 and standard deviation 1 for each feature, by training statistics.",
    Cause.UNSCALED_TARGETS: "Standardize the targets and undo it on the outputs.",
    Cause.LOSS_OUTPUT_MISMATCH: "Give the loss what it expects: scores (logits) without softmax for cross-entropy, an output layer "
    "without an activation for regression.",
    Cause.LEARNING_RATE_TOO_LARGE: "Lower the rate to a tenth; from parameters that were thrown far off, start anew.",
    Cause.LEARNING_RATE_TOO_SMALL: "Raise the rate by ten, and again while the loss falls faster.",
    Cause.SCHEDULE_EXHAUSTED: "Restart the schedule, or slow its decay; see whether it was meant for epochs and called every update.",
    Cause.GRADIENT_CLIPPING: "Clip at the usual length of the gradient, or not at all.",
    Cause.ILL_CONDITIONED_VALLEY: "Use momentum (0.9 or more) or an adaptive optimizer; standardizing inputs or normalization widens "
    "the valley.",
    Cause.GRADIENT_NOISE_FLOOR: "Take larger batches, or lower the rate from here on.",
    Cause.OVER_REGULARIZED: "Lower the weight decay by a hundred.",
}
"""What to do where the cause is not the point itself; for those the way out that was tried says more."""


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
    evidence: Evidence

    @property
    def stalled(self) -> bool:
        """Whether a cause was found that holds the training."""
        return self.cause not in (*HEALTHY, Cause.UNDECIDED)

    def headline(self) -> str:
        """The cause in plain words, or the verdict where the point is the cause."""
        if self.cause in CRITICAL or self.cause == Cause.UNDECIDED:
            return self.point.headline()
        return HEADLINES[self.cause]

    def facts(self) -> list[Fact]:
        """Summary, proof, what was tried, then the numbers."""
        facts = [("cause", str(self.cause)), ("summary", self.summary)]
        facts += [
            ("because", reason) for reason in self.causes[0].reasons if reason != self.point.proof
        ]
        others = [f"{other.cause} ({number(other.strength, 2)})" for other in self.causes[1:4]]
        if others:
            facts.append(("also", ", ".join(others)))
        facts += [fact for fact in self.point.facts() if fact[0] not in ("cost", "note")]
        if self.escape is not None:
            facts += [("escape", self.escape.headline()), ("how", self.escape.outcome)]
        facts.append(("cost", str(self.cost)))
        if self.portrait is not None:
            facts.append(("pictures", f"{self.portrait.headline()} {self.portrait.cost}"))
        facts += [fact for fact in self.point.facts() if fact[0] == "note"]
        return facts + [
            ("not known", text)
            for text in self.evidence.missing
            if self.evidence.arms or "history" not in text
        ]


def diagnose(
    problem: Problem,
    optimizer: Optimizer | None = None,
    *,
    batch_size: int | None = None,
    history: Sequence[float] | RunTrace | None = None,
    scheduler: Any = None,
    clip_norm: float | None = None,
    trials: bool = True,
    budget: float = 500,
    seed: int = 0,
    pictures: bool = True,
    progress: Progress | None = None,
) -> Diagnosis:
    """Find out why a training stands still, prove what can be proved, try to leave the point, and draw it.

    Args:
        problem: What is minimized. The model is left exactly as it was: what is tried is tried on copies, or undone.
        optimizer: That trained it, with its memory: copies of both are trained on, unchanged and with one setting changed
            each. Its weight decay belongs to the loss where it goes through the gradient.
        batch_size: Of an update; None: all samples.
        history: The loss of each update.
        scheduler: Of the learning rate, if there is one.
        clip_norm: That gradients are clipped to, if they are.
        trials: Restart where the point leads nowhere, to tell a floor of the model from a local minimum; that costs up to
            500 gradients, or three halves of the run, on top.
        budget: Most work for evidence, verdict and escape, in full-data gradients; pictures have their own.
        seed: Seed of everything random.
        pictures: Compute the portrait too.
        progress: Called with (stage, done, total).

    Returns:
        The diagnosis; on Ctrl-C the best answer so far with ``outcome`` "interrupted". What was not given is not guessed:
        ``evidence.missing`` says what could not be told without it.

    Raises:
        BudgetTooSmall: The budget does not pay for any answer.
        NonFinite: The Hessian holds inf or nan.

    Cost:
        As ``classify`` and ``escape``, and with an optimizer up to 130 gradients; pictures about 25 s at most.

    Example:
        >>> import torch
        >>> problem = Problem.from_function(lambda x: (1 - x[0] * x[1]) ** 2, torch.zeros(2))
        >>> diagnosis = diagnose(problem, pictures=False)
        >>> str(diagnosis.cause), diagnosis.escape.loss_after < 0.2, problem.value()
        ('strict-saddle', True, 1.0)
    """
    run = Run(problem, optimizer, batch_size, history, scheduler, clip_norm)
    before = problem.spent
    evidence, whole = gather(run, budget=budget, seed=seed, trials=trials, progress=progress)
    point = evidence.point
    outcome, tried, portrait = evidence.outcome, None, None
    causes = support(evidence)
    if outcome != "interrupted":
        left = budget - (problem.spent - before).gradients
        tried = _try_escape(whole, point, max(left, 2 * LEAST), seed, progress)
        if tried is not None and "interrupted" in tried.outcome:
            outcome = "interrupted"
    cost = problem.spent - before
    if pictures and outcome != "interrupted":
        portrait = paint(whole, point, tried, seed=seed, progress=progress)
        outcome = "interrupted" if portrait.outcome == "interrupted" else outcome
    return Diagnosis(
        cause=causes[0].cause,
        causes=causes,
        summary=summarize(causes[0], point, tried, problem.samples),
        point=point,
        escape=tried,
        portrait=portrait,
        cost=cost,
        outcome=outcome,
        evidence=evidence,
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


def summarize(cause: Support, point: Point, tried: Escape | None, samples: int) -> str:
    """Two to four sentences: what it is, what it means, what to do next."""
    where = f"at loss {number(point.loss, 6)}"
    if cause.cause in MEANS:
        return f"{MEANS[cause.cause]} Training stands {where}."
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
