"""Searches along a training begin on its way and at its end, and leave the run alone."""

import torch
from torch import nn

from unstick.diagnosis.run import Run
from unstick.diagnosis.searching import search_critical_points
from unstick.problem.problem import Problem


def run():
    """Ridge regression: one critical point, wherever a search begins."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(20, 3, generator=draw, dtype=torch.float64)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]], dtype=torch.float64)
    model = nn.Linear(3, 1, bias=False).double()
    problem = Problem(model, (x, y), nn.MSELoss(), weight_decay=0.1)
    exact = torch.linalg.solve(
        x.T @ x / 10 + 0.1 * torch.eye(3, dtype=torch.float64), x.T @ y / 10
    ).flatten()
    return Run(problem, torch.optim.SGD(model.parameters(), 0.05, weight_decay=0.1), 5), exact


def test_every_search_ends_at_the_ridge_solution_and_the_run_stays():
    stuck, exact = run()
    before = stuck.problem.parameters()

    found = search_critical_points(stuck, starts=4, updates=30, noise=0.1)

    assert found.counts["critical"] == 4
    for one in found.founds:
        torch.testing.assert_close(one.parameters, exact, rtol=0, atol=1e-9)
    assert torch.equal(stuck.problem.parameters(), before)


def test_the_last_start_is_where_the_training_ended():
    stuck, _ = run()
    losses = [one.start_loss for one in search_critical_points(stuck, starts=3, updates=30).founds]

    assert losses[-1] == min(losses)


def test_without_a_training_starts_lie_around_the_parameters():
    stuck, _ = run()
    here = stuck.problem.value()

    found = search_critical_points(stuck, starts=3, noise=1e-6)

    assert all(abs(one.start_loss - here) < 1e-4 * here for one in found.founds)
    assert len({one.start_loss for one in found.founds}) == 3
