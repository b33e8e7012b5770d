"""How far from a point the model of second order holds, at several stages of a training."""

from collections.abc import Callable, Sequence
from math import isfinite, log10

import torch
from torch import Tensor, nn

from unstick.critical.curvature import curvature_ends
from unstick.critical.taylor import profile
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
    verdict_of,
    within,
)
from unstick.studies.frame.table import Value
from unstick.studies.measures.sample import loss_for, part
from unstick.training.loop import train
from unstick.training.recipe import Recipe

__all__ = ["STUDY"]

SAMPLES = 500
RATE, BATCH = 0.1, 32
STAGES = (0, 30, 300, 3000)  # updates
AHEAD = 20  # updates over which the length of a step is measured
WRONG = 0.1  # relative error at which the model no longer holds
DECADES = (-3.0, 3.0)  # of distances, in steps of the optimizer
POINTS = 49
DIRECTIONS = ("gradient", "random", "top", "lowest")
TOLD = {
    "gradient": "against the gradient",
    "random": "at random",
    "top": "of most curvature",
    "lowest": "of least curvature",
}


def _arms(setting: Setting) -> Sequence[Arm]:
    stages = STAGES if setting.full else STAGES[:-1]
    return [Arm(f"after {updates:,} updates", {"updates": updates}) for updates in stages]


def _measure(task: Task) -> dict[str, Value]:
    data = part(task.data("digits"), SAMPLES, task.generator("samples"))
    inputs = data.train_inputs.double()
    targets = data.train_targets if data.classes else data.train_targets.double()
    loss = loss_for(data)
    model = task.network("32", data, activation="tanh").double()
    recipe = Recipe(
        batch_size=min(BATCH, len(inputs)), lr=RATE, updates=task.arm["updates"], seed=task.seed
    )
    if recipe.updates:
        train(model, (inputs, targets), loss, recipe)
    problem = Problem(model, (inputs, targets), loss)
    step = _step(problem, model, (inputs, targets), loss, recipe)
    values: dict[str, Value] = {"loss": problem.value(), "step": step, "log_step": log10(step)}
    for name, direction in _directions(problem, task).items():
        values |= _held(problem, name, direction, step)
    return values


def _step(
    problem: Problem,
    model: nn.Module,
    samples: tuple[Tensor, Tensor],
    loss: Callable[[Tensor, Tensor], Tensor],
    recipe: Recipe,
) -> float:
    """The mean length of the next updates; the model is put back where it was."""
    here = problem.parameters()
    ahead = Recipe(
        batch_size=recipe.batch_size, lr=RATE, updates=AHEAD, norms=True, seed=recipe.seed + 1
    )
    told = train(model, samples, loss, ahead)
    problem.write(here)
    lengths = [length for length in told.trace.update_norm if length is not None]
    return sum(lengths) / len(lengths)


def _directions(problem: Problem, task: Task) -> dict[str, Tensor]:
    """Each downhill: against the gradient, and the sign of the others with gᵀd ≤ 0."""
    g = problem.gradient()
    ends = curvature_ends(problem, lowest=1, highest=1, seed=task.seed)
    random = torch.randn(problem.n, generator=task.generator("direction"), dtype=torch.float64)
    found = {
        "gradient": -g,
        "random": random,
        "top": ends.highest.vectors[:, 0],
        "lowest": ends.lowest.vectors[:, 0],
    }
    return {name: -d if float(g @ d) > 0 else d for name, d in found.items()}


def _held(problem: Problem, name: str, direction: Tensor, step: float) -> dict[str, Value]:
    """The relative error of the model along a direction, and the distance at which it becomes too large."""
    distances = step * torch.logspace(*DECADES, POINTS, dtype=torch.float64)
    line = profile(problem, direction, steps=distances)
    t = line.steps[1:]
    terms = t * abs(line.slope) + 0.5 * t**2 * abs(line.curvature)
    error = ((line.losses - line.predicted)[1:].abs() / terms).nan_to_num(nan=torch.inf)
    wrong = (error > WRONG).nonzero()
    radius = float(t[wrong[0, 0]]) if len(wrong) else float(t[-1])
    return {
        f"radius_{name}": radius,
        f"log_radius_{name}": log10(radius),
        f"slope_{name}": line.slope,
        f"curvature_{name}": line.curvature,
        f"distances_{name}": tuple((t / step).tolist()),
        f"errors_{name}": tuple(error.tolist()),
    }


def _effects(table: Table) -> list[Effect]:
    return [
        within(
            table,
            arm,
            f"log_radius_{name}",
            "log_step",
            name=f"{arm}, along {name}: radius over step, powers of ten",
            comparisons=max(1, len(table.arms)),
        )
        for arm in table.arms
        for name in DIRECTIONS
    ]


def _decide(table: Table) -> Decision:
    effects = _effects(table)
    along = effects[:: len(DIRECTIONS)]
    told = "; ".join(
        f"{arm}, {_ratios(effects[at * len(DIRECTIONS) : (at + 1) * len(DIRECTIONS)])}"
        for at, arm in enumerate(table.arms)
    )
    said = f"The error of the model of second order passes {WRONG:.0%} at so many mean lengths of an update: {told}."
    verdicts = [verdict_of(effect, Side.ABOVE) for effect in along]
    return Decision(combined(verdicts), said, tuple(effects))


def _ratios(effects: Sequence[Effect]) -> str:
    return ", ".join(
        f"{told} {number(10**effect.difference, 3) if isfinite(effect.difference) else 'not measured'}"
        for told, effect in zip(TOLD.values(), effects, strict=True)
    )


def _pictures(table: Table) -> list[Picture]:
    names = [arm for arm in table.arms if table.curves("errors_gradient", arm)]
    pictures = [
        Picture(
            name=f"error-{arm.split()[1].replace(',', '')}",
            title=f"How far the model holds, {arm}",
            caption="The error of L + gᵀs + ½ sᵀHs over the sum of its two terms, of the first seed, against the distance in "
            f"mean updates of SGD at rate {RATE:g}.",
            x="distance, in updates",
            y="relative error",
            series=tuple(
                Series(
                    TOLD[name],
                    table.curves(f"distances_{name}", arm)[0],
                    table.curves(f"errors_{name}", arm)[0],
                )
                for name in DIRECTIONS
            ),
            claimed=(
                Series("holds over an update …", (10 ** DECADES[0], 1.0), (1e-8, WRONG / 100)),
                Series("… and fails far away", (1.0, 10 ** DECADES[1]), (WRONG / 100, 1.0)),
            ),
            log_x=True,
            log_y=True,
        )
        for arm in names
    ]
    return [*([_radii(table, names)] if names else []), *pictures]


def _radii(table: Table, arms: Sequence[str]) -> Picture:
    series: list[Series] = []
    places = tuple(arm.split()[1] for arm in arms)
    for name in DIRECTIONS:
        effects = [within(table, arm, f"log_radius_{name}", "log_step") for arm in arms]
        middle = tuple(10**effect.difference for effect in effects)
        sure = all(isfinite(effect.low) and isfinite(effect.high) for effect in effects)
        low = tuple(10**effect.low for effect in effects) if sure else ()
        high = tuple(10**effect.high for effect in effects) if sure else ()
        series.append(Series(TOLD[name], places, middle, low, high, "points"))
    farther, step = (tuple(far for _ in arms) for far in (10.0, 1.0))
    return Picture(
        name="radius",
        title="How many updates far the model of second order holds",
        caption=f"The distance at which its error passes {WRONG:.0%}, over the mean length of an update; geometric means over seeds, with "
        "intervals of 95 %.",
        x="updates made before",
        y="distance / length of an update",
        series=tuple(series),
        claimed=(
            Series("the model holds", places, farther, kind="points", group=TOLD["gradient"]),
            Series("an update", places, step, kind="points"),
        ),
        log_y=True,
    )


STUDY = Study(
    name="taylor",
    claim="Around the current parameters the loss is its slope and its curvature, so well that the step of an optimizer stays where this model of "
    "second order holds",
    source="lecture notes on critical points; Martens (2010)",
    question="At which distance does the Taylor model of second order fail, in units of the updates that training takes?",
    measured=f"The loss of a tanh network (32 hidden units, {SAMPLES} samples of digits) and its model along the gradient, a random "
    "direction and the eigenvectors of the largest and smallest "
    "eigenvalue, at several stages of training; the first distance at which the error exceeds 10 % of the sum of the model's two terms; "
    "the mean length of the next twenty updates",
    rule="Along the gradient, radius over step in powers of ten: supported if at every stage the whole interval lies above 0 (corrected for the "
    "stages), contradicted if at one it lies below, else inconclusive. The other directions are told, not decided by",
    criticism="That the model holds over one update does not make it a model of training: curvature changes from update to update, and at large "
    "rates it rises until the steps are as long as stability allows (Cohen et al., 2021). With ReLU the curvature is blind to kinks.",
    arms=_arms,
    measure=_measure,
    decide=_decide,
    pictures=_pictures,
    seeds=(5, 10),
    takes=("data", "model"),
)
