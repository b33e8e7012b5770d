"""Points that once got, or nearly got, a wrong verdict: narrow valleys, tiny scales, barriers, false floors."""

import math

import pytest
import torch
from torch import nn

from cases import network, toy, train
from unstick.critical import classifying
from unstick.critical.classifying import classify
from unstick.critical.escaping import escape
from unstick.critical.probing import random_directions
from unstick.errors import BudgetTooSmall
from unstick.problem.problem import Problem


def at(function, *x, **options):
    return Problem.from_function(function, torch.tensor(x, dtype=torch.float64), **options)


@pytest.mark.parametrize("small", [True, False])
def test_a_narrow_valley_is_not_critical_though_the_gradient_pays_nothing(small, monkeypatch):
    monkeypatch.setattr(classifying, "is_small", lambda problem: small)
    valley = at(lambda x: 0.5 * (x[0] - 1001) ** 2 + 0.5e8 * x[1] ** 2, 1000.0, 1e-8)
    bottom = at(lambda x: 1 + 0.5 * (x[0] - 1001) ** 2 + 0.5e8 * x[1] ** 2, 1001.0, 0.0)

    assert classify(valley).kind == "not-critical"
    assert "valley" in classify(valley).proof
    assert classify(bottom).kind == "minimum"


def test_a_regression_that_only_crawls_is_no_minimum_and_its_solution_is():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.cat(
        [torch.randn(50, 2, generator=generator), torch.full((50, 1), 1e3)], 1
    ).double()
    inputs[:, 2] += torch.randn(50, generator=generator)
    targets = (inputs @ torch.tensor([[1.0], [-2.0], [0.5]]).double()) + 0.1 * torch.randn(
        50, 1, generator=generator
    ).double()
    model = nn.Linear(3, 1).double()
    train(
        model,
        torch.optim.SGD(model.parameters(), 1e-7),
        inputs,
        targets,
        updates=300,
        loss=nn.MSELoss(),
    )
    crawling = classify(Problem(model, (inputs, targets), nn.MSELoss()))

    A = torch.cat([inputs, torch.ones(50, 1).double()], 1)
    solution = torch.linalg.lstsq(A, targets).solution
    with torch.no_grad():
        model.weight.copy_(solution[:3].T)
        model.bias.copy_(solution[3])
    solved = classify(Problem(model, (inputs, targets), nn.MSELoss()))

    assert crawling.kind == "not-critical"
    assert solved.kind == "minimum"


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e3, 1e6])
def test_the_length_scale_of_the_parameters_does_not_change_the_kind(scale):
    def himmelblau(x):
        a, b = x[0] / scale, x[1] / scale
        return (a * a + b - 11) ** 2 + (a + b * b - 7) ** 2

    saddle = (0.08667750 * scale, 2.88425470 * scale)
    slope = (scale, scale)

    assert classify(at(himmelblau, *slope)).kind == "not-critical"
    assert classify(at(lambda x: toy(x / scale), 0.3 * scale, 0.2 * scale)).kind == "not-critical"
    assert classify(at(lambda x: toy(x / scale), 0.0, 0.0)).kind == "saddle"
    assert escape(at(lambda x: toy(x / scale), 0.0, 0.0)).moved
    assert classify(at(himmelblau, *saddle)).kind == "saddle"


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_the_unit_of_the_loss_does_not_change_the_kind(scale):
    assert classify(at(lambda x: scale * toy(x), 0.0, 0.0)).kind == "saddle"
    assert classify(at(lambda x: scale * toy(x), 0.6, 0.5)).kind == "not-critical"
    assert classify(at(lambda x: scale * (1 + (x**2).sum()), 0.0, 0.0)).kind == "minimum"


def test_the_proof_speaks_of_the_escape_direction_itself():
    def function(x):
        return 1 - 2 * x[0] ** 2 + 40 * x[0] ** 4 - x[1] ** 2 + 0.05 * x[1] ** 4 + x[2] ** 2

    point = classify(at(function, 0.0, 0.0, 0.0))

    v = point.escape_direction
    assert abs(float(v[1])) > 0.99  # the second eigenvector leads further down than the first
    assert "escape_direction, where vᵀHv = −2," in point.proof


def test_a_degenerate_proof_and_its_direction_agree():
    e = 1e-6

    def function(x):
        return (
            1 + x[0] ** 2 - e * x[1] ** 2 / 2 + 0.01 * x[1] ** 4 - 0.3 * x[2] ** 3 + 10 * x[2] ** 4
        )

    problem = at(function, 3 * e, 0.0, 0.0)
    point = classify(problem)
    steps = torch.logspace(-4, 1, 200, dtype=torch.float64).unsqueeze(1)
    losses = problem.values(problem.parameters() + steps * point.escape_direction)

    assert float(losses.min()) < point.loss - 0.5 * max(point.curvature_decrease, 1e-8)


@pytest.mark.parametrize("scale", [1.0, 1e-8, 1e-15])
def test_a_small_loss_is_not_a_loss_at_its_bound(scale):
    plateau = classify(at(lambda x: scale * (1 - x.prod()) ** 2, *[0.0] * 5, lower_bound=0.0))
    reached = classify(at(lambda x: scale * (1 - x.prod()) ** 2, *[1.0] * 5, lower_bound=0.0))

    assert plateau.kind == "degenerate"
    assert reached.kind == "minimum"


def test_a_loss_that_is_infinite_nearby_does_not_make_everything_noise():
    def walled(x):
        inside = (x.abs() <= 1).all()
        return torch.where(inside, x[0] - x[0] ** 2, torch.inf + 0 * x.sum())

    def walled_saddle(x):
        inside = (x.abs() <= 1).all()
        return torch.where(inside, 1 + x[0] ** 2 - x[1] ** 2, torch.inf + 0 * x.sum())

    assert classify(at(walled, 0.0, 0.0)).kind == "not-critical"
    point = classify(at(walled_saddle, 0.0, 0.0))
    assert point.kind == "saddle"
    assert math.isfinite(point.loss_noise)
    assert escape(at(walled_saddle, 0.0, 0.0)).moved


@pytest.mark.parametrize("budget", [90, 120, 200])
def test_the_budget_holds_for_small_problems_beside_their_dense_hessian(budget):
    problem = at(lambda x: (1 - x.prod()) ** 2, *[0.0] * 5)
    point = classify(problem, budget=budget)
    dense = 2 * problem.n + 1

    assert point.cost.gradients <= budget + dense


def test_an_escape_without_the_means_is_refused():
    problem = at(toy, 0.0, 0.0)

    with pytest.raises(BudgetTooSmall, match="budget=1 gradients"):
        escape(problem, point=classify(problem), budget=1)


@pytest.mark.parametrize("press_at", range(2, 9))
def test_an_interruption_never_turns_a_saddle_into_something_certain_else(press_at):
    calls = []

    def press(stage, done, total):
        calls.append(stage)
        if len(calls) == press_at:
            raise KeyboardInterrupt

    problem = at(lambda x: toy(x) + 50 * (x[2:] ** 2).sum(), 0.01, 0.01, 0.0, 0.0)
    point = classify(problem, progress=press)

    assert point.kind in {"saddle", "undecided"}, (point.kind, calls)


def test_exact_inertia_counts_at_the_noise_of_the_arithmetic():
    point = classify(at(lambda x: 1 + x[0] ** 2 - 1e-9 * x[1] ** 2, 1e-8, 0.0))

    assert point.inertia == (1, 0, 1)
    assert point.noise_floor < 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_a_repeated_negative_eigenvalue_gives_one_vector_with_a_part_in_all_of_its_space(seed):
    point = classify(at(lambda x: 1 + x[0] ** 2 - (x[1:] ** 2).sum(), *[0.0] * 9), seed=seed)

    assert point.lowest_curvatures.tolist()[0] == -2.0
    v = point.lowest_directions[:, 0]
    assert int((v[1:].abs() > 1e-3).sum()) >= 6


def test_random_directions_are_unit_seeded_and_different():
    problem = at(toy, 0.0, 0.0)
    first, again = (list(random_directions(problem, 3, seed=4)) for _ in range(2))

    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(abs(float(v.norm()) - 1) < 1e-12 for v in first)
    assert not torch.equal(first[0], first[1])


@pytest.mark.parametrize("seed", range(2))
def test_a_small_regression_net_that_still_learns_is_no_minimum(seed):
    inputs = torch.linspace(-3, 3, 60).double().unsqueeze(1)
    noise = 0.1 * torch.randn(60, 1, generator=torch.Generator().manual_seed(seed)).double()
    targets = torch.sin(inputs) + noise
    model = network(1, 3, 1, seed=seed).double()
    train(
        model,
        torch.optim.Adam(model.parameters(), 1e-2),
        inputs,
        targets,
        updates=1500,
        loss=nn.MSELoss(),
    )
    point = classify(Problem(model, (inputs, targets), nn.MSELoss()))

    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = nn.MSELoss()(model(inputs), targets)
        loss.backward()
        return loss

    optimizer.step(closure)
    gained = point.loss - nn.MSELoss()(model(inputs), targets).item()

    assert gained > 1e-5 * point.loss  # there was something left to learn nearby
    assert point.kind != "minimum"


@pytest.mark.parametrize("nudge", [0.0, 1e-12, -1e-12])
def test_a_lower_well_beyond_the_rim_makes_a_minimum_no_less_one(nudge):
    # f′ = x³ − x + ¼ is zero near 0.8376, where f″ = 3x² − 1 = 1.105; the lower well lies at x ≈ −1.107
    root = 0.8375654352833232
    problem = Problem.from_function(
        lambda x: (x**4 / 4 - x**2 / 2 + x / 4).sum(),
        torch.tensor([root + nudge], dtype=torch.float64),
    )

    assert classify(problem).kind == "minimum"
