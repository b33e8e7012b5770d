"""Mean and deviation of inputs, for whoever standardizes them.

Answers: by which numbers are inputs moved and scaled, feature by feature or channel by channel?
Does not answer: what is moved and scaled, in which type (``Dataset.standardized``, ``training.standardizing``).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from unstick.errors import BadData

__all__ = ["Statistics", "statistics"]


@dataclass(frozen=True, slots=True, eq=False)
class Statistics:
    """What is subtracted from inputs and what they are divided by."""

    mean: Tensor  # [1, features] or [1, channels, 1, 1], float64
    deviation: Tensor  # the same shape; 1 where an input is constant


def statistics(inputs: Tensor) -> Statistics:
    """Mean and standard deviation of inputs: features one by one, images channel by channel.

    Args:
        inputs: [N, features], or images [N, channels, height, width]; any type.

    Returns:
        In float64, over all N. The mean of what is constant is that very number, without rounding, so that it is moved
        to 0 exactly; its deviation counts as 1.

    Raises:
        BadData: No sample.

    Cost:
        A few passes over the inputs and a copy of them in float64.

    Example:
        >>> found = statistics(torch.tensor([[1.0, 0.7], [3.0, 0.7]], dtype=torch.float64))
        >>> found.mean.tolist(), found.deviation.tolist()
        ([[2.0, 0.7]], [[1.0, 1.0]])
    """
    if inputs.ndim == 0 or len(inputs) == 0:
        raise BadData(f"inputs have shape {list(inputs.shape)}; expected at least one sample")
    wide = inputs.double()
    over = (0, 2, 3) if inputs.ndim == 4 else (0,)
    least, most = wide.amin(over, keepdim=True), wide.amax(over, keepdim=True)
    constant = least == most
    mean = torch.where(constant, least, wide.mean(over, keepdim=True))
    deviation = wide.std(over, correction=0, keepdim=True).masked_fill(constant, 1.0)
    return Statistics(mean, deviation)
