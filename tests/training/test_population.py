"""Members trained at once are members trained alone."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from unstick.errors import BadModel, BadRecipe
from unstick.training.loop import train
from unstick.training.optimizers import OPTIMIZERS
from unstick.training.population import train_population
from unstick.training.recipe import Recipe, vary

LOSS = nn.CrossEntropyLoss()
TOGETHER = [name for name, kind in OPTIMIZERS.items() if kind.rule is not None]


def task(samples=70, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, 6, generator=generator, dtype=torch.float64)
    return inputs, (inputs[:, :3].argmax(1) + (inputs[:, 3] > 0)) % 3


def made(seed, *extra, kind="plain"):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        hidden = {
            "plain": [],
            "batchnorm": [nn.BatchNorm1d(8)],
            "layernorm": [nn.LayerNorm(8)],
            "dropout": [nn.Dropout(0.5)],
        }[kind]
        return nn.Sequential(nn.Linear(6, 8), *hidden, nn.Tanh(), nn.Linear(8, 3)).double()


def flat(model):
    return torch.cat([value.detach().double().flatten() for value in model.state_dict().values()])


def both(recipes, *, kind="plain", data=None, **more):
    """The same members trained alone and at once."""
    data = task() if data is None else data
    alone, together = ([made(k, kind=kind) for k in range(len(recipes))] for _ in range(2))
    one_by_one = [train(m, data, LOSS, r) for m, r in zip(alone, recipes, strict=True)]
    at_once = train_population(together, data, LOSS, recipes, **more)
    return alone, one_by_one, together, at_once


def assert_alike(alone, one_by_one, together, at_once, tolerance=1e-9):
    for model, single, other, member in zip(
        alone, one_by_one, together, at_once.members, strict=True
    ):
        assert member.outcome == single.outcome
        for name in ("loss", "learning_rate"):
            found, expected = getattr(member.trace, name), getattr(single.trace, name)
            assert found == pytest.approx(expected, rel=tolerance, abs=tolerance, nan_ok=True), name
        assert member.trace.batch_size == single.trace.batch_size
        assert member.trace.updates == single.trace.updates
        assert member.epochs == pytest.approx(single.epochs)
        if member.outcome != "diverged":
            assert torch.allclose(flat(model), flat(other), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("optimizer", "batch_size"),
    [(name, None) for name in TOGETHER]
    + [(name, 16) for name in TOGETHER if not OPTIMIZERS[name].whole]
    + [("adam", 1)],
)
def test_two_hundred_updates_are_those_of_each_alone(optimizer, batch_size):
    recipe = Recipe(optimizer=optimizer, updates=200, batch_size=batch_size, weight_decay=1e-3)
    recipes = [replace(recipe, lr=rate, seed=k) for k, rate in enumerate((0.02, 0.005, 0.001))]

    alone, one_by_one, together, at_once = both(recipes)

    assert at_once.together == 3
    assert_alike(alone, one_by_one, together, at_once)
    assert one_by_one[0].trace.loss[-1] < one_by_one[0].trace.loss[0]


@pytest.mark.parametrize("kind", ["batchnorm", "layernorm"])
def test_normalization_keeps_its_statistics_by_member(kind):
    recipes = vary(Recipe(epochs=6, batch_size=16), lr=(0.05, 0.2), seed=(0, 1))

    alone, one_by_one, together, at_once = both(recipes, kind=kind)

    assert at_once.together == 4
    assert_alike(alone, one_by_one, together, at_once)


@pytest.mark.parametrize(
    "changes",
    [
        {"schedule": "cosine", "warmup": 5},
        {"schedule": "plateau", "factor": 0.5, "patience": 1, "improvement": 0.05},
        {"clip_norm": 0.1},
        {"shuffle": "once"},
        {"shuffle": "never", "drop_last": True},
        {"optimizer": "adam", "lr": 0.02, "target_loss": 0.6},
        {"lr": 0.4, "patience": 2, "improvement": 0.05, "epochs": 30},
    ],
    ids=str,
)
def test_schedules_clipping_orders_and_ends_are_those_of_each_alone(changes):
    recipe = replace(Recipe(epochs=8, batch_size=16), **changes)

    parts = both([replace(recipe, seed=k) for k in range(4)])

    assert parts[3].together == 4
    assert_alike(*parts)


def test_norms_are_those_of_each_alone():
    recipes = vary(Recipe(optimizer="adam", epochs=2, norms=True), seed=range(3))

    _, one_by_one, _, at_once = both(recipes)

    for single, member in zip(one_by_one, at_once.members, strict=True):
        assert member.trace.gradient_norm == pytest.approx(single.trace.gradient_norm)
        assert member.trace.update_norm == pytest.approx(single.trace.update_norm)


@pytest.mark.parametrize("bad", [1, 3, 5])
def test_members_that_diverge_do_not_touch_the_others(bad):
    """With one, half and nearly all diverging, at different updates: rows are taken out on the way."""
    rates = [1e308 if k < bad else 0.1 for k in range(6)]
    recipes = [Recipe(lr=rate, epochs=4, seed=k) for k, rate in enumerate(rates)]

    alone, one_by_one, together, at_once = both(recipes)

    assert [m.outcome for m in at_once.members] == ["diverged"] * bad + ["done"] * (6 - bad)
    assert_alike(alone, one_by_one, together, at_once)
    for member in at_once.members[:bad]:
        assert not math.isfinite(member.trace.loss[-1])
        assert all(map(math.isfinite, member.trace.loss[:-1]))


def test_kinds_that_share_no_batch_are_trained_one_after_the_other():
    recipes = [
        Recipe(epochs=2, batch_size=16),
        Recipe(epochs=2, batch_size=8),
        Recipe(epochs=2, batch_size=16, seed=1),
        Recipe(optimizer="adam", epochs=3, batch_size=8),
    ]

    alone, one_by_one, together, at_once = both(recipes)

    assert at_once.together == 2
    assert_alike(alone, one_by_one, together, at_once)


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        ("dropout", {}, "one after the other: torch cannot compute their gradients at once"),
        ("plain", {"optimizer": "lamb"}, "lamb does not treat each parameter alone"),
        ("plain", {"average_from": 0.5}, "parameters are averaged"),
    ],
)
def test_what_cannot_be_shared_is_trained_alone_and_said(kind, changes, said):
    recipes = [replace(Recipe(epochs=2, seed=k), **changes) for k in range(2)]

    alone, one_by_one, together, at_once = both(recipes, kind=kind)

    assert said in at_once.notes[0]
    assert at_once.together == 0
    assert_alike(alone, one_by_one, together, at_once, tolerance=0.0)


class Hesitant(nn.Module):
    """Looks at its values where a batch has six samples, as the last of an epoch has."""

    def forward(self, x):
        return x if len(x) != 6 or float(x.detach().abs().sum()) > 0 else -x


def test_a_last_batch_that_cannot_be_shared_is_known_before_anything_moves():
    recipes = [Recipe(epochs=2, batch_size=16, seed=k) for k in range(2)]  # 70 = 4·16 + 6
    alone, together = ([made(k).append(Hesitant()) for k in range(2)] for _ in range(2))
    one_by_one = [train(m, task(), LOSS, r) for m, r in zip(alone, recipes, strict=True)]

    told = train_population(together, task(), LOSS, recipes)

    assert "one after the other: torch cannot compute their gradients at once" in told.notes[0]
    assert_alike(alone, one_by_one, together, told, tolerance=0.0)
    short = [replace(recipe, epochs=None, updates=4) for recipe in recipes]
    fresh = [made(k).append(Hesitant()) for k in range(2)]
    assert train_population(fresh, task(), LOSS, short).together == 2  # never comes that far


def test_a_recipe_that_cannot_be_is_refused_before_any_member_is_trained():
    models = [made(0), made(1)]
    with pytest.raises(BadRecipe, match="batch_size is 71"):
        train_population(models, task(), LOSS, [Recipe(), Recipe(batch_size=71)])

    assert all(torch.equal(flat(model), flat(made(k))) for k, model in enumerate(models))


def test_little_memory_makes_members_take_turns():
    recipes = [Recipe(epochs=2, seed=k) for k in range(5)]
    plenty = [made(k) for k in range(5)]
    train_population(plenty, task(), LOSS, recipes)

    scarce = [made(k) for k in range(5)]
    told = train_population(scarce, task(), LOSS, recipes, memory=60_000)

    assert "take turns" in told.notes[0]
    for one, other in zip(plenty, scarce, strict=True):
        assert torch.allclose(flat(one), flat(other), rtol=1e-9, atol=1e-9)


def test_frozen_parameters_stay_and_differ_by_member():
    def half_frozen(seed):
        model = made(seed)
        model[0].requires_grad_(False)
        return model

    alone, together = ([half_frozen(k) for k in range(3)] for _ in range(2))
    recipe = Recipe(epochs=3)
    for model in alone:
        train(model, task(), LOSS, recipe)
    train_population(together, task(), LOSS, recipe)

    for k, (one, other) in enumerate(zip(alone, together, strict=True)):
        assert torch.allclose(flat(one), flat(other), rtol=1e-9, atol=1e-9)
        assert torch.equal(other[0].weight, made(k)[0].weight)


def test_validation_scores_each_member():
    told = train_population(
        [made(0), made(1)], task(), LOSS, Recipe(epochs=4), validation=task(seed=1)
    )

    assert [len(member.scores) for member in told.members] == [1, 1]
    assert all(member.scores[0].accuracy > 0.3 for member in told.members)


def test_members_of_another_architecture_are_refused():
    def other(seed, between):
        model = made(seed)
        model[1] = between
        return model

    with pytest.raises(BadModel, match="model 1 has loss"):
        train_population([made(0), other(1, nn.ReLU())], task(), LOSS)
    with pytest.raises(BadModel, match=r"model 1 differs from model 0 in 0.weight"):
        train_population([made(0), nn.Sequential(nn.Linear(6, 3)).double()], task(), LOSS)
    model = made(0)
    with pytest.raises(BadModel, match="given twice"):
        train_population([model, model], task(), LOSS)
    with pytest.raises(BadRecipe, match="2 models and 1 recipes"):
        train_population([made(0), made(1)], task(), LOSS, [Recipe()])
