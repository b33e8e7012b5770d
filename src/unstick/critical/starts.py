"""Where to begin looking for critical points.

Answers: which parameter vectors spread a search over the losses that a training went through, or around a point?
Does not answer: what the search finds from there.
"""

import torch
from torch import Tensor

from unstick.errors import BadData
from unstick.problem.problem import Problem

__all__ = ["starts_along", "starts_around"]


def starts_along(
    trajectory: Tensor,
    losses: Tensor,
    *,
    count: int,
    noise: float = 0.0,
    noisy: float = 0.5,
    seed: int = 0,
) -> Tensor:
    """Points of a training trajectory, uniform in loss: each is the one whose loss is nearest to a uniform draw.

    A trajectory spends most of its time at low loss; points uniform in time would miss the saddles above.

    Args:
        trajectory: Parameter vectors on the way, shape [k, n].
        losses: The loss of each, shape [k].
        count: Points wanted.
        noise: Standard deviation of what is added to some of them, for each parameter.
        noisy: The part of the points that it is added to, the last ones.
        seed: Seed of the losses drawn and of the noise.

    Returns:
        Shape [count, n], of the trajectory's type; a point may come more than once.

    Raises:
        BadData: Misshapen or empty input, a loss that is not finite, a number out of range.

    References:
        Frye et al. (2021), Critical point-finding methods reveal gradient-flat regions of deep network losses.

    Example:
        >>> path = torch.tensor([[0.0], [1.0], [2.0]])
        >>> starts_along(path, torch.tensor([9.0, 1.0, 0.0]), count=2).shape
        torch.Size([2, 1])
    """
    if trajectory.ndim != 2 or losses.shape != trajectory.shape[:1] or trajectory.numel() == 0:
        raise BadData(
            f"the trajectory has shape {list(trajectory.shape)} and its losses {list(losses.shape)}; expected [k, n] and "
            "[k], at least one point"
        )
    if not bool(torch.isfinite(losses).all()) or not bool(torch.isfinite(trajectory).all()):
        raise BadData("the trajectory or its losses hold inf or nan; cut it before it diverged")
    _check(count, noise, "noise")
    if not 0 <= noisy <= 1:
        raise BadData(f"noisy is {noisy}; expected a part from 0 to 1")
    generator = torch.Generator().manual_seed(seed)
    values = losses.detach().to("cpu", torch.float64)
    low, high = float(values.min()), float(values.max())
    drawn = low + (high - low) * torch.rand(count, generator=generator, dtype=torch.float64)
    nearest = (values[None, :] - drawn[:, None]).abs().argmin(1)
    starts = trajectory.detach()[nearest.to(trajectory.device)].clone()
    last = round(noisy * count)
    if last and noise > 0:
        starts[count - last :] += noise * _normal(last, starts, generator)
    return starts


def starts_around(problem: Problem, *, count: int, scale: float, seed: int = 0) -> Tensor:
    """The model's parameters with N(0, scale²) added to each.

    Args:
        problem: Whose parameters.
        count: Points wanted.
        scale: Standard deviation for each parameter.
        seed: Seed of the noise.

    Returns:
        Shape [count, n], in the type computed in.

    Raises:
        BadData: A number out of range.

    Example:
        >>> problem = Problem.from_function(lambda x: x @ x, torch.ones(3))
        >>> starts_around(problem, count=2, scale=0.0).tolist()
        [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """
    _check(count, scale, "scale")
    here = problem.parameters()
    generator = torch.Generator().manual_seed(seed)
    return here + scale * _normal(count, here.unsqueeze(0), generator)


def _normal(count: int, like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal rows, drawn on the CPU in float64 so that devices agree."""
    return torch.randn(count, like.shape[1], generator=generator, dtype=torch.float64).to(like)


def _check(count: int, scale: float, name: str) -> None:
    if count < 1:
        raise BadData(f"count is {count}; expected at least 1")
    if not 0 <= scale < float("inf"):
        raise BadData(f"{name} is {scale}; expected a finite standard deviation ≥ 0")
