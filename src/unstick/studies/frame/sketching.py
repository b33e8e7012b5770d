"""The shape that a claim has, drawn on the axes of what was measured.

Answers: where does a sketch lie, that is given in parts of the measured axes?
Does not answer: whether the measurement looks like that; the study's rule does.
"""

from collections.abc import Iterable, Sequence
from math import isfinite, log10

from unstick.studies.frame.plan import Series

__all__ = ["sketch"]


def sketch(
    name: str,
    measured: Iterable[Series],
    shape: Sequence[tuple[float | str, float]],
    *,
    group: str = "",
    kind: str = "line",
    log_x: bool = False,
    log_y: bool = False,
) -> tuple[Series, ...]:
    """One series of a sketch; none where nothing was measured.

    Args:
        name: What the claim says there.
        measured: The series whose axes it is drawn on.
        shape: Places on both axes as parts of what was measured: 0 the least, 1 the most. A word stays where it is.
        group: The measured series, or their group, that it is about.
        kind: As of ``Series``.
        log_x: The parts are of a logarithmic axis.
        log_y: The same of the other axis.

    Example:
        >>> measured = Series("loss", (1.0, 100.0), (4.0, 2.0))
        >>> sketch("falls", [measured], [(0, 1), (0.5, 0.5), (1, 0)], log_x=True)[0].x
        (1.0, 10.0, 100.0)
    """
    measured = list(measured)
    high = _extent([y for one in measured for y in one.y], log_y)
    wide = _extent(
        [
            x
            for one in measured
            for x, y in zip(one.x, one.y, strict=True)
            if not isinstance(x, str) and isfinite(y)
        ],
        log_x,
    )
    if high is None:
        return ()
    places: list[tuple[float | str, float]] = []
    for x, y in shape:
        if isinstance(x, str):
            places.append((x, _at(high, y, log_y)))
        elif wide is not None:
            places.append((_at(wide, x, log_x), _at(high, y, log_y)))
    xs, ys = tuple(x for x, _ in places), tuple(y for _, y in places)
    return (Series(name, xs, ys, kind=kind, group=group),) if places else ()


def _extent(values: Iterable[float], logarithmic: bool) -> tuple[float, float] | None:
    known = [v for v in values if isfinite(v) and (v > 0 or not logarithmic)]
    return (min(known), max(known)) if known else None


def _at(extent: tuple[float, float], part: float, logarithmic: bool) -> float:
    low, high = extent
    if logarithmic:
        return 10 ** (log10(low) + part * (log10(high) - log10(low)))
    return low + part * (high - low)
