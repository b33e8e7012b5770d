"""Everything that is measured about a stuck run, cheap things first.

Answers: what do its losses, its signals, its optimizer and the point itself show?
Does not answer: which cause that speaks for (``rules``).
"""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.optim import SGD, Optimizer

from unstick.critical.classifying import classify
from unstick.critical.curvature import Progress
from unstick.critical.point import Kind, Point
from unstick.diagnosis.bench import Arm, Bench, cloud
from unstick.diagnosis.course import Course, read_course
from unstick.diagnosis.run import Run
from unstick.diagnosis.signals import Signals, read_signals
from unstick.errors import BudgetTooSmall, UnstickError
from unstick.problem.cost import Cost
from unstick.problem.problem import Problem
from unstick.trace import RunTrace

__all__ = [
    "Evidence",
    "Outcome",
    "Steps",
    "coupled_decay",
    "gather",
    "in_step",
    "is_plain",
    "with_coupled_decay",
]

RESTARTS, RESTART_GRADIENTS = 3, 170.0
"""Restarts, and what each may cost where half of the run would not be dearer: 500 gradients in all, or three half runs."""

FEW, CLOUD = 100, 256
"""Parameters up to which random ones are looked at, and how many."""

SIGNALS = 30.0
"""What looking at the signals costs, in gradients of 256 samples."""

ARMS = 8
"""About so many arms there are."""

ARM_GRADIENTS = 16.0
"""What one arm may cost, in full-data gradients: eight arms and a verdict stay below 300."""

ARM_UPDATES = 400
"""Updates of an arm, at most: on small batches a gradient pays for many."""

IN_STEP = 3.0
"""Growth of the gain with ten times the rate that still counts as growing with it."""

COUPLED = (
    "SGD",
    "Adam",
    "RMSprop",
    "Adagrad",
    "NAdam",
    "RAdam",
    "Adamax",
    "Adadelta",
    "RuleOptimizer",
)
"""Optimizers of torch, and ours, that send weight decay through the gradient."""


@dataclass(frozen=True, slots=True)
class Steps:
    """The optimizer's settings, as far as they are known."""

    optimizer: str  # class
    rate: float  # largest of the groups
    momentum: float
    adaptive: bool  # not a multiple of the gradient
    highest_rate: float  # that the run, the groups or the scheduler remember
    coupled: float  # largest weight decay that goes through the gradient
    decoupled: float
    clip_norm: float | None
    batch_size: int
    sharpness: (
        float | None
    )  # η·λmax over what the step bears, 2(1 + μ): above 1 it swings; None where not a plain step


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a copy that was trained on."""

    updates: int
    loss: float  # of all data afterwards; nan where it blew up
    gain: float  # loss before − loss after; −inf where it blew up
    data_gain: float  # the same without weight decay
    settled: float = math.nan  # mean batch loss over the last third of its updates


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What was measured; ``None`` where it could not be, and ``missing`` says why."""

    loss: float
    bound: float  # the loss cannot fall below: known, or 0
    level: float  # the loss that counts as nothing learned, minus the bound: of a constant output, or at the start
    level_known: bool  # else it is the present loss
    course: Course | None
    signals: Signals | None
    steps: Steps | None
    point: Point
    without_decay: Point | None  # the point of the data's loss alone, where weight decay is in play
    arms: dict[str, Outcome] = field(default_factory=dict[str, Outcome])
    restarts: float | None = None  # lowest loss that restarts reached; None where none were tried
    restart_gradients: float = 0.0  # what those took
    noise_scale: float | None = (
        None  # tr Σ / ‖g‖²: samples at which noise and gradient are equally long
    )
    missing: tuple[str, ...] = ()
    outcome: str = "complete"  # "budget" or "interrupted"

    @property
    def stuck(self) -> float:
        """Part of the way that is still to go: 1 at the level of nothing learned or where that is not known, 0 at the bound."""
        return (self.loss - self.bound) / self.level if self.level_known and self.level > 0 else 1.0

    def gain(self, arm: str) -> float | None:
        """What an arm gained, as a part of the level; None where it was not tried."""
        outcome = self.arms.get(arm)
        return None if outcome is None or self.level <= 0 else outcome.gain / self.level


def gather(
    run: Run, *, budget: float, seed: int, trials: bool = True, progress: Progress | None = None
) -> tuple[Evidence, Problem]:
    """Measure a stuck run.

    Args:
        run: As far as it is known; the model and the optimizer stay untouched.
        budget: Most work, in full-data gradients.
        seed: Of everything random.
        trials: Whether to restart where the point leads nowhere: as many updates again as the run had, three times.
        progress: Called with (stage, done, total).

    Returns:
        The evidence, and the problem with the weight decay that goes through the optimizer's gradient.

    Cost:
        About 60 to 300 gradients.
    """
    problem = with_coupled_decay(run)
    decay = problem is not run.problem
    missing: list[str] = []
    loss = problem.value()
    course = read_course(run.history)
    if course is None:
        missing.append("no history of losses: how they went is not known")
    shared = problem.team.size > 1
    signals = None
    if shared:
        missing.append("several processes share the problem: signals and steps were not looked at")
    else:
        signals = _tried(
            lambda: read_signals(problem, seed=seed), "the signals in the model", missing
        )
    bound = problem.lower_bound or 0.0
    constant = None if signals is None else signals.constant_loss
    start = constant if constant is not None else None if course is None else course.first
    level = (start if start is not None else max(abs(loss), 1e-300)) - bound
    bench = Bench(run, problem)
    if run.optimizer is None:
        missing.append("no optimizer: its steps could not be tried")
    elif not bench.fits:
        missing.append(
            "the optimizer holds none of the model's parameters: its steps could not be tried"
        )
    if run.batch_size is None and run.optimizer is not None:
        missing.append("no batch size: steps were tried on all samples")
    elif run.batch_size is not None and run.batch_size > max(1, problem.samples):
        missing.append(
            f"batch_size={run.batch_size} is more than the {problem.samples:,} samples: all were taken"
        )
    closure = run.optimizer is not None and _needs_closure(run.optimizer)
    if closure:
        kind = type(run.optimizer).__name__
        missing.append(f"{kind} steps with a closure: its steps could not be tried")
    tries = bench.fits and not shared and not closure
    reserve = ARMS * min(ARM_GRADIENTS, 0.3 * budget / ARMS) if tries else 0.0
    looked = 0.0 if signals is None else SIGNALS * min(1.0, 256 / max(1, problem.samples))
    verdict = max(budget - reserve - looked, budget / 3)
    try:
        point = classify(problem, budget=verdict, seed=seed, progress=progress)
    except BudgetTooSmall as error:
        apart = budget - verdict
        raise BudgetTooSmall(
            f"budget={budget:g} gradients, of which {apart:.0f} are for signals and steps, leaves {verdict:.0f} for the point, "
            f"which does not suffice: {error}"
        ) from None
    except (UnstickError, OverflowError) as error:
        if course is None or not course.blew_up:
            raise
        point = _beyond(
            problem, loss, " ".join(str(error).split())[:120]
        )  # numbers near the largest there are
    outcome = point.outcome
    alone = None
    if decay and outcome != "interrupted" and _weighs(problem, run.problem):
        alone = _tried(
            lambda: classify(run.problem, budget=budget / 3, seed=seed, progress=progress),
            "the point without weight decay",
            missing,
        )
    arms: dict[str, Outcome] = {}
    if tries and outcome != "interrupted":
        try:
            _fill(arms, run, problem, bench, loss, max(1.0, reserve / ARMS), seed, course, progress)
        except KeyboardInterrupt:
            outcome = "interrupted"
        except (UnstickError, RuntimeError, ValueError, TypeError, IndexError) as error:
            tries = False
            missing.append(f"steps could not be tried: {' '.join(str(error).split())[:160]}")
    restarts, begin = None, problem.spent.gradients
    blown = course is not None and course.blew_up
    if trials and outcome != "interrupted" and _at_rest(point) and not blown and not shared:
        try:
            restarts = _restarted(bench if tries else None, problem, course, seed, progress)
        except KeyboardInterrupt:
            outcome = "interrupted"
    restart_gradients = problem.spent.gradients - begin
    return (
        Evidence(
            loss=loss,
            bound=bound,
            level=level,
            level_known=start is not None,
            course=course,
            signals=signals,
            steps=_steps(run, bench, point),
            point=point,
            without_decay=alone,
            arms=arms,
            restarts=restarts,
            restart_gradients=restart_gradients,
            noise_scale=_noise_scale(problem, seed),
            missing=tuple(missing),
            outcome=outcome,
        ),
        problem,
    )


def _beyond(problem: Problem, loss: float, why: str) -> Point:
    """The point of a run that blew up, where not even its curvature can be computed."""
    gradient = problem.gradient().double()
    nothing = torch.empty(0, dtype=torch.float64)
    return Point(
        kind=Kind.UNDECIDED,
        proof=f"curvature cannot be computed here: {why}",
        loss=loss,
        gradient_norm=float(torch.linalg.vector_norm(gradient)),
        gradient_standard_error=None,
        lambda_min=None,
        lambda_max=None,
        inertia=None,
        minimum_ratio=None,
        noise_floor=0.0,
        tau=0.0,
        slope_decrease=0.0,
        curvature_decrease=0.0,
        loss_noise=0.0,
        escape_direction=None,
        escape_step=0.0,
        lowest_curvatures=nothing,
        lowest_directions=torch.empty(problem.n, 0, dtype=torch.float64),
        eigenvalues=nothing,
        parameters=problem.n,
        notes=(),
        outcome="complete",
        cost=Cost(),
    )


def _at_rest(point: Point) -> bool:
    """Whether no small step that was tried leads down, so that only another start could."""
    if point.kind in (Kind.MINIMUM, Kind.DEGENERATE, Kind.UNDECIDED):
        return point.escape_direction is None
    return False


def _needs_closure(optimizer: Optimizer) -> bool:
    parameter = inspect.signature(type(optimizer).step).parameters.get("closure")
    return parameter is not None and parameter.default is inspect.Parameter.empty


def _restarted(
    bench: Bench | None,
    problem: Problem,
    course: Course | None,
    seed: int,
    progress: Progress | None,
) -> float | None:
    """The lowest loss of all data after restarts, and of a cloud of random parameters where there are few."""
    found: list[float] = []
    if problem.n <= FEW:
        found.append(cloud(problem, CLOUD, seed=seed))
    if bench is not None:
        updates = 200 if course is None else max(1, course.updates)
        affordable = bench.updates_for(RESTART_GRADIENTS)
        for k in range(RESTARTS):
            if progress is not None:
                progress("restarts", k, RESTARTS)
            length = min(updates, max(affordable, updates // 2))
            found.append(bench.go_on(length, seed=seed + k, anew=True).loss)
    known = [loss for loss in found if math.isfinite(loss)]
    return min(known) if known else None


def with_coupled_decay(run: Run) -> Problem:
    """The run's problem with the weight decay that the optimizer sends through the gradient; itself where there is none."""
    decay = coupled_decay(run)
    return run.problem.with_decay(decay) if decay else run.problem


def coupled_decay(run: Run) -> dict[str, float]:
    """The weight decay of each parameter, by name, that the optimizer sends through the gradient."""
    if run.optimizer is None or type(run.optimizer).__name__ not in COUPLED:
        return {}
    names = {id(p): name for name, p in run.problem.model.named_parameters()}
    return {
        names[id(p)]: float(group.get("weight_decay", 0.0))
        for group in run.optimizer.param_groups
        if not group.get("decoupled_weight_decay", False)
        for p in group["params"]
        if id(p) in names and group.get("weight_decay", 0.0) and p.requires_grad
    }


def _fill(
    found: dict[str, Outcome],
    run: Run,
    problem: Problem,
    bench: Bench,
    loss: float,
    each: float,
    seed: int,
    course: Course | None,
    progress: Progress | None,
) -> None:
    """Train copies on from here, unchanged and with one setting changed each, for so many gradients each."""
    plain = run.problem
    here = plain.value() if problem is not plain else loss
    limit = ARM_UPDATES if course is None else min(ARM_UPDATES, max(24, course.updates // 2))

    def told(name: str, arm: Arm) -> None:
        if arm.blew_up:
            found[name] = Outcome(len(arm.losses), math.nan, -math.inf, -math.inf)
            return
        last = arm.losses[-max(1, len(arm.losses) // 3) :]
        settled = sum(last) / len(last)
        found[name] = Outcome(
            len(arm.losses), arm.loss, loss - arm.loss, here - arm.data_loss, settled
        )

    changes: dict[str, dict[str, Any]] = {
        "continue": {},
        "rate ÷ 10": {"rate": 0.1},
        "rate × 10": {"rate": 10.0},
        "rate × 100": {"rate": 100.0},
        "momentum": {"momentum": 0.9},
    }
    steps = _steps(run, bench, None)
    assert steps is not None
    if bench.batch_size < problem.samples:
        changes["batch × 16"] = {"batch": 16.0}
    if run.clip_norm is not None:
        changes["no clipping"] = {"clip": False}
    if steps.coupled or steps.decoupled:
        changes["no decay"] = {"decay": False}
    if steps.rate < 0.5 * steps.highest_rate:
        changes["highest rate"] = {"to_rate": steps.highest_rate}
    if steps.momentum >= 0.5 or steps.adaptive:
        changes.pop("momentum")
    for number, (name, change) in enumerate(changes.items()):
        if progress is not None:
            progress("arms", number, len(changes))
        size = change.get("batch", 1.0)
        updates = min(limit, bench.updates_for(each, batch=size))
        told(name, bench.go_on(updates, seed=seed, **change))
    if in_step(found):  # ten times the rate pays ten times as much up to here
        updates = min(limit, bench.updates_for(each))
        told("rate × 1000", bench.go_on(updates, seed=seed, rate=1000.0))


def in_step(arms: Mapping[str, Outcome]) -> bool:
    """Whether gains grow with the rate over two decades: then all of these rates are far below what the surface bears."""
    gains = [
        arms[name].gain if name in arms else math.nan
        for name in ("continue", "rate × 10", "rate × 100")
    ]
    return all(math.isfinite(g) for g in gains) and 0 < IN_STEP**2 * gains[0] < IN_STEP * gains[
        1
    ] < gains[2] * (1 + 1e-9)


def _steps(run: Run, bench: Bench, point: Point | None) -> Steps | None:
    optimizer = run.optimizer
    if optimizer is None or not bench.fits:
        return None
    groups = optimizer.param_groups
    rate = max(float(group["lr"]) for group in groups)
    momentum = max(float(group.get("momentum", 0.0) or 0.0) for group in groups)
    adaptive = not is_plain(optimizer)
    decays = max(float(group.get("weight_decay", 0.0) or 0.0) for group in groups)
    coupled = type(optimizer).__name__ in COUPLED
    sharp = None
    if not adaptive and point is not None and point.lambda_max is not None:
        sharp = rate * max(0.0, point.lambda_max.value) / (2 * (1 + momentum))
    return Steps(
        optimizer=type(optimizer).__name__,
        rate=rate,
        momentum=momentum,
        adaptive=adaptive,
        highest_rate=max(rate, *_remembered(run, optimizer)),
        coupled=decays if coupled else 0.0,
        decoupled=0.0 if coupled else decays,
        clip_norm=run.clip_norm,
        batch_size=bench.batch_size,
        sharpness=sharp,
    )


def is_plain(optimizer: Optimizer) -> bool:
    """Whether a step is the gradient, or a sum of gradients, times the rate."""
    return isinstance(optimizer, SGD) or type(optimizer).__name__ == "RuleOptimizer"


def _remembered(run: Run, optimizer: Optimizer) -> list[float]:
    """Learning rates of earlier: the groups' own note, the scheduler's, the trace's."""
    found = [float(group.get("initial_lr", 0.0)) for group in optimizer.param_groups]
    base = getattr(run.scheduler, "base_lrs", None)
    if isinstance(base, list):
        found += [float(rate) for rate in base]
    if isinstance(run.history, RunTrace):
        found += [rate for rate in run.history.learning_rate if rate is not None]
    return found or [0.0]


def _weighs(problem: Problem, plain: Problem) -> bool:
    """Whether weight decay holds against a good part of the data's gradient, or of what the loss is."""
    g, data = problem.gradient().double(), plain.gradient().double()
    pull = float((g - data).norm())
    share = pull / (float(data.norm()) + pull + 1e-300)
    return share > 0.2 or (problem.value() - plain.value()) > 0.01 * abs(plain.value())


def _noise_scale(problem: Problem, seed: int) -> float | None:
    try:
        g = problem.gradient()
        noise = problem.gradient_noise(gradient=g, accuracy=0.2, seed=seed)
    except (UnstickError, RuntimeError):
        return None
    length = float(g.double().square().sum())
    return None if noise is None or length == 0 else noise.trace / length


def _tried(work: Callable[[], Any], what: str, missing: list[str]) -> Any:
    try:
        return work()
    except UnstickError as error:
        missing.append(f"{what}: {' '.join(str(error).split())}")
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        missing.append(f"{what} could not be measured: {' '.join(str(error).split())[:120]}")
    return None
