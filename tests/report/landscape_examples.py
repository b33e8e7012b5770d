"""A record of every kind that searches, landscapes, toys and studies give, built without running anything."""

import math
from dataclasses import replace

import torch

from unstick.critical.flatness import Flatness
from unstick.critical.found import Found, Search
from unstick.diagnosis.trajectory import Trajectory
from unstick.landscape.convexity import Convexity, Tally, Violation
from unstick.landscape.directions import Direction
from unstick.landscape.interpolation import Interpolation
from unstick.landscape.line import Line
from unstick.landscape.plane import Plane
from unstick.landscape.rescaling import Rescaled
from unstick.landscape.sharpness import Comparison, Sharpness
from unstick.landscape.survey import Survey
from unstick.problem.cost import Cost
from unstick.spectrum.interval import Interval
from unstick.spectrum.least_squares import LeastSquares
from unstick.studies.frame.comparing import Effect, Verdict
from unstick.studies.frame.overview import Overview
from unstick.studies.frame.plan import Picture, Series
from unstick.studies.frame.result import StudyResult
from unstick.studies.frame.table import Row

__all__ = [
    "convex",
    "every_landscape_record",
    "found",
    "interpolation",
    "line",
    "oblique",
    "overview",
    "search",
    "study",
    "survey",
    "way",
]

SPENT = Cost(3000, 41.0, 0.3)
AT = torch.linspace(-2.0, 2.0, 21, dtype=torch.float64)
BOWL = AT**2 + 0.3 * AT**3
HOSTILE = "<b>&'\""


def line() -> Line:
    """Along an eigenvector, with everything measured and one loss that is not finite."""
    losses = BOWL.clone()
    losses[-1] = math.inf
    return Line(
        AT, losses, "eigenvector of λ max", 1.0, AT.abs() / 2, BOWL.abs(), 2.0, ("a note",), "complete", SPENT
    )  # fmt: skip


def oblique() -> Plane:
    """Two filter-normalized directions, with accuracy and gradient, and a training's way over it."""
    losses = BOWL[:, None] + AT[None, :] ** 2
    losses[0, 0] = math.nan
    way = torch.stack([torch.linspace(-1.5, 0, 9), torch.linspace(1.2, 0, 9)], dim=1).double()
    return Plane(
        AT,
        AT,
        losses,
        "random direction 1",
        f"random {HOSTILE}",
        0.03,
        perpendicular=False,
        x_unit=4.0,
        y_unit=3.0,
        accuracies=1 / (1 + losses),
        gradient_norms=losses.sqrt(),
        curvatures=(2.0, 2.5),
        path=way,
        path_losses=torch.linspace(3, 0.1, 9).double(),
        explained=(0.8, 0.1),
        notes=("running statistics stay",),
        outcome="interrupted",
        cost=SPENT,
    )


def interpolation() -> Interpolation:
    """A barrier between two checkpoints, on data trained on and held out."""
    t = torch.linspace(-0.25, 1.25, 31, dtype=torch.float64)
    losses = 0.2 + 1.5 * (t * (1 - t)).clamp_min(0)
    return Interpolation(
        t, 7 * t, losses, 0.375, 0.5, False, "travel", 1 - losses / 3, None, losses + 0.1, 0.9 - losses / 3, 0.375,
        ("a note",), "complete", SPENT,
    )  # fmt: skip


def sharp() -> Sharpness:
    """One box that was not searched."""
    return Sharpness(
        0.31, Interval(4.2, 4.2, 4.3, 1.0, 0.999), (1e-3, 5e-4), (5.1, None), ("top eigenvector", None), None, 0.02, 0.5, 10,
        4810, "budget", SPENT,
    )  # fmt: skip


def rescaled() -> Rescaled:
    """Three α."""
    alphas = torch.tensor([0.25, 1.0, 4.0], dtype=torch.float64)
    return Rescaled(
        "0",
        "2",
        alphas,
        torch.randn(3, 6, generator=torch.Generator().manual_seed(0)),
        torch.full((3,), 0.31).double(),
        torch.tensor([1e-16, 0.0, 2e-16]).double(),
        torch.tensor([40.0, 4.2, 60.0]).double(),
        torch.tensor([[9.0, 4.0], [5.1, 2.0], [7.0, math.nan]]).double(),
        torch.tensor([0.02, 0.02, 0.02]).double(),
        (sharp(), sharp(), sharp()),
        "complete",
        SPENT,
    )


def survey() -> Survey:
    """A plane with sharpness and the same function written in three ways."""
    whole = replace(oblique(), outcome="complete", path=None, path_losses=None, explained=None)
    planes = tuple(replace(whole, losses=k * whole.losses) for k in (1.0, 2.0, 3.0))
    return Survey(whole, sharp(), rescaled(), planes, planes, "complete", SPENT)


def violation() -> Violation:
    """Three points of a double well."""
    one, two = torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 0.0])
    middle = torch.zeros(2)
    return Violation(
        "segment", 1.0, torch.stack([one, two]), "around zero", one, middle, two, 0.5, (0.0, 1.0, 0.0), 1.0, 1e-15
    )  # fmt: skip


def convex() -> Convexity:
    """A proof, and what was tried before it."""
    return Convexity(
        "nonconvex", (violation(),), (Tally("segment", 32, 7, 1, 0), Tally("gradient", 32, 0, 0, 0)), None, 2, 1.0, SPENT
    )  # fmt: skip


def found(outcome: str = "critical", loss: float = 0.9, ratio: float = 0.97) -> Found:
    """Where one search ended."""
    squares = torch.logspace(0, -28 if outcome == "critical" else -4, 9, dtype=torch.float64)
    return Found(
        outcome,
        "converged" if outcome == "critical" else "stalled",
        "levenberg-marquardt",
        torch.ones(118, dtype=torch.float64),
        loss,
        float(squares[-1]),
        1e-20,
        1e-29,
        Flatness(0.95, 1e-5, 0.99, 0.001, 3.0, True, float(squares[-1])),
        (114, 0, 4),
        ratio,
        None,
        "" if outcome == "critical" else "the slope still pays",
        torch.linspace(2, loss, 9).double(),
        squares,
        2.0,
        1.0,
        11,
        SPENT,
    )


def search() -> Search:
    """Ends of every kind."""
    ends = (
        found("critical", 0.9, 0.97),
        found("gradient-flat", 1.4, 0.8),
        found("neither", 1.9, 0.6),
        replace(found("neither", math.nan, 0.6), inertia=None, minimum_ratio=None, flatness=None),
    )
    return Search(ends, 6, 1, "interrupted", SPENT)


def way() -> Trajectory:
    """Nine points of a training."""
    return Trajectory(
        torch.zeros(9, 4), torch.linspace(2.3, 0.1, 9).double(), tuple(range(0, 90, 10)), "Adam", 32, "complete", SPENT
    )  # fmt: skip


def study(verdict: Verdict = Verdict.SUPPORTED) -> StudyResult:
    """Two arms on three seeds, one of which failed."""
    rows = tuple(
        Row(
            arm,
            seed,
            {} if (arm, seed) == ("b", 2) else {"x": seed + (arm == "a"), "word": "ok", "curve": (1.0, math.nan), "none": None},
            0.1,
            "ValueError: no" if (arm, seed) == ("b", 2) else "",
        )
        for seed in range(3)
        for arm in ("a", "b")
    )  # fmt: skip
    effects = (
        Effect("x: a − b", 2.0, 1.0, 1.0, 0.9, 1.1, 0.95, 2),
        Effect("share", 0.5, math.nan, 0.5, 0.2, 0.8, 0.975, 10, "runs"),
    )
    pictures = (
        Picture(
            "curve",
            "A curve",
            "Means.",
            "batch size",
            "accuracy",
            (
                Series("a", (1.0, 10.0, 100.0), (0.5, 0.7, math.nan), (0.4, 0.6, math.nan), (0.6, 0.8, math.nan)),
                Series(HOSTILE, (1.0, 10.0, 100.0), (0.4, 0.8, 0.9), kind="points"),
            ),
            (Series("claim", (1.0, 100.0), (0.9, 0.4)),),
            log_x=True,
        ),
        Picture("bars", "Bars", "Means.", "arm", "x", (Series("x", ("a", "b"), (2.0, 1.0), kind="bars"),), log_y=True),
    )  # fmt: skip
    return StudyResult(
        "dice", "A claim", "a source", "A question?", "Means", "Supported if above", "Much is known", verdict, "It was 1.",
        effects, pictures, ("a", "b"), rows, 6, "unstick study run dice --quick", 0.6, "complete",
    )  # fmt: skip


def overview() -> Overview:
    """Three studies."""
    results = tuple(replace(study(verdict), name=f"dice-{verdict}") for verdict in Verdict)
    return Overview(results, ("other",), "complete")


def every_landscape_record() -> list[object]:
    """One of each."""
    return [
        line(),
        replace(
            line(), losses=torch.full_like(BOWL, math.nan), accuracies=None, gradient_norms=None
        ),
        oblique(),
        interpolation(),
        Direction("−g", torch.ones(3), "the gradient's own", curvature=1.0, residual=1e-9),
        sharp(),
        Comparison((0.3, 0.31), ("λ max",), (1.9,), 0.05, 0.1, "second"),
        rescaled(),
        survey(),
        convex(),
        Convexity("none found", (), (Tally("segment", 32, 32, 0, 1),), 0.0, 9, 1.0, SPENT),
        violation(),
        found(),
        found("gradient-flat"),
        found().flatness,
        search(),
        LeastSquares(torch.ones(2), torch.zeros(2), 0.0, 1.0, 0.0, 2.0, 2, 0, 2, "solved"),
        way(),
        study(),
        study(Verdict.CONTRADICTED),
        replace(study(), rows=(), effects=(), pictures=(), outcome="interrupted"),
        overview(),
        *study().effects,
        *study().pictures,
        study().rows[0],
    ]
