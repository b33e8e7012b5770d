"""Healthy classifiers: one sound choice after the other of model, data and optimizer.

Answers: which classifiers train as they should?
Does not answer: how to choose; none of these is tuned.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, StepLR

from unstick.studies.gallery.architectures import (
    attentive,
    convolutional,
    recurrent,
    residual,
    sliding,
)
from unstick.studies.gallery.datasets import circle, digits, loaded, pictures, rows
from unstick.studies.gallery.networks import dense
from unstick.studies.gallery.training import Training

__all__ = ["CLASSIFIERS"]

Entry = tuple[str, str, Training, float]

SGD_WELL = partial(SGD, lr=0.1)
MOMENTUM = partial(SGD, lr=0.02, momentum=0.9)
ADAM = partial(Adam, lr=1e-3)
ADAM_FASTER = partial(Adam, lr=5e-3)
RELU = dense(64, 64, 10)
TANH = dense(64, 64, 10, activation=nn.Tanh, scheme="glorot")
GELU = dense(64, 64, 10, activation=nn.GELU)


def _warmed(optimizer: Optimizer) -> LambdaLR:
    return LambdaLR(optimizer, lambda update: min(1.0, (update + 1) / 100))


def _digits(
    name: str,
    model: Callable[[int], nn.Module],
    optimizer: Callable[..., Optimizer],
    batch_size: int | None = 64,
    *,
    updates: int = 800,
    goal: float = 0.15,
    data: Callable[[], tuple[Tensor, Tensor]] = digits,
    **rest: Any,
) -> Entry:
    """A training on digits, described by its name."""
    about = f"Digits: {name.replace('-', ' ')}."
    return (
        f"digits-{name}",
        about,
        Training(data, model, optimizer, updates, batch_size, **rest),
        goal,
    )


def _plane(
    data: str,
    name: str,
    model: Callable[[int], nn.Module],
    optimizer: Callable[..., Optimizer],
    batch_size: int | None,
    updates: int,
    goal: float,
) -> Entry:
    """A training on a small set that users load by name."""
    about = f"{data.capitalize()}: {name.replace('-', ' ')}."
    samples = 1000 if data == "mnist1d" else None
    made = partial(loaded, data, samples)
    return f"{data}-{name}", about, Training(made, model, optimizer, updates, batch_size), goal


CLASSIFIERS: Final[tuple[Entry, ...]] = (
    _digits("relu-sgd", RELU, SGD_WELL, 32),
    _digits("relu-momentum", RELU, MOMENTUM),
    _digits("relu-adam", RELU, ADAM),
    _digits("relu-adamw", RELU, partial(AdamW, lr=1e-3, weight_decay=1e-2)),
    _digits("relu-rmsprop", RELU, partial(RMSprop, lr=1e-3)),
    _digits("relu-nesterov", RELU, partial(SGD, lr=0.02, momentum=0.9, nesterov=True)),
    _digits("relu-weight-decay", RELU, partial(SGD, lr=0.1, weight_decay=1e-4), 32),
    _digits("relu-clipped-at-1", RELU, MOMENTUM, clip_norm=1.0),
    _digits("relu-adam-clipped-at-5", RELU, ADAM, clip_norm=5.0),
    _digits(
        "relu-cosine", RELU, partial(SGD, lr=0.2), 32,
        scheduler=partial(CosineAnnealingLR, T_max=1000, eta_min=0.002),
    ),
    _digits("relu-halved-steps", RELU, MOMENTUM, scheduler=partial(StepLR, step_size=300, gamma=0.5)),
    _digits("relu-warm-up", RELU, partial(Adam, lr=2e-3), scheduler=_warmed),
    _digits("relu-small-batches", RELU, partial(SGD, lr=0.02), 4, updates=2000, goal=0.2),
    _digits("relu-full-batches", RELU, partial(SGD, lr=0.5), None, updates=300),
    _digits("relu-full-batch-adam", RELU, partial(Adam, lr=1e-2), None, updates=200),
    _digits("relu-large-batches", RELU, partial(SGD, lr=0.3), 449, updates=400),
    _digits("tanh-sgd", TANH, SGD_WELL, 32),
    _digits("tanh-adam", TANH, ADAM),
    _digits("tanh-rmsprop", TANH, partial(RMSprop, lr=1e-3)),
    _digits("tanh-full-batch-momentum", TANH, partial(SGD, lr=0.1, momentum=0.9), None, updates=250),
    _digits("gelu-adam", GELU, ADAM),
    _digits("gelu-momentum", GELU, MOMENTUM),
    _digits(
        "gelu-adamw-cosine", GELU, partial(AdamW, lr=2e-3),
        scheduler=partial(CosineAnnealingLR, T_max=1000, eta_min=2e-5),
    ),
    _digits("elu-adam", dense(64, 64, 10, activation=nn.ELU), ADAM),
    _digits(
        "sigmoid-adam", dense(64, 64, 10, activation=nn.Sigmoid, scheme="glorot"),
        partial(Adam, lr=5e-3),
    ),
    _digits("batch-norm-sgd", dense(64, 64, 10, normalized=nn.BatchNorm1d), SGD_WELL),
    _digits(
        "batch-norm-tanh",
        dense(64, 64, 10, normalized=nn.BatchNorm1d, activation=nn.Tanh, scheme="glorot"),
        MOMENTUM,
    ),
    _digits("deep-batch-norm", dense(*[64] * 5, 10, normalized=nn.BatchNorm1d), ADAM, updates=500),
    _digits("layer-norm-adam", dense(64, 64, 10, normalized=nn.LayerNorm), ADAM),
    _digits("deep-layer-norm", dense(*[64] * 5, 10, normalized=nn.LayerNorm), MOMENTUM, updates=500),
    _digits("deep-relu", dense(*[64] * 4, 10), MOMENTUM),
    _digits("dropout", dense(64, 128, 10, dropout=0.2), ADAM),
    _digits("wide", dense(64, 256, 10), SGD_WELL, 32, updates=600),
    _digits("narrow", dense(64, 8, 10, activation=nn.Tanh, scheme="glorot"), partial(Adam, lr=5e-3), goal=0.4),
    _digits("label-smoothing", RELU, ADAM, loss=nn.CrossEntropyLoss(label_smoothing=0.1), goal=0.75),
    _digits("residual", residual(64, 32, 3), ADAM, updates=400),
    _digits("linear-sgd", dense(64, 10), partial(SGD, lr=0.3), 32, goal=0.2),
    _digits("linear-adam", dense(64, 10), partial(Adam, lr=1e-2, weight_decay=1e-4), goal=0.2),
    _digits("convolutions-adam", convolutional(), partial(Adam, lr=3e-3), data=pictures, updates=400),
    _digits("convolutions-momentum", convolutional(), partial(SGD, lr=0.05, momentum=0.9), data=pictures, updates=400),
    _digits("convolutions-batch-norm", convolutional(normalized=True), partial(RMSprop, lr=1e-3), data=pictures, updates=300),
    _digits("lstm-adam", recurrent(nn.LSTM), partial(Adam, lr=1e-2), data=rows, updates=400),
    _digits("gru-clipped", recurrent(nn.GRU), partial(Adam, lr=1e-2), data=rows, updates=300, clip_norm=1.0),
    _digits("transformer-adamw", attentive(), partial(AdamW, lr=5e-3), data=rows, updates=600),
    _plane("iris", "linear-weight-decay", dense(4, 3), partial(SGD, lr=0.5, weight_decay=1e-3), None, 2000, 0.2),
    _plane("iris", "relu-adam", dense(4, 16, 3), partial(Adam, lr=1e-2), 16, 400, 0.12),
    _plane("iris", "tanh-sgd", dense(4, 8, 3, activation=nn.Tanh, scheme="glorot"), SGD_WELL, 16, 1500, 0.12),
    _plane("blobs", "linear-sgd", dense(2, 3), SGD_WELL, 32, 600, 0.8),
    _plane("blobs", "relu-adam", dense(2, 16, 3), partial(Adam, lr=5e-3), 32, 800, 0.75),
    _plane("moons", "tanh-adam", dense(2, 16, 2, activation=nn.Tanh, scheme="glorot"), partial(Adam, lr=1e-2), 32, 800, 0.15),
    _plane("moons", "relu-momentum", dense(2, 32, 32, 2), MOMENTUM, 32, 800, 0.1),
    _plane("circles", "relu-adam", dense(2, 32, 2), partial(Adam, lr=1e-2), 32, 600, 0.1),
    _plane("circles", "tanh-full-batches", dense(2, 32, 2, activation=nn.Tanh, scheme="glorot"), partial(SGD, lr=0.5, momentum=0.9), None, 800, 0.1),
    _plane("mnist1d", "relu-adam", dense(40, 64, 64, 10), partial(Adam, lr=3e-3), 64, 1000, 0.4),
    _plane("mnist1d", "convolutions-adam", sliding(40), partial(Adam, lr=5e-3), 64, 1200, 0.6),
    (
        "circle-elu-sigmoid-output", "Circles, close to each other: five narrow ELU layers.",
        Training(circle, dense(2, *[5] * 5, 1, activation=nn.ELU), ADAM_FASTER, 800, 64, nn.BCEWithLogitsLoss()), 0.5,
    ),
    (
        "circle-relu-sigmoid-output", "Circles, close to each other: probabilities of one output.",
        Training(circle, dense(2, 32, 32, 1), partial(Adam, lr=5e-3), 800, 64, nn.BCEWithLogitsLoss()), 0.42,
    ),
)  # fmt: skip
"""Name, what it is, the training, and the loss that its end is at or below."""
