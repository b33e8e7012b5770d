"""Outputs that a model cannot give are found, and the loss that this leaves is the one that algebra gives."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from cases import network
from unstick.diagnosis.reach import Given, Reach, reach_of
from unstick.problem.problem import Problem

SAMPLES, INPUTS, WIDE = 60, 4, 10
INF = math.inf


def inputs():
    return torch.randn(SAMPLES, INPUTS, generator=torch.Generator().manual_seed(0))


def numbers():
    return inputs()[:, :1].clone()


def coins():
    return (inputs()[:, :1] > 0.2).float()


def tens():
    return torch.arange(SAMPLES) % 10


def reach(model, y, loss, *, x=None, seed=0):
    x = inputs() if x is None else x
    problem = Problem(model, (x, y), loss)
    batch = problem.require_whole("diagnosis").batches[0]
    with torch.no_grad():
        output = model(x)
    return reach_of(problem, batch, output, torch.Generator().manual_seed(seed))


def ending(last, outputs=1, **how):
    return nn.Sequential(*network(INPUTS, WIDE, outputs, **how), last)


def squared(y):
    return float(np.mean(np.square(y.numpy().astype(float))))


@pytest.mark.parametrize(
    ("last", "low", "high", "shares"),
    [
        (nn.Identity(), -INF, INF, False),
        (nn.LeakyReLU(), -INF, INF, False),
        (nn.Sigmoid(), 0.0, 1.0, False),
        (nn.Tanh(), -1.0, 1.0, False),
        (nn.Hardtanh(-2.0, 3.0), -2.0, 3.0, False),
        (nn.ReLU(), 0.0, INF, False),
        (nn.Softplus(), 0.0, INF, False),
        (nn.ELU(), -1.0, INF, False),
        (nn.LogSigmoid(), -INF, 0.0, False),
        (nn.ReLU6(), 0.0, 6.0, False),
        (nn.Softmax(dim=1), 0.0, 1.0, True),
        (nn.LayerNorm(3), -INF, INF, False),  # its own weight and bias grow
        (nn.LayerNorm(2, elementwise_affine=False), -1.0, 1.0, False),
        (nn.BatchNorm1d(3), -INF, INF, False),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, nn.Module) else str(each),
)
@pytest.mark.parametrize("seed", range(3))
def test_the_range_is_that_of_the_last_function(last, low, high, shares, seed):
    outputs = 2 if isinstance(last, nn.LayerNorm) and not last.elementwise_affine else 3
    y = inputs()[:, :outputs]
    told = reach(ending(last, outputs, seed=seed).train(), y, nn.MSELoss(), seed=seed)

    assert told.low == pytest.approx(low, abs=1e-4)
    assert told.high == pytest.approx(high, abs=1e-4)
    assert told.shares == shares
    assert told.bounded == (shares or math.isfinite(low) or math.isfinite(high))


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU])
@pytest.mark.parametrize("seed", range(5))
def test_a_linear_head_reaches_everything_even_over_inputs_of_one_sign(activation, seed):
    x = torch.rand(SAMPLES, 1, generator=torch.Generator().manual_seed(seed))
    model = network(1, WIDE, 1, activation=activation, seed=seed)
    told = reach(model, -5 - x, nn.MSELoss(), x=x, seed=seed)

    assert told == Reach(-INF, INF, False, None, None)


def test_a_normalized_vector_of_four_ends_at_the_root_of_three():
    last = nn.LayerNorm(4, elementwise_affine=False)
    told = reach(ending(last, 4), 3 * inputs(), nn.MSELoss())

    assert -math.sqrt(3) <= told.low < -1.5
    assert 1.5 < told.high <= math.sqrt(3)
    assert told.floor > 0.5 + told.free


class Product(nn.Module):
    """Two factors before the input."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        return self.a * self.b * x


@pytest.mark.parametrize("seed", range(5))
def test_a_product_of_parameters_reaches_everything(seed):
    assert not reach(Product(), numbers(), nn.MSELoss(), x=numbers(), seed=seed).bounded


def test_a_product_of_parameters_reaches_everything_over_inputs_of_one_sign_too():
    x = numbers().abs()

    assert not any(reach(Product(), -x, nn.MSELoss(), x=x, seed=s).bounded for s in range(20))


class Squared(nn.Module):
    """Never below zero, whatever is asked of it."""

    def __init__(self):
        super().__init__()
        self.body = network(INPUTS, WIDE, 1)

    def forward(self, x):
        return self.body(x).square()


LOG2, ONE = math.log(2), math.log1p(math.exp(-1))  # of a sigmoid at 0 and at 1
FLOORS = [  # last function, outputs, targets, loss, the least loss of such outputs, of any
    ("softmax twice", nn.Softmax(dim=1), 10, tens(), nn.CrossEntropyLoss(), math.log(1 + 9 / math.e), 0),
    ("sigmoid before softmax", nn.Sigmoid(), 10, tens(), nn.CrossEntropyLoss(), math.log(1 + 9 / math.e), 0),
    ("tanh before softmax", nn.Tanh(), 10, tens(), nn.CrossEntropyLoss(), math.log(1 + 9 / math.e**2), 0),
    ("sigmoid twice", nn.Sigmoid(), 1, coins(), nn.BCEWithLogitsLoss(),
     float((coins() * ONE + (1 - coins()) * LOG2).mean()), 0),
    ("relu before sigmoid", nn.ReLU(), 1, coins(), nn.BCEWithLogitsLoss(), float(1 - coins().mean()) * LOG2, 0),
    ("relu, negative targets", nn.ReLU(), 1, numbers(), nn.MSELoss(), squared(numbers().clamp(max=0)), 0),
    ("tanh, targets beyond 1", nn.Tanh(), 1, 2 * numbers(), nn.MSELoss(),
     squared((2 * numbers().abs() - 1).clamp(min=0)), 0),
    ("sigmoid, targets of 7", nn.Sigmoid(), 1, numbers() * 0 + 7, nn.L1Loss(), 6, 0),
    ("shares of two that are right", nn.Softmax(dim=1), 3, torch.tensor([1.0, 1.0, 0.0]).repeat(SAMPLES, 1),
     nn.MSELoss(), 1 / 6, 0),
    ("softmax of one", nn.Softmax(dim=1), 1, coins(), nn.MSELoss(), float(1 - coins().mean()), 0),
]  # fmt: skip


@pytest.mark.parametrize(
    ("last", "outputs", "y", "loss", "floor", "free"),
    [case[1:] for case in FLOORS],
    ids=[case[0] for case in FLOORS],
)
def test_the_floor_is_the_least_loss_of_outputs_in_reach(last, outputs, y, loss, floor, free):
    told = reach(ending(last, outputs), y, loss)

    assert told.floor == pytest.approx(floor, rel=0.01)
    assert told.free == pytest.approx(free, abs=0.01)


HEALTHY = [
    ("squares of a sigmoid", nn.Sigmoid(), 1, coins(), nn.MSELoss()),
    ("probabilities", nn.Sigmoid(), 1, coins(), nn.BCELoss()),
    ("shares", nn.Softmax(dim=1), 3, functional.one_hot(tens() % 3, 3).float(), nn.MSELoss()),
    ("shares, own logarithm", nn.Softmax(dim=1), 10, tens(), lambda p, y: functional.nll_loss(p.log(), y)),
    ("shares, clamped", nn.Softmax(dim=1), 10, tens(), lambda p, y: functional.nll_loss(p.clamp(1e-7, 1).log(), y)),
    ("amounts", nn.ReLU(), 1, numbers().abs(), nn.MSELoss()),
    ("rates", nn.Softplus(), 1, numbers().abs().round(), nn.PoissonNLLLoss(log_input=False)),
    ("scaled", nn.Tanh(), 1, 0.9 * numbers().tanh(), nn.MSELoss()),
    ("scores", nn.Identity(), 10, tens(), nn.CrossEntropyLoss()),
]  # fmt: skip


@pytest.mark.parametrize(
    ("last", "outputs", "y", "loss"),
    [case[1:] for case in HEALTHY],
    ids=[case[0] for case in HEALTHY],
)
def test_what_fits_its_loss_loses_nothing_by_its_bounds(last, outputs, y, loss):
    told = reach(ending(last, outputs), y, loss)

    assert told.floor is None or told.floor - told.free < 0.01


def own_logarithm(p, y):
    return functional.nll_loss((p + 1e-3).log(), y)


@pytest.mark.parametrize(
    ("last", "y", "loss"),
    [
        (nn.LogSoftmax(dim=1), tens(), nn.NLLLoss()),
        (
            nn.LogSoftmax(dim=1),
            functional.one_hot(tens(), 10).float(),
            nn.KLDivLoss(reduction="batchmean"),
        ),
        (nn.Softmax(dim=1), tens(), own_logarithm),
    ],
    ids=["log-softmax", "divergence", "logarithm"],
)
def test_a_loss_of_logarithms_that_are_normalized_loses_nothing_by_that(last, y, loss):
    told = reach(ending(last, 10), y, loss)

    assert told.floor is None or told.floor - told.free < 0.01


def test_an_output_of_the_models_own_making_is_found_without_knowing_its_function():
    told = reach(Squared(), numbers(), nn.MSELoss())

    assert (told.low, told.high) == (pytest.approx(0, abs=1e-3), INF)
    assert told.floor == pytest.approx(squared(numbers().clamp(max=0)), rel=0.02)


def test_a_loss_that_asks_the_model_for_more_than_outputs_has_no_floor():
    model = ending(nn.Sigmoid())
    problem = Problem(
        model,
        (inputs(), 5 + numbers()),
        batch_loss=lambda m, b: (m(b[0]) - b[1]).square().mean() + m[0].weight.square().mean(),
    )
    batch = problem.require_whole("diagnosis").batches[0]
    told = reach_of(problem, batch, model(inputs()).detach(), torch.Generator().manual_seed(0))

    assert told.bounded
    assert told.floor is told.free is None


def test_a_loss_that_takes_batches_by_name_has_a_floor_like_any_other():
    model = ending(nn.Sigmoid())
    batches = [{"x": inputs(), "y": 5 + 0 * numbers()}]
    problem = Problem(
        model, batches, batch_loss=lambda m, b: (m(input=b["x"]) - b["y"]).square().mean()
    )
    batch = problem.require_whole("diagnosis").batches[0]
    told = reach_of(problem, batch, model(inputs()).detach(), torch.Generator().manual_seed(0))

    assert told.floor == pytest.approx(16, rel=0.01)


@pytest.mark.parametrize(
    "output", [None, torch.zeros(SAMPLES, dtype=torch.long), torch.tensor(1.0)]
)
def test_outputs_that_are_no_numbers_of_samples_are_not_looked_at(output):
    problem = Problem(network(INPUTS, 2), (inputs(), tens() % 2), nn.CrossEntropyLoss())
    batch = problem.require_whole("diagnosis").batches[0]

    assert reach_of(problem, batch, output, torch.Generator().manual_seed(0)) is None


def test_nothing_of_the_models_moves_and_no_hook_stays():
    model = nn.Sequential(nn.Linear(INPUTS, 6), nn.BatchNorm1d(6), nn.Linear(6, 1), nn.Sigmoid())
    before = [t.clone() for t in model.state_dict().values()]
    random = torch.get_rng_state()
    reach(model.eval(), coins(), nn.BCEWithLogitsLoss())

    assert all(torch.equal(a, b) for a, b in zip(before, model.state_dict().values(), strict=True))
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not model._forward_hooks
    assert torch.equal(random, torch.get_rng_state())


def test_the_same_generator_finds_the_same():
    first, second = (reach(ending(nn.ReLU()), numbers(), nn.MSELoss(), seed=4) for _ in range(2))

    assert first == second


def test_a_given_model_answers_the_same_to_everything():
    outputs = torch.randn(3, 2)
    given = Given(outputs)

    assert given() is given(1, mask=None) is outputs
    assert not list(given.parameters())
