"""Accuracy against the batch size, at equal epochs, at equal updates, and with the rate chosen for each size."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil

from torch import nn

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
from unstick.studies.measures.batches import along, best_of, divided, present
from unstick.training import Recipe, vary

__all__ = ["STUDY"]

PARTS = ((256, 64, 16, 4, 2, 1), (256, 128, 64, 32, 16, 8, 4, 2, 1))  # a batch is this part of all
WHOLE = 60_000  # training samples of MNIST …
WHOLE_PARTS = (
    4096,
    1024,
    256,
    64,
    16,
    4,
    1,
)  # … all of which are taken too, at the same epochs only
SMALL, LARGE = "N/64", "N"
RATES = (0.1, 0.02, 0.5, 2.5)  # the first is that of the other two budgets
EPOCHS = (6, 10)
DATA = (("digits",), ("digits", "mnist1d", "mnist"))
MOST = 8000  # training samples, a fifth of them to validate on
BUDGETS = {"epochs": "same epochs", "updates": "same updates", "tuned": "rate chosen"}
KINDS = {"train": "training", "test": "held-out"}


def _name(part: int) -> str:
    return "N" if part == 1 else f"N/{part}"


def _arms(setting: Setting) -> Sequence[Arm]:
    names = present(DATA[setting.full], setting)
    arms = [
        Arm(f"{name}: {_name(part)}", {"data": name, "part": part, "whole": False})
        for name in names
        for part in PARTS[setting.full]
    ]
    if setting.full and "mnist" in names:
        arms += [
            Arm(f"all of mnist: {_name(part)}", {"data": "mnist", "part": part, "whole": True})
            for part in WHOLE_PARTS
        ]
    return arms


def _measure(task: Task) -> dict[str, Value]:
    whole: bool = task.arm["whole"]
    data = divided(task, task.arm["data"], WHOLE if whole else MOST)
    count = len(data.train_inputs)
    size = ceil(count / task.arm["part"])
    plain = Recipe(lr=RATES[0], batch_size=size, epochs=EPOCHS[task.full], seed=task.seed)

    def build() -> nn.Module:
        return task.network("64-64", data)

    values: dict[str, Value] = {"batch": size, "updates_an_epoch": ceil(count / size)}
    if whole:
        _, found = best_of([plain], build, data)
        return values | _scored("epochs", found[0])
    best, found = best_of(vary(plain, lr=RATES), build, data)
    small = ceil(count / int(SMALL[2:]))
    same = EPOCHS[task.full] * ceil(count / small)  # updates of the small batch
    _, longer = best_of([replace(plain, epochs=None, updates=same)], build, data)
    rate = RATES[best]
    values |= {"rate": rate, "edge": rate in (min(RATES), max(RATES))}
    by_budget = {"epochs": found[0], "updates": longer[0], "tuned": found[best]}
    for budget, scored in by_budget.items():
        values |= _scored(budget, scored)
    return values


def _scored(budget: str, scored: Mapping[str, float]) -> dict[str, Value]:
    return {f"{kind}_{budget}": scored[kind] for kind in (*KINDS, "loss")}


def _effects(table: Table, budget: str) -> dict[tuple[str, str], Effect]:
    """What the small batch is better by, in accuracy: by data on which this budget was measured, and by kind."""
    names = [name for name, arms in table.groups().items() if _measured(table, budget, arms)]
    return {
        (name, kind): paired(
            table,
            f"{kind}_{budget}",
            f"{name}: {SMALL}",
            f"{name}: {LARGE}",
            name=f"{name}, {BUDGETS[budget]}: {told} accuracy, {SMALL} − {LARGE}",
            comparisons=len(KINDS) * len(BUDGETS) * len(names),
        )
        for name in names
        for kind, told in KINDS.items()
    }


def _measured(table: Table, budget: str, arms: Sequence[str]) -> bool:
    return any(table.column(f"train_{budget}", arm) for arm in arms)


def _decide(table: Table) -> Decision:
    effects = {budget: _effects(table, budget) for budget in BUDGETS}
    verdict = combined([verdict_of(effect, Side.ABOVE) for effect in effects["epochs"].values()])
    ahead: list[str] = []
    fitted: list[str] = []
    for name in table.groups():
        gaps = [
            f"{number(100 * effects[budget][name, 'test'].difference, 3)} ({told})"
            for budget, told in BUDGETS.items()
            if (name, "test") in effects[budget]
        ]
        if gaps:
            ahead.append(f"{name} {', '.join(gaps)}")
            gap = effects["epochs"][name, "train"].difference
            fitted.append(f"{name} {number(100 * gap, 3)}")
    said = (
        f"Points of held-out accuracy by which the batch {SMALL} is ahead of all samples at once: {'; '.join(ahead)}. "
        f"Points of training accuracy, same epochs: {', '.join(fitted)}."
    )
    found = tuple(effect for each in effects.values() for effect in each.values())
    return Decision(verdict, said, found)


def _pictures(table: Table) -> list[Picture]:
    by_data = table.groups()
    return [
        Picture(
            name=f"accuracy-{budget}-{name}",
            title=f"Accuracy against the batch size: {told}, {name}",
            caption="Means over seeds, the lowest and the highest. The held-out samples are the test part; rates are chosen on "
            "a validation part that neither line shows.",
            x="batch size",
            y="accuracy",
            series=(lines := _lines(table, budget, arms)),
            claimed=(
                *sketch("training", lines, [(0, 1), (1, 0.1)], log_x=True),
                *sketch("held-out", lines, [(0, 0.92), (1, 0)], log_x=True),
            ),
            log_x=True,
        )
        for budget, told in BUDGETS.items()
        for name, arms in reversed(by_data.items())  # all of the largest data first
        if _measured(table, budget, arms)
    ]


def _lines(table: Table, budget: str, arms: Sequence[str]) -> tuple[Series, ...]:
    return tuple(
        along(told, table, "batch", f"{kind}_{budget}", arms) for kind, told in KINDS.items()
    )


STUDY = Study(
    name="batch-accuracy",
    claim="A larger batch makes both training and validation accuracy lower: optimization suffers, it is not overfitting",
    source="lecture notes on batches; Keskar et al. (2017), Masters and Luschi (2018)",
    question="How do accuracies depend on the batch size at one rate and equal epochs, at equal updates, and at the best of several "
    "rates?",
    measured=f"With two hidden layers of 64: accuracy on training and test samples after SGD with rate {RATES[0]}: for equal epochs, "
    "for as many updates as the batch "
    f"{SMALL} makes in them, and for equal epochs with the rate of {len(RATES)} that validates best, on samples kept for that. In full, "
    "on all of MNIST too, at equal epochs",
    rule=f"Supported if at the same epochs and one rate the whole intervals of training and held-out accuracy, batch {SMALL} − all "
    "samples, paired by seed, lie above 0; contradicted if one lies below; else inconclusive. The other two budgets are reported beside "
    "it; intervals are corrected for all three",
    criticism="Equal epochs mean fewer updates for larger batches. With rates and budgets chosen for each size, no evidence of a lower "
    "accuracy was found in 168,160 trainings (Shallue et al., 2019); the gap goes with more updates (Hoffer et al., 2017); small batches "
    "are stable over a wider range of rates (Masters and Luschi, 2018).",
    arms=_arms,
    measure=_measure,
    decide=_decide,
    pictures=_pictures,
    seeds=(3, 8),
    takes=("data", "model"),
)
