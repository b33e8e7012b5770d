"""A training that is known to stall, with its cause and the repair that is known to help.

Answers: what is a labelled stall, did this seed really stall, and what does its repair reach?
Does not answer: what a diagnosis makes of it.
"""

from dataclasses import dataclass
from math import inf, isfinite

from unstick.diagnosis.cause import Cause
from unstick.diagnosis.run import Run
from unstick.problem.problem import Problem
from unstick.studies.gallery.training import Descent, Loss, Training
from unstick.trace import RunTrace

__all__ = ["AUTOTRAINER", "DEEPCHECKER", "DIVERGED", "STACK_OVERFLOW", "Stall"]

AUTOTRAINER = "after AutoTrainer (Zhang, Zhai, Ma, Shen 2021)"
DEEPCHECKER = "after TheDeepChecker (Ben Braiek, Khomh 2023)"
STACK_OVERFLOW = (
    "after a question on Stack Overflow, of those collected by DeepLocalize (Wardat, Le, Rajan 2021), "
    "DeepFD (Cao et al. 2022) and DeepDiagnosis (Wardat et al. 2022)"
)

DIVERGED = (inf, inf)
"""The band of a training whose loss stops being finite."""


@dataclass(frozen=True, slots=True)
class Stall:
    """A faulty training, labelled."""

    name: str
    about: str  # one sentence
    source: str
    causes: tuple[Cause, ...]  # each a right answer; the first is the expected one
    training: Training | Descent
    band: tuple[float, float]  # the loss of all data, without penalties, where a seed has stalled
    remedy: str = ""  # what the documented repair changes; "": no optimizer and no repair helps
    repaired: Training | Descent | None = None
    reached: float = inf  # the repaired loss is at or below, in units of the stalled one
    counted_in: Loss | None = None  # loss to count the repaired model in; None: its own
    unit: float = 1.0  # multiplies the repaired loss, where its targets were standardized
    refused: str = ""  # why ``start`` raises NonFinite, which then is the diagnosis

    @property
    def repairable(self) -> bool:
        """Whether there is a repair."""
        return self.repaired is not None

    def start(self, seed: int) -> Run:
        """Build and train the faulty training to where it stalls.

        Raises:
            NonFinite: The case is ``refused``: not even the first loss is finite.
        """
        return self.training.run(seed)

    def stalls(self, run: Run) -> bool:
        """Whether this run stands where the stall is, judged by the loss of all data."""
        if self.band == DIVERGED:
            assert isinstance(run.history, RunTrace)
            return not isfinite(run.history.loss[-1])
        low, high = self.band
        return low <= run.problem.value() <= high

    def repair(self, seed: int) -> float | None:
        """The loss of all data that the documented repair reaches, in units of the stalled loss; None without one."""
        if self.repaired is None:
            return None
        run = self.repaired.run(seed)
        if self.counted_in is None:
            return self.unit * run.problem.value()
        assert isinstance(self.repaired, Training)
        counted = Problem(run.problem.model, self.repaired.data(), self.counted_in)
        return self.unit * counted.value()
