"""Whether the best remedy of a diagnosis really unsticks a stalled training, and what other ways of choosing reach.

Answers: trained on for as long as the stalled run took, does the remedied copy come near the documented repair?
Does not answer: which cause was named (``measuring``).
"""

from dataclasses import dataclass
from math import inf, isfinite
from typing import Final

from unstick.diagnosis.bench import Bench
from unstick.diagnosis.choosing import Choice, draw_remedies, remedy_of
from unstick.diagnosis.copies import Copy
from unstick.diagnosis.diagnosing import Diagnosis, trial_budget, try_remedies
from unstick.diagnosis.remedies import Remedy
from unstick.diagnosis.run import Run
from unstick.diagnosis.surgery import NotPossible
from unstick.diagnosis.treating import treat
from unstick.diagnosis.trials import Trial
from unstick.studies.gallery.stall import Stall

__all__ = ["CONSTANT", "NEAR", "Unsticking", "unstick_stall"]

NEAR = 0.2
"""Part of the way from the stall to the documented repair that may be missing."""

CONSTANT: Final = "new start & rate ÷ 10"
"""The answer that asks nothing: begin again, with a tenth of the rate."""

LATER = 1000
"""Added to a seed for the batches that follow the trials: others than those the remedy was chosen by."""


@dataclass(frozen=True, slots=True)
class Unsticking:
    """Losses of all data, in the units of the stalled training."""

    remedy: str  # the best that was tried; "" where none helped
    stalled: float
    repaired: float  # by the documented repair
    remedied: (
        float  # after the remedy, trained on as long as the stalled run; inf where none helped
    )
    constant: float  # the same after ``CONSTANT``
    at_random: (
        float  # the same after the best of as many remedies drawn at random, tried at the same cost
    )
    gradients: float  # that restarts and trials took
    allowed: float  # that restarts and they might take
    tried: int

    def near(self, loss: float) -> bool:
        """Whether a loss is as low as the repair's, to a fifth of the way there."""
        return isfinite(loss) and loss <= self.repaired + NEAR * (self.stalled - self.repaired)

    @property
    def unstuck(self) -> bool:
        """Whether the diagnosis' best remedy is."""
        return self.near(self.remedied)


def unstick_stall(stall: Stall, run: Run, told: Diagnosis, *, seed: int) -> Unsticking | None:
    """Go on from the best remedy, from the constant answer, and from the best of random ones.

    Returns:
        The losses; None where no repair is documented.

    Cost:
        Three trainings as long as the stalled one, the repair, and trials once more.
    """
    repaired = stall.repair(seed)
    if repaired is None:
        return None
    best = told.remedy
    drawn = _at_random(run, told, seed)
    return Unsticking(
        remedy="" if best is None else best.remedy,
        stalled=run.problem.value(),
        repaired=repaired,
        remedied=inf if best is None else _trained_on(stall, run, treat(run, told), seed),
        constant=_constant(stall, run, told, seed),
        at_random=inf if drawn is None else _trained_on(stall, run, treat(run, told, drawn), seed),
        gradients=told.trials_cost.gradients + told.evidence.restart_gradients,
        allowed=trial_budget(run, 500),
        tried=len(told.trials),
    )


def _trained_on(stall: Stall, run: Run, treated: Run, seed: int) -> float:
    """The loss after as many gradients again as the stalled run had."""
    bench = Bench(treated, treated.problem)
    copy = Copy(bench, seed + LATER)
    _go(stall, run, copy)
    return copy.loss()


def _go(stall: Stall, run: Run, copy: Copy) -> None:
    then = Bench(run, run.problem).batch_size
    now = min(copy.batch_size, max(1, copy.bench.samples))
    copy.train(max(1, stall.training.updates * then // now))


def _constant(stall: Stall, run: Run, told: Diagnosis, seed: int) -> float:
    bench = Bench(run, run.problem)
    copy = Copy(bench, seed)
    try:
        remedy_of(bench, told.evidence, told.escape, CONSTANT).change(copy)
    except NotPossible:
        return inf
    _go(stall, run, copy)
    return copy.loss()


def _at_random(run: Run, told: Diagnosis, seed: int) -> Trial | None:
    """The best of as many remedies as were tried, drawn from all there are."""
    if not told.trials:
        return None

    def drawn(bench: Bench) -> Choice:
        some: list[Remedy] = draw_remedies(
            bench, told.evidence, told.escape, count=len(told.trials), seed=seed
        )
        return Choice(tuple(some), ())

    tested = try_remedies(run, told.evidence, drawn, budget=500, seed=seed)
    return tested.trials[0] if tested.trials and tested.trials[0].helped else None
