"""Do large batches end in sharper minima, and do sharper minima generalize worse: compared at one training loss."""

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from math import ceil, isfinite, log10, nan
from typing import Any

from scipy import stats
from torch import Tensor, nn

from unstick.data import Dataset
from unstick.landscape.interpolation import interpolate
from unstick.landscape.sharpness import sharpness
from unstick.problem.problem import Problem
from unstick.record import number
from unstick.studies.frame import (
    Arm,
    Decision,
    Effect,
    Picture,
    Series,
    Setting,
    Side,
    Study,
    Table,
    Task,
    combined,
    paired,
    verdict_of,
)
from unstick.studies.frame.sketching import sketch
from unstick.studies.frame.table import Value
from unstick.studies.measures.batches import scores
from unstick.studies.measures.classes import classified
from unstick.studies.measures.curves import over_seeds
from unstick.studies.measures.sample import loss_for
from unstick.training import Recipe, train
from unstick.training.optimizers import make_optimizer

__all__ = ["STUDY"]

SIZES = {"small": 125, "large": 10}  # one in so many samples is in a batch
SAMPLES = (2000, 4000)
TARGET = (0.1, 0.03)  # training loss of both
RATE = 1e-3
EPOCHS = 600  # at most
NEAR = 1.5  # times the target: from here on every few updates are looked at
PIECE = 20  # updates between two looks
EPSILONS = (1e-3, 5e-4)
POINTS = 25  # of the line from the small batch's end to the large one's, from −1 to 2
CLOUDS = {  # where the claim has the ends of both
    "small": [(0.05, 0.8), (0.15, 1.0), (0.25, 0.85)],
    "large": [(0.75, 0.2), (0.85, 0.05), (0.95, 0.15)],
}
MEASURES = {"lambda_log": "λmax", "phi_log": "φ(0.001)"}


def _arms(_setting: Setting) -> Sequence[Arm]:
    return [Arm(name, {"part": part}) for name, part in SIZES.items()]


def _ended(task: Task, part: int) -> tuple[nn.Module, Dataset, dict[str, Value]]:
    """A model trained by Adam until its loss on all training samples is the target."""
    data = classified(task, "mnist1d", SAMPLES[task.full])
    count, loss, target = len(data.train_inputs), loss_for(data), TARGET[task.full]
    model = task.network("100-100", data)
    size = ceil(count / part)
    recipe = Recipe(
        optimizer="adam",
        lr=RATE,
        batch_size=size,
        epochs=EPOCHS,
        target_loss=NEAR * target,
        seed=task.seed,
    )
    optimizer = make_optimizer(recipe, model.parameters(), samples=count)
    told = train(model, data, loss, recipe, optimizer=optimizer)
    updates, found = len(told.trace.loss), scores(model, data)
    most = EPOCHS * recipe.batches_of(count)
    while found["loss"] > target and updates < most:
        piece = replace(
            recipe, epochs=None, updates=PIECE, target_loss=None, seed=task.seed + updates
        )
        train(model, data, loss, piece, optimizer=optimizer)
        updates, found = updates + PIECE, scores(model, data)
    return (
        model,
        data,
        {"batch": size, "updates": updates, "epochs": updates * size / count, **found},
    )


def _measure(task: Task) -> dict[str, Value]:
    return _sharp(task, _ended(task, task.arm["part"]))


def _sharp(task: Task, ended: tuple[nn.Module, Dataset, dict[str, Value]]) -> dict[str, Value]:
    model, data, values = ended
    problem = Problem(model, (data.train_inputs, data.train_targets), loss_for(data))
    found = sharpness(problem, epsilons=EPSILONS, seed=task.seed)
    top = nan if found.lambda_max is None else found.lambda_max.value
    phi = [nan if each is None else each for each in found.phi]
    return {
        **values,
        "lambda": top,
        "phi": phi[0],
        "phi_half": phi[1],
        "adaptive": nan if found.adaptive is None else found.adaptive,
        "lambda_log": log10(top) if top > 0 else nan,
        "phi_log": log10(phi[0]) if phi[0] > 0 else nan,
        "length": float(problem.parameters().norm()),
    }


def _together(tasks: Sequence[Task]) -> Iterable[tuple[Task, Mapping[str, Value]]]:
    """Seed after seed; the line between both ends goes with the large batch."""
    for seed in dict.fromkeys(task.seed for task in tasks):
        ends: dict[str, Any] = {}
        for task in (task for task in tasks if task.seed == seed):
            ends[task.arm.name] = _ended(task, task.arm["part"])
            values = _sharp(task, ends[task.arm.name])
            if task.arm.name == "large" and "small" in ends:
                values |= _between(ends["small"][0], ends["large"][0], ends["large"][1])
            yield task, values


def _between(small: nn.Module, large: nn.Module, data: Dataset) -> dict[str, Value]:
    loss = loss_for(data)
    carrier = deepcopy(small)
    problem = Problem(carrier, (data.train_inputs, data.train_targets), loss)
    held = Problem(carrier, (data.test_inputs, data.test_targets), loss)
    line = interpolate(
        problem, small.state_dict(), large.state_dict(), points=POINTS, beyond=1.0, held_out=held
    )

    def listed(numbers: Tensor | None) -> tuple[float, ...]:
        return () if numbers is None else tuple(numbers.double().tolist())

    return {
        "line_at": listed(line.fractions),
        "line_loss": listed(line.losses),
        "line_test_loss": listed(line.held_out_losses),
        "barrier": nan if line.barrier is None else line.barrier,
    }


def _effects(table: Table) -> tuple[list[Effect], Effect]:
    sharper = [
        paired(
            table,
            measure,
            "large",
            "small",
            name=f"decades of {told}, large − small batch",
            comparisons=len(MEASURES) + 1,
        )
        for measure, told in MEASURES.items()
    ]
    worse = paired(
        table,
        "test",
        "small",
        "large",
        name="test accuracy, small − large batch",
        comparisons=len(MEASURES) + 1,
    )
    return sharper, worse


def _decide(table: Table) -> Decision:
    sharper, worse = _effects(table)
    claims = {
        "large batches end sharper": combined([verdict_of(each, Side.ABOVE) for each in sharper]),
        "the sharper ends generalize worse": verdict_of(worse, Side.ABOVE),
    }
    ratios = " and ".join(
        f"{told} {number(10**effect.difference, 3)} times"
        for effect, told in zip(sharper, MEASURES.values(), strict=True)
    )
    losses = " and ".join(number(table.mean("loss", name), 3) for name in SIZES)
    said = (
        f"At training losses of {losses}, the large batch has {ratios} the small one's, and test accuracy "
        f"{number(worse.second, 3)} beside {number(worse.first, 3)}; over all trainings the rank correlation of λmax and test "
        f"accuracy is {number(_correlation(table), 2)}. Part by part: {'; '.join(f'{told}: {verdict}' for told, verdict in claims.items())}."
    )
    return Decision(combined(list(claims.values())), said, (*sharper, worse))


def _correlation(table: Table) -> float:
    pairs = [
        (table.by_seed("lambda", name)[seed], accuracy)
        for name in SIZES
        for seed, accuracy in table.by_seed("test", name).items()
    ]
    known = [pair for pair in pairs if isfinite(pair[0]) and isfinite(pair[1])]
    if len({pair[0] for pair in known}) < 2 or len({pair[1] for pair in known}) < 2:
        return nan
    ranked: Any = stats.spearmanr([pair[0] for pair in known], [pair[1] for pair in known])
    return float(ranked.statistic)


def _pictures(table: Table) -> list[Picture]:
    known = [name for name in SIZES if table.column("lambda", name)]
    clouds = tuple(
        Series(
            f"{name} batch",
            tuple(table.column("lambda", name)),
            tuple(table.column("test", name)),
            kind="points",
        )
        for name in known
    )
    drawn = [
        Picture(
            name="sharp-flat",
            title="Test accuracy against sharpness, at one training loss",
            caption="A point is a training: the largest eigenvalue λmax of the Hessian over all training samples, and the accuracy on test "
            "samples.",
            x="sharpness, λmax",
            y="test accuracy",
            series=clouds,
            claimed=tuple(
                cloud
                for name, shape in CLOUDS.items()
                for cloud in sketch(f"{name} batch", clouds, shape, kind="points", log_x=True)
            ),
            log_x=True,
        )
    ]
    at = table.curves("line_at", "large")
    if at:
        drawn.append(_line(table, at[0]))
    return drawn


def _line(table: Table, at: tuple[float, ...]) -> Picture:
    lines = tuple(
        over_seeds(name, at, table.curves(measure, "large"))
        for name, measure in (("training", "line_loss"), ("test", "line_test_loss"))
    )
    parts = [k / 90 for k in range(91)]
    valleys = {  # the test loss lies a little aside of the training loss
        "training": [(part, y) for part in parts if (y := _valleys(3 * part - 1)) < 1],
        "test": [(part, y) for part in parts if (y := _valleys(3 * part - 1.08)) < 1],
    }
    return Picture(
        name="sharp-flat-line",
        title="From the small batch's end (0) to the large one's (1)",
        caption="Means over seeds, the lowest and the highest. The width on this line says little: larger weights look flatter (Li et al., "
        "2018).",
        x="part of the way",
        y="loss",
        series=lines,
        claimed=tuple(line for name in valleys for line in sketch(name, lines, valleys[name])),
    )


def _valleys(t: float) -> float:
    """A wide valley about 0 and a narrow one about 1, with heights from 0 to 1."""
    narrow = min(1.0, 8 * (t - 1) ** 2)
    return narrow if t > 1 else min(0.5 * t * t, narrow)


STUDY = Study(
    name="sharp-flat",
    claim="Large batches end in sharper minima than small ones, and the sharper minima generalize worse",
    source="lecture notes on batches; Keskar et al. (2017)",
    question="At equal training loss, which batch size has the larger curvature and which the better test accuracy?",
    measured="On mnist1d with two hidden layers of 100: Adam on batches of a tenth and of a 125th of the training samples, until the "
    "loss on all training samples is the same; "
    "there the largest eigenvalue of the Hessian, the largest rise in a small box (φ, Keskar's metric 2.1), adaptive sharpness, "
    "test accuracy, and the loss on the line through both",
    rule="Two claims. Sharper: both intervals of log₁₀ λmax and log₁₀ φ(0.001), large − small, lie above 0. Worse: that of test accuracy, "
    "small − large, lies above 0. Supported if both; contradicted if one of the three lies below 0; else inconclusive. Paired by seed, "
    "corrected for three",
    criticism="Rescaling the layers of a ReLU network changes both measures as one likes and not the function (Dinh et al., 2017); in many "
    "settings sharpness does not or inversely go with generalization (Andriushchenko et al., 2023). At unequal losses the comparison "
    "means nothing: the Hessian of cross-entropy vanishes with the loss. The small batch also made more updates here.",
    arms=_arms,
    measure=_measure,
    decide=_decide,
    pictures=_pictures,
    seeds=(6, 24),
    takes=("data", "model"),
    together=_together,
)
