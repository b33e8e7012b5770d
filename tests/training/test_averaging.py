"""SWAP: the average of workers that each went on alone, with statistics of its own."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from training.cases import randn, same, values
from unstick.errors import BadRecipe
from unstick.training.averaging import swap
from unstick.training.loop import train
from unstick.training.recipe import Recipe
from unstick.training.samples import evaluate

LOSS = nn.CrossEntropyLoss()
LARGE = Recipe(lr=0.2, batch_size=40, epochs=6)
SMALL = Recipe(lr=0.1, batch_size=10, epochs=3, seed=5)


def task(samples=80, seed=0):
    inputs = randn(samples, 6, seed=seed)
    return inputs, (inputs[:, :3].argmax(1) + (inputs[:, 3] > 0)) % 3


def net(normalized=True, dropout=0.0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        between = [nn.BatchNorm1d(8)] if normalized else []
        between += [nn.Dropout(dropout)] if dropout else []
        return nn.Sequential(nn.Linear(6, 8), *between, nn.ReLU(), nn.Linear(8, 3)).double()


def by_hand(model, workers, *, large=LARGE, small=SMALL):
    """The phases one after the other: the model before the second one, and every worker after it."""
    train(model, task(), LOSS, large)
    copies = [deepcopy(model) for _ in range(workers)]
    for k, copy in enumerate(copies):
        train(copy, task(), LOSS, replace(small, seed=small.seed + k))
    return model, copies


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize(
    "made",
    [net, lambda: net(normalized=False), lambda: net(dropout=0.3)],
    ids=["batch norm", "plain", "dropout"],
)
def test_the_parameters_are_the_mean_of_the_workers(made, workers):
    model = made()
    told = swap(model, task(), LOSS, large=LARGE, small=SMALL, workers=workers)
    before, copies = by_hand(made(), workers)

    named = [dict(copy.named_parameters()) for copy in copies]
    for name, parameter in model.named_parameters():
        mean = np.mean([each[name].detach().numpy() for each in named], 0)
        np.testing.assert_allclose(parameter.detach(), mean, rtol=1e-9, atol=1e-12)
    if workers > 1:
        assert not torch.allclose(named[0]["0.weight"], named[1]["0.weight"])
    assert told.before.loss == pytest.approx(evaluate(before, task(), LOSS).loss, rel=1e-12)
    expected = [evaluate(copy, task(), LOSS).loss for copy in copies]
    assert [score.loss for score in told.apart] == pytest.approx(expected, rel=1e-9)
    assert told.averaged.loss == evaluate(model, task(), LOSS).loss


def test_the_statistics_are_those_of_the_averaged_parameters_over_the_small_batches():
    model = net()
    swap(model, task(), LOSS, large=LARGE, small=SMALL, workers=3)

    W, b = (p.detach().numpy() for p in model[0].parameters())
    parts = np.split(task()[0].numpy() @ W.T + b, 8)  # of ten samples each, in the data's order
    means, variances = [p.mean(0) for p in parts], [p.var(0, ddof=1) for p in parts]
    np.testing.assert_allclose(model[1].running_mean, np.mean(means, 0), rtol=0, atol=1e-13)
    np.testing.assert_allclose(model[1].running_var, np.mean(variances, 0), rtol=1e-12)


def test_a_last_batch_of_one_sample_that_training_leaves_out_has_no_say_in_the_statistics():
    model, (inputs, targets) = net(), task(81)
    large, small = (replace(recipe, drop_last=True) for recipe in (LARGE, SMALL))
    swap(model, (inputs, targets), LOSS, large=large, small=small, workers=2)

    hidden = model[0](inputs[:80]).detach().numpy().reshape(8, 10, 8)
    np.testing.assert_allclose(model[1].running_mean, hidden.mean((0, 1)), rtol=0, atol=1e-13)


def test_the_first_phase_ends_at_its_target():
    model, alone = net(), net()
    large = replace(LARGE, epochs=500, target_loss=0.7)
    told = swap(model, task(), LOSS, large=large, small=SMALL, workers=2)
    expected = train(alone, task(), LOSS, large)

    assert told.together.outcome == "target reached"
    assert 0 < len(told.together.trace.loss) < 1000
    assert told.together.trace.loss == expected.trace.loss
    assert [len(member.trace.loss) for member in told.workers.members] == [24, 24]
    assert told.outcome == "done"


def test_scores_are_taken_on_the_validation_data_or_else_on_the_training_data():
    model, unseen = net(), task(60, seed=9)
    told = swap(model, task(), LOSS, large=LARGE, small=SMALL, workers=2, validation=unseen)
    plain = swap(net(), task(), LOSS, large=LARGE, small=SMALL, workers=2)

    scores = (told.before, *told.apart, told.averaged)
    assert [score.split for score in scores] == ["validation"] * 4
    assert told.averaged.loss == evaluate(model, unseen, LOSS).loss
    assert told.averaged.accuracy == evaluate(model, unseen, LOSS).accuracy
    assert [score.split for score in (plain.before, *plain.apart, plain.averaged)] == [
        "training"
    ] * 4
    assert plain.averaged.loss != told.averaged.loss
    assert f"validation {told.averaged}" in str(told)
    assert "The average of 2 workers has loss" in told.headline()


def test_the_cost_is_that_of_both_phases():
    told = swap(net(), task(), LOSS, large=LARGE, small=SMALL, workers=3)

    assert told.cost.samples == 80 * (6 + 3 * 3)
    assert told.cost.gradients == pytest.approx(6 + 3 * 3)
    assert told.cost.seconds >= told.together.cost.seconds


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_equal_seeds_give_equal_bits_whatever_the_global_seed_is(dropout):
    def end(start, **changes):
        torch.manual_seed(start)
        state, model = torch.get_rng_state(), net(dropout=dropout)
        swap(model, task(), LOSS, large=LARGE, small=replace(SMALL, **changes), workers=2)
        assert torch.equal(torch.get_rng_state(), state)
        return values(model)

    first, again, other = end(1), end(2), end(1, seed=8)

    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_a_batch_loss_of_ones_own_gives_the_same_average():
    one, other = net(), net()
    swap(one, task(), LOSS, large=LARGE, small=SMALL, workers=2)
    told = swap(
        other,
        task(),
        batch_loss=lambda model, batch: LOSS(model(batch[0]), batch[1]),
        large=LARGE,
        small=SMALL,
        workers=2,
    )

    assert same(other, values(one))
    assert told.averaged.accuracy is None


@pytest.mark.parametrize("workers", [0, -1])
def test_fewer_than_one_worker_is_refused_before_anything_moves(workers):
    model = net()
    before = values(model)

    with pytest.raises(BadRecipe, match=f"workers is {workers}; expected at least 1"):
        swap(model, task(), LOSS, large=LARGE, small=SMALL, workers=workers)
    assert same(model, before)


@pytest.mark.parametrize(
    ("small", "told"),
    [
        (replace(SMALL, batch_size=81), "batch_size is 81 and there are 80 samples"),
        (replace(SMALL, optimizer="adan"), "optimizer is 'adan'"),
        (replace(SMALL, beta1=0.9), "sgd has no beta1"),
    ],
    ids=str,
)
def test_a_second_phase_that_cannot_be_is_refused_before_the_first_one_moves_the_model(small, told):
    model = net()
    before = values(model)

    with pytest.raises(BadRecipe, match=told):
        swap(model, task(), LOSS, large=LARGE, small=small)
    assert same(model, before)
