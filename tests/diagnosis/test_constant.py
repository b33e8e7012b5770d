"""The loss of the best constant output is the least that SciPy finds for the loss itself."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import nn

from cases import network
from unstick.diagnosis.constant import constant_loss
from unstick.problem.problem import Problem

SAMPLES, INPUTS, WIDE = 60, 4, 10


def inputs():
    return torch.randn(SAMPLES, INPUTS, generator=torch.Generator().manual_seed(0))


def classes():
    return (inputs()[:, 0] > 0).long()


def constant(loss, y):
    """For a model of three outputs, at each place where there are several, that the loss is for."""
    places = (5,) if y.shape[1:] == (5,) else ()
    outputs = y.shape[1] if y.is_floating_point() else 3
    ends = {nn.NLLLoss: nn.LogSoftmax(dim=1), nn.BCELoss: nn.Sigmoid()}
    model = nn.Sequential(
        nn.Linear(INPUTS, outputs * (5 if places else 1)),
        nn.Unflatten(1, (outputs, *places)) if places else nn.Identity(),
        ends.get(type(loss), nn.Identity()),
    )
    problem = Problem(model, (inputs(), y), loss)
    return constant_loss(problem, torch.zeros(SAMPLES, outputs, *places))


def regression():
    return 3 + inputs()[:, :3].exp()


def thirds():
    return (inputs()[:, :1] > torch.tensor([-0.8, 0.3])).sum(1)


def shares():
    return torch.softmax(2 * inputs()[:, :3], dim=1)


def bits():
    return (inputs()[:, :3] > torch.tensor([-0.5, 0.4, 1.2])).float()


def entropy(y):
    shares = np.bincount(y.numpy()) / len(y)
    return float(-(shares * np.log(shares)).sum())


W = torch.tensor([0.2, 1.0, 3.0])
GRID = torch.stack([thirds().roll(k) for k in range(5)], 1)  # five places a sample

CONSTANTS = [
    (nn.CrossEntropyLoss(), thirds()),
    (nn.CrossEntropyLoss(weight=W), thirds()),
    (nn.CrossEntropyLoss(label_smoothing=0.2), thirds()),
    (nn.CrossEntropyLoss(weight=W, label_smoothing=0.2), thirds()),
    (nn.CrossEntropyLoss(weight=W, ignore_index=1), thirds()),
    (nn.CrossEntropyLoss(weight=W, ignore_index=1, label_smoothing=0.2), thirds()),
    (nn.CrossEntropyLoss(weight=W, label_smoothing=0.2), GRID),
    (nn.CrossEntropyLoss(weight=W, reduction="sum"), thirds()),
    (nn.CrossEntropyLoss(), shares()),
    (nn.CrossEntropyLoss(weight=W, label_smoothing=0.2), shares()),
    (nn.NLLLoss(weight=W), thirds()),
    (nn.NLLLoss(weight=W, ignore_index=0), thirds()),
    (nn.MSELoss(), regression()),
    (nn.MSELoss(reduction="sum"), regression()),
    (nn.L1Loss(), regression()),
    (nn.HuberLoss(delta=0.3), regression()),
    (nn.SmoothL1Loss(beta=0.5), regression()),
    (nn.BCELoss(), bits()),
    (nn.BCELoss(weight=W), bits()),
    (nn.BCEWithLogitsLoss(), bits()),
    (nn.BCEWithLogitsLoss(weight=W), bits()),
    (nn.BCEWithLogitsLoss(pos_weight=W), bits()),
    (nn.BCEWithLogitsLoss(weight=W, pos_weight=W.flip(0)), shares()),
]


def least(loss, batches):
    """The mean of a batch's loss, minimized by SciPy over what one output of three numbers may be."""
    loss = deepcopy(loss).double()
    ends = {nn.NLLLoss: torch.log_softmax, nn.BCELoss: lambda c, _: torch.sigmoid(c)}
    end = ends.get(type(loss), lambda c, _: c)

    def mean(numbers):
        given = end(torch.tensor(numbers, dtype=torch.float64), -1)
        parts = []
        for y in batches:
            out = (
                given[:, None].expand(len(y), 3, 5)
                if y.shape[1:] == (5,)
                else given.expand(len(y), 3)
            )
            value = loss(out, y.double() if y.is_floating_point() else y)
            parts.append(float(value) / (len(y) if loss.reduction == "sum" else 1))
        return float(np.mean(parts))

    start = np.full(3, 4.0 if isinstance(loss, (nn.MSELoss, nn.L1Loss)) else 0.5)
    return minimize(mean, start, method="Powell", options={"xtol": 1e-9, "ftol": 1e-14}).fun


@pytest.mark.parametrize(
    ("loss", "y"),
    CONSTANTS,
    ids=[f"{k} {type(loss).__name__}" for k, (loss, _) in enumerate(CONSTANTS)],
)
def test_the_constant_loss_is_the_least_of_the_loss_itself_over_constant_outputs(loss, y):
    assert constant(loss, y) == pytest.approx(least(loss, [y]), rel=1e-6)


@pytest.mark.parametrize(
    ("loss", "y"),
    [
        (nn.CrossEntropyLoss(weight=W), thirds()),
        (nn.MSELoss(), regression()),
        (nn.HuberLoss(delta=0.3), regression()),
    ],
    ids=["classes", "squares", "Huber"],
)
def test_the_constant_loss_weighs_batches_as_the_problem_does(loss, y):
    parts = [slice(0, 10), slice(10, SAMPLES)]
    batches = [(inputs()[part], y[part]) for part in parts]
    problem = Problem(network(INPUTS, WIDE, 3), batches, loss, weight=lambda _batch: 1.0)
    reached = constant_loss(problem, torch.zeros(10, 3))

    assert reached == pytest.approx(least(loss, [y[part] for part in parts]), rel=1e-6)
    assert reached != pytest.approx(least(loss, [y]), rel=1e-3)


def test_the_constant_loss_of_targets_far_from_zero_has_the_digits_of_float64():
    y = 1e5 + regression()
    reached = constant(nn.MSELoss(), y)

    assert reached == pytest.approx(np.var(y.numpy().astype(float), axis=0).mean(), rel=1e-9)


@pytest.mark.parametrize(
    ("loss", "y"),
    [
        (nn.CrossEntropyLoss(), torch.ones(SAMPLES).long()),
        (nn.BCEWithLogitsLoss(), torch.tensor([1.0, 0.0, 1.0]).expand(SAMPLES, 3).clone()),
        (nn.MSELoss(), torch.full((SAMPLES, 3), 7.0)),
        (nn.HuberLoss(), torch.full((SAMPLES, 3), 7.0)),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, nn.Module) else "",
)
def test_targets_that_never_vary_are_reached_by_a_constant(loss, y):
    reached = constant(loss, y)

    assert reached == pytest.approx(0.0, abs=1e-11)


def test_two_outputs_have_two_rates_of_their_own():
    y = torch.stack([classes(), torch.zeros(SAMPLES).long()], 1).float()
    reached = constant(nn.BCEWithLogitsLoss(), y)

    assert reached == pytest.approx(entropy(classes()) / 2, rel=1e-4)


def test_ignored_targets_are_no_class():
    y = classes()
    padded = torch.cat([y, torch.full((SAMPLES,), -100)])
    problem = Problem(
        network(INPUTS, WIDE, 2), (inputs().repeat(2, 1), padded), nn.CrossEntropyLoss()
    )

    assert constant_loss(problem, torch.zeros(2, 2)) == pytest.approx(entropy(y))


def test_a_loss_of_ones_own_has_no_constant_loss():
    def loss(out, y):
        return (out[:, 0] - y).square().mean()

    assert constant(loss, classes()) is None


class Focal(nn.CrossEntropyLoss):
    """Says that it is a cross-entropy and is none."""

    def forward(self, input, target):  # noqa: A002
        return (1 - torch.exp(-super().forward(input, target))) ** 2


def test_a_loss_made_of_torchs_own_has_no_constant_loss_either():
    assert constant(Focal(), classes()) is None


def test_a_loss_of_classes_needs_to_know_how_many_there_are():
    problem = Problem(network(INPUTS, WIDE, 2), (inputs(), classes()), nn.CrossEntropyLoss())

    assert constant_loss(problem, None) is None
    assert constant_loss(problem, torch.zeros(SAMPLES)) is None
    assert constant_loss(problem, torch.zeros(SAMPLES, 2)) == pytest.approx(entropy(classes()))


def test_the_users_own_loss_is_left_as_it_was():
    loss = nn.CrossEntropyLoss(weight=W)
    constant(loss, thirds())

    assert torch.equal(loss.weight, W)
    assert loss.weight.dtype == torch.float32
