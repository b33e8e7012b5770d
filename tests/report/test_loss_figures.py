from dataclasses import replace

import pytest

from report.examples import diagnosis, evidence
from unstick.diagnosis.cause import Cause
from unstick.diagnosis.course import read_course
from unstick.diagnosis.diagnosing import Pace
from unstick.report.loss_figures import history_figure

FALLS_THEN_STANDS = [3.0 - 0.1 * k for k in range(20)] + [1.0] * 60
PACE = Pace(updates=40, loss_now=1.0, expected=0.6, worry_above=0.9)


def of(losses, **parts):
    """A diagnosis of a run with these losses."""
    return replace(diagnosis(), evidence=replace(evidence(), course=read_course(losses)), **parts)


def shades(figure):
    return [each for each in figure.layout.get("shapes", ()) if each["type"] == "rect"]


def trace(figure, name):
    (found,) = [each for each in figure.traces if each["name"] == name]
    return found


def test_a_point_stands_at_the_middle_of_the_updates_it_is_the_mean_of():
    """Of 250 losses 120 parts: the first ten of three updates, the others of two."""
    drawn = trace(history_figure(of([1.0 / (1 + k) for k in range(250)])), "mean loss")

    assert len(drawn["x"]) == 120
    assert drawn["x"][:3] == [2, 5, 8]
    assert drawn["x"][10:12] == [31.5, 33.5]
    assert drawn["x"][-1] == 249.5
    assert drawn["y"][0] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3, rel=1e-5)


def test_a_stall_is_shaded_from_where_the_loss_stands_and_said_in_words():
    told = of(FALLS_THEN_STANDS)
    figure = history_figure(told)

    stands = told.evidence.course.stands_from
    (shade,) = shades(figure)
    assert (shade["x0"], shade["x1"]) == (stands, 80)
    assert [words["text"] for words in figure.layout["annotations"]] == ["the loss stands"]
    assert f"from update {stands} on" in figure.title
    assert "Shaded" in figure.caption


def test_a_loss_that_never_fell_stands_from_the_first_update_on():
    figure = history_figure(of([2.3] * 50))

    assert figure.title == "The loss stands from the first update on"
    assert figure.layout["yaxis"]["rangemode"] == "tozero"  # a level line, not its rounding


@pytest.mark.parametrize("cause", [Cause.PROGRESSING, Cause.MODEL_FLOOR])
def test_nothing_is_shaded_where_nothing_is_wrong(cause):
    figure = history_figure(of(FALLS_THEN_STANDS, cause=cause))

    assert not shades(figure)
    assert "Shaded" not in figure.caption


def test_wild_first_losses_do_not_hide_where_the_loss_stands():
    told = of([1e9, 1.0, 1e6] + [1.0] * 300)

    (shade,) = shades(history_figure(told))
    assert shade["x0"] == told.evidence.course.stands_from == 4


def test_nothing_is_shaded_where_the_noise_of_spikes_hides_a_fall():
    told = of([2.0] * 20 + [10.0 if k % 20 == 0 else 0.1 for k in range(280)])

    assert told.evidence.course.stands_from == 1  # spikes make the noise larger than the fall
    figure = history_figure(told)
    assert not shades(figure)
    assert "stands" not in figure.title


def test_nothing_is_shaded_where_the_loss_falls_to_its_end():
    told = of([3.0 * 0.95**k for k in range(80)])  # over the last 13 updates it halves

    assert not shades(history_figure(told))


def test_a_loss_that_stopped_being_finite_ends_with_a_cross_and_does_not_stand():
    figure = history_figure(of([1.0, 2.0] * 10 + [float("inf")] * 3))

    assert trace(figure, "not finite")["x"] == [21]
    assert not shades(figure)
    assert "after update 20" in figure.title


def test_a_training_that_goes_on_shows_what_to_expect_and_when_to_worry():
    figure = history_figure(
        of([3.0 - 0.025 * k for k in range(80)], cause=Cause.PROGRESSING, pace=PACE)
    )

    expected, worry = trace(figure, "expected"), trace(figure, "worry above")
    assert (expected["x"], expected["y"]) == ([80, 120], [1.0, 0.6])
    assert (worry["x"], worry["y"]) == ([80, 120], [0.9, 0.9])
    assert "the next 40 updates" in figure.caption
    assert "0.6 is expected after 40 more updates" in figure.title


def test_without_losses_there_is_no_history():
    assert history_figure(of(None)) is None
    known = read_course([2.3] * 50)
    bare = replace(evidence(), course=replace(known, curve=()))  # as older files have it
    assert history_figure(replace(diagnosis(), evidence=bare)) is None
