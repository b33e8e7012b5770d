"""What batch normalization does to the loss along the gradient, and whether it is by steadier inputs of layers."""

from collections.abc import Sequence
from dataclasses import replace
from math import inf, isfinite, log, nan
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from unstick.data import Dataset
from unstick.errors import UnstickError
from unstick.problem.guard import put_back_buffers, visiting
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
from unstick.studies.frame.table import Row, Value
from unstick.studies.measures.classes import classified
from unstick.studies.measures.curves import over_seeds
from unstick.training import Recipe, evaluate, insert_normalization, strip_normalization, train
from unstick.training.normalization import BATCH_NORMS
from unstick.training.stopping import DIVERGED

__all__ = ["STUDY"]

RATES = (0.01, 0.1, 0.5)
DISTURBED = 0.1  # the rate of the arm with noise …
LARGE = 0.5  # … and the one at which training without normalization is expected to fail
BATCH, TINY = 128, 2
WIDTHS = "-".join(["64"] * 8)
UPDATES = (150, 150)  # while both train: once the plain network has converged, its loss is flat
PROBES = (4, 10)  # places of the training at which the walk is made
WALK = tuple(0.05 * 8 ** (k / 5) for k in range(6))  # fixed steps along −g, 0.05 to 0.4
SHARES = tuple(0.5 * 8 ** (k / 5) for k in range(6))  # and as multiples of the rate, ½ to 4
SAMPLES = 4000
LEAST = 1e-12
TOLERATED = 0.02  # of accuracy, with noise below without
WORST = 10.0  # loss that is drawn: where training fails it grows without bound


class Disturbed(nn.Module):
    """Moves and stretches each unit anew at every update, after its normalization: internal covariate shift, put in.

    The shift is uniform in ±½ and the factor in 1 to 1.25, from torch's global generator, as dropout's mask is. Where
    ``still`` it keeps what it drew last.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.still = False
        self.register_buffer("shift", torch.zeros(features))
        self.register_buffer("factor", torch.ones(features))

    def forward(self, inputs: Tensor) -> Tensor:
        """Of the same shape, [N, features] or [N, features, …]."""
        if self.training and not self.still:
            self.shift = torch.empty_like(self.shift).uniform_(-0.5, 0.5)
            self.factor = torch.empty_like(self.factor).uniform_(1.0, 1.25)
        if not (self.training or self.still):  # at test time what is expected
            return inputs * 1.125
        shape = [1, -1] + [1] * (inputs.ndim - 2)
        return inputs * self.factor.reshape(shape) + self.shift.reshape(shape)


def _arms(_setting: Setting) -> Sequence[Arm]:
    walked = [
        Arm(f"{told}, η = {rate:g}", {"kind": kind, "lr": rate, "batch": BATCH})
        for rate in RATES
        for kind, told in (("none", "without"), ("batch", "with"))
    ]
    noisy = Arm(
        f"with noise, η = {DISTURBED:g}", {"kind": "noise", "lr": DISTURBED, "batch": BATCH}
    )
    tiny = [
        Arm(f"{told}, batches of {TINY}", {"kind": kind, "lr": 0.01, "batch": TINY})
        for kind, told in (("none", "without"), ("batch", "with"))
    ]
    return [*walked, noisy, *tiny]


def _measure(task: Task) -> dict[str, Value]:
    data = classified(task, "digits", SAMPLES)
    model = _model(task, data)
    updates, probes = UPDATES[task.full], PROBES[task.full]
    rows = torch.randperm(len(data.train_inputs), generator=task.generator("walk"))[:BATCH]
    like = next(model.parameters())
    fixed = (data.train_inputs[rows].to(like), data.train_targets[rows])
    walks, shares, shifts = list[tuple[float, ...]](), list[tuple[float, ...]](), list[float]()
    losses = list[float]()
    outcome = "done"
    for probe in range(probes):
        walks.append(_walk(model, fixed, WALK))
        shares.append(_walk(model, fixed, tuple(share * task.arm["lr"] for share in SHARES)))
        before = _inputs_of_activations(model, fixed[0])
        outcome = _train(task, model, data, 1, 2 * probe, losses)
        shifts.append(_shift(before, _inputs_of_activations(model, fixed[0])))
        if outcome != DIVERGED:
            outcome = _train(task, model, data, updates // probes - 1, 2 * probe + 1, losses)
        if outcome == DIVERGED:
            break
    return {
        **_scored(model, data, outcome),
        **_medians("fixed", walks),
        **_medians("share", shares),
        "shift": median([shift for shift in shifts if isfinite(shift)] or [nan]),
        "outcome": outcome,
        "curve": tuple(losses),
        "ranges": tuple(walk[0] for walk in walks),
    }


def _model(task: Task, data: Dataset) -> nn.Module:
    model = task.network(WIDTHS, data, scheme="he")
    has = any(isinstance(module, BATCH_NORMS) for module in model.modules())
    if task.arm["kind"] == "none":
        return strip_normalization(model, fold=False) if has else model
    if not has:
        model = insert_normalization(model)
    if task.arm["kind"] == "noise":
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, BATCH_NORMS):
                    setattr(parent, name, nn.Sequential(child, Disturbed(child.num_features)))
    return model


def _train(
    task: Task, model: nn.Module, data: Dataset, updates: int, piece: int, losses: list[float]
) -> str:
    """A piece of the training; SGD without momentum has no memory, so pieces are as good as the whole."""
    recipe = Recipe(
        lr=task.arm["lr"],
        batch_size=min(task.arm["batch"], len(data.train_inputs)),
        drop_last=True,  # a batch of one sample has no variance
        updates=updates,
        seed=1000 * task.seed + piece,
    )
    told = train(model, data, nn.functional.cross_entropy, recipe)
    losses += told.trace.loss
    return told.outcome


def _walk(
    model: nn.Module, fixed: tuple[Tensor, Tensor], steps: tuple[float, ...]
) -> tuple[float, float, float]:
    """Along −g: the range of the loss, the largest change of the gradient, and the largest such change by length."""
    noises = [module for module in model.modules() if isinstance(module, Disturbed)]
    for noise in noises:
        noise.still = True
    try:
        problem = Problem(model, fixed, nn.functional.cross_entropy, mode="train")
        theta, g = problem.parameters(), problem.gradient()
        walked = theta - torch.tensor(steps, dtype=torch.float64).to(theta).unsqueeze(1) * g
        losses = problem.values(torch.cat([theta.unsqueeze(0), walked]))
        changes = torch.linalg.vector_norm(problem.gradients(walked) - g, dim=1).double()
    except UnstickError:  # parameters or losses that are not finite
        return nan, nan, nan
    finally:
        for noise in noises:
            noise.still = False
    lengths = torch.tensor(steps, dtype=torch.float64) * float(torch.linalg.vector_norm(g))
    effective = float((changes / lengths).max()) if float(lengths[0]) > 0 else 0.0
    return float(losses.max() - losses.min()), float(changes.max()), effective


def _inputs_of_activations(model: nn.Module, inputs: Tensor) -> list[Tensor]:
    """What each hidden layer hands to its activation, [N, units], in training mode; the model stays as it is."""
    seen: list[Tensor] = []

    def note(_module: nn.Module, args: tuple[Any, ...]) -> None:
        seen.append(args[0].detach().flatten(1))

    handles = [m.register_forward_pre_hook(note) for m in model.modules() if isinstance(m, nn.ReLU)]
    noises = [module for module in model.modules() if isinstance(module, Disturbed)]
    try:
        for noise in noises:
            noise.still = True  # what it drew for the last update
        with torch.no_grad(), visiting(model, training=True), put_back_buffers(model):
            model(inputs)
    finally:
        for handle in handles:
            handle.remove()
        for noise in noises:
            noise.still = False
    return seen


def _shift(before: list[Tensor], after: list[Tensor]) -> float:
    """How far an update moves the mean of a unit's input, in its standard deviations; mean over units and layers."""
    moved = [
        ((b.mean(0) - a.mean(0)).abs() / a.std(0).clamp_min(LEAST)).mean()
        for a, b in zip(before, after, strict=True)
    ]
    return float(torch.stack(moved).mean()) if moved else nan


def _medians(name: str, walks: list[tuple[float, ...]]) -> dict[str, Value]:
    """Of what the walks showed, over the training; in logarithms too, where ratios are compared."""
    found: dict[str, Value] = {}
    for at, kind in enumerate(("range", "change", "smoothness")):
        known = [walk[at] for walk in walks if isfinite(walk[at])]
        middle = median(known) if known else nan
        found[f"{name}_{kind}"] = middle
        found[f"log_{name}_{kind}"] = log(max(middle, LEAST)) if known else nan
    return found


def _scored(model: nn.Module, data: Dataset, outcome: str) -> dict[str, Value]:
    """Loss and accuracy; of the test samples with the statistics kept for it and with those of the samples themselves."""
    loss, unseen = nn.functional.cross_entropy, (data.test_inputs, data.test_targets)
    seen, test = evaluate(model, data, loss), evaluate(model, unseen, loss)
    with torch.no_grad(), visiting(model, training=True), put_back_buffers(model):
        outputs = model(data.test_inputs.to(next(model.parameters())))
    own = float((outputs.argmax(1) == data.test_targets).double().mean())
    return {
        "loss": inf if outcome == DIVERGED else seen.loss,
        "accuracy": seen.accuracy,
        "test_accuracy": test.accuracy,
        "test_accuracy_own_statistics": own,
    }


def _pooled(table: Table, measure: str, *, name: str, comparisons: int) -> Effect:
    """With less without batch normalization, the mean over all rates of a seed."""
    rows: list[Row] = []
    for kind in ("with", "without"):
        known = [table.by_seed(measure, f"{kind}, η = {rate:g}") for rate in RATES]
        for seed in table.seeds:
            if all(seed in one for one in known):
                mean = sum(one[seed] for one in known) / len(known)
                rows.append(Row(kind, seed, {measure: mean}, 0.0))
    pooled = Table(tuple(rows), ("with", "without"), {})
    return paired(pooled, measure, "with", "without", name=name, comparisons=comparisons)


def _decide(table: Table) -> Decision:
    noisy, plain = f"with noise, η = {DISTURBED:g}", f"without, η = {DISTURBED:g}"
    large = (f"with, η = {LARGE:g}", f"without, η = {LARGE:g}")
    told = "with − without normalization, mean over the rates"
    judged = [
        (_pooled(table, "log_fixed_range", name=f"ln of the loss's range, {told}", comparisons=5), Side.BELOW, 0.0),
        (_pooled(table, "log_fixed_change", name=f"ln of the gradient's change, {told}", comparisons=5), Side.BELOW, 0.0),
        (paired(table, "accuracy", *large, name=f"accuracy at η = {LARGE:g}: with − without", comparisons=5), Side.ABOVE, 0.0),
        (paired(table, "shift", noisy, plain, name="shift of inputs in σ: with noise − without", comparisons=5), Side.ABOVE, 0.0),
        (paired(table, "accuracy", noisy, plain, name="accuracy: with noise − without", comparisons=5), Side.ABOVE, -TOLERATED),
    ]  # fmt: skip
    verdicts = [verdict_of(effect, side, level) for effect, side, level in judged]
    rates = "; ".join(
        f"at η = {rate:g}, loss's range × {_ratio(table, 'fixed_range', rate)}, gradient's change × "
        f"{_ratio(table, 'fixed_change', rate)}, effective smoothness × {_ratio(table, 'fixed_smoothness', rate)}, accuracy "
        f"{number(table.mean('accuracy', f'with, η = {rate:g}'), 3)} (without {number(table.mean('accuracy', f'without, η = {rate:g}'), 3)})"
        for rate in RATES
    )
    tiny = f"with, batches of {TINY}"
    said = (
        f"With normalization, relative to without: {rates}. With noise the inputs shift by {number(table.mean('shift', noisy), 2)} σ an update "
        f"(without normalization {number(table.mean('shift', plain), 2)}) and the accuracy is {number(table.mean('accuracy', noisy), 3)}. "
        f"Trained on batches of {TINY}, test accuracy {number(table.mean('test_accuracy', tiny), 3)} with the kept statistics, "
        f"{number(table.mean('test_accuracy_own_statistics', tiny), 3)} with those of the test samples."
    )
    return Decision(combined(verdicts), said, tuple(effect for effect, _, _ in judged))


def _ratio(table: Table, measure: str, rate: float) -> str:
    one, two = (table.mean(measure, f"{kind}, η = {rate:g}") for kind in ("with", "without"))
    return number(one / two if two else nan, 2)


def _pictures(table: Table) -> list[Picture]:
    x = tuple(f"η = {rate:g}" for rate in RATES)
    pictures: list[Picture] = []
    names = {
        "range": ("Range of the loss", "range of the loss"),
        "change": ("Change of the gradient", "largest ‖Δg‖"),
        "smoothness": ("Its change by length", "largest ‖Δg‖ / length walked"),
    }
    for walk, steps in (
        ("fixed", "steps of 0.05 to 0.4"),
        ("share", "steps of ½ to 4 rates"),
    ):
        for kind, (told, unit) in names.items():
            series = tuple(
                _bars(table, f"{walk}_{kind}", group, x) for group in ("with", "without")
            )
            pictures.append(
                Picture(
                    name=f"{walk}-{kind}",
                    title=f"{told} along −g, {steps}",
                    caption="Of one batch, on a walk along its gradient: medians over the training; means over seeds, the lowest "
                    "and the highest.",
                    x="learning rate η of the training",
                    y=unit,
                    series=tuple(one for one in series if any(map(isfinite, one.y))),
                    claimed=(
                        *sketch(
                            "with normalization",
                            series,
                            [(at, 0.15) for at in x],
                            kind="points",
                            log_y=True,
                        ),
                        *sketch(
                            "without normalization",
                            series,
                            [(at, 0.85) for at in x],
                            kind="points",
                            log_y=True,
                        ),
                    ),
                    log_y=True,
                )
            )
    pictures.insert(1, _training(table))
    return [picture for picture in pictures if picture.series]


def _bars(table: Table, measure: str, kind: str, x: tuple[str, ...]) -> Series:
    arms = [f"{kind}, η = {rate:g}" for rate in RATES]
    low, high = table.spread(measure, arms)
    means = tuple(table.mean(measure, arm) for arm in arms)
    return Series(f"{kind} normalization", x, means, tuple(low), tuple(high), "points")


def _training(table: Table) -> Picture:
    arms = [arm for arm in table.arms if table.curves("curve", arm)]
    length = max((len(curve) for arm in arms for curve in table.curves("curve", arm)), default=0)
    x = tuple(float(k) for k in range(length))
    lines = [over_seeds(arm, x, table.curves("curve", arm)) for arm in arms]
    seen = [Series("", x, tuple(y if y <= WORST else inf for y in line.y)) for line in lines]
    large = f"η = {LARGE:g}"
    return Picture(
        name="training",
        title="Training with and without batch normalization",
        caption="The loss of each update's batch, means over seeds, bands the lowest and highest. Dashed: without.",
        x="update",
        y="training loss",
        series=tuple(
            replace(
                line,
                group=line.name if "noise" in line.name else line.name.rpartition(", ")[2],
                variant=int(line.name.startswith("without")),
            )
            for line in lines
        ),
        claimed=(
            *sketch(f"with, {large}", seen, [(0, 0.9), (1, 0)], group=large, log_y=True),
            *sketch(f"without, {large}: fails", seen, [(0, 0.9), (1, 1)], log_y=True),
        ),
        log_y=True,
        top=WORST,
    )


STUDY = Study(
    name="batch-normalization",
    claim="Batch normalization smooths the loss, so that it trains at rates where the plain network fails; steadier inputs of layers "
    "are not the reason",
    source="lecture notes on batch normalization; Santurkar, Tsipras, Ilyas, Madry (2018)",
    question="How much do loss and gradient change along the gradient, with and without batch normalization, and does it still train "
    "when the shift that it removes is put back?",
    measured="At places along the training of eight ReLU layers of 64 on digits: the range of the loss of one batch, the largest change "
    "of its "
    "gradient, and that change by length, on a walk along −g of 0.05 to 0.4 and of ½ to 4 times the rate; the move of the mean of "
    "a unit's input by one update; accuracy with kept statistics and with the samples' own; all of it with noise after the "
    "normalization, and on batches of two",
    rule="All of these (corrected for five comparisons), each supported if its whole interval lies there and contradicted if it lies on "
    "the other side: on the fixed walk, ln of the loss's range and of the gradient's change below 0, with less without, mean over "
    f"the rates; accuracy at η = {LARGE:g} above 0, with less without; with noise, a shift above that without normalization, and an "
    f"accuracy less that without above −{TOLERATED:g}. Supported if all are, contradicted if one is, else inconclusive",
    criticism="With normalization the loss does not depend on the length of the weights, so equal steps are not comparable: the walk as a "
    "multiple of the rate stands beside it, and neither is free of this (van Laarhoven, 2017). It is a comparison of "
    "trainings under way: over 600 updates at η = 0.1 the plain network converges and is then the flatter one. Other normalizations and a good start "
    "with residual paths train as fast (Santurkar et al., 2018; Zhang et al., 2019).",
    arms=_arms,
    measure=_measure,
    decide=_decide,
    pictures=_pictures,
    seeds=(5, 20),
    takes=("data", "model"),
)
