"""One realistic record of every kind, built without running anything: seeded, small, and quick."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from report.landscape_examples import every_landscape_record
from unstick.critical.escaping import Escape
from unstick.critical.layers import Block, CurvatureByLayer, LayeredEnds, LayerMass
from unstick.critical.planning import Plan
from unstick.critical.point import Kind, Point
from unstick.critical.taylor import Profile
from unstick.diagnosis.cause import HEALTHY, Cause
from unstick.diagnosis.course import read_course
from unstick.diagnosis.diagnosing import Diagnosis, Pace
from unstick.diagnosis.evidence import Evidence, Outcome, Steps
from unstick.diagnosis.portrait import Layer, Portrait
from unstick.diagnosis.rules import Support
from unstick.diagnosis.signals import LayerState, Signals
from unstick.diagnosis.stall import StalledRun
from unstick.diagnosis.trials import Trial, TrialPlan
from unstick.landscape.plane import Plane
from unstick.problem.cost import Cost
from unstick.spectrum.density import Density
from unstick.spectrum.ends import Ends, Pairs
from unstick.spectrum.inertia import Inertia, ToleranceSweep
from unstick.spectrum.interval import Interval
from unstick.spectrum.trace import TraceEstimate
from unstick.studies.demo import Demonstration
from unstick.studies.gallery.measuring import Case, GalleryResult
from unstick.studies.toys.toy import Check, Chord, Cut, Ground, Spot, Taylor, Toy, Trail
from unstick.trace import RunTrace
from unstick.training.averaging import Swapped
from unstick.training.initialization import Initialized
from unstick.training.loop import Trained
from unstick.training.population import Population
from unstick.training.pretrained import Kept, Pretrained
from unstick.training.recipe import Recipe, vary
from unstick.training.samples import Score
from unstick.training.signals import LayerSignal, SignalByLayer
from unstick.training.standardizing import Conditioning

__all__ = [
    "HOSTILE",
    "demonstration",
    "diagnosis",
    "every_record",
    "evidence",
    "falling",
    "gallery",
    "point",
    "population",
    "signal",
    "swapped",
    "trained",
    "training",
    "treated",
    "trial",
]

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
        evidence(),
    )


def evidence() -> Evidence:
    """Everything measured, with an arm that blew up."""
    layers = (
        LayerState("0", 64, 0.0, 1.0, 0.0, 1e-3),
        LayerState("2", 64, 0.25, 0.0, 0.5, 2e-3),
    )
    signals = Signals(
        layers,
        *(("0.weight",), (), ()),
        *(0.1, 0.5, 1.0, 3.5, None, 0.2, False, True, True, False, math.log(10)),
    )
    steps = Steps("SGD", 0.1, 0.9, False, 0.1, 1e-4, 0.0, 1.0, 32, 0.4)
    arms = {
        "continue": Outcome(100, 2.3, 0.001, 0.001),
        "rate × 100": Outcome(3, math.nan, -math.inf, -math.inf),
    }
    course = read_course([2.5 - 0.001 * k for k in range(200)])
    return Evidence(
        *(2.302, 0.0, math.log(10), True, course, signals, steps, point(), None),
        *(arms, 2.2, 12.0, 1800.0, ("no history of losses",), "complete"),
    )


def trial(
    remedy: str,
    *rows: Sequence[float],
    ends: Sequence[float],
    helped: bool = False,
    outcome: str = "complete",
    key: str = "",
    updates: int = 80,
    gradients: float = 8.0,
) -> Trial:
    """A remedy whose copies had these mean losses and ended there; going on stayed at 2.302."""
    return Trial(
        remedy=remedy,
        about=f"every learning rate as “{remedy}” says",
        loss_before=2.302,
        losses_after=tuple(ends),
        continue_losses=(2.302, 2.301, 2.303),
        helped=helped,
        cost=Cost(24_000, 3 * gradients, 0.3),
        code='for group in optimizer.param_groups:\n    group["lr"] *= 10',
        keeps_weights="start" not in remedy,
        keeps_model=True,
        gradients=gradients,
        updates=updates,
        curve=tuple(map(tuple, rows)),
        continue_curve=tuple((2.302 + 0.001 * seed,) * 40 for seed in range(3)),
        key=key or remedy,
        seeds=(0, 1, 2),
        outcome=outcome,
    )


def treated() -> Diagnosis:
    """A stall that one remedy ended: of the others one was dropped, one blew up on a seed, on another batch size."""
    fall = [[2.3 * 0.9 ** (k + seed) for k in range(40)] for seed in range(3)]
    slow = [[3.0 - 0.01 * k + 0.1 * seed for k in range(20)] for seed in range(3)]
    blown = [[2.3, 40.0, 1e30, math.nan], *([2.3 + 0.1 * k for k in range(10)],) * 2]
    trials = (
        trial("rate × 10", *fall, ends=(0.03, 0.02, 0.01), helped=True),
        trial(
            "new start", *slow, ends=(2.8, 2.9, 3.0), outcome="dropped", updates=20, gradients=2.0
        ),
        trial(
            "rate × 1000 + batch × 16",
            *blown,
            ends=(math.nan, 3.2, 3.3),
            outcome="dropped",
            key="rate × 1000 & batch × 16",
            updates=10,
            gradients=2.0,
        ),
    )
    untried = (("no clipping", "gradients are not clipped"),)
    return replace(
        diagnosis(),
        portrait=None,
        trials=trials,
        untried=untried,
        plan=TrialPlan(3, 96.0, 8.0, 20.0),
    )


def gallery() -> GalleryResult:
    """One stall right, one wrong, one of which two answers are right; a healthy one called so, an alarm, one left open."""
    rate, saddle, floor = Cause.LEARNING_RATE_TOO_SMALL, Cause.STRICT_SADDLE, Cause.MODEL_FLOOR
    stalls = (
        Case("tiny-rate", 0, "stalled", (rate,), (rate, saddle), 80.0),
        Case("tiny-rate", 1, "stalled", (rate,), (saddle, rate), 90.0),
        Case("zero-start", 0, "stalled", (saddle, Cause.SYMMETRIC_UNITS), (saddle,), 120.5),
    )
    healthy = (
        Case("digits", 0, "middle", HEALTHY, (floor,), 60.0),
        Case("digits", 0, "early", HEALTHY, (rate, floor), 61.0),
        Case("digits", 0, "late", HEALTHY, (Cause.UNDECIDED,), 62.0),
    )
    return GalleryResult(stalls, healthy, ("flat-start, seed 1",), "complete", 12.5)


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


def training(
    losses: Sequence[float],
    recipe: Recipe | None = None,
    *,
    samples: int = 100,
    outcome: str | None = None,
    scores: Sequence[Score] = (),
) -> Trained:
    """A training that had these losses; an epoch is as long as the recipe says, its last batch the rest."""
    recipe = recipe or Recipe(batch_size=30)
    order = recipe.order(samples)
    sizes = [
        min(order.batch_size, samples - order.batch_size * (at % order.batches))
        for at in range(len(losses))
    ]
    trace = RunTrace()
    for loss, size in zip(losses, sizes, strict=True):
        trace.record(loss=loss, lr=0.1, batch_size=size, seconds=2e-4)
    broken = bool(losses) and not math.isfinite(losses[-1])
    used = sum(sizes)
    return Trained(
        outcome=outcome or ("diverged" if broken else "done"),
        recipe=recipe,
        trace=trace,
        scores=tuple(scores),
        epochs=used / samples,
        samples=samples,
        parameters=50,
        cost=Cost(used, used / samples, 0.1),
    )


def falling(updates: int, *, rate: float = 0.05, floor: float = 0.02, seed: int = 0) -> list[float]:
    """Losses that fall with noise, all positive."""
    noise = torch.randn(updates, generator=_generator(seed), dtype=torch.float64)
    return [
        (floor + 2.3 * math.exp(-rate * t)) * math.exp(0.2 * float(noise[t]))
        for t in range(updates)
    ]


def trained() -> Trained:
    """Everything recorded: a schedule, norms, scores of three splits, one of them taken twice."""
    recipe = Recipe("adam", lr=0.01, batch_size=30, epochs=20, norms=True, clip_norm=1.0)
    told = training(falling(80), recipe)
    told.trace.learning_rate = [0.01 * 0.95**t for t in range(80)]
    told.trace.gradient_norm = [2.0 * 0.97**t for t in range(80)]
    told.trace.update_norm = [0.0, *(0.05 * 0.96**t for t in range(79))]
    scores = (
        Score(40, "validation", 0.6, 0.81),
        Score(80, "validation", 0.11, 0.97),
        Score(80, "training", 0.05, 0.99),
        Score(80, "test", 0.13, 0.96),
    )
    return replace(told, scores=scores, notes=("the parameters are the mean of 3 epochs' ends",))


def population() -> Population:
    """Three rates, two seeds each; the largest rate diverges."""
    recipes = vary(Recipe(batch_size=30, epochs=5), lr=(0.01, 0.1, 10.0), seed=range(2))
    members: list[Trained] = []
    for recipe in recipes:
        assert recipe.lr is not None
        losses = falling(20, rate=recipe.lr, seed=recipe.seed)
        if recipe.lr > 1:
            losses = [2.3, 1e4, 1e12, 1e30, math.inf]
        score = Score(20, "validation", 0.5 / recipe.lr, None)
        members.append(training(losses, recipe, scores=() if recipe.lr > 1 else (score,)))
    return Population(tuple(members), 6, Cost(3000, 30.0, 0.4), ("6 members take turns",))


def swapped() -> Swapped:
    """The average is better than its workers."""
    small = vary(Recipe(batch_size=10, epochs=2), seed=range(3))
    workers = Population(
        tuple(training(falling(20, seed=recipe.seed), recipe) for recipe in small),
        3,
        Cost(600, 6.0, 0.1),
    )
    return Swapped(
        training(falling(8), Recipe(batch_size=50, epochs=4)),
        workers,
        Score(0, "validation", 0.5, 0.8),
        tuple(Score(0, "validation", 0.2 + 0.01 * k, 0.9 + 0.01 * k) for k in range(3)),
        Score(0, "validation", 0.15, 0.95),
        Cost(1000, 10.0, 0.3),
    )


def signal() -> SignalByLayer:
    """The signal fades, dies and turns into nan; the gradient comes back to two layers."""
    return SignalByLayer(
        (
            LayerSignal("0", "Linear", 0.5, 0.5, 1e-6),
            LayerSignal("1", "ReLU", 1e-3, 2e-3, 1e-5),
            LayerSignal("head.fc", "Linear", 0.0, 0.0, None),
            LayerSignal("head.out", "Linear", math.nan, None, None),
        ),
        "not finite",
    )


def toys() -> list[object]:
    """A small toy with something of each kind on it, and its parts."""
    at = torch.linspace(-1.0, 1.0, 5, dtype=torch.float64)
    bent = replace(point(), eigenvalues=torch.tensor([-2.0, 2.0]).double(), parameters=2)
    spot = Spot("the saddle", torch.zeros(2).double(), bent, torch.eye(2).double())
    trail = Trail(
        "Adam", torch.arange(5), torch.stack([at, at], dim=1), at.abs(), 0.1, (0.1, 0.3), 4
    )
    whole = Taylor(
        "at a slope", torch.zeros(2), 1.0, torch.ones(2), torch.eye(2), at, at, plane().losses[:5, :5],
        at.abs(), at.abs() ** 3, 3.0,
    )  # fmt: skip
    ground = Ground("plain", replace(plane(), x_name="a", y_name="b"), (spot,), (trail,), (whole,))
    chord = Chord(at[[0, -1]], at, at * 0, at**2, 0.0)
    cut = Cut("a curve", "w", at, at**2, (), (chord,))
    check = Check("rate", 0.5, 0.5, "1 − 2/(κ + 1)")
    toy = Toy("two-weights", "A toy", "It shows.", (ground,), (cut,), escape(), (check,), "a loss of 0", 0, (), "complete",
        Cost())  # fmt: skip
    return [toy, ground, spot, trail, whole, chord, cut, check]


def every_record() -> list[object]:
    """One record of each type that can be saved, those with missing parts too."""
    whole = diagnosis()
    bare = replace(
        point(), kind=Kind.UNDECIDED, lambda_min=None, lambda_max=None, gradient_standard_error=None
    )
    bare = replace(bare, escape_direction=None, eigenvalues=torch.empty(0), outcome="interrupted")
    bare = replace(bare, lowest_curvatures=torch.empty(0), lowest_directions=torch.empty(SIZE, 0))
    line, _ = profiles()
    half = torch.full((2, 1), 0.5).double()
    mass = LayerMass(("λ",), ("0.weight", "0.bias"), half, (64, 8), ("0",), half[:1] * 2)
    block = Block(
        "0", 72, Interval(-1, -2, -1, 0.9, 1), Interval(3, 3, 4, 1, 0.9), 1e-9, 20, "converged"
    )
    plan = Plan(
        72, 100, "kept", "cpu", 1e4, 2e4, 3, 0, 5e3, 1e6, 40, "device", 576, 23040.0, 1152.0, 0.0, None, 1.0, 2.0, 90, 0.5
    )  # fmt: skip
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
        treated(),
        treated().trials[-1],
        TrialPlan(3, 96.0, 8.0, 20.0),
        Pace(100, 0.3, 0.2, 0.27),
        demonstration(),
        TraceEstimate(3.2, 0.1, 20),
        Inertia(1, 0, 1, 1e-9, torch.tensor([-1.0, 1.0]).double(), agreed=True),
        ToleranceSweep(
            torch.tensor([1e-9, 1.0]).double(), *(torch.tensor([1, k]) for k in range(3))
        ),
        trained(),
        training([]),
        training([2.3, math.nan, -math.inf]),
        population(),
        swapped(),
        StalledRun(training(falling(9), outcome="no progress"), whole),
        Initialized("he", 3, ("0.weight",), ("0.bias",), {"1.weight": "neither matrix nor bias"}),
        Pretrained(("0.weight",), (Kept("1.weight", (4, 3), None),), ("2.weight",)),
        signal(),
        gallery(),
        GalleryResult((), (), (), "interrupted", 0.1),
        Conditioning(1e4, math.inf, 0, 2, 64),
        mass,
        LayeredEnds(ends(), mass, "complete"),
        block,
        CurvatureByLayer((block,), (), "complete", Cost(100, 40.0, 0.1)),
        plan,
        *every_landscape_record(),
        *toys(),
    ]
