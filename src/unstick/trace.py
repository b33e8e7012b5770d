"""The record of a run: what the loss was at each update, and at which settings."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

__all__ = ["RunTrace"]


@dataclass(slots=True)
class RunTrace:
    """The losses of a training run, one entry an update; what was not recorded is ``None``.

    Example:
        >>> trace = RunTrace()
        >>> trace.record(loss=2.5, lr=0.1)
        >>> trace.record(loss=2.25, lr=0.1)
        >>> trace.updates, trace.loss
        ([1, 2], [2.5, 2.25])
    """

    updates: list[int] = field(default_factory=list[int])
    loss: list[float] = field(default_factory=list[float])
    learning_rate: list[float | None] = field(default_factory=list[float | None])

    def record(self, *, loss: float, lr: float | None = None, update: int | None = None) -> None:
        """Add one update; without ``update`` it is the one after the last."""
        last = self.updates[-1] if self.updates else 0
        self.updates.append(last + 1 if update is None else update)
        self.loss.append(float(loss))
        self.learning_rate.append(lr)

    @classmethod
    def of_losses(cls, losses: Iterable[float]) -> Self:
        """A trace from a plain sequence of losses."""
        trace = cls()
        for loss in losses:
            trace.record(loss=loss)
        return trace
