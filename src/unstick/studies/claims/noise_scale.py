"""The gradient noise scale along a training."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import ceil, isfinite, log10, nan, sqrt

import torch
from torch import Tensor, nn

from unstick.data import Dataset
from unstick.problem.problem import Problem
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
from unstick.studies.measures.batches import along, present
from unstick.studies.measures.classes import classified
from unstick.studies.measures.noise_scale import two_batch
from unstick.studies.measures.sample import loss_for
from unstick.training import Recipe, evaluate, train
from unstick.training.stopping import DIVERGED

__all__ = ["STUDY"]

STAGES = {"start": None, "loss 1": 1.0, "loss 0.3": 0.3, "loss 0.1": 0.1, "loss 0.03": 0.03}
DATA = (("digits",), ("digits", "mnist1d", "mnist"))
MOST = (4000, 8000)  # samples
EPOCHS = (60, 300)
RATE, BATCH = 0.1, 32
SMALL, BIG = 16, 256  # of the two-batch estimate
PAIRS = (100, 400)
HIDDEN = {"mnist1d": "64-64"}  # a net that can get to the lowest loss there
LOOKS = 8  # at the loss, an epoch
TOLD = (32, 1024)  # batches whose noise is told


def _arms(setting: Setting) -> Sequence[Arm]:
    return [
        Arm(f"{name}: {stage}", {"data": name, "loss": loss})
        for name in present(DATA[setting.full], setting)
        for stage, loss in STAGES.items()
    ]


def _measure(task: Task) -> dict[str, Value]:
    data = classified(task, task.arm["data"], MOST[task.full])
    model = task.network(HIDDEN.get(task.arm["data"], "32"), data)
    target: float | None = task.arm["loss"]
    updates = 0 if target is None else _descend(model, data, target, task)
    problem = Problem(model, (data.train_inputs, data.train_targets), loss_for(data))
    loss, gradient = problem.value_and_gradient()
    noise = problem.gradient_noise(gradient=gradient, everything=True)
    squared = float(gradient.double().square().sum())
    scale = noise.trace / squared if noise is not None and squared > 0 else nan
    estimate = two_batch(
        _lengths(model, data),
        samples=len(data.train_inputs),
        small=SMALL,
        big=BIG,
        pairs=PAIRS[task.full],
        generator=task.generator("pairs"),
    )
    return {
        "reached": target is None or loss <= target,
        "updates": updates,
        "loss": loss,
        "gradient_squared": squared,
        "trace": nan if noise is None else noise.trace,
        "scale": scale,
        "scale_log": log10(scale) if scale > 0 else nan,
        "estimate": estimate.scale,
        "estimate_determined": estimate.determined,
        "estimate_gradient": estimate.gradient,
        "estimate_noise": estimate.noise,
    }


def _descend(model: nn.Module, data: Dataset, target: float, task: Task) -> int:
    """SGD until the loss on all samples is at most this, looked at several times an epoch; how many updates that took."""
    loss, batch = loss_for(data), min(BATCH, len(data.train_inputs))
    an_epoch = ceil(len(data.train_inputs) / batch)
    piece = ceil(an_epoch / LOOKS)
    done = 0
    while done < EPOCHS[task.full] * an_epoch and evaluate(model, data, loss).loss > target:
        seed = task.generator(f"piece {done}").initial_seed()
        told = train(model, data, loss, Recipe(lr=RATE, batch_size=batch, updates=piece, seed=seed))
        done += piece
        if told.outcome == DIVERGED:
            break
    return done


def _lengths(model: nn.Module, data: Dataset) -> Callable[[Tensor], float]:
    """|g|² over some of the training samples, the model in eval mode as a ``Problem`` has it."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    loss = loss_for(data)
    model.eval()

    def squared_length(rows: Tensor) -> float:
        value = loss(model(data.train_inputs[rows]), data.train_targets[rows])
        gradients = torch.autograd.grad(value, parameters)
        return float(sum(g.double().square().sum() for g in gradients))

    return squared_length


def _effects(table: Table) -> list[Effect]:
    steps = [
        (before, later)
        for arms in table.groups().values()
        for before, later in pairwise(arms)
        if all(table.column("reached", later) or [0.0])
    ]
    return [
        paired(
            table,
            "scale_log",
            later,
            before,
            name=f"decades of the noise scale, {later} − {before.rpartition(': ')[2]}",
            comparisons=len(steps),
        )
        for before, later in steps
    ]


def _decide(table: Table) -> Decision:
    effects = _effects(table)
    verdict = combined([verdict_of(effect, Side.ABOVE) for effect in effects])
    said: list[str] = []
    for name, arms in table.groups().items():
        known = [arm for arm in arms if isfinite(table.mean("scale", arm))]
        steps = ", ".join(
            f"{table.mean('scale', arm):,.0f} at loss {number(table.mean('loss', arm), 2)}"
            for arm in known
        )
        unknown = sum(
            value == 0 for arm in arms for value in table.column("estimate_determined", arm)
        )
        short = ", ".join(
            arm.rpartition(": ")[2] for arm in arms if 0.0 in table.column("reached", arm)
        )
        of = sum(len(table.column("estimate_determined", arm)) for arm in arms)
        scales = [table.mean("scale", arm) for arm in known]
        lengths = [
            f"{number(sqrt(min(scales) / batch), 2)} to {number(sqrt(max(scales) / batch), 2)} times the gradient at B = {batch:,}"
            for batch in TOLD
            if scales
        ]
        told = f" (a batch's noise is {', '.join(lengths)})" if lengths else ""
        said.append(
            f"On {name} the noise scale is {steps or 'unknown'}{told}; the two-batch estimate was undetermined in {unknown} of {of} "
            f"cases.{f' Not every run reached {short}.' if short else ''}"
        )
    return Decision(verdict, " ".join(said), tuple(effects))


def _pictures(table: Table) -> list[Picture]:
    drawn: list[Picture] = []
    for name, arms in table.groups().items():
        exact = along("exact, from every sample's gradient", table, "loss", "scale", arms)
        drawn.append(
            Picture(
                name=f"noise-scale-{name}",
                title=f"Gradient noise scale while the loss falls: {name}",
                caption=f"tr Σ / |G|², means over seeds with the lowest and the highest. The estimate from {SMALL} and {BIG} samples a "
                "batch is shown where it is determined.",
                x="training loss",
                y="noise scale, in samples",
                series=(
                    exact,
                    along(
                        f"estimated, {SMALL} and {BIG}",
                        table,
                        "loss",
                        "estimate",
                        arms,
                        kind="points",
                    ),
                ),
                claimed=sketch(
                    "growing as the loss falls",
                    [exact],
                    [(0, 1), (1, 0)],
                    group=exact.name,
                    log_x=True,
                    log_y=True,
                ),
                log_x=True,
                log_y=True,
            )
        )
    return drawn


STUDY = Study(
    name="noise-scale",
    claim="The gradient noise scale, and with it the batch size that pays, grows as the loss falls",
    source="lecture notes on large batches; McCandlish et al. (2018)",
    question="How large is tr Σ / |G|² from the start of a training to its end, and does an estimate from two batch sizes see it?",
    measured=f"With 32 hidden units, on mnist1d two layers of 64: tr Σ and |G|² from the gradient of every training sample, at the "
    "start and at four training losses that SGD reaches; "
    f"beside them the estimate from the lengths of gradients on {SMALL} and on {BIG} samples, undetermined where the 95 % interval of "
    "its |G|² reaches 0",
    rule="Supported if from each loss to the next lower one the whole interval of the difference of log₁₀ (tr Σ / |G|²), paired by "
    "seed and corrected for their number, lies above 0; contradicted if one lies below; else inconclusive. Losses that a run did not reach are "
    "told and do not count",
    criticism="tr Σ / |G|² takes the Hessian for a multiple of the identity; with the Hessian's own weights the number differs "
    "severalfold (McCandlish et al., 2018, section 2.2). It grows also because |G|² falls towards any minimum, whatever the task. The "
    "two-batch estimate of |G|² is negative often when the gradient is small.",
    arms=_arms,
    measure=_measure,
    decide=_decide,
    pictures=_pictures,
    seeds=(5, 10),
    takes=("data", "model"),
)
