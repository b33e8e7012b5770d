"""Stalls whose signal does not pass: units dead, saturated or alike, gradients vanished, paths without any.

Answers: which trainings lose their gradient inside the network?
Does not answer: those that lose it by their scale (``scale``) or their steps (``step``).
"""

from functools import partial
from typing import Final

from torch import Tensor, nn
from torch.optim import SGD, Adam, RMSprop

from unstick.diagnosis.cause import Cause
from unstick.studies.gallery.datasets import (
    blob,
    circle,
    constant_rows,
    digits,
    line,
    negative_plane,
    standardized,
)
from unstick.studies.gallery.networks import Exponential, changed, dense
from unstick.studies.gallery.stall import AUTOTRAINER, DEEPCHECKER, DIVERGED, STACK_OVERFLOW, Stall
from unstick.studies.gallery.training import Training

__all__ = ["SIGNAL_STALLS"]

LOGISTIC = nn.BCEWithLogitsLoss()


def probability_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy of probabilities, kept 1e-7 away from 0 and 1."""
    kept = outputs.clamp(1e-7, 1 - 1e-7)
    return -(targets * kept.log() + (1 - targets) * (1 - kept).log()).mean()


def _freeze_zero_head(model: nn.Module) -> None:
    *_, head = model.children()
    for parameter in head.parameters():
        parameter.zero_()
        parameter.requires_grad_(False)


SIGNAL_STALLS: Final = (
    Stall(
        name="dead-relu-circle",
        about="Twenty ReLU layers of four units each: one whole layer is dead, and nothing passes it.",
        source=AUTOTRAINER,
        causes=(Cause.DEAD_UNITS,),
        training=Training(
            circle, dense(2, *[4] * 20, 1), partial(Adam, lr=1e-3), 1500, 128, LOGISTIC
        ),
        band=(0.69, 0.70),
        remedy="ELU in place of ReLU, rate 3e-3",
        reached=0.6,
        repaired=Training(
            circle,
            dense(2, *[4] * 20, 1, activation=nn.ELU),
            partial(Adam, lr=3e-3),
            1500,
            128,
            LOGISTIC,
        ),
    ),
    Stall(
        name="vanishing-sigmoid-circle",
        about="Twelve sigmoid layers: each takes most of the gradient away, the first gets next to none.",
        source=AUTOTRAINER,
        causes=(Cause.VANISHING_GRADIENT,),
        training=Training(
            circle,
            dense(2, *[5] * 12, 1, activation=nn.Sigmoid),
            partial(Adam, lr=1e-3),
            1000,
            128,
            LOGISTIC,
        ),
        band=(0.69, 0.70),
        remedy="ReLU with batch normalization, rate 1e-2",
        reached=0.5,
        repaired=Training(
            circle,
            dense(2, *[5] * 12, 1, normalized=nn.BatchNorm1d),
            partial(Adam, lr=1e-2),
            1000,
            128,
            LOGISTIC,
        ),
    ),
    Stall(
        name="exponential-activation",
        about="exp as the activation of nine layers: no first loss is finite.",
        source=AUTOTRAINER,
        causes=(Cause.NON_FINITE,),
        training=Training(
            blob, dense(2, *[5] * 9, 3, activation=Exponential), partial(Adam, lr=1e-3), 600, 32
        ),
        band=DIVERGED,
        remedy="tanh and Glorot's start",
        reached=0.46,
        repaired=Training(
            blob,
            dense(2, *[5] * 9, 3, activation=nn.Tanh, scheme="glorot"),
            partial(Adam, lr=1e-3),
            1500,
            32,
        ),
        refused="the loss overflows before the first update",
    ),
    Stall(
        name="softmax-of-one",
        about="A softmax over a single output is 1 whatever the weights are.",
        source=STACK_OVERFLOW,
        causes=(Cause.ZERO_GRADIENT_PATH,),
        training=Training(
            constant_rows,
            dense(128, 50, 50, 1, scheme="glorot", last=(nn.Softmax(-1),)),
            partial(RMSprop, lr=1e-3),
            300,
            32,
            probability_loss,
        ),
        band=(7.9, 8.1),
        remedy="a sigmoid in place of the softmax",
        reached=0.02,
        repaired=Training(
            constant_rows,
            dense(128, 50, 50, 1, scheme="glorot", last=(nn.Sigmoid(),)),
            partial(RMSprop, lr=1e-3),
            300,
            32,
            probability_loss,
        ),
    ),
    Stall(
        name="softmax-regression",
        about="A linear regression through a softmax over its single output predicts 1 for ever.",
        source=STACK_OVERFLOW,
        causes=(Cause.ZERO_GRADIENT_PATH,),
        training=Training(
            line,
            dense(1, 1, scheme="glorot", last=(nn.Softmax(-1),)),
            partial(SGD, lr=0.01),
            300,
            32,
            nn.MSELoss(),
        ),
        band=(7.0e7, 7.6e7),
        remedy="no softmax, inputs and targets standardized",
        reached=1e-05,
        repaired=Training(
            standardized(line),
            dense(1, 1, scheme="glorot"),
            partial(SGD, lr=0.1),
            300,
            32,
            nn.MSELoss(),
        ),
        unit=1.8e7,
    ),
    Stall(
        name="dead-output",
        about="A ReLU behind the last layer cannot predict negative targets, and has no slope where it tries.",
        source=STACK_OVERFLOW,
        causes=(Cause.ZERO_GRADIENT_PATH, Cause.DEAD_UNITS),
        training=Training(
            negative_plane,
            dense(2, 4, 1, scheme="glorot", last=(nn.ReLU(),)),
            partial(SGD, lr=0.01),
            600,
            32,
            nn.MSELoss(),
        ),
        band=(1.3e3, 1.5e3),
        remedy="a linear output, inputs and targets standardized",
        reached=0.3,
        repaired=Training(
            standardized(negative_plane),
            dense(2, 4, 1, scheme="glorot"),
            partial(SGD, lr=0.1),
            600,
            32,
            nn.MSELoss(),
        ),
        unit=208.0,
    ),
    Stall(
        name="frozen-zero-head",
        about="A head that is frozen at zero passes no gradient to the layers before it.",
        source="by construction",
        causes=(Cause.ZERO_GRADIENT_PATH,),
        training=Training(
            digits, changed(dense(64, 64, 10), _freeze_zero_head), partial(SGD, lr=0.1), 300, 32
        ),
        band=(2.30, 2.31),
        remedy="train the head too",
        reached=0.15,
        repaired=Training(digits, dense(64, 64, 10), partial(SGD, lr=0.1), 600, 32),
    ),
    Stall(
        name="saturated-tanh",
        about="Hidden weights of deviation 5 drive almost every tanh to its end.",
        source=DEEPCHECKER,
        causes=(Cause.SATURATED_UNITS,),
        training=Training(
            digits,
            dense(*[64] * 4, 10, activation=nn.Tanh, scheme="normal", value=5.0, head="glorot"),
            partial(SGD, lr=0.1),
            600,
            32,
        ),
        band=(0.4, 2.4),
        remedy="Glorot's start",
        reached=0.08,
        repaired=Training(
            digits,
            dense(64, 64, 64, 64, 10, activation=nn.Tanh, scheme="glorot"),
            partial(SGD, lr=0.1),
            600,
            32,
        ),
    ),
    Stall(
        name="alike-units",
        about="Every weight starts at 0.05, so that all hidden units stay copies of one.",
        source=DEEPCHECKER,
        causes=(Cause.SYMMETRIC_UNITS,),
        training=Training(
            digits,
            dense(64, 32, 10, activation=nn.Tanh, scheme="constant", value=0.05),
            partial(SGD, lr=0.1),
            1500,
            32,
        ),
        band=(1.2, 2.31),
        remedy="Glorot's start",
        reached=0.09,
        repaired=Training(
            digits,
            dense(64, 32, 10, activation=nn.Tanh, scheme="glorot"),
            partial(SGD, lr=0.1),
            1500,
            32,
        ),
    ),
)
"""Dead, saturated, vanishing, alike, cut off."""
