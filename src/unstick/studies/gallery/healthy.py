"""Trainings with nothing wrong, early, in the middle and late: here a diagnosis must find no fault.

Answers: on which trainings is the rate of false alarms measured?
Does not answer: on which one must be raised; that is ``stalls``.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from typing import Final, Literal

from unstick.diagnosis.run import Run
from unstick.studies.gallery.classifiers import CLASSIFIERS
from unstick.studies.gallery.regressors import REGRESSORS
from unstick.studies.gallery.stalls import all_stalls
from unstick.studies.gallery.training import Descent, Training

__all__ = ["STAGES", "Healthy", "Stage", "all_healthy"]

Stage = Literal["early", "middle", "late"]

STAGES: Final[dict[Stage, float]] = {"early": 0.04, "middle": 0.25, "late": 1.0}
"""The share of its updates that a training has behind it at each stage."""

LEAST = 5  # updates of the early stage

LEFT_OUT: Final[dict[str, str]] = {
    "stiff-regression": "still in its valley when the updates are used up",
    "banana-valley": "still in its valley when the updates are used up",
    "five-scalars": "converged within five updates: it has no early stage",
    "five-scalars-at-zero": "the same training as that of five-scalars",
    "dead-relu-circle": "twenty layers learn at last, yet stand still for a while first",
    "frozen-zero-head": "the same training as that of rate-5",
    "starved-pixels": "the same training as that of rate-5",
    "rate-1e-4": "the same training as that of rate-5",
    "decayed-every-update": "the same training as digits-relu-sgd",
    "clipped-to-nothing": "the same training as digits-relu-sgd",
}
"""Stalls whose repaired training is not among the healthy ones, and why."""


@dataclass(frozen=True, slots=True)
class Healthy:
    """A training with nothing wrong."""

    name: str
    about: str
    training: Training | Descent
    goal: float  # loss of all data that the late stage is at or below

    def start(self, seed: int, stage: Stage) -> Run:
        """Train up to a stage.

        Args:
            seed: As for ``Training.run``.
            stage: "early": the loss falls from update to update. "middle": it still falls. "late": converged, or nearly.
        """
        updates = max(LEAST, round(STAGES[stage] * self.training.updates))
        return self.training.run(seed, updates=min(updates, self.training.updates))


def all_healthy() -> tuple[Healthy, ...]:
    """Every healthy training; nothing is built until ``start``."""
    own = (
        Healthy(name, about, training, goal)
        for name, about, training, goal in (*CLASSIFIERS, *REGRESSORS)
    )
    return (*own, *_repaired())


def _repaired() -> Iterator[Healthy]:
    """The documented repairs of the stalls."""
    for stall in all_stalls():
        if stall.repaired is None or stall.name in LEFT_OUT:
            continue
        about = f"{stall.name}, repaired: {stall.remedy}."
        goal = inf if stall.counted_in is not None else stall.reached / stall.unit
        yield Healthy(f"{stall.name}-repaired", about, stall.repaired, goal)
