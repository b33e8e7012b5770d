"""Where the columns of a basis are kept, and which part of every vector is kept by this process.

Answers: on the device, in the CPU's memory, or in a file; whole vectors, or a shard of them.
Does not answer: what is computed with them; that is ``basis.py``.
"""

import os
import tempfile
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

__all__ = ["Columns", "Shard", "Storage"]

PLACES = ("device", "cpu", "disk")


@dataclass(frozen=True, slots=True, eq=False)
class Shard:
    """The part of every vector that this process holds; the others hold the rest."""

    length: int  # entries here
    rank: int  # this process's number
    sum: Callable[[Tensor], Tensor]  # over all processes, bit for bit the same in each


@dataclass(frozen=True, slots=True)
class Storage:
    """Where a basis is kept.

    "device" is where the vectors are. "cpu" leaves an accelerator's memory to the model. "disk" maps a file into memory,
    which the system writes out as it needs: a basis may be larger than the memory. The file has no name once it is
    open, so nothing is left behind, however the program ends.

    Raises:
        ValueError: Another place, a folder without "disk", or one that does not exist.
    """

    place: Literal["device", "cpu", "disk"] = "device"
    folder: Path | str | None = None  # for "disk"; None: the system's folder for temporary files
    shard: Shard | None = None  # None: this process holds whole vectors

    def __post_init__(self) -> None:
        if self.place not in PLACES:
            raise ValueError(f"place is {self.place!r}; expected one of {', '.join(PLACES)}")
        if self.folder is not None and self.place != "disk":
            raise ValueError(f"folder is {str(self.folder)!r}; it only goes with place='disk'")
        if self.folder is not None and not Path(self.folder).is_dir():
            raise ValueError(f"the folder {str(self.folder)!r} does not exist; make it first")


class Columns:
    """One growing buffer of columns, a row of memory for each.

    Args:
        storage: Where.
        length: Entries of a column that this process holds.
        dtype: Their type.
        device: Where the vectors live.
        capacity: Columns to make room for at first.

    Raises:
        OSError: The disk is full.
    """

    def __init__(
        self,
        storage: Storage,
        length: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
        capacity: int,
    ) -> None:
        self._storage = storage
        self._length = length
        self._dtype = dtype
        self.device = device if storage.place == "device" else torch.device("cpu")
        self.rows = self._room(capacity)  # [capacity, length]

    def reserve(self, columns: int, used: int, *, most: int) -> None:
        """Make room for so many columns, keeping the first ``used``; doubles, up to ``most``."""
        if columns <= self.rows.shape[0]:
            return
        grown = self._room(min(max(columns, 2 * self.rows.shape[0]), max(columns, most)))
        for column in range(used):
            grown[column] = self.rows[column]
        self.rows = grown

    def _room(self, columns: int) -> Tensor:
        if self._storage.place == "disk" and self._length:
            return _mapped(self._storage.folder, columns, self._length, self._dtype)
        return torch.empty(columns, self._length, dtype=self._dtype, device=self.device)


def _mapped(folder: Path | str | None, columns: int, length: int, dtype: torch.dtype) -> Tensor:
    """A tensor in a file of its own; the file goes with the tensor."""
    handle, name = tempfile.mkstemp(prefix="unstick-basis-", dir=folder)
    path = Path(name)
    try:
        size = columns * length * dtype.itemsize
        if hasattr(os, "posix_fallocate"):  # a full disk is an error now, not a crash later
            os.posix_fallocate(handle, 0, size)
        else:
            os.truncate(handle, size)
        flat = torch.from_file(name, shared=True, size=columns * length, dtype=dtype)
    except BaseException:
        os.close(handle)
        path.unlink(missing_ok=True)
        raise
    os.close(handle)
    try:
        path.unlink()
    except PermissionError:  # Windows keeps the name as long as the file is mapped
        weakref.finalize(flat.untyped_storage(), path.unlink, missing_ok=True)
    return flat.view(columns, length)
