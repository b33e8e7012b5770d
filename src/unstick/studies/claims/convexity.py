"""Which losses are convex: linear and logistic regression, and the same behind a hidden layer."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import nan

import torch
from torch import Tensor, nn

from unstick.data import Dataset
from unstick.landscape.convexity import Convexity, convexity
from unstick.problem.problem import Problem
from unstick.record import number
from unstick.studies.frame import (
    Arm,
    Decision,
    Effect,
    Picture,
    Series,
    Setting,
    Study,
    Table,
    Task,
    Verdict,
    share,
)
from unstick.studies.frame.sketching import sketch
from unstick.studies.frame.table import Value
from unstick.studies.measures.sample import part
from unstick.training import Recipe, train

__all__ = ["STUDY"]

LOSSES = {"squared": "squared error", "cross-entropy": "cross-entropy"}
HIDDEN = "8"
SAMPLES = (200, 1000)
POINTS = (12, 24)
UPDATES = 200  # of training, so that one of the points is where somebody would stand
PLACES = 41  # of the picture's segment


def _arms(_setting: Setting) -> Sequence[Arm]:
    return [
        Arm(f"{model}, {told}", {"model": model, "loss": loss})
        for model in ("linear", "hidden layer", "its last layer")
        for loss, told in LOSSES.items()
    ]


def _measure(task: Task) -> dict[str, Value]:
    data = part(task.data("iris"), SAMPLES[task.full], task.generator("samples"))
    model, loss, targets = _setup(task, data)
    train(
        model, (data.train_inputs, targets), loss, Recipe(lr=0.05, batch_size=None, updates=UPDATES)
    )
    problem = Problem(model, (data.train_inputs, targets), loss, dtype=torch.float64)
    if task.arm["model"] == "its last layer":
        problem = problem.restrict(_last(model))
    found = convexity(problem, points=POINTS[task.full], thorough=True, seed=task.seed)
    t, losses, chord = _slice(problem, found, task)
    return {
        "outcome": found.outcome,
        "violated": found.outcome == "nonconvex",
        "tests": sum(test.done for test in found.tests),
        "broken": sum(test.broken for test in found.tests),
        "gap": max((violation.gap for violation in found.violations), default=0.0),
        "noise": max((violation.noise for violation in found.violations), default=nan),
        "lowest_curvature": found.lowest_curvature,
        "parameters": problem.n,
        "t": t,
        "losses": losses,
        "chord": chord,
    }


def _setup(
    task: Task, data: Dataset
) -> tuple[nn.Module, Callable[[Tensor, Tensor], Tensor], Tensor]:
    """Model, loss and targets; numbers become two classes about their median, and classes become unit vectors."""
    targets = data.train_targets
    if task.arm["loss"] == "cross-entropy":
        if not data.classes:
            data = _in_two(data)
            targets = data.train_targets
        loss = nn.functional.cross_entropy
    else:
        if data.classes:
            targets = nn.functional.one_hot(targets, data.classes)
        targets = targets.to(data.train_inputs).reshape(len(targets), -1)
        loss = _half_square
    if task.arm["model"] == "linear":
        task = replace(task, setting=replace(task.setting, model=None))
    spec = "linear" if task.arm["model"] == "linear" else HIDDEN
    return task.network(spec, data, activation="tanh"), loss, targets


def _in_two(data: Dataset) -> Dataset:
    """A regression as two classes, above and up to the median of the first target."""
    train, test = (t.reshape(len(t), -1)[:, 0] for t in (data.train_targets, data.test_targets))
    middle = train.median()
    return replace(
        data,
        train_targets=(train > middle).long(),
        test_targets=(test > middle).long(),
        classes=2,
    )


def _half_square(outputs: Tensor, targets: Tensor) -> Tensor:
    return 0.5 * (outputs - targets).square().sum(1).mean()


def _last(model: nn.Module) -> str:
    """The pattern of the last layer's parameters."""
    name = [name for name, _ in model.named_parameters()][-1]
    return f"{name.rpartition('.')[0]}.*"


def _slice(
    problem: Problem, found: Convexity, task: Task
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
    """The loss along the clearest violation, or along a random segment, and the chord from end to end."""
    if found.violations:
        clearest = max(found.violations, key=lambda violation: violation.gap / violation.noise)
        a, b = clearest.first, clearest.second
    else:
        a = problem.parameters()
        normal = torch.randn(len(a), generator=task.generator("segment"), dtype=torch.float64)
        b = a + normal.to(a)
    t = torch.linspace(0, 1, PLACES, dtype=torch.float64)
    losses = problem.values(a + t.to(a).unsqueeze(1) * (b - a))
    chord = losses[0] + t * (losses[-1] - losses[0])
    return tuple(t.tolist()), tuple(losses.tolist()), tuple(chord.tolist())


def _decide(table: Table) -> Decision:
    effects: list[Effect] = []
    for arm in table.arms:
        runs = table.column("violated", arm)
        if runs:
            effects.append(
                share(
                    int(sum(runs)),
                    len(runs),
                    name=f"runs with a proved violation, {arm}",
                    unit="runs",
                    comparisons=len(table.arms),
                )
            )
    hidden = [arm for arm in table.arms if arm.startswith("hidden")]
    broken = [arm for arm in table.arms if arm not in hidden and any(table.column("violated", arm))]
    found = [
        arm
        for arm in hidden
        if table.column("violated", arm) and all(table.column("violated", arm))
    ]
    complete = all(table.column("violated", arm) for arm in table.arms)
    tests = sum(sum(table.column("tests", arm)) for arm in table.arms if arm not in hidden)
    gap = max((gap for arm in hidden for gap in table.column("gap", arm)), default=nan)
    said = (
        f"Linear models and last layers: {'a violation is proved for ' + ', '.join(broken) if broken else 'no violation'} in {tests:,.0f} "
        f"tests, which proves nothing. With a hidden layer: proved not convex in every run for {len(found)} of {len(hidden)} losses; "
        f"the largest loss above its chord is {number(gap, 3)}."
    )
    if broken:
        return Decision(Verdict.CONTRADICTED, said, tuple(effects))
    proved = complete and bool(hidden) and len(found) == len(hidden)
    return Decision(Verdict.SUPPORTED if proved else Verdict.INCONCLUSIVE, said, tuple(effects))


def _pictures(table: Table) -> list[Picture]:
    pictures: list[Picture] = []
    for arm in table.arms:
        if not (places := table.curves("t", arm)):
            continue
        t, losses, chord = (
            curves[0]
            for curves in (places, table.curves("losses", arm), table.curves("chord", arm))
        )
        pictures.append(
            Picture(
                name=arm.replace(" ", "-").replace(",", ""),
                title=f"The loss along a segment: {arm}",
                caption="The clearest violation of convexity that was found with the first seed, or a random segment where none was.",
                x="part of the way",
                y="loss",
                series=(
                    series := (Series("loss", t, losses), Series("chord", t, chord, variant=1))
                ),
                claimed=_claimed(arm, series),
            )
        )
    return sorted(pictures, key=lambda picture: not picture.name.startswith("hidden"))


def _claimed(arm: str, series: Sequence[Series]) -> tuple[Series, ...]:
    """Above its chord somewhere behind a hidden layer, below it everywhere else."""
    places = [k / 20 for k in range(21)]
    hidden = arm.startswith("hidden")
    shape = [(t, 1 - (1 - t) ** 2.5 if hidden else t**2.5) for t in places]
    return (
        *sketch("loss", series, shape),
        *sketch("chord", series, [(0, 0), (1, 1)]),
    )


STUDY = Study(
    name="convexity",
    claim="The losses of linear and of logistic regression are convex, and one hidden layer ends that",
    source="lecture notes on optimization; Boyd, Vandenberghe (2004), section 3.1",
    question="Are there three points on a line whose middle loss lies above the chord?",
    measured="On iris: the loss at quarters of random segments, the monotony of its gradient and the sign of its curvature, about zero "
    "and about "
    "a trained model at three scales; what a derivative suspects counts only where the loss itself lies above the chord beyond "
    "measured noise",
    rule="One violation is a proof. Contradicted if there is one in a linear model or in the last layer of a network alone; supported if "
    "there is none, and one for each network with a hidden layer in every run; else inconclusive",
    criticism="That no violation was found proves no convexity: for the linear models it is a theorem. And a loss that is not convex may "
    "still have no bad minimum: that of a deep linear network has none (Baldi and Hornik, 1989; Kawaguchi, 2016).",
    arms=_arms,
    measure=_measure,
    decide=_decide,
    pictures=_pictures,
    seeds=(3, 8),
    takes=("data", "model"),
)
