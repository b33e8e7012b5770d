"""A data set split into a part to train on and a part to test on.

Answers: what does a loaded data set hold, and how is it standardized?
Does not answer: where it comes from (``loading``).
"""

from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor

__all__ = ["Dataset"]


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Inputs and targets of a classification task, in a fixed order."""

    name: str
    train_inputs: Tensor  # [N, features] or [N, channels, height, width], float32
    train_targets: Tensor  # [N] int64, from 0 to classes − 1
    test_inputs: Tensor  # [M, …] as train_inputs
    test_targets: Tensor  # [M] int64
    description: str  # what the samples are, how they are scaled and split
    classes: int

    def standardized(self) -> Self:
        """The same samples with mean 0 and standard deviation 1 over the training part.

        Features are treated one by one, images channel by channel. The test part is moved and scaled by the
        training statistics. What is constant in training is moved to 0 and not scaled.

        Example:
            >>> import torch
            >>> x, y = torch.tensor([[1.0, 5.0], [3.0, 5.0]]), torch.tensor([0, 1])
            >>> plain = Dataset("two", x, y, x + 1, y, "", classes=2)
            >>> plain.standardized().train_inputs.tolist(), plain.standardized().test_inputs.tolist()
            ([[-1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [2.0, 1.0]])
        """
        inputs = self.train_inputs.double()
        over = (0, 2, 3) if inputs.ndim == 4 else (0,)
        mean = inputs.mean(over, keepdim=True)
        deviation = inputs.std(over, correction=0, keepdim=True)
        constant = inputs.amax(over, keepdim=True) == inputs.amin(over, keepdim=True)
        deviation[constant] = 1.0
        mean, deviation = mean.float(), deviation.float()
        return replace(
            self,
            train_inputs=(self.train_inputs - mean) / deviation,
            test_inputs=(self.test_inputs - mean) / deviation,
            description=f"{self.description}; standardized with training statistics",
        )
