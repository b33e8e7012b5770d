"""A number with what is known about it: an estimate, bounds, and how sure each bound is."""

from dataclasses import dataclass

from unstick.record import number

__all__ = ["Interval"]


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with a lower and an upper bound; a confidence of 1.0 is rigorous (to arithmetic)."""

    value: float
    low: float
    high: float
    low_confidence: float
    high_confidence: float

    def __str__(self) -> str:
        """For people: value, bounds, and the confidence where it is not rigorous."""
        half = (self.high - self.low) / 2
        if self.low_confidence == self.high_confidence == 1.0 and half <= 1e-3 * abs(self.value):
            return f"{number(self.value)} ± {number(half, 1)}"
        low = number(self.low) + _sure(self.low_confidence)
        high = number(self.high) + _sure(self.high_confidence)
        return f"{number(self.value)} in [{low}, {high}]"


def _sure(confidence: float) -> str:
    return "" if confidence == 1.0 else f" with probability {confidence:.6g}"
