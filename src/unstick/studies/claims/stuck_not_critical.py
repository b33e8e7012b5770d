"""Trainings whose loss stands still: is the gradient small, is it a critical point?"""

from collections.abc import Sequence
from math import sin, sqrt
from statistics import fmean, variance

import torch
from torch import Tensor, nn

from unstick.critical.classifying import classify
from unstick.critical.point import Kind
from unstick.problem.problem import Problem
from unstick.record import number
from unstick.studies.frame import (
    Arm,
    Decision,
    Picture,
    Series,
    Setting,
    Side,
    Study,
    Table,
    Task,
    share,
    verdict_of,
)
from unstick.studies.frame.sketching import sketch
from unstick.studies.frame.table import Value, tally
from unstick.studies.measures.sample import loss_for, part
from unstick.training.loop import train
from unstick.training.recipe import Recipe
from unstick.training.stopping import DIVERGED

__all__ = ["STUDY"]

SAMPLES = 300
HIDDEN = "6"
DECAY = 0.01
UPDATES = (2000, 10_000)
STILL = 0.02  # relative decrease of the mean loss, last quarter against the one before, that counts as none
NOISE, LARGE, SMALL = "noise of batches", "rate too large", "rate too small"
CONTROL = "zero weights"
NETWORKS = {
    NOISE: {"rate": 0.5, "batch": 8},
    LARGE: {"rate": 4.0, "batch": None},
    SMALL: {"rate": 1e-6, "batch": None},
    CONTROL: {"rate": 0.3, "batch": None},
}
RAVINE = "ravine, rate 2/κ"
KAPPA, BOUNCES = 100.0, 600


def _arms(setting: Setting) -> Sequence[Arm]:
    del setting
    return [*(Arm(name, knobs) for name, knobs in NETWORKS.items()), Arm(RAVINE)]


def _measure(task: Task) -> dict[str, Value]:
    return _ravine(task) if task.arm.name == RAVINE else _network(task)


def _network(task: Task) -> dict[str, Value]:
    data = part(task.data("digits"), SAMPLES, task.generator("samples"))
    inputs = data.train_inputs.double()
    targets = data.train_targets if data.classes else data.train_targets.double()
    loss, batch = loss_for(data), task.arm["batch"]
    model = task.network(HIDDEN, data, activation="tanh").double()
    if task.arm.name == CONTROL:
        for parameter in model.parameters():
            nn.init.zeros_(parameter)
    recipe = Recipe(
        batch_size=None if batch is None else min(batch, len(inputs)),
        lr=task.arm["rate"],
        weight_decay=DECAY,
        updates=UPDATES[task.full],
        norms=True,
        seed=task.seed,
    )
    told = train(model, (inputs, targets), loss, recipe)
    if told.outcome == "diverged":
        return {"still": False, "kind": "diverged"}
    norms = [norm or 0.0 for norm in told.trace.gradient_norm]
    problem = Problem(model, (inputs, targets), loss, weight_decay=DECAY)
    return _told(problem, list(told.trace.loss), norms, task.seed)


def _ravine(task: Task) -> dict[str, Value]:
    """At exactly 2/κ a step turns y into −y: the loss cannot fall below ½κy², nor the slope below κ|y|."""
    start = torch.randn(2, generator=task.generator("start"), dtype=torch.float64)

    def height(at: Tensor) -> Tensor:
        return 0.5 * (at[0] ** 2 + KAPPA * at[1] ** 2)

    problem = Problem.from_function(height, start, lower_bound=0.0)
    losses: list[float] = []
    norms: list[float] = []
    for _ in range(BOUNCES):
        loss, g = problem.value_and_gradient()
        losses.append(loss)
        norms.append(float(torch.linalg.vector_norm(g)))
        problem.write(problem.parameters() - 2 / KAPPA * g)
    return {"expected": KAPPA * abs(float(start[1])), **_told(problem, losses, norms, task.seed)}


def _told(problem: Problem, losses: list[float], norms: list[float], seed: int) -> dict[str, Value]:
    quarter = len(losses) // 4
    end, middle = losses[-quarter:], losses[-2 * quarter : -quarter]
    last, before = fmean(end), fmean(middle)
    error = sqrt((variance(end) + variance(middle)) / quarter)
    point = classify(problem, seed=seed)
    width = max(1, len(losses) // 100)
    kept = range(0, len(losses) - width + 1, width)
    return {
        "still": before - last <= max(STILL * abs(before), 2 * error),
        "kind": str(point.kind),
        "critical": point.kind not in (Kind.NOT_CRITICAL, Kind.UNDECIDED),
        "loss": last,
        "gradient_norm": point.gradient_norm,
        "first_norm": norms[0],
        "slope_pays": point.slope_decrease,
        "updates": tuple(float(k) for k in kept),
        "losses": tuple(fmean(losses[k : k + width]) for k in kept),
        "norms": tuple(fmean(norms[k : k + width]) for k in kept),
    }


def _still(table: Table, arm: str) -> list[str]:
    """The kinds of the points at which the loss of an arm stands still."""
    return [
        str(row.values["kind"])
        for row in table.rows
        if row.arm == arm and row.values.get("still") is True
    ]


def _decide(table: Table) -> Decision:
    asked = [kind for arm in (NOISE, LARGE, SMALL) for kind in _still(table, arm)]
    known = [kind for kind in asked if kind != Kind.UNDECIDED]
    effect = share(
        known.count(Kind.NOT_CRITICAL),
        len(known),
        name="not critical, of the trainings that stand still",
        unit="trainings",
    )
    told = "; ".join(_told_of(table, arm) for arm in table.arms if table.texts("kind", arm))
    return Decision(
        verdict_of(effect, Side.ABOVE, 0.5), f"{told[:1].upper()}{told[1:]}.", (effect,)
    )


def _told_of(table: Table, arm: str) -> str:
    """How an arm ended; the gradients of its updates at first and at last, and that of all samples at the end."""
    ends, kinds = table.texts("kind", arm), _still(table, arm)
    told = f"{arm}: {len(kinds)} of {len(ends)} stand still ({tally(kinds) or 'none'})"
    if lost := ends.count(DIVERGED):
        told += f", {lost} diverged"
    at_last = [curve[-1] for curve in table.curves("norms", arm) if curve]
    if not at_last:
        return told
    return (
        f"{told}, ‖g‖ of an update {number(table.mean('first_norm', arm), 2)} at first and {number(fmean(at_last), 2)} at last, "
        f"of all samples at the end {number(table.mean('gradient_norm', arm), 2)}"
    )


def _pictures(table: Table) -> list[Picture]:
    def drawn(measure: str) -> tuple[Series, ...]:
        return tuple(
            Series(arm, x[0], y[0])
            for arm in table.arms
            if (x := table.curves("updates", arm)) and (y := table.curves(measure, arm))
        )

    losses, norms = drawn("losses"), drawn("norms")
    if not losses:
        return []
    wiggling = [(k / 40, 0.6 + 0.06 * sin(2.5 * k)) for k in range(41)]
    vanishing = [(0.0, 0.6), (0.15, 0.15), (0.3, 0.02), (1.0, 0.0)]
    still = [(0.0, 0.6), (0.05, 0.3), (0.1, 0.2), (0.2, 0.15), (1.0, 0.15)]
    return [
        Picture(
            name="norms",
            title="The gradients of trainings whose loss stands still",
            caption="The length of the gradient that each update was made of, without weight decay's part; of the first seed, means over a "
            "hundredth of the updates.",
            x="updates",
            y="length of the gradient, ‖g‖",
            series=norms,
            claimed=(
                *sketch("stuck: it does not vanish", norms, wiggling, group=NOISE, log_y=True),
                *sketch(
                    "at a critical point: it does", norms, vanishing, group=CONTROL, log_y=True
                ),
            ),
            log_y=True,
        ),
        Picture(
            name="losses",
            title="The losses that stand still",
            caption="The training loss of the same trainings, means over a hundredth of the updates.",
            x="updates",
            y="training loss",
            series=losses,
            claimed=sketch("stands still", losses, still, group=NOISE, log_y=True),
            log_y=True,
        ),
    ]


STUDY = Study(
    name="stuck-not-critical",
    claim="A training loss that no longer falls does not mean that the gradient is small: most trainings are stuck without being near a critical point",
    source="lecture notes on adaptive learning rates",
    question="Where the training loss stands still, is the point critical?",
    measured=f"Tanh networks of {HIDDEN} hidden units with weight decay on {SAMPLES} samples of digits, trained with small batches, "
    "with too large and with too small a rate: whether the mean loss of the last "
    "quarter is lower than that of the quarter before by no more than 2 % or two standard errors; the norms of gradients, and the kind of the point at the end; beside "
    "them a network of zero weights, which does stop at a critical point, and a ravine at the rate 2/κ",
    rule="Of the trainings of networks by batches, too large and too small a rate that stand still, the share that is not at a critical point: "
    "supported if the whole interval lies above one half, contradicted if below, else inconclusive",
    criticism="The share depends on the ways of getting stuck that one tries: these three were chosen to be stuck for their rate or their noise. "
    "Symmetric or zero weights do stop at critical points, and with full gradients at a fitting rate training does arrive at minima.",
    arms=_arms,
    measure=_measure,
    decide=_decide,
    pictures=_pictures,
    seeds=(5, 10),
    takes=("data", "model"),
)
