"""A plane shows the loss where it says, and leaves the model alone."""

import pytest
import torch

from cases import toy
from unstick.errors import BadData
from unstick.landscape.plane import scan
from unstick.problem.problem import Problem

AT = torch.linspace(-1, 1, 5, dtype=torch.float64)


def plane(first, second, x=AT, y=AT):
    problem = Problem.from_function(toy, torch.tensor([0.5, -0.25]))
    return problem, scan(problem, torch.tensor(first), torch.tensor(second), x=x, y=y)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 250.0])
def test_the_length_of_a_direction_does_not_matter(scale):
    _, unit = plane((1.0, 0.0), (0.0, 1.0))
    _, scaled = plane((scale, 0.0), (0.0, scale))

    torch.testing.assert_close(unit.losses, scaled.losses, rtol=1e-6, atol=1e-9)


def test_each_loss_is_the_function_at_its_coordinates():
    problem, shown = plane((3.0, 4.0), (0.0, 1.0))
    d1 = torch.tensor([0.6, 0.8], dtype=torch.float64)
    d2 = torch.tensor([-0.8, 0.6], dtype=torch.float64)  # the part of (0, 1) orthogonal to d1

    for i, y in enumerate(shown.y):
        for j, x in enumerate(shown.x):
            expected = float(toy(problem.parameters() + x * d1 + y * d2))
            assert abs(float(shown.losses[i, j]) - expected) < 1e-12
    assert abs(shown.cosine - 0.8) < 1e-6
    assert problem.parameters().tolist() == [0.5, -0.25]


def test_a_loss_that_is_not_finite_stays_so():
    problem = Problem.from_function(lambda x: torch.log(x[0] + 1) + x[1] ** 2, torch.zeros(2))
    shown = scan(problem, torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), x=2 * AT, y=AT)

    assert not torch.isfinite(shown.losses[:, 0]).any()
    assert torch.isfinite(shown.losses[:, 2:]).all()


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ((1.0, 1.0), (2.0, 2.0), "parallel"),
        ((0.0, 0.0), (2.0, 2.0), "length 0"),
        ((1.0,), (2.0, 2.0), "shape"),
        ((1.0, float("nan")), (0.0, 1.0), "length nan"),
    ],
)
def test_directions_that_span_no_plane_are_refused(first, second, message):
    with pytest.raises(BadData, match=message):
        plane(first, second)
