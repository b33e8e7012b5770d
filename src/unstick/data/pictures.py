"""MNIST, Fashion-MNIST and CIFAR-10: from files in a folder, or by download from openml.org.

Answers: where do the images come from, are they whole, and are they the published ones?
Does not answer: what an IDX file looks like inside (``idx``), or what was published (``published``).

References:
    A. Krizhevsky (2009), Learning Multiple Layers of Features from Tiny Images.
    Those of ``published``.
"""

import warnings
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unstick.data.dataset import Dataset
from unstick.data.idx import read_idx
from unstick.data.published import PUBLISHED
from unstick.errors import BadData

__all__ = ["PICTURES", "pictures"]

CLASSES = 10
IDX_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
CIFAR_FILES = (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin")


@dataclass(frozen=True, slots=True)
class _Source:
    """What is known of a data set before it is read."""

    what: str
    openml: str  # what openml.org calls it
    shape: tuple[int, int, int]  # channels, height, width
    training: int  # samples to train on; the rest is to test on
    files: tuple[str, ...]


SOURCES = {
    "mnist": _Source("handwritten digits", "mnist_784", (1, 28, 28), 60_000, IDX_FILES),
    "fashion-mnist": _Source(
        "pictures of clothes", "Fashion-MNIST", (1, 28, 28), 60_000, IDX_FILES
    ),
    "cifar-10": _Source(
        "color photographs of animals and vehicles", "CIFAR_10", (3, 32, 32), 50_000, CIFAR_FILES
    ),
}

PICTURES = tuple(SOURCES)
"""What ``pictures`` knows."""


@dataclass(frozen=True, slots=True)
class _Bytes:
    """Images and labels, unscaled."""

    train_images: Tensor  # [N, channels, height, width] uint8
    train_labels: Tensor  # [N]
    test_images: Tensor
    test_labels: Tensor
    source: str


def pictures(name: str, *, folder: Path | None, download: bool) -> Dataset:
    """One of ``PICTURES``, as images [N, channels, height, width] in [0, 1].

    Raises:
        BadData: A folder that does not exist, files that are missing or damaged, or no download.

    Cost:
        Half a second from a folder, a tenth of it to check the contents. A download is kept by scikit-learn and
        parsed anew each time, in about 15 s (MNIST), or a minute and 2 GB (CIFAR-10).
    """
    source = SOURCES[name]
    place = None if folder is None else _place(name, folder)
    if place is not None:
        missing = [file for file in source.files if not (place / file).exists()]
        if missing:
            raise BadData(
                f"{place} lacks {', '.join(missing)}; all {len(source.files)} files are needed"
            )
        found = _from_records(place) if name == "cifar-10" else _from_idx(name, place)
    elif download:
        found = _from_openml(name)
    else:
        where = "no folder was given" if folder is None else f"{folder} does not hold its files"
        raise BadData(f"{name} is not here: {where}, and downloading is off; {_advice(name)}")
    height, width = found.train_images.shape[2:]
    kept = "as published" if _published(name, found) else "not the published samples"
    return Dataset(
        name=name,
        train_inputs=_scaled(found.train_images),
        train_targets=found.train_labels.long(),
        test_inputs=_scaled(found.test_images),
        test_targets=found.test_labels.long(),
        description=f"{source.what} of {height} × {width} pixels in [0, 1], {found.source}, {kept}; "
        f"{len(found.train_images):,} to train, {len(found.test_images):,} to test",
        classes=CLASSES,
    )


def _place(name: str, folder: Path) -> Path | None:
    """The folder that holds any of the files, or None; never the folder of another data set."""
    if not folder.is_dir():
        raise BadData(f"{folder} is not a folder; {_advice(name)}")
    candidates = [folder / name]
    if folder.name not in set(SOURCES) - {name}:
        candidates.append(folder)
    for place in candidates:
        if any((place / file).exists() for file in SOURCES[name].files):
            return place
    return None


def _from_idx(name: str, place: Path) -> _Bytes:
    arrays: list[Tensor] = []
    for file, published in zip(IDX_FILES, PUBLISHED[name], strict=True):
        array = read_idx(place / file, axes=len(published.shape))
        if array.shape == published.shape and not published.holds(array):
            raise BadData(
                f"{place / file} has the shape of the published {name}, {' × '.join(map(str, array.shape))}, but not "
                "its contents: it is damaged, or of another data set; fetch it again, or give data of your own as "
                "file.py:function"
            )
        arrays.append(array)
    images, labels, test_images, test_labels = arrays
    return _Bytes(
        images.unsqueeze(1), labels, test_images.unsqueeze(1), test_labels, "from IDX files"
    )


def _from_records(place: Path) -> _Bytes:
    *training, test = (_records(place / file) for file in CIFAR_FILES)
    return _Bytes(*_unpacked(torch.cat(training)), *_unpacked(test), "from binary files")


def _records(path: Path) -> Tensor:
    """One file of the binary version of CIFAR-10: a label and 3 × 32 × 32 bytes for each image."""
    length = 1 + 3 * 32 * 32
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadData(f"{path} cannot be read: {error.strerror or error}") from None
    if not content or len(content) % length:
        raise BadData(
            f"{path} holds {len(content):,} bytes; expected whole records of {length:,}: fetch it again"
        )
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).reshape(-1, length)


def _unpacked(table: Tensor) -> tuple[Tensor, Tensor]:
    return table[:, 1:].reshape(-1, 3, 32, 32), table[:, 0]


def _from_openml(name: str) -> _Bytes:
    # scikit-learn takes a second to import; only a download needs it here
    from sklearn.datasets import fetch_openml

    source = SOURCES[name]
    try:
        with warnings.catch_warnings():  # a retry warns; what comes of it is said below
            warnings.filterwarnings("ignore", "A network error occurred")
            bunch: Any = fetch_openml(
                source.openml, version=1, as_frame=False, parser="liac-arff", n_retries=1
            )
    except (OSError, ValueError, EOFError, HTTPException) as error:  # offline, refused, cut off
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadData(f"{name} could not be downloaded ({reason}); {_advice(name)}") from None
    images = torch.from_numpy(np.asarray(bunch.data, dtype=np.uint8)).reshape(-1, *source.shape)
    labels = torch.from_numpy(np.asarray(bunch.target).astype(np.uint8))
    cut = source.training
    return _Bytes(images[:cut], labels[:cut], images[cut:], labels[cut:], "from openml.org")


def _published(name: str, found: _Bytes) -> bool:
    if name == "cifar-10":  # a split of another order would hardly have these counts
        counts = (found.train_labels.bincount(), found.test_labels.bincount())
        return counts[0].tolist() == [5000] * CLASSES and counts[1].tolist() == [1000] * CLASSES
    arrays = (
        found.train_images.squeeze(1),
        found.train_labels,
        found.test_images.squeeze(1),
        found.test_labels,
    )
    both = zip(PUBLISHED[name], arrays, strict=True)
    return all(published.holds(array) for published, array in both)


def _scaled(images: Tensor) -> Tensor:
    return images.float().div_(255)


def _advice(name: str) -> str:
    first, *rest = SOURCES[name].files
    siblings = {3: "three", 5: "five"}[len(rest)]
    return f"give a folder that holds {name}/{first} and its {siblings} siblings"
