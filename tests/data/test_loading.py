"""Data sets by name: the same samples every time, and one clear line for a name that nobody knows."""

import pytest
import torch

from unstick.data import NAMES, load
from unstick.errors import BadData


def test_every_known_name_leads_somewhere():
    assert sorted(NAMES) == [
        "blobs",
        "cifar-10",
        "circles",
        "digits",
        "fashion-mnist",
        "iris",
        "mnist",
        "mnist1d",
        "moons",
        "xor",
    ]


@pytest.mark.parametrize("name", ["digits", "iris", "moons"])
def test_equal_calls_give_equal_samples_in_equal_order(name):
    first, second = load(name), load(name)

    assert torch.equal(first.train_inputs, second.train_inputs)
    assert torch.equal(first.test_targets, second.test_targets)


@pytest.mark.parametrize("name", ["cifar", "", "Digits"])
def test_an_unknown_name_is_refused_with_the_known_ones(name):
    with pytest.raises(BadData, match=f"'{name}'; these are: digits, iris, .*file.py:function"):
        load(name)
