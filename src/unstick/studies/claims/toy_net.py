"""The net of two weights, y = w₁w₂x: its saddle, its minima, and the way from one to the other."""

from collections.abc import Sequence
from math import isclose, log10, sqrt

import torch
from torch import Tensor

from unstick.critical.classifying import classify
from unstick.critical.escaping import escape
from unstick.critical.taylor import profile
from unstick.problem.problem import Problem
from unstick.record import number
from unstick.studies.frame import (
    Arm,
    Decision,
    Picture,
    Series,
    Setting,
    Study,
    Table,
    Task,
    Verdict,
    within,
)
from unstick.studies.frame.table import Value
from unstick.studies.toys.measuring import Rival, race
from unstick.training.recipe import Recipe

__all__ = ["STUDY"]

SADDLE = "the origin"
DESCENT = "descent from a random start"
DRAWN = "a drawn minimum"
FIXED = {"(1, 1)": (1.0, 1.0), "(2, ½)": (2.0, 0.5), "(5, 0.2)": (5.0, 0.2)}
MORE = {"(10, 0.1)": (10.0, 0.1), "(30, ¹⁄₃₀)": (30.0, 1 / 30)}
RATE = 0.05  # of the descent: it can stay only where the sharpness is at most 2/RATE = 40
STEPS = 2000
EXACT = 1e-9  # of rounding that an eigenvalue is allowed


def _loss(w: Tensor) -> Tensor:
    return (1 - w[0] * w[1]) ** 2


def _arms(setting: Setting) -> Sequence[Arm]:
    minima = FIXED | (MORE if setting.full else {})
    return [
        Arm(SADDLE, {"at": (0.0, 0.0)}),
        *(Arm(f"minimum {name}", {"at": at}) for name, at in minima.items()),
        Arm(DRAWN),
        Arm(DESCENT),
    ]


def _measure(task: Task) -> dict[str, Value]:
    start = _place(task)
    problem = Problem.from_function(_loss, start, lower_bound=0.0)
    if task.arm.name == DESCENT:
        plain = Recipe(optimizer="gradient-descent", batch_size=None, lr=RATE)
        path = race(problem, start, [Rival(DESCENT, plain)], goal=1e-28, most=STEPS)[0]
        problem.write(path.points[-1])
    a, b = problem.parameters().tolist()
    point = classify(problem, seed=task.seed)
    assert point.inertia is not None
    assert point.minimum_ratio is not None
    square = 2 * (a * a + b * b)
    values: dict[str, Value] = {
        "w1": a,
        "w2": b,
        "kind": str(point.kind),
        "loss": point.loss,
        "gradient_norm": point.gradient_norm,
        "lowest": float(point.eigenvalues[0]),
        "highest": float(point.eigenvalues[-1]),
        "expected_lowest": -2.0 if task.arm.name == SADDLE else 0.0,
        "expected_highest": 2.0 if task.arm.name == SADDLE else square,
        "ratio": point.minimum_ratio,
        "positive": point.inertia[0],
        "zero": point.inertia[1],
        "negative": point.inertia[2],
    }
    if task.arm.name == SADDLE:
        way = torch.ones(2, dtype=torch.float64) / sqrt(2)
        line = profile(
            problem, way, steps=sqrt(2) * torch.linspace(-1.5, 1.5, 41, dtype=torch.float64)
        )
        moved = escape(problem, point=point, seed=task.seed)
        assert point.escape_direction is not None
        values |= {
            "alignment": abs(float(point.escape_direction.double() @ way)),
            "s": tuple((line.steps / sqrt(2)).tolist()),
            "along": tuple(line.losses.tolist()),
            "taylor": tuple(line.predicted.tolist()),
            "after": moved.loss_after,
        }
    return values


def _place(task: Task) -> Tensor:
    """A fixed point, a minimum e^z·(1, e^(−2z)) on either branch, or a start from the square of ±2."""
    draw = task.generator()
    if task.arm.name == DRAWN:
        w = float(torch.randn(1, generator=draw, dtype=torch.float64).exp())
        sign = 1.0 if float(torch.rand(1, generator=draw)) < 0.5 else -1.0
        return sign * torch.tensor([w, 1 / w], dtype=torch.float64)
    if task.arm.name == DESCENT:
        return 4 * torch.rand(2, generator=draw, dtype=torch.float64) - 2
    return torch.tensor(task.arm["at"], dtype=torch.float64)


def _decide(table: Table) -> Decision:
    saddle = [row.values for row in table.rows if row.arm == SADDLE and row.values]
    minima = [arm for arm in table.arms if arm != SADDLE]
    effects = tuple(
        within(table, arm, "highest", "expected_highest", name=f"λ max at {arm}, off its form")
        for arm in table.arms
    )
    if not saddle:
        return Decision(Verdict.INCONCLUSIVE, "The origin was not measured.", effects)
    right = all(
        one["kind"] == "saddle"
        and _close(one["lowest"], -2.0)
        and _close(one["highest"], 2.0)
        and _close(one["alignment"], 1.0)
        and _number(one["after"]) < _number(one["loss"])
        for one in saddle
    )
    first = saddle[0]
    sharpest = max((x for arm in minima for x in table.column("highest", arm)), default=0.0)
    ratios = {x for arm in table.arms for x in table.column("ratio", arm)}
    ends = [
        isclose(a * b, 1.0, abs_tol=EXACT)
        for a, b in zip(table.column("w1", DESCENT), table.column("w2", DESCENT), strict=True)
    ]
    said = (
        f"At the origin the eigenvalues are {number(_number(first['lowest']))} and {number(_number(first['highest']))}; along "
        f"(1, 1) the loss falls from {number(_number(first['loss']))} to {number(_number(first['after']))}. "
        f"Of {len(ends)} descents from random starts {sum(ends)} end where w₁w₂ = 1. "
        f"The share of positive eigenvalues is {' or '.join(number(x) for x in sorted(ratios))} at saddle and minima alike, and "
        f"the largest eigenvalue of a minimum goes up to {number(sharpest)}."
    )
    return Decision(Verdict.SUPPORTED if right else Verdict.CONTRADICTED, said, effects)


def _number(value: Value) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")


def _close(value: Value, expected: float) -> bool:
    return isclose(_number(value), expected, abs_tol=EXACT)


def _pictures(table: Table) -> list[Picture]:
    pictures: list[Picture] = []
    for row in [row for row in table.rows if row.arm == SADDLE and row.values][:1]:
        s, along, taylor = (row.values[name] for name in ("s", "along", "taylor"))
        assert isinstance(s, tuple)
        assert isinstance(along, tuple)
        assert isinstance(taylor, tuple)
        pictures.append(
            Picture(
                name="out-of-the-saddle",
                title="The way out of the saddle",
                caption="The loss at (s, s): flat at the saddle in the middle, minima at s = ±1; and its Taylor model at the "
                "saddle, which has the eigenvalue −2.",
                x="s, along (1, 1)",
                y="loss",
                series=(Series("measured", s, along), Series("Taylor model", s, taylor)),
                claimed=(
                    Series("(1 − s²)²", s, tuple((1 - x * x) ** 2 for x in s), group="measured"),
                ),
            )
        )
    minima = [arm for arm in table.arms if arm != SADDLE]
    points = sorted(
        (abs(w), sharp)
        for arm in minima
        for w, sharp in zip(table.column("w1", arm), table.column("highest", arm), strict=True)
    )
    if points:
        ends = log10(points[0][0] / 1.3), log10(points[-1][0] * 1.3)
        w = tuple(float(x) for x in torch.logspace(*ends, 61).tolist())
        pictures.append(
            Picture(
                name="sharpness",
                title="Equal minima, any sharpness",
                caption="The largest eigenvalue at minima, which all have loss 0 and compute the same function. Gradient descent "
                f"with rate η = {RATE:g} can stay only below 2/η = {2 / RATE:g}.",
                x="|w₁|",
                y="largest eigenvalue",
                series=(
                    Series(
                        "measured",
                        tuple(x for x, _ in points),
                        tuple(y for _, y in points),
                        kind="points",
                    ),
                    Series("where descent can stay, 2/η", (w[0], w[-1]), (2 / RATE, 2 / RATE)),
                ),
                claimed=(
                    Series(
                        "2(w₁² + w₂²)",
                        w,
                        tuple(2 * (x * x + 1 / x / x) for x in w),
                        group="measured",
                    ),
                ),
                log_x=True,
                log_y=True,
            )
        )
    return pictures


STUDY = Study(
    name="toy-net",
    claim="For the net y = w₁w₂x with one sample (1, 1) the origin is a saddle: the slope is zero, an eigenvalue is negative, and "
    "its eigenvector (1, 1) leads to a lower loss",
    source="lecture notes on critical points; Baldi and Hornik (1989)",
    question="What do first and second derivatives say at the critical points of the smallest net, and is it true?",
    measured="At the origin, at minima w₁w₂ = 1 and where gradient descent from random starts ends: kind, gradient, eigenvalues, "
    "their signs; the loss along (1, 1)",
    rule="Supported if on every seed the origin is classified as a saddle with the eigenvalues −2 and 2 to nine digits, the way "
    "out is (1, 1) and the escape lowers the loss; contradicted if one of these fails. Closed forms leave no interval",
    criticism="Half of the eigenvalues are positive at the saddle and at every minimum (0 and 2(w₁² + w₂²)), so the share of positive "
    "eigenvalues cannot tell them apart; and minima that compute the same function are as sharp as one likes (Dinh et al., 2017).",
    arms=_arms,
    measure=_measure,
    decide=_decide,
    pictures=_pictures,
    seeds=(3, 8),
)
