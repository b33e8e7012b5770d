"""The models of the gallery: dense networks by scheme, and the parts that break them.

Answers: which module starts from this seed?
Does not answer: how well it is initialized; some are meant to be bad.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from unstick.training.order import generator_for

__all__ = ["Exponential", "Shares", "Sine", "changed", "dense", "kept_shares_of", "shares_of"]

Making = Callable[[int], nn.Module]


class Exponential(nn.Module):
    """exp x as an activation."""

    def forward(self, x: Tensor) -> Tensor:
        """Of the same shape."""
        return torch.exp(x)


class Shares(nn.Module):
    """Outputs divided by their sum, as if they were probabilities: 0/0 where all are zero."""

    def forward(self, x: Tensor) -> Tensor:
        """Of the same shape, [N, classes]."""
        return x / x.sum(-1, keepdim=True)


class Sine(nn.Module):
    """y = sin wx with one parameter w."""

    def __init__(self, frequency: float) -> None:
        super().__init__()
        self.frequency = nn.Parameter(torch.tensor(frequency))

    def forward(self, x: Tensor) -> Tensor:
        """Of the same shape."""
        return torch.sin(self.frequency * x)


def dense(
    *widths: int,
    activation: Callable[[], nn.Module] = nn.ReLU,
    scheme: str = "he",
    value: float = 1.0,
    last: tuple[nn.Module, ...] = (),
    normalized: Callable[[int], nn.Module] | None = None,
    dropout: float = 0.0,
    head: str | None = None,
) -> Making:
    """A maker of dense networks, biases zero.

    Args:
        widths: Of inputs, hidden layers and outputs.
        activation: Behind every hidden layer.
        scheme: "he" (Kaiming uniform), "glorot" (Xavier uniform), "torch" (its own uniform), "normal" (deviation ``value``) or
            "constant" (``value``).
        value: Of the scheme.
        last: Behind the output layer.
        normalized: Makes the normalization of so many features, before each activation.
        dropout: Behind each activation.
        head: Scheme of the output layer; None: as the others.
    """

    def make(seed: int) -> nn.Module:
        generator = generator_for("model", seed)
        layers: list[nn.Module] = []
        for into, out in pairwise(widths[:-1]):
            layers.append(_layer(into, out, scheme, value, generator))
            if normalized is not None:
                layers.append(normalized(out))
            layers.append(activation())
            if dropout:
                layers.append(nn.Dropout(dropout))
        layers.append(_layer(widths[-2], widths[-1], head or scheme, value, generator))
        return nn.Sequential(*layers, *last)

    return make


def changed(making: Making, change: Callable[[nn.Module], None]) -> Making:
    """The same models, each changed before its training."""

    def make(seed: int) -> nn.Module:
        model = making(seed)
        with torch.no_grad():
            change(model)
        return model

    return make


def shares_of(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of outputs [N, classes] taken as probabilities."""
    return -outputs.gather(1, targets[:, None]).log().mean()


def kept_shares_of(outputs: Tensor, targets: Tensor) -> Tensor:
    """The same with probabilities kept 1e-7 away from 0 and 1."""
    return shares_of(outputs.clamp(1e-7, 1 - 1e-7), targets)


def _layer(into: int, out: int, scheme: str, value: float, generator: torch.Generator) -> nn.Linear:
    layer = nn.Linear(into, out)
    with torch.no_grad():
        layer.bias.zero_()
        match scheme:
            case "he":
                nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu", generator=generator)
            case "glorot":
                nn.init.xavier_uniform_(layer.weight, generator=generator)
            case "torch":
                nn.init.kaiming_uniform_(layer.weight, a=5**0.5, generator=generator)
            case "normal":
                nn.init.normal_(layer.weight, std=value, generator=generator)
            case _:
                layer.weight.fill_(value)
    return layer
