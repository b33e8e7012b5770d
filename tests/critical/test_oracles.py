"""Points whose kind is known by algebra get that kind, that inertia, and a direction exactly where there is one."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from cases import ORACLES, autoencoder, autoencoder_inertia, toy
from unstick.critical.classifying import classify
from unstick.critical.curvature import curvature_ends
from unstick.problem.problem import Problem


@pytest.mark.parametrize("oracle", ORACLES, ids=str)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_oracle_has_its_kind_and_inertia(oracle, seed):
    point = classify(oracle.problem(), seed=seed)

    assert (point.kind, point.inertia) == (oracle.kind, oracle.inertia), point
    assert point.minimum_ratio == oracle.inertia[0] / len(oracle.x0)
    if oracle.kind != "not-critical":
        assert (point.escape_direction is not None) == oracle.descends, point


@pytest.mark.parametrize("oracle", [o for o in ORACLES if o.descends], ids=str)
def test_an_escape_direction_lowers_the_function_somewhere(oracle):
    point = classify(oracle.problem())
    x0 = torch.tensor(oracle.x0, dtype=torch.float64)

    steps = torch.logspace(-2, 1, 61, dtype=torch.float64)
    lowest = min(float(oracle.function(x0 + t * point.escape_direction)) for t in steps)

    assert lowest < point.loss - 1e-9


def test_the_toy_net_has_the_hessian_and_the_eigenpairs_of_the_notes():
    problem = Problem.from_function(toy, torch.zeros(2))

    H = problem.hessian().matmat(torch.eye(2, dtype=torch.float64))
    point = classify(problem)

    assert_close(H, torch.tensor([[0.0, -2.0], [-2.0, 0.0]], dtype=torch.float64))
    assert_close(point.eigenvalues, torch.tensor([-2.0, 2.0], dtype=torch.float64))
    u = point.lowest_directions[:, 0]
    assert_close(u * u.sign(), torch.full((2,), math.sqrt(0.5), dtype=torch.float64))
    assert u[0] * u[1] > 0


@pytest.mark.parametrize("w", [(1.0, 1.0), (2.0, 0.5), (-4.0, -0.25)])
def test_on_the_hyperbola_the_eigenvalues_are_0_and_twice_the_squared_norm(w):
    point = classify(Problem.from_function(toy, torch.tensor(w)))

    expected = torch.tensor([0.0, 2 * (w[0] ** 2 + w[1] ** 2)], dtype=torch.float64)
    assert_close(point.eigenvalues, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kept", [(), (7,), (0,), (0, 1), (3, 5), (6, 7)], ids=str)
def test_the_linear_autoencoder_has_the_inertia_of_its_formula(kept):
    model, inputs, variances = autoencoder(kept)
    point = classify(Problem(model, (inputs, inputs), nn.MSELoss()))

    assert point.inertia == autoencoder_inertia(kept)
    assert_close(
        point.loss, float(variances.sum() - variances[list(kept)].sum()) / 8, rtol=1e-12, atol=0
    )
    assert point.gradient_norm < 1e-12
    # The best code is a minimum, but flat along changes of basis of the code; all other points are saddles.
    assert point.kind == ("degenerate" if kept == (6, 7) else "saddle")
    assert (point.escape_direction is None) == (kept == (6, 7))


def test_the_formula_for_the_autoencoder_matches_the_published_cases():
    cases = {
        (): (16, 0, 16),
        (7,): (22, 3, 7),
        (0,): (15, 3, 14),
        (0, 1): (16, 4, 12),
        (3, 5): (23, 4, 5),
        (6, 7): (28, 4, 0),
    }
    assert {kept: autoencoder_inertia(kept) for kept in cases} == cases


def test_gradient_flat_points_are_named_in_the_proof_and_others_are_not():
    flat = [o for o in ORACLES if "gradient-flat" in o.why]
    sloped = next(o for o in ORACLES if "banana" in o.name)

    assert all("Gradient-flat" in classify(oracle.problem()).proof for oracle in flat)
    assert "Gradient-flat" not in classify(sloped.problem()).proof


@pytest.mark.parametrize("alpha", [0.5, 3.0])
def test_rescaling_a_relu_net_keeps_its_outputs_and_rescales_its_sharpness(alpha):
    torch.manual_seed(0)
    inputs, targets = torch.randn(40, 5).double(), torch.randn(40, 2).double()
    plain = nn.Sequential(
        nn.Linear(5, 6, bias=False), nn.ReLU(), nn.Linear(6, 2, bias=False)
    ).double()
    scaled = nn.Sequential(
        nn.Linear(5, 6, bias=False), nn.ReLU(), nn.Linear(6, 2, bias=False)
    ).double()
    with torch.no_grad():
        scaled[0].weight.copy_(alpha * plain[0].weight)
        scaled[2].weight.copy_(plain[2].weight / alpha)

    def sharpness(model, pattern):
        problem = Problem(model, (inputs, targets), nn.MSELoss()).restrict(pattern)
        return curvature_ends(problem, highest=1, tolerance=1e-9).lambda_max.value

    assert_close(scaled(inputs), plain(inputs), rtol=1e-12, atol=1e-12)
    assert_close(sharpness(scaled, "0.*"), sharpness(plain, "0.*") / alpha**2, rtol=1e-7, atol=0)
    assert_close(sharpness(scaled, "2.*"), sharpness(plain, "2.*") * alpha**2, rtol=1e-7, atol=0)
    assert abs(sharpness(scaled, "*") / sharpness(plain, "*") - 1) > 0.1
