"""The trained networks that ``curvature.py`` measures on; running this file trains each once and says how good it is.

A: 784-128-10 tanh on the first 20,000 images of MNIST, 2,000 SGD updates.
B: a small convolutional network with batch normalization on the first 4,000, 300 updates.
"""

import copy
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from unstick import data

__all__ = ["Workload", "digits_network", "mnist_convolutional", "mnist_tanh"]

LEARNING_RATE, BATCH = 0.1, 128


@dataclass(frozen=True)
class Workload:
    """A trained model, the frozen batches its loss is a mean over, and a second checkpoint a little later."""

    name: str
    model: nn.Module
    later: nn.Module  # the same model 50 updates on
    batches: Sequence[tuple[Tensor, Tensor]]

    @property
    def samples(self) -> int:
        """Samples in all batches."""
        return sum(len(targets) for _, targets in self.batches)


def mnist_tanh() -> Workload:
    """Workload A."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.Tanh(), nn.Linear(128, 10))
    return _trained("A", model, *_mnist(20_000), updates=2_000, batch=5_000)


def mnist_convolutional() -> Workload:
    """Workload B."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 5, stride=2), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 5, stride=2), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10)),
    )
    return _trained("B", model, *_mnist(4_000), updates=300, batch=1_000)


def digits_network(*widths: int, samples: int | None = None, updates: int = 300) -> Workload:
    """A tanh network on scikit-learn's digits, such as 64-24-10, in one batch."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.Tanh()]
    digits = data.load("digits")
    inputs, targets = digits.train_inputs[:samples], digits.train_targets[:samples]
    name = "-".join(map(str, widths)) + f", {len(inputs)} digits"
    return _trained(name, nn.Sequential(*layers[:-1]), inputs, targets, updates, len(inputs))


def _mnist(samples: int) -> tuple[Tensor, Tensor]:
    images = data.load("mnist", folder=os.environ.get("UNSTICK_DATA"))
    inputs = images.train_inputs[:samples].reshape(-1, 1, 28, 28)
    return (inputs - inputs.mean()) / inputs.std(), images.train_targets[:samples]


def _trained(
    name: str, model: nn.Module, inputs: Tensor, targets: Tensor, updates: int, batch: int
) -> Workload:
    optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE)
    generator = torch.Generator().manual_seed(1)

    def update(count: int) -> nn.Module:
        model.train()
        for _ in range(count):
            rows = torch.randint(len(inputs), (BATCH,), generator=generator)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs[rows]), targets[rows]).backward()
            optimizer.step()
        return copy.deepcopy(model).eval().requires_grad_()

    first, later = update(updates), update(50)
    for each in (first, later):
        each.zero_grad()
    batches = list(zip(inputs.split(batch), targets.split(batch), strict=True))
    return Workload(name, first, later, batches)


def main() -> None:
    """Train every workload and print its loss and size."""
    makers: list[Callable[[], Workload]] = [
        mnist_tanh,
        mnist_convolutional,
        lambda: digits_network(64, 24, 10),
    ]
    for make in makers:
        workload = make()
        parameters = sum(p.numel() for p in workload.model.parameters())
        with torch.no_grad():
            loss = sum(
                len(y) * float(nn.functional.cross_entropy(workload.model(x), y))
                for x, y in workload.batches
            )
        print(
            f"{workload.name}: {parameters:,} parameters, {workload.samples:,} samples, "
            f"loss {loss / workload.samples:.4f}"
        )


if __name__ == "__main__":
    main()
