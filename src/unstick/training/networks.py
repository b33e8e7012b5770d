"""Small networks to train where nobody brings one: layers by their widths, or a convolutional one for images.

Answers: what does ``512-512`` or ``conv`` mean as a model for these data?
Does not answer: anything about a user's own model.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Final

import torch
from torch import Tensor, nn

from unstick.errors import BadRecipe
from unstick.problem.guard import put_back_randomness
from unstick.training.initialization import initialize
from unstick.training.normalization import insert_normalization
from unstick.training.settings import check_choice, check_positive

__all__ = ["ACTIVATIONS", "network"]

ACTIVATIONS: Final[dict[str, Callable[[], nn.Module]]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "elu": nn.ELU,
    "softplus": nn.Softplus,
    "none": nn.Identity,
}
"""Between layers; "none" makes a linear network of several layers."""

CHANNELS = (16, 32)
KERNEL, STRIDE = 5, 2
LEAST = KERNEL + STRIDE * (
    KERNEL - 1
)  # height and width that leave one number after two convolutions
HEAD = 64


def network(
    spec: str,
    sample: Tensor,
    outputs: int,
    *,
    activation: str = "relu",
    normalization: str | None = None,
    scheme: str = "default",
    seed: int = 0,
) -> nn.Module:
    """A network for samples of this shape.

    Args:
        spec: Hidden widths such as ``512`` or ``64-64``, ``linear`` for none, or ``conv``: two convolutions of 5 × 5 with
            stride 2, 16 and 32 channels, and a hidden layer of 64.
        sample: One sample, shape [features] or [channels, height, width].
        outputs: Classes, or numbers to predict.
        activation: One of ``ACTIVATIONS``.
        normalization: "batch" or "layer", before each activation; None for none.
        scheme: Of the initial weights, one of ``initialization.SCHEMES``.
        seed: Of the initial weights.

    Raises:
        BadRecipe: None of these, no output, or ``conv`` for samples that are no images, or too small ones.
        BadModel: Normalization for a single layer.

    Example:
        >>> [tuple(p.shape) for p in network("32-16", torch.zeros(64), 10).parameters()]
        [(32, 64), (32,), (16, 32), (16,), (10, 16), (10,)]
    """
    check_choice(ACTIVATIONS, activation=activation)
    check_positive(outputs=outputs)
    between = ACTIVATIONS[activation]
    with put_back_randomness([]):  # torch draws what it builds
        if spec == "conv":
            layers = _convolutions(sample, outputs, between)
        else:
            layers = _layers(spec, sample, outputs, between)
    model: nn.Module = nn.Sequential(*layers)
    initialize(model, scheme, seed=seed)
    if normalization is not None:
        model = insert_normalization(model, kind=normalization)
    return model


def _layers(
    spec: str, sample: Tensor, outputs: int, between: Callable[[], nn.Module]
) -> list[nn.Module]:
    try:
        hidden = [] if spec == "linear" else [int(width) for width in spec.split("-")]
    except ValueError:
        hidden = [0]
    if any(width < 1 for width in hidden):
        raise BadRecipe(f"the model is {spec!r}; expected widths such as 64-64, linear, or conv")
    widths = [sample.numel(), *hidden]
    layers: list[nn.Module] = [] if sample.ndim == 1 else [nn.Flatten()]
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), between()]
    return [*layers, nn.Linear(widths[-1], outputs)]


def _convolutions(
    sample: Tensor, outputs: int, between: Callable[[], nn.Module]
) -> list[nn.Module]:
    if sample.ndim != 3 or min(sample.shape[1:]) < LEAST:
        raise BadRecipe(
            f"the samples have shape {list(sample.shape)}; conv expects images [channels, height, width] of at least "
            f"{LEAST} × {LEAST}"
        )
    layers: list[nn.Module] = []
    before = sample.shape[0]
    for after in CHANNELS:
        layers += [nn.Conv2d(before, after, KERNEL, stride=STRIDE), between()]
        before = after
    with torch.no_grad():
        features = nn.Sequential(*layers)(sample.float().unsqueeze(0)).numel()
    return [*layers, nn.Flatten(), nn.Linear(features, HEAD), between(), nn.Linear(HEAD, outputs)]
