"""Stalls of scale: inputs and targets that are not, and losses that expect other outputs.

Answers: which trainings fail for the numbers that go in, come out or are compared?
Does not answer: those that fail inside the network (``signal``).
"""

from functools import partial
from typing import Final

from torch import nn
from torch.optim import SGD, Adam

from unstick.diagnosis.cause import Cause
from unstick.studies.gallery.datasets import blob, digits, quartic, scaled, standardized
from unstick.studies.gallery.networks import Shares, dense, kept_shares_of, shares_of
from unstick.studies.gallery.stall import AUTOTRAINER, DEEPCHECKER, DIVERGED, STACK_OVERFLOW, Stall
from unstick.studies.gallery.training import Training

__all__ = ["SCALE_STALLS"]

SCALE_STALLS: Final = (
    Stall(
        name="relu-probabilities",
        about="Outputs of a ReLU, divided by their sum, as probabilities: 0/0 where all are zero.",
        source=AUTOTRAINER,
        causes=(Cause.LOSS_OUTPUT_MISMATCH, Cause.NON_FINITE),
        training=Training(
            blob,
            dense(2, *[50] * 4, 3, last=(nn.ReLU(), Shares())),
            partial(Adam, lr=1e-4),
            600,
            32,
            shares_of,
        ),
        band=DIVERGED,
        remedy="plain outputs and cross-entropy",
        reached=0.6,
        repaired=Training(blob, dense(2, *[50] * 4, 3), partial(Adam, lr=1e-4), 2000, 32),
        refused="0/0 before the first update",
    ),
    Stall(
        name="raw-quartic",
        about="y = x⁴ for x up to 100, neither scaled: outputs of order 1 face targets of 1e8.",
        source=STACK_OVERFLOW,
        causes=(Cause.UNSCALED_TARGETS, Cause.UNSCALED_INPUTS),
        training=Training(
            quartic,
            dense(1, 50, 50, 1, activation=nn.Sigmoid, scheme="glorot"),
            partial(Adam, lr=1e-3),
            600,
            32,
            nn.MSELoss(),
        ),
        band=(1.0e15, 1.2e15),
        remedy="inputs and targets standardized",
        reached=5000000000000.0,
        repaired=Training(
            standardized(quartic),
            dense(1, 50, 50, 1, activation=nn.Sigmoid, scheme="glorot"),
            partial(Adam, lr=1e-2),
            2000,
            32,
            nn.MSELoss(),
        ),
        unit=7.1e14,
    ),
    Stall(
        name="raw-pixels",
        about="Pixels from 0 to 255, sigmoids, outputs as probabilities, and a rate of 1e-4.",
        source=STACK_OVERFLOW,
        causes=(Cause.UNSCALED_INPUTS, Cause.LEARNING_RATE_TOO_SMALL),
        training=Training(
            scaled(digits, 255.0),
            dense(64, 64, 10, scheme="glorot", last=(nn.Sigmoid(), Shares())),
            partial(SGD, lr=1e-4),
            600,
            32,
            kept_shares_of,
        ),
        band=(1.8, 5.5),
        remedy="pixels from 0 to 1, plain outputs, cross-entropy, Adam",
        reached=0.12,
        repaired=Training(
            digits, dense(64, 64, 10, scheme="glorot"), partial(Adam, lr=1e-3), 1000, 32
        ),
    ),
    Stall(
        name="starved-pixels",
        about="Pixels divided by 255 once too often: all samples look alike to the first layer.",
        source=DEEPCHECKER,
        causes=(Cause.UNSCALED_INPUTS,),
        training=Training(
            scaled(digits, 1 / 255), dense(64, 64, 10), partial(SGD, lr=0.1), 600, 32
        ),
        band=(2.28, 2.31),
        remedy="pixels from 0 to 1",
        reached=0.15,
        repaired=Training(digits, dense(64, 64, 10), partial(SGD, lr=0.1), 600, 32),
    ),
    Stall(
        name="softmax-twice",
        about="A softmax before a cross-entropy that takes one itself: the loss cannot fall below 1.46.",
        source="by construction",
        causes=(Cause.LOSS_OUTPUT_MISMATCH,),
        training=Training(
            digits, dense(64, 64, 10, last=(nn.Softmax(-1),)), partial(SGD, lr=0.01), 1500, 32
        ),
        band=(1.9, 2.31),
        remedy="plain outputs, rate 0.1",
        reached=0.07,
        repaired=Training(digits, dense(64, 64, 10), partial(SGD, lr=0.1), 1500, 32),
    ),
    Stall(
        name="three-faults",
        about="Pixels up to 256, four units in five dropped twice, and a softmax before the cross-entropy.",
        source="UMLAUT (Schoop, Huang, Hartmann 2021)",
        causes=(Cause.LOSS_OUTPUT_MISMATCH, Cause.UNSCALED_INPUTS),
        training=Training(
            scaled(digits, 256.0),
            dense(64, 256, 256, 10, scheme="torch", dropout=0.8, last=(nn.Softmax(-1),)),
            partial(Adam, lr=1e-3),
            1000,
            64,
        ),
        band=(1.6, 2.4),
        remedy="pixels from 0 to 1, no dropout, plain outputs",
        reached=0.02,
        repaired=Training(
            digits, dense(64, 256, 256, 10, scheme="torch"), partial(Adam, lr=1e-3), 1000, 64
        ),
    ),
)
"""Inputs, targets, and what the loss expects of outputs."""
