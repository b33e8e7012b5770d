"""Inputs brought to mean 0 and deviation 1 before the first layer, and outputs to the scale of targets behind the last.

Answers: how are inputs standardized, which first layer does the same, and what does it do to their conditioning?
Does not answer: normalization between layers (``normalization``).
"""

import copy
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from unstick.data.statistics import statistics
from unstick.errors import BadData, BadModel, NonFinite
from unstick.record import Fact, Record, number

__all__ = ["Conditioning", "Standardized", "Standardizer", "condition_number"]


@dataclass(frozen=True, slots=True, eq=False)
class Standardizer:
    """Mean and standard deviation of training inputs, to move and scale any inputs by.

    Example:
        >>> raw = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
        >>> Standardizer.fit(raw).apply(raw).tolist()
        [[-1.0, 0.0], [1.0, 0.0]]
    """

    mean: Tensor  # [1, features] or [1, channels, 1, 1], float64
    deviation: Tensor  # the same shape; 1 where an input is constant

    @classmethod
    def fit(cls, inputs: Tensor) -> Self:
        """Of training inputs: [N, features] one by one, images [N, channels, height, width] channel by channel.

        What is constant is moved to 0 and not scaled.

        Raises:
            BadData: No sample, or no dimension beside the samples.
            NonFinite: inf or nan.
        """
        _check_inputs(inputs)
        found = statistics(inputs)
        return cls(found.mean, found.deviation)

    def apply(self, inputs: Tensor) -> Tensor:
        """(inputs − mean)/deviation, computed in float64, in the inputs' own type (integers become float32).

        Raises:
            BadData: Inputs that the mean does not broadcast to.
        """
        shared = 2 if self.mean.ndim == 4 else self.mean.ndim  # images may have another size
        if inputs.ndim != self.mean.ndim or inputs.shape[1:shared] != self.mean.shape[1:shared]:
            raise BadData(
                f"inputs have shape {list(inputs.shape)}; expected samples as those it was fitted on, which have a "
                f"mean of shape {list(self.mean.shape[1:])}"
            )
        mean, deviation = self.mean.to(inputs.device), self.deviation.to(inputs.device)
        kind = inputs.dtype if inputs.is_floating_point() else torch.float32
        return ((inputs.double() - mean) / deviation).to(kind)

    def fold_into(self, layer: nn.Module) -> nn.Linear:
        """A copy of a layer that takes standardized inputs, which takes raw ones and gives the same outputs.

        Raises:
            BadModel: Not a linear layer of as many inputs.
        """
        return self._refitted(layer, 1 / self.deviation, -self.mean / self.deviation)

    def fold_out_of(self, layer: nn.Module) -> nn.Linear:
        """The reverse: a copy of a layer that takes raw inputs, which takes standardized ones.

        Raises:
            BadModel: Not a linear layer of as many inputs.
        """
        return self._refitted(layer, self.deviation, self.mean)

    def _refitted(self, layer: nn.Module, scale: Tensor, shift: Tensor) -> nn.Linear:
        """The layer behind x ↦ scale·x + shift, as one."""
        if not isinstance(layer, nn.Linear) or self.mean.shape != (1, layer.in_features):
            raise BadModel(
                f"the layer is {layer}; expected nn.Linear of {list(self.mean.shape[1:])} inputs, one for each feature"
            )
        W = layer.weight.detach().double()
        bias = W @ shift.to(W.device).flatten()
        own = dict(layer.named_parameters(recurse=False)).get("bias")
        if own is not None:
            bias = bias + own.detach().double()
        changed, train = copy.deepcopy(layer), layer.weight.requires_grad
        changed.weight = nn.Parameter((W * scale.to(W.device)).to(layer.weight.dtype), train)
        changed.bias = nn.Parameter(bias.to(layer.weight.dtype), train)
        return changed


class Standardized(nn.Module):
    """A model between standardized inputs and outputs on the targets' scale; its own data stay raw.

    The outputs are model((x − mean)/deviation)·deviation of the targets + their mean. All four are buffers, saved with
    the model.

    Args:
        model: Takes one tensor and gives one; it becomes the part ``model``.
        inputs: [N, features] or images [N, channels, height, width] that the mean and deviation of each feature or
            channel are taken from; None: inputs pass as they are.
        targets: The same for outputs, [N, outputs].

    Raises:
        BadData: No sample, or no dimension beside the samples.
        NonFinite: inf or nan.

    Example:
        >>> raw = torch.tensor([[1.0], [3.0]])
        >>> Standardized(nn.Identity(), inputs=raw)(raw).tolist()
        [[-1.0], [1.0]]
    """

    input_mean: Tensor | None
    input_deviation: Tensor | None
    target_mean: Tensor | None
    target_deviation: Tensor | None

    def __init__(
        self, model: nn.Module, *, inputs: Tensor | None = None, targets: Tensor | None = None
    ) -> None:
        super().__init__()
        self.model = model
        kinds = [p for p in model.parameters() if p.is_floating_point()]
        like = kinds[0] if kinds else torch.zeros(())
        for name, values in (("input", inputs), ("target", targets)):
            fitted = None if values is None else Standardizer.fit(values)
            for part in ("mean", "deviation"):
                number = None if fitted is None else getattr(fitted, part)
                kept = None if number is None else number.to(like.device, like.dtype)
                self.register_buffer(f"{name}_{part}", kept)

    def forward(self, inputs: Tensor) -> Tensor:
        """Of the model's own shapes."""
        x = inputs
        if self.input_mean is not None and self.input_deviation is not None:
            x = (x - self.input_mean) / self.input_deviation
        outputs: Tensor = self.model(x)
        if self.target_mean is not None and self.target_deviation is not None:
            outputs = outputs * self.target_deviation + self.target_mean
        return outputs


@dataclass(frozen=True, slots=True)
class Conditioning(Record):
    """Condition number of XᵀX before and after standardization, over the directions that the inputs reach.

    Gradient descent on a linear model with squared error needs a number of steps proportional to it.
    """

    before: float
    after: float
    zero_before: int  # directions in which all inputs are 0, to float64; with any, the matrix itself is singular
    zero_after: int
    features: int

    def headline(self) -> str:
        """Both numbers."""
        return f"Standardizing takes the condition number from {number(self.before)} to {number(self.after)}."

    def facts(self) -> list[Fact]:
        """The directions that count and those that do not."""
        return [
            (
                "before",
                f"{number(self.before)}, {self.zero_before} of {self.features} directions are zero",
            ),
            (
                "after",
                f"{number(self.after)}, {self.zero_after} of {self.features} directions are zero",
            ),
        ]


def condition_number(inputs: Tensor) -> Conditioning:
    """Measure the condition number of XᵀX, of inputs as they are and standardized.

    Args:
        inputs: [N, …]; each sample is flattened to one row of X.

    Returns:
        Ratios of the largest to the smallest eigenvalue above zero: squares of the singular values of X in float64,
        where those up to max(N, features)·eps of the largest count as zero.

    Raises:
        BadData: No sample, or inputs that are all alike.
        NonFinite: inf or nan.

    Cost:
        Two singular value decompositions without vectors, O(N·features²).

    References:
        LeCun, Bottou, Orr, Müller (1998), Efficient BackProp, section 4.3.

    Example:
        >>> found = condition_number(torch.tensor([[1.0, 10.0], [-1.0, 10.0], [1.0, -10.0], [-1.0, -10.0]]))
        >>> round(found.before, 6), round(found.after, 6)
        (100.0, 1.0)
    """
    standardized = Standardizer.fit(inputs).apply(inputs.double())
    if not standardized.any():
        raise BadData("the inputs are all alike; expected samples that differ")
    (before, zero_before), (after, zero_after) = (
        _condition(inputs.double()),
        _condition(standardized),
    )
    return Conditioning(before, after, zero_before, zero_after, inputs[0].numel())


def _condition(inputs: Tensor) -> tuple[float, int]:
    """Condition number of XᵀX over the directions above zero, and how many are not."""
    X = inputs.flatten(1)
    singular = torch.linalg.svdvals(X)
    kept = singular[singular > max(X.shape) * torch.finfo(torch.float64).eps * singular[0]]
    return float((kept[0] / kept[-1]) ** 2), X.shape[1] - len(kept)


def _check_inputs(inputs: Tensor) -> None:
    if inputs.ndim < 2 or inputs.numel() == 0:
        raise BadData(
            f"inputs have shape {list(inputs.shape)}; expected [samples, features, …], not empty"
        )
    if not torch.isfinite(inputs).all():
        raise NonFinite("inputs hold inf or nan; expected finite data: clean them first")
