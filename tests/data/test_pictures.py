"""Pictures from files or by download: found, whole, the published ones, or one clear line."""

import gzip
import hashlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from unstick.data import load
from unstick.data.pictures import CIFAR_FILES, IDX_FILES, PICTURES, SOURCES
from unstick.data.published import PUBLISHED, Published, digest
from unstick.errors import BadData

REAL = os.environ.get("UNSTICK_DATA")
needs_real_files = pytest.mark.skipif(
    REAL is None, reason="UNSTICK_DATA names no folder of IDX files"
)


def idx(array):
    """The contents of an IDX file of unsigned bytes."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_files(folder: Path, *, train=6, test=4, labels=None, size=28, seed=0):
    """A tiny data set of the published form."""
    draw = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for images, names, count in ((IDX_FILES[0], IDX_FILES[1], train), (*IDX_FILES[2:], test)):
        pixels = draw.integers(0, 256, (count, size, size))
        (folder / images).write_bytes(gzip.compress(idx(pixels)))
        values = np.arange(count) % 10 if labels is None else np.array(labels)
        (folder / names).write_bytes(gzip.compress(idx(values)))


def write_records(folder: Path, *, each=2):
    """A tiny data set in the form of CIFAR-10's binary version: label, then red, green and blue planes."""
    folder.mkdir(parents=True, exist_ok=True)
    planes = np.repeat([10, 20, 30], 1024)
    for number, file in enumerate(CIFAR_FILES):
        records = [np.concatenate([[number], planes + k]) for k in range(each)]
        (folder / file).write_bytes(np.stack(records).astype(np.uint8).tobytes())


def offline(*_args, **_options):
    raise OSError("Name or service not known")


@pytest.fixture
def no_network(monkeypatch):
    monkeypatch.setattr("sklearn.datasets.fetch_openml", offline)


@pytest.mark.parametrize("inside", [True, False], ids=["in a folder of its name", "at the top"])
def test_idx_files_are_found_in_the_folder(tmp_path, inside):
    write_files(tmp_path / "mnist" if inside else tmp_path)

    found = load("mnist", folder=tmp_path, download=False)

    assert found.train_inputs.shape == (6, 1, 28, 28)
    assert found.test_inputs.shape == (4, 1, 28, 28)
    assert found.train_targets.tolist() == [0, 1, 2, 3, 4, 5]
    assert 0.99 < float(found.train_inputs.max()) <= 1.0


@pytest.mark.parametrize("inside", [True, False], ids=["in a folder of its name", "at the top"])
def test_the_binary_version_of_cifar_is_found_in_the_folder(tmp_path, inside):
    write_records(tmp_path / "cifar-10" if inside else tmp_path)

    found = load("cifar-10", folder=str(tmp_path), download=False)

    assert found.train_inputs.shape == (10, 3, 32, 32)
    assert found.train_targets.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert found.test_targets.tolist() == [5, 5]
    assert (found.test_inputs[1] * 255).mean((1, 2)).round().tolist() == [11, 21, 31]
    assert found.classes == 10
    assert "not the published samples" in found.description


def test_one_data_set_is_never_taken_for_another(tmp_path):
    write_files(tmp_path / "mnist")

    with pytest.raises(BadData, match="does not hold its files"):
        load("fashion-mnist", folder=tmp_path / "mnist", download=False)


@pytest.mark.parametrize("name", PICTURES)
def test_a_folder_that_does_not_exist_is_refused(tmp_path, name):
    with pytest.raises(BadData, match="is not a folder"):
        load(name, folder=tmp_path / "nowhere")


def test_a_missing_file_is_named(tmp_path):
    write_files(tmp_path)
    (tmp_path / IDX_FILES[3]).unlink()

    with pytest.raises(BadData, match=f"lacks {IDX_FILES[3]}; all 4 files are needed"):
        load("mnist", folder=tmp_path)


def test_as_many_labels_as_images_are_expected(tmp_path):
    write_files(tmp_path, labels=[1, 2, 3])

    with pytest.raises(BadData, match=r"\[6, 1, 28, 28\] and targets of shape \[3\]"):
        load("mnist", folder=tmp_path)


def test_a_label_above_nine_is_refused(tmp_path):
    write_files(tmp_path, train=4, labels=[1, 2, 3, 17])

    with pytest.raises(BadData, match="class 17; expected 0 to 9"):
        load("mnist", folder=tmp_path)


@pytest.mark.parametrize(
    ("content", "says"), [(b"", "holds 0 bytes"), (b"x" * 3072, "whole records of 3,073: fetch")]
)
def test_records_that_are_cut_off_are_refused(tmp_path, content, says):
    write_records(tmp_path)
    (tmp_path / CIFAR_FILES[2]).write_bytes(content)

    with pytest.raises(BadData, match=says) as refusal:
        load("cifar-10", folder=tmp_path)

    assert CIFAR_FILES[2] in str(refusal.value)


def test_a_digest_is_that_of_the_uncompressed_file():
    array = np.random.default_rng(0).integers(0, 256, (5, 3, 2))

    assert digest(torch.from_numpy(array).byte()) == hashlib.sha256(idx(array)).hexdigest()
    assert digest(torch.from_numpy(array).byte().reshape(5, 2, 3)) != digest(
        torch.from_numpy(array).byte()
    )


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A tiny data set that is, for once, the published MNIST."""
    write_files(tmp_path)
    contents = [gzip.decompress((tmp_path / file).read_bytes()) for file in IDX_FILES]
    shapes = [(6, 28, 28), (6,), (4, 28, 28), (4,)]
    known = (
        Published(shape, hashlib.sha256(content).hexdigest())
        for shape, content in zip(shapes, contents, strict=True)
    )
    monkeypatch.setitem(PUBLISHED, "mnist", tuple(known))
    return tmp_path


def test_the_published_contents_are_said_to_be_published(published):
    assert "from IDX files, as published; 6 to train" in load("mnist", folder=published).description


@pytest.mark.parametrize("file", IDX_FILES)
def test_one_changed_byte_in_files_of_the_published_shape_is_refused(published, file):
    content = bytearray(gzip.decompress((published / file).read_bytes()))
    content[-1] ^= 1
    (published / file).write_bytes(gzip.compress(content))

    with pytest.raises(
        BadData, match=r"has the shape of the published mnist, .* fetch it again"
    ) as no:
        load("mnist", folder=published)

    assert file in str(no.value)
    assert "\n" not in str(no.value)


@pytest.mark.parametrize("other", [{"train": 5}, {"test": 3}, {"size": 14}], ids=str)
def test_data_of_another_shape_are_taken_and_said_not_to_be_published(published, other):
    write_files(published, **other)
    if "size" not in other:
        write_files(published, **{"train": 7, "test": 7} | other)

    assert "not the published samples" in load("mnist", folder=published).description


@pytest.mark.parametrize("name", PICTURES)
def test_without_files_and_network_one_line_says_what_to_do(name, tmp_path, no_network):
    with pytest.raises(BadData) as refusal:
        load(name, folder=tmp_path)

    first = CIFAR_FILES[0] if name == "cifar-10" else IDX_FILES[0]
    assert "could not be downloaded (Name or service not known)" in str(refusal.value)
    assert f"give a folder that holds {name}/{first} and its" in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", PICTURES)
def test_without_download_nothing_is_asked_of_the_network(name, no_network):
    with pytest.raises(BadData, match="no folder was given, and downloading is off"):
        load(name, download=False)


def downloaded(monkeypatch, name, images, labels, **changed):
    """What openml.org would send: rows of numbers, and labels as text; of smaller images than usual."""

    class Bunch:
        data = images
        target = np.array([str(label) for label in labels])

    asked = []

    def fetch(asked_for, **_options):
        asked.append(asked_for)
        return Bunch

    monkeypatch.setattr("sklearn.datasets.fetch_openml", fetch)
    monkeypatch.setitem(SOURCES, name, replace(SOURCES[name], **changed))
    return asked


@pytest.mark.parametrize(
    ("name", "openml"), [("mnist", "mnist_784"), ("fashion-mnist", "Fashion-MNIST")]
)
def test_a_download_is_split_as_published(monkeypatch, name, openml):
    rows = (np.arange(70_000)[:, None] + [0, 1, 2, 3]) % 256
    asked = downloaded(monkeypatch, name, rows, np.arange(70_000) % 10, shape=(1, 2, 2))

    found = load(name)

    assert asked == [openml]
    assert found.train_inputs.shape == (60_000, 1, 2, 2)
    assert (found.train_inputs[1, 0] * 255).round().tolist() == [[1, 2], [3, 4]]
    assert found.test_targets[:3].tolist() == [0, 1, 2]
    assert float(found.train_inputs[255, 0, 0, 0]) == 1.0
    assert "from openml.org, not the published samples" in found.description


def test_a_download_with_the_published_contents_is_said_to_be_published(published, monkeypatch):
    files = load("mnist", folder=published)
    pixels = torch.cat([files.train_inputs, files.test_inputs]).mul(255).round().reshape(10, 784)
    labels = torch.cat([files.train_targets, files.test_targets])
    downloaded(monkeypatch, "mnist", pixels.double().numpy(), labels.tolist(), training=6)

    found = load("mnist")

    assert "from openml.org, as published" in found.description
    assert torch.equal(found.test_inputs, files.test_inputs)


BALANCED = np.arange(60_000) % 10


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (BALANCED, "as published"),
        (np.random.default_rng(0).permutation(BALANCED), "not the published samples"),
        (np.append(BALANCED[:59_999], 0), "not the published samples"),
    ],
    ids=["balanced", "shuffled", "one label changed"],
)
def test_a_download_of_cifar_is_known_by_the_counts_of_its_classes(monkeypatch, labels, says):
    rows = np.tile([10, 20, 30], (60_000, 1))
    asked = downloaded(monkeypatch, "cifar-10", rows, labels, shape=(3, 1, 1))

    found = load("cifar-10")

    assert asked == ["CIFAR_10"]
    assert (found.train_inputs[0] * 255).flatten().round().tolist() == [10, 20, 30]
    assert (len(found.train_inputs), len(found.test_inputs)) == (50_000, 10_000)
    assert f"from openml.org, {says};" in found.description


@needs_real_files
@pytest.mark.parametrize(
    ("name", "first"), [("mnist", [5, 0, 4, 1, 9]), ("fashion-mnist", [9, 0, 0, 3, 0])]
)
def test_the_real_files_hold_what_was_published(name, first):
    found = load(name, folder=REAL, download=False)

    assert "from IDX files, as published" in found.description
    assert found.train_inputs.shape == (60_000, 1, 28, 28)
    assert found.test_inputs.shape == (10_000, 1, 28, 28)
    assert found.train_targets[:5].tolist() == first
    assert found.train_targets.bincount(minlength=10).min() > 5_000
