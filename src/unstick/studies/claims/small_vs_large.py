"""Small batches against a tenth of the training set at once, on a fully connected and on a convolutional network."""

from collections.abc import Sequence
from functools import partial

import torch
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
    combined,
    paired,
    verdict_of,
)
from unstick.studies.frame.sketching import sketch
from unstick.studies.frame.table import Value
from unstick.studies.measures.batches import present, scores
from unstick.studies.measures.classes import classified
from unstick.studies.measures.sample import loss_for
from unstick.training import Recipe, train
from unstick.training.initialization import initialize
from unstick.training.order import generator_for

__all__ = ["STUDY"]

NETS = (
    (("digits", "dense"), ("mnist1d", "convolutional")),
    (
        ("digits", "dense"),
        ("mnist1d", "convolutional"),
        ("mnist", "dense"),
        ("fashion-mnist", "convolutional"),
        ("cifar-10", "convolutional"),
    ),
)
WIDTHS = "128-128-128"
CHANNELS = (8, 16)
HEAD = 64
LARGE, SMALL = 10, 125  # one in so many samples is in a batch
RATE = 1e-3
EPOCHS = (40, 120)  # at most
TARGET = 0.05  # mean loss of an epoch that ends a training
MOST = (2000, 6000)  # training samples
TAUGHT = {
    "dense": (0.9803, 0.9781),
    "convolutional": (0.8004, 0.7726),
}  # F1 and C1, small and large
SIZES = ("small", "large")


def _arms(setting: Setting) -> Sequence[Arm]:
    nets = [
        (name, net)
        for data, net in NETS[setting.full]
        for name in present((data,), setting)
        if setting.model is None or net == "dense"  # a model of one's own is one network
    ]
    return [
        Arm(f"{name}, {net}: {size}", {"data": name, "net": net, "size": size})
        for name, net in dict.fromkeys(nets)
        for size in SIZES
    ]


def small_batch(samples: int) -> int:
    """A 125th of the samples, at least 4, at most the 256 of the paper, whose ratio of both sizes is 20."""
    return max(1, min(256, max(4, samples // SMALL), samples // (2 * LARGE)))


def _measure(task: Task) -> dict[str, Value]:
    data = classified(task, task.arm["data"], MOST[task.full])
    count = len(data.train_inputs)
    batch = small_batch(count) if task.arm["size"] == "small" else max(2, count // LARGE)
    if task.arm["net"] == "dense":
        model = task.network(WIDTHS, data, normalization="batch")
    else:
        model = convolutional(data, seed=task.seed)
    recipe = Recipe(
        optimizer="adam",
        lr=RATE,
        batch_size=batch,
        drop_last=True,  # a last batch of one sample has no variance
        epochs=EPOCHS[task.full],
        target_loss=TARGET,
        seed=task.seed,
    )
    told = train(model, data, loss_for(data), recipe)
    found = scores(model, data)
    return {
        "batch": batch,
        "outcome": told.outcome,
        "epochs": told.epochs,
        "updates": len(told.trace.loss),
        **found,
    }


def convolutional(data: Dataset, *, seed: int) -> nn.Module:
    """Two convolutions with batch normalization and pooling, and a dense layer: the paper's C1 with fewer channels.

    Images are convolved in two directions; other samples, as signals, in one.
    """
    sample = data.train_inputs[0]
    flat = sample.ndim < 3
    shape = (1, sample.numel()) if flat else tuple(sample.shape)
    convolution = nn.Conv1d if flat else nn.Conv2d
    normal = nn.BatchNorm1d if flat else nn.BatchNorm2d
    pool = partial(nn.MaxPool1d if flat else nn.MaxPool2d, 3, stride=2, padding=1)
    layers: list[nn.Module] = [nn.Flatten(), nn.Unflatten(1, shape)]
    before = shape[0]
    with torch.random.fork_rng(devices=[]):  # torch draws what it builds
        for after in CHANNELS:
            layers += [convolution(before, after, 5, padding=2), normal(after), nn.ReLU(), pool()]
            before = after
        features = nn.Sequential(*layers, nn.Flatten()).eval()(sample.unsqueeze(0)).shape[1]
        layers += [nn.Flatten(), nn.Linear(features, HEAD), nn.BatchNorm1d(HEAD), nn.ReLU()]
        model = nn.Sequential(*layers, nn.Linear(HEAD, data.classes))
    initialize(model, "default", seed=generator_for("model", seed).initial_seed() % 2**31)
    return model


def _effects(table: Table, measure: str) -> list[Effect]:
    nets = list(table.groups())
    return [
        paired(
            table,
            measure,
            f"{net}: small",
            f"{net}: large",
            name=f"{net}: {measure} accuracy, small − large batch",
            comparisons=2 * len(nets),
        )
        for net in nets
    ]


def _decide(table: Table) -> Decision:
    tested, trained = _effects(table, "test"), _effects(table, "train")
    verdict = combined([verdict_of(effect, Side.ABOVE) for effect in tested])
    said = " ".join(
        f"On {net}: test accuracy {number(test.first)} with batches of {_batch(table, net, 'small')} and {number(test.second)} with "
        f"{_batch(table, net, 'large')} (difference {number(test.difference, 2)}, {number(test.low, 2)} to {number(test.high, 2)}); "
        f"training accuracy {number(fit.first)} and {number(fit.second)}."
        for net, test, fit in zip(table.groups(), tested, trained, strict=True)
    )
    return Decision(verdict, said, (*tested, *trained))


def _batch(table: Table, net: str, size: str) -> str:
    return number(table.mean("batch", f"{net}: {size}"))


def _pictures(table: Table) -> list[Picture]:
    nets = list(table.groups())

    def bars(size: str, measure: str) -> Series:
        arms = [f"{net}: {size}" for net in nets]
        low, high = table.spread(measure, arms)
        means = tuple(table.mean(measure, arm) for arm in arms)
        return Series(f"{size} batch", tuple(nets), means, tuple(low), tuple(high), "points")

    paper = "; ".join(
        f"{kind}, {100 * small:.4g} % and {100 * large:.4g} %"
        for kind, (small, large) in TAUGHT.items()
    )
    both = {measure: [bars(size, measure) for size in SIZES] for measure in ("test", "train")}
    return [
        Picture(
            name=f"small-vs-large-{measure}",
            title=f"{told} accuracy, with a small batch and a tenth of all",
            caption="Means over seeds, the lowest and the highest. The paper's test accuracies, of larger networks on MNIST (dense) and "
            f"CIFAR-10, with a small batch and a large one: {paper}.",
            x="",
            y=f"{told.lower()} accuracy",
            series=tuple(both[measure]),
            claimed=tuple(
                points
                for size, part in (("small", 0.9), ("large", 0.1 if measure == "test" else 0.9))
                for points in sketch(
                    f"{size} batch", both[measure], [(net, part) for net in nets], kind="points"
                )
            ),
        )
        for measure, told in (("test", "Test"), ("train", "Training"))
    ]


STUDY = Study(
    name="small-vs-large",
    claim="Trained until it fits, a network generalizes worse when its batch is a tenth of the training set than when it is small",
    source="lecture notes on batches; Keskar et al. (2017), table 2",
    question="How accurate are networks on training and test samples after Adam with small and with large batches?",
    measured=f"Training and test accuracy of a dense network ({WIDTHS}) and of one with two convolutions, both with batch normalization, "
    f"after Adam with rate {RATE:g}, until an epoch's mean loss is {TARGET:g} or the epochs end; a large batch is a tenth of the training "
    "samples, a small one a 125th, and at most 256",
    rule="Supported if on every network the whole interval of test accuracy, small − large batch, paired by seed, lies above 0; "
    "contradicted if on one it lies below; else inconclusive. Intervals are corrected for twice as many comparisons as networks, training "
    "accuracy being reported too",
    criticism="One rate for both sizes favors the small batch: with metaparameters chosen for each, no evidence of worse generalization "
    "was found (Shallue et al., 2019), and as many updates close the gap (Hoffer et al., 2017). Ours are small networks on small data.",
    arms=_arms,
    measure=_measure,
    decide=_decide,
    pictures=_pictures,
    seeds=(4, 8),
    takes=("data", "model"),
)
