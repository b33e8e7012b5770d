"""When a training ends before its last update.

Answers: is the target reached, or has progress ended?
Does not answer: why it has; ``diagnosis`` does.
"""

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from types import FrameType
from typing import Any

from unstick.training.recipe import Recipe

__all__ = [
    "DIVERGED",
    "DONE",
    "FINISHED",
    "INTERRUPTED",
    "STALLED",
    "TARGET",
    "Interrupt",
    "Watch",
    "interruptible",
]

DONE = "done"
TARGET = "target reached"
STALLED = "no progress"
DIVERGED = "diverged"
INTERRUPTED = "interrupted"
FINISHED = "second-order stationary"


@dataclass(slots=True)
class Watch:
    """Looks at the mean loss of every epoch."""

    recipe: Recipe
    best: float = inf
    waited: int = 0  # epochs since the best one

    def after_epoch(self, loss: float) -> str | None:
        """The outcome, if training is to end here."""
        recipe = self.recipe
        if recipe.target_loss is not None and loss <= recipe.target_loss:
            return TARGET
        lower = self.best - loss > recipe.improvement * abs(self.best) if self.best < inf else True
        self.best, self.waited = (loss, 0) if lower else (self.best, self.waited + 1)
        if recipe.patience is not None and self.waited >= recipe.patience:
            return STALLED
        return None

    def state_dict(self) -> dict[str, Any]:
        """What ``load_state_dict`` needs."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another watch was."""
        self.best, self.waited = state["best"], state["waited"]


@dataclass(slots=True)
class Interrupt:
    """Whether Ctrl-C was pressed."""

    asked: bool = field(default=False)


@contextmanager
def interruptible() -> Generator[Interrupt]:
    """Ctrl-C is noted, so that the update in progress is completed; a second one interrupts at once.

    Only in the main thread, where Python handles signals; elsewhere nothing changes.
    """
    seen = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield seen
        return
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:  # somebody handles it already
        yield seen
        return

    def note(number: int, frame: FrameType | None) -> None:
        if seen.asked:
            signal.default_int_handler(number, frame)
        seen.asked = True

    signal.signal(signal.SIGINT, note)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)
