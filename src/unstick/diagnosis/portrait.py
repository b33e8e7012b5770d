"""The pictures of a point: density, lines, plane and layers, computed on their own budget.

Answers: what does a reader want to see beside the verdict?
Does not answer: the verdict; nothing here feeds back into it.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from unstick.critical.curvature import Progress, spectral_density
from unstick.critical.escaping import Escape
from unstick.critical.point import Point
from unstick.critical.probing import search
from unstick.critical.taylor import Profile, profile
from unstick.landscape.plane import Plane, scan
from unstick.problem.cost import Cost
from unstick.problem.problem import Problem
from unstick.record import Fact, Record
from unstick.spectrum.density import Density

__all__ = ["Layer", "Portrait", "paint"]

PICTURE_SAMPLES = 2048
SECONDS = (
    12.0  # about, for the plane, and as much for the density; both get coarser on larger problems
)
LINE = 41  # points of a line
PLANE = (9, 31)  # fewest and most points of a side of the plane
STARTS, STEPS = 6, 40


@dataclass(frozen=True, slots=True)
class Layer:
    """One parameter tensor's part in gradient, noise and escape."""

    name: str
    shape: tuple[int, ...]
    gradient_norm: float
    gradient_standard_error: float | None
    escape_share: float | None  # fraction of ‖direction‖² in this tensor; None without a direction


@dataclass(frozen=True, slots=True, eq=False)
class Portrait(Record):
    """What there is to look at; a picture that was not finished is ``None``."""

    density: Density | None
    lines: tuple[Profile, ...]  # the escape direction or the flattest eigenvector, and −g
    plane: Plane | None
    layers: tuple[Layer, ...]
    samples: int  # the pictures are of so many samples …
    of_samples: int  # … of so many; 0 when the problem has no data
    notes: tuple[str, ...]
    outcome: str  # "complete" or "interrupted"
    cost: Cost  # in full-data gradients

    def headline(self) -> str:
        """How much of the data the pictures show."""
        if self.of_samples == 0:
            return "Pictures of the function."
        return f"Pictures of {self.samples:,} of {self.of_samples:,} samples."

    def facts(self) -> list[Fact]:
        """Which pictures there are, and their cost."""
        drawn = [line.name for line in self.lines]
        drawn += ["plane"] if self.plane is not None else []
        drawn += ["density"] if self.density is not None else []
        return [
            ("pictures", ", ".join(drawn) or "none"),
            ("outcome", self.outcome),
            ("cost", str(self.cost)),
        ]


@dataclass(slots=True)
class _Canvas:
    layers: tuple[Layer, ...] = ()
    lines: list[Profile] = field(default_factory=list[Profile])
    plane: Plane | None = None
    density: Density | None = None
    notes: list[str] = field(default_factory=list[str])
    outcome: str = "complete"


def paint(
    problem: Problem,
    point: Point,
    escape: Escape | None,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> Portrait:
    """Compute what the report shows, at the model's current parameters.

    Args:
        problem: What is minimized, at the classified point.
        point: The verdict.
        escape: The escape that was tried, if any; its direction is preferred.
        seed: Seed of the subset, the density's starts and, where no second direction exists, a random one.
        progress: Called with (stage, done, total).

    Returns:
        The portrait; on Ctrl-C the pictures finished so far.

    Cost:
        About 25 s on two cores, less on small problems: at most 2,048 samples are used.
    """
    canvas = _Canvas()
    part = (
        problem
        if problem.samples <= PICTURE_SAMPLES
        else problem.subset(PICTURE_SAMPLES, seed=seed)
    )
    before, before_part = problem.spent, part.spent
    try:
        gradient = problem.gradient()
        canvas.layers = _layers(problem, gradient, point, escape, seed)
        seconds = (
            problem.price(1 / 3) * part.samples / max(1, problem.samples)
            if problem.samples
            else problem.price(1 / 3)
        )
        _draw(canvas, part, point, escape, gradient, seed, seconds, progress)
    except KeyboardInterrupt:
        canvas.outcome = "interrupted"
    cost = problem.spent - before
    if part is not problem:
        cost = cost + (part.spent - before_part)
    return Portrait(
        density=canvas.density,
        lines=tuple(canvas.lines),
        plane=canvas.plane,
        layers=canvas.layers,
        samples=part.samples,
        of_samples=problem.samples,
        notes=tuple(canvas.notes),
        outcome=canvas.outcome,
        cost=cost,
    )


def _layers(
    problem: Problem, gradient: Tensor, point: Point, escape: Escape | None, seed: int
) -> tuple[Layer, ...]:
    layout = problem.layout
    norms = layout.sums(gradient.double() ** 2)
    noise = problem.gradient_noise(gradient=gradient, seed=seed)
    direction = _out(point, escape)
    shares = None if direction is None else layout.sums(direction.double() ** 2)
    return tuple(
        Layer(
            name=name,
            shape=tuple(shape),
            gradient_norm=math.sqrt(norms[name]),
            gradient_standard_error=None if noise is None else noise.gradient_standard_error(name),
            escape_share=None if shares is None else shares[name],
        )
        for name, shape in zip(layout.names, layout.shapes, strict=True)
    )


def _out(point: Point, escape: Escape | None) -> Tensor | None:
    """The direction of the escape, or the one that the verdict found."""
    if escape is not None and escape.direction is not None:
        return escape.direction
    return point.escape_direction


def _draw(
    canvas: _Canvas,
    part: Problem,
    point: Point,
    escape: Escape | None,
    gradient: Tensor,
    seed: int,
    seconds: float,
    progress: Progress | None,
) -> None:
    """``seconds`` is what one loss of the pictures' samples is expected to take."""
    tell = progress or (lambda _stage, _done, _total: None)
    first, first_name, second, second_name = _axes(point, escape, gradient, seed)
    reach = _reach(part, first, None if escape is None or not escape.moved else escape.step)
    down = _reach(part, second, None)
    lengths = (reach, down)
    if (
        second_name.startswith("negative gradient")
        and point.curvature_decrease > point.slope_decrease
    ):
        lengths = (reach, reach)  # the slope leads nowhere: show it on the scale of the escape
    tell("lines", 0, 2)
    local, here = part.gradient(), torch.linspace(-1.5, 1.5, LINE, dtype=torch.float64)
    for done, (d, name, length) in enumerate(
        zip((first, second), (first_name, second_name), lengths, strict=True)
    ):
        canvas.lines.append(profile(part, d, steps=here * length, name=name, gradient=local))
        tell("lines", done + 1, 2)
    if part.n > 1:
        span = torch.linspace(-1.5, 1.5, _side(seconds), dtype=torch.float64)
        x, y = span * lengths[0], span * lengths[1]
        names = (first_name, second_name)
        canvas.plane = scan(part, first, second, x=x, y=y, names=names, progress=progress)
        if canvas.plane.outcome == "interrupted":
            canvas.outcome = "interrupted"
            return
    products = int(SECONDS / (6 * max(seconds, 1e-9)))
    starts = max(2, min(STARTS, products // 10))
    steps = max(10, min(STEPS, products // starts))
    canvas.density = spectral_density(
        part, starts=starts, steps=steps, seed=seed, progress=progress
    )
    if canvas.density.outcome == "interrupted":  # the starts that were finished stay
        canvas.outcome = "interrupted"


def _side(seconds: float) -> int:
    """Points of a side of the plane, an odd number, so that all take about ``SECONDS``."""
    fits = int(math.sqrt(SECONDS / max(seconds, 1e-9)))
    fewest, most = PLANE
    return max(fewest, min(most, fits)) // 2 * 2 + 1


def _axes(
    point: Point, escape: Escape | None, gradient: Tensor, seed: int
) -> tuple[Tensor, str, Tensor, str]:
    """Two directions that span a plane: the way out (or the flattest), and −g (or the next, or a random one)."""
    generator = torch.Generator().manual_seed(seed)
    random = torch.randn(gradient.numel(), generator=generator, dtype=torch.float64).to(gradient)
    candidates: list[tuple[Tensor | None, str]] = [
        (_out(point, escape), "escape direction v"),
        (-gradient if point.gradient_norm > 0 else None, "negative gradient −g"),
    ]
    lowest = point.lowest_directions
    if lowest.shape[1] and candidates[0][0] is None:
        candidates.insert(0, (lowest[:, 0], "eigenvector of λ min"))
    candidates += [(lowest[:, k], f"eigenvector {k + 1}") for k in range(lowest.shape[1])]
    candidates += [(random, "random direction")]
    chosen: list[tuple[Tensor, str]] = []
    for direction, name in candidates:
        if direction is None or len(chosen) == 2:
            continue
        unit = direction.to(gradient) / torch.linalg.vector_norm(direction.to(gradient))
        if all(abs(float(unit @ other)) < 0.999 for other, _ in chosen):
            chosen.append((unit, name))
    if len(chosen) < 2:  # one parameter: there is no plane
        chosen *= 2
    return *chosen[0], *chosen[1]


def _reach(part: Problem, direction: Tensor, known: float | None) -> float:
    """A distance worth showing: to the lowest loss along the line, else half the parameters' size."""
    if known:
        return known
    theta, loss = part.parameters(), part.value()
    slope = float(part.gradient() @ direction)
    found = search(part, theta, loss, direction, slope=slope, both=True)
    return abs(found.step) or 0.5 * max(1.0, float(torch.linalg.vector_norm(theta)))
