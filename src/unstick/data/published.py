"""What MNIST and Fashion-MNIST hold as published.

Answers: are these the samples that every published result refers to?
Does not answer: whether other samples are any good.

References:
    Y. LeCun, C. Cortes and C. Burges, The MNIST database of handwritten digits.
    H. Xiao, K. Rasul and R. Vollgraf (2017), Fashion-MNIST.
"""

import hashlib
from dataclasses import dataclass

from torch import Tensor

from unstick.data.idx import UNSIGNED_BYTE

__all__ = ["PUBLISHED", "Published", "digest"]


@dataclass(frozen=True, slots=True)
class Published:
    """One of the four arrays of a data set."""

    shape: tuple[int, ...]
    sha256: str  # of the uncompressed IDX file

    def holds(self, array: Tensor) -> bool:
        """Whether these unsigned bytes are the published ones."""
        return array.shape == self.shape and digest(array) == self.sha256


def digest(array: Tensor) -> str:
    """The SHA-256 of the uncompressed IDX file that holds this array of unsigned bytes, in hexadecimal.

    Cost:
        A few hundredths of a second for the 47 MB of 60,000 images of 28 × 28 pixels.
    """
    header = bytes([0, 0, UNSIGNED_BYTE, array.ndim])
    header += b"".join(length.to_bytes(4, "big") for length in array.shape)
    found = hashlib.sha256(header)
    found.update(array.contiguous().numpy().data)
    return found.hexdigest()


TRAINING_IMAGES, TRAINING_LABELS = (60_000, 28, 28), (60_000,)
TEST_IMAGES, TEST_LABELS = (10_000, 28, 28), (10_000,)

PUBLISHED = {
    "mnist": (
        Published(
            TRAINING_IMAGES, "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"
        ),
        Published(
            TRAINING_LABELS, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"
        ),
        Published(TEST_IMAGES, "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
        Published(TEST_LABELS, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
    ),
    "fashion-mnist": (
        Published(
            TRAINING_IMAGES, "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
        ),
        Published(
            TRAINING_LABELS, "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"
        ),
        Published(TEST_IMAGES, "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"),
        Published(TEST_LABELS, "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
    ),
}
"""Training images, training labels, test images, test labels, by name; in the order of their files."""
