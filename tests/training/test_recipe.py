"""What a recipe's settings come to: updates, rates, batches, variants, and one line of text."""

from dataclasses import fields, replace

import pytest
import torch
from torch import nn

from unstick.errors import BadRecipe
from unstick.training.loop import train
from unstick.training.recipe import Recipe, vary


@pytest.mark.parametrize(
    ("settings", "samples", "updates"),
    [
        ({}, 64, 20),  # ten epochs of two batches of 32
        ({}, 65, 30),  # a last batch of one sample is a batch
        ({"drop_last": True}, 65, 20),
        ({"batch_size": None}, 65, 10),
        ({"batch_size": 1}, 65, 650),
        ({"epochs": 3}, 65, 9),
        ({"epochs": 2.5}, 64, 5),
        ({"epochs": 0}, 64, 0),
        ({"updates": 7}, 64, 7),
        ({"updates": 0}, 64, 0),
        ({"updates": 500}, 64, 500),  # more than ten epochs: what is asked for counts
        ({"budget": 3}, 64, 6),  # gradients of all 64, of 32 each
        ({"budget": 3}, 80, 8),  # 7.5: an update is of 32, the last of an epoch of 16
        ({"budget": 3, "batch_size": None}, 80, 3),
        ({"epochs": 3, "updates": 5}, 64, 5),
        ({"epochs": 2, "updates": 5}, 64, 4),
        ({"epochs": 3, "updates": 5, "budget": 1.5}, 64, 3),
        ({"epochs": 2, "drop_last": True, "batch_size": 50}, 99, 2),
    ],
    ids=str,
)
def test_the_shortest_of_what_is_asked_for_is_the_number_of_updates(settings, samples, updates):
    assert Recipe(**settings).updates_for(samples) == updates


@pytest.mark.parametrize(
    ("settings", "rate"),
    [
        ({"lr": 0.1}, 0.1),
        ({"lr": 0.1, "base_batch": 16}, 0.1),
        ({"lr": 0.1, "base_batch": 4}, 0.4),
        ({"lr": 0.1, "base_batch": 4, "scaling": "sqrt"}, 0.2),
        ({"lr": 0.1, "base_batch": 64, "scaling": "sqrt"}, 0.05),
        ({"lr": 0.1, "base_batch": 16, "batch_size": None}, 0.3),  # all 48
        ({"base_batch": 8}, 0.2),  # SGD's own rate is 0.1
        ({"optimizer": "adam", "base_batch": 8}, 0.002),
        ({"lr": 0.1, "base_batch": 8, "schedule": "step", "every": 1, "factor": 0.5}, 0.2),
    ],
    ids=str,
)
def test_the_rate_that_a_training_records_is_scaled_from_the_batch_it_was_chosen_at(settings, rate):
    x = torch.linspace(-1, 1, 48)[:, None]
    recipe = replace(Recipe(batch_size=16, updates=2), **settings)
    trace = train(nn.Linear(1, 1), (x, x), nn.MSELoss(), recipe).trace

    second = 0.5 * rate if recipe.schedule == "step" else rate
    assert trace.learning_rate == pytest.approx([rate, second], rel=1e-12)


def test_a_scaled_rate_is_the_one_that_moves_the_model():
    x = torch.linspace(-1, 1, 48)[:, None]
    ends = []
    for recipe in (Recipe(lr=0.4), Recipe(lr=0.1, base_batch=4)):
        model = nn.Linear(1, 1)
        nn.init.ones_(model.weight)
        nn.init.zeros_(model.bias)
        train(model, (x, -x), nn.MSELoss(), replace(recipe, batch_size=16, epochs=1))
        ends.append(model.weight.item())

    assert ends[0] == ends[1] < 0.9


def test_every_combination_is_a_recipe_and_the_last_knob_changes_fastest():
    recipe = Recipe(optimizer="momentum", epochs=3)
    found = vary(recipe, lr=[0.1, 0.2], batch_size=(8, None), seed=range(2))

    assert [(r.lr, r.batch_size, r.seed) for r in found] == [
        (0.1, 8, 0), (0.1, 8, 1), (0.1, None, 0), (0.1, None, 1),
        (0.2, 8, 0), (0.2, 8, 1), (0.2, None, 0), (0.2, None, 1),
    ]  # fmt: skip
    assert all((r.optimizer, r.epochs) == ("momentum", 3) for r in found)
    assert vary(recipe) == (recipe,)
    assert vary(recipe, lr=()) == ()
    assert vary(recipe, lr=(rate for rate in (0.1, 0.2)))[1].lr == 0.2


def test_a_knob_that_recipes_have_not_is_refused():
    with pytest.raises(
        BadRecipe, match="recipes have no depth, width; they have alpha, average_from"
    ):
        vary(Recipe(), width=[1], depth=[2], lr=[0.1])
    with pytest.raises(BadRecipe, match="lr is -1"):
        vary(Recipe(), lr=[0.1, -1])


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"lr": -0.1}, "lr is -0.1; expected at least 0"),
        ({"lr": float("nan")}, "lr is nan; expected at least 0"),
        ({"lr": float("inf")}, "lr is inf"),
        ({"momentum": 1.1}, "momentum is 1.1; expected 0 to 1"),
        ({"batch_size": 0}, "batch_size is 0; expected at least 1"),
        ({"epochs": -1}, "epochs is -1; expected at least 0"),
        ({"updates": -1}, "updates is -1"),
        ({"budget": -0.5}, "budget is -0.5"),
        ({"base_batch": 0}, "base_batch is 0; expected at least 1"),
        ({"average_from": 2}, "average_from is 2; expected 0 to 1"),
        ({"patience": 0}, "patience is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"schedule": "sine"}, "schedule is 'sine'; expected one of constant, step"),
        ({"shuffle": "always"}, "shuffle is 'always'; expected one of epoch, once, never"),
        ({"scaling": "cubic"}, "scaling is 'cubic'; expected one of linear, sqrt"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(settings, told):
    with pytest.raises(BadRecipe, match=told):
        Recipe(**settings)


@pytest.mark.parametrize("ask", ["size_of_batch", "updates_for", "order"])
def test_a_batch_larger_than_the_data_is_refused(ask):
    recipe = Recipe(batch_size=11)
    with pytest.raises(BadRecipe, match="batch_size is 11 and there are 10 samples"):
        getattr(recipe, ask)(10)

    assert replace(recipe, batch_size=None).size_of_batch(10) == 10
    assert recipe.size_of_batch(11) == 11


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "sgd"),
        ({"optimizer": "adam", "lr": 1e-3, "batch_size": 64}, "adam, lr 0.001, batch size 64"),
        ({"batch_size": None}, "sgd, batch size all"),
        ({"batch_size": 32, "seed": 0, "drop_last": True}, "sgd, drop last"),
        ({"schedule": "step", "every": 10, "norms": True}, "sgd, schedule step, every 10, norms"),
    ],
    ids=str,
)
def test_its_text_names_the_optimizer_and_what_differs_from_the_defaults(settings, told):
    assert str(Recipe(**settings)) == told


def test_what_is_written_makes_the_same_recipe():
    recipe = Recipe(optimizer="adam", lr=0.01, batch_size=None, average_from=0.5, norms=True)

    assert Recipe.of(recipe.written()) == recipe
    assert set(recipe.written()) == {field.name for field in fields(Recipe)}
    assert Recipe(**recipe.given()) == recipe
