"""What the trials say about the causes: a floor that a remedy got below is none, and an open case is named by what moved it.

Answers: do the causes still stand after remedies were tried?
Does not answer: which remedy is best.
"""

from collections.abc import Mapping
from typing import Final

from unstick.critical.point import Kind
from unstick.diagnosis.cause import HEALTHY, Cause
from unstick.diagnosis.evidence import Evidence
from unstick.diagnosis.rules import Support
from unstick.diagnosis.trials import Tested, Trial
from unstick.record import number

__all__ = ["confirmed"]

REFUTES = 0.05
"""Part of the level by which a remedy must get lower to say something about the cause."""

STRENGTH = 0.6
"""Of a cause that only its remedy speaks for: it fits, and something else may have moved the training as well."""

MOVES: Final[Mapping[str, Cause]] = {
    "rate × 10": Cause.LEARNING_RATE_TOO_SMALL,
    "rate × 100": Cause.LEARNING_RATE_TOO_SMALL,
    "rate ÷ 10": Cause.LEARNING_RATE_TOO_LARGE,
    "highest rate": Cause.SCHEDULE_EXHAUSTED,
    "no clipping": Cause.GRADIENT_CLIPPING,
    "momentum 0.9": Cause.ILL_CONDITIONED_VALLEY,
    "batch × 16": Cause.GRADIENT_NOISE_FLOOR,
    "escape": Cause.STRICT_SADDLE,
    "new start": Cause.LOCAL_MINIMUM,
    "best start": Cause.LOCAL_MINIMUM,
}
"""Remedies that change one thing alone, and the cause that this thing was. Several others go with more than one."""


def confirmed(
    causes: tuple[Support, ...], tested: Tested, evidence: Evidence
) -> tuple[Support, ...]:
    """The causes after the trials: changed only where none was found, or a floor of the model that is none."""
    first = causes[0].cause
    if first not in (Cause.MODEL_FLOOR, Cause.UNDECIDED):
        return causes
    helped = [t for t in tested.trials if t.helped and _gain(t) >= REFUTES * evidence.level]
    if not helped:
        return causes
    others = tuple(c for c in causes if c.cause not in (*HEALTHY, Cause.UNDECIDED))
    told = f"{helped[0].about} moved it, to {number(helped[0].loss_after)}"
    single = sorted((t for t in helped if t.key in MOVES), key=lambda t: -_gain(t))
    if not single or (single[0].key.endswith("start") and evidence.point.kind == Kind.NOT_CRITICAL):
        return others or (Support(Cause.UNDECIDED, 0.0, (told,)),)
    named = Support(
        MOVES[single[0].key],
        STRENGTH,
        (
            f"of all that was tried, this alone moved it: {single[0].about}, to {number(single[0].loss_after)}",
        ),
    )
    kept = tuple(c for c in others if c.cause != named.cause)
    return tuple(sorted((named, *kept), key=lambda c: -c.strength))


def _gain(trial: Trial) -> float:
    return trial.loss_before - trial.loss_after
