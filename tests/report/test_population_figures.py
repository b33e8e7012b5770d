import math
from dataclasses import replace

import numpy as np
import pytest

from report.examples import falling, population, signal, swapped, training
from unstick.problem.cost import Cost
from unstick.report.knobs import members_table
from unstick.report.layer_figures import ROWS, signal_figures
from unstick.report.page import to_html
from unstick.report.population_figures import population_figures, swap_figures
from unstick.report.story import Tone, story_of
from unstick.training.population import Population
from unstick.training.recipe import Recipe, vary
from unstick.training.signals import LayerSignal, SignalByLayer


def of(recipes, losses):
    """A population of these members."""
    members = [training(each, recipe) for recipe, each in zip(recipes, losses, strict=True)]
    return Population(tuple(members), len(members), Cost(10, 1.0, 0.1))


def figure(told, name="members"):
    (found,) = [each for each in population_figures(told) if each.name == name]
    return found


def lines(shown):
    return [each for each in shown.traces if each["mode"] != "markers"]


def named(shown, name):
    return [each for each in shown.traces if each["name"] == name]


def test_each_member_is_a_line_of_its_means_over_epochs():
    losses = [[float(k + t) for t in range(12)] for k in range(3)]
    told = of(vary(Recipe(batch_size=30), lr=(0.1, 0.2, 0.3)), losses)

    shown = figure(told)

    weights = [30, 30, 30, 10]
    expected = [
        [np.average(row[at : at + 4], weights=weights) for at in (0, 4, 8)] for row in losses
    ]
    assert [each["x"] for each in lines(shown)] == [[1.0, 2.0, 3.0]] * 3
    np.testing.assert_allclose([each["y"] for each in lines(shown)], expected, rtol=1e-5)
    assert shown.layout["xaxis"]["title"]["text"] == "epoch"


def test_a_training_shorter_than_two_epochs_is_drawn_by_updates():
    told = of(vary(Recipe(batch_size=30), lr=(0.1, 0.2)), [[3.0, 2.0, 1.0], [5.0, 4.0, 3.0]])

    shown = figure(told)

    assert [(each["x"], each["y"]) for each in lines(shown)] == [
        ([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]),
        ([1.0, 2.0, 3.0], [5.0, 4.0, 3.0]),
    ]
    assert shown.title.startswith("Training loss of every update of 2 members")


def test_colors_go_from_the_lowest_value_to_the_highest_and_stand_once_in_the_legend():
    told = of(vary(Recipe(), lr=(1.0, 0.01, 0.1), seed=range(2)), [falling(12)] * 6)

    shown = figure(told)

    legend = [(each["name"], each["line"]["color"]) for each in lines(shown) if each["showlegend"]]
    assert [name for name, _ in legend] == ["0.01", "0.1", "1"]
    levels = [int(color.removeprefix("@series-")) for _, color in legend]
    assert levels == sorted(set(levels))
    assert len({each["line"]["color"] for each in lines(shown)}) == 3
    assert "Members differ in seed too" in shown.caption


def test_a_legend_names_some_of_many_values():
    told = of(vary(Recipe(), lr=[0.1 + k for k in range(20)]), [falling(12)] * 20)

    shown = figure(told)

    listed = [each["name"] for each in lines(shown) if each["showlegend"]]
    assert len(listed) == 5
    assert (listed[0], listed[-1]) == ("0.1", "19.1")
    assert "names 5 of 20 values" in shown.caption


def test_many_seeds_have_no_legend_and_one_color():
    told = of(vary(Recipe(), seed=range(12)), [falling(12, seed=k) for k in range(12)])

    assert {each["line"]["color"] for each in lines(figure(told))} == {"@measured"}
    assert not any(each["showlegend"] for each in figure(told).traces)
    assert [each.name for each in population_figures(told)] == ["members"]


def test_optimizers_have_colors_without_an_order():
    told = of(vary(Recipe(), optimizer=("sgd", "adam")), [falling(12)] * 2)

    assert [each["line"]["color"] for each in lines(figure(told))] == ["@measured", "@predicted"]
    assert [each.name for each in population_figures(told)] == ["members"]


def test_more_members_than_lines_are_told_by_their_quantiles():
    rates = (0.1, 0.2)
    losses = [falling(12, rate=rate, seed=seed) for rate in rates for seed in range(30)]
    told = of(vary(Recipe(batch_size=None), lr=rates, seed=range(30)), losses)

    shown = figure(told)

    for at, name in enumerate(("0.1", "0.2")):
        band, line = named(shown, name)
        group = np.array(losses[30 * at : 30 * at + 30])
        np.testing.assert_allclose(line["y"], np.median(group, axis=0), rtol=1e-5)
        low, high = np.quantile(group, [0.1, 0.9], axis=0)
        np.testing.assert_allclose(band["y"], [*high, *low[::-1]], rtol=1e-5)
    assert "from their 10% to their 90% quantile" in shown.caption


def test_values_with_too_few_members_share_one_band():
    told = of(vary(Recipe(batch_size=None), lr=[0.1 * k for k in range(1, 51)]), [falling(9)] * 50)

    shown = figure(told)

    assert [each["name"] for each in shown.traces] == ["median", "median"]
    assert "all members" in shown.caption
    assert "Members differ in lr; the color does not show it" in shown.caption


def test_members_of_unequal_length_are_told_as_long_as_they_last():
    losses = [[1.0] * 6] * 25 + [[3.0] * 3] * 25
    told = of(vary(Recipe(batch_size=None), seed=range(50)), losses)

    _, line = figure(told).traces
    assert line["y"] == [2.0] * 3 + [1.0] * 3


@pytest.mark.parametrize("floor", [0.5, 1e-3], ids=["linear", "logarithmic"])
def test_a_diverged_member_is_a_cross_and_does_not_flatten_the_others(floor):
    losses = [[2.3, 1.1, floor], [2.3, 1.2, floor], [2.3, 1e4, 1e12, 1e30, math.inf]]
    told = of(vary(Recipe(batch_size=None), lr=(0.1, 0.2, 9.0)), losses)

    shown = figure(told)

    (crosses,) = named(shown, "diverged")
    assert (crosses["x"], crosses["y"]) == ([5.0], [2.3])
    low, high = shown.layout["yaxis"]["range"]
    if shown.layout["yaxis"].get("type") == "log":
        low, high = 10**low, 10**high
    assert 0.3 * floor < low < floor
    assert 2.3 < high < 5
    assert "Crosses: 1 member" in shown.caption


def test_runaway_losses_stay_where_a_browser_can_place_them():
    told = of(
        vary(Recipe(batch_size=None), lr=(0.1, 9.0)), [[2.0, 1.5, 1.0], [2.0, 1e291, math.nan]]
    )

    assert max(value for each in lines(figure(told)) for value in each["y"] if value) < 1e5


def test_when_all_diverged_what_there_is_is_drawn():
    told = of(vary(Recipe(batch_size=None), lr=(1e9, 1e10)), [[2.0, math.inf], [3.0, math.nan]])

    assert [each.name for each in population_figures(told)] == ["members"]
    assert [each["y"] for each in lines(figure(told))] == [[2.0, None], [3.0, None]]
    assert (story_of(told).badge, story_of(told).tone) == ("all diverged", Tone.OPEN)


def test_without_a_finite_loss_only_the_table_is_left():
    told = of(vary(Recipe(), lr=(1e9, 1e10)), [[math.nan], [math.inf]])

    assert population_figures(told) == ()
    assert '<table class="rows">' in to_html(told)


def test_ends_are_the_final_losses_and_their_medians():
    told = population()

    shown = figure(told, "ends")

    dots, line, crosses = shown.traces
    finals = [member.final_loss for member in told.members[:4]]
    assert dots["x"] == [0.01, 0.01, 0.1, 0.1]
    np.testing.assert_allclose(dots["y"], finals, rtol=1e-5)
    assert line["x"] == [0.01, 0.1]
    np.testing.assert_allclose(line["y"], np.reshape(finals, (2, 2)).mean(1), rtol=1e-5)
    assert crosses["x"] == [10.0, 10.0]
    assert shown.layout["xaxis"]["type"] == "log"
    assert shown.title.endswith("is at lr 0.1")


def test_a_second_knob_gives_each_of_its_values_a_line():
    recipes = vary(Recipe(), lr=(0.1, 0.2), batch_size=(10, 20, None))
    told = of(recipes, [[float(k)] for k in range(1, 7)])

    shown = figure(told, "ends")

    assert shown.layout["xaxis"]["title"]["text"] == "lr"
    assert shown.layout["legend"]["title"]["text"] == "batch size"
    medians = {each["name"]: (each["x"], each["y"]) for each in lines(shown)}
    assert medians == {
        "10": ([0.1, 0.2], [1.0, 4.0]),
        "20": ([0.1, 0.2], [2.0, 5.0]),
        "100": ([0.1, 0.2], [3.0, 6.0]),  # all 100 samples
    }


def test_the_table_lists_every_member_the_lowest_final_loss_first():
    told = population()

    table = members_table(told)

    header = ("member", "lr", "seed", "final loss", "validation loss", "ended", "updates")
    assert table.header == header
    finals = [member.final_loss for member in told.members[:4]]
    assert [row[0] for row in table.rows[:4]] == [str(k) for k in np.argsort(finals)]
    assert table.rows[4] == ("4", "10", "0", "–", "–", "diverged", "5")
    assert len(table.rows) == 6


def test_a_population_of_one_is_a_training():
    told = replace(population(), members=population().members[:1])

    page = to_html(told)

    assert 'id="member-loss"' in page
    assert '<table class="rows">' not in page


def test_the_average_stands_below_its_workers():
    loss, accuracy = swap_figures(swapped())

    assert loss.traces[0]["y"] == ["before", "worker 0", "worker 1", "worker 2", "average"]
    assert loss.traces[0]["x"] == [0.5, 0.2, 0.21, 0.22, 0.15]
    assert accuracy.traces[0]["x"] == [0.8, 0.9, 0.91, 0.92, 0.95]
    assert loss.title == "Loss of the average: 0.15, before: 0.5"


def test_without_classes_there_is_only_the_loss():
    told = swapped()
    bare = replace(
        told,
        before=replace(told.before, accuracy=None, loss=math.nan),
        apart=tuple(replace(score, accuracy=None) for score in told.apart),
        averaged=replace(told.averaged, accuracy=None),
    )

    (only,) = swap_figures(bare)

    assert only.traces[0]["x"][0] is None
    assert "Not drawn: 1 score" in only.caption


@pytest.mark.parametrize(
    ("loss", "badge"), [(0.15, "average is lowest"), (0.2, "average is not lowest")]
)
def test_the_badge_says_whether_averaging_paid(loss, badge):
    told = replace(swapped(), averaged=replace(swapped().averaged, loss=loss))

    assert story_of(told).badge == badge


def test_the_signal_is_drawn_layer_by_layer_and_what_has_no_logarithm_is_named():
    forward, backward = signal_figures(signal())

    assert forward.traces[0]["x"] == [0.5, 0.001, None, None]
    assert forward.traces[0]["y"] == ["0 Linear", "1 ReLU", "head.fc", "head.out"]
    assert "Not drawn, because 0 or not finite: head.fc, head.out." in forward.caption
    assert forward.layout["shapes"][0]["x0"] == 1
    low, high = forward.layout["xaxis"]["range"]
    assert low < -3 < 0 < high
    assert backward.traces[0]["x"] == [1e-6, 1e-5]
    assert story_of(signal()).tone is Tone.OPEN


def test_of_a_deep_network_layers_evenly_apart_are_shown_with_the_first_and_the_last():
    layers = tuple(LayerSignal(f"l{k}", "Linear", 1.0 + k, None, None) for k in range(100))

    (shown,) = signal_figures(SignalByLayer(layers, "finite"))

    names = shown.traces[0]["y"]
    assert (names[0], names[-1]) == ("l0", "l99")
    assert len(names) <= ROWS + 1
    assert f"Shown: {len(names)} of 100 layers" in shown.caption


def test_a_layer_that_is_used_twice_is_drawn_twice():
    twice = SignalByLayer((LayerSignal("a", "ReLU", 2.0, None, None),) * 2, "finite")

    assert signal_figures(twice)[0].traces[0]["y"] == ["a", "a (2)"]


def test_a_dead_signal_has_no_figure():
    dead = SignalByLayer((LayerSignal("a", "ReLU", 0.0, None, None),), "finite")

    assert signal_figures(dead) == []
