"""Processes that ``torchrun`` started: how they join, which of them speaks, and how they part.

Answers: did torchrun start this process, and is it the one that prints?
Does not answer: what is shared out among the processes; ``problem.team`` does.
"""

import os
import signal
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import current_thread, main_thread
from time import monotonic, sleep
from typing import Protocol

__all__ = ["Board", "Crew", "joined"]

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
PATIENCE = 3.0  # seconds between the refusals of two processes, if both refuse
REFUSED = "unstick/refused"


class Board(Protocol):
    """Where processes leave messages for each other, without waiting."""

    def set(self, key: str, value: str, /) -> None:
        """Leave a message."""
        ...

    def check(self, keys: list[str], /) -> bool:
        """Whether there are messages under all these keys."""
        ...


@dataclass(frozen=True, eq=False)
class Crew:
    """All processes that torchrun started; without it, this one alone."""

    rank: int = 0
    size: int = 1
    board: Board | None = None

    @property
    def speaks(self) -> bool:
        """Whether this process prints answers and writes files: one of them does."""
        return self.rank == 0

    def must_refuse(self) -> bool:
        """Whether this process has to print its refusal: the first does, others only where the first has none."""
        if self.board is None:
            return True
        if self.speaks:
            self.board.set(REFUSED, "yes")
            return True
        until = monotonic() + PATIENCE
        while monotonic() < until:
            if self.board.check([REFUSED]):
                return False
            sleep(0.05)
        return True


@contextmanager
def joined() -> Generator[Crew]:
    """Join the other processes where torchrun's environment variables are set; part from them afterwards.

    With a CUDA device for every local process, NCCL and gloo and one device each; else gloo on the CPU. Ctrl-C reaches
    the first process only, which tells the others: so all stop at the same product.
    """
    if any(name not in os.environ for name in VARIABLES) or int(os.environ["WORLD_SIZE"]) == 1:
        yield Crew()
        return
    import torch
    from torch import distributed as dist
    from torch.distributed.rendezvous import rendezvous

    if dist.is_initialized():  # by whoever calls: then it is theirs to end
        yield Crew(dist.get_rank(), dist.get_world_size())
        return
    local = int(os.environ["LOCAL_RANK"])
    device = None
    if torch.cuda.is_available() and torch.cuda.device_count() > local:
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    backend = "gloo" if device is None else "cpu:gloo,cuda:nccl"
    board, rank, size = next(rendezvous("env://"))
    board.set_timeout(dist.default_pg_timeout)
    dist.init_process_group(backend, store=board, rank=rank, world_size=size, device_id=device)
    before = None
    if rank > 0 and current_thread() is main_thread():
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield Crew(rank, size, board)
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)
        dist.destroy_process_group()
