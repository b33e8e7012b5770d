"""Which samples an update sees: mini-batches, epochs, shuffling.

Answers: which rows are the next batch, for this seed?
Does not answer: what is done with them.
"""

from typing import Any

import torch
from torch import Tensor

from unstick.errors import BadRecipe
from unstick.training.settings import check_choice

__all__ = ["SHUFFLES", "BatchOrder", "generator_for"]

SHUFFLES = ("epoch", "once", "never")
"""Draw a new order for every epoch, one for the run, or keep the data's own."""

STREAMS = {"order": 0x6F72_6465_7200, "model": 0x6D6F_6465_6C00}
"""Streams of random numbers that one seed gives; apart, so that initial weights and batches share none."""


def generator_for(stream: str, seed: int) -> torch.Generator:
    """The generator of one stream of a seed, on the CPU so that devices agree."""
    return torch.Generator().manual_seed(STREAMS[stream] + seed)


class BatchOrder:
    """Rows of one batch after the other, without end; each epoch visits every sample once.

    Args:
        samples: How many there are.
        batch_size: Of every batch but an epoch's last, which holds the rest; None: all samples, in the data's order.
        seed: Of the shuffling.
        shuffle: One of ``SHUFFLES``.
        drop_last: Leave out a last batch that is smaller.

    Raises:
        BadRecipe: No sample, a batch size below 1 or above the samples, or another kind of shuffling.

    Example:
        >>> order = BatchOrder(5, 2, seed=0, shuffle="never")
        >>> [order.next().tolist() for _ in range(4)], order.epoch
        ([[0, 1], [2, 3], [4], [0, 1]], 1)
    """

    def __init__(
        self,
        samples: int,
        batch_size: int | None,
        *,
        seed: int,
        shuffle: str = "epoch",
        drop_last: bool = False,
    ) -> None:
        if samples < 1:
            raise BadRecipe("there is no sample to train on")
        check_choice(SHUFFLES, shuffle=shuffle)
        if batch_size is not None and not 1 <= batch_size <= samples:
            raise BadRecipe(
                f"batch_size is {batch_size}; expected 1 to {samples:,}, the number of samples, or None for all"
            )
        self.samples = samples
        self.batch_size = samples if batch_size is None else batch_size
        self.whole = self.batch_size == samples
        self.batches = samples // self.batch_size if drop_last else -(-samples // self.batch_size)
        self.last_size = min(self.batch_size, samples - self.batch_size * (self.batches - 1))
        self.epoch = 0  # epochs completed before the next batch
        self.done = 0  # batches of this epoch given out
        self._shuffle = "never" if self.whole else shuffle
        self._generator = generator_for("order", seed)
        self._start = self._generator.get_state()
        self._everything = torch.arange(samples)
        self._rows = self._drawn()

    def next(self) -> Tensor:
        """The rows of the next batch, int64 [batch]."""
        if self.done == self.batches:
            self.epoch += 1
            self.done = 0
            if self._shuffle == "epoch":
                self._start = self._generator.get_state()
                self._rows = self._drawn()
        begin = self.done * self.batch_size
        self.done += 1
        return self._everything if self.whole else self._rows[begin : begin + self.batch_size]

    def next_epoch(self) -> Tensor:
        """The rows of all batches of the next epoch, int64 [batches · batch_size] or fewer; none of this one is left."""
        if self.done:
            self.done = self.batches
            self.next()
        self.done = self.batches
        return self._rows[: self.batches * self.batch_size]

    @property
    def ends_epoch(self) -> bool:
        """Whether the batch given out last was an epoch's last."""
        return self.done == self.batches

    def state_dict(self) -> dict[str, Any]:
        """What ``load_state_dict`` needs to go on exactly here."""
        return {"epoch": self.epoch, "done": self.done, "generator": self._start}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another order of the same samples, size and seed was."""
        self.epoch, self.done, self._start = state["epoch"], state["done"], state["generator"]
        self._generator.set_state(self._start)
        self._rows = self._drawn()

    def _drawn(self) -> Tensor:
        if self._shuffle == "never":
            return self._everything
        return torch.randperm(self.samples, generator=self._generator)
