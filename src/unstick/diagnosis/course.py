"""What the losses of a run say about its progress.

Answers: is the loss still falling, how fast beside what is left, and how much of it is noise?
Does not answer: why it does not fall.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unstick.trace import RunTrace

__all__ = ["BLOCKS", "Course", "read_course"]

BLOCKS = 12
"""Blocks that the second half of a run is averaged in, before a line is laid through them: few enough that each holds
many updates, enough to tell a trend from its noise."""

POINTS = 120
"""Of the curve that is kept."""


@dataclass(frozen=True, slots=True)
class Course:
    """A run's losses, summed up."""

    updates: int
    finite: int  # losses before the first that is not finite
    first: float
    last: float  # mean of the last block
    lowest: float  # mean of the lowest block
    highest: float  # single loss
    trend: float  # change of the loss over the second half, by the line through its blocks
    trend_error: float  # its standard error, from the blocks' own scatter
    scatter: float  # standard deviation of single losses around that line
    swings: (
        float  # share of changes of sign between updates: ½ … ⅔ is noise, near 1 swings to and fro
    )
    curve: tuple[float, ...] = ()  # means of equal parts of the finite losses, to be drawn
    stands_from: int | None = None  # update from which the curve falls by less than a twentieth

    @property
    def blew_up(self) -> bool:
        """Whether the losses stopped being finite."""
        return self.finite < self.updates

    @property
    def falling(self) -> bool:
        """Whether the fall of the second half is more than noise, at three standard errors."""
        return self.trend < -3 * self.trend_error


def read_course(history: Sequence[float] | RunTrace | None) -> Course | None:
    """Sum up a run; None where fewer than eight losses are known.

    Args:
        history: The loss of each update.

    Example:
        >>> course = read_course([1 / (1 + k) for k in range(100)])
        >>> course.falling, course.blew_up
        (True, False)
    """
    if history is None:
        return None
    losses = np.asarray(history.loss if isinstance(history, RunTrace) else list(history), float)
    bad = np.flatnonzero(~np.isfinite(losses))
    finite = int(bad[0]) if len(bad) else len(losses)
    known = losses[:finite]
    if len(losses) < 8 or finite == 0:
        return None if finite == len(losses) else _nothing(len(losses), finite, known)
    half = known[len(known) // 2 :]
    blocks = np.array([part.mean() for part in np.array_split(half, min(BLOCKS, len(half)))])
    slope, error = _line(blocks)
    line = np.interp(
        np.arange(len(half)),
        np.linspace(0, len(half) - 1, len(blocks)),
        blocks.mean() + slope * (np.arange(len(blocks)) - (len(blocks) - 1) / 2),
    )
    scatter = float(np.std(half - line))
    changes = np.sign(np.diff(half))
    turns = changes[1:] * changes[:-1] < 0
    everything = np.array_split(known, min(2 * BLOCKS, len(known)))
    return Course(
        updates=len(losses),
        finite=finite,
        first=float(known[0]),
        last=float(blocks[-1]),
        lowest=float(min(part.mean() for part in everything)),
        highest=float(known.max()),
        trend=slope * (len(blocks) - 1),
        trend_error=error * (len(blocks) - 1),
        scatter=scatter,
        swings=float(turns.mean()) if len(turns) else 0.0,
        curve=_curve(known),
        stands_from=_stands_from(known, _noise(half)),
    )


def _parts(known: np.ndarray) -> list[np.ndarray]:
    return np.array_split(known, min(POINTS, len(known)))


def _curve(known: np.ndarray) -> tuple[float, ...]:
    return tuple(float(part.mean()) for part in _parts(known)) if len(known) else ()


def _noise(losses: np.ndarray) -> float:
    """Standard deviation of single losses, from second differences: of a smooth fall next to nothing is left."""
    return float(np.diff(losses, n=2).std()) / math.sqrt(6) if len(losses) > 3 else 0.0


def _stands_from(known: np.ndarray, noise: float) -> int | None:
    """The first update whose part of the curve is as low as any later one, to a twentieth of it and to twice its error.

    Noise is that of neighbors, so that a smooth fall counts for none.
    """
    parts = _parts(known)
    begin = 0
    for k, part in enumerate(parts):
        mean, later = part.mean(), min(other.mean() for other in parts[k:])
        if mean - later <= max(0.05 * abs(mean), 2 * noise / math.sqrt(len(part))):
            return begin + 1 if k < len(parts) - 1 else None
        begin += len(part)
    return None


def _line(blocks: np.ndarray) -> tuple[float, float]:
    """Slope of the least-squares line through the blocks, and its standard error."""
    count = len(blocks)
    if count < 3:
        return 0.0, math.inf
    at = np.arange(count) - (count - 1) / 2
    spread = float(at @ at)
    slope = float(at @ blocks) / spread
    rest = blocks - blocks.mean() - slope * at
    return slope, math.sqrt(float(rest @ rest) / (count - 2) / spread)


def _nothing(updates: int, finite: int, known: np.ndarray) -> Course:
    value = float(known[-1]) if len(known) else math.nan
    first = float(known[0]) if len(known) else math.nan
    highest = float(known.max()) if len(known) else math.nan
    return Course(
        updates, finite, first, value, value, highest, 0.0, math.inf, math.nan, 0.0, _curve(known)
    )
