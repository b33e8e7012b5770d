"""How the learning rate should change: decay towards the end, warm-up at the beginning."""

from collections.abc import Sequence
from math import isfinite, log

from torch import nn

from unstick.record import number
from unstick.studies.frame import (
    Arm,
    Decision,
    Effect,
    Picture,
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
from unstick.studies.measures.classes import classified
from unstick.studies.measures.curves import binned, over_seeds
from unstick.training import Recipe, evaluate, train_population
from unstick.training.recipe import vary
from unstick.training.stopping import DIVERGED

__all__ = ["STUDY"]

DECAYS = {"step": "step", "cosine": "cosine", "1/√t": "inverse-sqrt"}
UPDATES = (500, 3000)
BATCH, SAMPLES = 32, 4000
RATES = {"sgd": (0.1, 0.3, 1.0, 3.0, 10.0), "adam": (0.001, 0.003, 0.01, 0.03)}
LARGE = 0.03  # Adam's rate that warm-up is judged at: some times what is best without warm-up
WARM = 5  # a fifth of the updates
BINS = 50
LEAST = 1e-12

Shapes = dict[str, tuple[str, list[tuple[float, float]]]]
DECAYING: Shapes = {  # lines of the sketch: the arm that each is about, and its course
    "constant: a plateau": ("SGD, constant", [(0, 1), (0.2, 0.6), (0.4, 0.42), (1, 0.4)]),
    "decayed: goes on down": ("SGD, cosine", [(0, 1), (0.2, 0.6), (0.4, 0.42), (0.7, 0.2), (1, 0)]),
}
WARMING: Shapes = {
    "large from the first": ("Adam", [(0, 1), (0.2, 0.7), (0.5, 0.5), (1, 0.4)]),
    "warmed up": ("Adam, warm-up", [(0, 1), (0.2, 0.8), (0.5, 0.25), (1, 0)]),
}


def _arms(_setting: Setting) -> Sequence[Arm]:
    constant = Arm("SGD, constant", {"optimizer": "sgd", "schedule": "constant", "warm": False})
    decays = [
        Arm(f"SGD, {name}", {"optimizer": "sgd", "schedule": schedule, "warm": False})
        for name, schedule in DECAYS.items()
    ]
    adam = [
        Arm(name, {"optimizer": "adam", "schedule": "constant", "warm": warm})
        for name, warm in (("Adam", False), ("Adam, warm-up", True))
    ]
    return [constant, *decays, *adam]


def _measure(task: Task) -> dict[str, Value]:
    data = classified(task, "mnist1d", SAMPLES)
    rates = RATES[task.arm["optimizer"]]
    updates = UPDATES[task.full]
    recipe = Recipe(
        optimizer=task.arm["optimizer"],
        batch_size=min(BATCH, len(data.train_inputs)),
        updates=updates,
        schedule=task.arm["schedule"],
        every=max(1, updates // 3),
        warmup=updates // WARM if task.arm["warm"] else 0,
        seed=task.seed,
    )
    models = [task.network("64-64", data) for _ in rates]
    loss = nn.functional.cross_entropy
    told = train_population(models, data, loss, vary(recipe, lr=rates)).members
    # a rate at which training diverged counts as a uniform guess, which every training can have for nothing
    scores = [evaluate(model, data, loss) for model in models]
    ends = [
        log(data.classes)
        if member.outcome == DIVERGED or not isfinite(score.loss)
        else max(score.loss, LEAST)
        for member, score in zip(told, scores, strict=True)
    ]
    best = min(range(len(rates)), key=ends.__getitem__)
    large = min(range(len(rates)), key=lambda k: abs(rates[k] - LARGE))
    test = evaluate(models[best], (data.test_inputs, data.test_targets), loss)
    return {
        "loss": ends[best],
        "log_loss": log(ends[best]),
        "test_accuracy": test.accuracy,
        "rate": rates[best],
        "edge": best in (0, len(rates) - 1),
        "large": ends[large],
        "log_large": log(ends[large]),
        "diverged": sum(member.outcome == DIVERGED for member in told),
        "ends": tuple(ends),
        "rates": rates,
        "curve": binned(told[best].trace.loss, BINS),
        "curve_large": binned(told[large].trace.loss, BINS),
        "updates": updates,
    }


def _effects(table: Table) -> list[Effect]:
    count = len(DECAYS) + 1
    effects = [
        paired(
            table,
            "log_loss",
            f"SGD, {name}",
            "SGD, constant",
            name=f"ln of the loss at the best rate: {name} − constant",
            comparisons=count,
        )
        for name in DECAYS
    ]
    warm = paired(
        table,
        "log_large",
        "Adam, warm-up",
        "Adam",
        name=f"ln of the loss of Adam at rate {LARGE:g}: warm-up − none",
        comparisons=count,
    )
    return [*effects, warm]


def _decide(table: Table) -> Decision:
    effects = _effects(table)
    verdicts = [verdict_of(effect, Side.BELOW) for effect in effects]
    told = ", ".join(
        f"{arm} {number(table.mean('loss', arm), 3)}"
        for arm in table.arms
        if table.column("loss", arm)
    )
    large = ", ".join(
        f"{arm} {number(table.mean('large', arm), 3)}"
        for arm in ("Adam", "Adam, warm-up")
        if table.column("large", arm)
    )
    parts = ", ".join(
        f"{effect.name.split(': ')[1].split(' − ')[0]} {verdict}"
        for effect, verdict in zip(effects, verdicts, strict=True)
    )
    edges = sum(on for arm in table.arms for on in table.column("edge", arm))
    warned = f" In {edges:g} runs the best rate lies at the end of the grid." if edges else ""
    said = f"Training loss at the best rate: {told}; at rate {LARGE:g}: {large}. Part by part: {parts}.{warned}"
    return Decision(combined(verdicts), said, tuple(effects))


def _pictures(table: Table) -> list[Picture]:
    sgd = [arm for arm in table.arms if arm.startswith("SGD") and table.curves("curve", arm)]
    adam = [arm for arm in table.arms if arm.startswith("Adam") and table.curves("curve", arm)]
    x = [(k + 0.5) / BINS for k in range(BINS)]
    pictures = [
        _curves(
            "decay",
            "SGD with and without decay, each at its best rate",
            table,
            sgd,
            "curve",
            x,
            DECAYING,
        ),
        _curves(
            "warm-up",
            f"Adam at rate {LARGE:g}, with and without warm-up",
            table,
            adam,
            "curve_large",
            x,
            WARMING,
        ),
        Picture(
            name="rates",
            title="Every schedule at every rate",
            caption="The loss on all training samples after equally many updates; means over seeds, the lowest and the highest. What "
            "diverged counts as a uniform guess.",
            x="learning rate, at its highest",
            y="training loss",
            series=tuple(
                over_seeds(arm, table.curves("rates", arm)[0], table.curves("ends", arm))
                for arm in (*sgd, *adam)
            ),
            log_x=True,
            log_y=True,
        ),
    ]
    return [picture for picture in pictures if picture.series]


def _curves(
    name: str,
    title: str,
    table: Table,
    arms: Sequence[str],
    measure: str,
    x: Sequence[float],
    shapes: Shapes,
) -> Picture:
    lines = tuple(over_seeds(arm, x, table.curves(measure, arm)) for arm in arms)
    return Picture(
        name=name,
        title=title,
        caption="The loss of the batches, means of equally many pieces of the training; means over seeds, bands the lowest and "
        "highest.",
        x="part of the training",
        y="training loss",
        series=lines,
        claimed=tuple(
            line
            for told, (arm, shape) in shapes.items()
            for line in sketch(told, lines, shape, group=arm, log_y=True)
        ),
        log_y=True,
    )


STUDY = Study(
    name="schedules",
    claim="A learning rate that falls on the way ends lower than a constant one; and Adam, whose averages know little at first, "
    "ends lower at a large rate if that is warmed up",
    source="lecture notes on learning rate schedules; Liu et al. (2020), On the variance of the adaptive learning rate",
    question="Where does SGD end under four schedules, each at its best rate, and Adam at a large rate with and without warm-up?",
    measured="On mnist1d with two hidden layers of 64: the loss on all training samples after equally many updates, lowest over the "
    "same grid of rates for every schedule; "
    f"for Adam also at the rate {LARGE:g}, with and without a warm-up over a fifth of the updates; what diverged counts as a "
    "uniform guess",
    rule="For each of step, cosine and 1/√t decay less constant at the best rates, and warm-up less none for Adam at the large rate, the "
    "whole interval of the difference of ln of the loss (corrected for four comparisons) has to lie below 0: supported; above "
    "0 for one: contradicted; else inconclusive",
    criticism="The best schedule depends on the length of the training (a rate tuned for fewer updates asks for less decay), the effect "
    "on the training loss says little about unseen samples, and warm-up matters most for deep networks with residual paths and "
    "large batches (Goyal et al., 2017; Ma and Yarats, 2021).",
    arms=_arms,
    measure=_measure,
    decide=_decide,
    pictures=_pictures,
    seeds=(8, 10),
    takes=("data", "model"),
)
