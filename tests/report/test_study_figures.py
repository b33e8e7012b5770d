"""Pictures of studies: one pair of axes for what was measured and for the claim, one color for one thing."""

from dataclasses import replace
from math import inf, nan

import pytest

from report.landscape_examples import overview, study
from unstick.report.study_figures import (
    batches_table,
    overview_table,
    study_figures,
    verdicts_figure,
)
from unstick.studies.frame import Picture, Series, Verdict

X = (1.0, 10.0, 100.0)
WORDS = ("a method with a long name", "another method", "a third one")


def picture(*series, claimed=(), **how):
    return Picture("p", "A picture", "Means.", "batch size", "loss", series, claimed, **how)


def figures(drawn):
    return study_figures(replace(study(), pictures=(drawn,)))


def traces(figure):
    """Without the bands."""
    return [trace for trace in figure.traces if trace.get("fill") != "toself"]


def line(name="a", y=(4.0, 2.0, 1.0), **how):
    return Series(name, X, y, **how)


@pytest.mark.parametrize("log", [False, True])
def test_the_sketch_has_the_axes_of_what_was_measured_and_both_hold_all_of_both(log):
    claim = Series("claim", (1.0, 1000.0), (0.5, 40.0))
    measured, sketched = figures(picture(line(), claimed=(claim,), log_x=log, log_y=log))

    assert measured.layout["xaxis"] == sketched.layout["xaxis"]
    assert measured.layout["yaxis"] == sketched.layout["yaxis"]
    low, high = measured.layout["yaxis"]["range"]
    assert (10**low if log else low) < 0.5 < 40 < (10**high if log else high)
    low, high = measured.layout["xaxis"]["range"]
    assert (10**low if log else low) < 1 < 1000 < (10**high if log else high)


def test_one_group_has_one_color_in_both_and_marks_tell_its_series_apart():
    series = (
        line("critical, with", group="critical", kind="points"),
        line("critical, without", group="critical", variant=1, kind="points"),
        line("neither", kind="points"),
    )
    claim = Series("rarer", (1.0, 100.0), (2.0, 1.0), group="critical")

    measured, sketched = figures(picture(*series, claimed=(claim,)))
    marks = [trace["marker"] for trace in measured.traces]

    assert marks[0]["color"] == marks[1]["color"] != marks[2]["color"]
    assert marks[0]["symbol"] == marks[2]["symbol"] != marks[1]["symbol"]
    assert sketched.traces[0]["line"]["color"] == marks[0]["color"]


def test_what_only_the_sketch_has_takes_no_color_of_what_was_measured():
    measured, sketched = figures(picture(line("a"), line("b"), claimed=(line("c"), line("d"))))
    colors = [trace["line"]["color"] for figure in (measured, sketched) for trace in figure.traces]

    assert len(set(colors)) == 4
    assert sketched.traces[0]["line"]["dash"] == "dash"
    assert "hovertemplate" not in sketched.traces[0]
    assert sketched.layout["showlegend"]


@pytest.mark.parametrize(("points", "banded"), [(3, False), (40, True)])
def test_intervals_are_bars_on_few_points_and_a_band_on_many(points, banded):
    x, y = tuple(float(k) for k in range(points)), (1.0,) * points
    low, high = (0.5,) * points, (2.0,) * (points - 1) + (nan,)

    (figure,) = figures(picture(Series("a", x, y, low, high)))
    bands = [trace for trace in figure.traces if trace.get("fill") == "toself"]

    assert len(bands) == banded
    assert ("error_y" in traces(figure)[0]) is not banded
    if banded:
        assert [v for v in bands[0]["y"] if v] == [2.0] * (points - 1) + [0.5] * (points - 1)
    else:
        assert traces(figure)[0]["error_y"]["array"] == [1.0] * (points - 1) + [None]


def test_a_bar_of_a_value_that_leaves_a_logarithmic_axis_is_left_out():
    values = Series("a", X, (4.0, 0.0, 1.0), (0.0, 0.0, 0.5), (5.0, 1.0, 2.0))

    (figure,) = figures(picture(values, log_y=True))

    assert figure.traces[0]["y"] == [4.0, None, 1.0]
    assert figure.traces[0]["error_y"]["arrayminus"] == [None, None, 0.5]
    assert "Values of 0 or less" in figure.caption


def test_values_above_the_top_are_counted_and_not_drawn():
    (figure,) = figures(picture(line(y=(1e25, 2.0, inf)), top=10.0))

    assert figure.traces[0]["y"] == [2.0]
    assert "2 values above 10" in figure.caption
    assert figure.layout["yaxis"]["range"][1] < 11


def test_values_that_are_not_finite_are_counted():
    (figure,) = figures(picture(line(y=(nan, 2.0, 1.0))))

    assert "1 value that is not finite" in figure.caption


@pytest.mark.parametrize("kind", ["points", "bars"])
def test_long_words_stand_one_below_the_other_with_their_values_beside_them(kind):
    one = Series("a", WORDS, (1.0, 2.0, 3.0), (0.5, 1.5, 2.5), (1.5, 2.5, 3.5), kind)

    (figure,) = figures(picture(one))
    (trace,) = figure.traces

    assert (trace["y"], trace["x"]) == (list(WORDS), [1.0, 2.0, 3.0])
    assert trace["error_x"]["array"] == [0.5] * 3
    assert figure.layout["yaxis"]["range"] == [2.5, -0.5]  # the first on top
    assert figure.layout["xaxis"]["title"]["text"] == "loss"
    assert "a<br>%{y}: %{x:.5g}" in trace["hovertemplate"]
    assert trace["orientation"] == "h"


def test_short_words_stand_side_by_side_in_the_order_of_the_fullest_series():
    part, whole = Series("a", ("z",), (1.0,), kind="bars"), Series("b", ("y", "z"), (1.0, 2.0), kind="bars")  # fmt: skip

    (figure,) = figures(picture(part, whole))

    assert figure.layout["xaxis"]["categoryarray"] == ["y", "z"]
    assert figure.layout["yaxis"]["range"][0] == 0


@pytest.mark.parametrize(
    ("y", "texts"),
    [
        ((5.0, 70.0), ["0.1", "0.2", "0.5", "1", "2", "5", "10", "20", "50", "100", "200", "500", "1,000"]),
        ((1.0, 3e4), ["0.1", "1", "10", "100", "1,000", "10,000", "100,000"]),
    ],
)  # fmt: skip
def test_a_logarithmic_axis_has_whole_numbers_on_it(y, texts):
    (figure,) = figures(picture(Series("a", (1.0, 2.0), y), log_y=True))
    axis = figure.layout["yaxis"]

    assert set(axis["ticktext"]) <= set(texts)
    assert [float(text.replace(",", "")) for text in axis["ticktext"]] == axis["tickvals"]


def test_many_decades_have_powers_of_ten_and_hardly_any_span_is_linear():
    (wide,) = figures(picture(Series("a", (1.0, 2.0), (1e-20, 1.0)), log_y=True))
    (narrow,) = figures(picture(Series("a", (1.0, 2.0), (1.1, 2.4)), log_y=True))

    assert wide.layout["yaxis"]["type"] == "log"
    assert wide.layout["yaxis"]["dtick"] == 4
    assert narrow.layout["yaxis"].get("type") != "log"


def test_a_figure_can_be_a_file_whatever_the_data_are_called():
    named = replace(picture(line(), claimed=(line(),)), name="loss-/there/my data.py:samples")

    names = [figure.name for figure in figures(named)]

    assert names == ["loss-there-my-data.py-samples", "loss-there-my-data.py-samples-claim"]


def test_every_verdict_stands_in_its_column():
    figure = verdicts_figure(overview())

    for trace, verdict in zip(figure.traces, (Verdict.SUPPORTED, Verdict.INCONCLUSIVE, Verdict.CONTRADICTED), strict=True):  # fmt: skip
        assert (trace["x"], trace["y"]) == ([str(verdict)], [f"dice-{verdict}"])
    assert len({trace["marker"]["symbol"] for trace in figure.traces}) == 3
    assert verdicts_figure(replace(overview(), results=())) is None


def test_the_table_of_claims_has_each_once_and_the_taught_one_what_was_measured():
    told = overview()
    named = replace(told, results=(replace(told.results[0], name="batch-time"),))

    assert [row[1] for row in overview_table(told).rows] == [
        str(one.verdict) for one in told.results
    ]
    assert batches_table(told) is None
    rows = batches_table(named).rows
    said = f"{named.results[0].verdict}. {named.results[0].said}"
    assert rows[0][3] == f"Epochs of small batches are slower: {said}"
    assert {row[3] for row in rows[1:]} == {"not run"}
