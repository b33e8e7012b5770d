"""Full gradient, SGD or Adam: which reaches a training loss with the least work."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf, log, log10, nan

import torch

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
from unstick.studies.measures.batches import present
from unstick.studies.measures.classes import classified
from unstick.studies.measures.curves import binned
from unstick.studies.measures.sample import loss_for
from unstick.training import Recipe, Trained, train, vary
from unstick.training.stopping import TARGET

__all__ = ["STUDY"]


@dataclass(frozen=True, slots=True)
class _Method:
    optimizer: str
    batch: int | None
    rates: tuple[
        float, ...
    ]  # the likely ones first: later trainings end where an earlier one had arrived


SGD = (0.1, 0.3, 0.03, 1.0, 0.01)
ADAM = (3e-3, 1e-3, 1e-2, 3e-2, 3e-4)
METHODS = {
    "full gradient": _Method("gradient-descent", None, (1.0, 0.3, 3.0, 0.1, 0.03)),
    "full gradient, Adam": _Method("adam", None, (1e-2, 3e-3, 3e-2, 1e-3, 1e-1)),
    "SGD, batch 32": _Method("sgd", 32, SGD),
    "Adam, batch 32": _Method("adam", 32, ADAM),
}
QUICK = ("full gradient", "SGD, batch 32", "Adam, batch 32")
WHOLE, ADVISED = "full gradient", ("SGD, batch 32", "Adam, batch 32")
DATA = (("digits",), ("digits", "mnist1d", "mnist"))
MOST = (1000, 4000)  # training samples
GRADIENTS = (300, 1000)  # of all training samples, at most
TARGET_SHARE = 0.05  # of the loss of equal guesses, ln(classes)
BINS = 50


def _arms(setting: Setting) -> Sequence[Arm]:
    return [
        Arm(f"{data}: {name}", {"data": data, "method": name})
        for data in present(DATA[setting.full], setting)
        for name in (METHODS if setting.full else QUICK)
    ]


def _measure(task: Task) -> dict[str, Value]:
    torch.set_num_threads(1)
    data = classified(task, task.arm["data"], MOST[task.full])
    count, loss = len(data.train_inputs), loss_for(data)
    method = METHODS[task.arm["method"]]
    target = TARGET_SHARE * log(max(2, data.classes))
    plain = Recipe(
        optimizer=method.optimizer,
        batch_size=None if method.batch is None else min(method.batch, count),
        target_loss=target,
        seed=task.seed,
    )
    most = float(GRADIENTS[task.full])
    best: Trained | None = None
    first: Trained | None = None
    for recipe in vary(plain, lr=method.rates, epochs=[most]):
        limit = most if best is None else best.epochs
        told = train(task.network("64-64", data), data, loss, replace(recipe, epochs=limit))
        first = first or told
        if told.outcome == TARGET and (best is None or told.epochs < best.epochs):
            best = told
    # a full gradient that does not arrive is counted as if it did at the end, which favors it
    counted = best or (first if method.batch is None else None)
    gradients = inf if counted is None else most if best is None else best.epochs
    seconds = inf if counted is None else sum(s or 0.0 for s in counted.trace.seconds)
    losses = () if counted is None else tuple(counted.trace.loss)
    bins = min(BINS, len(losses))
    return {
        "reached": best is not None,
        "target": target,
        "rate": nan if best is None else float(best.recipe.lr or nan),
        "gradients": gradients,
        "gradients_log": log10(gradients),
        "seconds": seconds,
        "seconds_log": log10(seconds),
        "curve_gradients": tuple(gradients * (k + 0.5) / bins for k in range(bins)),
        "curve_loss": binned(losses, bins) if bins else (),
    }


def _effects(table: Table, measure: str) -> list[Effect]:
    names = list(table.groups())
    return [
        paired(
            table,
            f"{measure}_log",
            f"{data}: {WHOLE}",
            f"{data}: {name}",
            name=f"{data}: decades of {measure}, {WHOLE} − {name}",
            comparisons=2 * len(ADVISED) * max(1, len(names)),
        )
        for data in names
        for name in ADVISED
    ]


def _decide(table: Table) -> Decision:
    effects = [*_effects(table, "gradients"), *_effects(table, "seconds")]
    verdict = combined([verdict_of(effect, Side.ABOVE) for effect in effects])
    told = "; ".join(f"on {data} {_told(table, data)}" for data in table.groups())
    share = f"{100 * TARGET_SHARE:g} % of the loss of equal guesses"
    return Decision(verdict, f"To reach {share} takes: {told}.", tuple(effects))


def _told(table: Table, data: str) -> str:
    said: list[str] = []
    for name, arm in _arms_of(table, data).items():
        reached = table.column("reached", arm)
        if reached:
            missed = f" (not reached on {reached.count(0.0)} of {len(reached)} seeds)"
            said.append(
                f"{name}: {number(table.mean('gradients', arm), 3)} gradients and {number(table.mean('seconds', arm), 2)} s"
                f"{'' if all(reached) else missed}"
            )
    return ", ".join(said) or "not measured"


def _pictures(table: Table) -> list[Picture]:
    return [
        picture for data in table.groups() for picture in (_bars(table, data), _curves(table, data))
    ]


def _arms_of(table: Table, data: str) -> dict[str, str]:
    return {arm.rpartition(": ")[2]: arm for arm in table.arms if arm.rpartition(": ")[0] == data}


def _bars(table: Table, data: str) -> Picture:
    arms = _arms_of(table, data)
    names = tuple(arms)
    low, high = table.spread("gradients", list(arms.values()))
    means = tuple(table.mean("gradients", arm) for arm in arms.values())
    series = (Series("measured", names, means, tuple(low), tuple(high), "points"),)
    shape = [(name, 1.0 if name.startswith(WHOLE) else 0.1) for name in names]
    return Picture(
        name=f"algorithm-choice-{data}",
        title=f"Work until the training loss is reached: {data}",
        caption="Each method at the rate that needs fewest of five: means over seeds, the lowest and the highest.",
        x="",
        y="gradients of all samples",
        series=series,
        claimed=sketch("as claimed", series, shape, group="measured", kind="points", log_y=True),
        log_y=True,
    )


def _curves(table: Table, data: str) -> Picture:
    lines: list[Series] = []
    for name, arm in _arms_of(table, data).items():
        x, y = table.curves("curve_gradients", arm), table.curves("curve_loss", arm)
        if x and y:
            lines.append(Series(name, x[0], y[0]))
    return Picture(
        name=f"algorithm-choice-loss-{data}",
        title=f"Training loss against work: {data}",
        caption="The first seed, each method at its best rate; means over equal pieces of the training.",
        x="gradients of all samples",
        y="training loss",
        series=tuple(lines),
        claimed=(
            *sketch(
                "full gradient: late",
                lines,
                [(0.4, 1), (1, 0)],
                group=WHOLE,
                log_x=True,
                log_y=True,
            ),
            *sketch(
                "small batches: early",
                lines,
                [(0, 1), (0.5, 0)],
                group=ADVISED[0],
                log_x=True,
                log_y=True,
            ),
        ),
        log_x=True,
        log_y=True,
    )


STUDY = Study(
    name="algorithm-choice",
    claim="Small batches of at most 32, by SGD or Adam, reach a training loss with less work and sooner than the full gradient",
    source="lecture notes on optimization algorithms; Bottou, Curtis and Nocedal (2018)",
    question="How many gradients of all samples, and how many seconds, does each method need to a given training loss?",
    measured="With two hidden layers of 64: gradients of all samples and seconds of updates until the mean loss of an epoch is a "
    "twentieth of ln(classes), the loss of "
    "equal guesses; the least over five rates. One thread, nothing beside it",
    rule="Supported if for SGD and for Adam with batches of 32 the whole intervals of log₁₀ gradients and of log₁₀ seconds, full "
    "gradient − method, paired by seed and corrected for their number, lie above 0; contradicted if one lies below; else inconclusive. A "
    "full gradient that does not arrive counts as if it had at the end; a method that does not arrive leaves its comparison open",
    criticism="Work is not time where a device computes many samples at once: larger batches then save updates up to a limit (Shallue et "
    "al., 2019). An epoch's mean loss is of a model still moving, which is to the disadvantage of small batches. For convex problems and "
    "exact solutions, full-gradient methods win in the end (Bottou, Curtis and Nocedal, 2018).",
    arms=_arms,
    measure=_measure,
    decide=_decide,
    pictures=_pictures,
    seeds=(6, 6),
    takes=("data", "model"),
    alone=True,
)
