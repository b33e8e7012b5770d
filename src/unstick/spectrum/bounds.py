"""How far an eigenvalue can lie beyond the outermost Ritz value.

Answers: a lower bound on λ_min and an upper bound on λ_max that fail with a stated small probability,
over the draw of the random starts.
Does not answer: the other side; a Ritz value itself bounds λ_min from above and λ_max from below.

Two bounds are taken, each with half of the allowed failure, and the better one is kept. The first is known
before a product is spent; the second uses the measured T and is far tighter when the ends stand apart.

A start is g + c: g standard normal, c the warm part or zero, of which the draw of g knows nothing. For a unit
eigenvector u, uᵀ(g + c) is normal with variance one, and its density nowhere exceeds that of uᵀg at zero, whatever
uᵀc is. So no warm start, not even one orthogonal to u, makes a short uᵀ(g + c) more probable. What c costs is length:
the bounds compare uᵀ(g + c) with the whole start.
"""

from dataclasses import dataclass
from math import inf, lgamma, log, sqrt

import torch
from torch import Tensor

from unstick.spectrum.krylov import Krylov, Ritz

__all__ = ["Reach", "a_priori_margin", "measured_margin", "reach"]

GRID_DECADES = 18  # below this fraction of the crudest margin there is only rounding
GRID_STEPS = 40  # a decade: the margin is at most 6 % larger than needed


@dataclass(frozen=True, slots=True)
class Reach:
    """What the whole spectrum lies between, except with the stated probability (rounding not included)."""

    low: float
    high: float


def reach(space: Krylov, ritz: Ritz, *, failure: float) -> Reach:
    """Bound both ends of the spectrum from the first Krylov space.

    Args:
        space: Not restarted: afterwards its random starts no longer lie in the basis.
        ritz: Its Ritz pairs.
        failure: Probability that either bound may fail, between 0 and 1.

    Returns:
        Bounds that both hold with probability 1 − failure; infinite before the starts are multiplied.

    References:
        Kuczyński, Woźniakowski (1992), Estimating the largest eigenvalue by the power and Lanczos
        algorithms with a random start.
        van Dorsselaer, Hochstenbach, van der Vorst (2001), Computing probabilistic bounds for extreme
        eigenvalues of symmetric matrices with the Lanczos method.
    """
    if space.restarted or space.multiplied < space.start_size:
        return Reach(-inf, inf)
    low, high = float(ritz.values[0]), float(ritz.values[-1])
    random, share = space.start_coordinates.shape[1], failure / 4  # two ends, two bounds
    relative = a_priori_margin(
        space.start_square, steps=space.unrestarted, starts=random, failure=share
    )
    common = relative * (high - low) if relative < inf else inf
    coupling = space.projected[space.multiplied :] @ ritz.coordinates
    p = min(space.multiplied, space.start_coordinates.shape[0])
    starts = ritz.coordinates[:p].T @ space.start_coordinates[:p]
    below = measured_margin(
        ritz.values - low, coupling, starts, discarded=space.discarded, failure=share
    )
    above = measured_margin(
        high - ritz.values, coupling, starts, discarded=space.discarded, failure=share
    )
    return Reach(low - min(common, below), high + min(common, above))


def a_priori_margin(square: float, *, steps: int, starts: int, failure: float) -> float:
    """Bound (θ_min − λ_min) / (θ_max − θ_min) by the number of steps alone.

    With k steps to fail means |uᵀs| < 2 exp(−√ε (2k − 1)) ‖s − u uᵀs‖ for the start s = g + c. Its two sides are
    independent, so the probability is at most that factor times √(2/π) E‖s − u uᵀs‖, and E‖·‖² < dim + ‖c‖².
    Kuczyński and Woźniakowski have 0.824 √dim for a uniform direction, which is a little more than √(2/π) √dim.

    Args:
        square: Expected squared length of a start: dim where it is standard normal, dim + ‖c‖² around a mean c.
        steps: Block steps k of unrestarted Lanczos.
        starts: Independent random starts; all of them must fail together.
        failure: Probability that the bound may fail at one end; both ends enter the range.

    Returns:
        ε / (1 − 2ε) with ε = (ln(1.648 √square / failure^(1/starts)) / (2k − 1))²; inf if ε ≥ ½.

    Example:
        >>> round(a_priori_margin(10_000, steps=300, starts=1, failure=5e-7), 6)
        0.001074
    """
    if steps < 1:
        return inf
    epsilon = (max(log(1.648 * sqrt(square)) - log(failure) / starts, 0.0) / (2 * steps - 1)) ** 2
    return epsilon / (1 - 2 * epsilon) if epsilon < 0.5 else inf


def measured_margin(
    gaps: Tensor, coupling: Tensor, starts: Tensor, *, discarded: float, failure: float
) -> float:
    """Bound the distance x from the outermost Ritz value to the end of the spectrum by the measured T.

    For a unit eigenvector u with eigenvalue λ outside the Ritz values, A V = V T + F gives
    uᵀG = uᵀF (λ − T)⁻¹ VᵀG. The left side is r independent normal numbers of variance one, whose density is at most
    (2π)^(−r/2), hence shorter than s = √2 (failure·Γ(r/2 + 1))^(1/r) only with probability ``failure``; the right side
    is at most g(x) = ‖F (λ − T)⁻¹ VᵀG‖. So x with g(x) < s are excluded.

    Args:
        gaps: Distance of each Ritz value from the outermost one, shape [p], none negative.
        coupling: F in the Ritz basis, shape [b, p].
        starts: VᵀG in the Ritz basis, shape [p, r], for r starts G in the span of V, each standard normal around its mean.
        discarded: Norm of the part of F that was dropped as rounding error.
        failure: Probability that the bound may fail.

    Returns:
        x ≥ 0 such that everything farther out is excluded.

    Example:
        >>> one = torch.ones(1, 1).double()
        >>> x = measured_margin(torch.zeros(1).double(), 2 * one, 3 * one, discarded=0.0, failure=0.1)
        >>> 2 * 3 / x < 2**0.5 * (0.1 * 3.14159**0.5 / 2) < 1.06 * 2 * 3 / x
        True
    """
    r = starts.shape[1]
    shortest = sqrt(2) * _root(log(failure) + lgamma(r / 2 + 1), r)
    strength, length = float(coupling.square().sum().sqrt()), float(starts.square().sum().sqrt())
    crudest = (strength + discarded) * length / shortest
    if crudest == 0.0:
        return 0.0
    decades = torch.linspace(0.01, -GRID_DECADES, GRID_DECADES * GRID_STEPS, dtype=torch.float64)
    distances = crudest * 10.0**decades  # from the farthest inward
    X = starts / (distances[:, None] + gaps)[:, :, None]  # [g, p, r]
    lengths = X.square().sum((1, 2)).sqrt()
    rounding = gaps.numel() * torch.finfo(torch.float64).eps * strength
    g = (coupling @ X).square().sum((1, 2)).sqrt() + (discarded + rounding) * lengths
    possible = (g >= shortest).nonzero()
    first = int(possible[0]) if len(possible) else len(distances)
    return float(distances[max(first - 1, 0)])


def _root(logarithm: float, degree: int) -> float:
    """exp(logarithm)^(1/degree)."""
    return float(torch.tensor(logarithm / degree, dtype=torch.float64).exp())
