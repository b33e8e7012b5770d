"""The plane of a trajectory holds it where it can, and says how much of it that is."""

import pytest
import torch

from unstick.errors import BadData
from unstick.landscape.trajectory import trajectory_plane
from unstick.problem.problem import Problem

N = 30


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def bowl(x):
    return (x**2).sum()


def problem():
    return Problem.from_function(bowl, torch.zeros(N, dtype=torch.float64))


def spiral(points=12):
    """Points in a plane through (1, …, 1), and their coordinates in it from the last one."""
    axes = torch.linalg.qr(torch.randn(N, 2, generator=rng(), dtype=torch.float64)).Q
    angle = torch.linspace(0, 6, points, dtype=torch.float64)
    inside = torch.stack([3 * angle.cos(), angle.sin()], dim=1) * torch.linspace(2, 1, points)[:, None].double()  # fmt: skip
    return 1 + inside @ axes.T, inside - inside[-1]


def test_a_trajectory_in_a_plane_is_explained_and_drawn_to_scale():
    trajectory, inside = spiral()
    found = trajectory_plane(problem(), trajectory, points=5)

    assert abs(sum(found.explained) - 1) < 1e-12
    assert found.explained[0] > found.explained[1] > 0.01
    torch.testing.assert_close(torch.cdist(found.path, found.path), torch.cdist(inside, inside))
    assert found.path[-1].tolist() == [0, 0]
    assert (found.path[0] < 0).all()


def test_losses_are_those_of_the_trajectory_and_of_the_plane_through_its_end():
    trajectory, _ = spiral()
    found = trajectory_plane(problem(), trajectory, points=7)

    torch.testing.assert_close(found.path_losses, (trajectory**2).sum(1), rtol=1e-12, atol=0)
    # Over the plane ‖θ‖² = ‖θ_last‖² + 2 θ_last·(x d₁ + y d₂) + x² + y²; its slopes follow from the path's own losses.
    squares = (found.path**2).sum(1)
    slopes = torch.linalg.lstsq(
        found.path[:-1], (found.path_losses - found.path_losses[-1] - squares)[:-1, None]
    ).solution.squeeze(1)
    x, y = found.x[None, :], found.y[:, None]
    expected = found.path_losses[-1] + slopes[0] * x + slopes[1] * y + x**2 + y**2
    torch.testing.assert_close(found.losses, expected, rtol=1e-9, atol=1e-9)


def test_a_little_noise_is_left_unexplained_by_as_much():
    trajectory, inside = spiral()
    away = torch.randn(len(trajectory), N, generator=rng(1), dtype=torch.float64) * 0.1
    found = trajectory_plane(problem(), trajectory + away, points=3)
    away -= away[-1].clone()
    left = float((away**2).sum() / ((inside**2).sum() + (away**2).sum()))

    assert 0.5 * left < 1 - sum(found.explained) < 1.5 * left


@pytest.mark.calibration
def test_a_random_walk_is_explained_as_highly_as_the_note_says():
    n = 3000
    walk = torch.randn(200, n, generator=rng(2)).cumsum(0)
    found = trajectory_plane(Problem.from_function(bowl, torch.zeros(n)), walk, points=2)

    assert abs(found.explained[0] - 0.81) < 0.02  # 8/π², by Brownian motion's covariance min(s, t)
    assert abs(found.explained[1] - 0.09) < 0.02  # 8/(9π²)
    assert "81 % and 9 %" in found.notes[0]


def test_the_margin_surrounds_the_path_and_the_model_does_not_move():
    trajectory, _ = spiral()
    ours = problem()
    found = trajectory_plane(ours, trajectory, points=4, margin=0.5)
    low, high = found.path.amin(0), found.path.amax(0)

    for axis, at in enumerate((found.x, found.y)):
        width = high[axis] - low[axis]
        torch.testing.assert_close(at[0], low[axis] - 0.5 * width)
        torch.testing.assert_close(at[-1], high[axis] + 0.5 * width)
    assert not ours.parameters().any()
    assert abs(found.cost.gradients - (16 + len(trajectory)) / 3) < 1e-6


@pytest.mark.parametrize(
    ("trajectory", "more", "message"),
    [
        (torch.zeros(5, N - 1), {}, "at least 3 points"),
        (torch.randn(2, N, generator=rng()), {}, "at least 3 points"),
        (torch.zeros(5, N), {}, "straight line"),
        (torch.arange(5.0)[:, None] * torch.ones(N), {}, "straight line"),
        (torch.full((5, N), torch.nan), {}, "not finite"),
        (torch.randn(5, N, generator=rng()), {"margin": -1.0}, "margin"),
        (torch.randn(5, N, generator=rng()), {"points": 1}, "points"),
    ],
)
def test_what_spans_no_plane_is_refused(trajectory, more, message):
    with pytest.raises(BadData, match=message):
        trajectory_plane(problem(), trajectory, **more)
