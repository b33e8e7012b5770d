"""All studies together: each claim with its verdict, and the notes' table of small against large batches, redrawn."""

from collections.abc import Sequence
from dataclasses import dataclass

from unstick.record import Fact, Record, number
from unstick.studies.frame.comparing import Verdict
from unstick.studies.frame.result import StudyResult

__all__ = ["Overview", "overview_of"]


@dataclass(frozen=True, slots=True, eq=False)
class Overview(Record):
    """Every study that was run."""

    results: tuple[StudyResult, ...]  # by name
    missing: tuple[str, ...]  # studies that were not run
    outcome: str  # "complete", "interrupted" or "part 1 of 2"

    def headline(self) -> str:
        """How many claims hold."""
        counts = [
            f"{sum(one.verdict == verdict for one in self.results)} {verdict}"
            for verdict in Verdict
        ]
        return f"{len(self.results)} claims measured: {', '.join(counts)}."

    def facts(self) -> list[Fact]:
        """One claim a line."""
        facts = [(one.name, f"{one.verdict}. {one.said}") for one in self.results]
        if self.missing:
            facts.append(("not run", ", ".join(self.missing)))
        seconds = sum(one.seconds for one in self.results)
        return [*facts, ("run", f"{number(seconds, 3)} s of arms, one after the other")]


def overview_of(
    results: Sequence[StudyResult], known: Sequence[str], *, outcome: str = "complete"
) -> Overview:
    """Put results together.

    Args:
        results: Of different studies.
        known: The names of all studies.
        outcome: "interrupted" where the rest was not begun.
    """
    ordered = tuple(sorted(results, key=lambda one: one.name))
    have = {one.name for one in ordered}
    partial = [one for one in (outcome, *(each.outcome for each in ordered)) if one != "complete"]
    whole = "interrupted" if "interrupted" in partial else next(iter(partial), "complete")
    return Overview(
        ordered,
        tuple(name for name in known if name not in have),
        whole,
    )
