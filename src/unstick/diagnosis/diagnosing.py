"""Diagnose a stalled training: the cause with its evidence, what the point is, and a way out that was tried.

Answers: why does the loss stand still, if it does, and which remedy of those tried moves it?
Does not answer: where training ends afterwards.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any, Final

from torch.optim import Optimizer

from unstick.critical.curvature import Progress
from unstick.critical.escaping import LEAST, Escape, escape
from unstick.critical.point import Kind, Point
from unstick.diagnosis.bench import Bench
from unstick.diagnosis.cause import HEALTHY, Cause
from unstick.diagnosis.choosing import Choice, choose
from unstick.diagnosis.confirming import confirmed
from unstick.diagnosis.evidence import Evidence, gather, with_coupled_decay
from unstick.diagnosis.portrait import Portrait, paint
from unstick.diagnosis.rules import Support, support
from unstick.diagnosis.run import Run
from unstick.diagnosis.trials import Tested, Trial, TrialPlan, plan_trials, run_trials
from unstick.problem.cost import NOTHING, Cost
from unstick.problem.problem import Problem
from unstick.record import Fact, Record, number
from unstick.trace import RunTrace

__all__ = ["Diagnosis", "Pace", "Support", "diagnose", "trial_budget", "try_remedies"]


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

SHOWN = 3
"""Trials that are told in full; the page shows all."""

MEANS: Final[Mapping[Cause, str]] = {
    Cause.PROGRESSING: "Nothing needs to be changed for progress.",
    Cause.MODEL_FLOOR: "Copies of the training with other rates, batches and momentum did not get lower, nor did steps along −g or "
    "negative curvature. What may: another model, or other data.",
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


@dataclass(frozen=True, slots=True)
class Pace:
    """What a training that goes on is expected to do next, and when to worry."""

    updates: int  # from here, as many as half of the run so far
    loss_now: float  # mean of the last updates
    expected: float  # mean loss after those, if it falls half as fast as it did over the last
    worry_above: float  # a mean loss then that is no longer progress

    def __str__(self) -> str:
        """For people."""
        return (
            f"over the next {self.updates:,} updates the mean loss should fall from {number(self.loss_now)} to about "
            f"{number(self.expected)}; worry if it is still above {number(self.worry_above)} then"
        )


@dataclass(frozen=True, slots=True, eq=False)
class Diagnosis(Record):
    """The answer to a stalled training, with its evidence."""

    cause: Cause
    causes: tuple[Support, ...]  # ranked
    summary: str  # what it is, what it means, what to do next, in plain words
    point: Point
    escape: Escape | None  # tried from here and undone; None where there was nothing to try
    portrait: Portrait | None
    cost: Cost  # evidence, verdict and escape; trials and pictures have their own
    outcome: str  # "complete", "budget" or "interrupted"
    evidence: Evidence
    trials: tuple[Trial, ...] = ()  # the best first
    untried: tuple[tuple[str, str], ...] = ()  # remedy, and why it was not tried
    trials_cost: Cost = NOTHING  # of all trials, with the copies that went on unchanged
    plan: TrialPlan | None = None  # what the trials could take, made before they began
    pace: Pace | None = None  # of a training that goes on

    @property
    def remedy(self) -> Trial | None:
        """The best remedy that helped; None where none did, or none was tried."""
        return self.trials[0] if self.trials and self.trials[0].helped else None

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
        """Summary, remedy, proof, what was tried, then the numbers."""
        facts = [("cause", str(self.cause)), ("summary", self.summary)]
        facts += [
            ("because", reason) for reason in self.causes[0].reasons if reason != self.point.proof
        ]
        others = [f"{other.cause} ({number(other.strength, 2)})" for other in self.causes[1:4]]
        if others:
            facts.append(("also", ", ".join(others)))
        if self.pace is not None:
            facts.append(("expect", str(self.pace)))
        if self.remedy is not None:
            facts += [("do", line) for line in self.remedy.code.splitlines()]
        facts += [("tried", trial.headline()) for trial in self.trials[:SHOWN]]
        if len(self.trials) > SHOWN:
            rest = ", ".join(trial.remedy for trial in self.trials[SHOWN:])
            facts.append(("tried too", rest))
        facts += [("not tried", f"{name}: {why}") for name, why in self.untried]
        facts += [fact for fact in self.point.facts() if fact[0] not in ("cost", "note")]
        if self.escape is not None:
            facts += [("escape", self.escape.headline()), ("how", self.escape.outcome)]
        facts.append(("cost", str(self.cost)))
        if self.trials:
            facts.append(("trials took", str(self.trials_cost)))
        if self.portrait is not None:
            facts.append(("pictures", f"{self.portrait.headline()} {self.portrait.cost}"))
        facts += [fact for fact in self.point.facts() if fact[0] == "note"]
        return facts + [("not known", text) for text in self.evidence.missing]


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
    """Find out why a training stands still, prove what can be proved, try what may move it, and draw it.

    Args:
        problem: What is minimized. The model is left exactly as it was: what is tried is tried on copies, or undone.
        optimizer: That trained it, with its memory: copies of both are trained on, unchanged and with one setting changed
            each. Its weight decay belongs to the loss where it goes through the gradient.
        batch_size: Of an update; None: all samples.
        history: The loss of each update.
        scheduler: Of the learning rate, if there is one.
        clip_norm: That gradients are clipped to, if they are.
        trials: Restart where the point leads nowhere, to tell a floor of the model from a local minimum, and try remedies
            for the causes from here, each on three seeds beside going on unchanged. That takes up to the larger of
            ``budget`` and three times the run on top; nothing is tried where nothing is wrong.
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
        As ``classify`` and ``escape``, with an optimizer up to 130 gradients, and the trials; pictures about 25 s at most.

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
    tested = Tested((), (), None, "complete")
    if trials and outcome != "interrupted":
        try:
            tested = try_remedies(
                run,
                evidence,
                lambda bench: choose(bench, evidence, causes, tried),
                budget=budget,
                seed=seed,
                progress=progress,
            )
        except KeyboardInterrupt:
            tested = replace(tested, outcome="interrupted")
        outcome = "interrupted" if tested.outcome == "interrupted" else outcome
        causes = confirmed(causes, tested, evidence)
    if pictures and outcome != "interrupted":
        portrait = paint(whole, point, tried, seed=seed, progress=progress)
        outcome = "interrupted" if portrait.outcome == "interrupted" else outcome
    return Diagnosis(
        cause=causes[0].cause,
        causes=causes,
        summary=summarize(causes[0], evidence, tried, tested, problem.samples),
        point=point,
        escape=tried,
        portrait=portrait,
        cost=cost,
        outcome=outcome,
        evidence=evidence,
        trials=tested.trials,
        untried=tested.skipped,
        trials_cost=tested.cost,
        plan=tested.plan,
        pace=_pace(causes[0].cause, evidence),
    )


def _pace(cause: Cause, evidence: Evidence) -> Pace | None:
    course = evidence.course
    if cause != Cause.PROGRESSING or course is None or not course.trend < 0:
        return None
    fall = min(-course.trend, course.last - evidence.bound)
    return Pace(course.updates // 2, course.last, course.last - fall / 2, course.last - fall / 8)


def trial_budget(run: Run, budget: float) -> float:
    """What restarts and remedies may take, in gradients: the larger of the budget and three times the run."""
    history = run.history
    done = 0 if history is None else len(history.loss if isinstance(history, RunTrace) else history)
    samples = run.problem.samples or 1
    return max(budget, 3 * done * min(run.batch_size or samples, samples) / samples)


def try_remedies(
    run: Run,
    evidence: Evidence,
    choosing: Callable[[Bench], Choice],
    *,
    budget: float,
    seed: int,
    progress: Progress | None = None,
) -> Tested:
    """Try remedies for a run, within the larger of the budget and three times the run.

    Args:
        run: Stays as it is.
        evidence: Measured on it.
        choosing: What to try.
        budget: As of ``diagnose``.
        seed: The first of the seeds.
        progress: Called with (stage, done, total).
    """
    if not evidence.arms:
        why = "the optimizer's steps could not be tried"
        return Tested((), (("every remedy", why),), None, "complete")
    bench = Bench(run, with_coupled_decay(run))
    choice = choosing(bench)
    if not choice.remedies:
        return Tested((), choice.skipped, None, "complete")
    course = evidence.course  # one that blew up says nothing about how long a training is
    updates = None if course is None or course.blew_up else course.updates
    most = trial_budget(run, budget) - evidence.restart_gradients
    plan = plan_trials(bench, choice.remedies, updates=updates, budget=most)
    while plan.gradients > most and len(choice.remedies) > 1:
        choice = choice.without_dearest()
        plan = plan_trials(bench, choice.remedies, updates=updates, budget=most)
    return run_trials(
        bench, choice, plan=plan, left=evidence.loss - evidence.bound, seed=seed, progress=progress
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


def summarize(
    cause: Support, evidence: Evidence, tried: Escape | None, tested: Tested, samples: int
) -> str:
    """Two to five sentences: what it is, what it means, what was tried, what to do next."""
    what = _what(cause, evidence, tried, samples)
    trials = tested.trials
    if len(trials) == 0:
        return what
    length = f"{len(trials)} remed{'ies' if len(trials) > 1 else 'y'}"
    if not trials[0].helped:
        return f"{what} Of {length} tried from here none helped: none got lower than going on by more than seeds differ."
    best, updates = trials[0], trials[0].updates
    more = sum(trial.helped for trial in trials) - 1
    others = f"; {more} other{'s' if more > 1 else ''} helped too" if more else ""
    went_on = best.loss_unchanged
    unchanged = f"reached {number(went_on)}" if isfinite(went_on) else "blew up"
    return (
        f"{what} Of {length} tried from here the best is: {best.about}. In {updates:,} update{'s' if updates > 1 else ''} it took "
        f"the loss from {number(best.loss_before)} to {number(best.loss_after)}, where going on unchanged {unchanged}{others}."
    )


def _what(cause: Support, evidence: Evidence, tried: Escape | None, samples: int) -> str:
    point = evidence.point
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
        way_out = "No step that was tried lowers the loss."
    if point.kind == Kind.SADDLE:
        return (
            f"Training stands on a saddle point {where}. The gradient is used up, so gradient descent hardly moves; "
            f"yet the loss curves downward in other directions. {way_out}"
        )
    if point.kind == Kind.MAXIMUM:
        return f"Training stands on a maximum {where}: every curved direction leads down. {way_out}"
    if point.kind == Kind.MINIMUM:
        reached = evidence.restarts
        restarts = (
            "restarts were not tried"
            if reached is None
            else f"the lowest of several restarts reached {number(reached)}"
        )
        return (
            f"Training has reached a minimum {where}: no small step lowers the loss, so no optimizer will from here. If "
            f"this loss is too high, training must start elsewhere, or the model, the data or the objective change; {restarts}."
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
