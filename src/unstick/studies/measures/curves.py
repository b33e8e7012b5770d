"""Curves of several seeds as one line of a picture.

Answers: what is the mean of these curves at each place, and between which values do they lie?
Does not answer: how sure a difference of two arms is; that is ``frame.paired``.
"""

from collections.abc import Sequence
from math import isfinite, nan

from unstick.studies.frame.plan import Series

__all__ = ["binned", "over_seeds"]


def over_seeds(
    name: str, x: Sequence[float | str], curves: Sequence[Sequence[float]], *, kind: str = "line"
) -> Series:
    """The mean, the lowest and the highest of what is finite at each place; nan where nothing is.

    Example:
        >>> line = over_seeds("loss", (0.0, 1.0), [(4.0, 1.0), (2.0, float("inf"))])
        >>> line.y, line.low, line.high
        ((3.0, 1.0), (2.0, 1.0), (4.0, 1.0))
    """
    columns = [
        [curve[at] for curve in curves if at < len(curve) and isfinite(curve[at])]
        for at in range(len(x))
    ]
    return Series(
        name,
        tuple(x),
        tuple(sum(known) / len(known) if known else nan for known in columns),
        tuple(min(known, default=nan) for known in columns),
        tuple(max(known, default=nan) for known in columns),
        kind,
    )


def binned(values: Sequence[float], bins: int) -> tuple[float, ...]:
    """The means of so many equally long pieces, in order; what a training left out is nan.

    Example:
        >>> binned([4.0, 2.0, 1.0, 1.0], 2)
        (3.0, 1.0)
    """
    size = max(1, len(values) // bins)
    pieces = [values[size * k : size * (k + 1)] for k in range(bins)]
    return tuple(sum(piece) / len(piece) if piece else nan for piece in pieces)
