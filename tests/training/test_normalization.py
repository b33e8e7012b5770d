"""Laws of normalization inside models: put in, taken out again, and its statistics computed anew."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

from cases import network
from training.cases import randn, same, values
from unstick.errors import BadData, BadModel, BadRecipe, NonFinite
from unstick.training.normalization import (
    batch_norm,
    insert_normalization,
    layer_norm,
    recompute_statistics,
    strip_normalization,
)


def convolutional():
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.ConvTranspose2d(4, 3, 3, stride=2), nn.ReLU()),
        nn.Flatten(),
        nn.Linear(3 * 7 * 7, 5),
    ).double()


class Residual(nn.Module):
    """A forward pass of its own: a list of blocks, a skip, and a way that depends on the mode."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.blocks = nn.ModuleList(nn.Linear(6, 6) for _ in range(2))
        self.head = nn.Linear(6, 3)
        self.double()

    def forward(self, x):
        x = torch.relu(self.first(x))
        for block in self.blocks:
            x = x + torch.relu(block(x))
        return self.head(nn.functional.dropout(x, 0.5, self.training))


class Calling(nn.Module):
    """Two layers, called as the given function has it."""

    def __init__(self, forward):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4))
        self.call = forward

    def forward(self, x):
        return self.call(self, x)


MODELS = {
    "perceptron": (lambda: network(6, 5, 4, 3).double(), (40, 6)),
    "convolutional": (convolutional, (20, 2, 8, 8)),
    "residual": (Residual, (40, 6)),
}


@pytest.mark.parametrize("p", [0.0, 0.3, 0.9])
@pytest.mark.parametrize(("dims", "shape"), [(1, (8, 3)), (2, (8, 3, 4, 4)), (3, (8, 3, 2, 2, 2))])
def test_moving_averages_keep_p_and_take_the_unbiased_variance(p, dims, shape):
    norm = batch_norm(3, p=p, dims=dims).double()
    mean, variance = np.zeros(3), np.ones(3)
    over = (0, *range(2, len(shape)))

    for seed in range(5):
        batch = 4 + 2 * randn(*shape, seed=seed)
        norm(batch)
        mean = p * mean + (1 - p) * batch.numpy().mean(over)
        variance = p * variance + (1 - p) * batch.numpy().var(over, ddof=1)

    np.testing.assert_allclose(norm.running_mean, mean, rtol=1e-12)
    np.testing.assert_allclose(norm.running_var, variance, rtol=1e-12)


def test_layer_norm_treats_each_sample_alone():
    flat, maps = randn(6, 5), randn(6, 3, 4, 4)

    assert_close(layer_norm(5).double()(flat).mean(1), torch.zeros(6).double())
    out = layer_norm(3, dims=2).double()(maps)
    assert_close(out.mean((1, 2, 3)), torch.zeros(6).double())
    assert_close(layer_norm(3, dims=2).double()(maps[:1]), out[:1])


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (lambda: batch_norm(3, p=1.0), "p is 1.0"),
        (lambda: batch_norm(3, p=-0.1), "p is -0.1"),
        (lambda: batch_norm(3, dims=4), "dims is 4"),
        (lambda: layer_norm(3, dims=4), "dims is 4"),
        (lambda: insert_normalization(network(2, 2, 2), kind="group"), "kind is 'group'"),
        (lambda: insert_normalization(network(2, 2, 2), before="loss"), "before is 'loss'"),
        (lambda: insert_normalization(network(2, 2, 2), p=2.0), "p is 2.0"),
    ],
)
def test_settings_out_of_range_are_refused(build, told):
    with pytest.raises(BadRecipe, match=told):
        build()


@pytest.mark.parametrize("kind", ["batch", "layer"])
@pytest.mark.parametrize("before", ["activation", "layer"])
@pytest.mark.parametrize("name", MODELS)
def test_inserted_normalization_gives_mean_0_and_variance_1(name, before, kind):
    build, shape = MODELS[name]
    model = build()
    original = values(model)
    changed = insert_normalization(model, kind=kind, before=before)
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d) if kind == "batch" else (nn.LayerNorm, nn.GroupNorm)
    norms = [module for module in changed.modules() if isinstance(module, kinds)]
    outputs = []
    for norm in norms:
        norm.eps = 1e-30
        norm.register_forward_hook(lambda m, args, output: outputs.append(output.detach()))

    changed(2 * randn(*shape))

    layers = [
        m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d))
    ]
    assert len(outputs) == len(norms) == len(layers) - 1
    for out in outputs:
        over = tuple(d for d in range(out.ndim) if d != (1 if kind == "batch" else 0))
        variance = out.var(over, correction=0)
        alive = variance > 0  # a unit that is 0 for all of a batch stays 0
        assert alive.double().mean() > 0.5
        assert_close(out.mean(over), torch.zeros_like(variance), rtol=0, atol=1e-10)
        assert_close(variance[alive], torch.ones_like(variance[alive]), rtol=0, atol=1e-10)
    assert same(model, original)
    weights = [m.weight for m in changed.modules() if isinstance(m, type(layers[0]))]
    assert torch.equal(weights[0], layers[0].weight)


def test_it_stands_after_each_layer_but_the_last_or_before_each_but_the_first():
    model = network(6, 5, 4, 3)

    def kinds(changed):
        return [f"{type(m).__name__}{getattr(m, 'num_features', '')}" for m in changed]

    assert kinds(insert_normalization(model)) == [
        "Linear", "BatchNorm1d5", "Tanh", "Linear", "BatchNorm1d4", "Tanh", "Linear",
    ]  # fmt: skip
    assert kinds(insert_normalization(model, before="layer")) == [
        "Linear", "Tanh", "BatchNorm1d5", "Linear", "Tanh", "BatchNorm1d4", "Linear",
    ]  # fmt: skip


def test_names_stay_where_a_model_gave_them_and_the_mode_and_type_are_the_layers():
    model = nn.Sequential(OrderedDict(one=nn.Linear(2, 2), act=nn.ReLU(), two=nn.Linear(2, 2)))
    model.double().eval()

    changed = insert_normalization(model, p=0.75)

    assert [name for name, _ in changed.named_children()] == ["one", "one_norm", "act", "two"]
    assert not changed.one_norm.training
    assert changed.one_norm.running_mean.dtype == torch.float64
    assert changed.one_norm.momentum == 0.25


def test_a_model_of_its_own_class_keeps_it_and_its_dropout():
    changed = insert_normalization(Residual())
    x = randn(40, 6)

    assert type(changed) is Residual
    assert isinstance(changed.blocks[1][1], nn.BatchNorm1d)
    assert not torch.equal(changed(x), changed(x))
    changed.eval()
    assert torch.equal(changed(x), changed(x))


class Flipped(nn.Module):
    """An activation that looks at its values."""

    def forward(self, x):
        return x if x.sum() > 0 else -x


class Own(nn.Linear):
    """A linear layer of a user's own."""


def test_activations_and_layers_of_a_users_own_are_not_looked_into():
    model = nn.Sequential(Own(3, 3), Flipped(), Own(3, 3))

    assert isinstance(insert_normalization(model)[1], nn.BatchNorm1d)


@pytest.mark.parametrize(
    ("forward", "told"),
    [
        (lambda m, x: m.b(m.a(m.a(x))), "used twice"),
        (lambda m, x: m.a(m.c[0](m.b(x))), "picked by its number"),
        (lambda m, x: m.b(m.c[0](x)), "picked by its number"),
        (lambda m, x: m.b(m.a(x)) @ m.a.weight, "cannot be followed"),
        (lambda m, x: m.b(m.a(x)) if x.sum() > 0 else x, "cannot be followed"),
        (lambda m, x: m.a(x), "calls 1 linear layers"),
        (lambda m, x: x, "calls 0 linear layers"),
    ],
)
def test_forward_passes_that_cannot_take_it_are_refused(forward, told):
    model = Calling(forward)
    before = values(model)

    with pytest.raises(BadModel, match=told):
        insert_normalization(model)
    assert same(model, before)


def test_one_layer_at_two_places_and_what_normalizes_already_are_refused():
    layer = nn.Linear(3, 3)
    with pytest.raises(BadModel, match="used twice"):
        insert_normalization(nn.Sequential(layer, nn.ReLU(), layer))
    with pytest.raises(BadModel, match=r"normalizes already \(1\)"):
        insert_normalization(insert_normalization(network(3, 3, 3)))


# taken out again


def trained(name, **options):
    """A model with batch normalization whose statistics and scales are like no others."""
    build, shape = MODELS[name]
    model = insert_normalization(build(), **options)
    for seed in range(3):
        model(2 + 3 * randn(*shape, seed=seed))
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            with torch.no_grad():
                module.weight.copy_(randn(module.num_features, seed=7))
                module.bias.copy_(randn(module.num_features, seed=8))
    return model, randn(*shape, seed=9)


@pytest.mark.parametrize("name", MODELS)
def test_folded_batch_normalization_leaves_the_outputs_in_eval_mode(name):
    model, x = trained(name)
    before = values(model)

    folded = strip_normalization(model)

    assert not any(isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)) for m in folded.modules())
    assert all(module.training for module in folded.modules())
    assert all(p.requires_grad for p in folded.parameters())
    assert same(model, before)
    assert_close(folded.eval()(x), model.eval()(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_dropped_normalization_gives_the_model_from_before_it(name):
    build, shape = MODELS[name]
    plain, x = build(), randn(*shape)
    normalized = insert_normalization(plain)
    normalized(x)

    stripped = strip_normalization(normalized, fold=False)

    assert any(isinstance(m, nn.Identity) for m in stripped.modules())
    assert torch.equal(stripped.eval()(x), plain.eval()(x))
    assert not torch.allclose(normalized.eval()(x), plain(x))


def test_statistics_without_scale_fold_and_layer_normalization_stays():
    model = nn.Sequential(
        nn.Linear(3, 4), nn.BatchNorm1d(4, affine=False), nn.LayerNorm(4), nn.Linear(4, 2)
    ).double()
    x = randn(20, 3)
    model(x)
    model[0].requires_grad_(False)
    model[1].eval()

    folded = strip_normalization(model)

    assert isinstance(folded[1], nn.Identity)
    assert isinstance(folded[2], nn.LayerNorm)
    assert [m.training for m in folded] == [True, False, True, True]
    assert not folded[0].weight.requires_grad
    assert not folded[0].bias.requires_grad
    assert_close(folded.eval()(x), model.eval()(x), rtol=0, atol=1e-12)
    assert not any(isinstance(m, nn.LayerNorm) for m in strip_normalization(model, fold=False))


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3)),
        nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.BatchNorm1d(3)),
        nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, track_running_stats=False)),
        nn.Sequential(nn.ConvTranspose1d(4, 4, 3, groups=2), nn.BatchNorm1d(4)),
        nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(5)),
        nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)), nn.BatchNorm1d(3)),
        nn.Sequential(*[nn.Linear(3, 3), nn.BatchNorm1d(3)] * 2),
    ],
    ids=["first", "after ReLU", "no statistics", "grouped", "other size", "parametrized", "twice"],
)
def test_batch_normalization_that_does_not_come_straight_from_a_layer_is_not_folded(model):
    before = values(model)

    with pytest.raises(BadModel, match=r"cannot be folded.*fold=False"):
        strip_normalization(model)

    assert same(model, before)


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: m.c(m.norm(m.a(x))) + m.a(x),
        lambda m, x: (lambda h: m.norm(h) + h)(m.a(x)),
        lambda m, x: m.norm(m.a(x)) @ m.a.weight,
    ],
    ids=["layer called again", "output used again", "weight used again"],
)
def test_a_layer_that_something_else_uses_is_not_folded_into(forward):
    model = Calling(forward)
    model.norm = nn.BatchNorm1d(4)

    with pytest.raises(BadModel, match="nothing else uses"):
        strip_normalization(model)


def test_only_the_forward_pass_of_eval_mode_has_to_stay():
    def watching(mode):
        return lambda m, x: m.norm(m.a(x)) + (m.a.weight.sum() if m.training is mode else 0)

    in_training, in_eval = Calling(watching(True)), Calling(watching(False))
    in_training.norm, in_eval.norm = nn.BatchNorm1d(4), nn.BatchNorm1d(4)

    assert isinstance(strip_normalization(in_training).norm, nn.Identity)
    with pytest.raises(BadModel, match="nothing else uses"):
        strip_normalization(in_eval)


def test_models_without_normalization_are_told_so():
    with pytest.raises(BadModel, match="no batch normalization to fold; it has Sequential, Linear"):
        strip_normalization(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)))
    with pytest.raises(BadModel, match="no normalization to strip"):
        strip_normalization(network(2, 2, 2), fold=False)


# statistics


def hidden(model, x):
    W, b = (p.detach().numpy() for p in model[0].parameters())
    return x.numpy() @ W.T + b


def test_recomputed_statistics_are_means_over_the_batches():
    model = nn.Sequential(nn.Linear(3, 4), batch_norm(4, p=0.7), nn.Linear(4, 2)).double()
    model(100 * randn(10, 3))  # statistics of other data
    model[1].eval()
    parameters = [p.detach().clone() for p in model.parameters()]
    x = randn(30, 3)
    loader = DataLoader(TensorDataset(x, torch.zeros(30)), batch_size=10)

    recompute_statistics(model, loader)

    parts = np.split(hidden(model, x), 3)
    means, variances = [p.mean(0) for p in parts], [p.var(0, ddof=1) for p in parts]
    np.testing.assert_allclose(model[1].running_mean, np.mean(means, 0), atol=1e-13)
    np.testing.assert_allclose(model[1].running_var, np.mean(variances, 0), rtol=1e-12)
    assert [m.training for m in model] == [True, False, True]
    assert model[1].momentum == pytest.approx(0.3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), parameters, strict=True))


@pytest.mark.parametrize("given", [lambda x: x, lambda x: (x, torch.zeros(30)), lambda x: [x]])
def test_one_batch_gives_the_statistics_of_all_data(given):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()
    x = randn(30, 3)

    recompute_statistics(model, given(x))

    np.testing.assert_allclose(model[1].running_mean, hidden(model, x).mean(0), atol=1e-13)
    np.testing.assert_allclose(model[1].running_var, hidden(model, x).var(0, ddof=1), rtol=1e-12)


def test_dropout_is_seeded_and_no_global_generator_moves():
    x = randn(30, 3)
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 4), nn.BatchNorm1d(4)).double()
    state = torch.get_rng_state()

    found = []
    for seed in (0, 0, 1):
        recompute_statistics(model, [x], seed=seed)
        found.append(model[2].running_mean.clone())

    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert torch.equal(torch.get_rng_state(), state)


def test_data_and_models_that_cannot_be_used_change_nothing():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()
    model(randn(10, 3))
    before = values(model)

    with pytest.raises(BadData, match="no batch"):
        recompute_statistics(model, [])
    with pytest.raises(BadData, match="batches of one sample"):
        recompute_statistics(model, [randn(8, 3), randn(1, 3), randn(8, 3)])
    with pytest.raises(NonFinite, match="batch 0"):
        recompute_statistics(model, [randn(8, 3) / 0])
    with pytest.raises(RuntimeError, match="shapes"):
        recompute_statistics(model, [randn(8, 3), randn(8, 5), randn(8, 3)])
    assert same(model, before)
    with pytest.raises(BadModel, match="no batch normalization that keeps statistics"):
        recompute_statistics(network(2, 2, 2), [randn(4, 2)])
