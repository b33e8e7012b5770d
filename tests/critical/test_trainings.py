"""Real trainings: healthy ones are never called critical, stalled ones are, with the model left as it was."""

import pytest
import torch
from torch import nn

from cases import digits, network, train, zeroed
from unstick.critical.classifying import classify
from unstick.problem.problem import Problem

pytestmark = pytest.mark.slow

LOSS = nn.CrossEntropyLoss()


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_a_healthy_run_is_not_critical_though_its_gradient_sinks_below_its_noise(activation):
    inputs, targets = digits()
    model = network(64, 64, 10, activation=activation)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    epoch, below_noise, bent = 0, [], []
    for stop in (5, 20, 60, 300):
        train(
            model, optimizer, inputs, targets, updates=23 * (stop - epoch), batch_size=64, seed=stop
        )
        epoch = stop
        point = classify(Problem(model, (inputs, targets), LOSS))
        assert point.kind == "not-critical", (stop, point)
        below_noise.append(point.gradient_norm < point.gradient_standard_error)
        bent.append(point.lambda_min.high < 0)
    assert below_noise[-1]
    assert not below_noise[0]
    assert all(bent)  # negative curvature alone is no stall


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU])
def test_the_first_epochs_of_a_healthy_run_are_not_critical(activation, seed):
    inputs, targets = digits()
    model = network(64, 32, 10, activation=activation, seed=seed)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(3):
        point = classify(Problem(model, (inputs, targets), LOSS), seed=seed)
        assert point.kind == "not-critical", point
        train(model, optimizer, inputs, targets, updates=23, batch_size=64, seed=seed)


@pytest.mark.parametrize("batch_size", [None, 32])
@pytest.mark.parametrize("activation", [nn.Tanh, nn.GELU])
def test_a_network_that_started_from_zero_stands_on_a_saddle(activation, batch_size):
    inputs, targets = digits()
    model = zeroed(network(64, 64, 10, activation=activation))
    train(
        model,
        torch.optim.SGD(model.parameters(), 0.02),
        inputs,
        targets,
        updates=500,
        batch_size=batch_size,
    )

    point = classify(Problem(model, (inputs, targets), LOSS))

    assert point.kind == "saddle"
    assert point.curvature_decrease > 0.5
    assert point.escape_direction.dtype == torch.float32


def test_a_relu_network_from_zero_is_degenerate_because_the_hessian_is_blind_at_its_kinks():
    inputs, targets = digits()
    model = zeroed(network(64, 16, 10, activation=nn.ReLU))
    train(model, torch.optim.SGD(model.parameters(), 0.5), inputs, targets, updates=300)

    point = classify(Problem(model, (inputs, targets), LOSS))

    assert point.kind == "degenerate", point
    assert "blind" in point.proof
    assert point.escape_direction is not None


def test_converged_logistic_regression_with_weight_decay_is_a_minimum():
    inputs, targets = digits()
    model = nn.Linear(64, 10)
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=500, tolerance_grad=1e-9, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        penalty = sum((p**2).sum() for p in model.parameters())
        value = LOSS(model(inputs), targets) + 0.5e-2 * penalty
        value.backward()
        return value

    for _ in range(5):
        optimizer.step(closure)
    point = classify(Problem(model, (inputs, targets), LOSS, weight_decay=1e-2))

    assert point.kind == "minimum", point
    assert point.inertia == (650, 0, 0)
    assert point.escape_direction is None


def test_weight_decay_makes_a_minimum_of_what_is_a_saddle_of_the_data_loss():
    inputs, targets = digits()
    model = zeroed(network(64, 16, 10))
    train(
        model,
        torch.optim.SGD(model.parameters(), 0.5, weight_decay=1.0),
        inputs,
        targets,
        updates=200,
    )

    regularized = classify(Problem(model, (inputs, targets), LOSS, weight_decay=1.0))
    data_only = classify(Problem(model, (inputs, targets), LOSS))

    assert regularized.kind == "minimum"
    assert data_only.kind in {"saddle", "not-critical"}
    assert data_only.lambda_min.high < 0


def test_the_verdict_leaves_the_model_bit_for_bit_and_repeats():
    inputs, targets = digits()
    model = zeroed(network(64, 32, 10))
    model.train()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()

    first = classify(Problem(model, (inputs, targets), LOSS), seed=3)
    second = classify(Problem(model, (inputs, targets), LOSS), seed=3)

    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.training
    assert model[0].weight.grad.eq(1).all()
    assert model[2].weight.grad is None
    assert torch.equal(state, torch.get_rng_state())
    assert (first.kind, first.proof, first.loss) == (second.kind, second.proof, second.loss)
    assert torch.equal(first.escape_direction, second.escape_direction)
