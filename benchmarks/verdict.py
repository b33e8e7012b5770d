"""What a proof and an escape cost: in gradients by the price list, and in measured time over a gradient's time.

Networks that started from zero and stand still: 64-64-10 tanh on digits, and 784-128-10 tanh on the 60,000 images of
MNIST when the environment variable UNSTICK_DATA names their folder.
"""

import os
import statistics
import time
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from unstick import Problem, classify, data, escape
from unstick.studies.demo import zero_start

T = TypeVar("T")


def stalled(
    inputs: Tensor,
    targets: Tensor,
    widths: tuple[int, int, int],
    learning_rate: float,
    updates: int,
    batch_size: int,
) -> nn.Module:
    """A network trained from zero until nothing moves."""
    model = zero_start(widths)
    optimizer = torch.optim.SGD(model.parameters(), learning_rate)
    generator = torch.Generator().manual_seed(0)
    for _ in range(updates):
        rows = torch.randint(len(inputs), (batch_size,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs[rows]), targets[rows]).backward()
        optimizer.step()
    return model


def seconds_of(work: Callable[[], T]) -> tuple[float, T]:
    """Wall time of a call, and its result."""
    begin = time.perf_counter()
    result = work()
    return time.perf_counter() - begin, result


def measure(
    name: str,
    widths: tuple[int, int, int],
    *,
    learning_rate: float,
    updates: int,
    batch_size: int,
    seeds: int = 5,
) -> None:
    """Print a row a seed for one data set."""
    samples = data.load(name, folder=os.environ.get("UNSTICK_DATA"))
    inputs, targets = samples.train_inputs.flatten(1), samples.train_targets
    for seed in range(seeds):
        model = stalled(inputs, targets, widths, learning_rate, updates, batch_size)
        problem = Problem(model, (inputs, targets), nn.CrossEntropyLoss(), seed=seed)
        gradient = statistics.median(seconds_of(problem.gradient)[0] for _ in range(5))
        took, point = seconds_of(lambda p=problem, s=seed: classify(p, seed=s))
        moving, moved = seconds_of(lambda p=problem, q=point, s=seed: escape(p, point=q, seed=s))
        total = point.cost.gradients + moved.cost.gradients
        print(
            f"{name:8} seed {seed}: {point.kind}, loss {moved.loss_before:.3f} to {moved.loss_after:.3f}; "
            f"proof {point.cost.gradients:.1f} + escape {moved.cost.gradients:.1f} = {total:.1f} gradients by the price "
            f"list; measured {took / gradient:.1f} + {moving / gradient:.1f} times a gradient"
        )


if __name__ == "__main__":
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    measure("digits", (64, 64, 10), learning_rate=0.1, updates=600, batch_size=1437)
    if os.environ.get("UNSTICK_DATA"):
        measure("mnist", (784, 128, 10), learning_rate=0.5, updates=240, batch_size=500)
    else:
        print("mnist: skipped, UNSTICK_DATA names no folder")
