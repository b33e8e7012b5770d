"""Momentum against none, each at its best rate: a ravine, a network, a dip and a plateau."""

from collections.abc import Sequence
from math import inf, isfinite, log10, nan

import torch
from torch import Tensor

from unstick.record import number
from unstick.studies.frame import (
    Arm,
    Decision,
    Effect,
    Picture,
    Row,
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
from unstick.studies.measures.sample import loss_for, part
from unstick.training.population import train_population
from unstick.training.recipe import Recipe, vary
from unstick.training.rules import RULES
from unstick.training.samples import evaluate

__all__ = ["STUDY"]

TUNED, PASSED = ("ravine", "network"), ("dip", "plateau")
GROUNDS = TUNED + PASSED
WAYS = {"none": 0.0, "momentum": 0.9}
RATES = tuple(10.0 ** (k / 3) for k in range(-9, 4))  # 1e-3 to 10, the same for both
STEPS = 200  # of a ravine, a dip and a plateau
KAPPA, DIMENSIONS = 100.0, 20  # of the ravine
SAMPLES, BATCH = 500, 32
EPOCHS = (5, 20)
THROUGH = (
    0.1  # a loss below which the dip, whose floor is at 0.16, or the plateau, at 1, has been passed
)
FLOOR = 1e-12  # of losses that are compared by their logarithm
WORST = 4  # power of ten of the losses that are drawn
TOLD = {"none": "no momentum", "momentum": "momentum 0.9"}
SHAPES: dict[bool, dict[str, list[tuple[float, float]]]] = {  # where a rate is tuned, and elsewhere
    True: {"none": [(0, 1), (0.5, 0.5), (0.7, 1)], "momentum": [(0, 0.9), (0.3, 0), (0.5, 1)]},
    False: {"none": [(0, 1), (1, 1)], "momentum": [(0, 0.95), (0.4, 0), (1, 0)]},
}


def _arms(setting: Setting) -> Sequence[Arm]:
    del setting
    return [
        Arm(_arm(ground, way), {"ground": ground, "way": way}) for ground in GROUNDS for way in WAYS
    ]


def _arm(ground: str, way: str) -> str:
    return f"{ground}, {way}"


def _measure(task: Task) -> dict[str, Value]:
    ground, mu = task.arm["ground"], WAYS[task.arm["way"]]
    losses = _network(task, mu) if ground == "network" else _descended(task, ground, mu)
    losses = [loss if isfinite(loss) else inf for loss in losses]
    logs = tuple(log10(max(loss, FLOOR)) if isfinite(loss) else inf for loss in losses)
    passed = sum(loss < THROUGH for loss in losses) / len(losses)
    return {"losses": tuple(losses), "logs": logs, "passed": passed}


def _network(task: Task, mu: float) -> list[float]:
    """The training loss after some epochs of SGD at every rate; all rates are trained at once."""
    data = part(task.data("digits"), SAMPLES, task.generator("samples"))
    samples, loss = (data.train_inputs, data.train_targets), loss_for(data)
    models = [task.network("32-32", data) for _ in RATES]
    recipe = Recipe(
        momentum=mu,
        batch_size=min(BATCH, len(data.train_inputs)),
        epochs=EPOCHS[task.full],
        seed=task.seed,
    )
    told = train_population(models, samples, loss, vary(recipe, lr=RATES))
    return [
        inf if member.outcome == "diverged" else evaluate(model, samples, loss).loss
        for model, member in zip(models, told.members, strict=True)
    ]


def _descended(task: Task, ground: str, mu: float) -> list[float]:
    """The same on a surface in closed form, for all rates in one tensor."""
    rates = torch.tensor(RATES, dtype=torch.float64).unsqueeze(1)
    x = _start(ground, task.generator("start")).expand(len(RATES), -1).clone()
    rule, memory = RULES["heavy-ball"], {"movement": torch.zeros_like(x)}
    for step in range(STEPS):
        x.requires_grad_(True)
        g = torch.autograd.grad(_height(ground, x).sum(), x)[0]
        x = x.detach()
        rule.step(x, g, memory, {"lr": rates, "momentum": mu}, step)
    return _height(ground, x).tolist()


def _start(ground: str, draw: torch.Generator) -> Tensor:
    if ground == "ravine":
        return torch.randn(DIMENSIONS, generator=draw, dtype=torch.float64)
    near = torch.rand(1, generator=draw, dtype=torch.float64)
    return 4.0 + near if ground == "dip" else 3.5 + 0.5 * near


def _height(ground: str, x: Tensor) -> Tensor:
    """Losses [rates] at x [rates, dimensions]; the lowest is 0, to rounding."""
    if ground == "ravine":
        curvatures = torch.logspace(0, log10(KAPPA), DIMENSIONS, dtype=x.dtype)
        return 0.5 * (x * x) @ curvatures
    if ground == "plateau":  # the slope fades like x·exp(−x²/2) away from 0
        return (1 - torch.exp(-0.5 * x * x)).squeeze(1)
    dip = 0.15 * torch.exp(-0.5 * ((x - 2.5) / 0.15) ** 2)  # a small hollow in the slope of a bowl
    return (0.05 * x * x - dip).squeeze(1)


def _tuned(table: Table) -> Table:
    """Of every arm, the loss at its best rate."""
    rows: list[Row] = []
    for arm in table.arms:
        best = _best(table, arm)
        rows += [
            Row(arm, row.seed, {"log": logs[best]}, 0.0)
            for row in table.rows
            if row.arm == arm and isinstance(logs := row.values.get("logs"), tuple)
        ]
    return Table(tuple(rows), table.arms, table.knobs)


def _means(table: Table, arm: str) -> list[float]:
    """The mean of the logarithms at each rate; inf where a seed diverged."""
    curves = table.curves("logs", arm)
    return [sum(column) / len(column) for column in zip(*curves, strict=True)]


def _best(table: Table, arm: str) -> int:
    """The rate whose worst seed ends lowest: on average alone, one at which some runs fail could win."""
    worst = [max(column) for column in zip(*table.curves("logs", arm), strict=True)]
    return worst.index(min(worst)) if worst else 0


def _effects(table: Table) -> list[Effect]:
    tuned, of = _tuned(table), len(GROUNDS)
    return [
        *(
            paired(
                tuned,
                "log",
                *(_arm(ground, way) for way in ("momentum", "none")),
                name=f"{ground}: momentum − none, powers of ten of the loss",
                comparisons=of,
            )
            for ground in TUNED
        ),
        *(
            paired(
                table,
                "passed",
                *(_arm(ground, way) for way in ("momentum", "none")),
                name=f"{ground}: momentum − none, share of rates that pass",
                comparisons=of,
            )
            for ground in PASSED
        ),
    ]


def _decide(table: Table) -> Decision:
    effects, tuned = _effects(table), _tuned(table)
    lower = "; ".join(
        f"{ground} {_loss(tuned, ground, 'none')} without (rate {_rate(table, ground, 'none')}), "
        f"{_loss(tuned, ground, 'momentum')} with (rate {_rate(table, ground, 'momentum')})"
        for ground in TUNED
    )
    through = "; ".join(
        f"the {ground} at {number(table.mean('passed', _arm(ground, 'none')), 2)} without, "
        f"{number(table.mean('passed', _arm(ground, 'momentum')), 2)} with"
        for ground in PASSED
    )
    said = f"Losses at the best rates: {lower}. Share of the rates that pass {through}."
    sides = [Side.BELOW for _ in TUNED] + [Side.ABOVE for _ in PASSED]
    verdicts = [verdict_of(one, side) for one, side in zip(effects, sides, strict=True)]
    return Decision(combined(verdicts), said, tuple(effects))


def _rate(table: Table, ground: str, way: str) -> str:
    return number(RATES[_best(table, _arm(ground, way))], 2)


def _loss(tuned: Table, ground: str, way: str) -> str:
    mean = tuned.mean("log", _arm(ground, way))
    return number(10**mean, 3) if isfinite(mean) else "not measured"


def _pictures(table: Table) -> list[Picture]:
    pictures: list[Picture] = []
    for ground in GROUNDS:
        series: list[Series] = []
        for way in WAYS:
            curves = table.curves("logs", _arm(ground, way))
            if curves:
                columns = list(zip(*curves, strict=True))
                series.append(
                    Series(
                        TOLD[way],
                        RATES,
                        tuple(_power(mean) for mean in _means(table, _arm(ground, way))),
                        tuple(_power(min(column)) for column in columns),
                        tuple(_power(max(column)) for column in columns),
                    )
                )
        if series:
            pictures.append(
                Picture(
                    name=ground,
                    title=f"With and without momentum, at every rate: {ground}",
                    caption="The loss after equal work; geometric means, lowest and highest over seeds. What diverged, or ended above "
                    f"{10**WORST:,}, is left out.",
                    x="learning rate",
                    y="loss at the end",
                    series=tuple(series),
                    claimed=tuple(
                        line
                        for way, shape in SHAPES[ground in TUNED].items()
                        for line in sketch(TOLD[way], series, shape, log_x=True, log_y=True)
                    ),
                    log_x=True,
                    log_y=True,
                )
            )
    return pictures


def _power(log: float) -> float:
    return 10**log if log <= WORST else nan


STUDY = Study(
    name="momentum",
    claim="Momentum trains faster than gradient descent, and its inertia carries it over plateaus and out of small dips",
    source="lecture notes on momentum; Polyak (1964); Sutskever et al. (2013)",
    question="Does momentum 0.9 reach a lower loss with equal work, when both choose their rate from the same grid?",
    measured="The loss after equal numbers of updates at thirteen rates from 0.001 to 10: a quadratic ravine of twenty dimensions, a "
    "network on digits under "
    "SGD, a bowl with a small dip on the way, and a plateau",
    rule="Paired by seed and corrected for four comparisons: on the ravine and the network momentum − none in powers of ten of the loss, each at "
    "its best rate (whose worst seed ends lowest); on the dip and the plateau the share of rates that end below 0.1. Supported if the whole interval lies below "
    "0 on the first two and above 0 on the others; contradicted if one lies on the other side; else inconclusive",
    criticism="The rate is chosen on the same seeds that are compared, for both alike. With small rates momentum is gradient descent at the rate "
    "η/(1 − μ), so much of a gain at one rate is a larger rate (Shallue et al., 2019); a large enough rate jumps over a dip without "
    "momentum. With noisy gradients and small batches the gain goes away (Kidambi et al., 2018).",
    arms=_arms,
    measure=_measure,
    decide=_decide,
    pictures=_pictures,
    seeds=(10, 20),
    takes=("data", "model"),
)
