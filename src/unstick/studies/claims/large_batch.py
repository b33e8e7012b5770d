"""Methods made for large batches against momentum and Adam, all tuned alike."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

from torch import nn

from unstick.data import Dataset
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
    Verdict,
    paired,
)
from unstick.studies.frame.comparing import side_of
from unstick.studies.frame.sketching import sketch
from unstick.studies.frame.table import Value
from unstick.studies.measures.batches import best_of, divided, present
from unstick.studies.measures.sample import loss_for
from unstick.training import Recipe, swap, vary

__all__ = ["STUDY"]

UPDATES = (40, 60)
WARM = 4  # one in so many updates warms up
SMALL = 32  # the batch that linear scaling starts from, and of SWAP's workers
WORKERS = 4
DATA = (("digits",), ("digits", "mnist1d", "mnist"))
MOST = (4000, 8000)  # training samples, a fifth of them to validate on
MARGIN = 0.01  # of accuracy, below which a gain does not count


@dataclass(frozen=True, slots=True)
class _Method:
    """A recipe but for its rate, and the rates that are tried."""

    rates: tuple[float, ...]
    knobs: dict[str, Any]
    warm: bool = False


MOMENTUM = (0.01, 0.03, 0.1, 0.3, 1.0)
METHODS = {
    "momentum": _Method(MOMENTUM, {"optimizer": "momentum"}),
    "Adam": _Method((1e-3, 3e-3, 1e-2, 3e-2, 1e-1), {"optimizer": "adam"}),
    # the rates are those of the small batch, and grow with the batch
    "linear scaling": _Method(
        (0.001, 0.003, 0.01, 0.03, 0.1), {"optimizer": "momentum", "base_batch": SMALL}
    ),
    "linear scaling, warm-up": _Method(
        (0.001, 0.003, 0.01, 0.03, 0.1), {"optimizer": "momentum", "base_batch": SMALL}, warm=True
    ),
    "LARS": _Method((1.0, 3.0, 10.0, 30.0, 100.0), {"optimizer": "lars"}, warm=True),
    "LAMB": _Method((0.01, 0.03, 0.1, 0.3, 1.0), {"optimizer": "lamb"}, warm=True),
    "RMSprop warm-up": _Method(MOMENTUM, {"optimizer": "rmsprop-warmup"}),
    "SWAP": _Method(MOMENTUM, {"optimizer": "momentum"}),
}
BASELINES = ("momentum", "Adam")
MADE = tuple(name for name in METHODS if name not in BASELINES)


def _arms(setting: Setting) -> Sequence[Arm]:
    return [
        Arm(f"{data}: {method}", {"data": data, "method": method})
        for data in present(DATA[setting.full], setting)
        for method in METHODS
    ]


def _measure(task: Task) -> dict[str, Value]:
    name = task.arm["method"]
    data = divided(task, task.arm["data"], MOST[task.full])
    size = max(1, len(data.train_inputs) // 2)
    method, updates = METHODS[name], UPDATES[task.full]
    plain = Recipe(
        batch_size=size,
        updates=updates,
        schedule="cosine",
        warmup=updates // WARM if method.warm else 0,
        seed=task.seed,
        **method.knobs,
    )
    best, found = best_of(
        vary(plain, lr=method.rates),
        lambda: task.network("64-64", data),
        data,
        run=_swapping(data) if name == "SWAP" else None,
    )
    return {
        "batch": size,
        "rate": method.rates[best],
        "edge": best in (0, len(method.rates) - 1),
        **found[best],
        "all_validation": tuple(each["validation"] for each in found),
    }


def _swapping(data: Dataset) -> Callable[[nn.Module, Recipe], object]:
    """Three quarters of the updates on large batches, one on small ones at a rate in proportion, and the mean of the workers."""

    def run(model: nn.Module, recipe: Recipe) -> object:
        assert recipe.updates is not None
        assert recipe.batch_size is not None
        assert recipe.lr is not None
        apart = recipe.updates // WARM
        size = min(SMALL, recipe.batch_size)
        small = replace(
            recipe, batch_size=size, lr=recipe.lr * size / recipe.batch_size, updates=apart
        )
        large = replace(recipe, updates=recipe.updates - apart)
        return swap(model, data, loss_for(data), large=large, small=small, workers=WORKERS)

    return run


def _baseline(table: Table, data: str) -> str:
    """Momentum or Adam, whichever validates better over all seeds."""

    def validated(name: str) -> float:
        mean = table.mean("validation", f"{data}: {name}")
        return mean if isfinite(mean) else -1.0

    return max(BASELINES, key=validated)


def _effects(table: Table) -> list[Effect]:
    found: list[Effect] = []
    for data in table.groups():
        base = _baseline(table, data)
        found += [
            paired(
                table,
                "test",
                f"{data}: {name}",
                f"{data}: {base}",
                name=f"{data}: test accuracy, {name} − {base}",
                comparisons=len(MADE) * len(table.groups()),
            )
            for name in MADE
        ]
    return found


def _decide(table: Table) -> Decision:
    effects = _effects(table)
    if any(side_of(effect) == Side.ABOVE for effect in effects):
        verdict = Verdict.SUPPORTED
    elif all(side_of(effect, MARGIN) == Side.BELOW for effect in effects):
        verdict = Verdict.CONTRADICTED
    else:
        verdict = Verdict.INCONCLUSIVE
    said: list[str] = []
    for data in table.groups():
        means = {name: table.mean("test", f"{data}: {name}") for name in METHODS}
        known = {name: mean for name, mean in means.items() if isfinite(mean)}
        told = ", ".join(
            f"{name} {number(100 * known[name], 3)}"
            for name in sorted(known, key=lambda n: -known[n])
        )
        said.append(f"Test accuracy on {data}, in percent: {told or 'not measured'}.")
    for side in (Side.ABOVE, Side.BELOW):
        names = [
            effect.name.replace(": test accuracy,", ":")
            for effect in effects
            if side_of(effect) == side
        ]
        said.append(f"Whole interval {side} 0: {', '.join(names) or 'of no method'}.")
    return Decision(verdict, " ".join(said), tuple(effects))


def _pictures(table: Table) -> list[Picture]:
    drawn: list[Picture] = []
    for data in table.groups():
        arms = [f"{data}: {name}" for name in METHODS]
        low, high = table.spread("test", arms)
        means = tuple(table.mean("test", arm) for arm in arms)
        series = (Series("measured", tuple(METHODS), means, tuple(low), tuple(high), "points"),)
        shape = [(name, 0.1 if name in BASELINES else 0.9) for name in METHODS]
        drawn.append(
            Picture(
                name=f"large-batch-{data}",
                title=f"Half of the training set a batch, all tuned alike: {data}",
                caption=f"Test accuracy after equal updates at the best of {len(MOMENTUM)} rates, chosen on a validation part: means over "
                "seeds, the lowest and the highest.",
                x="",
                y="test accuracy",
                series=series,
                claimed=sketch("as claimed", series, shape, group="measured", kind="points"),
            )
        )
    return drawn


STUDY = Study(
    name="large-batch",
    claim="With large batches there is a method made for them (linear scaling, warm-up, LARS, LAMB, RMSprop warm-up, SWAP) that is more "
    "accurate than plain momentum and Adam",
    source="lecture notes on large batches; Goyal et al. (2017), You et al. (2017, 2020), Akiba et al. (2017), Gupta et al. (2020)",
    question="Which method is most accurate after equal updates on half of the training set at once, when all are tuned alike?",
    measured="With two hidden layers of 64: test accuracy after equally many updates, the rate falling along a cosine, at the one of "
    "five rates that validates best. "
    "LARS, LAMB and one linear scaling warm up over a quarter of the updates; SWAP makes its last quarter on small batches",
    rule="Compared with the one of momentum and Adam that validates better, paired by seed and corrected for all methods and data: "
    f"supported if for one method on one data set the whole interval lies above 0; contradicted if for every method it lies below {MARGIN:g}, so that none "
    "gains as much as a point; else inconclusive",
    criticism="Tuned alike, Nesterov's momentum and Adam match or exceed LARS and LAMB at the batch sizes those were made for (Nado et al., "
    "2021). The claims are about ImageNet and BERT and days of training, ours about tens of updates on small data.",
    arms=_arms,
    measure=_measure,
    decide=_decide,
    pictures=_pictures,
    seeds=(8, 24),
    takes=("data", "model"),
)
