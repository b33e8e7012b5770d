"""One realistic record of every kind, built without running anything: seeded, small, and quick."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from unstick.critical.escaping import Escape
from unstick.critical.point import Kind, Point
from unstick.critical.taylor import Profile
from unstick.diagnosis.diagnosing import Cause, Diagnosis, Support
from unstick.diagnosis.portrait import Layer, Portrait
from unstick.landscape.plane import Plane
from unstick.problem.cost import Cost
from unstick.spectrum.density import Density
from unstick.spectrum.ends import Ends, Pairs
from unstick.spectrum.interval import Interval
from unstick.spectrum.trace import TraceEstimate
from unstick.studies.demo import Demonstration
from unstick.trace import RunTrace

__all__ = ["HOSTILE", "demonstration", "diagnosis", "every_record", "point"]

HOSTILE = "</script><img src=x onerror=alert(1)>&\u2028'\""

SIZE = 4810
STEP = 1.9


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _unit(size: int) -> Tensor:
    v = torch.randn(size, generator=_generator(1))
    return v / v.norm()


def _valley(t: Tensor) -> Tensor:
    """A double well along the escape direction, steeper far out."""
    return 2.302 - 0.11 * t**2 + 0.011 * t**4 + 0.02 * t**3


def point() -> Point:
    """A saddle of a classifier with ten classes."""
    bulk = torch.randn(70, generator=_generator(), dtype=torch.float64) * 0.02
    values = torch.cat(
        [torch.tensor([-0.221, -0.18, -0.09]).double(), bulk, torch.linspace(0.4, 3.9, 9).double()]
    )
    v = _unit(SIZE)
    return Point(
        kind=Kind.SADDLE,
        proof=(
            "vᵀHv = −0.221 ± 3.1e-8 on all 1,437 samples, where v is the stored unit vector: the loss curves down along v, "
            "while −g gains 1.2e-7 at best."
        ),
        loss=2.302011,
        gradient_norm=1.73e-4,
        gradient_standard_error=6.1e-3,
        lambda_min=Interval(-0.221, -0.263, -0.221, 0.999, 1.0),
        lambda_max=Interval(3.9, 3.9, 4.02, 1.0, 0.999),
        inertia=None,
        minimum_ratio=None,
        noise_floor=4.2e-6,
        tau=4.2e-6,
        slope_decrease=1.2e-7,
        curvature_decrease=0.31,
        loss_noise=3e-7,
        escape_direction=v,
        escape_step=1.5,
        lowest_curvatures=torch.tensor([-0.221, -0.18]),
        lowest_directions=torch.stack([v, v.flip(0)], dim=1),
        eigenvalues=values.sort().values,
        parameters=SIZE,
        notes=("Hessian products: double backward on a kept graph, 1.9 gradients each.",),
        outcome="complete",
        cost=Cost(250_000, 174.2, 3.4),
    )


def escape() -> Escape:
    """A step along one direction of negative curvature."""
    return Escape(
        moved=True,
        loss_before=2.302011,
        loss_after=float(_valley(torch.tensor(STEP))),
        predicted_decrease=0.11 * STEP**2,
        direction=_unit(SIZE),
        step=STEP,
        along=1,
        outcome="moved along 1 direction of negative curvature",
        cost=Cost(51_000, 12.1, 0.4),
    )


def density() -> Density:
    """A bulk around zero, a tail of outliers, a little mass below zero."""
    grid = torch.linspace(-0.6, 4.4, 501, dtype=torch.float64)
    centers = [(-0.2, 0.002), (0.0, 0.93), (0.06, 0.06), (0.9, 0.004), (2.1, 0.002), (3.9, 0.001)]
    width = 0.05
    height = sum(w * torch.exp(-((grid - c) ** 2) / (2 * width**2)) for c, w in centers)
    height = torch.as_tensor(height) / (width * math.sqrt(2 * math.pi))
    return Density(grid, height, 0.18 * height, width, 6, 60, 4.2e-6, 360, "complete")


def profiles() -> tuple[Profile, Profile]:
    """Down along v, flat along −g; far out the loss is inf."""
    steps = torch.linspace(-5.0, 5.0, 41, dtype=torch.float64)
    falls = _valley(steps)
    falls[-1] = math.inf
    rises = 2.302 - 1.7e-4 * steps + 0.4 * steps**2
    return (
        Profile(
            "escape direction v", steps, falls, 2.302 - 0.11 * steps**2, -1e-8, -0.22, STEP + 0.1
        ),
        Profile("negative gradient −g", steps, rises, rises + 0, -1.7e-4, 0.8, 0.0),
    )


def plane() -> Plane:
    """The plane of v and −g, with one corner that is not finite."""
    axis = torch.linspace(-4.0, 4.0, 41, dtype=torch.float64)
    losses = (
        _valley(axis)[None, :] + 0.06 * axis[:, None] ** 2 + 0.01 * axis[:, None] * axis[None, :]
    )
    losses[-1, -2:] = math.nan
    return Plane(axis, axis, losses, "escape direction v", "negative gradient −g", 0.013)


def layers() -> tuple[Layer, ...]:
    """Four tensors; one of them has no gradient at all."""
    return (
        Layer("0.weight", (64, 64), 1.1e-4, 4.9e-3, 0.62),
        Layer("0.bias", (64,), 0.0, 0.0, 0.03),
        Layer("2.weight", (10, 64), 1.3e-4, 3.2e-3, 0.349),
        Layer("2.bias", (10,), 2.1e-5, 1.2e-3, 0.001),
    )


def portrait() -> Portrait:
    """All pictures of the saddle."""
    notes = ("the plane used 41 × 41 points",)
    return Portrait(
        density(),
        profiles(),
        plane(),
        layers(),
        1024,
        1437,
        notes,
        "complete",
        Cost(2_900_000, 1412.0, 9.8),
    )


def diagnosis() -> Diagnosis:
    """A stalled training, understood."""
    summary = (
        "The gradient has vanished, yet this is not a minimum: the loss falls along a direction that the gradient cannot see. "
        "Waiting does not help, since plain descent leaves such a point only by chance. "
        "Call unstick.escape(problem): tried from this checkpoint, it lowered the loss from 2.302 to 2.186."
    )
    reasons = (
        "negative curvature is proved on the full data",
        "−g pays a millionth of what ±v pays",
    )
    causes = (Support(Cause.STRICT_SADDLE, 1.0, reasons),)
    return Diagnosis(
        Cause.STRICT_SADDLE,
        causes,
        summary,
        point(),
        escape(),
        portrait(),
        Cost(301_000, 186.3, 3.8),
        "complete",
    )


def demonstration() -> Demonstration:
    """The whole demonstration: stalled, escaped, learned."""
    noise = 0.004 * torch.randn(900, generator=_generator(3), dtype=torch.float64)
    stalled = RunTrace.of_losses(
        2.302 + 0.03 * math.exp(-t / 40) + float(noise[t]) for t in range(400)
    )
    resumed = RunTrace.of_losses(
        0.12 + 2.05 * math.exp(-t / 60) + 4 * float(noise[400 + t]) for t in range(500)
    )
    return Demonstration(
        "digits",
        "64-64-10 tanh",
        SIZE,
        1437,
        diagnosis(),
        escape(),
        stalled,
        resumed,
        0.102,
        0.968,
        0.951,
        21.4,
    )


def ends() -> Ends:
    """Both ends of the spectrum of the saddle."""
    p = point()
    assert p.lambda_min
    assert p.lambda_max

    def pairs(values: list[float]) -> Pairs:
        k = len(values)
        return Pairs(
            torch.tensor(values).double(),
            torch.eye(6, k).double(),
            torch.full((k,), 1e-9).double(),
            torch.ones(k) > 0,
        )

    return Ends(
        pairs([-0.221]),
        pairs([3.9, 3.4]),
        p.lambda_min,
        p.lambda_max,
        p.eigenvalues,
        4.2e-6,
        1e-9,
        84,
        "converged",
    )


def every_record() -> list[object]:
    """One record of each type that can be saved, those with missing parts too."""
    whole = diagnosis()
    bare = replace(
        point(), kind=Kind.UNDECIDED, lambda_min=None, lambda_max=None, gradient_standard_error=None
    )
    bare = replace(bare, escape_direction=None, eigenvalues=torch.empty(0), outcome="interrupted")
    bare = replace(bare, lowest_curvatures=torch.empty(0), lowest_directions=torch.empty(SIZE, 0))
    line, _ = profiles()
    return [
        point(),
        bare,
        escape(),
        replace(
            escape(),
            moved=False,
            loss_after=2.302011,
            direction=None,
            step=0.0,
            along=0,
            predicted_decrease=0.0,
        ),
        ends(),
        density(),
        line,
        plane(),
        portrait(),
        replace(portrait(), density=None, lines=(), plane=None, outcome="interrupted"),
        whole,
        replace(whole, portrait=None, escape=None),
        demonstration(),
        TraceEstimate(3.2, 0.1, 20),
    ]
