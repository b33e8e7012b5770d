"""Full-batch methods leave saddles and stop at minima, by the steps that their papers have."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from cases import ORACLES, autoencoder, network, toy
from training.cases import BACKTRACKING, METHODS, bowl, compressed, run
from unstick.errors import BadRecipe
from unstick.problem.problem import Problem
from unstick.training.curvature import (
    NegativeCurvatureDescent,
    PerturbedGradientDescent,
    SaddleFreeNewton,
)

SADDLES = [(), (7,), (0, 1)]


def quadratic(eigenvalues, seed=0):
    """½xᵀHx − bᵀx at a random point: the problem, H, b and the point."""
    draw = np.random.default_rng(seed)
    Q, _ = np.linalg.qr(draw.normal(size=(len(eigenvalues), len(eigenvalues))))
    H, b, x = (Q * eigenvalues) @ Q.T, *draw.normal(size=(2, len(eigenvalues)))
    matrix, vector = torch.tensor(H), torch.tensor(b)
    problem = Problem.from_function(
        lambda x: 0.5 * x @ matrix.to(x) @ x - vector.to(x) @ x, torch.tensor(x)
    )
    return problem, H, b, x


def test_gradient_descent_alone_never_leaves_the_autoencoder_s_origin():
    model, inputs, _ = autoencoder(())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        nn.MSELoss()(model(inputs), inputs).backward()
        optimizer.step()

    assert not any(bool(p.any()) for p in model.parameters())


@pytest.mark.parametrize("kept", SADDLES, ids=str)
@pytest.mark.parametrize("name", METHODS)
def test_every_method_leaves_the_autoencoder_s_saddles_for_its_only_minimum(name, kept):
    problem, least = compressed(kept)
    begin = problem.value()
    losses = run(METHODS[name](problem))

    assert losses[0] == pytest.approx(begin, rel=1e-12)
    assert begin > least + 0.1
    assert problem.value() == pytest.approx(least, abs=1e-3)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_leaves_the_toy_net_s_saddle(name):
    problem = Problem.from_function(toy, torch.zeros(2))
    losses = run(METHODS[name](problem))

    assert losses[0] == 1.0
    assert problem.value() < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", METHODS)
def test_at_a_strict_minimum_every_method_finishes_where_it_was_bit_for_bit(name, dtype):
    problem = bowl(dtype)
    before = problem.model.x.detach().clone()
    method = METHODS[name](problem)
    losses = run(method)

    assert torch.equal(problem.model.x, before)
    updates = method.updates
    assert method.step() == losses[0] == 0.0
    assert (method.updates, method.update_norm) == (updates, 0.0)


def test_newton_finds_the_way_down_that_the_gradient_does_not_point_at():
    problem = Problem.from_function(
        lambda x: x[0] ** 2 - x[1] ** 2 + x[1] ** 4, torch.tensor([1.0, 0.0]).double()
    )
    run(SaddleFreeNewton(problem))

    assert problem.value() == pytest.approx(-0.25, abs=1e-12)  # at (0, ±1/√2)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", [NegativeCurvatureDescent, SaddleFreeNewton])
def test_of_the_two_ways_along_an_eigenvector_the_one_that_the_gradient_agrees_with_is_taken(
    kind, seed
):
    tilt = 1e-13  # too small for a Newton step's decrease to be seen beside a loss of 1000
    problem = Problem.from_function(
        lambda x: 1000 + x[0] ** 2 - x[1] ** 2 + x[1] ** 4 + tilt * x[1], torch.zeros(2).double()
    )
    kind(problem, lr=0.7, seed=seed).step()

    assert problem.parameters()[1] < -0.4


@pytest.mark.parametrize("lr", [1.0, 0.25])
@pytest.mark.parametrize(
    "eigenvalues", [(-3, -0.5, 0.2, 1, 4, 9), (-2, -2, -2, 1, 1, 5), (-1, -2, -3)], ids=str
)
def test_in_the_whole_space_newton_s_step_is_minus_the_inverse_of_the_absolute_hessian_times_g(
    eigenvalues, lr
):
    problem, H, b, x = quadratic(eigenvalues)
    values, V = np.linalg.eigh(H)
    step = -V @ ((V.T @ (H @ x - b)) / np.abs(values))
    method = SaddleFreeNewton(problem, damping=1e-12, lr=lr)
    method.step()

    assert_close(problem.parameters(), torch.tensor(x + lr * step), rtol=1e-9, atol=1e-9)
    assert method.update_norm == pytest.approx(lr * np.linalg.norm(step), rel=1e-9)
    assert method.gradient_norm == pytest.approx(np.linalg.norm(H @ x - b), rel=1e-9)


def test_on_a_convex_quadratic_newton_is_at_the_minimum_after_one_step():
    problem, H, b, _ = quadratic((0.1, 0.5, 1, 2, 30))
    SaddleFreeNewton(problem, damping=1e-13).step()

    assert_close(problem.parameters(), torch.tensor(np.linalg.solve(H, b)), rtol=1e-9, atol=1e-9)


def test_in_a_space_of_one_dimension_newton_s_step_is_all_but_along_the_gradient():
    problem, H, b, x = quadratic(np.linspace(-1, 5, 40))
    SaddleFreeNewton(problem, rank=1).step()
    step, gradient = problem.parameters().numpy() - x, H @ x - b

    cosine = step @ gradient / np.linalg.norm(step) / np.linalg.norm(gradient)
    assert -1 < cosine < -0.97


def test_the_damping_falls_by_five_after_a_step_and_grows_until_one_stands():
    problem, *_ = quadratic((1.0, 2.0))
    method = SaddleFreeNewton(problem, damping=1e-3)
    method.step()
    assert method.damping == pytest.approx(2e-4)

    # √(1 + x²) at 2: the Newton step, −x(1 + x²) = −10, raises the loss; H = 5^-1.5, g = 2·5^-0.5
    problem = Problem.from_function(lambda x: (1 + x**2).sqrt().sum(), torch.tensor([2.0]).double())
    method, loss, curvature, slope = (
        SaddleFreeNewton(problem, damping=1e-3),
        5**0.5,
        5**-1.5,
        2 / 5**0.5,
    )
    damping = 1e-3
    while math.sqrt(1 + (2 - slope / (curvature + damping)) ** 2) >= loss:
        damping *= 4
    assert damping > 1e-3
    method.step()
    assert method.damping == pytest.approx(damping / 5)
    assert problem.value() == pytest.approx(
        math.sqrt(1 + (2 - slope / (curvature + damping)) ** 2), rel=1e-9
    )


@pytest.mark.parametrize("oracle", [o for o in ORACLES if o.lower_bound is not None or "banana" in o.name], ids=str)  # fmt: skip
@pytest.mark.parametrize("name", BACKTRACKING)
def test_no_step_raises_the_loss_of_a_landscape_however_long_it_is(name, oracle):
    problem = oracle.problem()
    method = METHODS[name](problem)
    method.lr = 1000.0
    losses = [method.step() for _ in range(30)]

    assert all(after <= before for before, after in pairwise(losses))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", BACKTRACKING)
def test_no_step_raises_the_loss_of_a_network(name, dtype):
    draws = torch.Generator().manual_seed(0)
    inputs = torch.randn(30, 4, generator=draws).to(dtype)
    targets = torch.randint(3, (30,), generator=draws)
    problem = Problem(network(4, 5, 3).to(dtype), (inputs, targets), nn.CrossEntropyLoss())
    method = METHODS[name](problem)
    method.lr = 3.0
    losses = [method.step() for _ in range(15)]

    assert all(after <= before for before, after in pairwise(losses))
    assert losses[-1] < losses[0] - 0.1


def test_gradient_steps_are_as_long_as_the_learning_rate_says():
    for kind in (PerturbedGradientDescent, NegativeCurvatureDescent):
        problem = Problem.from_function(lambda x: (x**2).sum(), torch.tensor([3.0]).double())
        method = kind(problem, lr=0.1)

        assert method.step() == 9.0
        assert problem.parameters().item() == pytest.approx(2.4)
        assert (method.gradient_norm, method.update_norm) == pytest.approx((6.0, 0.6))
        method.lr = 0.25
        method.step()
        assert problem.parameters().item() == pytest.approx(1.2)


@pytest.mark.calibration
def test_the_noise_is_uniform_in_the_ball():
    problem = bowl()
    center, radius = problem.parameters(), 0.3
    noise = []
    for seed in range(400):
        PerturbedGradientDescent(problem, lr=0.1, radius=radius, seed=seed).step()
        noise.append(problem.parameters() - center)
        problem.write(center)
    cloud = torch.stack(noise) / radius
    parts = cloud.norm(dim=1) ** 3  # of the ball's volume: uniform in [0, 1]

    assert float(parts.max()) <= 1.0
    error = 4 / 400**0.5  # standard errors of a mean of numbers in [−1, 1], over their deviation
    assert float(parts.mean()) == pytest.approx(1 / 2, abs=error / 12**0.5)
    assert float((parts**2).mean()) == pytest.approx(1 / 3, abs=error * (4 / 45) ** 0.5)
    assert_close(cloud.mean(0), torch.zeros(3).double(), rtol=0, atol=error / 5**0.5)


def test_noise_that_does_not_help_is_taken_back_after_the_wait():
    problem = bowl()
    method = PerturbedGradientDescent(problem, lr=0.1, wait=5)
    begin = problem.parameters()
    method.step()
    assert not torch.equal(problem.parameters(), begin)
    for _ in range(5):
        method.step()
        assert not method.finished
    method.step()

    assert method.finished
    assert torch.equal(problem.parameters(), begin)


@pytest.mark.parametrize(("decrease", "stays"), [(0.02, True), (0.005, False)])
def test_an_escape_must_gain_what_was_asked_for(decrease, stays):
    problem = Problem.from_function(  # the minima lie 0.01 below the saddle
        lambda x: x[0] ** 2 - 0.2 * x[1] ** 2 + x[1] ** 4, torch.zeros(2).double()
    )
    method = PerturbedGradientDescent(problem, lr=0.4, decrease=decrease)
    for _ in range(52):
        method.step()

    assert method.finished is stays
    assert problem.value() == pytest.approx(0.0 if stays else -0.01, abs=1e-3)


def test_only_curvature_that_was_found_below_the_least_is_followed():
    def slightly_bent(x):
        return x[0] ** 2 - 0.01 * x[1] ** 2 + x[1] ** 4

    for least, follows in ((0.019, True), (0.021, False)):  # the eigenvalues at 0 are 2 and −0.02
        problem = Problem.from_function(slightly_bent, torch.zeros(2).double())
        method = NegativeCurvatureDescent(problem, lr=0.1, threshold=1e-9, least_curvature=least)
        method.step()

        assert method.lambda_min == pytest.approx(-0.02)
        assert method.finished is not follows
        assert (problem.value() < 0) is follows


def test_an_interrupted_search_for_an_eigenvector_is_an_interruption(monkeypatch):
    class Impatient:
        def __init__(self, operator):
            self.dim, self.dtype, self.device = operator.dim, operator.dtype, operator.device
            self.products, self.whole = 0, operator

        def matvec(self, v):
            self.products += 1
            if self.products == 3:
                raise KeyboardInterrupt
            return self.whole.matvec(v)

        def error(self):
            return 0.0

    problem, _ = compressed(())
    begin, hessian = problem.parameters(), problem.hessian
    monkeypatch.setattr(problem, "hessian", lambda **mode: Impatient(hessian(**mode)))
    with pytest.raises(KeyboardInterrupt):
        NegativeCurvatureDescent(problem, lr=0.1).step()

    assert torch.equal(problem.parameters(), begin)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda p: PerturbedGradientDescent(p, lr=0.0), "lr is 0.0"),
        (lambda p: PerturbedGradientDescent(p, lr=0.1, radius=float("inf")), "radius is inf"),
        (lambda p: PerturbedGradientDescent(p, lr=0.1, wait=0), "wait is 0"),
        (lambda p: NegativeCurvatureDescent(p, lr=0.1, products=0), "products is 0"),
        (lambda p: NegativeCurvatureDescent(p, lr=float("nan")), "lr is nan"),
        (lambda p: SaddleFreeNewton(p, rank=0), "rank is 0"),
        (lambda p: SaddleFreeNewton(p, damping=0.0), "damping is 0.0"),
    ],
)
def test_settings_out_of_range_are_refused(make, told):
    with pytest.raises(BadRecipe, match=told):
        make(bowl())
