"""Standardized inputs: their statistics, the layer that does the same, and how well conditioned they are."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from cases import digits
from training.cases import randn, same, values
from unstick.data import Dataset
from unstick.errors import BadData, BadModel, NonFinite
from unstick.training.standardizing import Standardized, Standardizer, condition_number


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


# Standardized: a model between the two scales


def scaled():
    """Inputs and targets far from mean 0 and deviation 1; one input is constant."""
    x, y = 7 + 50 * randn(40, 3), 100 + 20 * randn(40, 2)
    x[:, 1] = 4.0
    return x, y


def dense():
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()


@pytest.mark.parametrize("targets", [True, False])
@pytest.mark.parametrize("inputs", [True, False])
def test_the_outputs_are_the_models_between_both_scales_by_hand(inputs, targets):
    (x, y), model = scaled(), dense()
    wrapped = Standardized(model, inputs=x if inputs else None, targets=y if targets else None)

    X, Y = x.numpy(), y.numpy()
    deviation = X.std(0)
    deviation[1] = 1
    z = torch.from_numpy((X - X.mean(0)) / deviation) if inputs else x
    with torch.no_grad():
        out = model(z).numpy()
        expected = out * Y.std(0) + Y.mean(0) if targets else out
        np.testing.assert_allclose(wrapped(x).numpy(), expected, rtol=1e-10)


def test_images_are_standardized_by_channel_inside_the_model():
    images = 9 + 30 * randn(6, 2, 4, 4)
    wrapped = Standardized(nn.Identity(), inputs=images)

    out = wrapped(images.float()).double().numpy()
    np.testing.assert_allclose(out.mean((0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(out.std((0, 2, 3)), 1, rtol=1e-5)
    assert wrapped(images[:, :, :2]).shape == (6, 2, 2, 4)


def test_its_numbers_are_saved_and_loaded_with_the_model():
    x, y = scaled()
    one, other = Standardized(dense(), inputs=x, targets=y), Standardized(dense(), inputs=x + 1, targets=2 * y)  # fmt: skip
    other.load_state_dict(one.state_dict())

    assert_close(other(x), one(x), rtol=0, atol=0)
    assert {n for n in one.state_dict() if not n.startswith("model.")} == {
        "input_mean", "input_deviation", "target_mean", "target_deviation"
    }  # fmt: skip
    assert set(Standardized(dense()).state_dict()) == {f"model.{n}" for n in dense().state_dict()}


def test_its_parameters_are_the_models_own_and_its_numbers_are_not_trained():
    x, y = scaled()
    model = dense()
    wrapped = Standardized(model, inputs=x, targets=y)

    assert [id(p) for p in wrapped.parameters()] == [id(p) for p in model.parameters()]
    assert wrapped.model is model
    assert not any(buffer.requires_grad for buffer in wrapped.buffers())


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_its_numbers_have_the_models_type(kind):
    x, y = scaled()
    wrapped = Standardized(dense().to(kind), inputs=x, targets=y)

    assert {buffer.dtype for buffer in wrapped.buffers()} == {kind}
    assert wrapped(x.to(kind)).dtype == kind
    assert {b.dtype for b in wrapped.double().buffers()} == {torch.float64}


def test_a_shuffled_copy_of_the_data_standardizes_alike():
    x, y = scaled()
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    model = dense()

    one, other = (Standardized(deepcopy(model), inputs=a, targets=b) for a, b in ((x, y), (x[order], y[order])))  # fmt: skip
    assert_close(one(x), other(x), rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("what", ["inputs", "targets"])
def test_data_without_statistics_are_refused(what):
    with pytest.raises(BadData, match="not empty"):
        Standardized(dense(), **{what: torch.empty(0, 3)})
    with pytest.raises(BadData, match="expected"):
        Standardized(dense(), **{what: randn(5)})
    with pytest.raises(NonFinite, match="inf or nan"):
        Standardized(dense(), **{what: randn(5, 3) / 0})


def step(model, optimizer, x, y):
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.zero_grad()
    nn.functional.mse_loss(model(x), y).backward()
    optimizer.step()
    return [p.detach() - b for p, b in zip(model.parameters(), before, strict=True)]


@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_a_step_on_raw_targets_is_that_on_standardized_ones_with_the_rate_by_their_variance(rule):
    x, y = scaled()
    y = y[:, :1]
    one = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    other = deepcopy(one)
    wrapped = Standardized(one, inputs=x, targets=y)
    X, Y = x.numpy(), y.numpy()
    deviation = X.std(0)
    deviation[1] = 1
    z, t = torch.from_numpy((X - X.mean(0)) / deviation), torch.from_numpy((Y - Y.mean()) / Y.std())
    if rule == "sgd":  # its gradients are the variance times as long
        makes = lambda p, by: torch.optim.SGD(p, 0.1 / by)  # noqa: E731
    else:  # its steps do not depend on that, but for the epsilon
        makes = lambda p, _: torch.optim.Adam(p, 0.1, eps=1e-12)  # noqa: E731
    raw = step(wrapped, makes(wrapped.parameters(), float(Y.var())), x, y)
    plain = step(other, makes(other.parameters(), 1.0), z, t)

    for a, b in zip(raw, plain, strict=True):
        assert_close(a, b, rtol=1e-6, atol=1e-12)
