"""A line shows what the function is there, as far as there is something to see."""

import pytest
import torch
from torch import nn

from cases import network
from unstick.errors import BadData
from unstick.landscape.directions import negative_gradient, random_direction
from unstick.landscape.line import Line
from unstick.landscape.plane import scan
from unstick.problem.problem import Problem

AT = torch.linspace(-2, 2, 9, dtype=torch.float64)


def quartic(x):
    return x[0] ** 4 - x[0] ** 2 + 0 * x[1]


def test_a_line_is_the_function_along_the_unit_direction():
    problem = Problem.from_function(quartic, torch.zeros(2))
    line = scan(problem, torch.tensor([0.0, 3.0]) + torch.tensor([4.0, 0.0]), x=AT)
    expected = (0.8 * AT) ** 4 - (0.8 * AT) ** 2

    torch.testing.assert_close(line.losses, expected, rtol=0, atol=1e-12)
    assert (line.x_unit, line.outcome) == (5.0, "complete")
    assert "9 points" in line.headline()
    assert abs(line.cost.gradients - 3) < 1e-9


def test_a_gradient_norm_is_that_of_the_gradient_there():
    problem = Problem.from_function(quartic, torch.zeros(2))
    line = scan(problem, torch.tensor([1.0, 0.0]), x=AT, measures=("gradient norm",))

    torch.testing.assert_close(line.gradient_norms, (4 * AT**3 - 2 * AT).abs(), rtol=0, atol=1e-12)
    assert torch.isfinite(line.losses).all()  # always measured


def test_without_distances_a_normalized_direction_shows_one_length_to_both_sides():
    model = network(3, 4, 2).double()
    data = torch.randn(5, 3, dtype=torch.float64), torch.tensor([0, 1, 1, 0, 1])
    problem = Problem(model, data, nn.CrossEntropyLoss())
    direction = random_direction(problem)
    line = scan(problem, direction)

    assert len(line.x) == 51
    assert float((line.x / line.x_unit)[0]) == -1
    assert line.x_name == "random direction"
    assert abs(line.x_unit - direction.length) < 1e-12
    ends = [problem.parameters() + sign * direction.vector for sign in (-1, 1)]
    torch.testing.assert_close(line.losses[[0, -1]], problem.values(torch.stack(ends)))


@pytest.mark.parametrize("stiffness", [1e-2, 1.0, 1e4])
def test_without_distances_another_direction_is_shown_until_the_loss_has_changed(stiffness):
    problem = Problem.from_function(lambda x: 2 + stiffness * x[0] ** 2, torch.zeros(1))
    line = scan(problem, torch.ones(1))
    change = float(line.losses.max() - 2) / 2

    assert 0.5 <= change < 2  # half of the loss, met on a grid of quarters of a decade
    assert float(line.x[0]) == -float(line.x[-1])


def test_without_distances_a_flat_direction_ends_somewhere():
    line = scan(Problem.from_function(lambda x: 1 + 0 * x[0], torch.zeros(1)), torch.ones(1))

    assert float(line.x[-1]) == 10.0
    assert float(line.losses.max()) == 1.0


def test_a_direction_brings_its_name_and_a_given_name_goes_before_it():
    problem = Problem.from_function(quartic, torch.ones(2))
    down = negative_gradient(problem)

    assert scan(problem, down, x=AT).x_name == "negative gradient −g"
    assert scan(problem, down, x=AT, names=("downhill",)).x_name == "downhill"


def test_a_line_that_is_nowhere_finite_can_still_be_told():
    nothing = torch.full_like(AT, torch.nan)

    assert ("losses", "none finite") in Line(AT, nothing, "v").facts()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"y": AT}, "without a second"),
        ({"x": torch.zeros(0)}, "finite distances"),
        ({"x": torch.zeros(2, 2)}, "finite distances"),
        ({"x": torch.tensor([0.0, torch.inf])}, "finite distances"),
        ({"x": AT, "measures": ("hight",)}, "'hight'"),
        ({"x": AT, "names": ()}, "a name for each"),
    ],
)
def test_what_is_no_line_is_refused(more, message):
    with pytest.raises(BadData, match=message):
        scan(Problem.from_function(quartic, torch.ones(2)), torch.ones(2), **more)
