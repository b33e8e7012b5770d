"""Named data sets: embedded (digits), from a folder of IDX files, or by download.

Answers: where do the samples of ``digits``, ``mnist`` and ``fashion-mnist`` come from?
Does not answer: how a user's own data are read; a ``Problem`` takes any DataLoader or tensors.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unstick.data.dataset import Dataset
from unstick.data.idx import read_idx
from unstick.errors import BadData

__all__ = ["NAMES", "load"]

NAMES = ("digits", "mnist", "fashion-mnist")
"""What ``load`` knows."""

DIGITS_FOR_TRAINING = 1437  # four fifths of 1797; 360 remain to test on
IMAGES_FOR_TRAINING = 60_000  # the split both MNIST and Fashion-MNIST were published with
CLASSES = 10
ON_OPENML = {"mnist": "mnist_784", "fashion-mnist": "Fashion-MNIST"}
WHAT = {"mnist": "handwritten digits", "fashion-mnist": "pictures of clothes"}
FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


@dataclass(frozen=True, slots=True)
class _Bytes:
    """Images and labels as published, unscaled."""

    train_images: Tensor  # [N, height, width] uint8
    train_labels: Tensor  # [N]
    test_images: Tensor
    test_labels: Tensor
    source: str


def load(name: str, *, folder: str | Path | None = None, download: bool = True) -> Dataset:
    """Load a named data set; equal calls give equal samples in equal order.

    Args:
        name: ``digits`` (8 × 8 pixels as 64 features, from scikit-learn, split 1437 / 360 by a fixed permutation),
            ``mnist`` or ``fashion-mnist`` (28 × 28 images [N, 1, 28, 28], split 60000 / 10000 as published).
        folder: Where the four gzipped IDX files lie, in a folder of the data set's name or at its top.
        download: Ask openml.org for what ``folder`` does not hold; scikit-learn keeps it in its own cache.

    Returns:
        Inputs scaled to [0, 1]; call ``.standardized()`` on it for mean 0 and deviation 1.

    Raises:
        BadData: An unknown name, a folder that does not exist, files that are missing or damaged, or no download.

    Example:
        >>> digits = load("digits")
        >>> list(digits.train_inputs.shape), list(digits.test_inputs.shape), digits.classes
        ([1437, 64], [360, 64], 10)
    """
    if name == "digits":
        return _digits()
    if name not in NAMES:
        raise BadData(f"no data set is called {name!r}; these are: {', '.join(NAMES)}")
    place = None if folder is None else _place(name, Path(folder))
    if place is not None:
        return _images(name, _from_folder(place))
    if download:
        return _images(name, _from_openml(name))
    where = "no folder was given" if folder is None else f"{folder} does not hold its files"
    raise BadData(f"{name} is not here: {where}, and downloading is off; {_advice(name)}")


def _digits() -> Dataset:
    # scikit-learn takes a second to import; only this data set needs it
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    order = np.random.RandomState(0).permutation(
        len(bunch.target)
    )  # the split that all results refer to
    inputs = torch.from_numpy(bunch.data[order] / 16).float()
    targets = torch.from_numpy(bunch.target[order]).long()
    cut = DIGITS_FOR_TRAINING
    return Dataset(
        name="digits",
        train_inputs=inputs[:cut],
        train_targets=targets[:cut],
        test_inputs=inputs[cut:],
        test_targets=targets[cut:],
        description="handwritten digits of 8 × 8 pixels in [0, 1], from scikit-learn; 1437 to train, 360 to test",
        classes=CLASSES,
    )


def _place(name: str, folder: Path) -> Path | None:
    """The folder that holds any of the files, or None; never the folder of another data set."""
    if not folder.is_dir():
        raise BadData(f"{folder} is not a folder; {_advice(name)}")
    candidates = [folder / name]
    if folder.name not in set(NAMES) - {name}:
        candidates.append(folder)
    for place in candidates:
        if any((place / file).exists() for file in FILES):
            return place
    return None


def _from_folder(place: Path) -> _Bytes:
    missing = [file for file in FILES if not (place / file).exists()]
    if missing:
        raise BadData(f"{place} lacks {', '.join(missing)}; all four IDX files are needed")
    images, labels, test_images, test_labels = (place / file for file in FILES)
    return _Bytes(
        read_idx(images, axes=3),
        read_idx(labels, axes=1),
        read_idx(test_images, axes=3),
        read_idx(test_labels, axes=1),
        "from IDX files",
    )


def _from_openml(name: str) -> _Bytes:
    # scikit-learn takes a second to import; only a download needs it here
    from sklearn.datasets import fetch_openml

    try:
        with warnings.catch_warnings():  # a retry warns; what comes of it is said below
            warnings.filterwarnings("ignore", "A network error occurred")
            bunch: Any = fetch_openml(
                ON_OPENML[name], version=1, as_frame=False, parser="liac-arff", n_retries=1
            )
    except (OSError, ValueError) as error:  # offline, refused, or not what was asked for
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadData(f"{name} could not be downloaded ({reason}); {_advice(name)}") from None
    images = torch.from_numpy(np.asarray(bunch.data, dtype=np.uint8)).reshape(-1, 28, 28)
    labels = torch.from_numpy(np.asarray(bunch.target).astype(np.int64))
    cut = IMAGES_FOR_TRAINING
    return _Bytes(images[:cut], labels[:cut], images[cut:], labels[cut:], "from openml.org")


def _images(name: str, found: _Bytes) -> Dataset:
    for images, labels in (
        (found.train_images, found.train_labels),
        (found.test_images, found.test_labels),
    ):
        if len(images) != len(labels):
            raise BadData(
                f"{name} has {len(images):,} images and {len(labels):,} labels; expected as many"
            )
        if int(labels.max()) >= CLASSES:
            raise BadData(f"{name} has the label {int(labels.max())}; expected 0 to {CLASSES - 1}")
    if found.train_images.shape[1:] != found.test_images.shape[1:]:
        raise BadData(f"{name} has training and test images of different sizes")
    height, width = found.train_images.shape[1:]
    return Dataset(
        name=name,
        train_inputs=_scaled(found.train_images),
        train_targets=found.train_labels.long(),
        test_inputs=_scaled(found.test_images),
        test_targets=found.test_labels.long(),
        description=f"{WHAT[name]} of {height} × {width} pixels in [0, 1], {found.source}; "
        f"{len(found.train_images):,} to train, {len(found.test_images):,} to test",
        classes=CLASSES,
    )


def _scaled(images: Tensor) -> Tensor:
    return images.float().div_(255).unsqueeze(1)


def _advice(name: str) -> str:
    return f"give a folder that holds {name}/{FILES[0]} and its three siblings"
