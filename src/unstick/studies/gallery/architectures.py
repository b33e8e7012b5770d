"""Models that are more than dense layers: convolutions, recurrences, attention.

Answers: which small convolutional, recurrent or attentive classifier starts from this seed?
Does not answer: how well these do on large data; they are as small as the gallery's digits.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from unstick.training.initialization import initialize

__all__ = ["attentive", "convolutional", "recurrent", "residual", "sliding"]

Making = Callable[[int], nn.Module]
CLASSES = 10


class _Recurrent(nn.Module):
    """A recurrent layer over sequences [N, steps, features], read out at its last step."""

    def __init__(self, kind: Callable[..., nn.RNNBase], features: int, width: int) -> None:
        super().__init__()
        self.cells = kind(features, width, batch_first=True)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, classes]."""
        return self.head(self.cells(x)[0][:, -1])


class _Attentive(nn.Module):
    """One transformer layer over sequences [N, steps, features] with learned places, averaged over steps."""

    def __init__(self, steps: int, features: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Linear(features, width)
        self.places = nn.Parameter(torch.zeros(steps, width))
        self.layer = nn.TransformerEncoderLayer(
            width, 2, 2 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, classes]."""
        return self.head(self.layer(self.embed(x) + self.places).mean(1))


class _Residual(nn.Module):
    """x + f(x), normalized before."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inside = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Of the same shape."""
        return x + self.inside(x)


def convolutional(*, normalized: bool = False) -> Making:
    """Two convolutions over images [N, 1, 8, 8], with batch normalization if asked for."""

    def built() -> nn.Module:
        layers: list[nn.Module] = []
        for into, out in ((1, 8), (8, 16)):
            layers.append(nn.Conv2d(into, out, 3, stride=out // 8, padding=1))
            if normalized:
                layers.append(nn.BatchNorm2d(out))
            layers.append(nn.ReLU())
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, CLASSES))

    return _started(built)


def sliding(length: int) -> Making:
    """Two convolutions along sequences [N, length] of one number a step."""

    def built() -> nn.Module:
        return nn.Sequential(
            nn.Unflatten(1, (1, length)),
            nn.Conv1d(1, 12, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv1d(12, 12, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(3 * length, CLASSES),
        )

    return _started(built)


def recurrent(kind: Callable[..., nn.RNNBase], *, features: int = 8, width: int = 32) -> Making:
    """An LSTM or GRU and a linear head."""
    return _started(lambda: _Recurrent(kind, features, width))


def attentive(*, steps: int = 8, features: int = 8, width: int = 16) -> Making:
    """A transformer of one layer and a linear head."""
    return _started(lambda: _Attentive(steps, features, width))


def residual(inputs: int, width: int, blocks: int) -> Making:
    """Residual blocks between two linear layers."""
    return _started(
        lambda: nn.Sequential(
            nn.Linear(inputs, width),
            *(_Residual(width) for _ in range(blocks)),
            nn.Linear(width, CLASSES),
        )
    )


def _started(built: Callable[[], nn.Module]) -> Making:
    """At torch's own initialization, drawn from the seed alone."""

    def make(seed: int) -> nn.Module:
        model = built()
        initialize(model, "default", seed=seed)
        return model

    return make
