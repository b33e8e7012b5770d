"""How the learning rate changes from update to update.

Answers: what is the rate of the next update, as a multiple of the recipe's?
Does not answer: which rate is a good one.

Torch's own schedulers do the arithmetic, on an optimizer of their own, so that one schedule serves our optimizers,
torch's, and all members of a population alike.
"""

from typing import Any, Final

import torch
from torch import nn
from torch.optim import SGD, lr_scheduler

from unstick.errors import BadRecipe
from unstick.training.settings import check_choice

__all__ = ["SCALINGS", "SCHEDULES", "Pace", "scaled_rate"]

SCHEDULES: Final = {
    "constant": "the rate stays",
    "step": "times `factor` after every `every` updates (StepLR)",
    "exponential": "times `factor` over every `every` updates, a little at each (ExponentialLR)",
    "cosine": "half a cosine, down to `floor` at the last update (CosineAnnealingLR)",
    "inverse-sqrt": "1/√t at update t (LambdaLR)",
    "plateau": "times `factor` where the mean loss of `patience` epochs was no lower (ReduceLROnPlateau)",
}
"""What there is, and what torch's scheduler it is."""

SCALINGS: Final = ("linear", "sqrt")
"""How the rate grows with the batch size: as it does, or as its square root."""


class Pace:
    """The multiplier of the learning rate, update by update.

    Args:
        schedule: One of ``SCHEDULES``.
        updates: How many there will be, which "cosine" needs.
        warmup: Updates over which the multiplier first grows, by equal steps: after w of them it is 1. The schedule
            counts from then on. The first update's is (1 − ``warmup_from``)/w above ``warmup_from``, never 0.
        warmup_from: Where the growth starts: 0, or such as 1/k after a batch k times as large.
        every: Updates for "step" and "exponential".
        factor: For "step", "exponential" and "plateau".
        floor: Smallest multiplier of "cosine" and "plateau".
        patience: Epochs without a lower mean loss that "plateau" bears.

    Raises:
        BadRecipe: Another schedule, or numbers out of range.

    References:
        Goyal et al. (2017), Accurate, Large Minibatch SGD, section 2.2, for the warm-up.

    Example:
        >>> pace = Pace("inverse-sqrt", warmup=2)
        >>> [round((pace.advance(), pace.multiplier)[1], 3) for _ in range(4)]
        [1.0, 1.0, 0.707, 0.577]
    """

    def __init__(
        self,
        schedule: str = "constant",
        *,
        updates: int | None = None,
        warmup: int = 0,
        warmup_from: float = 0.0,
        every: int = 1000,
        factor: float = 0.1,
        floor: float = 0.0,
        patience: int = 5,
    ) -> None:
        check_choice(SCHEDULES, schedule=schedule)
        for name, value, low, high in (
            ("warmup", warmup, 0, None),
            ("warmup_from", warmup_from, 0.0, 1.0),
            ("every", every, 1, None),
            ("factor", factor, 0.0, 1.0),
            ("floor", floor, 0.0, 1.0),
            ("patience", patience, 1, None),
        ):
            if value < low or (high is not None and value > high):
                limit = f"at least {low}" if high is None else f"{low:g} to {high:g}"
                raise BadRecipe(f"{name} is {value}; expected {limit}")
        self._kind = schedule
        self._warmup = warmup
        self._done = 0
        self._rate = SGD([nn.Parameter(torch.zeros(()))], lr=1.0)
        self._warm: lr_scheduler.LinearLR | None = None
        if warmup > 0:
            first = warmup_from + (1 - warmup_from) / warmup
            self._warm = lr_scheduler.LinearLR(
                SGD([nn.Parameter(torch.zeros(()))], lr=1.0),
                start_factor=first,
                total_iters=max(warmup - 1, 1),
            )
            self._warm.optimizer.step()
        left = None if updates is None else max(updates - warmup, 1)
        self._main = self._made(left, every=every, factor=factor, floor=floor, patience=patience)
        self._rate.step()  # torch warns where a scheduler steps before its optimizer has
        self.multiplier = self._now()

    def advance(self) -> None:
        """An update was made."""
        self._done += 1
        if self._done < self._warmup:
            assert self._warm is not None
            self._warm.step()
        elif self._done > self._warmup or self._warmup == 0:
            if self._main is None or isinstance(self._main, lr_scheduler.ReduceLROnPlateau):
                return
            self._main.step()
        self.multiplier = self._now()

    def after_epoch(self, loss: float) -> None:
        """An epoch is over, and its mean loss was this; only "plateau" listens, once it is warm."""
        if isinstance(self._main, lr_scheduler.ReduceLROnPlateau) and self._done >= self._warmup:
            self._main.step(loss)
            self.multiplier = self._now()

    @property
    def constant(self) -> bool:
        """Whether the multiplier is 1 for ever."""
        return self._main is None and self._done >= self._warmup

    def state_dict(self) -> dict[str, Any]:
        """What ``load_state_dict`` needs to go on exactly here."""
        parts = {"warm": self._warm, "main": self._main}
        states = {
            name: _plain(part.state_dict()) for name, part in parts.items() if part is not None
        }
        return {"done": self._done, "rate": self._rate.param_groups[0]["lr"], **states}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another pace of the same settings was."""
        self._done = state["done"]
        self._rate.param_groups[0]["lr"] = state["rate"]
        if self._warm is not None:
            self._warm.load_state_dict(state["warm"])
            self._warm.optimizer.param_groups[0]["lr"] = state["warm"]["_last_lr"][0]
        if self._main is not None:
            self._main.load_state_dict(state["main"])
        self.multiplier = self._now()

    def _now(self) -> float:
        if self._done < self._warmup:
            assert self._warm is not None
            return float(self._warm.get_last_lr()[0])
        return float(self._rate.param_groups[0]["lr"])

    def _made(
        self, updates: int | None, *, every: int, factor: float, floor: float, patience: int
    ) -> lr_scheduler.LRScheduler | None:
        match self._kind:
            case "step":
                return lr_scheduler.StepLR(self._rate, step_size=every, gamma=factor)
            case "exponential":
                return lr_scheduler.ExponentialLR(self._rate, gamma=factor ** (1 / every))
            case "cosine":
                if updates is None:
                    raise BadRecipe("the schedule 'cosine' needs the number of updates")
                return lr_scheduler.CosineAnnealingLR(self._rate, T_max=updates, eta_min=floor)
            case "inverse-sqrt":
                return lr_scheduler.LambdaLR(self._rate, _inverse_sqrt)
            case "plateau":
                return lr_scheduler.ReduceLROnPlateau(
                    self._rate, factor=max(factor, 1e-12), patience=patience, min_lr=floor
                )
            case _:
                return None


def scaled_rate(rate: float, batch_size: int, *, base: int, how: str = "linear") -> float:
    """The learning rate for another batch size than it was chosen at.

    Args:
        rate: Chosen at ``base`` samples a batch.
        batch_size: Samples of a batch now.
        base: Samples of a batch then.
        how: One of ``SCALINGS``.

    References:
        Goyal et al. (2017), Accurate, Large Minibatch SGD, for "linear"; You et al. (2020), for "sqrt" with LAMB.

    Example:
        >>> scaled_rate(0.1, 1024, base=256), scaled_rate(0.1, 1024, base=256, how="sqrt")
        (0.4, 0.2)
    """
    check_choice(SCALINGS, scaling=how)
    return rate * (batch_size / base) ** (1.0 if how == "linear" else 0.5)


def _inverse_sqrt(update: int) -> float:
    return float((update + 1) ** -0.5)


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    """Without what torch keeps for itself and cannot be written down."""
    kinds = (int, float, str, bool, list, type(None))
    return {name: value for name, value in state.items() if isinstance(value, kinds)}
