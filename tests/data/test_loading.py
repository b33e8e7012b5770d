"""Named data sets: the same samples every time, and one clear line when they cannot be had."""

import gzip
import os
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from unstick.data import NAMES, load
from unstick.data.loading import FILES
from unstick.errors import BadData

REAL = os.environ.get("UNSTICK_DATA")
needs_real_files = pytest.mark.skipif(
    REAL is None, reason="UNSTICK_DATA names no folder of IDX files"
)


def write_files(folder: Path, *, train=6, test=4, labels=None, size=28, seed=0):
    """A tiny data set of the published form."""
    draw = torch.Generator().manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for images, names, count in ((FILES[0], FILES[1], train), (FILES[2], FILES[3], test)):
        pixels = torch.randint(0, 256, (count, size, size), generator=draw, dtype=torch.uint8)
        header = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in pixels.shape)
        (folder / images).write_bytes(gzip.compress(header + pixels.numpy().tobytes()))
        values = bytes(k % 10 for k in range(count)) if labels is None else bytes(labels)
        header = bytes([0, 0, 8, 1]) + len(values).to_bytes(4, "big")
        (folder / names).write_bytes(gzip.compress(header + values))


def offline(*_args, **_options):
    raise OSError("Name or service not known")


@pytest.fixture
def no_network(monkeypatch):
    monkeypatch.setattr("sklearn.datasets.fetch_openml", offline)


def test_digits_are_split_1437_to_360_and_lie_between_0_and_1():
    digits = load("digits")

    assert digits.train_inputs.shape == (1437, 64)
    assert digits.test_inputs.shape == (360, 64)
    assert digits.train_inputs.dtype == torch.float32
    assert digits.train_targets.dtype == torch.int64
    assert (float(digits.train_inputs.min()), float(digits.train_inputs.max())) == (0.0, 1.0)
    assert sorted(set(digits.train_targets.tolist())) == list(range(10))


def test_equal_calls_give_equal_samples_in_equal_order():
    first, second = load("digits"), load("digits")

    assert torch.equal(first.train_inputs, second.train_inputs)
    assert torch.equal(first.test_targets, second.test_targets)


def test_standardized_inputs_have_mean_0_and_deviation_1_and_constant_features_survive():
    plain = load("digits")
    inputs = plain.standardized().train_inputs.double()
    varies = plain.train_inputs.amax(0) > plain.train_inputs.amin(0)

    assert not varies.all()  # digits have pixels that no training sample uses
    assert_close(inputs.mean(0), torch.zeros(64).double(), rtol=0, atol=1e-6)
    assert_close(inputs.std(0, correction=0), varies.double(), rtol=0, atol=1e-5)


def test_the_test_part_is_standardized_with_training_statistics():
    plain = load("digits")
    mean = plain.train_inputs.double().mean(0)
    deviation = plain.train_inputs.double().std(0, correction=0)
    deviation[deviation == 0] = 1
    expected = ((plain.test_inputs.double() - mean) / deviation).float()

    assert_close(plain.standardized().test_inputs, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("inside", [True, False], ids=["in a folder of its name", "at the top"])
def test_idx_files_are_found_in_the_folder(tmp_path, inside):
    write_files(tmp_path / "mnist" if inside else tmp_path)

    found = load("mnist", folder=tmp_path, download=False)

    assert found.train_inputs.shape == (6, 1, 28, 28)
    assert found.test_inputs.shape == (4, 1, 28, 28)
    assert found.train_targets.tolist() == [0, 1, 2, 3, 4, 5]
    assert 0.99 < float(found.train_inputs.max()) <= 1.0


def test_images_are_standardized_channel_by_channel(tmp_path):
    write_files(tmp_path)
    inputs = load("mnist", folder=tmp_path).standardized().train_inputs

    assert abs(float(inputs.mean())) < 1e-5
    assert abs(float(inputs.std(correction=0)) - 1) < 1e-5


def test_one_data_set_is_never_taken_for_another(tmp_path):
    write_files(tmp_path / "mnist")

    with pytest.raises(BadData, match="does not hold its files"):
        load("fashion-mnist", folder=tmp_path / "mnist", download=False)


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(BadData, match=r"'cifar'; these are: digits, mnist, fashion-mnist"):
        load("cifar")


def test_a_folder_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(BadData, match="is not a folder"):
        load("mnist", folder=tmp_path / "nowhere")


def test_a_missing_file_is_named(tmp_path):
    write_files(tmp_path)
    (tmp_path / FILES[3]).unlink()

    with pytest.raises(BadData, match=f"lacks {FILES[3]}"):
        load("mnist", folder=tmp_path)


def test_as_many_labels_as_images_are_expected(tmp_path):
    write_files(tmp_path, labels=[1, 2, 3])

    with pytest.raises(BadData, match="6 images and 3 labels"):
        load("mnist", folder=tmp_path)


def test_a_label_above_nine_is_refused(tmp_path):
    write_files(tmp_path, train=4, labels=[1, 2, 3, 17])

    with pytest.raises(BadData, match="label 17"):
        load("mnist", folder=tmp_path)


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"digits"}))
def test_without_files_and_network_one_line_says_what_to_do(name, tmp_path, no_network):
    with pytest.raises(BadData) as refusal:
        load(name, folder=tmp_path)

    assert "could not be downloaded (Name or service not known)" in str(refusal.value)
    assert f"give a folder that holds {name}/train-images-idx3-ubyte.gz" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_without_download_nothing_is_asked_of_the_network(no_network):
    with pytest.raises(BadData, match="no folder was given, and downloading is off"):
        load("mnist", download=False)


def test_a_download_is_split_as_published(monkeypatch):
    class Bunch:
        data = torch.arange(70_000).remainder(256).to(torch.uint8)[:, None].expand(-1, 784).numpy()
        target = tuple(str(k % 10) for k in range(70_000))

    monkeypatch.setattr("sklearn.datasets.fetch_openml", lambda *_args, **_options: Bunch)

    found = load("mnist")

    assert found.train_inputs.shape == (60_000, 1, 28, 28)
    assert found.test_targets[:3].tolist() == [0, 1, 2]
    assert float(found.train_inputs[255, 0, 0, 0]) == 1.0


@needs_real_files
@pytest.mark.parametrize(
    ("name", "first"), [("mnist", [5, 0, 4, 1, 9]), ("fashion-mnist", [9, 0, 0, 3, 0])]
)
def test_the_real_files_hold_what_was_published(name, first):
    found = load(name, folder=REAL, download=False)

    assert found.train_inputs.shape == (60_000, 1, 28, 28)
    assert found.test_inputs.shape == (10_000, 1, 28, 28)
    assert found.train_targets[:5].tolist() == first
    assert found.train_targets.bincount(minlength=10).min() > 5_000
