"""A data set: parts that fit together, statistics of the training part only, and a seeded validation part."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from unstick.data import Dataset, load
from unstick.errors import BadData


def numbered(samples=20, test=5, classes=2):
    """Every sample tells its own number: inputs k and 2k, target k mod classes."""
    k = torch.arange(float(samples + test))
    inputs, targets = torch.stack([k, 2 * k], dim=1), k.long() % classes
    parts = (inputs[:samples], targets[:samples], inputs[samples:], targets[samples:])
    return Dataset("numbers", *parts, description="numbers", classes=classes)


def test_standardized_inputs_have_mean_0_and_deviation_1_and_constant_features_survive():
    plain = load("digits")
    inputs = plain.standardized().train_inputs.double()
    varies = plain.train_inputs.amax(0) > plain.train_inputs.amin(0)

    assert not varies.all()  # digits have pixels that no training sample uses
    assert_close(inputs.mean(0), torch.zeros(64).double(), rtol=0, atol=1e-6)
    assert_close(inputs.std(0, correction=0), varies.double(), rtol=0, atol=1e-5)


def test_every_other_part_is_standardized_with_training_statistics():
    plain = load("digits").split(0.1, seed=3)
    train = plain.train_inputs.double().numpy()
    deviation = train.std(0)
    deviation[deviation == 0] = 1
    found = plain.standardized()

    for part, given in (
        (found.test_inputs, plain.test_inputs),
        (found.validation_inputs, plain.validation_inputs),
    ):
        expected = (given.double().numpy() - train.mean(0)) / deviation
        np.testing.assert_allclose(part.numpy(), expected, rtol=1e-4, atol=1e-4)


def test_images_are_standardized_channel_by_channel():
    draw = torch.Generator().manual_seed(0)
    scale = torch.tensor([1.0, 10.0, 0.1])[:, None, None]
    images = 3 + scale * torch.randn(50, 3, 4, 4, generator=draw)
    targets = torch.zeros(50).long()
    plain = Dataset("images", images, targets, images, targets, "", classes=1)

    found = plain.standardized().train_inputs

    assert_close(found.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    assert_close(found.std((0, 2, 3), correction=0), torch.ones(3), rtol=0, atol=1e-5)
    assert not torch.allclose(found.mean(0), torch.zeros(3, 4, 4), atol=1e-3)  # not pixel by pixel


def test_standardizing_leaves_targets_of_a_regression_alone():
    x, y = torch.randn(6, 2, generator=torch.Generator().manual_seed(0)), torch.arange(6.0)[:, None]

    assert torch.equal(Dataset("line", x, y, x, y, "", classes=0).standardized().train_targets, y)


@pytest.mark.parametrize(("fraction", "aside"), [(0.25, 5), (0.05, 1), (0.95, 19), (0.23, 5)])
def test_a_split_deals_every_training_sample_to_one_part_with_its_target(fraction, aside):
    whole = numbered()
    parts = whole.split(fraction, seed=0)
    kept, chosen = parts.train_inputs[:, 0].tolist(), parts.validation_inputs[:, 0].tolist()

    assert len(chosen) == aside
    assert sorted(kept + chosen) == list(range(20))
    assert parts.train_targets.tolist() == [k % 2 for k in kept]
    assert parts.validation_targets.tolist() == [k % 2 for k in chosen]
    assert parts.test_inputs is whole.test_inputs


def test_both_parts_of_a_split_keep_their_order():
    parts = numbered().split(0.5, seed=1)

    assert parts.train_inputs[:, 0].diff().min() > 0
    assert parts.validation_inputs[:, 0].diff().min() > 0


def test_a_split_is_decided_by_its_seed_alone():
    torch.manual_seed(0)
    first = numbered().split(0.3, seed=5)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    again, other = numbered().split(0.3, seed=5), numbered().split(0.3, seed=6)

    assert torch.equal(first.validation_inputs, again.validation_inputs)
    assert not torch.equal(first.validation_inputs, other.validation_inputs)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_split_is_even_handed():
    counts = np.zeros(20)
    for seed in range(400):
        counts[numbered().split(0.25, seed=seed).validation_inputs[:, 0].long().numpy()] += 1

    # 100 expected, deviation √(400 · ¼ · ¾) = 8.7; beyond 5 deviations once in 10⁵ runs
    assert counts.sum() == 2000
    assert np.abs(counts - 100).max() < 44


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_a_fraction_out_of_range_is_refused(fraction):
    with pytest.raises(ValueError, match="between 0 and 1, both excluded"):
        numbered().split(fraction, seed=0)


@pytest.mark.parametrize("fraction", [0.01, 0.99])
def test_a_split_that_leaves_a_part_empty_is_refused(fraction):
    with pytest.raises(BadData, match="of the 20 training samples of numbers aside; expected"):
        numbered().split(fraction, seed=0)


def test_a_second_split_is_refused():
    with pytest.raises(BadData, match="has a validation part already"):
        numbered().split(0.5, seed=0).split(0.5, seed=0)


X, Y = torch.zeros(3, 2), torch.tensor([0, 1, 1])


@pytest.mark.parametrize(
    ("parts", "classes", "says"),
    [
        ((X, Y[:2], X, Y), 2, r"training part of odd has inputs of shape \[3, 2\] and targets"),
        ((X, Y, X, Y[:2]), 2, r"test part of odd .* as many of one as of the other"),
        ((X, torch.tensor(1), X, Y), 2, "as many of one as of the other"),
        ((X[:0], Y[:0], X, Y), 2, "training part of odd holds no sample"),
        ((X, Y, X[:0], Y[:0]), 2, "test part of odd holds no sample"),
        ((X, Y, X[:, :1], Y), 2, r"samples of shape \[\[1\], \[\]\]; expected \[\[2\], \[\]\]"),
        ((X, Y, X, Y[:, None]), 2, r"samples of shape \[\[2\], \[1\]\]"),
        ((X.long(), Y, X, Y), 2, "inputs of type torch.int64; expected floating point"),
        ((X, Y, X, Y), 0, "targets of type torch.int64 and classes=0; expected floating point"),
        ((X, Y.float(), X, Y), 2, "targets of type torch.float32 and classes=2"),
        ((X, Y, X, Y), 1, "training part of odd has the class 1; expected 0 to 0"),
        ((X, Y, X, Y - 1), 2, "test part of odd has the class -1; expected 0 to 1"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(parts, classes, says):
    with pytest.raises(BadData, match=says):
        Dataset("odd", *parts, description="", classes=classes)


def test_half_a_validation_part_is_refused():
    with pytest.raises(BadData, match="half a validation part"):
        Dataset("odd", X, Y, X, Y, "", 2, validation_inputs=X)
