"""How long an update and an epoch take, against the size of the batch."""

import os
from collections.abc import Sequence
from dataclasses import replace
from math import ceil, isfinite, log10
from statistics import quantiles
from time import perf_counter

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
from unstick.studies.frame.table import Value
from unstick.studies.measures.batches import along, present
from unstick.studies.measures.sample import loss_for, part
from unstick.training import Recipe, train
from unstick.training.samples import Samples

__all__ = ["STUDY"]

SIZES = ((1, 4, 16, 64, 256), (1, 4, 16, 64, 256, 1024, 4096, 16384))  # and all samples
WARM = 5  # updates that are not counted
LEAST, MOST = 5, 300  # updates that are
SECONDS = (0.2, 2.0)  # for one arm on one seed
RATE = 1e-3  # so small that no training diverges while it is timed
FLAT = 2.0  # an update that takes at most so many times the smallest batch's counts as equally fast


def _devices() -> list[str]:
    cores = os.cpu_count() or 1
    found = ["1 thread", *([f"{cores} threads"] if cores > 1 else [])]
    return [*found, *(["GPU"] if torch.cuda.is_available() else [])]


def _arms(setting: Setting) -> Sequence[Arm]:
    sizes = [*map(str, SIZES[setting.full]), "all"]
    return [
        Arm(f"{device}, B = {size}", {"device": device, "size": size})
        for device in _devices()
        for size in sizes
    ]


def _measure(task: Task) -> dict[str, Value]:
    device, size = task.arm["device"], task.arm["size"]
    torch.set_num_threads(1 if device == "1 thread" else os.cpu_count() or 1)
    pictures = task.full and "mnist" in present(("mnist",), task.setting)
    data = task.data("mnist" if pictures else "digits")
    data = part(data, len(data.train_inputs), task.generator())
    count = len(data.train_inputs)
    batch = count if size == "all" else min(int(size), count)
    model = task.network("128-128" if task.full else "64-64", data)
    if device == "GPU":
        model = model.to("cuda")
    samples, loss = Samples(data, model), loss_for(data)
    recipe = Recipe(lr=RATE, batch_size=batch, updates=WARM, seed=task.seed)
    train(model, samples, loss, recipe)
    kept: list[float] = []
    begin, piece = perf_counter(), LEAST
    while not kept or (len(kept) < MOST and perf_counter() - begin < SECONDS[task.full]):
        told = train(model, samples, loss, replace(recipe, updates=piece))
        kept += [s for s in told.trace.seconds if s is not None]
        piece = min(2 * piece, MOST - len(kept))
    low, middle, high = quantiles(kept, n=4)
    an_epoch = middle * ceil(count / batch)
    return {
        "batch": batch,
        "threads": torch.get_num_threads(),
        "updates": len(kept),
        "update_ms": 1e3 * middle,
        "update_ms_low": 1e3 * low,
        "update_ms_high": 1e3 * high,
        "epoch_s": an_epoch,
        "update_log": log10(middle),
        "epoch_log": log10(an_epoch),
    }


def _decide(table: Table) -> Decision:
    on = table.groups(", ")
    epochs: list[Effect] = []
    updates: list[Effect] = []
    said: list[str] = []
    for device, arms in on.items():
        smallest, largest = arms[0], arms[-1]
        for kind, effects, ends in (
            ("epoch", epochs, (smallest, largest)),
            ("update", updates, (largest, smallest)),
        ):
            name = f"{device}, one {kind}: decades from {ends[1]} to {ends[0]}"
            effects.append(paired(table, f"{kind}_log", *ends, name=name, comparisons=2 * len(on)))
        said.append(_told(table, device, arms))
    verdict = combined([verdict_of(effect, Side.ABOVE) for effect in epochs])
    return Decision(verdict, " ".join(said), (*epochs, *updates))


def _told(table: Table, device: str, arms: Sequence[str]) -> str:
    known = [arm for arm in arms if isfinite(table.mean("epoch_s", arm))]
    if not known:
        return f"On {device} nothing was measured."
    smallest, largest = known[0], known[-1]
    fast = min(known, key=lambda arm: table.mean("epoch_s", arm))
    limit = FLAT * table.mean("update_ms", smallest)
    flat = max(table.mean("batch", arm) for arm in known if table.mean("update_ms", arm) <= limit)
    one, other = (number(table.mean("epoch_s", arm), 3) for arm in (smallest, largest))
    return (
        f"On {device} an epoch takes {one} s at B = {table.mean('batch', smallest):,.0f} and {other} s at "
        f"B = {table.mean('batch', largest):,.0f}, least at B = {table.mean('batch', fast):,.0f}; an update takes at most twice "
        f"as long as with the smallest batch up to B = {flat:,.0f}."
    )


def _pictures(table: Table) -> list[Picture]:
    on = table.groups(", ")
    drawn: list[Picture] = []
    for kind, unit, told in (("epoch", "s", "one epoch"), ("update", "ms", "one update")):
        lines = tuple(
            along(device, table, "batch", f"{kind}_{unit}", arms) for device, arms in on.items()
        )
        drawn.append(
            Picture(
                name=f"time-{kind}",
                title=f"Time for {told}, against the batch size",
                caption="Medians over the updates after warm-up: their mean over repetitions, the lowest and the highest.",
                x="batch size",
                y=f"time for {told}, {unit}",
                series=lines,
                claimed=_claimed(kind, lines[0]),
                log_x=True,
                log_y=True,
            )
        )
    return drawn


def _claimed(kind: str, line: Series) -> tuple[Series, ...]:
    if not line.x:
        return ()
    if kind == "update":
        return (Series("as long whatever the batch", line.x, (line.y[0],) * len(line.x)),)
    falling = tuple(line.y[0] * float(line.x[0]) / float(x) for x in line.x)
    return (Series("in proportion to the number of updates", line.x, falling),)


STUDY = Study(
    name="batch-time",
    claim="An epoch takes longer the smaller the batch, because it makes more updates",
    source="lecture notes on batches; other notes of the same course say the opposite, that small batches make an epoch shorter",
    question="How long do an update and an epoch take, from one sample a batch to all of them?",
    measured=f"Seconds an update under SGD, of two hidden layers of 128 on MNIST (in quick of 64 on digits; digits too where MNIST is "
    f"missing), {WARM} updates of warm-up left out, as a median; an epoch "
    "is that times the number of updates. On one thread, on all, and on a GPU where there is one; nothing runs beside it",
    rule="Supported if on every device the whole interval of log₁₀ (epoch with B = 1 / epoch with B = all), paired over repetitions, "
    "lies above 0; contradicted if on one it lies below; else inconclusive. Intervals are corrected for two comparisons a device",
    criticism="Time to an accuracy is what counts, not time an epoch: more updates an epoch also learn more (Shallue et al., 2019). "
    "How far an update is equally fast depends on the device: on a CPU, to much smaller batches than on a GPU.",
    arms=_arms,
    measure=_measure,
    decide=_decide,
    pictures=_pictures,
    seeds=(5, 5),
    takes=("data", "model"),
    alone=True,
)
