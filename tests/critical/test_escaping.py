"""An escape is a measured decrease, or no change of a single bit."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from cases import ORACLES, autoencoder, digits, network, toy, train, zeroed
from unstick.critical import escaping
from unstick.critical.classifying import classify
from unstick.critical.escaping import escape
from unstick.errors import BadModel, BudgetTooSmall
from unstick.problem.problem import Problem


def stuck(dtype=torch.float32):
    inputs, targets = digits()
    model = zeroed(network(64, 32, 10)).to(dtype)
    inputs = inputs.to(dtype)
    train(model, torch.optim.SGD(model.parameters(), 0.2), inputs, targets, updates=300)
    return model, inputs, targets


@pytest.mark.parametrize("oracle", [o for o in ORACLES if o.descends], ids=str)
def test_what_descends_is_escaped_and_measured_again(oracle):
    problem = oracle.problem()
    moved = escape(problem)

    assert moved.moved
    assert moved.loss_after < moved.loss_before
    assert moved.loss_after == problem.value()
    displacement = problem.parameters() - torch.tensor(oracle.x0, dtype=torch.float64)
    assert_close(displacement, moved.step * moved.direction, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("oracle", [o for o in ORACLES if not o.descends], ids=str)
def test_what_does_not_descend_is_left_alone(oracle):
    problem = oracle.problem()
    moved = escape(problem)

    assert not moved.moved
    assert moved.direction is None
    assert problem.parameters().tolist() == list(oracle.x0)
    assert moved.loss_after == moved.loss_before


@pytest.mark.parametrize("kept", [(), (7,), (0, 1), (3, 5)], ids=str)
def test_escape_and_descent_in_turn_end_at_the_autoencoder_s_only_minimum(kept):
    model, inputs, variances = autoencoder(kept)
    problem = Problem(model, (inputs, inputs), nn.MSELoss())
    for _ in range(6):
        moved = escape(problem)
        if not moved.moved:
            break
        assert moved.loss_after < 0.999 * moved.loss_before
        descend(model, inputs)

    assert not moved.moved
    assert_close(problem.value(), float(variances[:6].sum()) / 8, rtol=1e-6, atol=0)


def descend(model, inputs):
    optimizer = torch.optim.LBFGS(
        model.parameters(),
        max_iter=2000,
        tolerance_grad=1e-12,
        tolerance_change=1e-15,
        line_search_fn="strong_wolfe",
    )

    def closure():
        optimizer.zero_grad()
        loss = nn.MSELoss()(model(inputs), inputs)
        loss.backward()
        return loss

    optimizer.step(closure)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_stuck_network_is_escaped_along_several_directions_and_then_trains(dtype):
    model, inputs, targets = stuck(dtype)
    moved = escape(Problem(model, (inputs, targets), nn.CrossEntropyLoss()))

    assert moved.moved
    assert moved.along >= 2
    assert moved.loss_after < 1.0 < moved.loss_before
    train(model, torch.optim.SGD(model.parameters(), 0.2), inputs, targets, updates=500)
    accuracy = (model(inputs).argmax(1) == targets).double().mean()
    assert accuracy > 0.95


def test_an_interrupted_escape_puts_every_bit_back(monkeypatch):
    model, inputs, targets = stuck()
    problem = Problem(model, (inputs, targets), nn.CrossEntropyLoss())
    point = classify(problem)
    before = [p.clone() for p in model.parameters()]
    write = problem.write

    def write_and_break(theta):
        write(theta)
        raise KeyboardInterrupt

    monkeypatch.setattr(problem, "write", write_and_break)
    with pytest.raises(KeyboardInterrupt):
        escape(problem, point=point)

    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_decrease_that_does_not_survive_is_undone(monkeypatch):
    problem = Problem.from_function(toy, torch.zeros(2))
    point = classify(problem)

    def mislead(problem, point, way, *_):
        way.theta, way.loss = torch.tensor([1.0, -1.0], dtype=torch.float64), 0.0
        way.steps.append(1.0)

    monkeypatch.setattr(escaping, "_search", mislead)
    moved = escape(problem, point=point)

    assert not moved.moved
    assert problem.parameters().tolist() == [0.0, 0.0]


def test_an_interruption_keeps_the_best_way_out_so_far():
    model, inputs, targets = stuck()
    problem = Problem(model, (inputs, targets), nn.CrossEntropyLoss())
    point = classify(problem)

    def press(stage, done, total):
        if stage == "escape" and done == 1 < total:
            raise KeyboardInterrupt

    moved = escape(problem, point=point, progress=press)

    assert moved.moved
    assert moved.along == 1
    assert "interrupted" in moved.outcome
    assert problem.value() == moved.loss_after < moved.loss_before


def test_a_verdict_from_elsewhere_is_refused():
    problem = Problem.from_function(toy, torch.zeros(2))
    point = classify(problem)
    problem.write(torch.tensor([2.0, 2.0]).double())

    with pytest.raises(BadModel, match="classify again"):
        escape(problem, point=point)


def test_too_small_a_budget_is_refused_with_what_it_takes():
    with pytest.raises(BudgetTooSmall, match=r"budget=3 gradients; .* takes about \d+"):
        escape(Problem.from_function(toy, torch.zeros(2)), budget=3)
