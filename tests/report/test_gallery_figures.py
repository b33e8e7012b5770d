import math
from dataclasses import replace

import pytest

from report.examples import gallery
from unstick.diagnosis.cause import Cause
from unstick.report.gallery_figures import (
    alarms_table,
    confusion_figure,
    unsticking_table,
    wrong_table,
)
from unstick.report.page import to_html
from unstick.report.story import Tone, story_of
from unstick.studies.gallery.measuring import Case, GalleryResult
from unstick.studies.gallery.unsticking import Unsticking


def cell(told, was, found):
    (heat,) = confusion_figure(told).traces
    at = heat["y"].index(was), heat["x"].index(found)
    return heat["text"][at[0]][at[1]], heat["z"][at[0]][at[1]]


def test_each_cell_counts_what_was_taken_for_what():
    told = gallery()

    assert cell(told, "learning-rate-too-small", "learning-rate-too-small") == (
        "1",
        0.25 + 0.75 / 2,
    )
    assert cell(told, "learning-rate-too-small", "strict-saddle") == ("1", -0.25 - 0.75 / 2)
    assert cell(told, "strict-saddle", "strict-saddle") == ("1", 1.0)
    assert cell(told, "strict-saddle", "undecided") == ("", None)


def test_healthy_trainings_have_a_row_and_either_healthy_cause_is_right():
    assert cell(gallery(), "healthy", "model-floor") == ("1", pytest.approx(0.25 + 0.75 / 3))
    assert cell(gallery(), "healthy", "learning-rate-too-small") == (
        "1",
        pytest.approx(-0.25 - 0.75 / 3),
    )
    assert confusion_figure(gallery()).traces[0]["y"][0] == "healthy"


def test_the_cells_add_up_to_the_trainings():
    (heat,) = confusion_figure(gallery()).traces

    assert sum(int(text) for row in heat["text"] for text in row if text) == 6


def test_another_right_answer_is_no_mistake():
    stall = Case(
        "both", 0, "stalled", (Cause.DEAD_UNITS, Cause.NON_FINITE), (Cause.NON_FINITE,), 1.0
    )
    told = GalleryResult((stall,), (), (), "complete", 1.0)

    assert cell(told, "dead-units", "non-finite") == ("1", 1.0)
    assert wrong_table(told) is None


def test_wrong_stalls_and_alarms_are_listed_and_nothing_else_is():
    assert wrong_table(gallery()).rows == (
        ("tiny-rate", "1", "learning-rate-too-small", "strict-saddle", "learning-rate-too-small"),
    )
    assert [row[2:5] for row in alarms_table(gallery()).rows] == [
        ("early", "learning-rate-too-small", "false alarm"),
        ("late", "undecided", "left open"),
    ]


def test_where_all_is_right_there_is_no_table_of_mistakes():
    told = gallery()
    told = GalleryResult(told.stalls[:1], told.healthy[:1], (), "complete", 1.0)

    page = to_html(told)

    assert "Where it was wrong" not in page
    assert "Healthy trainings that" not in page
    assert confusion_figure(told) is not None


def test_a_case_without_a_cause_is_nothing_found():
    stall = Case("open", 0, "stalled", (Cause.DEAD_UNITS,), (), 1.0)

    assert cell(GalleryResult((stall,), (), (), "complete", 1.0), "dead-units", "nothing")[1] == -1


def test_what_the_best_remedy_came_to_is_listed_those_still_stuck_first():
    reached = Unsticking("rate × 10", 2.0, 0.1, 0.3, math.inf, 1.9, 200.0, 500.0, 5)
    missed = replace(reached, remedied=1.0, remedy="")
    cases = [
        Case("one", 0, "stalled", (Cause.DEAD_UNITS,), (Cause.DEAD_UNITS,), 1.0, each)
        for each in (reached, missed, None)
    ]
    told = GalleryResult(tuple(cases), (), (), "complete", 1.0)

    assert [row[2:] for row in unsticking_table(told).rows] == [
        ("none helped", "no", "2", "1", "0.1", "–", "1.9"),
        ("rate × 10", "yes", "2", "0.3", "0.1", "–", "1.9"),
    ]
    assert "brought 1 of 2 stalls" in to_html(told)
    assert unsticking_table(gallery()) is None
    assert "best remedy came to" not in to_html(gallery())


def test_an_interrupted_gallery_is_said_to_be_incomplete_and_draws_nothing_without_cases():
    told = GalleryResult((), (), (), "interrupted", 0.1)

    assert confusion_figure(told) is None
    assert (story_of(told).badge, story_of(told).tone) == ("interrupted", Tone.OPEN)
    assert "the gallery: not complete (interrupted)" in to_html(told)


def test_the_cards_give_shares_with_their_intervals():
    right, near, alarms, _ = story_of(gallery()).cards

    assert (right.value, near.value, alarms.value) == ("2 of 3", "3 of 3", "1 of 3")
    assert right.detail == "21% to 94% with 95\u00a0% confidence"  # Wilson's interval of 2 in 3
