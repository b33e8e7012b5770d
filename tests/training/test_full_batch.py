"""A step of a full-batch method is whole or not at all, and a saved state goes on bit for bit."""

import io
import math

import pytest
import torch

from training.cases import BACKTRACKING, METHODS, assert_same, bowl, compressed, run
from unstick.errors import BadCheckpoint, NonFinite
from unstick.problem.problem import Problem
from unstick.training.curvature import PerturbedGradientDescent, SaddleFreeNewton
from unstick.training.full_batch import FullBatchMethod


def test_a_method_of_ones_own_says_where_to_and_the_rest_is_done():
    class Doubling(FullBatchMethod):
        _remembered = ()

        def _move(self, theta, loss, gradient):
            self.problem.write(2 * theta)
            self.finished = loss > 30

    problem = Problem.from_function(lambda x: (x**2).sum(), torch.tensor([3.0, 0.0]).double())
    method = Doubling(problem, lr=1.0, seed=0)

    assert [method.step() for _ in range(3)] == [9.0, 36.0, 144.0]
    assert problem.parameters().tolist() == [12.0, 0.0]  # the third step only measured
    assert (method.updates, method.gradient_norm, method.update_norm) == (2, 24.0, 0.0)


@pytest.mark.parametrize("name", BACKTRACKING)
def test_where_the_loss_rises_whatever_the_gradient_says_every_bit_is_put_back(name):
    problem = Problem.from_function(  # at the kink the slope is told to be 1 on both sides
        lambda x: torch.where(x >= 0, x, -3 * x).sum() + (x**2).sum(), torch.zeros(2).double()
    )
    method = METHODS[name](problem)
    run(method)

    assert method.gradient_norm == pytest.approx(2**0.5)
    assert not bool(problem.parameters().any())


@pytest.mark.parametrize("name", BACKTRACKING)
def test_a_loss_that_cannot_be_differentiated_twice_is_left_by_finite_differences(name):
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return (1 - x[0] * x[1]) ** 2

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, slope):
            (x,) = ctx.saved_tensors
            return slope * -2 * (1 - x[0] * x[1]) * x.flip(0)

    problem = Problem.from_function(Once.apply, torch.zeros(2).double())
    run(METHODS[name](problem))

    assert problem.value() < 1e-6


@pytest.mark.parametrize("updates", [4, 40])
@pytest.mark.parametrize("name", METHODS)
def test_a_state_that_was_saved_and_loaded_goes_on_bit_for_bit(name, updates):
    problem, _ = compressed((7,))
    method = METHODS[name](problem, seed=3)
    for _ in range(updates):
        method.step()
    stored = io.BytesIO()
    torch.save([problem.model.state_dict(), method.state_dict()], stored)
    losses = [method.step() for _ in range(30)]
    stored.seek(0)
    model_state, state = torch.load(stored, weights_only=True)

    other, _ = compressed(())
    other.model.load_state_dict(model_state)
    resumed = METHODS[name](other, seed=4)
    resumed.load_state_dict(state)

    assert [resumed.step() for _ in range(30)] == losses
    assert torch.equal(other.parameters(), problem.parameters())
    assert_same(resumed.state_dict(), method.state_dict())


def test_a_state_saved_while_waiting_still_knows_what_the_noise_must_gain():
    method = PerturbedGradientDescent(bowl(), lr=0.1, wait=5)
    for _ in range(3):
        method.step()
    resumed = PerturbedGradientDescent(bowl(), lr=0.1, wait=5)
    resumed.problem.write(method.problem.parameters())
    resumed.load_state_dict(method.state_dict())

    assert run(resumed) == run(method)
    assert resumed.updates == 7


def test_a_state_that_does_not_fit_is_refused_and_changes_nothing():
    problem, _ = compressed(())
    method = PerturbedGradientDescent(problem, lr=0.1)
    method.step()
    before = method.state_dict()

    with pytest.raises(BadCheckpoint, match="the state holds damping"):
        method.load_state_dict(SaddleFreeNewton(problem).state_dict())
    with pytest.raises(BadCheckpoint, match="before in the state"):
        method.load_state_dict({**before, "before": torch.zeros(problem.n + 1).double()})
    with pytest.raises(BadCheckpoint, match="since in the state"):
        method.load_state_dict({**before, "since": "soon"})
    with pytest.raises(BadCheckpoint, match="generator in the state"):
        method.load_state_dict({**before, "lr": 5.0, "generator": before["generator"][:0]})
    assert_same(method.state_dict(), before)


@pytest.mark.parametrize("name", METHODS)
def test_an_interrupted_step_leaves_model_and_method_as_they_were(name, monkeypatch):
    problem, _ = compressed(())
    method = METHODS[name](problem)
    begin, before = problem.parameters(), method.state_dict()
    write = problem.write

    def write_and_break(theta):
        write(theta)
        raise KeyboardInterrupt

    monkeypatch.setattr(problem, "write", write_and_break)
    with pytest.raises(KeyboardInterrupt):
        method.step()
    assert torch.equal(problem.parameters(), begin)
    assert_same(method.state_dict(), before)
    monkeypatch.undo()

    again, _ = compressed(())
    for m in (method, other := METHODS[name](again)):
        m.step()
    assert torch.equal(problem.parameters(), again.parameters())
    assert_same(method.state_dict(), other.state_dict())


def test_a_loss_that_is_no_longer_finite_is_refused_where_it_is():
    problem = Problem.from_function(lambda x: (x**4).sum(), torch.tensor([10.0]).double())
    method = PerturbedGradientDescent(problem, lr=10.0)
    while math.isfinite(problem.value()):
        method.step()
    before, state = problem.parameters(), method.state_dict()

    with pytest.raises(NonFinite, match=f"after {method.updates} updates the loss is inf"):
        method.step()
    assert torch.equal(problem.parameters(), before)
    assert_same(method.state_dict(), state)
