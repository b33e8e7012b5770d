"""The toys by name.

Answers: which toy surfaces are there, and how is one measured?
Does not answer: how they look; the report draws them.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from unstick.critical.curvature import Progress
from unstick.errors import BadData
from unstick.problem.cost import NOTHING
from unstick.record import number
from unstick.studies.toys import (
    convexity,
    feature_scaling,
    opened_minimum,
    ravine,
    saddle_and_minimum,
    two_weights,
)
from unstick.studies.toys.measuring import Draft, nothing_to_tell
from unstick.studies.toys.toy import Check, Toy

__all__ = ["TOYS", "make_toy"]


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a toy's name means."""

    about: str  # one line
    lesson: str
    measure: Callable[[Draft, int, Progress], list[Check]]
    goal: str = ""


_KINDS: Final[Mapping[str, _Kind]] = {
    "two-weights": _Kind(
        "The smallest network has a saddle, and minima along a hyperbola",
        "y = w₁w₂x with the target 1 at x = 1. Gradient descent that starts on the saddle stays there; it leaves from a "
        "thousandth beside it, and the direction of negative curvature leads out at once.",
        two_weights.measure,
        "a loss of 10⁻⁶",
    ),
    "saddle-and-minimum": _Kind(
        "Close to a point, slope and curvature are all there is to know",
        "The model of second order has the value, the slope and the curvature of the loss at one point. Its error grows "
        "with the third power of the distance.",
        saddle_and_minimum.measure,
    ),
    "ravine": _Kind(
        "Five optimizers in a ravine, along an axis and across both",
        "The loss curves a hundred times as much across as along. To gradient descent and momentum it is all one how the "
        "ravine lies; what a rate for each parameter gains depends on it.",
        ravine.measure,
        "a thousandth of the loss at the start",
    ),
    "feature-scaling": _Kind(
        "Features of one scale turn a ravine into a bowl",
        "The same linear regression on the same data, its second feature a hundred times as large as the first, and both "
        "standardized. Both descents begin with the same predictor.",
        feature_scaling.measure,
        "a fiftieth of the excess loss at the start",
    ),
    "opened-minimum": _Kind(
        "What one dimension holds for a minimum, a second opens into a saddle",
        "Along x there are walls on both sides. Along y the loss curves downward, and past the wall lies a lower minimum.",
        opened_minimum.measure,
    ),
    "convex-and-nonconvex": _Kind(
        "A convex function lies under its chords; one that is not exceeds some",
        "Every pair of points of a curve is joined by a chord. One chord that the curve exceeds proves that it is not convex.",
        convexity.measure,
    ),
}

TOYS: Final[Mapping[str, str]] = {name: kind.about for name, kind in _KINDS.items()}
"""One line about each toy, by name."""


def make_toy(name: str, *, seed: int = 0, progress: Progress | None = None) -> Toy:
    """Measure a toy surface: its points, the paths over it, and what theory says about them.

    Args:
        name: One of ``TOYS``.
        seed: Seed of data, of starts, and of everything random in verdicts.
        progress: Called with (stage, done, total).

    Returns:
        The toy. On Ctrl-C what was measured until then, with ``outcome`` "interrupted".

    Raises:
        BadData: There is no such toy.

    Cost:
        One to four seconds on one core.

    Example:
        >>> toy = make_toy("two-weights")
        >>> [(spot.name, str(spot.point.kind)) for spot in toy.grounds[0].spots][:2]
        [('(0, 0)', 'saddle'), ('(1, 1)', 'minimum')]
    """
    if name not in _KINDS:
        raise BadData(f"there is no toy {name!r}; expected one of {', '.join(_KINDS)}")
    begin, kind, draft = time.perf_counter(), _KINDS[name], Draft()
    checks: list[Check] = []
    outcome = "complete"
    try:
        checks = kind.measure(draft, seed, progress or nothing_to_tell)
    except KeyboardInterrupt:
        outcome = "interrupted"
    cost = sum((problem.spent for problem in draft.problems), NOTHING)
    return Toy(
        name=name,
        title=kind.about,
        lesson=kind.lesson,
        grounds=tuple(land.ground() for land in draft.lands),
        cuts=tuple(draft.cuts),
        escape=draft.escape,
        checks=tuple(checks),
        goal=kind.goal,
        seed=seed,
        notes=tuple(_edges(draft)),
        outcome=outcome,
        cost=replace(cost, seconds=time.perf_counter() - begin),
    )


def _edges(draft: Draft) -> Iterator[str]:
    """Rates that won at an end of what was tried: another may be faster still."""
    for land in draft.lands:
        for path in land.paths:
            if path.lr is not None and path.tried and path.lr in (path.tried[0], path.tried[-1]):
                which = "smallest" if path.lr == path.tried[0] else "largest"
                yield (
                    f"{path.name} ({land.name}): {number(path.lr)} is the {which} rate tried; another may be faster"
                )
