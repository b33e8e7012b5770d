from math import inf, isfinite, nan

import pytest

from unstick.studies.frame import Series
from unstick.studies.frame.sketching import sketch

MEASURED = Series("loss", (1.0, 10.0, 100.0), (0.25, nan, 4.0))


def test_parts_of_linear_axes_lie_between_the_least_and_the_most_measured():
    (line,) = sketch("falls", [MEASURED], [(0, 1), (0.5, 0.5), (1, 0)])

    assert line.x == pytest.approx((1, 50.5, 100))
    assert line.y == pytest.approx((4, 2.125, 0.25))


def test_parts_of_logarithmic_axes_are_of_their_powers():
    (line,) = sketch("falls", [MEASURED], [(0, 1), (0.5, 0.5), (1, 0)], log_x=True, log_y=True)

    assert line.x == pytest.approx((1, 10, 100))
    assert line.y == pytest.approx((4, 1, 0.25))


def test_a_sketch_spans_all_series_and_says_which_one_it_is_about():
    other = Series("other", (0.5,), (8.0,))

    (line,) = sketch("rises", [MEASURED, other], [(0, 0), (1, 1)], group="other", kind="points")

    assert (line.x, line.y) == ((0.5, 100.0), (0.25, 8.0))
    assert (line.name, line.group, line.kind) == ("rises", "other", "points")


def test_words_stay_where_they_are():
    bars = Series("time", ("slow", "fast"), (3.0, 1.0), kind="bars")

    (found,) = sketch("as claimed", [bars], [("fast", 0.5), ("slow", 1)])

    assert (found.x, found.y) == (("fast", "slow"), (2.0, 3.0))


def test_where_a_height_is_not_known_its_place_counts_neither():
    measured = Series("loss", (1.0, 2.0, 1000.0), (4.0, 2.0, inf))

    (line,) = sketch("falls", [measured], [(1, 0)])

    assert line.x == (2.0,)


@pytest.mark.parametrize("y", [(), (nan,), (inf,), (-1.0,)])
def test_without_a_measured_height_there_is_no_sketch(y):
    measured = Series("loss", (1.0,) * len(y), y)

    assert sketch("falls", [measured], [(0, 1)], log_y=True) == ()
    assert sketch("falls", [], [(0, 1)]) == ()


def test_of_a_single_value_every_part_is_that_value():
    (line,) = sketch("flat", [Series("loss", (2.0,), (3.0,))], [(0, 0), (1, 1)], log_y=True)

    assert line.x == (2.0, 2.0)
    assert line.y == pytest.approx((3.0, 3.0))
    assert all(map(isfinite, line.y))
