"""Data sets without files: the samples that results refer to, and points whose geometry is known."""

import hashlib
import random
import socket
import sys
from functools import cache
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from unstick.data import load
from unstick.errors import BadData

loaded = cache(load)  # for tests that ask what is loaded, not how
needs_mnist1d = pytest.mark.skipif(find_spec("mnist1d") is None, reason="mnist1d is not installed")
KNOWN = ["digits", "iris", pytest.param("mnist1d", marks=needs_mnist1d), "xor"]
SHA256 = {
    "digits": "d34620f891c93a338ec445515b1c0b565899c54ce6cd9a8342fd0012096cfda5",
    "iris": "7c1f5bd01b73372d3d5de77763dd9c0171ddc16f478055596f23e7386f302503",
    "mnist1d": "6aefcb12e83687c01daa57bd1aa2706d23a09c6bc6d4dba959803d55bcbe9277",
}


def digest(data):
    """Inputs to 16 binary places, so that the last bit of a machine's arithmetic does not matter, and targets."""
    found = hashlib.sha256()
    for inputs, targets in (
        (data.train_inputs, data.train_targets),
        (data.test_inputs, data.test_targets),
    ):
        found.update(np.rint(inputs.double().numpy() * 2**16).astype("<i4").tobytes())
        found.update(targets.numpy().astype("<i8").tobytes())
    return found.hexdigest()


@pytest.mark.parametrize(
    ("name", "train", "test", "features", "classes"),
    [
        ("digits", 1437, 360, 64, 10),
        ("iris", 120, 30, 4, 3),
        pytest.param("mnist1d", 4000, 1000, 40, 10, marks=needs_mnist1d),
        ("blobs", 700, 300, 2, 3),
        ("circles", 700, 300, 2, 2),
        ("moons", 700, 300, 2, 2),
        ("xor", 4, 4, 2, 2),
    ],
)
def test_every_table_has_its_sizes_and_every_class(name, train, test, features, classes):
    data = loaded(name)

    assert data.train_inputs.shape == (train, features)
    assert data.test_inputs.shape == (test, features)
    assert data.train_inputs.dtype == data.test_inputs.dtype == torch.float32
    assert data.train_targets.dtype == data.test_targets.dtype == torch.int64
    assert data.classes == classes
    for targets in (data.train_targets, data.test_targets):
        assert targets.unique().tolist() == list(range(classes))
    assert data.validation_inputs is None


@pytest.mark.parametrize("name", KNOWN[:3])
def test_the_samples_are_those_that_results_refer_to(name):
    assert digest(loaded(name)) == SHA256[name]


def test_digits_lie_between_0_and_1():
    inputs = load("digits").train_inputs

    assert (float(inputs.min()), float(inputs.max())) == (0.0, 1.0)


def test_xor_is_exclusive_or_and_tests_on_what_it_trains_on():
    data = load("xor")
    a, b = data.train_inputs.bool().unbind(1)

    assert len({tuple(row) for row in data.train_inputs.tolist()}) == 4
    assert torch.equal(data.train_targets, (a ^ b).long())
    assert torch.equal(data.test_inputs, data.train_inputs)


@pytest.mark.parametrize("seed", [0, 7])
def test_blobs_are_three_clouds_of_deviation_2(seed):
    data = load("blobs", seed=seed)

    for cloud in range(3):
        points = data.train_inputs[data.train_targets == cloud]
        assert 200 < len(points) < 267  # a third of 700, give or take
        # the deviation of a deviation from 200 points is 5 %
        assert points.std(0).sub(2).abs().max() < 0.5


@pytest.mark.parametrize(
    ("name", "label", "center", "radius"),
    [
        ("circles", 0, (0.0, 0.0), 1.0),
        ("circles", 1, (0.0, 0.0), 0.5),
        ("moons", 0, (0.0, 0.0), 1.0),
        ("moons", 1, (1.0, 0.5), 1.0),
    ],
)
def test_points_lie_on_their_circle_with_noise_of_a_tenth(name, label, center, radius):
    data = load(name, seed=1)
    away = data.train_inputs[data.train_targets == label] - torch.tensor(center)
    distance = away.norm(dim=1)

    # noise across the circle adds about noise² / 2r to the mean distance
    assert abs(float(distance.mean()) - radius - 0.01 / (2 * radius)) < 0.03
    assert 0.08 < float(distance.std()) < 0.12


@pytest.mark.parametrize("name", ["blobs", "circles", "moons"])
def test_points_are_decided_by_their_seed_and_no_seed_is_0(name):
    first, again, other = load(name), load(name, seed=0), load(name, seed=1)

    assert torch.equal(first.train_inputs, again.train_inputs)
    assert torch.equal(first.test_targets, again.test_targets)
    assert not torch.equal(first.train_inputs, other.train_inputs)
    assert "seed 1" in other.description


@needs_mnist1d
def test_mnist1d_has_500_samples_of_each_class_and_unit_scale_over_all():
    data = loaded("mnist1d")
    inputs = torch.cat([data.train_inputs, data.test_inputs]).double()
    targets = torch.cat([data.train_targets, data.test_targets])

    assert targets.bincount().tolist() == [500] * 10
    assert abs(float(inputs.mean())) < 1e-6
    assert abs(float(inputs.std(correction=0)) - 1) < 1e-6


@pytest.mark.parametrize("name", ["blobs", "circles", "moons", *KNOWN])
def test_no_global_generator_moves_and_nothing_is_asked_of_the_network(name, monkeypatch):
    def refuse(*_arguments):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    random.seed(1)
    np.random.seed(2)  # noqa: NPY002
    torch.manual_seed(3)
    expected = random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002, S311
    random.seed(1)
    np.random.seed(2)  # noqa: NPY002
    torch.manual_seed(3)

    load(name)

    assert (random.random(), np.random.rand(), torch.rand(1)) == expected  # noqa: NPY002, S311


def test_without_its_package_mnist1d_says_what_to_install(monkeypatch):
    for module in ("mnist1d", "mnist1d.data"):
        monkeypatch.setitem(sys.modules, module, None)
    state = random.getstate()

    with pytest.raises(BadData, match=r"cannot be imported .*; run pip install mnist1d") as refusal:
        load("mnist1d")

    assert "\n" not in str(refusal.value)
    assert random.getstate() == state
