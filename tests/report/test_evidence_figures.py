import json
import math
from dataclasses import replace
from html import unescape

import pytest

from report.examples import HOSTILE, diagnosis, evidence
from unstick.diagnosis.cause import HEALTHY, Cause
from unstick.diagnosis.course import read_course
from unstick.diagnosis.diagnosing import Diagnosis
from unstick.diagnosis.evidence import Outcome
from unstick.diagnosis.rules import MATTERS, Support, support
from unstick.diagnosis.signals import LayerState
from unstick.report.evidence_figures import (
    INPUTS,
    SHRINKAGE,
    TARGETS,
    arms_figure,
    causes_table,
    others_told,
    units_figure,
    values_table,
)
from unstick.report.page import to_html
from unstick.report.story import Tone, story_of


def of(*causes, **parts) -> Diagnosis:
    """A diagnosis of these causes."""
    supports = tuple(Support(cause, 0.9, (f"why {cause}",)) for cause in causes)
    return replace(diagnosis(), cause=causes[0], causes=supports, **parts)


def bare():
    """Neither run, optimizer nor signals."""
    return replace(
        evidence(), course=None, steps=None, signals=None, arms={}, restarts=None, missing=()
    )


def tried(**arms):
    """Copies by name: what each gained, nan where it blew up."""
    outcomes = {
        name: Outcome(10, 2.3 - gain, gain, gain)
        if math.isfinite(gain)
        else Outcome(3, math.nan, -math.inf, -math.inf)
        for name, gain in arms.items()
    }
    return replace(evidence(), arms=outcomes)


def bar(told, name):
    shown = arms_figure(told)
    (bars,) = shown.traces
    at = bars["y"].index(name)
    return bars["x"][at], bars["text"][at], bars["marker"]["color"][at]


def row(told, what):
    (found,) = [each for each in values_table(told).rows if each[0].startswith(what)]
    return found


def body(page):
    """The words of a page, without its scripts."""
    return unescape(page.split("<main>")[1].split("</main>")[0])


def test_causes_stand_in_their_order_with_all_their_reasons():
    reasons = ("one", "two")
    causes = (Support(Cause.DEAD_UNITS, 0.6, reasons), Support(Cause.MODEL_FLOOR, 0.85, ("three",)))

    table = causes_table(replace(diagnosis(), cause=Cause.DEAD_UNITS, causes=causes))

    assert table.rows == (("dead-units", "0.60", "one\ntwo"), ("model-floor", "0.85", "three"))


def test_a_proof_that_was_just_told_is_not_told_again():
    proof = diagnosis().point.proof
    causes = (Support(Cause.STRICT_SADDLE, 0.95, (proof,)),)

    page = body(to_html(replace(diagnosis(), causes=causes)))

    assert page.count(proof) == 1
    assert "the proof above" in page
    ((_, _, told),) = causes_table(replace(diagnosis(), causes=causes)).rows
    assert told == proof


def test_every_cause_is_either_found_or_named_among_the_others():
    told = of(Cause.DEAD_UNITS, Cause.MODEL_FLOOR)

    others = others_told(told).removesuffix(".").split(": ")[1].split(", ")

    assert set(others) == set(Cause) - {Cause.DEAD_UNITS, Cause.MODEL_FLOOR, Cause.UNDECIDED}


def test_nothing_undecided_has_a_strength():
    told = replace(
        diagnosis(),
        cause=Cause.UNDECIDED,
        causes=(Support(Cause.UNDECIDED, 0.0, ("no rule fits",)),),
    )

    assert causes_table(told).rows == (("undecided", "–", "no rule fits"),)


def test_each_arm_is_a_bar_of_its_gain_in_loss():
    told = tried(**{"continue": 0.01, "rate × 10": 0.5, "rate ÷ 10": -0.2})

    assert bar(told, "continue") == (0.01, "0.01", "@noise")
    assert bar(told, "rate × 10") == (0.5, "0.5", "@escape")
    assert bar(told, "rate ÷ 10") == (-0.2, "−0.2", "@down")
    assert arms_figure(told).traces[0]["y"][-1] == "continue"  # on top
    assert "rate × 10" in arms_figure(told).title


def test_an_arm_that_blew_up_is_marked_and_said():
    told = tried(**{"continue": 0.01, "rate × 100": math.nan})

    assert bar(told, "rate × 100") == (0.0, "✕ blew up", "@down")
    assert "rate × 100 by update 3" in arms_figure(told).caption
    assert "✕" not in arms_figure(tried(a=0.1)).caption


def test_a_gain_below_the_dotted_line_does_not_matter():
    level = MATTERS * evidence().level
    under, over = tried(a=0.99 * level), tried(a=1.01 * level)

    (line,) = arms_figure(under).layout["shapes"]
    assert line["x0"] == level
    assert "No copy" in arms_figure(under).title
    assert bar(under, "a")[2] == "@measured"
    assert "“a”" in arms_figure(over).title
    assert bar(over, "a")[2] == "@escape"


def test_a_loss_that_rose_out_of_the_figure_is_cut_off_and_said():
    told = tried(**{"continue": 0.5, "rate × 100": -1e9})

    length, text, _ = bar(told, "rate × 100")
    assert length > -2.0
    assert text == "◂ −1e9"
    assert "Cut off" in arms_figure(told).caption
    assert "Cut off" not in arms_figure(tried(a=0.5, b=-0.4)).caption


@pytest.mark.parametrize("gains", [(math.nan,), (0.0, 0.0), (-1.0,), (-0.0, math.nan)])
@pytest.mark.parametrize("level", [0.0, -1.0, math.nan, 2.3])
def test_arms_that_gained_nothing_still_have_an_axis(gains, level):
    told = tried(**{f"arm {k}": gain for k, gain in enumerate(gains)})

    low, high = arms_figure(replace(told, level=level)).layout["xaxis"]["range"]

    assert math.isfinite(low)
    assert low <= 0 < high < math.inf


def test_without_arms_there_is_no_figure_and_without_layers_none():
    assert arms_figure(bare()) is None
    assert units_figure(()) is None


def test_each_layer_shows_its_three_shares_the_first_on_top():
    layers = (
        LayerState("first", 8, 0.25, 0.5, 0.0, 1.0),
        LayerState("second", 8, 0.0, 0.0, 0.625, 1.0),
    )

    shown = units_figure(layers)

    (heat,) = shown.traces
    assert heat["x"] == ["dead", "copies", "saturated"]
    assert dict(zip(heat["y"], heat["z"], strict=True)) == {
        "first": [0.25, 0.5, 0.0],
        "second": [0.0, 0.0, 0.625],
    }
    assert heat["y"][-1] == "first"  # Plotly counts from below
    assert shown.title == "Layer second: 62% of its outputs are saturated"


def test_a_layer_that_is_called_twice_has_two_rows():
    layer = LayerState("shared", 8, 0.5, 0.0, 0.0, 1.0)

    (heat,) = units_figure((layer, replace(layer, dead=0.25))).traces

    assert len(set(heat["y"])) == 2


def test_healthy_units_are_said_to_be():
    assert units_figure((LayerState("0", 8, 0.0, 0.0, 0.001, 1.0),)).title.startswith("No unit")


def test_the_trend_stands_with_its_error_and_what_would_be_progress():
    course = read_course([2.0 + 0.1 * (-1) ** k for k in range(240)])
    told = replace(evidence(), course=course, loss=2.0, bound=0.0)

    _, value, against = row(told, "trend")

    assert "±" in value
    assert "of 0.1, which is 5% of what is left" in against
    assert "240 losses" in against


def test_a_run_that_blew_up_says_where_instead_of_a_trend():
    told = replace(evidence(), course=read_course([2.0] * 20 + [math.nan]))

    assert row(told, "last finite update")[1] == "20"
    assert not any(each[0].startswith("trend") for each in values_table(told).rows)


def test_numbers_of_the_optimizer_stand_beside_what_they_are_held_against():
    told = evidence()

    assert row(told, "learning rate")[1:] == ("0.1", "highest that is known: 0.1")
    assert row(told, "momentum")[1] == "0.9"
    assert row(told, "sharpness")[1] == "0.4"
    assert row(told, "sharpness")[2].startswith("1:")
    assert row(told, "batch size")[1] == "32"
    assert "1,800" in row(told, "batch size")[2]
    assert row(told, "gradients are clipped")[1] == "1"


def test_without_run_optimizer_and_signals_there_is_no_table():
    assert values_table(bare()) is None


@pytest.mark.parametrize(
    ("field", "edge", "outward", "cause"),
    [
        ("input_size", INPUTS[0], 0.99, Cause.UNSCALED_INPUTS),
        ("input_size", INPUTS[1], 1.01, Cause.UNSCALED_INPUTS),
        ("target_size", TARGETS, 1.01, Cause.UNSCALED_TARGETS),
        ("shrinkage", SHRINKAGE, 0.99, Cause.VANISHING_GRADIENT),
    ],
)
def test_the_thresholds_that_the_page_names_are_those_of_the_rules(field, edge, outward, cause):
    def found(value):
        signals = replace(evidence().signals, layers=(), input_size=1.0, target_size=None)
        told = replace(evidence(), signals=replace(signals, **{field: value}), course=None, arms={})
        return cause in {each.cause for each in support(told)}

    assert found(edge * outward)
    assert not found(edge / outward)


def test_a_page_shows_why_before_the_pictures_and_each_heading_once():
    page = body(to_html(diagnosis()))

    heads = [
        "Why",
        "Other settings, tried from here",
        "The units, layer by layer",
        "What was measured",
        "What was not known",
        "The curvature",
    ]
    places = [page.index(f">{head}</h2>") for head in heads]
    assert places == sorted(places)
    assert all(page.count(f">{head}</h2>") == 1 for head in heads)
    assert page.count("no history of losses") == 1  # not among the numbers again


def test_a_page_without_evidence_has_no_empty_section():
    page = body(to_html(replace(diagnosis(), evidence=bare())))

    assert ">Why</h2>" in page
    for head in ("tried from here", "layer by layer</h2>", "was measured</h2>", "was not known"):
        assert head not in page.replace(">Layer by layer</h2>", "")


@pytest.mark.parametrize("cause", HEALTHY)
def test_a_healthy_training_is_settled_and_told_to_be_fine(cause):
    story = story_of(of(cause))

    assert (story.badge, story.tone) == (f"fine: {cause}", Tone.SETTLED)
    assert "You are fine" in body(to_html(of(cause)))


@pytest.mark.parametrize(
    ("cause", "tone"),
    [
        (Cause.UNDECIDED, Tone.OPEN),
        (Cause.STRICT_SADDLE, Tone.WAY_OUT),
        (Cause.DEAD_UNITS, Tone.FAULT),
        (Cause.LEARNING_RATE_TOO_SMALL, Tone.FAULT),
    ],
)
def test_the_tone_is_that_of_the_cause(cause, tone):
    assert (story_of(of(cause)).badge, story_of(of(cause)).tone) == (str(cause), tone)
    assert "You are fine" not in body(to_html(of(cause)))


def test_the_proof_of_the_point_is_no_proof_of_another_cause():
    told = of(Cause.DEAD_UNITS)

    assert story_of(told).proof == ""
    assert told.point.proof in [value for _, value in story_of(told).facts]
    assert story_of(of(Cause.STRICT_SADDLE)).proof == told.point.proof


def test_what_a_user_named_is_text_and_nothing_else():
    layer = LayerState(HOSTILE, 8, 1.0, 0.0, 0.0, 1.0)
    signals = replace(evidence().signals, layers=(layer,))
    told = replace(evidence(), signals=signals, missing=(HOSTILE,))
    causes = (Support(Cause.DEAD_UNITS, 0.9, (HOSTILE,)),)

    page = to_html(replace(diagnosis(), evidence=told, causes=causes))

    assert "<img" not in page.split("<script")[0]
    assert "<img" not in json.dumps(units_figure(signals.layers).traces)
    assert page.count("</script>") == 3
