"""What a toy surface consists of: everything measured on it, in two dimensions or one.

Answers: which points, paths, models and chords of a small loss surface were measured, and how do they compare with
closed forms?
Does not answer: how networks with millions of parameters behave; a toy shows a mechanism, not how often it occurs.
"""

from dataclasses import dataclass

from torch import Tensor

from unstick.critical.escaping import Escape
from unstick.critical.point import Point
from unstick.landscape.plane import Plane
from unstick.problem.cost import Cost
from unstick.record import Fact, Record, number

__all__ = ["Check", "Chord", "Cut", "Ground", "Spot", "Taylor", "Toy", "Trail"]


@dataclass(frozen=True, slots=True, eq=False)
class Spot:
    """A point of a surface with its verdict and the axes of its curvature."""

    name: str
    at: Tensor  # [n] float64
    point: Point
    axes: Tensor  # [n, n] unit eigenvectors in columns, in the order of ``point.eigenvalues``


@dataclass(frozen=True, slots=True, eq=False)
class Trail:
    """Where something went, or a set of points, and the losses measured there."""

    name: str
    steps: Tensor  # [k] int64 ascending: the steps that were kept
    points: Tensor  # [k, n] float64
    losses: Tensor  # [k] float64
    lr: float | None  # the rate that it went at; None: no optimizer went here
    tried: tuple[float, ...]  # the rates that the fastest was taken from
    reached: (
        int | None
    )  # steps until the loss was at the goal and stayed there; None: not reached, or no goal
    moves: bool = True  # False: a set of points, such as all minima


@dataclass(frozen=True, slots=True, eq=False)
class Taylor:
    """The model of second order at a point: f + gᵀd + ½ dᵀHd, from a measured value, gradient and Hessian."""

    name: str
    at: Tensor  # [2]
    value: float
    gradient: Tensor  # [2]
    hessian: Tensor  # [2, 2]
    x: Tensor  # [kx] coordinates of the patch drawn
    y: Tensor  # [ky]
    losses: Tensor  # [ky, kx] of the model
    distances: Tensor  # [m] from the point
    errors: Tensor  # [m] largest |loss − model| at that distance, over all directions looked in
    order: float  # power of the distance that the smallest errors grow with; nan where they are rounding


@dataclass(frozen=True, slots=True, eq=False)
class Ground:
    """A surface over two parameters with what was measured on it."""

    name: str
    plane: Plane
    spots: tuple[Spot, ...]
    paths: tuple[Trail, ...]
    taylors: tuple[Taylor, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Chord:
    """A straight line between two points of a curve: a convex function lies nowhere above it."""

    ends: Tensor  # [2] coordinates
    x: Tensor  # [k] from one end to the other
    chord: Tensor  # [k] heights of the straight line
    losses: Tensor  # [k] measured
    violation: float  # largest excess of the curve over the chord; 0.0 where there is none


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """A loss over one parameter."""

    name: str
    x_name: str
    x: Tensor  # [k] float64
    losses: Tensor  # [k] float64
    spots: tuple[Spot, ...]
    chords: tuple[Chord, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Check:
    """A number as measured, beside its closed form."""

    name: str
    measured: float
    expected: float | None  # None: there is no closed form
    formula: str  # the closed form, or how it was measured


@dataclass(frozen=True, slots=True, eq=False)
class Toy(Record):
    """A small surface, and everything that was measured on it."""

    name: str
    title: str
    lesson: str  # what it shows, in a sentence or two
    grounds: tuple[Ground, ...]
    cuts: tuple[Cut, ...]
    escape: Escape | None
    checks: tuple[Check, ...]
    goal: str  # when a path counts as arrived; empty without one
    seed: int
    notes: tuple[str, ...]
    outcome: str  # "complete" or "interrupted"
    cost: Cost

    def headline(self) -> str:
        """What it shows."""
        partial = "" if self.outcome == "complete" else " (interrupted: what was measured so far)"
        return self.title + partial

    def facts(self) -> list[Fact]:
        """Points, paths and checks."""
        facts = [("toy", self.name), ("shows", self.lesson)]
        facts += [(spot.name, _spot_told(spot)) for ground in self.grounds for spot in ground.spots]
        facts += [
            (f"{spot.name} ({cut.name})", _spot_told(spot))
            for cut in self.cuts
            for spot in cut.spots
        ]
        if self.escape is not None:
            facts.append(("escape", self.escape.headline()))
        for ground in self.grounds:
            where = f" ({ground.name})" if len(self.grounds) > 1 else ""
            facts += [
                (f"{path.name}{where}", _path_told(path, self.goal))
                for path in ground.paths
                if path.lr is not None
            ]
        facts += [(check.name, _check_told(check)) for check in self.checks]
        facts += [("note", note) for note in self.notes]
        return [*facts, ("cost", str(self.cost))]


def _spot_told(spot: Spot) -> str:
    curvatures = ", ".join(number(value) for value in spot.point.eigenvalues.tolist())
    return f"{spot.point.kind}, loss {number(spot.point.loss)}, eigenvalues {curvatures}"


def _path_told(path: Trail, goal: str) -> str:
    last = int(path.steps[-1])
    end = f"loss {number(float(path.losses[0]))} to {number(float(path.losses[-1]))}"
    if not goal:
        return f"rate {number(path.lr)}: {end}"
    arrived = (
        f", not arrived after {last:,} steps"
        if path.reached is None
        else f", arrived after {path.reached:,}"
    )
    return f"rate {number(path.lr)}: {end}{arrived}"


def _check_told(check: Check) -> str:
    beside = "" if check.expected is None else f", closed form {number(check.expected)}"
    return f"{number(check.measured)}{beside} ({check.formula})"
