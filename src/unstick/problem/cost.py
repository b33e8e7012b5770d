"""What an answer cost: samples evaluated, work in full-data gradients, seconds."""

from dataclasses import dataclass

__all__ = ["NOTHING", "WORK", "Cost"]

WORK = {
    "value": 1 / 3,
    "gradient": 1.0,
    "product/kept": 2.0,
    "product/rebuilt": 3.0,
    "product/forward": 3.0,
}
"""The price list, in gradients for one pass over the data. A backward pass is two forward passes
of arithmetic, so a loss is a third of a gradient, a second backward pass through a kept graph is two gradients
and rebuilding that graph one more; a difference quotient is two gradients and counted as such. A convention, so that equal work has equal cost on every machine."""


@dataclass(frozen=True, slots=True)
class Cost:
    """The price of an answer; costs add and subtract."""

    samples: int = 0  # samples evaluated, each time one was
    gradients: float = 0.0  # samples over full-data size, times the kind of work in WORK
    seconds: float = 0.0  # wall time

    def __add__(self, other: "Cost") -> "Cost":
        """The price of both."""
        return Cost(
            self.samples + other.samples,
            self.gradients + other.gradients,
            self.seconds + other.seconds,
        )

    def __sub__(self, other: "Cost") -> "Cost":
        """The price of what was spent since ``other``."""
        return Cost(
            self.samples - other.samples,
            self.gradients - other.gradients,
            self.seconds - other.seconds,
        )

    def __str__(self) -> str:
        """For people: ``12.3 gradients (17,654 samples) in 0.4 s``."""
        return f"{self.gradients:.1f} gradients ({self.samples:,} samples) in {self.seconds:.1f} s"


NOTHING = Cost()
"""The price of what was not done."""
