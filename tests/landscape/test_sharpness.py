"""Each measure of sharpness is what algebra says on quadratics, never more than the true maximum, and compares only what compares."""

from itertools import product

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.testing import assert_close

from cases import network
from unstick.errors import BadData, BadModel, BudgetTooSmall, NonFinite, TooLittleMemory
from unstick.landscape.sharpness import compare, sharpness
from unstick.problem.problem import Problem

STEEP = torch.tensor([1.0, 3.0, 0.5, 7.0], dtype=torch.float64)
CENTER = torch.tensor([0.5, -2.0, 3.0, 0.1], dtype=torch.float64)


def bowl(steep=STEEP, center=CENTER, at=CENTER, height=0.0):
    """½ Σ aᵢ(xᵢ − cᵢ)² + height."""
    return Problem.from_function(
        lambda x: 0.5 * (steep.to(x) * (x - center.to(x)) ** 2).sum() + height, at
    )


def dense_hessian(model, inputs, targets, loss):
    """By torch's own double backward on a flat vector."""
    names = [name for name, _ in model.named_parameters()]
    shapes = [p.shape for p in model.parameters()]
    flat = torch.cat([p.detach().double().reshape(-1) for p in model.parameters()])

    def function(theta):
        parts = [
            part.view(shape)
            for part, shape in zip(theta.split([s.numel() for s in shapes]), shapes, strict=True)
        ]
        return loss(
            functional_call(model, dict(zip(names, parts, strict=True)), inputs.double()),
            targets.double() if targets.is_floating_point() else targets,
        )

    return torch.autograd.functional.hessian(function, flat)


@pytest.mark.parametrize("epsilon", [1e-3, 1e-1])
@pytest.mark.parametrize("iterations", [1, 10])
def test_phi_and_lambda_max_of_a_bowl_are_those_of_algebra(epsilon, iterations):
    found = sharpness(bowl(height=2.0), epsilons=(epsilon,), iterations=iterations)

    rise = 0.5 * float((STEEP * (epsilon * (CENTER.abs() + 1)) ** 2).sum())
    assert_close(found.phi, (100 * rise / 3.0,), rtol=1e-9, atol=0)
    assert_close(found.lambda_max.value, 7.0, rtol=1e-9, atol=0)
    assert found.loss == 2.0
    assert found.outcome == "complete"


def test_adaptive_sharpness_of_a_bowl_is_that_of_its_steepest_axis_in_its_own_units():
    found = sharpness(bowl(), radius=0.3, iterations=60)

    assert_close(found.adaptive, 0.5 * 0.09 * float((STEEP * CENTER**2).max()), rtol=1e-6, atol=0)


@pytest.mark.parametrize("seed", range(4))
def test_phi_is_near_the_largest_loss_of_all_corners_and_never_above(seed):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(7, 7, generator=generator, dtype=torch.float64)
    A, x = root @ root.T, torch.randn(7, generator=generator, dtype=torch.float64)
    found = sharpness(
        Problem.from_function(lambda y: 0.5 * y @ A.to(y) @ y, x), epsilons=(0.2,), seed=seed
    )

    widths = 0.2 * (np.abs(x.numpy()) + 1)  # a convex function is largest at a corner
    corners = x.numpy() + widths * np.array(list(product([-1, 1], repeat=7)))
    losses = 0.5 * np.einsum("ki,ij,kj->k", corners, A.numpy(), corners)
    here = 0.5 * x.numpy() @ A.numpy() @ x.numpy()
    most = 100 * (losses.max() - here) / (1 + here)
    assert 0.95 * most <= found.phi[0] <= most * (1 + 1e-12)


def test_a_subspace_of_one_direction_sees_one_share_of_a_round_bowl():
    zero = torch.zeros(50, dtype=torch.float64)
    found = sharpness(
        bowl(torch.full_like(zero, 4.0), zero, zero), epsilons=(1e-2, 1e-3), subspace=1
    )

    assert_close(found.phi, (100 * 2.0 * 1e-4, 100 * 2.0 * 1e-6), rtol=1e-9, atol=0)


def test_a_box_in_a_subspace_is_as_wide_as_the_projected_parameters():
    theta = torch.full((50,), 3.0, dtype=torch.float64)
    found = sharpness(
        bowl(torch.ones_like(theta), theta, theta), epsilons=(1e-2,), subspace=1, seed=5
    )

    generator = torch.Generator().manual_seed(5)
    torch.randn(50, generator=generator, dtype=torch.float64)  # the start of Lanczos comes first
    direction = torch.randn(50, generator=generator, dtype=torch.float64)
    inside = abs(float(direction @ theta / direction.norm()))
    assert_close(found.phi[0], 50 * (1e-2 * (inside + 1)) ** 2, rtol=1e-9, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_network_is_measured_as_its_dense_hessian_says(dtype):
    model, inputs = network(3, 4, 2), torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(20) % 2
    tight = sharpness(
        Problem(model, (inputs, targets), nn.CrossEntropyLoss(), dtype=dtype), epsilons=(1e-4,)
    )
    H = dense_hessian(model.double(), inputs, targets, nn.CrossEntropyLoss())

    top = float(torch.linalg.eigvalsh(H)[-1])
    assert_close(tight.lambda_max.value, top, rtol=1e-4, atol=0)
    flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    g = torch.cat(
        [
            p.reshape(-1)
            for p in torch.autograd.grad(
                nn.functional.cross_entropy(model(inputs.double()), targets),
                list(model.parameters()),
            )
        ]
    )
    w = 1e-4 * (flat.abs() + 1)
    linear = 100 * float((w * g.abs()).sum()) / (1 + tight.loss)  # the slope is all, this near
    assert_close(tight.phi[0], linear, rtol=2e-2, atol=0)


def test_the_model_is_left_alone_and_equal_seeds_give_equal_answers():
    model = network(3, 4, 2)
    model[0].weight.grad = torch.ones_like(model[0].weight)
    before = {name: p.clone() for name, p in model.state_dict().items()}
    problem = Problem(model, (torch.randn(8, 3), torch.arange(8) % 2), nn.CrossEntropyLoss())
    state = torch.random.get_rng_state()
    one, other = sharpness(problem, seed=3), sharpness(problem, seed=3)

    assert (one.phi, one.adaptive) == (other.phi, other.adaptive)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(before[name], p) for name, p in model.state_dict().items())
    assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))


def test_a_budget_ends_it_with_what_is_known():
    found = sharpness(bowl(), budget=35)

    assert found.outcome == "budget"
    assert found.lambda_max is not None
    assert found.phi[0] > 0
    assert found.phi[-1] is None
    assert found.adaptive is None
    assert found.cost.gradients <= 35
    assert "as far as it got" in found.headline()


def test_an_interruption_keeps_what_was_measured():
    def stop(stage, done, total):
        if stage == "sharpness" and done == 1:
            raise KeyboardInterrupt

    found = sharpness(bowl(), progress=stop)

    assert found.outcome == "interrupted"
    assert found.phi[0] > 0
    assert found.phi[1] is None


def test_points_of_one_loss_compare_and_steeper_is_sharper():
    wide, steep = sharpness(bowl()), sharpness(bowl(4 * STEEP))
    verdict = compare(wide, steep)

    assert verdict.outcome == "second"
    assert compare(steep, wide).outcome == "first"
    assert compare(wide, wide).outcome == "equal"
    assert_close(verdict.ratios, (4.0, 4.0, 4.0, 4.0), rtol=1e-6, atol=0)
    assert verdict.measures == ("λ max", "φ(0.001)", "φ(0.0005)", "adaptive")


@pytest.mark.parametrize(
    ("one", "other", "outcome"),
    [(1.0, 1.09, "second"), (1.0, 1.13, "different losses"), (10.0, 10.5, "second")],
)
def test_losses_further_apart_than_a_tenth_do_not_compare(one, other, outcome):
    found = compare(sharpness(bowl(height=one)), sharpness(bowl(9 * STEEP, height=other)))

    assert found.outcome == outcome
    assert ("Not comparable" in found.headline()) == (outcome == "different losses")


def test_measures_that_point_both_ways_give_no_verdict():
    near = sharpness(bowl(center=0.1 * CENTER, at=0.1 * CENTER))  # a tenth of the size
    sharper_but_smaller = sharpness(
        bowl(2 * STEEP, center=0.01 * CENTER, at=0.01 * CENTER)
    )  # in its own units flatter

    assert compare(near, sharper_but_smaller).outcome == "disagree"


def test_other_settings_do_not_compare():
    found = compare(sharpness(bowl()), sharpness(bowl(), epsilons=(1e-2, 1e-3)))

    assert found.outcome == "different settings"


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"epsilons": ()}, BadData, "epsilons"),
        ({"epsilons": (0.0,)}, BadData, "epsilons"),
        ({"subspace": 5}, BadData, "4 parameters"),
        ({"iterations": 0}, BadData, "iterations=0"),
        ({"radius": float("inf")}, BadData, "radius"),
        ({"budget": 5}, BudgetTooSmall, "raise the budget"),
    ],
)
def test_arguments_out_of_range_are_refused(given, error, message):
    with pytest.raises(error, match=message):
        sharpness(bowl(), **given)


def test_a_loss_that_is_not_finite_nearby_is_refused():
    problem = Problem.from_function(lambda x: -torch.log(1 - x).sum(), torch.full((2,), 0.99))

    assert sharpness(problem, epsilons=(1e-4,), radius=1e-3).phi[0] > 0
    with pytest.raises(NonFinite, match="smaller epsilons"):
        sharpness(problem, epsilons=(1e-1,))


def test_a_loss_below_minus_one_is_refused():
    with pytest.raises(BadModel, match="above −1"):
        sharpness(bowl(height=-3.0))


def test_directions_that_do_not_fit_are_refused_before_they_are_drawn():
    model = network(3, 4, 2)
    data = (torch.randn(8, 3), torch.arange(8) % 2)
    problem = Problem(model, data, nn.CrossEntropyLoss(), memory=4096)

    with pytest.raises(TooLittleMemory, match="take fewer"):
        sharpness(problem, subspace=20)
