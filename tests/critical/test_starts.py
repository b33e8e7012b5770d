"""Starts are uniform in loss, of the noise asked for, and the same for the same seed."""

import pytest
import torch
from torch.testing import assert_close

from unstick.critical.starts import starts_along, starts_around
from unstick.errors import BadData
from unstick.problem.problem import Problem

N = 6


def course(k=2000):
    """A training that spends half its time near the bottom: its loss halves every 50 updates."""
    losses = 0.5 ** (torch.arange(k, dtype=torch.float64) / 50)
    return losses[:, None] * torch.ones(k, N, dtype=torch.float64), losses


def test_points_are_uniform_in_loss_and_not_in_time():
    trajectory, losses = course()

    starts = starts_along(trajectory, losses, count=4000)

    shares = torch.histc(starts[:, 0], bins=4, min=0.0, max=1.0) / 4000
    assert float((shares - 0.25).abs().max()) < 4 * (0.25 * 0.75 / 4000) ** 0.5 + 0.01
    assert float(torch.histc(losses, bins=4, min=0.0, max=1.0)[0]) / len(losses) > 0.9


def test_every_point_without_noise_lies_on_the_trajectory():
    trajectory, losses = course(50)

    starts = starts_along(trajectory, losses, count=30, noise=0.1, noisy=0.4, seed=3)

    on = (starts[:, None] == trajectory).all(2).any(1).tolist()
    assert on == [True] * 18 + [False] * 12


def test_the_noise_has_the_standard_deviation_asked_for():
    trajectory = torch.zeros(1, 1000, dtype=torch.float64)

    starts = starts_along(
        trajectory, torch.zeros(1, dtype=torch.float64), count=40, noise=0.01, noisy=1.0
    )

    assert abs(float(starts.std()) / 0.01 - 1) < 4 / (2 * 40_000) ** 0.5
    assert abs(float(starts.mean())) < 4 * 0.01 / 40_000**0.5


def test_equal_seeds_give_equal_starts_and_others_do_not():
    trajectory, losses = course(100)
    problem = Problem.from_function(lambda x: x @ x, torch.ones(N))

    for make in (
        lambda seed: starts_along(trajectory, losses, count=8, noise=0.1, seed=seed),
        lambda seed: starts_around(problem, count=8, scale=0.1, seed=seed),
    ):
        assert_close(make(1), make(1), rtol=0, atol=0)
        assert not torch.equal(make(1), make(2))


def test_starts_around_are_the_parameters_plus_noise():
    problem = Problem.from_function(lambda x: x @ x, torch.full((500,), 3.0))

    starts = starts_around(problem, count=20, scale=0.5)

    assert starts.shape == (20, 500)
    assert abs(float((starts - 3).std()) / 0.5 - 1) < 4 / (2 * 10_000) ** 0.5
    assert problem.parameters().tolist() == [3.0] * 500


def test_what_is_misshapen_is_refused():
    trajectory, losses = course(10)
    problem = Problem.from_function(lambda x: x @ x, torch.ones(2))
    for bad in ((trajectory[0], losses), (trajectory, losses[:5]), (trajectory[:0], losses[:0])):
        with pytest.raises(BadData, match=r"expected \[k, n\]"):
            starts_along(*bad, count=1)
    with pytest.raises(BadData, match="inf or nan"):
        starts_along(trajectory, losses * torch.nan, count=1)
    with pytest.raises(BadData, match="count is 0"):
        starts_along(trajectory, losses, count=0)
    with pytest.raises(BadData, match="noise is -1"):
        starts_along(trajectory, losses, count=1, noise=-1.0)
    with pytest.raises(BadData, match="noisy is 2"):
        starts_along(trajectory, losses, count=1, noisy=2.0)
    with pytest.raises(BadData, match="scale is nan"):
        starts_around(problem, count=1, scale=float("nan"))
