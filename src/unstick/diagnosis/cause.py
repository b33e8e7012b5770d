"""Every cause of a stall that a diagnosis can name.

Answers: what can hold a training, and to which family does it belong?
Does not answer: which one holds this training; that is ``rules``.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

__all__ = ["FAMILIES", "HEALTHY", "Cause"]


class Cause(StrEnum):
    """Why the loss stands still, or that it does not."""

    PROGRESSING = "progressing"
    MODEL_FLOOR = "model-floor"
    STRICT_SADDLE = "strict-saddle"
    DEGENERATE_POINT = "degenerate-point"
    LOCAL_MINIMUM = "local-minimum"
    ZERO_GRADIENT_PATH = "zero-gradient-path"
    DEAD_UNITS = "dead-units"
    SATURATED_UNITS = "saturated-units"
    VANISHING_GRADIENT = "vanishing-gradient"
    SYMMETRIC_UNITS = "symmetric-units"
    NON_FINITE = "non-finite"
    UNSCALED_INPUTS = "unscaled-inputs"
    UNSCALED_TARGETS = "unscaled-targets"
    LOSS_OUTPUT_MISMATCH = "loss-output-mismatch"
    LEARNING_RATE_TOO_LARGE = "learning-rate-too-large"
    LEARNING_RATE_TOO_SMALL = "learning-rate-too-small"
    SCHEDULE_EXHAUSTED = "schedule-exhausted"
    GRADIENT_CLIPPING = "gradient-clipping"
    ILL_CONDITIONED_VALLEY = "ill-conditioned-valley"
    GRADIENT_NOISE_FLOOR = "gradient-noise-floor"
    OVER_REGULARIZED = "over-regularized"
    UNDECIDED = "undecided"


HEALTHY: Final = (Cause.PROGRESSING, Cause.MODEL_FLOOR)
"""Nothing is wrong with the training."""

FAMILIES: Final[Mapping[str, tuple[Cause, ...]]] = {
    "nothing wrong": HEALTHY,
    "critical point": (Cause.STRICT_SADDLE, Cause.DEGENERATE_POINT, Cause.LOCAL_MINIMUM),
    "signal path": (
        Cause.ZERO_GRADIENT_PATH,
        Cause.DEAD_UNITS,
        Cause.SATURATED_UNITS,
        Cause.VANISHING_GRADIENT,
        Cause.SYMMETRIC_UNITS,
        Cause.NON_FINITE,
    ),
    "scale": (Cause.UNSCALED_INPUTS, Cause.UNSCALED_TARGETS, Cause.LOSS_OUTPUT_MISMATCH),
    "step": (
        Cause.LEARNING_RATE_TOO_LARGE,
        Cause.LEARNING_RATE_TOO_SMALL,
        Cause.SCHEDULE_EXHAUSTED,
        Cause.GRADIENT_CLIPPING,
    ),
    "geometry, noise": (Cause.ILL_CONDITIONED_VALLEY, Cause.GRADIENT_NOISE_FLOOR),
    "objective": (Cause.OVER_REGULARIZED,),
    "honest": (Cause.UNDECIDED,),
}
"""Causes of one kind."""
