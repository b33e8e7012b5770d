"""Standardized inputs: their statistics, the layer that does the same, and how well conditioned they are."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from cases import digits
from training.cases import randn, same, values
from unstick.data import Dataset
from unstick.errors import BadData, BadModel, NonFinite
from unstick.training.standardizing import Standardizer, condition_number


def test_standardized_inputs_have_mean_0_and_deviation_1_and_constants_survive():
    train = 3 + 100 * randn(50, 4)
    train[:, 2] = 0.7
    test = train[:7] + 1

    fitted = Standardizer.fit(train)

    out = fitted.apply(train).numpy()
    np.testing.assert_allclose(out.mean(0), 0, atol=1e-13)
    np.testing.assert_allclose(out.std(0)[[0, 1, 3]], 1, rtol=1e-13)
    assert not out[:, 2].any()
    scale = train.numpy().std(0)
    scale[2] = 1
    expected = (test.numpy() - train.numpy().mean(0)) / scale
    np.testing.assert_allclose(fitted.apply(test).numpy(), expected, rtol=1e-12)


def test_a_constant_whose_computed_deviation_is_rounding_is_still_constant():
    alone = torch.full((50, 1), 0.7, dtype=torch.float64)
    assert float(alone.std()) > 0

    assert not Standardizer.fit(alone).apply(alone).any()


def test_images_are_standardized_channel_by_channel_whatever_their_size():
    images = torch.randint(0, 256, (9, 3, 5, 5), generator=torch.Generator().manual_seed(0)).byte()
    images[:, 1] = 7

    fitted = Standardizer.fit(images)
    out = fitted.apply(images)

    assert out.dtype == torch.float32
    assert_close(out.double().std((0, 2, 3), correction=0)[[0, 2]], torch.ones(2).double(), rtol=0, atol=1e-6)  # fmt: skip
    assert not out[:, 1].any()
    assert fitted.apply(images[..., :2]).shape == (9, 3, 5, 2)


def test_a_data_set_standardizes_itself_alike():
    x, y = randn(30, 4).float(), torch.zeros(30).long()
    data = Dataset("planted", x, y, x + 1, y, "", classes=1)

    assert_close(Standardizer.fit(x).apply(x + 1), data.standardized().test_inputs)


@pytest.mark.parametrize("bias", [True, False])
def test_a_first_layer_absorbs_the_scaling_and_gives_it_back(bias):
    raw = 5 + 30 * randn(40, 6)
    raw[:, 3] = 2.0
    fitted, layer = Standardizer.fit(raw), nn.Linear(6, 4, bias=bias).double()
    before = values(layer)

    folded = fitted.fold_into(layer)

    assert_close(folded(raw), layer(fitted.apply(raw)), rtol=0, atol=1e-12)
    assert_close(fitted.fold_out_of(folded).weight, layer.weight, rtol=0, atol=1e-14)
    assert_close(fitted.fold_out_of(layer)(fitted.apply(raw)), layer(raw), rtol=0, atol=1e-11)
    assert same(layer, before)
    assert folded.weight.requires_grad
    assert folded.bias.requires_grad


def test_unusable_inputs_and_layers_are_refused():
    fitted = Standardizer.fit(randn(5, 3))

    with pytest.raises(BadData, match="not empty"):
        Standardizer.fit(torch.empty(0, 3))
    with pytest.raises(BadData, match=r"expected \[samples, features"):
        Standardizer.fit(randn(5))
    with pytest.raises(NonFinite, match="inf or nan"):
        Standardizer.fit(randn(5, 3) / 0)
    for wrong in (randn(5, 4), randn(5), randn(5, 3, 2, 2)):
        with pytest.raises(BadData, match="as those it was fitted on"):
            fitted.apply(wrong)
    for layer in (nn.Linear(4, 3), nn.Conv2d(3, 3, 1)):
        with pytest.raises(BadModel, match=r"expected nn.Linear of \[3\] inputs"):
            fitted.fold_into(layer)


def test_the_condition_number_is_that_of_numpy_before_and_after():
    X = randn(60, 5) * torch.tensor([1.0, 10.0, 3.0, 0.2, 40.0]).double() + 2
    found = condition_number(X)

    Z = (X.numpy() - X.numpy().mean(0)) / X.numpy().std(0)
    assert found.before == pytest.approx(np.linalg.cond(X.numpy().T @ X.numpy()), rel=1e-9)
    assert found.after == pytest.approx(np.linalg.cond(Z.T @ Z), rel=1e-9)
    assert (found.zero_before, found.zero_after, found.features) == (0, 0, 5)
    assert found.after < 5 < 1e3 < found.before
    assert "condition number from" in str(found)


def test_directions_without_inputs_are_counted_and_left_out():
    X = randn(60, 4)
    X[:, 1] = 6.0  # constant: a direction of X, none once standardized
    X[:, 3] = 2 * X[:, 0]  # twice the same
    found = condition_number(X)

    rest = X.numpy()[:, [0, 2]]
    Z = (rest - rest.mean(0)) / rest.std(0) * np.sqrt([2, 1])  # two equal columns: one √2 as long
    assert (found.zero_before, found.zero_after) == (1, 2)
    assert found.after == pytest.approx(np.linalg.cond(Z.T @ Z), rel=1e-9)


def test_on_digits_pixels_that_are_always_blank_are_not_scaled():
    inputs, _ = digits()
    found = condition_number(inputs)

    X = inputs.double().numpy()
    used = X.std(0) > 0
    Z = (X[:, used] - X[:, used].mean(0)) / X[:, used].std(0)
    singular = np.linalg.svd(Z, compute_uv=False)
    assert found.zero_after == int((~used).sum()) > 0
    assert found.after == pytest.approx((singular[0] / singular[-1]) ** 2, rel=1e-6)


def test_inputs_that_are_all_alike_have_no_condition():
    with pytest.raises(BadData, match="all alike"):
        condition_number(torch.ones(5, 3))
