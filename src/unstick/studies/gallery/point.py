"""Stalls at points that hold a training, in valleys, and at floors that are the model's own.

Answers: which trainings stand where the landscape itself holds them?
Does not answer: those whose steps hold them (``step``).
"""

from dataclasses import replace
from functools import cache, partial
from typing import Final

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam

from unstick.diagnosis.cause import Cause
from unstick.studies.gallery.datasets import circle, digits, drawn, sine, xor
from unstick.studies.gallery.networks import Sine, dense
from unstick.studies.gallery.stall import DEEPCHECKER, STACK_OVERFLOW, Stall
from unstick.studies.gallery.training import Descent, Training
from unstick.training.order import generator_for

__all__ = ["POINT_STALLS"]

CONDITION = 1.4e4
LIVELY = 0.15  # deviation of a pixel, of 1


def product(x: Tensor) -> Tensor:
    """(1 − x₁x₂…)²."""
    return (1 - x.prod()) ** 2


def banana(x: Tensor) -> Tensor:
    """Rosenbrock's valley."""
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


@cache
def valley() -> tuple[Tensor, Tensor]:
    """Ten features whose mean squared error has curvatures from 1 down to 1/``CONDITION``, targets exact."""
    left, right = (torch.linalg.qr(drawn(shape, seed=3))[0] for shape in ((200, 10), (10, 10)))
    deviations = torch.logspace(0, -0.5 * torch.log10(torch.tensor(CONDITION)).item(), 10)
    inputs = left * (deviations * 100**0.5) @ right.T
    true = right @ torch.linspace(1, 90, 10)[:, None]
    return inputs, inputs @ true


@cache
def random_labels() -> tuple[Tensor, Tensor]:
    """Digits with labels that have nothing to do with them; pixels standardized, those without much in them left out."""
    inputs, targets = digits()
    inputs = inputs[:, inputs.std(0) > LIVELY]
    inputs = (inputs - inputs.mean(0)) / inputs.std(0)
    return inputs, torch.randint(10, targets.shape, generator=generator_for("order", 1004))


@cache
def one_label() -> tuple[Tensor, Tensor]:
    """Digits that are all called 0."""
    inputs, targets = digits()
    return inputs, torch.zeros_like(targets)


def _flat_line(_seed: int) -> nn.Module:
    model = nn.Linear(10, 1, bias=False)
    nn.init.zeros_(model.weight)
    return model


def _waved(frequency: float, _seed: int) -> nn.Module:
    return Sine(frequency)


LOGISTIC = nn.BCEWithLogitsLoss()
ZERO_TANH = Training(
    digits,
    dense(64, 64, 10, activation=nn.Tanh, scheme="constant", value=0.0),
    partial(SGD, lr=0.1),
    600,
)
TWO = Descent(product, (0.0, 0.0), partial(SGD, lr=0.1), 200)
FIVE = Descent(product, (0.1,) * 5, partial(SGD, lr=0.1), 200)
BANANA = Descent(banana, (-1.2, 1.0), partial(SGD, lr=1e-3), 400)
FALSE_WAVE = Training(sine, partial(_waved, 5.0), partial(SGD, lr=0.01), 400, None, nn.MSELoss())
VALLEY = Training(valley, _flat_line, partial(SGD, lr=1.99), 400, None, nn.MSELoss())

POINT_STALLS: Final = (
    Stall(
        name="zero-start",
        about="Every weight zero: the gradient is used up at once, at a saddle.",
        source=DEEPCHECKER,
        causes=(Cause.STRICT_SADDLE,),
        training=ZERO_TANH,
        band=(2.30, 2.304),
        remedy="Glorot's start",
        reached=0.16,
        repaired=replace(
            ZERO_TANH, model=dense(64, 64, 10, activation=nn.Tanh, scheme="glorot"), batch_size=32
        ),
    ),
    Stall(
        name="exclusive-or",
        about="Exclusive or by four sigmoids, absolute error, small steps: all outputs stay at one half.",
        source=STACK_OVERFLOW,
        causes=(Cause.STRICT_SADDLE, Cause.LEARNING_RATE_TOO_SMALL),
        training=Training(
            xor,
            dense(2, 4, 1, activation=nn.Sigmoid, scheme="glorot", last=(nn.Sigmoid(),)),
            partial(SGD, lr=0.05, momentum=0.11, nesterov=True),
            1000,
            None,
            nn.L1Loss(),
        ),
        band=(0.48, 0.51),
        remedy="squared error and Adam",
        reached=0.03,
        repaired=Training(
            xor,
            dense(2, 4, 1, activation=nn.Sigmoid, scheme="glorot", last=(nn.Sigmoid(),)),
            partial(Adam, lr=0.05),
            1000,
            None,
            nn.MSELoss(),
        ),
        counted_in=nn.L1Loss(),
    ),
    Stall(
        name="two-scalars",
        about="The net w₁w₂ = 1 from (0, 0): curvatures −2 and 2, no gradient.",
        source="by construction",
        causes=(Cause.STRICT_SADDLE,),
        training=TWO,
        band=(0.999, 1.001),
        remedy="start at (0.1, 0.1)",
        reached=1e-09,
        repaired=replace(TWO, start=(0.1, 0.1)),
    ),
    Stall(
        name="five-scalars",
        about="A product of five scalars near 0.1: depth makes slope and curvature small alike.",
        source="by construction",
        causes=(Cause.STRICT_SADDLE, Cause.VANISHING_GRADIENT),
        training=FIVE,
        band=(0.99, 1.001),
        remedy="start at 0.7",
        reached=1e-09,
        repaired=replace(FIVE, start=(0.7,) * 5),
    ),
    Stall(
        name="five-scalars-at-zero",
        about="A product of five scalars at 0: neither gradient nor Hessian, only far steps descend.",
        source="by construction",
        causes=(Cause.DEGENERATE_POINT,),
        training=replace(FIVE, start=(0.0,) * 5),
        band=(0.999, 1.001),
        remedy="start at 0.7",
        reached=1e-09,
        repaired=replace(FIVE, start=(0.7,) * 5),
    ),
    Stall(
        name="false-frequency",
        about="sin wx fitted to sin 3x from w = 5: the nearest minimum is another frequency.",
        source="by construction",
        causes=(Cause.LOCAL_MINIMUM,),
        training=FALSE_WAVE,
        band=(0.9, 1.0),
        remedy="start at 2.8",
        reached=1e-09,
        repaired=replace(FALSE_WAVE, model=partial(_waved, 2.8)),
    ),
    Stall(
        name="line-for-circles",
        about="Logistic regression cannot tell circles apart: its best is a coin.",
        source="by construction",
        causes=(Cause.MODEL_FLOOR,),
        training=Training(circle, dense(2, 1), partial(SGD, lr=0.5), 600, None, LOGISTIC),
        band=(0.69, 0.70),
    ),
    Stall(
        name="stiff-regression",
        about="Linear regression of condition 1.4e4 at 1.99 over its largest curvature.",
        source="by construction",
        causes=(Cause.ILL_CONDITIONED_VALLEY,),
        training=VALLEY,
        band=(1.0, 2.0),
        remedy="Nesterov's momentum of 0.99",
        reached=0.15,
        repaired=replace(VALLEY, optimizer=partial(SGD, lr=0.5, momentum=0.98, nesterov=True)),
    ),
    Stall(
        name="random-labels",
        about="Random labels, a linear model, converged: convex, and no lower point exists.",
        source="after Zhang et al. (2017), Understanding deep learning requires rethinking generalization",
        causes=(Cause.MODEL_FLOOR,),
        training=Training(random_labels, dense(45, 10), partial(SGD, lr=0.2, momentum=0.9), 2000),
        band=(2.05, 2.25),
    ),
    Stall(
        name="banana-valley",
        about="Rosenbrock's valley at 1e-3: curvatures −0.45 and 532, and slopes along it that pay little.",
        source="by construction; Rosenbrock (1960)",
        causes=(Cause.ILL_CONDITIONED_VALLEY,),
        training=BANANA,
        band=(2.0, 4.2),
        remedy="momentum 0.95",
        reached=0.001,
        repaired=replace(BANANA, optimizer=partial(SGD, lr=1e-3, momentum=0.95)),
    ),
    Stall(
        name="one-label",
        about="Digits that are all called 0: a fault of the data, which the training fits.",
        source=STACK_OVERFLOW,
        causes=(Cause.PROGRESSING, Cause.MODEL_FLOOR),
        training=Training(one_label, dense(64, 64, 10), partial(Adam, lr=1e-3), 1000, 64),
        band=(0.0, 0.01),
    ),
)
"""Saddles, minima, valleys, floors."""
