"""What several files of this room's tests measure by: the numbers of a model, planted gradients, full-batch methods."""

import numpy as np
import torch
from torch import nn
from torch.testing import assert_close

from cases import autoencoder
from unstick.problem.problem import Problem
from unstick.training.curvature import (
    NegativeCurvatureDescent,
    PerturbedGradientDescent,
    SaddleFreeNewton,
)

SHAPES = [(4, 3), (5,), (), (2, 2), (3, 3)]
ZERO, FLAT = 3, 4  # the tensor that starts at zero, and the one whose gradient is zero
UPDATES = 7
RATES = [0.5, 0.5, 0.5, 0.05, 0.05, 0.05, 0.2]

METHODS = {
    "noise": lambda problem, **more: PerturbedGradientDescent(problem, lr=0.1, **more),
    "negative curvature": lambda problem, **more: NegativeCurvatureDescent(problem, lr=0.1, **more),
    "Newton": lambda problem, **more: SaddleFreeNewton(problem, rank=8, **more),
}
BACKTRACKING = ["negative curvature", "Newton"]


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def values(model):
    return [t.detach().clone() for t in (*model.parameters(), *model.buffers())]


def same(model, before):
    return all(torch.equal(a, b) for a, b in zip(values(model), before, strict=True))


def start():
    draw = np.random.default_rng(0)
    return [
        np.zeros(shape) if k == ZERO else draw.normal(size=shape) for k, shape in enumerate(SHAPES)
    ]


def slopes():
    """The gradients of every update; those of one tensor are zero."""
    draw = np.random.default_rng(1)
    return [
        [draw.normal(size=shape) * (k != FLAT) for k, shape in enumerate(SHAPES)]
        for _ in range(UPDATES)
    ]


def moved(kind, *, rates=RATES, epochs=None, **settings):
    """Where the optimizer goes with these gradients."""
    parameters = [nn.Parameter(torch.tensor(w)) for w in start()]
    optimizer = kind(parameters, lr=1.0, **settings)
    for update, gradients in enumerate(slopes()):
        set_gradients(parameters, gradients)
        optimizer.param_groups[0]["lr"] = rates[update]
        if epochs is not None:
            optimizer.set_epoch(epochs[update])
        optimizer.step()
    return parameters


def set_gradients(parameters, gradients):
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = torch.tensor(gradient)


def agree(parameters, arrays):
    for parameter, array in zip(parameters, arrays, strict=True):
        assert_close(parameter.detach(), torch.as_tensor(array), rtol=1e-12, atol=1e-14)


def compressed(kept):
    """The linear autoencoder at a saddle, and the loss of its only minimum: the variance of what it drops."""
    model, inputs, variances = autoencoder(kept)
    return Problem(model, (inputs, inputs), nn.MSELoss()), float(variances[:6].sum()) / 8


def bowl(dtype=torch.float64):
    x0 = torch.tensor([1.0, -2.0, 0.5], dtype=dtype)
    return Problem.from_function(lambda x: ((x - x0) ** 2).sum(), x0.clone())


def run(method, *, most=3000):
    """The losses of its steps until it has finished."""
    losses = []
    while not method.finished and len(losses) < most:
        losses.append(method.step())
    assert method.finished
    return losses


def assert_same(one, other):
    assert_close(one, other, rtol=0, atol=0, equal_nan=True)
