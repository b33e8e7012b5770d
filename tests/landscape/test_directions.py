"""Directions have the lengths they promise, by formulas written out in NumPy."""

import numpy as np
import pytest
import torch
from torch import nn

from cases import network, toy
from unstick.errors import BadData, BudgetTooSmall
from unstick.landscape.directions import (
    axes,
    eigen_directions,
    filter_normalized,
    negative_gradient,
    random_direction,
)
from unstick.problem.problem import Problem


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def problem_of(model, *shape, whole=None):
    inputs = torch.randn(6, *shape, generator=rng()).double()
    if whole is not None:
        inputs = torch.randint(whole, (6, *shape), generator=rng())
    return Problem(
        model.double(), [inputs], batch_loss=lambda net, batch: net(batch).square().mean()
    )


def mlp():
    return problem_of(network(4, 3, 2), 4)


def convolution():
    model = nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.BatchNorm2d(4), nn.Tanh())
    nn.init.normal_(model[1].weight, generator=rng(3))
    return problem_of(model, 2, 5, 5)


def transposed():
    return problem_of(nn.Sequential(nn.ConvTranspose2d(4, 6, 2, groups=2), nn.GroupNorm(2, 6)), 4, 3, 3)  # fmt: skip


def embedding():
    return problem_of(nn.Sequential(nn.Embedding(5, 3), nn.LayerNorm(3)), 2, whole=5)


def filters(name, array):
    """The index of every filter of a parameter, by its name in the networks above."""
    if array.ndim < 2:
        return []
    if (
        name == "transposed"
    ):  # weight [in, out / 2, 2, 2]: inputs 0, 1 go to outputs 0 to 2, the others to 3 to 5
        return [np.s_[2 * g : 2 * g + 2, o] for g in range(2) for o in range(3)]
    return [np.s_[row] for row in range(len(array))]


@pytest.mark.parametrize("build", [mlp, convolution, transposed, embedding])
def test_each_filter_is_as_long_as_the_parameters_and_vectors_are_zero(build):
    problem = build()
    vector = torch.randn(problem.n, generator=rng(1)).double()
    found = problem.layout.named(filter_normalized(problem, vector).vector)
    given, own = problem.layout.named(vector), problem.layout.named(problem.parameters())

    for name, part in found.items():
        d, w, expected = given[name].numpy(), own[name].numpy(), np.zeros(part.shape)
        for at in filters(build.__name__, d):
            expected[at] = d[at] / np.sqrt((d[at] ** 2).sum()) * np.sqrt((w[at] ** 2).sum())
        np.testing.assert_allclose(part.numpy(), expected, rtol=1e-12, atol=0, err_msg=name)


@pytest.mark.parametrize(
    ("zeroed", "still"),
    [
        (("bias", "norm"), {"0.bias", "1.weight", "1.bias"}),
        (("bias",), {"0.bias"}),
        (("norm",), {"1.weight", "1.bias"}),
        ((), set()),
    ],
)
def test_biases_and_normalization_stay_or_move_as_one_block(zeroed, still):
    problem = convolution()
    with torch.no_grad():
        problem.model[1].bias.fill_(0.25)
    own = problem.layout.named(problem.parameters())

    direction = random_direction(problem, zeroed=zeroed)
    found = problem.layout.named(direction.vector)

    assert {name for name, part in found.items() if not part.any()} == still
    for name in {"0.bias", "1.weight", "1.bias"} - still:
        assert abs(float(found[name].norm() / own[name].norm()) - 1) < 1e-12
    assert ("do not move" in direction.said) == bool(zeroed)


def test_layers_as_blocks_and_nothing_at_all_can_be_normalized_too():
    problem = mlp()
    vector = torch.randn(problem.n, generator=rng(1)).double()
    layered = problem.layout.named(filter_normalized(problem, vector, normalize="layer").vector)
    plain = filter_normalized(problem, vector, normalize="none", zeroed=())

    for name, own in problem.layout.named(problem.parameters()).items():
        expected = 0.0 if own.ndim == 1 else float(own.norm())
        assert abs(float(layered[name].norm()) - expected) < 1e-12
    assert torch.equal(plain.vector, vector)
    assert not plain.relative


def test_a_unit_without_weights_does_not_move_and_others_do():
    problem = mlp()
    with torch.no_grad():
        problem.model[0].weight[1] = 0
    found = problem.layout.named(random_direction(problem).vector)["0.weight"]

    assert found.any(1).tolist() == [True, False, True]


def test_a_normalization_that_torch_does_not_have_is_known_by_its_name():
    class OwnNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4))

        def forward(self, x):
            return self.weight * x / x.square().mean(-1, keepdim=True).sqrt()

    problem = problem_of(nn.Sequential(OwnNorm(), nn.Linear(4, 2)), 4)
    found = problem.layout.named(random_direction(problem, zeroed=("norm",)).vector)

    assert not found["0.weight"].any()
    assert found["1.bias"].any()


def test_the_seed_decides_and_global_randomness_does_not_move():
    problem, before = mlp(), torch.get_rng_state()
    one, again, other = (random_direction(problem, seed=seed).vector for seed in (4, 4, 5))

    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_eigenvectors_are_those_of_the_dense_hessian_and_of_length_one():
    at = torch.tensor([0.7, -0.4], dtype=torch.float64)
    values, vectors = np.linalg.eigh(torch.autograd.functional.hessian(toy, at).numpy())
    found = eigen_directions(Problem.from_function(toy, at))

    for direction, k in zip(found, (0, 1), strict=True):
        assert abs(direction.curvature - values[k]) < 1e-9
        assert abs(abs(direction.vector.numpy() @ vectors[:, k]) - 1) < 1e-9
        assert abs(direction.length - 1) < 1e-12
        assert not direction.relative
        assert direction.residual < 1e-6


def test_the_gradient_axes_are_minus_the_gradient_and_the_lowest_eigenvector():
    at = torch.tensor([0.7, -0.4], dtype=torch.float64)
    problem = Problem.from_function(toy, at)
    down, lowest = axes(problem, "gradient")
    expected = 2 * (1 + 0.28) * np.array([-0.4, 0.7])  # −∂(1 − ab)²/∂(a, b)

    np.testing.assert_allclose(down.vector.numpy(), expected, rtol=1e-12)
    assert torch.equal(lowest.vector, eigen_directions(problem)[0].vector)


def test_random_axes_of_a_plain_function_move_though_it_is_all_one_vector():
    one, two = axes(Problem.from_function(toy, torch.tensor([3.0, 4.0])), "random")

    assert abs(one.length - 5) < 1e-6
    assert abs(two.length - 5) < 1e-6
    assert not torch.equal(one.vector, two.vector)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda p: filter_normalized(p, torch.zeros(3)), BadData, r"shape \[3\]; expected \[2\]"),
        (lambda p: random_direction(p, normalize="row"), BadData, "'row'"),
        (lambda p: random_direction(p, zeroed=("biases",)), BadData, "biases; expected of bias"),
        (lambda p: random_direction(p), BadData, "zeroed=()"),
        (negative_gradient, BadData, "gradient is zero"),
        (lambda p: axes(p, "best"), BadData, "'best'"),
        (lambda p: eigen_directions(p, budget=1), BudgetTooSmall, "raise the budget"),
    ],
)
def test_what_gives_no_direction_is_refused_in_one_line(call, error, message):
    with pytest.raises(error, match=message) as refusal:
        call(Problem.from_function(toy, torch.zeros(2)))
    assert "\n" not in str(refusal.value)
