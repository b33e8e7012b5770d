"""What was measured in every arm on every seed: the raw values that a study is decided by."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan

__all__ = ["Row", "Table", "Value", "finite_mean", "tally"]

Value = bool | int | float | str | tuple[float, ...] | None
"""What a measurement may be; a curve is a tuple."""


@dataclass(frozen=True, slots=True)
class Row:
    """One arm on one seed."""

    arm: str
    seed: int
    values: Mapping[str, Value]  # empty where it failed
    seconds: float
    failed: str = ""  # why it has no values, in one line


@dataclass(frozen=True, slots=True)
class Table:
    """All rows, in the order of the plan."""

    rows: tuple[Row, ...]
    arms: tuple[str, ...]  # in the order of the plan
    knobs: Mapping[str, Mapping[str, object]]  # of each arm

    @property
    def seeds(self) -> tuple[int, ...]:
        """Those on which anything was measured."""
        return tuple(sorted({row.seed for row in self.rows}))

    def by_seed(self, measure: str, arm: str) -> dict[int, float]:
        """A number of an arm on each seed on which it was measured; nan and inf stay."""
        return {
            row.seed: _number(row.values[measure])
            for row in self.rows
            if row.arm == arm and measure in row.values
        }

    def column(self, measure: str, arm: str) -> list[float]:
        """The same without the seeds."""
        return list(self.by_seed(measure, arm).values())

    def mean(self, measure: str, arm: str) -> float:
        """The mean over seeds of what is finite; nan where nothing is."""
        return finite_mean(self.column(measure, arm))

    def curves(self, measure: str, arm: str) -> list[tuple[float, ...]]:
        """A curve of an arm, one a seed."""
        found = [row.values.get(measure) for row in self.rows if row.arm == arm]
        return [curve for curve in found if isinstance(curve, tuple)]

    def texts(self, measure: str, arm: str) -> list[str]:
        """A word of an arm, one a seed."""
        found = [row.values.get(measure) for row in self.rows if row.arm == arm]
        return [text for text in found if isinstance(text, str)]

    def groups(self, mark: str = ": ") -> dict[str, list[str]]:
        """Arms by what their names say before the last mark, such as their data, in the order of the plan."""
        found: dict[str, list[str]] = {}
        for arm in self.arms:
            found.setdefault(arm.rpartition(mark)[0], []).append(arm)
        return found

    def spread(self, measure: str, arms: Sequence[str]) -> tuple[list[float], list[float]]:
        """The lowest and the highest of each arm, for error bars; nan where nothing is finite."""
        low, high = list[float](), list[float]()
        for arm in arms:
            known = [value for value in self.column(measure, arm) if isfinite(value)]
            low.append(min(known, default=nan))
            high.append(max(known, default=nan))
        return low, high


def finite_mean(values: Iterable[float]) -> float:
    """The mean of what is finite; nan where nothing is."""
    known = [value for value in values if isfinite(value)]
    return sum(known) / len(known) if known else nan


def tally(words: Sequence[str]) -> str:
    """How often each word stands there, in the order in which they come."""
    return ", ".join(f"{word} {words.count(word)}" for word in dict.fromkeys(words))


def _number(value: Value) -> float:
    return float(value) if isinstance(value, bool | int | float) else nan
