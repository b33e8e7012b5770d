"""How much memory graphs take, which of them stay between products, and how much the machine has left.

Answers: which batches' graphs fit into a budget, how large may a batch be, and what is held at the worst moment?
Does not answer: how many bytes the graph of a sample takes; ``products.saved_bytes`` measures that.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from unstick.errors import TooLittleMemory

__all__ = [
    "DEFAULT_MEMORY",
    "Graphs",
    "available",
    "check_graphs",
    "largest_batch",
    "plan_graphs",
    "size",
    "together",
]

DEFAULT_MEMORY = 2 * 2**30
"""Bytes for graphs, and as many for the data, where nothing else is said."""

WORKSPACE = 1.15
"""What a double backward holds besides a graph, at its worst moment, in graphs of the same batch.

Measured: 0.6 on perceptrons, 0.9 on transformers, 1.05 to 1.1 on convolutions.
"""

ALLOCATOR = 4 / 3
"""What a process grows by for every byte in use, between blocks freed and blocks kept.

Measured with the allocator of Linux: 1.15 on convolutions and perceptrons, 1.4 on transformers, 1.0 if it gives all back.
"""

VECTORS = 5
"""Vectors of all parameters that a product holds: the point, the factor, the sum and what is added to it."""

PIECE = 0.25
"""The part of a budget that a batch may take while its graph is rebuilt: the rest is for the graphs that stay."""

LARGEST = {"cpu": 24 * 2**20}
"""Bytes of graphs, or of columns times graphs, that are worked on at once; elsewhere ``LARGEST_ELSEWHERE``.

Measured on a CPU: from about 100 MiB on, single tensors leave the range that the allocator reuses (32 MiB on Linux), and
products of a small convolutional network take three times as long; below 10 MiB the number of operations counts.
"""
LARGEST_ELSEWHERE = 2**30


@dataclass(frozen=True, slots=True)
class Graphs:
    """Which batches' graphs stay between products, and what that takes."""

    kept: tuple[bool, ...]  # one a batch
    kept_share: float  # the part of the samples whose graphs are kept
    kept_bytes: float  # held between products
    workspace_bytes: (
        float  # on top at the worst moment: the graph being rebuilt, and what goes back through one
    )
    column_bytes: float  # more for every further column that goes through a graph in the same pass

    @property
    def peak_bytes(self) -> float:
        """The most that the process grows by."""
        return ALLOCATOR * (self.kept_bytes + self.workspace_bytes)

    def columns(self, memory: float) -> int | None:
        """How many columns one pass can take within a budget; None for as many as wanted."""
        room = (memory - self.peak_bytes) / max(1.0, ALLOCATOR * self.column_bytes)
        return None if math.isinf(room) else 1 + max(0, int(room))


def plan_graphs(
    sizes: Sequence[int],
    *,
    per_sample: float,
    vector: float,
    memory: float,
    keep: bool = True,
) -> Graphs:
    """Keep as many batches' graphs as the budget holds beside the work on any one batch.

    Args:
        sizes: Samples of each batch.
        per_sample: Bytes of a kept graph for each sample.
        vector: Bytes of a vector of all parameters; every kept graph ends in one.
        memory: Bytes for all of it.
        keep: Whether any are to stay.

    Returns:
        The plan. Its peak is above ``memory`` where even one batch that is rebuilt takes more; then none is kept.

    Example:
        >>> plan_graphs([100, 100], per_sample=1e3, vector=0.0, memory=4.5e5).kept
        (True, True)
        >>> plan_graphs([100, 100, 100], per_sample=1e3, vector=0.0, memory=4.5e5).kept
        (True, False, False)
    """
    largest, room = per_sample * max(sizes, default=0), memory / ALLOCATOR
    vectors = VECTORS * vector
    through = WORKSPACE * largest
    everything = sum(per_sample * size + vector for size in sizes)
    if keep and everything + through + vectors <= room:
        return Graphs((True,) * len(sizes), 1.0, everything, through + vectors, through + vector)
    workspace = largest + through + vectors
    kept: list[bool] = []
    held = 0.0
    for size in sizes:
        more = per_sample * size + vector
        kept.append(keep and held + more + workspace <= room)
        held += more if kept[-1] else 0.0
    share = sum(size for size, stays in zip(sizes, kept, strict=True) if stays) / max(1, sum(sizes))
    return Graphs(tuple(kept), share, held, workspace, through + vector)


def largest_batch(*, per_sample: float, memory: float) -> int:
    """Samples of the largest batch whose graph can be rebuilt in a quarter of the budget, at least one.

    Example:
        >>> largest_batch(per_sample=1e6, memory=115e6)
        10
    """
    taken = ALLOCATOR * (1 + WORKSPACE) * max(per_sample, 1.0)
    return max(1, int(min(PIECE * memory / taken, 1e12)))


def together(graph: float, device: torch.device) -> int:
    """How many of something that takes so many bytes are best worked on at once, at least one.

    Example:
        >>> together(2**20, torch.device("cpu"))
        24
    """
    largest = LARGEST.get(device.type, LARGEST_ELSEWHERE)
    return max(1, int(min(largest / max(graph, 1.0), 1e12)))


def check_graphs(graphs: Graphs, memory: int, device: torch.device, *, strict: bool) -> None:
    """Refuse graphs that do not fit, before one is built.

    Args:
        graphs: The plan.
        memory: What they were given.
        device: Where they will be.
        strict: Whether a single batch may not take more than ``memory`` even where the machine has it.

    Raises:
        TooLittleMemory: Says how much is needed, and what to change.
    """
    free = available(device)
    if graphs.peak_bytes > memory and strict:
        limit = f"memory= allows {size(memory)}"
    elif free is not None and graphs.peak_bytes > free:
        limit = f"{size(free)} are free"
    else:
        return
    raise TooLittleMemory(
        f"Hessian products take {size(graphs.peak_bytes)} for graphs and the work on one batch, {limit}: give smaller "
        f"batches, memory={math.ceil(1.01 * graphs.peak_bytes):.3g} or more, samples= for a part of the data, or "
        "hessian(mode='difference'), which builds no second graph"
    )


def available(device: torch.device) -> float | None:
    """Bytes that can still be taken where a device keeps its tensors; None where that cannot be known.

    On Linux what the kernel says is available, or what is left of the limit of the control group; on CUDA what the
    device has free and what PyTorch holds of it without need.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(torch.cuda.mem_get_info(device)[0] + unused)
    if device.type != "cpu":
        return None
    known = [free for free in (_of_machine(), _of_group()) if free is not None]
    return min(known) if known else None


def size(count: float) -> str:
    """Bytes for people: ``1.5 GiB``, ``310 MiB``, ``12 KiB``.

    Example:
        >>> size(1.5 * 2**30), size(12_000)
        ('1.5 GiB', '11.7 KiB')
    """
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if count >= 1024.0**power:
            return f"{count / 1024.0**power:.3g} {unit}"
    return f"{count:.0f} bytes"


def _of_machine() -> float | None:
    """What the kernel says it could give."""
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return 1024.0 * int(line.split()[1])
    return None


def _of_group() -> float | None:
    """What a container or a job may still take, in the second or the first version of control groups."""
    for folder, limit, used in (
        ("/sys/fs/cgroup", "memory.max", "memory.current"),
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        most, now = _read(f"{folder}/{limit}").strip(), _read(f"{folder}/{used}").strip()
        if most.isdigit() and now.isdigit():
            given_back = sum(  # pages of files, dropped when memory is short
                float(line.split()[1])
                for line in _read(f"{folder}/memory.stat").splitlines()
                if line.split()[0] in ("inactive_file", "total_inactive_file")
            )
            return max(0.0, float(most) - float(now) + given_back)
    return None


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""
