"""A network is what its words say: widths, activations and normalization, from a seed."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.special import erf, expit
from torch import nn

from training.cases import randn, values
from unstick.errors import BadModel, BadRecipe
from unstick.training.initialization import SCHEMES
from unstick.training.networks import ACTIVATIONS, network

FORMULAS = {
    "relu": lambda z: np.maximum(z, 0),
    "tanh": np.tanh,
    "sigmoid": expit,
    "gelu": lambda z: z * (1 + erf(z / np.sqrt(2))) / 2,
    "silu": lambda z: z * expit(z),
    "elu": lambda z: np.where(z > 0, z, np.expm1(z)),
    "softplus": lambda z: np.logaddexp(0, z),
    "none": lambda z: z,
}
FLAT, GRAY, COLOR = torch.zeros(64), torch.zeros(1, 28, 28), torch.zeros(3, 32, 32)


def kinds(model):
    return [type(module).__name__ for module in model]


def shapes(model):
    return [tuple(p.shape) for p in model.parameters()]


@pytest.mark.parametrize(
    ("spec", "widths"),
    [("linear", [64, 10]), ("5", [64, 5, 10]), ("512-16-3", [64, 512, 16, 3, 10])],
)
def test_widths_are_those_of_the_layers(spec, widths):
    expected = []
    for before, after in pairwise(widths):
        expected += [(after, before), (after,)]

    assert shapes(network(spec, FLAT, 10)) == expected
    assert shapes(network(spec, torch.zeros(1, 8, 8), 10)) == expected  # as many numbers


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_stand_between_layers_and_nowhere_else(activation):
    model = network("6-5", FLAT, 3, activation=activation).double()
    x = randn(20, 64)

    z = x.numpy()
    W1, b1, W2, b2, W3, b3 = (p.detach().numpy() for p in model.parameters())
    f = FORMULAS[activation]
    expected = f(f(z @ W1.T + b1) @ W2.T + b2) @ W3.T + b3
    np.testing.assert_allclose(model(x).detach().numpy(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("sample", "left"), [(GRAY, 4), (COLOR, 5), (torch.zeros(2, 13, 14), 1)])
def test_a_convolutional_network_halves_an_image_twice(sample, left):
    model = network("conv", sample, 7)
    channels = sample.shape[0]

    assert shapes(model)[:6] == [
        (16, channels, 5, 5), (16,), (32, 16, 5, 5), (32,), (64, 32 * left**2), (64,),
    ]  # fmt: skip
    assert model(sample.expand(4, *sample.shape)).shape == (4, 7)


@pytest.mark.parametrize(
    ("spec", "normalization", "expected"),
    [
        ("6-5", None, "Linear ReLU Linear ReLU Linear"),
        ("6-5", "batch", "Linear BatchNorm1d ReLU Linear BatchNorm1d ReLU Linear"),
        ("6-5", "layer", "Linear LayerNorm ReLU Linear LayerNorm ReLU Linear"),
        ("conv", "batch",
         "Conv2d BatchNorm2d ReLU Conv2d BatchNorm2d ReLU Flatten Linear BatchNorm1d ReLU Linear"),
        ("conv", "layer",
         "Conv2d GroupNorm ReLU Conv2d GroupNorm ReLU Flatten Linear LayerNorm ReLU Linear"),
    ],
)  # fmt: skip
def test_normalization_stands_before_each_activation(spec, normalization, expected):
    sample = GRAY if spec == "conv" else FLAT
    model = network(spec, sample, 3, normalization=normalization)

    assert kinds(model) == expected.split()


def test_by_default_weights_are_those_that_torch_builds_from_the_seed():
    with torch.random.fork_rng():
        torch.manual_seed(11)
        built = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3))

    found = network("8", FLAT, 3, seed=11)

    assert all(torch.equal(a, b) for a, b in zip(values(found), values(built), strict=True))


@pytest.mark.parametrize("spec", ["8-8", "conv"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_seed_alone_decides_the_weights_and_no_global_generator_moves(scheme, spec):
    def built(seed):
        return network(spec, GRAY, 10, scheme=scheme, seed=seed, normalization="batch")

    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = values(built(3))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again, other = values(built(3)), values(built(4))

    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    drawn = scheme not in ("zero", "one", "constant")
    assert any(not torch.equal(a, b) for a, b in zip(first, other, strict=True)) is drawn


def test_the_scheme_is_the_one_that_was_named():
    model = network("300", torch.zeros(400), 10, scheme="he")
    assert float(model[0].weight.detach().var()) == pytest.approx(2 / 400, rel=0.03)

    assert not any(p.any() for p in network("6", FLAT, 3, scheme="zero").parameters())


@pytest.mark.parametrize(
    ("spec", "sample", "changes", "told"),
    [
        ("64-", FLAT, {}, "the model is '64-'; expected widths such as 64-64, linear, or conv"),
        ("64-0", FLAT, {}, "the model is '64-0'"),
        ("-5", FLAT, {}, "the model is '-5'"),
        ("", FLAT, {}, "the model is ''"),
        ("resnet", FLAT, {}, "the model is 'resnet'"),
        ("conv", FLAT, {}, r"the samples have shape \[64\]; conv expects images"),
        (
            "conv",
            torch.zeros(1, 12, 30),
            {},
            r"shape \[1, 12, 30\]; conv expects .* at least 13 × 13",
        ),
        ("8", FLAT, {"activation": "swish"}, "activation is 'swish'; expected one of relu, tanh"),
        ("8", FLAT, {"normalization": "group"}, "kind is 'group'; expected one of batch, layer"),
        ("8", FLAT, {"scheme": "kaiming"}, "scheme is 'kaiming'; expected one of zero, one"),
        ("8", FLAT, {"outputs": 0}, "outputs is 0; expected a finite number > 0"),
    ],
)
def test_what_is_no_network_is_refused(spec, sample, changes, told):
    with pytest.raises(BadRecipe, match=told):
        network(spec, sample, **{"outputs": 3, **changes})


def test_a_single_layer_has_no_place_for_normalization():
    with pytest.raises(BadModel, match="expected at least two"):
        network("linear", FLAT, 3, normalization="batch")
