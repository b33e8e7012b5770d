"""The data of the gallery: as the published benchmarks have them, or drawn with a fixed seed.

Answers: on which numbers do the gallery's trainings train?
Does not answer: what users load; that is ``unstick.data``.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from unstick.data.loading import load
from unstick.training.order import generator_for

__all__ = [
    "blob",
    "circle",
    "constant_rows",
    "diabetes",
    "digits",
    "drawn",
    "line",
    "loaded",
    "negative_plane",
    "one_hot",
    "parabola",
    "pictures",
    "plane",
    "quartic",
    "rows",
    "scaled",
    "sine",
    "standardized",
    "themselves",
    "wave",
    "xor",
]

Data = Callable[[], tuple[Tensor, Tensor]]

POINTS = 700
DIGITS = 1347  # three quarters of 1797


def drawn(shape: tuple[int, ...], *, seed: int) -> Tensor:
    """Standard normal numbers, float32."""
    return torch.randn(shape, generator=generator_for("order", 1000 + seed))


@cache
def digits() -> tuple[Tensor, Tensor]:
    """Handwritten digits of 8 × 8 pixels in [0, 1], in the order that scikit-learn has them."""
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    inputs = torch.from_numpy(bunch.data[:DIGITS] / 16).float()
    return inputs, torch.from_numpy(bunch.target[:DIGITS]).long()


@cache
def blob() -> tuple[Tensor, Tensor]:
    """Three overlapping clouds in the plane."""
    from sklearn.datasets import make_blobs

    made: Any = make_blobs(1000, centers=3, n_features=2, cluster_std=2, random_state=2)
    return torch.from_numpy(made[0][:POINTS]).float(), torch.from_numpy(made[1][:POINTS]).long()


@cache
def circle() -> tuple[Tensor, Tensor]:
    """One circle close inside another; targets 0.0 or 1.0, shape [N, 1]."""
    from sklearn.datasets import make_circles

    made: Any = make_circles(1000, noise=0.1, random_state=1)
    inputs = torch.from_numpy(made[0][:POINTS]).float()
    return inputs, torch.from_numpy(made[1][:POINTS, None]).float()


@cache
def xor() -> tuple[Tensor, Tensor]:
    """The four points of exclusive or; targets [4, 1]."""
    inputs = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    return inputs, torch.tensor([[0.0], [1.0], [1.0], [0.0]])


@cache
def constant_rows() -> tuple[Tensor, Tensor]:
    """Rows of 128 ones with target 1, and of 128 zeros with target 0."""
    ones = (torch.arange(1000) % 2).float()[:, None]
    return ones.expand(-1, 128).contiguous(), ones


@cache
def parabola() -> tuple[Tensor, Tensor]:
    """Y = 5x² and noise of deviation 3, x from 0 to 5."""
    x = torch.linspace(0, 5, 500)[:, None]
    return x, 5 * x**2 + 3 * drawn((500, 1), seed=1)


@cache
def quartic() -> tuple[Tensor, Tensor]:
    """Y = x⁴ for x from −100 to 100."""
    x = torch.linspace(-100, 100, 500)[:, None]
    return x, x**4


@cache
def negative_plane() -> tuple[Tensor, Tensor]:
    """Y = −3x₁ − 4x₂ for x in [0, 10]²: every target is negative."""
    generator = generator_for("order", 1002)
    inputs = 10 * torch.rand((500, 2), generator=generator)
    return inputs, -(inputs @ torch.tensor([[3.0], [4.0]]))


@cache
def line() -> tuple[Tensor, Tensor]:
    """Y = 1.47x + 100 for x from 0 to 10,000."""
    x = torch.linspace(0, 1e4, 500)[:, None]
    return x, 1.47 * x + 100


@cache
def sine() -> tuple[Tensor, Tensor]:
    """Y = sin 3x for x from 0 to 6.28."""
    x = torch.linspace(0, 6.28, 200)[:, None]
    return x, torch.sin(3 * x)


@cache
def wave() -> tuple[Tensor, Tensor]:
    """The first of the three waves of ``sine``."""
    x, y = sine()
    return x[:67], y[:67]


def standardized(data: Data) -> Data:
    """The same data, inputs and targets with mean 0 and deviation 1."""

    @cache
    def made() -> tuple[Tensor, Tensor]:
        inputs, targets = ((part - part.mean(0)) / part.std(0, unbiased=False) for part in data())
        return inputs, targets

    return made


def scaled(data: Data, factor: float) -> Data:
    """The same data, inputs multiplied."""

    @cache
    def made() -> tuple[Tensor, Tensor]:
        inputs, targets = data()
        return inputs * factor, targets

    return made


def one_hot(data: Data, classes: int = 10) -> Data:
    """The same data, targets as rows of zeros with a one."""

    @cache
    def made() -> tuple[Tensor, Tensor]:
        inputs, targets = data()
        return inputs, torch.eye(classes)[targets]

    return made


@cache
def loaded(name: str, samples: int | None = None) -> tuple[Tensor, Tensor]:
    """The training part of what users load by this name, standardized; the first samples of it."""
    data = load(name).standardized()
    return data.train_inputs[:samples], data.train_targets[:samples]


@cache
def pictures() -> tuple[Tensor, Tensor]:
    """The digits as images [N, 1, 8, 8]."""
    inputs, targets = digits()
    return inputs.reshape(-1, 1, 8, 8), targets


@cache
def rows() -> tuple[Tensor, Tensor]:
    """The digits as sequences of their eight rows, [N, 8, 8]."""
    inputs, targets = digits()
    return inputs.reshape(-1, 8, 8), targets


@cache
def themselves() -> tuple[Tensor, Tensor]:
    """The digits as their own targets, for autoencoders."""
    inputs, _ = digits()
    return inputs, inputs


@cache
def diabetes() -> tuple[Tensor, Tensor]:
    """442 patients, ten measurements, the progress of their disease."""
    from sklearn.datasets import load_diabetes

    bunch: Any = load_diabetes()
    return torch.from_numpy(bunch.data).float(), torch.from_numpy(bunch.target[:, None]).float()


@cache
def plane() -> tuple[Tensor, Tensor]:
    """Twenty independent features, a linear target of them, and noise of a tenth of it."""
    inputs = drawn((400, 20), seed=5)
    return inputs, inputs @ drawn((20, 1), seed=6) + 0.4 * drawn((400, 1), seed=7)
