import json
import math
import re
from dataclasses import replace
from html import unescape
from statistics import median

import pytest

from report.examples import HOSTILE, diagnosis, treated, trial
from unstick.diagnosis.course import read_course
from unstick.diagnosis.trials import SEEDS
from unstick.report.page import to_html
from unstick.report.story import story_of
from unstick.report.trial_figures import (
    ended_at,
    helped_told,
    trials_figure,
    trials_lead,
    trials_table,
    untested_told,
)

FALL = [[2.3 * 0.9 ** (k + seed) for k in range(40)] for seed in range(3)]
NAN = math.nan


def of(*trials, **parts):
    """A diagnosis with these trials."""
    return replace(treated(), trials=trials, **parts)


def lines(told, name):
    """The traces of one remedy, thin ones first."""
    found = [t for t in trials_figure(told).traces if t["name"].startswith(name)]
    return sorted(found, key=lambda trace: trace["line"]["width"])


def row(told, remedy):
    table = trials_table(told)
    (found,) = [each for each in table.rows if each[0] == remedy]
    return dict(zip(table.header, found, strict=True))


def body(page):
    """The words of a page, without its scripts."""
    return unescape(page.split("<main>")[1].split("</main>")[0])


def test_losses_end_at_the_median_where_blowing_up_is_the_worst():
    assert ended_at([0.3, 0.1, 0.2]) == "0.2"
    assert ended_at([0.3, NAN, 0.2]) == "0.3"
    assert ended_at([0.3, NAN, NAN]) == "blew up"


def test_every_copy_is_a_thin_line_and_their_median_a_thick_one():
    *thin, thick = lines(of(trial("rate × 10", *FALL, ends=(0.3, 0.2, 0.1))), "rate")

    assert [trace["y"] for trace in thin] == [pytest.approx(each, rel=1e-5) for each in FALL]
    assert thick["y"] == pytest.approx([median(each) for each in zip(*FALL, strict=True)], rel=1e-5)
    assert [trace["showlegend"] for trace in (*thin, thick)] == [False] * 3 + [True]
    assert thick["name"] == "rate × 10: 0.2"


def test_one_copy_that_stands_for_all_seeds_is_a_thick_line():
    (only,) = lines(of(trial("rate × 10", FALL[0], ends=(0.3,) * 3)), "rate")

    assert only["showlegend"]
    assert only["line"]["width"] > 2


def test_means_stand_at_the_middles_of_equal_parts_of_what_a_copy_took():
    told = of(
        trial("batch × 16", [3.0, 2.0], ends=(1.0,) * 3, updates=2, gradients=8.0),
        trial("rate × 10", [3.0, 2.5, 2.0, 1.5], ends=(1.0,) * 3, updates=4, gradients=1.0),
    )

    assert lines(told, "batch")[0]["x"] == [2.0, 6.0]
    assert lines(told, "rate")[0]["x"] == [0.125, 0.375, 0.625, 0.875]
    assert lines(told, "going on")[-1]["x"][-1] == pytest.approx(8.0 * 39.5 / 40)


def test_going_on_is_drawn_as_far_as_the_longest_trial_and_first():
    short = trial("rate × 2", [2.0], ends=(1.9,) * 3, gradients=2.0, outcome="dropped")
    long = replace(trial("rate × 10", *FALL, ends=(0.3,) * 3), continue_losses=(1.5,) * 3)

    first = trials_figure(of(short, long)).traces[0]

    assert first["name"] == "going on unchanged: 1.5"
    assert first["line"]["color"] == "@noise"


def test_a_copy_that_blew_up_ends_with_a_cross_where_its_updates_end():
    # 4 means of 4 updates: 0.1 gradients each, as the other trial took
    broken = [[2.3, 40.0, 1e30, NAN], FALL[0][:10], FALL[1][:10]]
    tried = trial("rate × 1000", *broken, ends=(NAN, 0.9, 0.8), updates=80, gradients=8.0)
    figure = trials_figure(of(trial("rate × 10", *FALL, ends=(0.3,) * 3), tried))

    (cross,) = [trace for trace in figure.traces if trace["name"] == "blew up"]
    assert cross["x"] == pytest.approx([0.4])
    assert cross["y"] == [2.304]  # of going on, the highest in sight
    assert "1 copy blew up, there at the latest. The scale fits the others." in figure.caption
    assert figure.layout["yaxis"]["range"][1] < math.log10(1e3)


def test_no_cross_stands_where_every_copy_lived():
    figure = trials_figure(of(trial("rate × 10", *FALL, ends=(0.3,) * 3)))

    assert "blew up" not in [trace["name"] for trace in figure.traces]
    assert "✕" not in figure.caption
    assert "range" not in figure.layout["yaxis"]


def test_no_median_is_drawn_of_copies_of_which_one_blew_up():
    tried = trial("rate × 9", [2.3, NAN], *FALL[:2], ends=(NAN, 0.9, 0.8))

    drawn = lines(of(tried), "rate")

    assert len(drawn) == 3
    assert [trace["showlegend"] for trace in drawn].count(True) == 1


def test_losses_too_large_for_a_browser_stay_where_it_can_place_them():
    wild = trial("rate × 9", [2.3, 1e291, NAN], ends=(NAN,) * 3)
    told = of(trial("rate × 10", [2.3, 2.0], ends=(2.0,) * 3), wild)

    drawn = [y for trace in trials_figure(told).traces for y in trace["y"] if y is not None]

    assert max(drawn) < 1e4


def test_an_axis_is_logarithmic_beyond_two_decades_and_not_below():
    near = trial("rate × 10", [2.3, 0.03], ends=(0.03,) * 3)
    beyond = trial("rate × 10", [2.3, 0.02], ends=(0.02,) * 3)

    assert trials_figure(of(near)).layout["yaxis"].get("type") is None
    assert trials_figure(of(beyond)).layout["yaxis"]["type"] == "log"


def test_the_best_five_are_drawn_and_all_are_in_the_table():
    tried = [trial(f"rate × {k}", *FALL, ends=(0.1 * k,) * 3) for k in range(2, 9)]
    figure = trials_figure(of(*tried))

    legend = [t["name"].split(":")[0] for t in figure.traces if t["showlegend"]]
    assert legend == ["going on unchanged", *(f"rate × {k}" for k in range(2, 7))]
    assert "Drawn: 5 of 7 remedies." in figure.caption
    assert len(trials_table(of(*tried)).rows) == 7


def test_no_two_lines_are_told_apart_by_color_alone():
    tried = [trial(f"rate × {k}", *FALL, ends=(0.1 * k,) * 3) for k in range(2, 7)]
    drawn = [t["line"] for t in trials_figure(of(*tried)).traces if t["showlegend"]]

    assert len({line["color"] for line in drawn}) == len(drawn)
    assert len({line["dash"] for line in drawn[1:]}) == len(drawn) - 1


def test_a_remedy_interrupted_on_the_way_is_in_the_table_alone():
    clean = trial("rate × 2", *FALL, ends=(0.3,) * 3, outcome="interrupted")
    cut = replace(clean, remedy="rate × 3", updates=200)  # 80 made the loss that is known

    figure = trials_figure(of(clean, cut))

    assert [t["name"] for t in figure.traces if t["showlegend"]][1:] == ["rate × 2: 0.3"]
    assert row(of(clean, cut), "rate × 3")["length"].endswith("interrupted")


def test_a_long_name_takes_several_lines_of_the_legend():
    name = "ELU + inputs and targets standardized + new start + rate × 3"
    (shown,) = lines(of(trial(name, FALL[0], ends=(0.3,) * 3)), "ELU")

    parts = shown["name"].split("<br>")
    assert len(parts) > 1
    assert max(map(len, parts)) <= 34
    assert " ".join(parts) == f"{name}: 0.3"


def test_nothing_finite_leaves_the_figure_out_and_keeps_the_table():
    lost = replace(
        trial("rate × 9", [NAN], ends=(NAN,) * 3),
        continue_losses=(NAN,) * 3,
        continue_curve=((NAN,),) * 3,
    )

    assert trials_figure(of(lost)) is None
    assert row(of(lost), "rate × 9")["loss after"] == "blew up"
    assert "Where going on blew up on every seed: below the loss before." in helped_told(of(lost))


def test_the_table_has_each_seed_what_stays_and_how_it_ended():
    told = treated()

    assert row(told, "rate × 10") == {
        "remedy": "rate × 10",
        "loss after": "0.02",
        "going on": "2.302",
        "helped": "yes",
        "keeps": "weights\nmodel",
        "length": "80 updates\n8 gradients\ncomplete".replace(" ", "\u00a0"),
        "each seed": "0.03, 0.02, 0.01".replace(" ", "\u00a0"),
        "what it changes": "every learning rate as “rate × 10” says",
    }
    assert row(told, "new start")["keeps"] == "model"
    assert row(told, "new start")["length"].endswith("dropped\u00a0early")
    assert row(told, "rate × 1000 + batch × 16")["each seed"].startswith("✕,")
    assert row(told, "rate × 1000 + batch × 16")["loss after"] == "3.3"
    assert trials_table(diagnosis()) is None


def test_what_was_not_tested_is_said_as_far_as_it_is_true():
    told = untested_told(treated())

    assert "up to 8 gradients (80 updates); the run so far took 20." in told
    assert "2 of 3 were dropped early" in told
    assert "No scheduler was stepped" in told
    assert "no validation data" in told
    assert "What was not known" in told
    assert told.endswith("Not tried at all, and why:")
    assert "interrupted" not in told
    assert "Seeds change nothing" not in told


def test_what_is_not_true_of_a_record_is_not_said():
    known = replace(treated().evidence, missing=(), course=None)
    whole = trial("rate × 10", FALL[0], ends=(0.3,) * 3)
    told = untested_told(of(whole, untried=(), evidence=known))

    assert "the run so far" not in told  # without a history its length is not known
    assert "dropped" not in told
    assert "not known" not in told
    assert "Not tried" not in told
    assert "Seeds change nothing here" in told
    assert untested_told(diagnosis()) == ""

    broken = replace(known, course=read_course([1.0] * 9 + [NAN]))
    assert "the run so far" not in untested_told(of(whole, evidence=broken))

    cut = untested_told(of(replace(whole, outcome="interrupted")))
    assert "The trials were interrupted" in cut


def test_the_story_tells_the_remedy_beside_going_on_and_its_code():
    story = story_of(treated())

    assert story.remedy.startswith("Every learning rate as “rate × 10” says. Training on for 80 ")
    assert "from 2.302 to 0.02, the median of 3 seeds; going on unchanged reached 2.302." in (
        story.remedy
    )
    assert story.code == treated().trials[0].code
    assert "lost" not in story.remedy
    assert "proven" not in story.remedy


def test_what_a_remedy_costs_beside_time_is_said_in_its_sentence():
    best = replace(
        treated().trials[0],
        keeps_weights=False,
        keeps_model=False,
        losses_after=(0.1,) * 3,
        continue_losses=(NAN,) * 3,
    )
    story = story_of(of(best))

    assert "to 0.1, on each of 3 seeds; going on unchanged blew up." in story.remedy
    assert "what was learned is lost" in story.remedy
    assert "a checkpoint of the old one does not fit" in story.remedy


def test_without_a_remedy_that_helped_nothing_is_recommended():
    told = of(*treated().trials[1:])

    assert story_of(told).remedy == story_of(told).code == ""
    assert 'id="copy"' not in to_html(told)
    assert trials_figure(told).title == "None of 2 remedies helped"


def test_the_page_of_a_diagnosis_without_trials_has_nothing_of_them():
    page = to_html(diagnosis())

    for part in ("What to do", "Remedies, tried", "What was not tested", 'id="copy"'):
        assert part not in page


def test_what_to_do_comes_right_after_the_headline_and_trials_before_the_reasons():
    page = body(to_html(treated()))

    parts = (
        "<h1>",
        "What to do",
        'id="copy"',
        treated().summary[:40],
        "The run so far",
        "Remedies, tried from here",
        "What was not tested",
        "“no clipping”: gradients are not clipped",
        ">Why<",
    )
    places = [page.index(part) for part in parts]
    assert places == sorted(places)


def test_what_sections_tell_is_not_told_again_among_the_numbers():
    page = to_html(treated())

    listed = re.findall(r'<tr><th scope="row">([^<]*)</th>', page)
    assert not {"do", "tried", "tried too", "not tried"} & set(listed)
    assert "remedies tried (own budget)" in listed
    assert f"on {SEEDS} seeds beside going on unchanged" in trials_lead(treated())


def test_names_and_code_of_a_user_are_text_and_nothing_else():
    best = replace(treated().trials[0], remedy=HOSTILE, about=HOSTILE, code=HOSTILE)
    page = to_html(of(best, untried=((HOSTILE, HOSTILE),)))

    assert "<img" not in page.split("<main>")[1].split("</main>")[0]
    drawn = re.search(r'id="specifications">(.*?)</script>', page, re.DOTALL)[1]
    names = [trace.get("name", "") for each in json.loads(drawn) for trace in each["traces"]]
    assert any("img" in name for name in names)
    assert not any("<img" in name for name in names)
