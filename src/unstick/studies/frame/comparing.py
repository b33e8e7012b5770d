"""Effects with confidence intervals over seeds, and the verdicts that follow from them.

Answers: by how much do two arms differ, how sure is that, and does it reach what the claim says?
Does not answer: what to compare; each study says that in advance.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import inf, isfinite, nan
from typing import Any

from scipy import stats

from unstick.record import number
from unstick.studies.frame.table import Row, Table, finite_mean

__all__ = [
    "Effect",
    "Side",
    "Verdict",
    "combined",
    "paired",
    "share",
    "side_of",
    "verdict_near",
    "verdict_of",
    "within",
]


class Verdict(StrEnum):
    """What a study says about its claim."""

    SUPPORTED = "supported"
    CONTRADICTED = "contradicted"
    INCONCLUSIVE = "inconclusive"


class Side(StrEnum):
    """Where an interval lies."""

    ABOVE = "above"
    BELOW = "below"
    ACROSS = "across"


@dataclass(frozen=True, slots=True)
class Effect:
    """A difference or a share, with its interval."""

    name: str
    first: float  # mean of the first arm over the seeds that both share, or the share
    second: float  # mean of the second arm over the same seeds; nan for a share
    difference: float  # first − second, paired by seed; the share itself
    low: float
    high: float
    confidence: float  # of this interval; with several comparisons, above that of all together
    count: int  # of pairs, or of what the share is of
    unit: str = "seeds"

    def __str__(self) -> str:
        """The effect and its interval."""
        return f"{self.name}: {number(self.difference)} ({number(self.low)} to {number(self.high)}, {self.count:,} {self.unit})"


def paired(
    table: Table,
    measure: str,
    first: str,
    second: str,
    *,
    name: str = "",
    confidence: float = 0.95,
    comparisons: int = 1,
) -> Effect:
    """The mean of first − second over the seeds that both arms share, with Student's interval.

    Args:
        table: What was measured.
        measure: Which number.
        first: An arm.
        second: Another.
        name: What to call it.
        confidence: Of all comparisons together.
        comparisons: How many there are; each interval is widened accordingly (Bonferroni).

    Returns:
        The effect. With fewer than two seeds the interval is everything; where all differences are equal it is a point.
        A pair with a value that is not finite makes the interval everything: what diverged has no mean.
    """
    one, two = table.by_seed(measure, first), table.by_seed(measure, second)
    shared = sorted(one.keys() & two.keys())
    gaps = [one[seed] - two[seed] for seed in shared]
    each = 1 - (1 - confidence) / comparisons
    title = name or f"{measure}: {first} − {second}"
    means = (finite_mean(one[seed] for seed in shared), finite_mean(two[seed] for seed in shared))
    if not gaps or not all(map(isfinite, gaps)):
        return Effect(title, *means, nan, -inf, inf, each, len(gaps))
    low, high = _interval(gaps, each)
    return Effect(title, *means, sum(gaps) / len(gaps), low, high, each, len(gaps))


def within(
    table: Table,
    arm: str,
    measure: str,
    other: str | float,
    *,
    name: str = "",
    confidence: float = 0.95,
    comparisons: int = 1,
) -> Effect:
    """The mean over the seeds of one arm of a measure less another, or less a number that theory gives.

    Args:
        table: What was measured.
        arm: Which arm.
        measure: Which number.
        other: What to compare it with: another measure of the same arm, or a constant.
        name: What to call it.
        confidence: As for ``paired``.
        comparisons: As for ``paired``.

    Example:
        >>> rows = tuple(Row("a", seed, {"x": 3.0, "y": 1.0}, 0.0) for seed in range(2))
        >>> effect = within(Table(rows, ("a",), {}), "a", "x", "y")
        >>> effect.difference, effect.low, effect.high
        (2.0, 2.0, 2.0)
    """
    ones = table.by_seed(measure, arm)
    others = (
        table.by_seed(other, arm) if isinstance(other, str) else dict.fromkeys(ones, float(other))
    )
    rows = [Row(measure, seed, {"value": value}, 0.0) for seed, value in ones.items()]
    rows += [Row("other", seed, {"value": value}, 0.0) for seed, value in others.items()]
    return paired(
        Table(tuple(rows), (measure, "other"), {}),
        "value",
        measure,
        "other",
        name=name or f"{arm}: {measure} − {other}",
        confidence=confidence,
        comparisons=comparisons,
    )


def share(
    hits: int,
    of: int,
    *,
    name: str,
    unit: str,
    confidence: float = 0.95,
    comparisons: int = 1,
) -> Effect:
    """A share with the exact interval of Clopper and Pearson (1934)."""
    each = 1 - (1 - confidence) / comparisons
    if of == 0:
        return Effect(name, nan, nan, nan, 0.0, 1.0, each, 0, unit)
    tested: Any = stats.binomtest(hits, of)
    interval = tested.proportion_ci(each, method="exact")
    part = hits / of
    return Effect(name, part, nan, part, float(interval.low), float(interval.high), each, of, unit)


def side_of(effect: Effect, level: float = 0.0) -> Side:
    """Whether the whole interval lies above or below a level."""
    if effect.low > level:
        return Side.ABOVE
    return Side.BELOW if effect.high < level else Side.ACROSS


def verdict_of(effect: Effect, expected: Side, level: float = 0.0) -> Verdict:
    """Supported where the whole interval lies on the expected side, contradicted where it lies on the other."""
    found = side_of(effect, level)
    if found == Side.ACROSS:
        return Verdict.INCONCLUSIVE
    return Verdict.SUPPORTED if found == expected else Verdict.CONTRADICTED


def verdict_near(effect: Effect, radius: float) -> Verdict:
    """Of a difference that should be nought: supported where the whole interval lies within a radius, contradicted where it lies outside."""
    if not isfinite(radius):
        return Verdict.INCONCLUSIVE
    if -radius < effect.low and effect.high < radius:
        return Verdict.SUPPORTED
    outside = effect.low > radius or effect.high < -radius
    return Verdict.CONTRADICTED if outside else Verdict.INCONCLUSIVE


def combined(verdicts: Sequence[Verdict]) -> Verdict:
    """Of a claim with several parts: supported where all are, contradicted where one is, else inconclusive."""
    if Verdict.CONTRADICTED in verdicts:
        return Verdict.CONTRADICTED
    known = bool(verdicts) and set(verdicts) == {Verdict.SUPPORTED}
    return Verdict.SUPPORTED if known else Verdict.INCONCLUSIVE


def _interval(gaps: Sequence[float], confidence: float) -> tuple[float, float]:
    if len(gaps) < 2:
        return -inf, inf
    mean = sum(gaps) / len(gaps)
    if max(gaps) == min(gaps):
        return mean, mean
    error = float(stats.sem(gaps))
    low, high = stats.t.interval(confidence, len(gaps) - 1, loc=mean, scale=error)
    return float(low), float(high)
