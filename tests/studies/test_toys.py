"""Toy surfaces against closed forms, NumPy, and optimizers written out by hand."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from unstick.errors import BadData
from unstick.problem.problem import Problem
from unstick.studies.toys import TOYS, make_toy
from unstick.studies.toys.convexity import worst_chord
from unstick.studies.toys.measuring import Rival, kept_steps, race
from unstick.training.recipe import Recipe

MADE = {}


def made(name):
    """A toy, measured once for all tests of this file."""
    if name not in MADE:
        MADE[name] = make_toy(name)
    return MADE[name]


def path(toy, name, ground=0):
    (found,) = [path for path in toy.grounds[ground].paths if path.name == name]
    return found


def spot(toy, name):
    (found,) = [spot for ground in toy.grounds for spot in ground.spots if spot.name == name]
    return found


def check(toy, name):
    (found,) = [check for check in toy.checks if check.name == name]
    return found.measured


def bowl():
    return Problem.from_function(lambda x: (x**2).sum() / 2, torch.zeros(1, dtype=torch.float64))


def descent(name, rate):
    return Rival(name, Recipe(optimizer="gradient-descent", batch_size=None, lr=rate))


@pytest.mark.parametrize("name", TOYS)
def test_a_toy_tells_itself_and_every_measured_number_is_its_closed_form(name):
    toy = made(name)

    assert toy.outcome == "complete"
    assert toy.headline() == TOYS[name]
    assert len(toy.facts()) >= 5
    assert toy.cost.gradients > 0
    for one in toy.checks:
        if one.expected is not None:
            assert one.measured == pytest.approx(one.expected, rel=0.015, abs=1e-10), one.name


@pytest.mark.parametrize("name", ["two-weights", "saddle-and-minimum", "opened-minimum"])
def test_surfaces_are_the_function_at_every_grid_point(name):
    functions = {
        "two-weights": lambda x, y: (1 - x * y) ** 2,
        "saddle-and-minimum": lambda x, y: x**4 / 4 - x**3 / 6 - 3 * x**2 / 4 + y**4 / 4 - y**2 / 2,
        "opened-minimum": lambda x, y: (
            x**4 / 4 - x**2 / 2 + 105 / 512 * x + y**4 / 4 - y**2 / 2 + 0.3 * x * y**2
        ),
    }
    plane = made(name).grounds[0].plane

    x, y = np.meshgrid(plane.x.numpy(), plane.y.numpy())
    np.testing.assert_allclose(plane.losses.numpy(), functions[name](x, y), rtol=0, atol=1e-12)


def test_the_smallest_network_has_a_saddle_with_eigenvalues_plus_and_minus_two():
    saddle = spot(made("two-weights"), "(0, 0)")

    assert saddle.point.kind == "saddle"
    np.testing.assert_allclose(saddle.point.eigenvalues, [-2.0, 2.0], atol=1e-12)
    np.testing.assert_allclose(
        np.abs(saddle.axes.numpy()), np.full((2, 2), 1 / math.sqrt(2)), atol=1e-12
    )
    assert float(saddle.axes[0, 0] * saddle.axes[1, 0]) > 0  # down along (1, 1)


@pytest.mark.parametrize(
    ("name", "largest"), [("(1, 1)", 4.0), ("(2, 0.5)", 8.5), ("(−1, −1)", 4.0)]
)
def test_points_of_the_hyperbola_are_minima_flat_along_it(name, largest):
    found = spot(made("two-weights"), name)

    assert found.point.kind == "minimum"
    np.testing.assert_allclose(found.point.eigenvalues, [0.0, largest], atol=1e-12)
    along = (
        np.array([1.0, -1.0])
        * np.flip(found.at.numpy()) ** 0
        * np.array([1.0, float(found.at[1] / found.at[0])])
    )
    flat = found.axes[:, 0].numpy()
    assert abs(flat @ along) == pytest.approx(np.linalg.norm(along))  # the hyperbola's tangent


def test_the_hyperbola_holds_minima_and_nothing_else():
    pieces = [one for one in made("two-weights").grounds[0].paths if not one.moves]

    assert len(pieces) == 2
    for one in pieces:
        w = one.points.numpy()
        np.testing.assert_allclose(w[:, 0] * w[:, 1], 1.0, rtol=1e-14)
        assert float(one.losses.max()) < 1e-30


def test_descent_stays_on_the_saddle_and_leaves_from_beside_it():
    toy = made("two-weights")
    staying, leaving = path(toy, "descent from the saddle"), path(toy, "descent from beside it")

    assert not staying.points.any()
    assert staying.reached is None
    assert float(torch.linalg.vector_norm(leaving.points[0])) == pytest.approx(1e-3)
    assert leaving.reached is not None
    w = leaving.points[0].numpy().copy()
    for _ in range(leaving.reached):
        w -= 0.05 * -2 * (1 - w[0] * w[1]) * w[::-1]
    np.testing.assert_allclose(leaving.points[-1], w, rtol=1e-10)
    assert float(leaving.losses[-1]) <= 1e-6 < float(leaving.losses[-2])


def test_the_escape_goes_straight_along_the_negative_eigenvector():
    toy = made("two-weights")
    way = path(toy, "escape")

    np.testing.assert_allclose(way.points[:, 0], way.points[:, 1], atol=1e-12)
    s = way.points[:, 0].numpy()
    np.testing.assert_allclose(way.losses, (1 - s**2) ** 2, atol=1e-12)
    assert toy.escape.loss_after == pytest.approx(float(way.losses[-1]))
    assert toy.escape.loss_after < 0.2


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("the saddle", "saddle"),
        ("the minimum", "minimum"),
        ("the maximum", "maximum"),
        ("the slope", "not-critical"),
    ],
)
def test_a_model_has_value_slope_and_curvature_and_is_off_by_the_third_order(name, kind):
    toy = made("saddle-and-minimum")
    assert spot(toy, name).point.kind == kind
    (model,) = [model for model in toy.grounds[0].taylors if model.name == name]

    a, b = model.at.tolist()
    slope = [a * (a + 1) * (a - 1.5), b * (b**2 - 1)]
    curvature = np.diag([3 * a**2 - a - 1.5, 3 * b**2 - 1])
    np.testing.assert_allclose(model.gradient, slope, atol=1e-12)
    np.testing.assert_allclose(model.hessian, curvature, atol=1e-12)
    dx, dy = np.meshgrid(model.x.numpy() - a, model.y.numpy() - b)
    value = a**4 / 4 - a**3 / 6 - 3 * a**2 / 4 + b**4 / 4 - b**2 / 2
    expected = value + slope[0] * dx + slope[1] * dy
    expected += (curvature[0, 0] * dx**2 + curvature[1, 1] * dy**2) / 2
    np.testing.assert_allclose(model.losses, expected, atol=1e-12)
    angles = np.arange(72) * 2 * np.pi / 72
    r = float(model.distances[5])
    u, v = r * np.cos(angles), r * np.sin(angles)
    third = (6 * a - 1) / 6 * u**3 + b * v**3 + (u**4 + v**4) / 4  # all that a quartic has beyond
    assert float(model.errors[5]) == pytest.approx(np.abs(third).max(), rel=1e-6)
    assert model.order == pytest.approx(3, abs=0.05)


def test_each_optimizer_of_the_ravine_goes_where_the_formula_says():
    toy = made("ravine")
    scale = np.array([1.0, 100.0])
    for name in ("gradient descent", "momentum", "AdaGrad"):
        found = path(toy, name)
        theta, memory = found.points[0].numpy().copy(), np.zeros(2)
        for _ in range(int(found.steps[20])):
            g = scale * theta
            if name == "gradient descent":
                theta = theta - found.lr * g
            elif name == "momentum":
                memory = 0.9 * memory + g
                theta = theta - found.lr * memory
            else:
                memory = memory + g**2
                theta = theta - found.lr * g / (np.sqrt(memory) + 1e-10)
        np.testing.assert_allclose(found.points[20], theta, rtol=1e-9, atol=1e-12)


def test_a_path_has_arrived_only_when_it_stays_below_a_thousandth():
    toy = made("ravine")
    for ground in toy.grounds:
        for one in ground.paths:
            goal = 1e-3 * float(one.losses[0])
            late = one.steps >= one.reached
            assert bool((one.losses[late] <= goal).all()), one.name
            before = int((one.steps == one.reached - 1).nonzero())
            assert float(one.losses[before]) > goal, one.name
            assert int(one.steps[-1]) == one.reached + 40


def test_descent_and_momentum_do_not_feel_how_the_ravine_lies_and_adagrad_does():
    toy = made("ravine")

    for name in ("gradient descent", "momentum"):
        assert path(toy, name).reached == path(toy, name, 1).reached
    assert path(toy, "AdaGrad").reached < path(toy, "gradient descent").reached
    assert path(toy, "AdaGrad", 1).reached > 2 * path(toy, "AdaGrad").reached


def test_the_measured_rates_of_the_ravine_are_the_closed_forms():
    toy = made("ravine")

    assert check(toy, "gradient descent keeps, a step") == pytest.approx(99 / 101, abs=1e-8)
    measured = check(toy, "heavy ball keeps, a step")
    assert (
        9 / 11 < measured < 9 / 11 + 0.003
    )  # the double root adds a factor of about 2 in 300 steps


def test_scaling_the_features_turns_ellipses_into_circles_and_thousands_of_steps_into_few():
    toy = made("feature-scaling")
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(60, 3, generator=generator, dtype=torch.float64).numpy()
    X = drawn[:, :2] * [1.0, 100.0]
    X = X - X.mean(0)
    for ground, inputs in zip(toy.grounds, (X, X / X.std(0)), strict=True):
        expected = np.linalg.eigvalsh(2 / 60 * inputs.T @ inputs)
        np.testing.assert_allclose(ground.spots[0].point.eigenvalues, expected, rtol=1e-9)
        assert ground.spots[0].point.kind == "minimum"
    assert check(toy, "condition number, raw features") > 5000
    assert check(toy, "condition number, standardized features") < 1.5
    assert path(toy, "gradient descent").reached > 1000
    assert path(toy, "gradient descent", 1).reached < 10


def test_both_descents_on_features_begin_with_one_predictor():
    raw, standard = (ground.paths[0] for ground in made("feature-scaling").grounds)

    assert float(raw.losses[0]) == pytest.approx(float(standard.losses[0]), rel=1e-10)


def test_the_raw_descent_flies_from_wall_to_wall_and_the_standardized_one_does_not():
    toy = made("feature-scaling")
    for at, crossings in ((0, 20), (1, 0)):
        ground = toy.grounds[at]
        across = (path(toy, "gradient descent", at).points[:21, 1] - ground.spots[0].at[1]).sign()
        assert int((across[1:] != across[:-1]).sum()) == crossings


def test_what_is_a_minimum_along_x_is_a_saddle_with_y_and_the_way_out_is_y():
    toy = made("opened-minimum")
    kinds = {one.name: one.point.kind for one in toy.cuts[0].spots}
    here = spot(toy, "the same point")

    assert kinds == {"upper minimum": "minimum", "barrier": "maximum", "lower minimum": "minimum"}
    places = sorted(float(one.at) for one in toy.cuts[0].spots)
    np.testing.assert_allclose(places, np.sort(np.roots([1, 0, -1, 105 / 512]).real), atol=1e-12)
    assert here.point.kind == "saddle"
    assert here.at.tolist() == [0.875, 0.0]
    np.testing.assert_allclose(np.abs(here.axes.numpy()), [[0, 1], [1, 0]], atol=1e-9)
    np.testing.assert_allclose(toy.escape.direction.abs(), [0, 1], atol=1e-9)


def test_past_the_wall_a_lower_minimum_is_reached_that_descent_along_x_misses():
    toy = made("opened-minimum")
    stuck, free = path(toy, "descent with y held at 0"), path(toy, "descent from there")

    assert float(stuck.points[-1, 0]) == pytest.approx(0.875, abs=1e-3)
    assert not stuck.points[:, 1].any()
    assert spot(toy, "where it ends").point.kind == "minimum"
    lowest = min(one.point.loss for one in toy.cuts[0].spots)
    assert float(free.losses[-1]) < lowest - 0.5
    begins = [int(one.steps[0]) for one in toy.grounds[0].paths]
    assert begins == [0, 40, 64]  # one after the other


def test_the_bowl_lies_under_every_chord_and_the_wells_exceed_one_by_a_quarter():
    convex, wells = made("convex-and-nonconvex").cuts

    assert convex.chords[0].violation == 0.0
    assert wells.chords[0].violation == pytest.approx(0.25, abs=1e-12)
    assert wells.chords[0].ends.tolist() == pytest.approx([-1, 1], abs=1e-12)


def test_the_worst_chord_is_the_one_that_trying_all_finds():
    x = torch.linspace(-1, 2, 15, dtype=torch.float64)
    losses = torch.sin(3 * x)
    expected = max(
        losses[c] - (losses[a] * (b - c) + losses[b] * (c - a)) / (b - a)
        for a in range(15)
        for b in range(a + 2, 15)
        for c in range(a + 1, b)
    )

    assert worst_chord(x, losses)[0] == pytest.approx(float(expected))


def test_a_nearly_straight_convex_curve_breaks_no_chord_and_its_mirror_image_breaks_one():
    x = torch.linspace(-1, 1, 21, dtype=torch.float64)

    assert worst_chord(x, 1e-6 * x**2)[0] < 0
    assert worst_chord(x, -1e-6 * x**2)[0] == pytest.approx(1e-6)


def test_of_rivals_of_one_name_the_first_to_arrive_wins_and_names_what_else_was_tried():
    start = torch.ones(1, dtype=torch.float64)
    rivals = [descent("a", rate) for rate in (0.1, 0.5, 1.9)]

    (won,) = race(bowl(), start, rivals, goal=1e-4, most=200)
    assert (won.lr, won.tried) == (0.5, (0.1, 0.5, 1.9))
    assert won.reached == math.ceil(math.log(2e-4) / math.log(0.25))  # the loss is ½·¼ᵗ


def test_a_diverging_rival_loses_even_to_one_that_hardly_moves():
    start = torch.ones(1, dtype=torch.float64)

    (won,) = race(bowl(), start, [descent("a", 3.0), descent("a", 1e-6)], goal=0.1, most=2000)
    assert won.lr == 1e-6
    assert won.reached is None


def test_a_path_that_only_flies_past_the_goal_has_not_arrived():
    start = torch.tensor([1.0], dtype=torch.float64)
    swinging = Rival("ball", Recipe(optimizer="heavy-ball", lr=0.05, momentum=0.99))

    (past,) = race(bowl(), start, [swinging], goal=0.01, most=60)
    (kept,) = race(bowl(), start, [swinging], goal=0.01, stays=10, most=60)
    assert past.reached is not None
    assert kept.reached is None


@pytest.mark.parametrize("last", [0, 1, 200, 201, 5000])
def test_kept_steps_begin_with_all_and_end_with_the_last(last):
    steps = kept_steps(last)

    assert steps[: min(last, 200) + 1] == list(range(min(last, 200) + 1))
    assert steps[-1] == last
    assert steps == sorted(set(steps))
    assert all(b - a <= 2 + 0.04 * a for a, b in pairwise(steps))


def test_equal_seeds_give_equal_toys_and_others_other_data():
    first, again, other = (
        make_toy("two-weights", seed=seed).grounds[0].paths[-1].points[0] for seed in (0, 0, 1)
    )

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_random_state_of_the_process_is_left_alone():
    before = torch.get_rng_state()
    make_toy("two-weights", seed=3)

    assert torch.equal(torch.get_rng_state(), before)


def test_an_interruption_returns_what_was_measured():
    def stop(stage, done, total):
        if stage == "paths" and done == 10:
            raise KeyboardInterrupt

    toy = make_toy("two-weights", progress=stop)
    assert toy.outcome == "interrupted"
    assert "interrupted" in toy.headline()
    assert len(toy.grounds[0].spots) == 4
    assert toy.checks == ()
    assert toy.facts()


def test_an_unknown_toy_is_refused_with_the_known_ones():
    with pytest.raises(BadData, match="no toy 'bowl'; expected one of two-weights, "):
        make_toy("bowl")
