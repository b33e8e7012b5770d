"""The chord test in one dimension: a convex function lies nowhere above a line between two of its points.

Answers: what does the definition of convexity look like, and by how much does a function break it?
Does not answer: whether a function is convex everywhere; finitely many chords can only show that it is not.

For w²/2 the middle of a chord over [a, b] lies (b − a)²/8 above the curve. For w⁴/4 − w²/2 the curve exceeds the chord
over [−1, 1] by 1/4 in the middle, and no chord by more.
"""

import torch
from torch import Tensor

from unstick.critical.curvature import Progress
from unstick.problem.problem import Problem
from unstick.studies.toys.measuring import Draft, cut, spot
from unstick.studies.toys.toy import Check, Chord

__all__ = ["measure"]

ENDS = (-1.6, 1.6)
POINTS = 129  # on each curve; every pair of them is an end of a chord
BOWL = (-1.2, 0.8)  # ends of the chord that is drawn over the bowl


def measure(draft: Draft, seed: int, progress: Progress) -> list[Check]:
    """A bowl and a double well, each with the worst of all its chords."""
    w = torch.linspace(*ENDS, POINTS, dtype=torch.float64)
    bowl = Problem.from_function(_bowl, torch.zeros(1, dtype=torch.float64))
    wells = Problem.from_function(_wells, torch.zeros(1, dtype=torch.float64))
    draft.problems += [bowl, wells]
    progress("chords", 0, 2)
    low = spot(bowl, "the minimum", (0.0,), seed=seed)
    drawn = chord(bowl, *BOWL)
    bowl_worst, _ = worst_chord(w, bowl.values(w.unsqueeze(1)))
    draft.cuts.append(cut(bowl, "convex", w, x_name="w", spots=[low], chords=[drawn]))
    progress("chords", 1, 2)
    places = (("a minimum", -1.0), ("a maximum", 0.0), ("another minimum", 1.0))
    found = [spot(wells, name, (at,), seed=seed) for name, at in places]
    wells_worst, ends = worst_chord(w, wells.values(w.unsqueeze(1)))
    broken = chord(wells, *ends)
    draft.cuts.append(cut(wells, "not convex", w, x_name="w", spots=found, chords=[broken]))
    height = float((drawn.chord - drawn.losses).max())
    return [
        Check("bowl: worst excess of the curve over any chord", bowl_worst, -(float(w[1] - w[0]) ** 2) / 2, "−h²/2 for points h apart: below 0, convex"),
        Check("bowl: height of the chord drawn over the curve", height, (BOWL[1] - BOWL[0]) ** 2 / 8, "(b − a)²/8, in the middle"),
        Check("wells: worst excess of the curve over any chord", wells_worst, 0.25, "1/4, over [−1, 1]"),
    ]  # fmt: skip


def chord(problem: Problem, a: float, b: float) -> Chord:
    """The chord between two points of the curve, and the curve below or above it."""
    x = torch.linspace(a, b, 61, dtype=torch.float64)
    losses = problem.values(x.unsqueeze(1))
    straight = losses[0] + (x - a) / (b - a) * (losses[-1] - losses[0])
    excess = max(0.0, float((losses - straight)[1:-1].max()))
    return Chord(x[[0, -1]], x, straight, losses, excess)


def worst_chord(x: Tensor, losses: Tensor) -> tuple[float, tuple[float, float]]:
    """The largest excess of points of a curve over the chords between any two others, and that chord's ends.

    Args:
        x: Coordinates [k], equally far apart, ascending.
        losses: Heights [k].

    Example:
        >>> x = torch.tensor([-1.0, 0.0, 1.0])
        >>> worst_chord(x, -(x**2))
        (1.0, (-1.0, 1.0))
    """
    at = torch.arange(len(x))
    a, b, c = at[:, None, None], at[None, :, None], at[None, None, :]  # ends, and the point between
    part = (c - a) / (b - a).clamp_min(1)
    excess = losses[c] - torch.lerp(losses[a], losses[b], part.to(losses))
    excess = excess.masked_fill(~((a < c) & (c < b)), -torch.inf)
    first, last, _ = torch.unravel_index(excess.argmax(), excess.shape)
    return float(excess.max()), (float(x[first]), float(x[last]))


def _bowl(w: Tensor) -> Tensor:
    return w[0] ** 2 / 2


def _wells(w: Tensor) -> Tensor:
    return w[0] ** 4 / 4 - w[0] ** 2 / 2
