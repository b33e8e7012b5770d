"""A plane shows the loss where it says, and leaves the model alone."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from cases import network, toy
from unstick.errors import BadData, BadModel
from unstick.landscape.directions import axes, random_direction
from unstick.landscape.plane import Plane, scan
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


def blobs():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(60, 4, generator=generator, dtype=torch.float64)
    return inputs, (inputs[:, 0] * inputs[:, 1] > 0).long() + (inputs[:, 2] > 1).long()


def classifier(activation=nn.Tanh):
    return Problem(network(4, 6, 3, activation=activation).double(), blobs(), nn.CrossEntropyLoss())


def test_the_eigenplane_curves_at_its_center_as_the_eigenvalues_say():
    problem = classifier()
    theta, step = problem.parameters(), 1e-3
    at = step * torch.arange(-1, 2)

    found = scan(problem, *axes(problem, "eigenvectors"), x=at, y=at)

    def loss(flat):
        named = problem.layout.named(flat)
        return nn.functional.cross_entropy(
            torch.func.functional_call(problem.model, named, blobs()[0]), blobs()[1]
        )

    dense = torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, theta))
    center = found.losses[1, 1]
    across = (found.losses[1, 0] + found.losses[1, 2] - 2 * center) / step**2
    upward = (found.losses[0, 1] + found.losses[2, 1] - 2 * center) / step**2
    for measured, said, exact in zip((across, upward), found.curvatures, dense[[0, -1]], strict=True):  # fmt: skip
        assert abs(float(measured / said) - 1) < 0.01
        assert abs(said / float(exact) - 1) < 0.01
    assert found.curvatures[0] < 0 < found.curvatures[1]
    assert found.perpendicular
    assert abs(found.cosine) < 1e-6
    assert (found.x_unit, found.y_unit) == pytest.approx((1, 1), abs=1e-12)


def rescaled(problem, alpha):
    """The same function: the first layer times α, the second over α."""
    model = deepcopy(problem.model)
    with torch.no_grad():
        model[0].weight.mul_(alpha)
        model[0].bias.mul_(alpha)
        model[2].weight.div_(alpha)
    return Problem(model, blobs(), nn.CrossEntropyLoss())


@pytest.mark.parametrize("alpha", [0.1, 7.0])
def test_scaling_one_layer_up_and_the_next_down_leaves_the_filter_normalized_plane(alpha):
    one = classifier(nn.ReLU)
    other, coarse = rescaled(one, alpha), torch.linspace(-1, 1, 7, dtype=torch.float64)
    planes = []
    for problem in (one, other):
        pair = axes(problem, "random", seed=3)
        x, y = (coarse * direction.length for direction in pair)
        planes.append(scan(problem, *pair, x=x, y=y))

    torch.testing.assert_close(planes[0].losses, planes[1].losses, rtol=0, atol=1e-9)
    relative = [plane.x / plane.x_unit for plane in planes]
    torch.testing.assert_close(*relative, rtol=0, atol=1e-12)
    assert not planes[0].perpendicular
    assert abs(planes[0].x_unit / planes[1].x_unit - 1) > 0.1

    plain = [
        scan(
            problem,
            *(random_direction(problem, seed=seed, normalize="none") for seed in (3, 4)),
            x=coarse,
            y=coarse,
        )
        for problem in (one, other)
    ]
    assert float((plain[0].losses - plain[1].losses).abs().max()) > 1e-3


def test_oblique_axes_meet_at_the_cosine_and_perpendicular_ones_do_not():
    problem = Problem.from_function(toy, torch.tensor([0.5, -0.25]))
    first, second = torch.tensor([1.0, 0.0]), torch.tensor([3.0, 4.0])
    oblique = scan(problem, first, second, x=AT, y=AT, perpendicular=False)

    for i, y in enumerate(AT):
        for j, x in enumerate(AT):
            there = problem.parameters() + x * torch.tensor([1.0, 0.0]) + y * torch.tensor([0.6, 0.8])  # fmt: skip
            assert abs(float(oblique.losses[i, j]) - float(toy(there))) < 1e-6
    assert (oblique.perpendicular, oblique.y_unit) == (False, 5.0)
    assert "left so" in str(oblique)


def test_a_curvature_is_not_told_of_an_axis_that_was_turned():
    problem = Problem.from_function(toy, torch.tensor([0.7, -0.4]))
    down, lowest = axes(problem, "gradient")

    assert scan(problem, down, lowest, x=AT, y=AT).curvatures is None
    assert scan(problem, lowest, x=AT).curvature == lowest.curvature


def by_hand(problem, plane, d1, d2, right):
    """Accuracy at every point by running a copy of the model."""
    copy = deepcopy(problem.model)
    found = torch.zeros_like(plane.losses)
    for i, y in enumerate(plane.y):
        for j, x in enumerate(plane.x):
            nn.utils.vector_to_parameters(
                problem.parameters() + x * d1 / d1.norm() + y * d2 / d2.norm(), copy.parameters()
            )
            found[i, j] = right(copy(blobs()[0])).double().mean()
    return found


BINARY = (blobs()[1] > 0).double()


@pytest.mark.parametrize(
    ("widths", "loss", "targets", "right"),
    [
        ((4, 6, 3), nn.CrossEntropyLoss(), blobs()[1], lambda out: out.argmax(1) == blobs()[1]),
        (
            (4, 6, 1),
            lambda out, t: nn.functional.soft_margin_loss(out[:, 0], t),
            2 * BINARY - 1,
            lambda out: (out[:, 0] > 0) == (BINARY == 1),
        ),
        ((4, 6, 1), nn.BCEWithLogitsLoss(), BINARY[:, None], lambda out: (out[:, 0] > 0) == (BINARY == 1)),
        ((4, 6, 1), nn.MSELoss(), BINARY[:, None], lambda out: (out[:, 0] > 0.5) == (BINARY == 1)),
    ],
    ids=["classes", "sign", "logit", "middle"],
)  # fmt: skip
def test_accuracy_is_the_share_of_targets_met_at_each_point(widths, loss, targets, right):
    problem = Problem(network(*widths).double(), (blobs()[0], targets), loss)
    first, second = torch.randn(2, problem.n, generator=torch.Generator().manual_seed(1)).double()
    shown = scan(
        problem, first, second, x=3 * AT, y=AT, measures=("accuracy",), perpendicular=False
    )

    expected = by_hand(problem, shown, first, second, right)
    torch.testing.assert_close(shown.accuracies, expected, rtol=0, atol=1e-12)
    assert len(expected.unique()) > 3


def test_an_ignored_target_does_not_count():
    targets = blobs()[1].clone()
    targets[::2] = -100
    problem = Problem(network(4, 6, 3).double(), (blobs()[0], targets), nn.CrossEntropyLoss())
    at = torch.zeros(1)
    line = scan(problem, torch.ones(problem.n), x=at, measures=("accuracy",))

    met = problem.model(blobs()[0]).argmax(1) == blobs()[1]
    assert float(line.accuracies[0]) == float(met[1::2].double().mean())


@pytest.mark.parametrize(
    "problem",
    [
        Problem.from_function(toy, torch.ones(2)),
        Problem(network(4, 3).double(), (blobs()[0], blobs()[0][:, :3]), nn.MSELoss()),
        Problem(network(4, 1).double(), (blobs()[0], blobs()[0][:, :1]), nn.MSELoss()),
        Problem(
            network(4, 1).double(), (blobs()[0], BINARY[:, None]), lambda out, t: (out - t).abs().mean()
        ),
    ],
    ids=["function", "vectors", "numbers", "unknown loss"],
)  # fmt: skip
def test_accuracy_without_classes_is_refused_in_one_line(problem):
    with pytest.raises(BadModel, match="leave 'accuracy' out of") as refusal:
        scan(problem, torch.ones(problem.n), x=AT, measures=("loss", "accuracy"))
    assert "\n" not in str(refusal.value)


def test_the_model_is_left_bit_for_bit_whatever_is_measured():
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 3))
    model[0].weight.grad = torch.ones_like(model[0].weight)
    problem = Problem(model.train(), blobs(), nn.CrossEntropyLoss())
    before, state = deepcopy(model.state_dict()), torch.get_rng_state()

    pair = axes(problem, "random")
    shown = scan(problem, *pair, x=AT, y=AT, measures=("loss", "accuracy", "gradient norm"))

    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.training
    assert bool((model[0].weight.grad == 1).all())
    assert not model._forward_hooks
    assert torch.equal(torch.get_rng_state(), state)
    assert shown.gradient_norms.shape == shown.accuracies.shape == (5, 5)
    assert "running statistics" in shown.notes[0]


def test_a_plane_that_is_nowhere_finite_can_still_be_told():
    empty = Plane(AT, AT, torch.full((5, 5), torch.nan), "v", "u", 0.0)

    assert ("losses", "none finite") in empty.facts()
    assert ("not finite", "25 points") in empty.facts()
