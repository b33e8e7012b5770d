import json
import math
from dataclasses import replace

import numpy as np
import pytest

from report.examples import falling, trained, training
from unstick.report.page import to_html
from unstick.report.story import Tone, story_of
from unstick.report.training_figures import DRAWN, training_figures
from unstick.training.recipe import Recipe
from unstick.training.samples import Score


def figure(told, name="loss"):
    (found,) = [each for each in training_figures(told) if each.name == name]
    return found


def named(told) -> list[str]:
    return [each.name for each in training_figures(told)]


def trace(shown, name):
    (found,) = [each for each in shown.traces if each["name"] == name]
    return found


def drawn(values):
    """As a browser gets them: six digits."""
    return [float(f"{value:.6g}") for value in values]


def test_everything_that_was_recorded_has_a_figure():
    assert named(trained()) == ["loss", "accuracy", "rate", "norms"]
    assert [each.wide for each in training_figures(trained())] == [True, False, False, True]
    assert named(training(falling(9))) == ["loss"]


def test_the_loss_of_every_update_is_drawn_as_it_was_recorded():
    told = trained()

    line = trace(figure(told), "each update")
    assert line["x"] == list(range(1, 81))
    assert line["y"] == drawn(told.trace.loss)
    assert "lowest and the highest" not in figure(told).caption


def test_the_mean_over_an_epoch_weighs_samples_alike_and_stands_at_its_middle():
    losses = [
        1.0,
        2.0,
        3.0,
        100.0,
        5.0,
        6.0,
        7.0,
        0.0,
        9.0,
    ]  # batches of 30, 30, 30 and 10; one too many

    line = trace(figure(training(losses)), "mean over each epoch")

    assert line["x"] == [2.5, 6.5]
    assert line["y"] == drawn([(30 * 6 + 10 * 100) / 100, (30 * 18) / 100])


def test_with_all_samples_in_a_batch_the_update_is_the_epoch():
    shown = figure(training(falling(9), Recipe(batch_size=None)))

    assert [each["name"] for each in shown.traces] == ["each update"]
    assert "all samples" in shown.caption


def test_scores_stand_at_their_update_in_the_color_of_their_split():
    shown = figure(trained())

    assert trace(shown, "validation")["x"] == [40, 80]
    assert trace(shown, "validation")["y"] == [0.6, 0.11]
    assert (
        len({trace(shown, name)["line"]["color"] for name in ("training", "validation", "test")})
        == 3
    )


def test_of_a_long_run_the_extremes_are_drawn_and_the_caption_says_so():
    rows = np.random.default_rng(0).choice(100_000, 20, replace=False).tolist()
    losses = [1.0 + 0.01 * math.sin(t) for t in range(100_000)]
    for at in rows:
        losses[at] = 2.0 + at * 1e-5
    told = training(losses, Recipe(batch_size=None))

    line = trace(figure(told), "each update")

    assert len(line["x"]) <= DRAWN + 2
    assert {(at + 1, drawn([losses[at]])[0]) for at in rows} <= set(
        zip(line["x"], line["y"], strict=True)
    )
    assert line["x"] == sorted(line["x"])
    assert "Of every 50 updates the lowest and the highest are drawn." in figure(told).caption
    assert len(json.dumps(figure(told).traces)) < 200_000


def test_a_run_that_just_fits_is_drawn_whole():
    told = training([1.0 + t for t in range(DRAWN)], Recipe(batch_size=None))

    assert len(trace(figure(told), "each update")["x"]) == DRAWN
    assert "are drawn" not in figure(told).caption


@pytest.mark.parametrize(
    ("losses", "logarithmic"),
    [
        ([2.0, 1.0, 0.05], True),
        ([2.0, 1.0, 0.2], False),  # too narrow a range
        ([2.0, 1.0, 0.0], False),  # zero has no logarithm
        ([2.0, 1.0, -0.001], False),
        ([2.3, 1e20, math.inf], True),
    ],
)
def test_the_axis_is_logarithmic_where_that_helps_and_can_be_and_the_caption_says_so(
    losses, logarithmic
):
    shown = figure(training(losses))

    assert (shown.layout["yaxis"].get("type") == "log") is logarithmic
    assert ("logarithmic" in shown.caption) is logarithmic


def test_a_score_of_zero_keeps_the_axis_linear():
    told = training([2.0, 0.01], scores=[Score(2, "test", 0.0, None)])

    assert figure(told).layout["yaxis"].get("type") != "log"


@pytest.mark.parametrize("last", [math.nan, math.inf, -math.inf])
def test_a_diverged_training_shows_where_it_ended(last):
    shown = figure(training([2.0, 5.0, 40.0, last]))

    cross = trace(shown, "not finite")
    assert (cross["x"], cross["y"]) == ([4], [40.0])
    assert "Not drawn: 1 update where the loss is inf or nan" in shown.caption
    assert "no longer finite at update 4" in shown.title


def test_without_a_finite_loss_there_is_no_figure():
    assert named(training([])) == []
    assert named(training([math.nan])) == []
    assert to_html(training([])).count("<script") == 0


def test_one_update_is_a_dot():
    (shown,) = training_figures(training([2.5]))

    line = trace(shown, "each update")
    assert (line["x"], line["y"], line["mode"]) == ([1], [2.5], "lines+markers")
    assert shown.title == "The loss is 2.5 before the one update"


def rates(values):
    told = training(falling(len(values)))
    told.trace.learning_rate = values
    return told


def test_a_rate_that_stays_has_no_figure():
    assert "rate" not in named(rates([0.1] * 50))
    assert "rate" not in named(rates([None] * 50))


def test_rates_that_step_over_decades_get_a_logarithmic_axis_and_a_cosine_does_not():
    steps = figure(rates([0.1] * 20 + [0.01] * 20 + [0.001] * 20), "rate")
    cosine = figure(rates([0.1 * (1 + math.cos(math.pi * t / 60)) / 2 for t in range(60)]), "rate")

    assert steps.layout["yaxis"]["type"] == "log"
    assert "logarithmic" in steps.caption
    assert "type" not in cosine.layout["yaxis"]
    assert steps.traces[0]["y"] == [0.1] * 20 + [0.01] * 20 + [0.001] * 20


def test_norms_of_zero_are_counted_and_the_clipping_is_a_line():
    shown = figure(trained(), "norms")

    gradient, update = shown.traces
    assert gradient["y"] == drawn(trained().trace.gradient_norm)
    assert update["y"][0] is None
    assert "Not drawn: 1 norm" in shown.caption
    assert shown.layout["shapes"][0]["y0"] == 1.0
    assert "longer than 1 were shortened" in shown.caption


def test_norms_that_are_all_zero_have_no_figure():
    told = training(falling(3))
    told.trace.gradient_norm = [0.0, 0.0, 0.0]

    assert named(told) == ["loss"]


def test_accuracy_is_drawn_once_a_split_was_looked_at_twice():
    once = [Score(3, "training", 0.1, 0.9), Score(3, "test", 0.2, 0.8)]
    twice = [Score(1, "test", 1.0, 0.2), *once]

    assert "accuracy" not in named(training(falling(3), scores=once))
    shown = figure(training(falling(3), scores=twice), "accuracy")
    assert trace(shown, "test")["y"] == [0.2, 0.8]
    assert shown.title == "Accuracy ends at 80.0% (test)"


def test_a_split_of_any_name_is_text_and_nothing_else():
    told = training(falling(3), scores=[Score(3, "<img src=x>", 0.1, 0.5)])

    assert "<img" not in json.dumps(training_figures(told)[0].traces)
    assert "<img" not in to_html(told).split("<script")[0]


def test_a_page_of_a_hundred_thousand_updates_is_hardly_larger_than_one_of_ten():
    long = replace(training(falling(100_000, rate=1e-4), Recipe(batch_size=30)), scores=())

    assert len(to_html(long)) - len(to_html(training(falling(10)))) < 300_000


@pytest.mark.parametrize(
    ("outcome", "tone"),
    [
        ("done", Tone.MOVING),
        ("target reached", Tone.SETTLED),
        ("second-order stationary", Tone.SETTLED),
        ("no progress", Tone.OPEN),
        ("diverged", Tone.OPEN),
        ("interrupted", Tone.OPEN),
        ("of a later version", Tone.PLAIN),
    ],
)
def test_the_badge_is_how_it_ended(outcome, tone):
    story = story_of(training(falling(9), outcome=outcome))

    assert (story.badge, story.tone) == (outcome, tone)


def test_an_interrupted_training_is_said_to_be_incomplete():
    page = to_html(training(falling(9), outcome="interrupted"))

    assert "the training: not complete (interrupted)" in page
