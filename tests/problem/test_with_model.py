"""The same data and loss with another model: its values are those of a problem made of it, and nothing is shared."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn import functional

from cases import network
from unstick.errors import BadData, BadModel, NonFinite, UnstickError
from unstick.problem.problem import Problem
from unstick.training.standardizing import Standardized


def samples(count=20):
    draw = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, generator=draw), torch.randn(count, 2, generator=draw)


def given(**how):
    model = network(3, 5, 2)
    return model, Problem(model, samples(), nn.MSELoss(), **how)


@pytest.mark.parametrize("other", [
    lambda: network(3, 5, 2, seed=1),
    lambda: network(3, 7, 4, 2, activation=nn.ReLU, seed=2),
    lambda: network(3, 5, 2, seed=1).double(),
    lambda: Standardized(network(3, 5, 2, seed=3), inputs=samples()[0], targets=samples()[1]),
], ids=["alike", "larger", "float64", "wrapped"])  # fmt: skip
def test_values_and_gradients_are_those_of_a_problem_made_of_it(other):
    model = other()
    swapped = given()[1].with_model(model)
    made = Problem(model, samples(), nn.MSELoss())

    assert swapped.model is model
    assert swapped.n == made.n == sum(p.numel() for p in model.parameters())
    assert swapped.value() == pytest.approx(made.value(), rel=1e-12)
    torch.testing.assert_close(swapped.gradient(), made.gradient())
    assert (swapped.samples, swapped.lower_bound) == (20, 0.0)
    x, y = samples()
    with torch.no_grad():
        by_hand = functional.mse_loss(model.double()(x.double()), y.double())
    assert swapped.value() == pytest.approx(float(by_hand), rel=1e-6)


def test_neither_problem_follows_the_others_model():
    model, problem = given()
    before = problem.value()
    other = network(3, 5, 2, seed=1)
    swapped = problem.with_model(other)
    swapped.write(torch.zeros(swapped.n, dtype=swapped.dtype))

    assert problem.value() == before
    assert problem.model is model
    assert swapped.value() == pytest.approx(float(samples()[1].double().square().mean()), rel=1e-6)


def test_it_has_a_cost_of_its_own_in_the_same_unit():
    _, problem = given()
    problem.gradient()
    spent = problem.spent.gradients
    swapped = problem.with_model(network(3, 5, 2, seed=1))
    begin = swapped.spent.gradients
    swapped.gradient()

    assert problem.spent.gradients == spent
    assert swapped.spent.gradients - begin == pytest.approx(1.0)


def decayed(problem, model):
    """What weight decay adds to the loss of this model."""
    return problem.with_model(model).value() - given()[1].with_model(model).value()


@pytest.mark.parametrize("other", [
    lambda: network(3, 5, 2, seed=1),
    lambda: network(3, 7, 4, 2, seed=2),
    lambda: Standardized(network(3, 5, 2, seed=3), inputs=samples()[0]),
], ids=["alike", "larger", "wrapped"])  # fmt: skip
def test_weight_decay_of_one_number_is_that_of_all_parameters(other):
    model = other()
    squares = sum(float(p.detach().double().square().sum()) for p in model.parameters())

    assert decayed(given(weight_decay=0.5)[1], model) == pytest.approx(0.25 * squares, rel=1e-6)


@pytest.mark.parametrize(("other", "decaying"), [
    (lambda: network(3, 5, 2, seed=1), {"0.weight": 0.5, "2.bias": 3.0}),
    (lambda: network(3, 7, 2, seed=1), {"2.bias": 3.0}),  # the weight has another shape
    (lambda: Standardized(network(3, 5, 2, seed=3), inputs=samples()[0]), {}),  # all other names
], ids=["alike", "larger", "wrapped"])  # fmt: skip
def test_weight_decay_by_name_goes_with_equal_names_and_shapes(other, decaying):
    model = other()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1)
    _, problem = given(weight_decay={"0.weight": 0.5, "2.bias": 3.0})
    by_hand = sum(
        0.5 * decay * float(model.get_parameter(name).detach().double().square().sum())
        for name, decay in decaying.items()
    )

    assert decayed(problem, model) == pytest.approx(by_hand, rel=1e-6, abs=1e-12)
    gradient = problem.with_model(model).gradient() - given()[1].with_model(model).gradient()
    parts = [
        decaying.get(name, 0.0) * p.detach().double().flatten()
        for name, p in model.named_parameters()
    ]
    torch.testing.assert_close(gradient.double(), torch.cat(parts), rtol=1e-5, atol=1e-6)


def test_a_subset_stays_that_subset():
    model, problem = given()
    part = problem.subset(7, seed=3)

    assert part.with_model(model).value() == part.value()
    assert part.with_model(model).samples == 7


def test_only_trainable_parameters_count():
    model = network(3, 5, 2)
    model[0].requires_grad_(False)

    assert given()[1].with_model(model).n == 5 * 2 + 2


def test_the_new_models_modes_buffers_and_gradients_stay():
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 2))
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    given()[1].with_model(model).gradient()

    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert all(p.grad is None for p in model.parameters())


def test_a_functions_problem_takes_its_own_kind_of_model():
    problem = Problem.from_function(lambda x: (x * x).sum(), torch.ones(2).double())
    twin = deepcopy(problem.model)
    with torch.no_grad():
        twin.get_parameter("x").fill_(3.0)

    assert problem.with_model(twin).value() == 18.0
    assert problem.value() == 2.0


def broken():
    model = network(3, 5, 2)
    with torch.no_grad():
        model[0].weight[0, 0] = torch.nan
    return model


@pytest.mark.parametrize(("model", "error", "why"), [
    (lambda: network(3, 5, 2).requires_grad_(requires_grad=False), BadModel, "no trainable"),
    (lambda: network(4, 5, 2), BadModel, "batch 0"),
    (lambda: network(3, 5, 3), BadData, "broadcast"),
    (broken, NonFinite, "0.weight"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_and_nothing_has_changed(model, error, why):
    _, problem = given()
    before = problem.value()
    with pytest.raises(error, match=why) as refusal:
        problem.with_model(model())

    assert isinstance(refusal.value, UnstickError)
    assert "\n" not in str(refusal.value)
    assert problem.value() == before
