"""Features of very different scales: the condition number, and the steps of gradient descent that it costs."""

from collections.abc import Sequence
from dataclasses import replace
from math import log10
from typing import Final

import torch
from torch import Tensor, nn

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
from unstick.studies.measures.curves import over_seeds
from unstick.training import Recipe, condition_number, initialize, train_population
from unstick.training.recipe import vary
from unstick.training.standardizing import Standardizer

__all__ = ["STUDY"]

SPREADS = (1, 10, 100)
MOST = (1000, 10_000)  # steps, quick and full
GOAL = 0.1  # of the loss that can be removed, at which gradient descent has arrived
RATES: Final = (0.5, 1.0, 1.5, 1.8, 1.95)  # times 1/λmax; from 2 on it diverges
SAMPLES = 2000
PLACES = tuple(round(10 ** (k / 10)) for k in range(41))  # steps at which a curve is told


def _arms(setting: Setting) -> Sequence[Arm]:
    spreads = (*SPREADS, 1000) if setting.full else SPREADS
    return [
        Arm(_name(spread, normalized), {"spread": spread, "normalized": normalized})
        for spread in spreads
        for normalized in (False, True)
    ]


def _name(spread: int, normalized: bool) -> str:
    kind = "as they are" if spread == 1 else f"scales over {spread:,}"
    return f"{kind}, {'normalized' if normalized else 'raw'}"


def _measure(task: Task) -> dict[str, Value]:
    inputs, targets = _regression(task)
    most = MOST[task.full]
    X = torch.cat([inputs, torch.ones(len(inputs), 1, dtype=torch.float64)], dim=1)
    curvatures = torch.linalg.eigvalsh(X.T @ X / len(X))  # of the loss ½·mean ‖Wx + b − y‖²
    best = torch.linalg.lstsq(X, targets, driver="gelsd").solution
    floor = float(0.5 * (X @ best - targets).square().sum(1).mean())
    first = float(0.5 * targets.square().sum(1).mean())
    goal = floor + GOAL * (first - floor)
    rates = [share / float(curvatures[-1]) for share in RATES]
    models = [_zero(inputs.shape[1], targets.shape[1]) for _ in rates]
    recipe = Recipe(batch_size=None, updates=most + 1, target_loss=goal, seed=task.seed)
    told = train_population(models, (inputs, targets), _half_square, vary(recipe, lr=rates))
    losses = [member.trace.loss for member in told.members]
    steps = [next((k for k, loss in enumerate(run) if loss <= goal), most + 1) for run in losses]
    fastest = min(range(len(steps)), key=steps.__getitem__)
    run = losses[fastest]
    return {
        "condition": condition_number(inputs).before,
        "log_condition": log10(condition_number(inputs).before),
        "steps": steps[fastest],
        "log_steps": log10(steps[fastest]),
        "reached": steps[fastest] <= most,
        "rate": RATES[fastest],
        "goal": goal,
        "excess": tuple((run[min(k, len(run) - 1)] - floor) / (first - floor) for k in PLACES),
    }


def _regression(task: Task) -> tuple[Tensor, Tensor]:
    """Inputs [N, features] whose features are stretched by factors that the seed draws, and targets [N, outputs]."""
    data = task.data("digits")
    draw = task.generator("samples")
    rows = torch.randperm(len(data.train_inputs), generator=draw)[:SAMPLES]
    inputs = data.train_inputs[rows].double().flatten(1)
    inputs = inputs[:, inputs.amax(0) > inputs.amin(0)]  # what is constant has no scale
    powers = torch.rand(inputs.shape[1], generator=task.generator("scales"), dtype=torch.float64)
    inputs = inputs * task.arm["spread"] ** powers
    if task.arm["normalized"]:
        inputs = Standardizer.fit(inputs).apply(inputs)
    targets = data.train_targets[rows]
    if data.classes:
        return inputs, nn.functional.one_hot(targets, data.classes).double()
    return inputs, targets.double().reshape(len(targets), -1)


def _zero(features: int, outputs: int) -> nn.Module:
    model = nn.Linear(features, outputs).double()
    initialize(model, "zero", seed=0)
    return model


def _half_square(outputs: Tensor, targets: Tensor) -> Tensor:
    return 0.5 * (outputs - targets).square().sum(1).mean()


def _effects(table: Table) -> list[Effect]:
    spreads = sorted({int(str(knobs["spread"])) for knobs in table.knobs.values()})
    return [
        paired(
            table,
            "log_steps",
            _name(spread, True),
            _name(spread, False),
            name=f"log₁₀ of steps, {'as they are' if spread == 1 else f'scales over {spread:,}'}: normalized − raw",
            comparisons=max(1, len(spreads) - 1),
        )
        for spread in spreads
    ]


def _decide(table: Table) -> Decision:
    effects = _effects(table)
    stretched = [effect for effect in effects if "as they are" not in effect.name]
    told = "; ".join(
        f"{arm}: κ {number(_power(table, 'log_condition', arm), 2)}, {_power(table, 'log_steps', arm):,.0f} steps"
        for arm in table.arms
        if table.column("log_steps", arm)
    )
    late = sum(not reached for arm in table.arms for reached in table.column("reached", arm))
    lost = f" {late} runs did not arrive and count with all steps they had." if late else ""
    verdict = combined([verdict_of(effect, Side.BELOW) for effect in stretched])
    return Decision(verdict, f"Geometric means: {told}.{lost}", tuple(effects))


def _power(table: Table, measure: str, arm: str) -> float:
    return float(10 ** table.mean(measure, arm))


def _pictures(table: Table) -> list[Picture]:
    arms = [arm for arm in table.arms if table.curves("excess", arm)]
    x = [float(place) for place in PLACES]
    lines = tuple(
        replace(
            over_seeds(arm, x, table.curves("excess", arm)),
            group=arm.rpartition(", ")[0],
            variant=int(arm.endswith("normalized")),
        )
        for arm in arms
    )
    points = [
        Series(
            kind,
            tuple(_power(table, "log_condition", arm) for arm in arms if arm.endswith(kind)),
            tuple(_power(table, "log_steps", arm) for arm in arms if arm.endswith(kind)),
            kind="points",
        )
        for kind in ("raw", "normalized")
    ]
    return [
        Picture(
            name="descent",
            title="Gradient descent with and without feature normalization",
            caption="What is left of the loss that can be removed, until it is a tenth, at the best of five rates up to 2/λmax; means over "
            "seeds, bands the lowest and highest. Dashed: normalized.",
            x="steps",
            y="part of the loss that is left",
            series=lines,
            claimed=(
                *sketch(
                    "raw, stretched", lines, [(0, 1), (0.5, 0.8), (1, 0.2)], log_x=True, log_y=True
                ),
                *sketch(
                    "normalized", lines, [(0, 1), (0.2, 0.5), (0.35, 0)], log_x=True, log_y=True
                ),
            ),
            log_x=True,
            log_y=True,
        ),
        Picture(
            name="condition",
            title="Steps against the condition number",
            caption="Geometric means over seeds of the condition number of XᵀX and of the steps to a tenth of the loss that can be "
            "removed.",
            x="condition number of the inputs",
            y="steps",
            series=tuple(series for series in points if series.x),
            claimed=sketch(
                "the more, the longer", points, [(0, 0), (1, 1)], log_x=True, log_y=True
            ),
            log_x=True,
            log_y=True,
        ),
    ]


STUDY = Study(
    name="feature-normalization",
    claim="Where features have very different scales the loss is a narrow valley; brought to mean 0 and variance 1, gradient descent "
    "needs far fewer steps",
    source="lecture notes on feature normalization; LeCun, Bottou, Orr, Müller (1998), section 4.3",
    question="How many steps does gradient descent need on a linear model whose features were stretched, raw and normalized?",
    measured="Steps of full-batch gradient descent from zero, on half the mean squared error, on digits to a tenth of the loss that the "
    "best "
    "linear model removes, at the best of five rates (0.5 to 1.95 over the measured λmax); the condition number of XᵀX",
    rule="For features stretched by factors from 1 to 10, 100 … (drawn evenly in logarithm), the whole interval of log₁₀ of steps, "
    "normalized less raw, has to lie below 0 for each: supported; above 0 for one: contradicted; else inconclusive. Features as "
    "they are stand beside it and do not count",
    criticism="Adaptive and second-order methods remove most of the effect without touching the data, features that hardly vary are "
    "blown up to variance 1, and correlations between features stay: only whitening makes the condition number 1 (LeCun et "
    "al., 1998).",
    arms=_arms,
    measure=_measure,
    decide=_decide,
    pictures=_pictures,
    seeds=(3, 10),
    takes=("data",),
)
