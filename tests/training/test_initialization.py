"""Laws of the start: what a scheme draws, from which seed, and what symmetry keeps."""

import numpy as np
import pytest
import torch
from torch import nn

from cases import digits, network, train
from training.cases import same, values
from unstick.errors import BadModel, BadRecipe
from unstick.training.initialization import SCHEMES, initialize


def varied():
    """Something of every kind that is treated in its own way."""
    return nn.ModuleDict(
        {
            "table": nn.Embedding(50, 8, padding_idx=0),
            "conv": nn.Conv2d(4, 6, 3, groups=2),
            "norm": nn.BatchNorm2d(6),
            "lstm": nn.LSTM(8, 4, proj_size=2),
            "cell": nn.GRUCell(8, 4),
            "attention": nn.MultiheadAttention(8, 2, add_bias_kv=True),
            "slope": nn.PReLU(),
            "head": nn.Linear(8, 1),
        }
    )


@pytest.mark.parametrize(
    ("layer", "fan_in", "fan_out"),
    [
        (nn.Linear(400, 100), 400, 100),
        (nn.Conv2d(32, 64, 3), 32 * 9, 64 * 9),
        (nn.Conv2d(32, 64, 3, groups=4), 8 * 9, 16 * 9),
        (nn.ConvTranspose2d(32, 64, 3), 32 * 9, 64 * 9),
        (nn.ConvTranspose1d(64, 128, 5, groups=4), 16 * 5, 32 * 5),
    ],
    ids=str,
)
def test_weights_have_the_variance_of_their_own_fans(layer, fan_in, fan_out):
    model = nn.Sequential(layer)

    initialize(model, "he", seed=1)
    assert float(layer.weight.data.var()) == pytest.approx(2 / fan_in, rel=0.06)
    initialize(model, "he", seed=1, gain=1.0)
    assert float(layer.weight.data.var()) == pytest.approx(1 / fan_in, rel=0.06)
    initialize(model, "xavier", seed=1)
    assert float(layer.weight.data.var()) == pytest.approx(2 / (fan_in + fan_out), rel=0.06)
    bound = (6 / (fan_in + fan_out)) ** 0.5
    assert 0.99 * bound < float(layer.weight.data.abs().max()) <= bound
    initialize(model, "normal", seed=1, std=0.3)
    assert float(layer.weight.data.std()) == pytest.approx(0.3, rel=0.03)
    assert not layer.bias.any()


def test_stacked_matrices_are_orthogonal_one_by_one():
    model = nn.ModuleList([nn.LSTM(8, 5), nn.GRUCell(8, 5), nn.MultiheadAttention(8, 2)]).double()
    initialize(model, "orthogonal", seed=0)
    lstm, cell, attention = model

    stacks = [(lstm.weight_ih_l0, 4), (lstm.weight_hh_l0, 4), (cell.weight_ih, 3)]
    for weight, count in [*stacks, (attention.in_proj_weight, 3)]:
        for W in weight.detach().numpy().reshape(count, -1, weight.shape[1]):
            np.testing.assert_allclose(W @ W.T, np.eye(len(W)), atol=1e-12)


@pytest.mark.parametrize(("scheme", "expected"), [("zero", 0.0), ("one", 1.0), ("constant", 0.05)])
def test_filled_weights_hold_one_number_and_normalization_starts_at_one_and_zero(scheme, expected):
    model = varied()
    with torch.no_grad():
        model["norm"].weight.fill_(7.0)
        model["norm"].running_mean.fill_(7.0)
    before = {name: p.clone() for name, p in model.named_parameters()}

    done = initialize(model, scheme, seed=0)

    parameters = dict(model.named_parameters())
    for name in set(done.drawn) - {"table.weight"}:
        assert (parameters[name] == expected).all(), name
    table = model["table"].weight
    assert (table[1:] == expected).all()
    assert not table[0].any()  # padding
    assert (model["norm"].weight == 1).all()
    assert not model["norm"].running_mean.any()
    assert all(not parameters[n].any() for n in done.reset if n != "norm.weight")
    left = {"slope.weight", "attention.bias_k", "attention.bias_v"}
    assert set(done.left) == left
    assert all(torch.equal(parameters[name], before[name]) for name in left)
    assert set(done.drawn) | set(done.reset) | left == set(parameters)


def test_an_embedding_gives_variance_one_where_a_matrix_would_keep_it():
    table = nn.Embedding(2000, 64)

    initialize(table, "he", seed=0)
    assert float(table.weight.data.std()) == pytest.approx(1.0, rel=0.02)
    initialize(table, "normal", seed=0)
    assert float(table.weight.data.std()) == pytest.approx(0.01, rel=0.02)


def test_tied_parameters_are_drawn_once_and_as_the_matrix_that_they_are():
    model = nn.Sequential(nn.Embedding(1000, 100), nn.Linear(100, 1000, bias=False))
    model[1].weight = model[0].weight

    done = initialize(model, "he", seed=0)

    assert done.drawn == ("0.weight",)
    assert model[1].weight is model[0].weight
    assert float(model[1].weight.data.var()) == pytest.approx(2 / 100, rel=0.02)


def test_default_is_what_torch_builds_from_the_same_seed():
    def build():
        return nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.PReLU(), nn.LSTM(4, 3),
            nn.MultiheadAttention(4, 2, add_bias_kv=True), nn.Embedding(5, 4, padding_idx=1), nn.Linear(4, 2),
        )  # fmt: skip

    with torch.random.fork_rng():
        torch.manual_seed(11)
        built = build()
        model = build()

    done = initialize(model, "default", seed=11)

    assert not done.left
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, built.get_parameter(name)), name


def test_default_leaves_and_names_what_nobody_sets():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.full((3, 3), 5.0))
            self.inner = nn.Linear(3, 3)

    model = Scaled()

    done = initialize(model, "default", seed=0)

    assert set(done.left) == {"scale"}
    assert (model.scale == 5.0).all()


def test_default_does_not_reset_what_is_computed():
    class Positive(nn.Module):
        def forward(self, weight):
            assert torch.isfinite(weight).all()
            return weight.exp()

    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    nn.utils.parametrize.register_parametrization(model[1], "weight", Positive())

    done = initialize(model, "default", seed=0)

    assert done.drawn == ("0.weight",)
    assert "1.parametrizations.weight.original" in done.left


@pytest.mark.parametrize("scheme", SCHEMES)
def test_equal_seeds_give_equal_starts_and_no_global_generator_moves(scheme):
    first, second, other = varied(), varied(), varied()
    other.load_state_dict(first.state_dict())
    second["slope"].load_state_dict(first["slope"].state_dict())
    second["attention"].load_state_dict(first["attention"].state_dict())
    state = torch.get_rng_state()

    initialize(first, scheme, seed=3)
    initialize(second, scheme, seed=3)
    initialize(other, scheme, seed=4)

    assert torch.equal(torch.get_rng_state(), state)
    assert same(second, values(first))
    assert same(other, values(first)) == (scheme in ("zero", "one", "constant"))


def test_biases_are_zero_or_torchs_own_or_kept():
    model = nn.Sequential(nn.Linear(400, 300))
    with torch.no_grad():
        model[0].bias.fill_(9.0)

    assert "0.bias" in initialize(model, "he", seed=0, biases="keep").left
    assert (model[0].bias == 9).all()
    initialize(model, "he", seed=0, biases="default")
    assert 0.045 < float(model[0].bias.data.abs().max()) <= 0.05  # 1/√400
    assert float(model[0].weight.data.var()) == pytest.approx(2 / 400, rel=0.02)
    initialize(model, "default", seed=0, biases="zero")
    assert not model[0].bias.any()
    assert float(model[0].weight.data.abs().max()) <= 0.05


def test_frozen_and_parametrized_weights_stay_and_are_named():
    model = nn.Sequential(
        nn.Linear(3, 3), nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)), nn.BatchNorm1d(3), nn.Linear(3, 3)
    )  # fmt: skip
    model[0].requires_grad_(False)
    model[2].requires_grad_(False)
    model[2].running_mean.fill_(2.0)
    before = values(model)[:2] + [p.clone() for p in model[1].parametrizations.parameters()]

    for scheme in ("he", "default"):
        done = initialize(model, scheme, seed=0)

        assert done.drawn == ("3.weight",)
        assert "0.weight" in done.left
        assert "1.parametrizations.weight.original1" in done.left
        after = values(model)[:2] + list(model[1].parametrizations.parameters())
        assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
        assert (model[2].running_mean == 2).all()


def descended(start, *, width, **options):
    """A network on 256 digits after 40 steps of plain SGD, from a seeded start."""
    inputs, targets = digits()
    model = network(64, width, 10).double()
    initialize(model, start, seed=0, **options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    inputs, targets = inputs[:256].double(), targets[:256]
    return train(model, optimizer, inputs, targets, updates=40, batch_size=32)


@pytest.mark.parametrize("value", [0.05, -0.02])
def test_equal_weights_stay_equal_bit_for_bit_through_training(value):
    # As wide as a vector register: in wider products the kernels round some columns in another order.
    model = descended("constant", value=value, width=4)

    W, V = model[0].weight.detach(), model[2].weight.detach()
    assert float((W - value).abs().max()) > 0.01
    assert torch.equal(W, W[:1].expand_as(W))
    assert torch.equal(V, V[:, :1].expand_as(V))


def test_equal_weights_of_a_wide_layer_stay_equal_up_to_rounding():
    W = descended("constant", width=128)[0].weight.detach()

    assert float((W - W[:1]).abs().max()) < 1e-15


def test_weights_that_are_only_nearly_equal_move_apart():
    start = network(64, 32, 10).double()
    initialize(start, "normal", std=1e-4, seed=0)

    spreads = [
        float((W - W.mean(0)).norm())
        for W in (start[0].weight.data, descended("normal", std=1e-4, width=32)[0].weight.data)
    ]

    assert spreads[1] > 3 * spreads[0]


def test_from_zero_only_the_last_bias_learns():
    inputs, targets = digits()
    model = network(64, 16, 10).double()
    initialize(model, "zero", seed=0)

    train(model, torch.optim.SGD(model.parameters(), lr=0.1), inputs.double(), targets, updates=5)

    moved = [name for name, p in model.named_parameters() if p.any()]
    assert moved == ["2.bias"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"scheme": "kaiming"}, "expected one of zero, one"),
        ({"scheme": "he", "biases": "none"}, "biases is 'none'"),
        ({"scheme": "normal", "std": -1.0}, "std is -1.0"),
        ({"scheme": "constant", "value": float("nan")}, "value is nan"),
        ({"scheme": "zero", "gain": 2.0}, "gain is 2.0 with 'zero'"),
        ({"scheme": "he", "gain": 0.0}, "above 0"),
    ],
)
def test_an_unusable_scheme_is_refused_before_anything_changes(arguments, told):
    model = varied()
    before = values(model)

    with pytest.raises(BadRecipe, match=told):
        initialize(model, **arguments, seed=0)

    assert same(model, before)


def test_models_that_cannot_be_initialized_are_refused_whole():
    class Broken(nn.Linear):
        def reset_parameters(self):
            if getattr(self, "built", False):
                raise RuntimeError("no\nway")
            super().reset_parameters()
            self.built = True

    model = nn.Sequential(nn.Linear(2, 2), Broken(2, 2))
    before = values(model)
    with pytest.raises(BadModel, match="reset_parameters of Broken failed: RuntimeError: no way"):
        initialize(model, "default", seed=0)
    assert same(model, before)
    with pytest.raises(BadModel, match="has no shape yet"):
        initialize(nn.LazyLinear(3), "he", seed=0)
    with pytest.raises(BadModel, match="no weight that 'he' could set"):
        initialize(nn.Sequential(nn.BatchNorm1d(3)), "he", seed=0)
    with pytest.raises(BadModel, match="frozen"):
        initialize(nn.Linear(2, 2).requires_grad_(False), "he", seed=0)
