"""Landscapes whose critical points are known by algebra, and trainings whose state is known by construction."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn

from unstick.problem.problem import Problem


@dataclass(frozen=True)
class Oracle:
    """A function, a point, the kind that algebra gives it, and why."""

    name: str
    function: Callable
    x0: tuple[float, ...]
    kind: str
    why: str
    inertia: tuple[int, int, int]
    descends: bool  # whether an escape direction must be found
    lower_bound: float | None = None

    def __str__(self):
        return self.name

    def problem(self, dtype=torch.float64):
        return Problem.from_function(
            self.function, torch.tensor(self.x0, dtype=dtype), lower_bound=self.lower_bound
        )


def toy(x):
    """The net y = w₁w₂x on one sample (1, 1) with squared error."""
    return (1 - x[0] * x[1]) ** 2


def frye(x):
    """One critical point, (−3, 0); gradient-flat at (±√2, 0)."""
    return x[0] ** 4 / 4 - 3 * x[0] ** 2 + 9 * x[0] + 0.9 * x[1] ** 4 + 5 * x[1] ** 2 + 40


def product(x):
    return (1 - x.prod()) ** 2


ORACLES = [
    Oracle("toy net at (0, 0)", toy, (0.0, 0.0), "saddle",
           "H = [[0, −2], [−2, 0]]: λ = ±2, down along (1, 1)/√2", (1, 0, 1), True),
    Oracle("toy net beside its saddle", toy, (1e-6, 2e-6), "saddle",
           "‖g‖ = 4.5e-6: the slope explains a millionth of what the curvature pays", (1, 0, 1), True),
    Oracle("toy net at (2, ½)", toy, (2.0, 0.5), "degenerate",
           "λ = {0, 2(w₁² + w₂²)}: flat along the hyperbola w₁w₂ = 1; no descent", (1, 1, 0), False),
    Oracle("toy net at (2, ½), bound known", toy, (2.0, 0.5), "minimum",
           "the squared error is 0, its lower bound: nothing can lie below", (1, 1, 0), False, 0.0),
    Oracle("quartic at (−3, 0)", frye, (-3.0, 0.0), "minimum",
           "its only critical point: λ = 21 and 10", (2, 0, 0), False),
    Oracle("quartic at (√2, 0)", frye, (2**0.5, 0.0), "not-critical",
           "Hg = 0 but g ≠ 0: gradient-flat, a minimum of ‖g‖", (1, 1, 0), False),
    Oracle("quartic at (−√2, 0)", frye, (-(2**0.5), 0.0), "not-critical",
           "Hg = 0 but g ≠ 0: gradient-flat, a saddle of ‖g‖", (1, 1, 0), False),
    Oracle("monkey saddle", lambda x: x[0] ** 3 - 3 * x[0] * x[1] ** 2, (0.0, 0.0), "degenerate",
           "H = 0; third order leads down, found by finite steps", (0, 2, 0), True),
    Oracle("quartic bowl", lambda x: (x**4).sum(), (0.0, 0.0), "degenerate",
           "H = 0; a minimum that second order cannot see; no descent", (0, 2, 0), False),
    Oracle("quartic bowl, one steep side", lambda x: x[0] ** 4 + x[1] ** 2, (0.0, 0.0), "degenerate",
           "λ = {0, 2}; no descent along the kernel", (1, 1, 0), False),
    Oracle("quartic ridge", lambda x: x[1] ** 2 - x[0] ** 4, (0.0, 0.0), "degenerate",
           "λ = {0, 2}; fourth order leads down along the kernel", (1, 1, 0), True),
    Oracle("cubic shelf", lambda x: x[1] ** 2 + x[0] ** 3, (0.0, 0.0), "degenerate",
           "λ = {0, 2}; third order leads down along the kernel", (1, 1, 0), True),
    Oracle("five scalars at 0", product, (0.0,) * 5, "degenerate",
           "g = 0 and H = 0: only a finite step sees descent", (0, 5, 0), True),
    Oracle("five scalars at 0.1", product, (0.1,) * 5, "saddle",
           "λ = −0.008 and four times 0.002; ‖g‖ = 4e-4", (4, 0, 1), True),
    Oracle("hill", lambda x: -(x**2).sum(), (0.0, 0.0, 0.0), "maximum",
           "every λ = −2", (0, 0, 3), True),
    Oracle("ridge", lambda x: -(x[0] ** 2) + 0 * x[1], (0.0, 0.0), "maximum",
           "λ = {−2, 0}: no positive eigenvalue, one negative", (0, 1, 1), True),
    Oracle("bowl", lambda x: (x**2).sum() + x[0] * x[1], (0.0, 0.0), "minimum",
           "λ = 1 and 3", (2, 0, 0), False),
    Oracle("banana valley at (−1.2, 1)", lambda x: (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2,
           (-1.2, 1.0), "not-critical", "‖g‖ = 233: the slope pays", (2, 0, 0), False),
]  # fmt: skip


def autoencoder(kept, size=8, code=2):
    """A linear autoencoder at the critical point that keeps these principal components; covariance diag(1 … size).

    The mean squared error is ‖X − W₂W₁X‖²/(size·N), its critical points the projectors on eigenvectors.
    """
    model = nn.Sequential(
        nn.Linear(size, code, bias=False), nn.Linear(code, size, bias=False)
    ).double()
    variances = torch.arange(1, size + 1, dtype=torch.float64)
    inputs = torch.diag((size * variances).sqrt())
    with torch.no_grad():
        model[0].weight.zero_()
        for row, component in enumerate(kept):
            model[0].weight[row, component] = 1.0
        model[1].weight.copy_(model[0].weight.T)
    return model, inputs, variances


def autoencoder_inertia(kept, size=8, code=2):
    """(n₊, n₀, n₋) by the closed formula of Baldi and Hornik's critical points."""
    rest = [j for j in range(size) if j not in kept]
    r = len(kept)
    negative = sum(1 for i in kept for j in rest if j > i) + (code - r) * (size - r)
    zero = code**2 - (code - r) ** 2
    return 2 * code * size - zero - negative, zero, negative


def digits():
    """The training split of scikit-learn's digits, scaled to [0, 1]."""
    from unstick.data import load

    data = load("digits")
    return data.train_inputs, data.train_targets


def network(*widths, activation=nn.Tanh, seed=0):
    """A dense network with torch's own initialization."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [nn.Linear(widths[0], widths[1])]
        for into, out in pairwise(widths[1:]):
            layers += [activation(), nn.Linear(into, out)]
    return nn.Sequential(*layers)


def zeroed(model):
    """The model with every parameter zero."""
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model


def train(model, optimizer, inputs, targets, *, updates, batch_size=None, loss=None, seed=0):
    """Plain training in a seeded order."""
    loss = loss or nn.CrossEntropyLoss()
    generator = torch.Generator().manual_seed(seed)
    waiting = []
    for _ in range(updates):
        if batch_size is not None and not waiting:
            waiting = list(torch.randperm(len(inputs), generator=generator).split(batch_size))
        rows = slice(None) if batch_size is None else waiting.pop()
        optimizer.zero_grad()
        loss(model(inputs[rows]), targets[rows]).backward()
        optimizer.step()
    return model
