"""Whether a loss is convex in its parameters: one violation proves that it is not; many tests prove nothing.

Answers: are there three points on a line whose middle loss lies above the chord, beyond the noise of the arithmetic?
Does not answer: that a loss is convex. "None found" counts what was tried, at random points.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from unstick.errors import BadData, BadModel, BudgetTooSmall, NonFinite
from unstick.problem.cost import Cost
from unstick.problem.problem import Problem
from unstick.record import Fact, Record, number
from unstick.spectrum.ends import ends
from unstick.spectrum.inertia import extreme_eigenvectors, inertia
from unstick.spectrum.operator import assemble

__all__ = ["Convexity", "Tally", "Violation", "convexity"]

Progress = Callable[[str, float, float], None]

RADII = (0.1, 1.0, 10.0)  # of the samples, in units of the scale at which layers are initialized
DENSE = 32  # parameters up to which the Hessian is written down
PRODUCTS = 20  # Hessian products a point, beyond that
NUDGES = 8  # evaluations that tell the noise of one loss
SIGMAS = 10.0  # standard deviations of noise that a violation must exceed
ROUNDINGS = 32  # roundings of the loss itself that it must exceed on top
NARROWER = tuple(
    10.0**-k for k in range(-1, 6)
)  # distances at which a curvature is looked for in the loss


@dataclass(frozen=True, slots=True, eq=False)
class Violation(Record):
    """Three points on a line, the loss at the middle one above the chord: evaluate the three to check.

    The middle lies on the line without any rounding, ``fraction`` of the way (a multiple of a sixteenth, over another).
    """

    kind: str  # "segment", "gradient" or "curvature": the test that led here
    measured: float  # by that test: the gap; (∇f(a) − ∇f(b))ᵀ(a − b) < 0; vᵀHv < 0
    points: (
        Tensor  # [2, n] what it looked at: two points a and b, or a point and the unit direction v
    )
    where: str  # how they were sampled
    first: Tensor  # [n]
    middle: Tensor  # [n]
    second: Tensor  # [n]
    fraction: float
    losses: tuple[float, float, float]  # at first, middle, second
    gap: float  # the middle loss less the chord's
    noise: float  # a smaller gap could be rounding

    def headline(self) -> str:
        """The proof."""
        first, middle, second = (number(loss) for loss in self.losses)
        above = f"{number(self.gap)} above the chord from {first} to {second}"
        return f"Not convex: the loss {middle} lies {above}, of which {number(self.noise)} could be rounding."

    def facts(self) -> list[Fact]:
        """What led here and where it is."""
        names = {
            "segment": "above the chord",
            "gradient": "(∇f(a) − ∇f(b))ᵀ(a − b)",
            "curvature": "vᵀHv",
        }
        apart = float(torch.linalg.vector_norm(self.second - self.first))
        return [
            (names[self.kind], number(self.measured)),
            ("where", self.where),
            ("length of the segment", number(apart)),
            ("middle", f"{number(self.fraction)} of the way"),
        ]


@dataclass(frozen=True, slots=True, eq=False)
class Tally:
    """How often one test was made."""

    kind: str  # "segment", "gradient" or "curvature"
    planned: int
    done: int
    broken: int  # proved violations
    unconfirmed: int  # derivatives said so, the losses did not: noise, or a kink at which a derivative is arbitrary


@dataclass(frozen=True, slots=True, eq=False)
class Convexity(Record):
    """What was tried, and the clearest violation of each kind."""

    outcome: str  # "nonconvex" (proved), "none found" or "interrupted" (none found so far)
    violations: tuple[Violation, ...]
    tests: tuple[Tally, ...]
    lowest_curvature: float | None  # the lowest eigenvalue of the Hessian seen at any point
    n: int
    scale: float
    cost: Cost

    def headline(self) -> str:
        """The verdict, with what it is worth."""
        if self.violations:
            return self.violations[0].headline()
        counts = ", ".join(f"{test.done} {_COUNTED[test.kind]}" for test in self.tests)
        early = "Interrupted: no" if self.outcome == "interrupted" else "No"
        return f"{early} violation of convexity found in {counts}; that is no proof of convexity."

    def facts(self) -> list[Fact]:
        """Each test and the violations."""
        rows = [
            (
                _COUNTED[test.kind],
                f"{test.done} of {test.planned}, {test.broken} violations"
                + (
                    f"; {test.unconfirmed} by derivatives only, not in the loss"
                    if test.unconfirmed
                    else ""
                ),
            )
            for test in self.tests
        ]
        return [
            ("outcome", self.outcome),
            *((violation.kind, violation.headline()) for violation in self.violations),
            *rows,
            ("lowest curvature", number(self.lowest_curvature)),
            ("sampled", f"around the parameters and around zero, at {', '.join(map(number, RADII))} times {number(self.scale)} "
             "of the scale of an initialization"),
            ("cost", str(self.cost)),
        ]  # fmt: skip


_COUNTED = {"segment": "segments", "gradient": "pairs of gradients", "curvature": "Hessians"}


def convexity(
    problem: Problem,
    *,
    points: int = 12,
    pairs: int = 32,
    scale: float = 1.0,
    thorough: bool = False,
    budget: float = 1000,
    seed: int = 0,
    progress: Progress | None = None,
) -> Convexity:
    """Look for a violation of convexity by segments, gradients and curvature, the cheapest first.

    A convex loss lies below every chord, has a monotone gradient, and no negative curvature. Where derivatives break one of
    the two last laws, the loss is evaluated along that line, and only a loss above its chord counts: at a kink, such as a
    hinge, a derivative is arbitrary. The noise of a loss is measured by its differences under tiny nudges.

    Args:
        problem: What is minimized. ``problem.restrict(...)`` asks about some of the parameters.
        points: Samples: the parameters, zero, and as many around each, normal with radii 0.1, 1 and 10 times
            ``scale``/√fan-in in a matrix or kernel and ``scale`` in a vector.
        pairs: Pairs of them whose segments are tested, at quarters; gradients are tested in all pairs.
        scale: Of the samples.
        thorough: Go on after a violation.
        budget: Most work, in full-data gradients.
        seed: Seed of samples, pairs and starts.
        progress: Called with (stage, done, total).

    Returns:
        "nonconvex" with the points to check it by, or counts of what was tried. The model is as it was.

    Raises:
        BadData: Arguments out of range.
        BadModel: The parameters are sharded.
        BudgetTooSmall: The budget does not pay for one segment.
        KeyboardInterrupt: Only before the first test.

    Cost:
        5/3 gradients a segment, 4/3 a point, and up to 20 Hessian products a point (32 where n ≤ 32).

    References:
        Boyd, Vandenberghe (2004), Convex Optimization, section 3.1.
        Moré, Wild (2011), Estimating computational noise.

    Example:
        >>> convexity(Problem.from_function(lambda x: (1 - x[0] * x[1]) ** 2, torch.ones(2))).outcome
        'nonconvex'
        >>> convexity(Problem.from_function(lambda x: (1 - x[0] - x[1]) ** 2, torch.ones(2))).outcome
        'none found'
    """
    problem.require_whole("convexity")
    if points < 2 or pairs < 1:
        raise BadData(f"points={points}, pairs={pairs}; expected at least 2 points and 1 pair")
    if not 0 < scale < math.inf:
        raise BadData(f"scale is {scale}; expected a finite number > 0")
    if budget < LEAST:
        raise BudgetTooSmall(
            f"budget={budget:g} gradients; one segment and its noise take up to {LEAST}: raise the budget"
        )
    search = _Search(problem, budget, thorough, progress or (lambda _stage, _done, _total: None))
    generator = torch.Generator().manual_seed(seed)
    samples, names = _samples(problem, points, scale, generator)
    copies = problem.layout.copies()
    interrupted = False
    try:
        _segments(search, samples, names, pairs, generator)
        _gradients(search, samples, names)
        _curvatures(search, samples, names, scale, generator)
    except KeyboardInterrupt:
        if not any(test.done for test in search.tests.values()):
            raise
        interrupted = True
    finally:
        problem.layout.restore(copies)
    found = search.violations
    without = "interrupted" if interrupted else "none found"
    return Convexity(
        outcome="nonconvex" if found else without,
        violations=tuple(found.values()),
        tests=tuple(test.frozen(kind) for kind, test in search.tests.items()),
        lowest_curvature=search.lowest,
        n=problem.n,
        scale=scale,
        cost=problem.spent - search.before,
    )


LEAST = 26
"""Gradients that a segment takes whose noise has to be measured: 5 losses, and 3·``NUDGES`` more at three of them."""


@dataclass(slots=True)
class _Count:
    planned: int = 0
    done: int = 0
    broken: int = 0
    unconfirmed: int = 0

    def frozen(self, kind: str) -> Tally:
        return Tally(kind, self.planned, self.done, self.broken, self.unconfirmed)


@dataclass(slots=True, eq=False)
class _Line:
    """Equally spaced points [m, n] of a line, exact to the last bit, and the loss at each."""

    points: Tensor
    losses: list[float]

    def triples(self) -> list[tuple[float, float, tuple[int, int, int]]]:
        """(gap, gap over the size of the losses, indices) of every three of its points with finite losses."""
        f, m = self.losses, len(self.losses)
        found: list[tuple[float, float, tuple[int, int, int]]] = []
        for i in range(m):
            for k in range(i + 1, m):
                for j in range(k + 1, m):
                    size = max(abs(f[i]), abs(f[k]), abs(f[j]))
                    t = (k - i) / (j - i)
                    gap = f[k] - ((1 - t) * f[i] + t * f[j])
                    if math.isfinite(size) and math.isfinite(gap):
                        found.append((gap, gap / size if size else 0.0, (i, k, j)))
        return found


@dataclass(slots=True)
class _Search:
    """The tests made so far, and the clearest violation of each kind."""

    problem: Problem
    budget: float
    thorough: bool
    tell: Progress
    tests: dict[str, _Count] = field(default_factory=lambda: {kind: _Count() for kind in _COUNTED})
    violations: dict[str, Violation] = field(default_factory=dict[str, Violation])
    lowest: float | None = None
    before: Cost = field(init=False)
    size: float = field(init=False)

    def __post_init__(self) -> None:
        self.before = self.problem.spent
        # A loss that has saturated near 0 is rounded as log(1 + ε) is, relative to 1: the loss at zero has that size.
        zero = float(self.problem.values(torch.zeros(1, self.problem.n))[0])
        self.size = abs(zero) if math.isfinite(zero) else 0.0

    def goes_on(self, price: float) -> bool:
        """Whether there is reason to test more, and the budget pays for it."""
        left = self.budget - (self.problem.spent - self.before).gradients
        return (self.thorough or not self.violations) and left >= price

    def line(self, first: Tensor, second: Tensor, parts: int) -> _Line:
        """The loss at ``parts`` + 1 points from one to the other."""
        a, b = _on_a_grid(torch.stack([first, second]))
        at = torch.arange(parts + 1, device=a.device, dtype=a.dtype).unsqueeze(1) / parts
        points = a + at * (b - a)
        return _Line(points, self.problem.values(points).tolist())

    def look(
        self,
        kind: str,
        lines: list[_Line],
        points: Tensor,
        where: str,
        measured: float | None = None,
    ) -> bool:
        """Whether the loss on one of the lines lies above a chord beyond noise; then it is kept."""
        eps = torch.finfo(self.problem.dtype).eps
        triples = [(line, *triple) for line in lines for triple in line.triples()]
        least = ROUNDINGS * eps * self.size
        clear = [triple for triple in triples if triple[1] > least and triple[2] > ROUNDINGS * eps]
        if not clear:
            return False
        found = False
        best = (max(clear, key=lambda t: t[1]), max(clear, key=lambda t: t[2]))
        for line, gap, _, at in dict.fromkeys(best):
            i, _, j = at
            losses = [line.losses[k] for k in at]
            scatter = sum(_noise_of(self.problem, line.points[k], line.points[[i, j]]) for k in at)
            noise = SIGMAS * scatter + ROUNDINGS * eps * max(self.size, *map(abs, losses))
            if not gap > noise:
                continue
            found = True
            known = self.violations.get(kind)
            if known is None or gap / noise > known.gap / known.noise:
                k = at[1]
                self.violations[kind] = Violation(
                    kind=kind,
                    measured=gap if measured is None else measured,
                    points=points.clone(),
                    where=where,
                    first=line.points[i].clone(),
                    middle=line.points[k].clone(),
                    second=line.points[j].clone(),
                    fraction=(k - i) / (j - i),
                    losses=(losses[0], losses[1], losses[2]),
                    gap=gap,
                    noise=noise,
                )
        return found


def _samples(
    problem: Problem, count: int, scale: float, generator: torch.Generator
) -> tuple[Tensor, list[str]]:
    """Points [count, n] and how each was sampled."""
    sizes = torch.cat(
        [
            torch.full((size,), scale / math.prod(shape[1:]) ** 0.5, dtype=torch.float64)
            for shape, size in zip(problem.layout.shapes, problem.layout.sizes, strict=True)
        ]
    )
    theta = problem.parameters()
    rows, names = [theta, torch.zeros_like(theta)], ["the parameters", "zero"]
    for k in range(count - 2):
        radius = RADII[k // 2 % len(RADII)]
        normal = torch.randn(problem.n, generator=generator, dtype=torch.float64)
        rows.append(rows[k % 2] + (radius * sizes * normal).to(theta))
        names.append(f"around {names[k % 2]} at radius {number(radius * scale)}")
    return torch.stack(rows), names


def _segments(
    search: _Search, samples: Tensor, names: list[str], pairs: int, generator: torch.Generator
) -> None:
    """f((1 − t)a + tb) ≤ (1 − t)f(a) + tf(b) at quarters of random segments."""
    both = torch.combinations(torch.arange(len(samples)))
    chosen = both[torch.randperm(len(both), generator=generator)[:pairs]].tolist()
    count = search.tests["segment"]
    count.planned = len(chosen)
    for i, j in chosen:
        if not search.goes_on(LEAST):
            return
        search.tell("segments", count.done, count.planned)
        line = search.line(samples[i], samples[j], 4)
        where = f"{names[i]} and {names[j]}"
        count.broken += search.look("segment", [line], samples[[i, j]], where)
        count.done += 1


def _gradients(search: _Search, samples: Tensor, names: list[str]) -> None:
    """(∇f(a) − ∇f(b))ᵀ(a − b) ≥ 0 for all pairs; a violation must show in the loss between them."""
    count = search.tests["gradient"]
    count.planned = len(samples) * (len(samples) - 1) // 2
    if not search.goes_on(2 * len(samples) + LEAST):
        return
    search.tell("gradients", 0, count.planned)
    gradients = search.problem.gradients(samples).double()
    finite = torch.isfinite(search.problem.values(samples)).tolist()
    rounding = ROUNDINGS * torch.finfo(search.problem.dtype).eps
    suspects: list[tuple[float, float, int, int]] = []
    for i, j in torch.combinations(torch.arange(len(samples))).tolist():
        apart = (samples[i] - samples[j]).double()
        product = float((gradients[i] - gradients[j]) @ apart)
        size = float((gradients[i].norm() + gradients[j].norm()) * apart.norm())
        known = finite[i] and finite[j] and math.isfinite(product)
        count.done += known
        if known and product < -rounding * size:
            suspects.append((product / size, product, i, j))
    for _, product, i, j in sorted(suspects):
        if not search.goes_on(LEAST):
            return
        line = search.line(samples[i], samples[j], 16)
        where = f"{names[i]} and {names[j]}"
        shown = search.look("gradient", [line], samples[[i, j]], where, product)
        count.broken += shown
        count.unconfirmed += not shown


def _curvatures(
    search: _Search, samples: Tensor, names: list[str], scale: float, generator: torch.Generator
) -> None:
    """No eigenvalue of the Hessian below its noise; a violation must show in the loss along the eigenvector."""
    problem, count = search.problem, search.tests["curvature"]
    count.planned = len(samples)
    for sample, name in zip(samples, names, strict=True):
        if not search.goes_on(3 * min(problem.n, max(DENSE, PRODUCTS)) + LEAST):
            return
        search.tell("Hessians", count.done, count.planned)
        problem.write(sample)
        try:
            value, noise, v = _lowest(problem, generator)
        except (BadModel, NonFinite):  # no Hessian here: a loss without second derivatives
            continue
        count.done += 1
        search.lowest = value if search.lowest is None else min(search.lowest, value)
        if value < -noise:
            here = problem.parameters()  # rounded to the model's own type
            steps = [scale * narrower * v for narrower in NARROWER]
            lines = [search.line(here - step, here + step, 2) for step in steps]
            shown = search.look("curvature", lines, torch.stack([here, v]), name, value)
            count.broken += shown
            count.unconfirmed += not shown


def _lowest(problem: Problem, generator: torch.Generator) -> tuple[float, float, Tensor]:
    """A Rayleigh quotient as low as found, its noise, and the unit vector [n] behind it."""
    operator = problem.hessian()
    if problem.n <= DENSE:
        H = assemble(operator)
        counts = inertia(H, precision=operator.dtype)
        v = extreme_eigenvectors(H, 1).lowest.vectors[:, 0]
        noise = max(counts.tau, operator.error())
        return float(counts.eigenvalues[0]), noise, v.to(problem.device, problem.dtype)
    found = ends(operator, generator=generator, highest=0, max_products=PRODUCTS)
    if found.outcome == "interrupted":
        raise KeyboardInterrupt
    v = found.lowest.vectors[:, 0].to(problem.device, problem.dtype)
    return found.lambda_min.value, found.noise_floor, v


def _on_a_grid(points: Tensor) -> Tensor:
    """Points [k, n] rounded so that sixteenths of the way from one to another can be written without rounding."""
    bits = 1 - math.frexp(torch.finfo(points.dtype).eps)[1] - 6
    largest = float(points.abs().max())
    step = 2.0 ** (math.frexp(largest)[1] - bits) if largest else 1.0
    return (points / step).round() * step


def _noise_of(problem: Problem, theta: Tensor, ends: Tensor) -> float:
    """Standard deviation of the rounding of the loss, from its differences under equal nudges.

    Differences of a smooth function vanish to second order and beyond; those of rounding do not. The nudges are in the last
    digits of all parameters; and longer ones, in a random direction and along the line, where a loss that is rounded to a
    staircase shows its steps, while its bend is still far below the gap.
    """
    generator = torch.Generator().manual_seed(0)
    up = torch.randint(0, 2, (len(theta),), generator=generator, dtype=torch.int8).to(theta)
    signs, along = 2 * up - 1, ends[1] - ends[0]
    eps = torch.finfo(theta.dtype).eps
    nudges = (
        4 * eps * float(ends.abs().max()) * signs,
        eps ** (1 / 2) * float(along.norm()) / len(theta) ** 0.5 * signs,
        eps ** (1 / 3) * along,
    )
    at = torch.arange(NUDGES, device=theta.device, dtype=theta.dtype).unsqueeze(1)
    noise = 0.0
    for nudge in nudges:
        difference = problem.values(theta + at * nudge).diff()
        for order in (2, 3, 4):
            difference = difference.diff()
            share = math.factorial(order) ** 2 / math.factorial(2 * order)
            noise = max(noise, float((share * difference.square().mean()).sqrt()))
            if math.isnan(noise):
                return math.inf
    return noise
