"""One small rule a cause: what in the evidence speaks for it, and how much.

Answers: which causes does the evidence support, the root before its symptom?
Does not answer: what moves the training; that is tried, not ruled.

A strength is how much the rule claims: 0.9 and more where a measurement shows it, about 0.7 where it fits and little else
does, 0.5 where it fits. Gains are parts of ``Evidence.level``: 1 is the whole way from nothing learned to the lowest loss.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from unstick.critical.point import Kind
from unstick.diagnosis.cause import Cause
from unstick.diagnosis.course import BLOCKS
from unstick.diagnosis.evidence import Evidence, in_step
from unstick.record import number

__all__ = ["Support", "support"]

MATTERS = 0.02
"""Part of the level that a gain must have to matter. Lowering the rate of a healthy training pays at once too, but less:
below this on all healthy trainings that it was measured on."""

PACE = 0.05
"""Part of what is left that a training which goes on loses over as many updates as half of its past."""

LEARNED = 0.12
"""Part of the level below which a training has learned its task: what holds it then is no stall."""


CUT = 0.1
"""Part of the level that bounded outputs must keep from the loss to count."""

FEW, ALONE = 8, 1.7
"""With batches of so many samples, what a lower rate gains so many times more than larger batches is the rate's."""

NOTHING = 1e-6
"""Part of the level that a step along negative curvature must gain for a saddle to lead anywhere."""

SHRINKS = 2.0
"""Power of e by which weight decay alone may shrink weights over a run before it is held against the training."""

TOLD = 10.0
"""A multiple of the whole way from which on it is told as such: a run that blew up came from far above."""

SPREAD, OFFSET = 300.0, 30.0
"""Deviations of features beside each other, and a feature's mean beside its deviation, beyond which steps suit none or one."""

EARLY = 100
"""Updates before which a training that moves at all is not called stalled: half of them say too little about the other."""

SPIKE = 100.0
"""A rise of the loss by this factor is no noise: a step went far beyond what the surface bears."""


@dataclass(frozen=True, slots=True)
class Support:
    """What speaks for a cause."""

    cause: Cause
    strength: float  # 1.0: proved; 0.5: it fits, but something that would decide was not tried
    reasons: tuple[str, ...]


Rule = Callable[[Evidence], Support | None]

EXPLAINS: Final[Mapping[Cause, tuple[Cause, ...]]] = {
    Cause.ZERO_GRADIENT_PATH: (
        Cause.DEAD_UNITS,
        Cause.DEGENERATE_POINT,
        Cause.MODEL_FLOOR,
        Cause.LOCAL_MINIMUM,
        Cause.UNSCALED_INPUTS,
        Cause.UNSCALED_TARGETS,
        Cause.SYMMETRIC_UNITS,
        Cause.LEARNING_RATE_TOO_SMALL,
        Cause.VANISHING_GRADIENT,
        Cause.LOSS_OUTPUT_MISMATCH,
    ),
    Cause.LOSS_OUTPUT_MISMATCH: (
        Cause.LEARNING_RATE_TOO_SMALL,
        Cause.VANISHING_GRADIENT,
        Cause.SATURATED_UNITS,
        Cause.ILL_CONDITIONED_VALLEY,
        Cause.MODEL_FLOOR,
    ),
    Cause.DEAD_UNITS: (
        Cause.DEGENERATE_POINT,
        Cause.MODEL_FLOOR,
        Cause.LOCAL_MINIMUM,
        Cause.STRICT_SADDLE,
        Cause.SYMMETRIC_UNITS,
        Cause.VANISHING_GRADIENT,
        Cause.LEARNING_RATE_TOO_SMALL,
        Cause.GRADIENT_NOISE_FLOOR,
        Cause.UNSCALED_TARGETS,
    ),
    Cause.OVER_REGULARIZED: (
        Cause.MODEL_FLOOR,
        Cause.LOCAL_MINIMUM,
        Cause.VANISHING_GRADIENT,
        Cause.SYMMETRIC_UNITS,
        Cause.DEGENERATE_POINT,
        Cause.STRICT_SADDLE,
        Cause.LEARNING_RATE_TOO_SMALL,
    ),
    Cause.STRICT_SADDLE: (
        Cause.SYMMETRIC_UNITS,
        Cause.LEARNING_RATE_TOO_SMALL,
        Cause.ILL_CONDITIONED_VALLEY,
        Cause.MODEL_FLOOR,
    ),
    Cause.VANISHING_GRADIENT: (
        Cause.STRICT_SADDLE,
        Cause.DEGENERATE_POINT,
        Cause.MODEL_FLOOR,
        Cause.LOCAL_MINIMUM,
        Cause.LEARNING_RATE_TOO_SMALL,
        Cause.SATURATED_UNITS,
    ),
    Cause.UNSCALED_INPUTS: (
        Cause.DEAD_UNITS,
        Cause.LEARNING_RATE_TOO_SMALL,
        Cause.LEARNING_RATE_TOO_LARGE,
        Cause.SATURATED_UNITS,
        Cause.ILL_CONDITIONED_VALLEY,
        Cause.STRICT_SADDLE,
        Cause.GRADIENT_NOISE_FLOOR,
    ),
    Cause.UNSCALED_TARGETS: (
        Cause.LEARNING_RATE_TOO_SMALL,
        Cause.UNSCALED_INPUTS,
        Cause.SATURATED_UNITS,
        Cause.VANISHING_GRADIENT,
        Cause.ILL_CONDITIONED_VALLEY,
    ),
    Cause.SCHEDULE_EXHAUSTED: (Cause.LEARNING_RATE_TOO_SMALL, Cause.ILL_CONDITIONED_VALLEY),
    Cause.GRADIENT_CLIPPING: (Cause.LEARNING_RATE_TOO_SMALL, Cause.ILL_CONDITIONED_VALLEY),
    Cause.GRADIENT_NOISE_FLOOR: (Cause.LEARNING_RATE_TOO_LARGE,),
    Cause.LEARNING_RATE_TOO_LARGE: (Cause.NON_FINITE, Cause.MODEL_FLOOR),
    Cause.SATURATED_UNITS: (
        Cause.LEARNING_RATE_TOO_SMALL,
        Cause.ILL_CONDITIONED_VALLEY,
        Cause.DEAD_UNITS,
        Cause.STRICT_SADDLE,
        Cause.DEGENERATE_POINT,
        Cause.MODEL_FLOOR,
    ),
    Cause.DEGENERATE_POINT: (
        Cause.STRICT_SADDLE,
        Cause.SYMMETRIC_UNITS,
        Cause.MODEL_FLOOR,
        Cause.LEARNING_RATE_TOO_SMALL,
    ),
    Cause.SYMMETRIC_UNITS: (Cause.LEARNING_RATE_TOO_SMALL, Cause.ILL_CONDITIONED_VALLEY),
}
"""A cause with strength ½ or more comes before what it explains, unless that is stronger by more than ``DOUBT``."""

DOUBT = 0.3
"""A doubtful root does not come before a symptom that is certain."""


def support(evidence: Evidence) -> tuple[Support, ...]:
    """All causes that the evidence supports, ranked; ``undecided`` alone where it supports none."""
    found = [told for rule in RULES if (told := rule(evidence)) is not None]
    if not found:
        return (Support(Cause.UNDECIDED, 0.0, (_open(evidence),)),)
    strengths = {told.cause: told.strength for told in found}
    explained = {
        symptom
        for root, strength in strengths.items()
        for symptom in EXPLAINS.get(root, ())
        if strength >= 0.5 and strengths.get(symptom, 0.0) <= strength + DOUBT
    }
    return tuple(sorted(found, key=lambda s: (s.cause in explained, -s.strength)))


def _progressing(e: Evidence) -> Support | None:
    """The loss still falls at a pace that matters, or the task is learned."""
    if e.course is not None and e.course.blew_up:
        return None
    if e.course is not None and e.course.highest > SPIKE * e.course.first > 0 and e.stuck > 0.9:
        return None  # coming back from an explosion to where nothing is learned is no progress
    reasons: list[str] = []
    strength = 0.0
    left = max(e.loss - e.bound, 1e-300)
    course = e.course
    if course is not None and course.trend < -2 * course.trend_error:
        pace = -course.trend / left
        if pace >= PACE:
            strength = 0.95 if course.falling and pace >= 2 * PACE else 0.91
            reasons.append(
                f"the second half of the run lowered the loss by {number(-course.trend)} ± "
                f"{number(course.trend_error)}, which is {pace:.0%} of what is left"
            )
    on = e.arms.get("continue")
    if course is not None and on is not None and math.isfinite(on.settled):
        counts = 1 / max(1, course.finite // 2 // BLOCKS) + 1 / max(1, on.updates // 3)
        gap = course.last - on.settled
        if gap > 3 * course.scatter * math.sqrt(counts) and gap >= PACE * left:
            strength = max(strength, 0.91)
            reasons.append(
                f"the batch losses of a copy trained on settle lower by {number(gap)}, which is {gap / left:.0%} of what is left"
            )
    gained = e.gain("continue")
    moving = gained is not None and math.isfinite(gained) and gained >= MATTERS / 4
    if moving and course is not None and course.updates < EARLY:
        strength = max(strength, 0.91)
        reasons.append(
            f"after {course.updates} updates it is early, and a copy trained on lowered the loss by {_gained(gained or 0.0)}"
        )
    if moving and course is None and gained is not None and gained >= 2 * MATTERS:
        strength = max(strength, 0.91)
        reasons.append(f"a copy trained on lowered the loss by {_gained(gained or 0.0)}")
    if e.level_known and e.stuck < LEARNED:
        strength = max(strength, 0.92)
        reasons.append(f"{1 - e.stuck:.0%} of the way from nothing learned is done")
    return Support(Cause.PROGRESSING, strength, tuple(reasons)) if reasons else None


def _non_finite(e: Evidence) -> Support | None:
    if e.course is None or not e.course.blew_up:
        return None
    where = f"the loss is not finite from update {e.course.finite + 1:,} on"
    return Support(Cause.NON_FINITE, 0.8, (where,))


def _zero_path(e: Evidence) -> Support | None:
    s = e.signals
    if s is None or not s.always_still or not s.still:
        return None
    if e.point.gradient_norm > 0 and len(s.always_still) < 2:
        return None
    gains = [o.gain for o in e.arms.values() if math.isfinite(o.gain)]
    if e.level > 0 and any(g > MATTERS * e.level for g in gains):
        return None
    whole = e.point.gradient_norm == 0.0 or s.still_share > 0.5
    told = f"the gradient of {_names(s.always_still)} is zero for every sample, also at nudged and at random parameters"
    return Support(Cause.ZERO_GRADIENT_PATH, 0.97 if whole else 0.6, (told,))


def _dead(e: Evidence) -> Support | None:
    if e.signals is None or not e.signals.layers or _learned(e):
        return None
    worst = max(e.signals.layers, key=lambda layer: layer.dead)
    told = f"{worst.dead:.0%} of the {worst.units} units of {worst.name} pass no gradient back for any sample"
    if worst.saturated >= 0.6:  # so flat that not a bit of gradient is left
        return Support(Cause.DEAD_UNITS, 0.6, (told,)) if worst.dead >= 0.5 else None
    if worst.dead >= 0.95:
        alive = (
            0.9 if _learning(e) else 1.0
        )  # such as a branch that a residual network does without
        return Support(Cause.DEAD_UNITS, min(alive, 0.97 if worst.dead == 1 else 0.95), (told,))
    silent = e.signals.still_share
    if silent > 0.8 and worst.dead >= 0.3:
        more = f"{silent:.0%} of the parameters have no gradient for any sample, also when nudged"
        return Support(Cause.DEAD_UNITS, 0.95, (told, more))
    return (
        Support(Cause.DEAD_UNITS, 0.45, (told,)) if worst.dead >= 0.5 and not _learning(e) else None
    )


def _saturated(e: Evidence) -> Support | None:
    if e.signals is None or _learned(e):
        return None
    last = e.signals.output_saturated
    if last >= 0.9 and e.stuck > 0.3 and not _learning(e):
        told = f"{last:.0%} of the outputs sit where the last activation is flat"
        return Support(Cause.SATURATED_UNITS, 0.96, (told,))
    layers = e.signals.layers
    if not layers:
        return None
    mean = sum(layer.saturated for layer in layers) / len(layers)
    worst = max(layers, key=lambda layer: layer.saturated)
    if worst.saturated < 0.6 or (mean < 0.8 and _learning(e)):
        return None
    told = f"{worst.saturated:.0%} of the outputs of {worst.name} sit where the activation behind it is flat"
    if mean < 0.8:
        return Support(Cause.SATURATED_UNITS, 0.5 + 0.35 * mean, (told,))
    return Support(
        Cause.SATURATED_UNITS, 0.96, (told, f"{mean:.0%} in the mean of all hidden layers")
    )


def _vanishing(e: Evidence) -> Support | None:
    if e.signals is None or _learning(e):
        return None
    steps = e.signals.through_time
    if steps is not None and steps < 1e-4 and e.stuck > 0.8:
        told = f"on its way back through the sequence the gradient shrinks to {number(steps)} of what it is where it is largest"
        return Support(Cause.VANISHING_GRADIENT, 0.88, (told,))
    ratio = e.signals.shrinkage
    if ratio is None or any(layer.dead >= 0.95 for layer in e.signals.layers):
        return None
    if not 0 < ratio < 3e-3:
        return None
    told = f"on its way back the gradient shrinks to {number(ratio)} of what it is at the output, unit for unit"
    return Support(Cause.VANISHING_GRADIENT, 0.9 if ratio < 1e-3 else 0.6, (told,))


def _symmetric(e: Evidence) -> Support | None:
    if e.signals is None or not e.signals.layers or _learned(e):
        return None
    worst = max(e.signals.layers, key=lambda layer: layer.copies)
    if worst.copies < 0.9 or worst.dead >= 0.95:
        return None
    told = f"{worst.copies:.0%} of the {worst.units} units of {worst.name} are copies of another on every sample"
    throughout = min(layer.copies for layer in e.signals.layers) > 0.99
    return Support(Cause.SYMMETRIC_UNITS, 0.97 if throughout else 0.85, (told,))


def _inputs(e: Evidence) -> Support | None:
    s = e.signals
    if s is None or s.input_size is None or _learning(e):
        return None
    size = s.input_size
    if not 0.02 < size < 20 and size != 0:
        told = f"inputs have the size {number(size)} (root mean square); layers are initialized for about 1"
        return Support(Cause.UNSCALED_INPUTS, 0.8 if not 0.005 < size < 50 else 0.6, (told,))
    if s.input_spread is not None and s.input_spread > SPREAD:
        told = f"the largest deviations of features are {number(s.input_spread)} times the smallest"
        return Support(Cause.UNSCALED_INPUTS, 0.7, (told,))
    if s.input_offset is not None and s.input_offset > OFFSET:
        told = (
            f"features lie {number(s.input_offset)} of their standard deviations from zero (median)"
        )
        return Support(Cause.UNSCALED_INPUTS, 0.6, (told,))
    return None


def _targets(e: Evidence) -> Support | None:
    s = e.signals
    if s is None or s.target_size is None or s.output_size is None or _learning(e):
        return None
    if s.target_size < 20 or s.output_size > s.target_size / 3:
        return None
    told = f"targets have the size {number(s.target_size)}, outputs {number(s.output_size)}: at this rate they do not get there"
    return Support(Cause.UNSCALED_TARGETS, 0.85, (told,))


def _mismatch(e: Evidence) -> Support | None:
    """Outputs that the model cannot give are held against the loss: how much of the way is cut off by that alone?"""
    s = e.signals
    if s is None or _learning(e):
        return None
    reach = s.reach
    if reach is None or reach.floor is None or reach.free is None or e.level <= 0:
        return None
    free = max(reach.free, e.bound)  # a loss may fall further for outputs that mean nothing
    cut = (reach.floor - free) / max(e.level, e.loss - free)
    if cut < CUT:
        return None
    kind = (
        "are shares that sum to one"
        if reach.shares
        else f"lie between {number(reach.low)} and {number(reach.high)}"
    )
    told = (
        f"whatever the parameters, outputs {kind}: with those the loss cannot fall below {number(reach.floor)}, with any "
        f"outputs it reaches {number(free)}"
    )
    return Support(Cause.LOSS_OUTPUT_MISMATCH, 0.92 if cut > 2 * CUT else 0.85, (told,))


def _too_large(e: Evidence) -> Support | None:
    reasons: list[str] = []
    strength = 0.0
    course, steps = e.course, e.steps
    smaller, same = e.gain("rate ÷ 10"), e.gain("continue")
    sharp = None if steps is None else steps.sharpness
    if course is not None and course.blew_up:
        if course.highest > SPIKE * max(course.first, course.lowest) > 0:
            strength = 0.97
            reasons.append(f"before that it had risen to {number(course.highest)}")
        elif sharp is not None and sharp > 0.9:
            strength = 0.95
        elif smaller is not None and math.isfinite(smaller) and (same is None or smaller > same):
            strength = 0.85
        if strength:
            reasons.append(f"the loss is not finite from update {course.finite + 1:,} on")
    if sharp is not None and sharp > 1 and not _learning(e):
        reasons.append(f"the rate times λmax is {number(sharp)} of what a plain step bears")
        full = e.steps is not None and e.arms.get("batch × 16") is None
        strength = max(strength, 0.75 if full else 0.4)
    if (
        smaller is not None
        and same is not None
        and smaller - same > 2 * MATTERS
        and not _learning(e)
    ):
        reasons.append(
            f"with a tenth of the rate a copy gained {_gained(smaller)}, unchanged {_gained(same)}"
        )
        strength = max(strength, 0.75)
    held = _settles(e, "rate ÷ 10")
    if held is not None and held > 2 * MATTERS and not _learning(e) and strength < 0.75:
        reasons.append(
            f"with a tenth of the rate the batch losses settle lower, by {_gained(held)}"
        )
        strength = 0.75
    if (
        course is not None
        and not course.blew_up
        and course.highest > SPIKE * course.first > 0
        and not _learned(e)
    ):
        strength = max(strength, 0.9)
        reasons.append(
            f"the loss once rose from {number(course.first)} to {number(course.highest)}"
        )
    if course is not None and course.lowest > 0 and course.last > 2 * course.first and not strength:
        strength = 0.5
        reasons.append(f"the loss rose from {number(course.first)} to {number(course.last)}")
    return Support(Cause.LEARNING_RATE_TOO_LARGE, strength, tuple(reasons)) if strength else None


def _too_small(e: Evidence) -> Support | None:
    if _learning(e):
        return None
    same = e.gain("continue")
    ten, hundred = e.gain("rate × 10"), e.gain("rate × 100")
    gains = [g for g in (ten, hundred) if g is not None and math.isfinite(g)]
    if same is None or not gains or not math.isfinite(same):
        return None
    best = max(gains)
    if in_step(e.arms):
        thousand = e.gain("rate × 1000")
        if thousand is not None and math.isfinite(thousand):
            best = max(best, thousand)
        if best > MATTERS / 10:
            told = (
                f"gains grow with the rate: unchanged {_gained(same)}, at ten times the rate {ten:.2%}, at a "
                f"hundred {hundred:.2%}, at most {best:.1%}"
            )
            return Support(Cause.LEARNING_RATE_TOO_SMALL, 0.85 if best > MATTERS else 0.75, (told,))
    if best < MATTERS or best < 4 * max(same, 0.0):
        return None
    if ten is not None and not math.isfinite(ten):
        return None
    told = f"with a higher rate a copy gained {_gained(best)}, unchanged {_gained(same)}"
    return Support(Cause.LEARNING_RATE_TOO_SMALL, 0.85 if best > 3 * MATTERS else 0.6, (told,))


def _schedule(e: Evidence) -> Support | None:
    steps, restored, same = e.steps, e.gain("highest rate"), e.gain("continue")
    if steps is None or restored is None or same is None or _learning(e):
        return None
    if steps.rate > 0.05 * steps.highest_rate or not _ahead(restored, same):
        return None
    told = (
        f"the rate fell to {number(steps.rate / steps.highest_rate)} of {number(steps.highest_rate)}; with that a copy gained "
        f"{_gained(restored)}, unchanged {_gained(same)}"
    )
    return Support(Cause.SCHEDULE_EXHAUSTED, 0.93, (told,))


def _clipping(e: Evidence) -> Support | None:
    free, same = e.gain("no clipping"), e.gain("continue")
    if free is None or same is None or not _ahead(free, same) or _learning(e):
        return None
    told = f"without clipping a copy gained {_gained(free)}, with it {_gained(same)}"
    return Support(Cause.GRADIENT_CLIPPING, 0.93, (told,))


def _valley(e: Evidence) -> Support | None:
    """On all samples, at a rate near the most that the sharpest direction bears, while momentum does far better."""
    momentum, same, ten = (e.arms.get(arm) for arm in ("momentum", "continue", "rate × 10"))
    left = e.loss - e.bound
    if momentum is None or same is None or ten is None or "batch × 16" in e.arms or left <= 0:
        return None
    if e.steps is None or e.steps.sharpness is None or e.steps.sharpness < 0.1:
        return None
    if left < 1e-6 * e.level or (e.course is not None and e.course.updates < EARLY):
        return None
    if momentum.gain < 4 * max(same.gain, 0.0):
        return None
    if math.isfinite(ten.gain) and ten.gain > 0.5 * momentum.gain:
        return None  # a higher rate does as well: the rate is what is wrong
    if momentum.gain < PACE * left:
        slow = same.gain > 1e-6 * left and e.steps.momentum == 0 and not _learning(e)
        if not slow or momentum.gain < 3e-4 * left:
            return None
        told = (
            f"going on unchanged lowers the loss by {same.gain / left:.2%} of what is left, momentum "
            f"{momentum.gain / same.gain:.2g} times as fast, and ten times the rate does not: the rate is "
            f"{number(e.steps.sharpness)} of what the sharpest direction bears"
        )
        return Support(Cause.ILL_CONDITIONED_VALLEY, 0.75, (told,))
    told = (
        f"momentum lowered the loss by {momentum.gain / left:.0%} of what is left, going on unchanged by "
        f"{same.gain / left:.1%}, and ten times the rate did not; the rate is {number(e.steps.sharpness)} of what the "
        "sharpest direction bears"
    )
    # where nearly all is learned, a long valley is how training ends
    return Support(Cause.ILL_CONDITIONED_VALLEY, 0.96 if e.stuck > 0.05 else 0.9, (told,))


def _noise(e: Evidence) -> Support | None:
    large, same, smaller = e.gain("batch × 16"), e.gain("continue"), e.gain("rate ÷ 10")
    if large is None or same is None or not math.isfinite(large - same) or _learning(e):
        return None
    if large - same < 2 * MATTERS or large < MATTERS:
        return None
    told = (
        f"with batches 16 times as large a copy gained {_gained(large)}, unchanged {_gained(same)}"
    )
    sure = smaller is not None and smaller > same
    here, lower = _settles(e, "batch × 16"), _settles(e, "rate ÷ 10")
    several = e.steps is not None and e.steps.batch_size >= FEW
    if several and here is not None and lower is not None and lower > ALONE * here:
        return Support(Cause.GRADIENT_NOISE_FLOOR, 0.45, (told,))
    strength = (0.94 if large - same > 4 * MATTERS else 0.85) if sure else 0.6
    return Support(Cause.GRADIENT_NOISE_FLOOR, strength, (told,))


def _regularized(e: Evidence) -> Support | None:
    if e.steps is None or not (e.steps.coupled or e.steps.decoupled) or _learning(e):
        return None
    alone, both = e.without_decay, e.point
    free = e.arms.get("no decay")
    shrunk = _shrunk(e)
    if shrunk > SHRINKS and e.stuck > 0.5:
        told = f"over the run weight decay by itself shrinks every weight by e^−{number(shrunk, 2)}"
        return Support(Cause.OVER_REGULARIZED, 0.86, (told,))
    if free is not None and e.level > 0 and free.data_gain > 3 * MATTERS * e.level:
        same = e.arms["continue"].data_gain if "continue" in e.arms else 0.0
        if free.data_gain > 2 * max(same, 0.0):
            told = f"without weight decay a copy lowered the loss of the data by {number(free.data_gain)}, with it by {number(same)}"
            return Support(Cause.OVER_REGULARIZED, 0.9, (told,))
    if alone is None or both.kind in (Kind.SADDLE, Kind.MAXIMUM):
        return None
    pays = max(alone.curvature_decrease, alone.slope_decrease)
    held = max(both.curvature_decrease, both.slope_decrease)
    if pays > 3 * MATTERS * e.level and pays > 3 * held:
        told = (
            f"the loss of the data alone could fall by {number(pays)} in one step from here; with weight decay by "
            f"{number(held)}"
        )
        return Support(Cause.OVER_REGULARIZED, 0.9, (told,))
    return None


def _shrunk(e: Evidence) -> float:
    """Updates · rate · decay: the power of e by which decay alone shrinks weights; 0 where decay is rescaled with the step."""
    steps, course = e.steps, e.course
    if steps is None or course is None or (steps.adaptive and not steps.decoupled):
        return 0.0
    speed = steps.decoupled or steps.coupled / (1 - min(steps.momentum, 0.99))
    return course.updates * steps.rate * speed


def _saddle(e: Evidence) -> Support | None:
    p = e.point
    if _learning(e):
        return None
    if p.kind in (Kind.SADDLE, Kind.MAXIMUM):
        return Support(Cause.STRICT_SADDLE, 0.6 if _pays_nothing(e) else 0.95, (p.proof,))
    gains = [g for g in map(e.gain, e.arms) if g is not None and math.isfinite(g)]
    pays = p.curvature_decrease / e.level if e.level > 0 else 0.0
    if (
        not gains
        or pays < MATTERS
        or max(gains) > pays / 4
        or p.slope_decrease > p.curvature_decrease / 2
    ):
        return None
    told = (
        f"beside a saddle: a step along negative curvature lowers the loss by {number(p.curvature_decrease)}, one along the "
        f"slope by {number(p.slope_decrease)}, and nothing that was tried with the optimizer by more than "
        f"{number(max(gains) * e.level)}"
    )
    return Support(Cause.STRICT_SADDLE, 0.7, (told,))


def _degenerate(e: Evidence) -> Support | None:
    p = e.point
    if _learning(e):
        return None
    if p.kind == Kind.SADDLE and _pays_nothing(e):
        told = (
            f"negative curvature is proved, but so small that following it lowers the loss by {number(p.curvature_decrease)}: "
            "second order does not lead away from here"
        )
        return Support(Cause.DEGENERATE_POINT, 0.9, (told,))
    if p.kind != Kind.DEGENERATE or p.escape_direction is None:
        return None
    return Support(Cause.DEGENERATE_POINT, 0.9, (p.proof,))


def _pays_nothing(e: Evidence) -> bool:
    """Whether a saddle's negative curvature is one of rounding: following it gains nothing to speak of."""
    return e.level > 0 and e.point.curvature_decrease < NOTHING * e.level


def _minimum(e: Evidence) -> Support | None:
    """Restarts would tell a floor of the model from a local minimum; the gains of the arms bound what is left here."""
    p = e.point
    flat = p.kind == Kind.DEGENERATE and p.escape_direction is None
    open_ = p.kind == Kind.UNDECIDED and p.escape_direction is None
    if p.kind != Kind.MINIMUM and not flat and not open_:
        gains = [g for g in map(e.gain, e.arms) if g is not None and math.isfinite(g)]
        best = max(
            [
                *gains,
                p.slope_decrease / e.level if e.level > 0 else 0.0,
                p.curvature_decrease / e.level if e.level > 0 else 0.0,
            ],
            default=1.0,
        )
        if best >= MATTERS or not gains or (e.course is not None and e.course.updates < EARLY):
            return None
        told = f"nothing that was tried from here gained more than {_gained(best)}"
        return Support(Cause.MODEL_FLOOR, 0.55 if best < MATTERS / 4 else 0.5, (told,))
    strength = 0.8 if p.kind == Kind.MINIMUM else 0.6 if flat else 0.4
    if e.restarts is None:
        return Support(Cause.LOCAL_MINIMUM, strength, (p.proof, "restarts not tried"))
    told = f"the lowest of several restarts reached {number(e.restarts)}, this point has {number(e.loss)}"
    if e.loss - e.restarts > MATTERS * e.level:
        return Support(Cause.LOCAL_MINIMUM, strength + 0.1, (p.proof, told))
    return Support(Cause.MODEL_FLOOR, strength + 0.1, (p.proof, told))


def _learning(e: Evidence) -> bool:
    """Whether the loss is on its way, or the task is learned: what else is seen is then no stall."""
    told = _progressing(e)
    return told is not None and told.strength >= 0.9


def _learned(e: Evidence) -> bool:
    """Whether the task is learned."""
    return e.level_known and e.stuck < LEARNED


def _ahead(changed: float, same: float) -> bool:
    """Whether a change gained more by what matters; of two copies that blew up none did."""
    return math.isfinite(changed) and changed - same >= MATTERS


def _gained(share: float) -> str:
    """A part of the whole way, for people."""
    if not math.isfinite(share):
        return "it blew up"
    if abs(share) > TOLD:
        return f"{number(share, 2)} times the whole way"
    return f"{share:.1%} of the whole way".replace("-", "−")


def _settles(e: Evidence, arm: str) -> float | None:
    """How much lower an arm's batch losses end than those of going on, as a part of the level."""
    one, same = e.arms.get(arm), e.arms.get("continue")
    if one is None or same is None or e.level <= 0:
        return None
    gap = (same.settled - one.settled) / e.level
    return gap if math.isfinite(gap) else None


def _names(names: tuple[str, ...]) -> str:
    more = len(names) - 3
    return ", ".join(names[:3]) + (f" and {more} more" if more > 0 else "")


def _open(e: Evidence) -> str:
    if e.missing:
        return f"no rule fits what was measured; {e.missing[0]}"
    return "no rule fits what was measured; a longer history, or more budget, would tell more"


RULES: tuple[Rule, ...] = (
    _progressing,
    _non_finite,
    _zero_path,
    _mismatch,
    _dead,
    _saturated,
    _vanishing,
    _symmetric,
    _inputs,
    _targets,
    _too_large,
    _schedule,
    _clipping,
    _too_small,
    _regularized,
    _valley,
    _noise,
    _saddle,
    _degenerate,
    _minimum,
)
"""In no order: the ranking is by strength, and by what explains what."""
