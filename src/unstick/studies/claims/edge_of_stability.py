"""Gradient descent at the edge of stability: the sharpness rises to 2/η and stays there."""

from collections.abc import Sequence
from itertools import pairwise
from math import inf, isfinite, nan

import torch
from torch import Tensor, nn

from unstick.problem.problem import Problem
from unstick.record import number
from unstick.spectrum import ends
from unstick.studies.frame import (
    Arm,
    Decision,
    Picture,
    Series,
    Setting,
    Study,
    Table,
    Task,
    combined,
    verdict_near,
    within,
)
from unstick.studies.frame.table import Value
from unstick.studies.measures.classes import classified
from unstick.studies.measures.curves import over_seeds
from unstick.training import Recipe, train
from unstick.training.stopping import DIVERGED

__all__ = ["STUDY"]

RATES = (0.1, 0.5, 1.0)
UPDATES = (1000, 3000)
PARTS = (10, 30)  # pieces of the training, with the sharpness measured after each
SAMPLES = 500
PRODUCTS = 200  # at most, each time
WITHIN = 0.1  # of 1 that λmax·η/2 may be away at the end
LAST = 0.3  # part of the measurements that counts as the end


def _arms(setting: Setting) -> Sequence[Arm]:
    rates = (0.05, *RATES) if setting.full else RATES
    return [Arm(f"η = {rate:g}", {"lr": rate}) for rate in rates]


def _measure(task: Task) -> dict[str, Value]:
    data = classified(task, "digits", SAMPLES)
    model = task.network("50-50", data, activation="tanh")
    targets = nn.functional.one_hot(data.train_targets, data.classes).to(data.train_inputs)
    samples = (data.train_inputs, targets)
    rate, updates = task.arm["lr"], UPDATES[task.full]
    between = updates // PARTS[task.full]
    problem = Problem(model, samples, _half_square)
    recipe = Recipe(lr=rate, batch_size=None, updates=between, seed=task.seed)
    places, ratios, losses = list[float](), list[float](), list[float]()
    start: Tensor | None = None
    outcome = "done"
    for done in range(0, updates + 1, between):
        sharpest, start = _sharpest(problem, start, task.seed)
        places.append(float(done))
        ratios.append(sharpest * rate / 2)
        losses.append(problem.value())
        if done == updates:
            break
        told = train(model, samples, _half_square, recipe)
        if told.outcome == DIVERGED:
            outcome = DIVERGED
            break
    last = ratios[-max(1, round(LAST * len(ratios))) :]
    return {
        "ratio": sum(last) / len(last) if outcome == "done" else nan,
        "highest": max(ratios),
        "reached": max(ratios[1:], default=0.0) >= 1,
        "loss": losses[-1] if outcome == "done" else inf,
        "outcome": outcome,
        "rises": sum(b > a for a, b in pairwise(losses)),
        "ratios": tuple(ratios),
        "losses": tuple(losses),
        "places": tuple(places),
    }


def _sharpest(problem: Problem, start: Tensor | None, seed: int) -> tuple[float, Tensor]:
    """λmax and its vector, by Lanczos; one way of computing products, so that equal runs give equal numbers."""
    found = ends(
        problem.hessian(mode="kept"),
        generator=torch.Generator().manual_seed(seed),
        lowest=0,
        highest=1,
        start=start,
        max_products=PRODUCTS,
    )
    return float(found.highest.values[0]), found.highest.vectors


def _half_square(outputs: Tensor, targets: Tensor) -> Tensor:
    """½‖outputs − targets‖², summed over classes, mean over samples: the loss that 2/η is compared on."""
    return 0.5 * (outputs - targets).square().sum(1).mean()


def _decide(table: Table) -> Decision:
    lost = [arm for arm in table.arms if DIVERGED in table.texts("outcome", arm)]
    arrived = [
        arm for arm in table.arms if arm not in lost and all(table.column("reached", arm) or [0.0])
    ]
    effects = [
        within(
            table,
            arm,
            "ratio",
            1.0,
            name=f"λmax·η/2 − 1 at the end, {arm}",
            comparisons=max(1, len(arrived)),
        )
        for arm in arrived
    ]
    told = "; ".join(
        f"{arm}: {_told(table, arm, arm in lost, arm in arrived)}"
        for arm in table.arms
        if table.column("ratio", arm)
    )
    rises = sum(sum(table.column("rises", arm)) for arm in arrived)
    said = f"Mean λmax·η/2 over the last {LAST:.0%} of the training: {told}."
    if arrived:
        said += f" At the rates that got there the loss rose between two measurements {rises:g} times and still fell on the whole."
    else:
        said += " No rate got there in every run."
    return Decision(
        combined([verdict_near(effect, WITHIN) for effect in effects]), said, tuple(effects)
    )


def _told(table: Table, arm: str, lost: bool, arrived: bool) -> str:
    if lost:
        return "diverged"
    return f"{number(table.mean('ratio', arm), 3)}{'' if arrived else ' (not reached)'}"


def _pictures(table: Table) -> list[Picture]:
    arms = [arm for arm in table.arms if table.curves("ratios", arm)]
    if not arms:
        return []
    x = max((curve for arm in arms for curve in table.curves("places", arm)), key=len)
    edge = Series("2/η", x, (1.0,) * len(x), variant=2)
    lines = [over_seeds(arm, x, table.curves("ratios", arm)) for arm in arms]
    lowest = min((y for line in lines for y in line.y if isfinite(y)), default=0.0)
    rising = (lowest, (lowest + 1) / 2, 0.9, 1.0, 1.0)
    places = tuple(part * float(x[-1]) for part in (0.0, 0.15, 0.3, 0.45, 1.0))
    told = "Means over seeds with the lowest and the highest."
    return [
        Picture(
            name="sharpness",
            title="Sharpness along gradient descent, over 2/η",
            caption=f"λmax of the training loss times η/2, along full-batch gradient descent. {told}",
            x="step",
            y="λmax·η/2",
            series=(*lines, edge),
            claimed=(Series("rises to 2/η and stays", places, rising, group=arms[0]), edge),
        ),
        Picture(
            name="loss",
            title="The training loss meanwhile",
            caption=told,
            x="step",
            y="training loss",
            series=tuple(over_seeds(arm, x, table.curves("losses", arm)) for arm in arms),
            log_y=True,
        ),
    ]


STUDY = Study(
    name="edge-of-stability",
    claim="Full-batch gradient descent sharpens the valley it is in until the largest curvature is just above 2/η, where a quadratic "
    "would diverge, and stays there while the loss goes on falling",
    source="lecture notes on learning rates and curvature; Cohen, Kaur, Li, Kolter, Talwalkar (2021)",
    question="Where does λmax·η/2 end for several rates η?",
    measured=f"λmax of the training loss (half the squared error summed over classes, mean over {SAMPLES} samples of digits; two tanh "
    "layers of 50) by Lanczos, "
    f"{PARTS[0]} to {PARTS[1]} times along full-batch gradient descent; at the end the mean over the last {LAST:.0%} of them",
    rule="Of the rates at which λmax reached 2/η after the start in every run: supported if for each the whole interval of the mean "
    f"of λmax·η/2 at the end lies within {WITHIN:.0%} of 1; contradicted if it lies outside for one; else inconclusive. "
    "Rates at which it was not reached, or training diverged, are told and do not count",
    criticism="Seen for gradient descent on all samples: the small batches of common practice settle below 2/η, with cross-entropy the "
    "sharpness falls again late, and small rates never get there in the time there is (Cohen et al., 2021).",
    arms=_arms,
    measure=_measure,
    decide=_decide,
    pictures=_pictures,
    seeds=(5, 8),
    takes=("data", "model"),
)
