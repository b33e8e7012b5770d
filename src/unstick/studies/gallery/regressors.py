"""Healthy regressions: targets standardized, rates that fit.

Answers: which regressions train as they should?
Does not answer: what becomes of them with raw targets; that is a stall of ``scale``.
"""

from functools import partial
from typing import Final

from torch import nn
from torch.optim import SGD, Adam, AdamW, RMSprop
from torch.optim.lr_scheduler import CosineAnnealingLR

from unstick.studies.gallery.datasets import (
    diabetes,
    parabola,
    plane,
    quartic,
    standardized,
    themselves,
    wave,
)
from unstick.studies.gallery.networks import dense
from unstick.studies.gallery.training import Training

__all__ = ["REGRESSORS"]

SQUARED = nn.MSELoss()
TANH = partial(dense, activation=nn.Tanh, scheme="glorot")

REGRESSORS: Final[tuple[tuple[str, str, Training, float], ...]] = (
    (
        "plane-linear-sgd", "Linear regression with noise, by SGD.",
        Training(plane, dense(20, 1), partial(SGD, lr=0.02), 800, 32, SQUARED), 0.2,
    ),
    (
        "plane-linear-full-batches", "Linear regression with noise, by gradient descent, converged.",
        Training(plane, dense(20, 1), partial(SGD, lr=0.02), 600, None, SQUARED), 0.17,
    ),
    (
        "plane-relu-adam", "A ReLU network on a plane with noise.",
        Training(plane, dense(20, 32, 1), partial(Adam, lr=3e-3), 800, 32, SQUARED), 0.2,
    ),
    (
        "diabetes-linear-momentum", "Linear regression on patients, standardized.",
        Training(standardized(diabetes), dense(10, 1), partial(SGD, lr=0.02, momentum=0.9), 800, 64, SQUARED), 0.5,
    ),
    (
        "diabetes-tanh-adam", "A tanh network on patients, standardized.",
        Training(standardized(diabetes), TANH(10, 32, 1), partial(Adam, lr=3e-3), 800, 64, SQUARED), 0.47,
    ),
    (
        "diabetes-huber-adamw", "A ReLU network on patients, Huber's loss.",
        Training(standardized(diabetes), dense(10, 32, 1), partial(AdamW, lr=2e-3), 800, 64, nn.HuberLoss()), 0.22,
    ),
    (
        "parabola-tanh-adam", "A noisy parabola, standardized.",
        Training(standardized(parabola), TANH(1, 32, 1), partial(Adam, lr=1e-2), 800, 32, SQUARED), 0.02,
    ),
    (
        "parabola-relu-momentum", "A noisy parabola by ReLUs.",
        Training(standardized(parabola), dense(1, 50, 30, 1), partial(SGD, lr=0.01, momentum=0.9), 800, 32, SQUARED), 0.02,
    ),
    (
        "quartic-gelu-cosine", "y = x⁴, standardized, under a cosine schedule.",
        Training(
            standardized(quartic), dense(1, 32, 32, 1, activation=nn.GELU), partial(Adam, lr=5e-3), 800, 32, SQUARED,
            scheduler=partial(CosineAnnealingLR, T_max=1000, eta_min=5e-5),
        ), 0.01,
    ),
    (
        "wave-tanh-adam", "One wave of a sine by a tanh network.",
        Training(standardized(wave), TANH(1, 32, 32, 1), partial(Adam, lr=5e-3), 800, 16, SQUARED), 0.06,
    ),
    (
        "autoencoder-tanh-adam", "Digits through sixteen units and back.",
        Training(themselves, TANH(64, 16, 64), partial(Adam, lr=5e-3), 800, 64, SQUARED), 0.03,
    ),
    (
        "autoencoder-relu-rmsprop", "Digits through 32 units and back, with a layer on either side.",
        Training(themselves, dense(64, 64, 32, 64), partial(RMSprop, lr=1e-3), 800, 64, SQUARED), 0.03,
    ),
)  # fmt: skip
"""Name, what it is, the training, and the loss that its end is at or below."""
