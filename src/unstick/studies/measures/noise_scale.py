"""The gradient noise scale from gradients on batches of two sizes.

Answers: what do the lengths of mini-batch gradients say about |G|² and tr Σ, and is that enough to tell their ratio?
Does not answer: the exact values; those need the gradient of every sample.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import nan, sqrt

import torch
from torch import Tensor

__all__ = ["TwoBatch", "two_batch"]

SURE = 1.96  # standard errors on either side of a 95 % interval


@dataclass(frozen=True, slots=True)
class TwoBatch:
    """Unbiased estimates from pairs of batches."""

    gradient: float  # of |G|²; negative where noise hides it
    gradient_error: float  # its standard error
    noise: float  # of tr Σ
    scale: float  # their ratio; nan where it is undetermined

    @property
    def determined(self) -> bool:
        """Whether |G|² is above 0 by its 95 % interval."""
        return self.gradient - SURE * self.gradient_error > 0


def two_batch(
    squared_length: Callable[[Tensor], float],
    *,
    samples: int,
    small: int,
    big: int,
    pairs: int,
    generator: torch.Generator,
) -> TwoBatch:
    """Estimate |G|², tr Σ and their ratio from the squared lengths of gradients on small and on big batches.

    A batch of B has E|g|² = |G|² + tr Σ / B; two sizes give two equations. The means over pairs are taken before the
    ratio, which would be biased otherwise.

    Args:
        squared_length: |g|² of the mean gradient over the given samples.
        samples: How many there are; batches are drawn from them with replacement, as the equations have it.
        small: Samples of a small batch.
        big: Of a big one, more.
        pairs: How many of each, at least two.
        generator: Draws them.

    References:
        McCandlish, Kaplan, Amodei (2018), An Empirical Model of Large-Batch Training, appendix A.1.
    """

    def lengths(size: int) -> Tensor:
        drawn = (torch.randint(samples, (size,), generator=generator) for _ in range(pairs))
        return torch.tensor([squared_length(rows) for rows in drawn], dtype=torch.float64)

    one, two = lengths(small), lengths(big)
    gradients = (big * two - small * one) / (big - small)
    noises = (one - two) / (1 / small - 1 / big)
    gradient, noise = float(gradients.mean()), float(noises.mean())
    error = float(gradients.std()) / sqrt(pairs)
    found = TwoBatch(gradient, error, noise, nan)
    return TwoBatch(gradient, error, noise, noise / gradient) if found.determined else found
