"""Stalls of the step: rates too large or too small, schedules, clipping, noise, and too much weight decay.

Answers: which trainings would go on if they stepped otherwise?
Does not answer: those whose point holds them (``point``).
"""

from functools import partial
from typing import Final

from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import ExponentialLR

from unstick.diagnosis.cause import Cause
from unstick.studies.gallery.datasets import blob, digits, one_hot, parabola
from unstick.studies.gallery.networks import dense
from unstick.studies.gallery.stall import AUTOTRAINER, DEEPCHECKER, DIVERGED, STACK_OVERFLOW, Stall
from unstick.studies.gallery.training import Training

__all__ = ["STEP_STALLS"]

PLAIN = dense(64, 64, 10)
WORKING = Training(digits, PLAIN, partial(SGD, lr=0.1), 600, 32)


STEP_STALLS: Final = (
    Stall(
        name="one-sample-batches",
        about="Updates on single samples at rate 0.01 with momentum 0.9: noise holds the loss up.",
        source=AUTOTRAINER,
        causes=(Cause.GRADIENT_NOISE_FLOOR,),
        training=Training(
            blob,
            dense(2, *[5] * 5, 3, activation=nn.Tanh),
            partial(SGD, lr=0.01, momentum=0.9),
            7000,
            1,
        ),
        band=(0.6, 1.3),
        remedy="64 samples in a batch",
        reached=0.5,
        repaired=Training(
            blob,
            dense(2, *[5] * 5, 3, activation=nn.Tanh),
            partial(SGD, lr=0.01, momentum=0.9),
            1500,
            64,
        ),
    ),
    Stall(
        name="linear-blow-up",
        about="Two linear layers from N(0, 1) under squared error at rate 3 overflow within a few updates.",
        source=STACK_OVERFLOW,
        causes=(Cause.LEARNING_RATE_TOO_LARGE, Cause.NON_FINITE),
        training=Training(
            one_hot(digits),
            dense(64, 30, 10, activation=nn.Identity, scheme="normal"),
            partial(SGD, lr=3.0),
            600,
            10,
            nn.MSELoss(),
        ),
        band=DIVERGED,
        remedy="a sigmoid between the layers, cross-entropy, rate 0.5",
        reached=0.08,
        repaired=Training(
            digits,
            dense(64, 30, 10, activation=nn.Sigmoid, scheme="normal"),
            partial(SGD, lr=0.5),
            2000,
            10,
        ),
    ),
    Stall(
        name="parabola-blow-up",
        about="A rate of 0.1 on targets up to 125 throws every ReLU out in the first updates: the mean is left.",
        source=STACK_OVERFLOW,
        causes=(Cause.LEARNING_RATE_TOO_LARGE, Cause.DEAD_UNITS),
        training=Training(
            parabola,
            dense(1, 50, 30, 1, scheme="glorot"),
            partial(SGD, lr=0.1),
            600,
            32,
            nn.MSELoss(),
        ),
        band=(1.2e3, 1.5e3),
        remedy="rate 1e-4",
        reached=40.0,
        repaired=Training(
            parabola,
            dense(1, 50, 30, 1, scheme="glorot"),
            partial(SGD, lr=1e-4),
            2000,
            32,
            nn.MSELoss(),
        ),
    ),
    Stall(
        name="rate-5",
        about="A rate of 5 kills every ReLU at once; the biases of the output go on jumping.",
        source=DEEPCHECKER,
        causes=(Cause.LEARNING_RATE_TOO_LARGE, Cause.DEAD_UNITS),
        training=Training(digits, PLAIN, partial(SGD, lr=5.0), 600, 32),
        band=(2.25, 5.0),
        remedy="rate 0.1",
        reached=0.15,
        repaired=WORKING,
    ),
    Stall(
        name="rate-1e-4",
        about="A rate of 1e-4 hardly moves; the gradient is as long as at first.",
        source=DEEPCHECKER,
        causes=(Cause.LEARNING_RATE_TOO_SMALL,),
        training=Training(digits, PLAIN, partial(SGD, lr=1e-4), 600, 32),
        band=(2.2, 3.2),
        remedy="rate 0.1",
        reached=0.15,
        repaired=WORKING,
    ),
    Stall(
        name="full-batch-blow-up",
        about="Gradient descent at rate 1 where the curvature allows 0.6.",
        source="by construction: 2/λ_max is 0.6",
        causes=(Cause.LEARNING_RATE_TOO_LARGE, Cause.NON_FINITE),
        training=Training(
            one_hot(digits),
            dense(64, 32, 10, activation=nn.Tanh, scheme="glorot"),
            partial(SGD, lr=1.0),
            2000,
            None,
            nn.MSELoss(),
        ),
        band=DIVERGED,
        remedy="rate 0.6",
        reached=0.03,
        repaired=Training(
            one_hot(digits),
            dense(64, 32, 10, activation=nn.Tanh, scheme="glorot"),
            partial(SGD, lr=0.6),
            2000,
            None,
            nn.MSELoss(),
        ),
    ),
    Stall(
        name="decayed-every-update",
        about="A schedule meant for epochs multiplies the rate by 0.9 at every update.",
        source="by construction",
        causes=(Cause.SCHEDULE_EXHAUSTED,),
        training=Training(
            digits,
            PLAIN,
            partial(SGD, lr=0.1),
            800,
            32,
            scheduler=partial(ExponentialLR, gamma=0.9),
        ),
        band=(1.5, 2.4),
        remedy="the rate stays",
        reached=0.12,
        repaired=Training(digits, PLAIN, partial(SGD, lr=0.1), 800, 32),
    ),
    Stall(
        name="clipped-to-nothing",
        about="Gradients of length 1.5 clipped to 1e-3.",
        source="by construction",
        causes=(Cause.GRADIENT_CLIPPING,),
        training=Training(digits, PLAIN, partial(SGD, lr=0.1), 800, 32, clip_norm=1e-3),
        band=(2.2, 3.2),
        remedy="no clipping",
        reached=0.12,
        repaired=Training(digits, PLAIN, partial(SGD, lr=0.1), 800, 32),
    ),
    Stall(
        name="weight-decay-1",
        about="Weight decay 1 pulls every weight to zero: a minimum of the penalized loss.",
        source=DEEPCHECKER,
        causes=(Cause.OVER_REGULARIZED,),
        training=Training(digits, PLAIN, partial(SGD, lr=0.1, weight_decay=1.0), 600, 32),
        band=(2.29, 2.31),
        remedy="weight decay 1e-4",
        reached=0.15,
        repaired=Training(digits, PLAIN, partial(SGD, lr=0.1, weight_decay=1e-4), 600, 32),
    ),
)
"""Rate, schedule, clipping, noise, decay."""
