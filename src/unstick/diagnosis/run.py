"""A stuck run as a user hands it over: the problem, and what is known of how it was trained."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer

from unstick.problem.problem import Problem
from unstick.trace import RunTrace

__all__ = ["Run"]


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """The problem and, as far as known, its training; what is ``None`` was not given."""

    problem: Problem
    optimizer: Optimizer | None = None
    batch_size: int | None = None
    history: Sequence[float] | RunTrace | None = None  # the loss of each update
    scheduler: Any = None
    clip_norm: float | None = None
