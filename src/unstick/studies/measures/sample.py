"""The part of a data set that a study takes, ready to train on.

Answers: which samples, at which scale, with which loss?
Does not answer: which data set; that is ``Task.data``.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from unstick.data import Dataset

__all__ = ["loss_for", "part"]


def part(data: Dataset, most: int, generator: torch.Generator) -> Dataset:
    """At most so many training samples, drawn without replacement, standardized.

    Example:
        >>> from unstick.data import load
        >>> few = part(load("digits"), 300, torch.Generator().manual_seed(0))
        >>> len(few.train_inputs), bool(few.train_inputs.mean().abs() < 1e-6)
        (300, True)
    """
    count = len(data.train_inputs)
    if count > most:
        rows = torch.randperm(count, generator=generator)[:most].sort().values
        data = replace(
            data, train_inputs=data.train_inputs[rows], train_targets=data.train_targets[rows]
        )
    return data.standardized()


def loss_for(data: Dataset) -> Callable[[Tensor, Tensor], Tensor]:
    """Cross-entropy for classes, squared error for numbers."""
    return nn.CrossEntropyLoss() if data.classes else nn.MSELoss()
