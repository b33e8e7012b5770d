"""What is read off the losses of a run: planted trends are found, and noise is not taken for one."""

import math

import numpy as np
import pytest
from scipy import stats

from unstick.diagnosis.course import BLOCKS, read_course
from unstick.trace import RunTrace

NAN, INF = math.nan, math.inf


def noise(updates, *, seed, size=1.0):
    return size * np.random.default_rng(seed).standard_normal(updates)


@pytest.mark.parametrize("updates", [40, 400, 4000])
@pytest.mark.parametrize("seed", range(5))
def test_a_fall_of_five_standard_errors_and_more_is_seen_and_measured(updates, seed):
    half = updates // 2
    fall = 20 * math.sqrt(12 / half)  # of the least-squares line, in units of the noise: σ·√(12/n)
    losses = 10 - 2 * fall * np.arange(updates) / updates + noise(updates, seed=seed)
    course = read_course(losses)

    assert course.falling
    assert abs(course.trend + fall) < 0.35 * fall  # blocks' centers lie a twelfth less far apart
    assert abs(course.scatter - 1) < 4 / math.sqrt(2 * half)


@pytest.mark.parametrize("seed", range(5))
def test_a_rise_is_a_trend_but_no_fall(seed):
    course = read_course(np.arange(200.0) / 20 + noise(200, seed=seed))

    assert course.trend > 3 * course.trend_error
    assert not course.falling


@pytest.mark.calibration
def test_flat_noise_falls_as_rarely_as_students_distribution_has_it():
    runs = 1000
    alarms = sum(read_course(2 + noise(400, seed=seed)).falling for seed in range(runs))

    expected = stats.t.cdf(-3, BLOCKS - 2)
    assert expected < 0.01
    assert abs(alarms / runs - expected) < 4 * math.sqrt(expected / runs)


@pytest.mark.calibration
def test_the_standard_error_is_that_of_the_trend():
    courses = [read_course(noise(240, seed=seed)) for seed in range(400)]

    spread = np.std([course.trend for course in courses])
    assert abs(np.sqrt(np.mean([c.trend_error**2 for c in courses])) / spread - 1) < 0.15


def test_the_line_is_the_least_squares_line_through_the_blocks():
    losses = noise(BLOCKS * 2 * 7, seed=3)
    blocks = losses[len(losses) // 2 :].reshape(BLOCKS, 7).mean(1)
    fit = stats.linregress(np.arange(BLOCKS), blocks)
    course = read_course(losses)

    assert course.trend == pytest.approx(fit.slope * (BLOCKS - 1))
    assert course.trend_error == pytest.approx(fit.stderr * (BLOCKS - 1))
    assert course.last == pytest.approx(blocks[-1])


def test_a_run_that_fell_and_then_stood_still_is_not_falling():
    losses = 1 + np.exp(-np.arange(600) / 20) + noise(600, seed=0, size=0.05)
    course = read_course(losses)

    assert course.first > 1.8
    assert not course.falling
    assert abs(course.last - 1) < 0.05


def test_the_ends_are_of_single_losses_and_of_blocks():
    losses = [5.0, *[2.0] * 239]
    losses[100] = 50.0
    course = read_course(losses)

    assert (course.first, course.highest) == (5.0, 50.0)
    assert course.last == course.lowest == 2.0
    assert course.updates == course.finite == 240


@pytest.mark.parametrize(
    ("losses", "low", "high"),
    [
        ([1.0, 2.0] * 100, 0.999, 1.0),  # to and fro at every update
        (noise(4000, seed=1), 0.62, 0.71),  # ⅔: the middle of three is an end as often as not
        (noise(4000, seed=1).cumsum(), 0.45, 0.55),  # a walk
        (np.linspace(2, 1, 200), 0.0, 0.0),
    ],
)
def test_swings_tell_to_and_fro_from_noise_and_from_a_smooth_run(losses, low, high):
    assert low <= read_course(losses).swings <= high


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("finite", [0, 1, 2, 7, 50])
def test_a_blow_up_ends_the_losses_that_are_read(bad, finite):
    course = read_course([*[3.0] * finite, bad, *[0.0] * 60])

    assert course.blew_up
    assert (course.updates, course.finite) == (finite + 61, finite)
    assert not course.falling
    if finite:
        assert course.first == course.highest == course.last == 3.0


@pytest.mark.parametrize("losses", [[NAN], [1.0, NAN], [1.0, 9.0, INF, 2.0]])
def test_a_blow_up_shows_even_in_a_run_too_short_for_a_trend(losses):
    course = read_course(losses)

    assert course.blew_up
    assert not course.falling
    assert math.isinf(course.trend_error)


@pytest.mark.parametrize("losses", [None, [], [1.0], [3.0, 2.0, 1.0], list(range(7))])
def test_too_few_losses_say_nothing(losses):
    assert read_course(losses) is None


def test_eight_losses_are_enough():
    course = read_course([8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0])

    assert course.falling
    assert course.trend == pytest.approx(-3.0)


@pytest.mark.parametrize("value", [0.0, 1.0, 2.5, 1e300])
def test_a_loss_that_never_changes_has_no_trend(value):
    course = read_course([value] * 500)

    assert not course.falling
    assert course.trend == pytest.approx(0, abs=1e-12 * value)
    assert course.swings == 0


def test_lists_arrays_and_traces_read_alike():
    losses = 1 + noise(100, seed=5)

    assert read_course(losses) == read_course(list(losses))
    assert read_course(losses) == read_course(RunTrace.of_losses(losses))


def decay(updates, *, seed, knee=0.25, size=0.2):
    """From 3 down to 1 in a line over the first part, then flat, under noise."""
    at = np.arange(updates) / updates
    return 1 + 2 * (1 - at / knee).clip(0) + noise(updates, seed=seed, size=size)


@pytest.mark.parametrize("updates", [400, 4000])
@pytest.mark.parametrize("seed", range(4))
def test_a_loss_stands_from_where_its_fall_ends(updates, seed):
    """The noise of the second half is what may hide the end of the fall."""
    at = read_course(decay(updates, seed=seed)).stands_from

    assert 0.2 * updates < at < 0.36 * updates


@pytest.mark.parametrize("wild", [[1e9, 1.0, 1e6], [1e9] * 3, [4.0] * 60])
def test_wild_first_losses_are_no_noise_of_what_follows(wild):
    course = read_course([*wild, *[1.0] * 300])

    assert len(wild) <= course.stands_from - 1 <= len(wild) + 3
    assert course.scatter == 0


@pytest.mark.parametrize("seed", range(5))
def test_flat_noise_stands_from_its_first_tenth_on(seed):
    assert read_course(1 + noise(400, seed=seed)).stands_from <= 40


def test_a_loss_that_never_changes_stands_from_the_first_update_on():
    assert read_course([2.0] * 50).stands_from == 1


def test_a_twentieth_is_no_fall_and_more_than_that_is_one():
    slight, more = ([1 + fall] * 50 + [1.0] * 350 for fall in (0.04, 0.08))

    assert read_course(slight).stands_from == 1
    assert 48 <= read_course(more).stands_from <= 54


@pytest.mark.parametrize("ratio", [0.1, 1 / 30, 1e-6])
@pytest.mark.parametrize("updates", [80, 2000])
def test_what_falls_to_its_end_stands_in_its_last_fifth_at_most(ratio, updates):
    at = read_course(3.0 * ratio ** (np.arange(updates) / updates)).stands_from

    assert at is None or at > 0.8 * updates


def test_the_curve_is_the_means_of_equal_parts():
    losses = noise(360, seed=2)
    course = read_course(losses)

    assert course.curve == pytest.approx(losses.reshape(120, 3).mean(1))
    assert read_course(losses[:50]).curve == pytest.approx(losses[:50])


def test_a_run_that_blew_up_keeps_the_curve_of_what_was_finite():
    course = read_course([1.0, 2.0, 3.0, NAN])

    assert course.curve == (1.0, 2.0, 3.0)
    assert course.stands_from is None
