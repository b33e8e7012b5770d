"""A trajectory is what a plain loop passes through, and the run it starts from stays as it is."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from unstick.diagnosis.run import Run
from unstick.diagnosis.trajectory import trajectory
from unstick.errors import BadData
from unstick.problem.problem import Problem
from unstick.training.order import BatchOrder


def samples():
    draw = torch.Generator().manual_seed(3)
    return torch.randn(24, 3, generator=draw), torch.randint(2, (24,), generator=draw)


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_the_points_are_those_of_a_plain_loop(kind):
    makers = {
        "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.01),
        "adam": lambda p: torch.optim.Adam(p, 0.01),
    }
    model, (x, y) = network(), samples()
    twin = deepcopy(model)
    run = Run(Problem(model, (x, y), nn.CrossEntropyLoss()), makers[kind](model.parameters()), 8)

    told = trajectory(run, updates=12, points=4, seed=5)

    order, optimizer, passed = BatchOrder(24, 8, seed=5), makers[kind](twin.parameters()), {}
    passed[0] = flat(twin)
    for update in range(1, 13):
        rows = order.next()
        optimizer.zero_grad()
        nn.functional.cross_entropy(twin(x[rows]), y[rows]).backward()
        optimizer.step()
        passed[update] = flat(twin)
    assert told.updates == (0, 4, 8, 12)
    expected = torch.stack([passed[k] for k in told.updates]).double()
    torch.testing.assert_close(told.thetas.double(), expected, rtol=0, atol=1e-6)


def test_losses_are_of_all_data_at_each_point_and_the_run_stays():
    model, (x, y) = network(), samples()
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    before, problem = flat(model), Problem(model, (x, y), nn.CrossEntropyLoss())

    told = trajectory(Run(problem, optimizer, 6), updates=30, points=4)

    twin = deepcopy(model)
    for theta, loss in zip(told.thetas, told.losses, strict=True):
        nn.utils.vector_to_parameters(theta.float(), twin.parameters())
        assert abs(float(nn.functional.cross_entropy(twin(x), y).detach()) - float(loss)) < 1e-5
    assert torch.equal(flat(model), before)
    assert not optimizer.state
    assert told.losses[-1] < told.losses[0]


def test_without_an_optimizer_it_is_gradient_descent_with_the_weight_decay_of_the_problem():
    start = torch.tensor([1.0, -2.0], dtype=torch.float64)
    model = nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(start.reshape(1, 2))
    problem = Problem(
        model,
        (torch.eye(2, dtype=torch.float64), torch.zeros(2, 1, dtype=torch.float64)),
        nn.MSELoss(),
        weight_decay=0.5,
    )

    told = trajectory(Run(problem), updates=3, points=4)

    # L = (a² + b²)/2 + 0.25 (a² + b²): each update multiplies by 1 − 0.1·1.5
    expected = start * 0.85 ** torch.arange(4, dtype=torch.float64)[:, None]
    torch.testing.assert_close(told.thetas, expected, rtol=0, atol=1e-12)


def test_points_before_a_blow_up_are_kept():
    problem = Problem.from_function(lambda x: (x**4).sum(), torch.full((2,), 9.0))

    told = trajectory(Run(problem), updates=40, points=41)

    assert told.outcome == "diverged"
    assert torch.isfinite(told.thetas).all()
    assert 1 <= len(told.updates) < 41


@pytest.mark.parametrize(("updates", "points"), [(0, 5), (5, 1)])
def test_counts_that_make_no_way_are_refused(updates, points):
    problem = Problem.from_function(lambda x: (x**2).sum(), torch.ones(2))

    with pytest.raises(BadData, match="expected at least 1 update and 2 points"):
        trajectory(Run(problem), updates=updates, points=points)


def test_another_models_optimizer_is_refused():
    problem = Problem(network(), samples(), nn.CrossEntropyLoss())

    with pytest.raises(BadData, match="none of the model's parameters"):
        trajectory(Run(problem, torch.optim.SGD(network().parameters(), 0.1)), updates=2, points=2)
