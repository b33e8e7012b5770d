"""The axes of a study's picture.

Answers: which range and ticks show these values, linear or logarithmic?
"""

import math
from collections.abc import Iterable

from unstick.report.figures import FEW_DECADES, Trace, axis

__all__ = ["axis_over"]

LINEAR = 3.0  # the largest over the least value, up to which a logarithmic axis shows nothing more
PLAIN = (-4, 5)  # powers of ten that are written out
AIR = 0.05  # of an axis beyond its values


def axis_over(title: str, logarithmic: bool, values: Iterable[float], *, grounded: bool = False) -> Trace:  # fmt: skip
    """An axis over these values: linear where they span little, and from 0 under bars."""
    known = [v for v in values if math.isfinite(v) and (v > 0 or not logarithmic)]
    if not known:
        return axis(title)
    low, high = min(known), max(known)
    if logarithmic and high / low >= LINEAR:
        return _log_axis(title, low, high)
    low = min(0.0, low) if grounded else low
    air = AIR * (high - low) or 0.1 * abs(high) or 1.0
    floor = low if grounded and low == 0 else low - air
    plain = {"exponentformat": "none", "separatethousands": True} if high < 10 ** PLAIN[1] else {}
    return axis(title, range=[floor, high + air], zeroline=low <= 0 <= high, **plain)


def _log_axis(title: str, low: float, high: float) -> Trace:
    """Ticks at 1, 2 and 5 of every decade where there are few, else at powers of ten."""
    decades = math.log10(high / low)
    air = max(AIR * decades, 0.03)
    span = [math.log10(low) - air, math.log10(high) + air]
    first, last = math.floor(span[0]), math.ceil(span[1])
    if first < PLAIN[0] - 1 or last > PLAIN[1] + 1:
        return axis(title, type="log", dtick=max(1, math.ceil(decades / 6)), range=span)
    steps = (1, 2, 5) if decades <= FEW_DECADES else (1,)
    ticks = [float(f"{step}e{power}") for power in range(first, last + 1) for step in steps]
    texts = [f"{tick:,g}" for tick in ticks]
    return axis(title, type="log", tickmode="array", tickvals=ticks, ticktext=texts, range=span)
