"""A training that ended because it made no progress, and why it made none."""

from dataclasses import dataclass

from unstick.diagnosis.diagnosing import Diagnosis
from unstick.record import Fact, Record
from unstick.training.loop import Trained

__all__ = ["StalledRun"]


@dataclass(frozen=True, slots=True, eq=False)
class StalledRun(Record):
    """The training, and the diagnosis of the point where it ended."""

    trained: Trained
    diagnosis: Diagnosis

    @property
    def outcome(self) -> str:
        """How the diagnosis ended."""
        return self.diagnosis.outcome

    def headline(self) -> str:
        """Why it stands still."""
        updates = len(self.trained.trace.loss)
        return f"No progress after {updates:,} update{'' if updates == 1 else 's'}. {self.diagnosis.headline()}"

    def facts(self) -> list[Fact]:
        """The training, then the diagnosis."""
        training = [("training", self.trained.headline()), ("recipe", str(self.trained.recipe))]
        return training + self.diagnosis.facts()
