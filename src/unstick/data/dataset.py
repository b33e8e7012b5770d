"""A data set split into a part to train on, one to test on, and, when asked for, one to validate on.

Answers: what does a loaded data set hold, how is it standardized, and how is a validation part set aside?
Does not answer: where it comes from (``loading``).
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from unstick.data.statistics import statistics
from unstick.errors import BadData

__all__ = ["Dataset"]


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Inputs and targets of a classification or regression task, in a fixed order.

    Raises:
        BadData: Parts that are empty, or of which inputs and targets, or two parts, do not fit together.
    """

    name: str
    train_inputs: Tensor  # [N, features] or [N, channels, height, width], floating point
    train_targets: Tensor  # [N, …] int64 from 0 to classes − 1, or floating point where classes = 0
    test_inputs: Tensor  # [M, …] as train_inputs
    test_targets: Tensor  # [M, …] as train_targets
    description: str  # what the samples are, how they are scaled and split
    classes: int  # 0: regression
    validation_inputs: Tensor | None = None  # [K, …]; see ``split``
    validation_targets: Tensor | None = None

    def __post_init__(self) -> None:
        """Refuse parts that do not fit together."""
        self._check("training", self.train_inputs, self.train_targets)
        self._check("test", self.test_inputs, self.test_targets)
        if self.validation_inputs is not None and self.validation_targets is not None:
            self._check("validation", self.validation_inputs, self.validation_targets)
        elif self.validation_inputs is not None or self.validation_targets is not None:
            raise BadData(f"{self.name} has half a validation part; expected inputs and targets")

    def split(self, fraction: float, *, seed: int) -> Self:
        """Set a validation part aside from the training part, by a seeded permutation.

        The test part stays as it is. In both parts the samples keep the order that they had. Standardize after
        the split, so that the validation part has no say in the statistics.

        Args:
            fraction: Of the training samples, rounded to whole ones; between 0 and 1, both excluded.
            seed: Equal seeds choose equal samples.

        Raises:
            ValueError: A fraction out of range.
            BadData: There is a validation part already, or one of the two parts would be empty.

        Example:
            >>> x, y = torch.arange(10.0)[:, None], torch.zeros(10).long()
            >>> parts = Dataset("ten", x, y, x, y, "ten numbers", classes=1).split(0.2, seed=0)
            >>> len(parts.train_inputs), len(parts.validation_inputs), len(parts.test_inputs)
            (8, 2, 10)
        """
        if not 0 < fraction < 1:
            raise ValueError(
                f"fraction is {fraction}; expected a number between 0 and 1, both excluded"
            )
        if self.validation_inputs is not None:
            raise BadData(f"{self.name} has a validation part already; split what has none")
        samples = len(self.train_inputs)
        aside = round(fraction * samples)
        if not 0 < aside < samples:
            raise BadData(
                f"a fraction of {fraction} sets {aside} of the {samples} training samples of {self.name} aside; "
                "expected at least one in either part: give another fraction"
            )
        order = torch.randperm(samples, generator=torch.Generator().manual_seed(seed))
        chosen, rest = order[:aside].sort().values, order[aside:].sort().values
        return replace(
            self,
            train_inputs=self.train_inputs[rest],
            train_targets=self.train_targets[rest],
            validation_inputs=self.train_inputs[chosen],
            validation_targets=self.train_targets[chosen],
            description=f"{self.description}; {aside:,} of the training samples set aside to validate (seed {seed})",
        )

    def standardized(self) -> Self:
        """The same samples with mean 0 and standard deviation 1 over the training part.

        Features are treated one by one, images channel by channel. The other parts are moved and scaled by the
        training statistics. What is constant in training is moved to 0 and not scaled. Targets stay as they are.

        Example:
            >>> x, y = torch.tensor([[1.0, 5.0], [3.0, 5.0]]), torch.tensor([0, 1])
            >>> plain = Dataset("two", x, y, x + 1, y, "", classes=2)
            >>> plain.standardized().train_inputs.tolist(), plain.standardized().test_inputs.tolist()
            ([[-1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [2.0, 1.0]])
        """
        found = statistics(self.train_inputs)
        mean, deviation = found.mean.to(self.train_inputs), found.deviation.to(self.train_inputs)
        validation = self.validation_inputs
        return replace(
            self,
            train_inputs=(self.train_inputs - mean) / deviation,
            test_inputs=(self.test_inputs - mean) / deviation,
            validation_inputs=None if validation is None else (validation - mean) / deviation,
            description=f"{self.description}; standardized with training statistics",
        )

    def _check(self, part: str, inputs: Tensor, targets: Tensor) -> None:
        what = f"the {part} part of {self.name}"
        if inputs.ndim == 0 or targets.ndim == 0 or len(inputs) != len(targets):
            raise BadData(
                f"{what} has inputs of shape {list(inputs.shape)} and targets of shape {list(targets.shape)}; "
                "expected as many of one as of the other"
            )
        if len(inputs) == 0:
            raise BadData(f"{what} holds no sample")
        shapes = (inputs.shape[1:], targets.shape[1:])
        if shapes != (self.train_inputs.shape[1:], self.train_targets.shape[1:]):
            raise BadData(
                f"{what} has samples of shape {[list(shape) for shape in shapes]}; expected "
                f"{[list(self.train_inputs.shape[1:]), list(self.train_targets.shape[1:])]} as in training"
            )
        if not inputs.is_floating_point():
            raise BadData(f"{what} has inputs of type {inputs.dtype}; expected floating point")
        self._check_targets(what, targets)

    def _check_targets(self, what: str, targets: Tensor) -> None:
        if self.classes == 0:
            if not targets.is_floating_point():
                raise BadData(
                    f"{what} has targets of type {targets.dtype} and classes=0; expected floating point"
                )
            return
        if targets.dtype != torch.int64:
            raise BadData(
                f"{what} has targets of type {targets.dtype} and classes={self.classes}; expected torch.int64"
            )
        least, most = int(targets.min()), int(targets.max())
        if least < 0 or most >= self.classes:
            raise BadData(
                f"{what} has the class {least if least < 0 else most}; expected 0 to {self.classes - 1}"
            )
