"""The processes that share one problem, and what passes between them.

Answers: what is the sum over all processes, what does the first one say, and did anything fail anywhere?
Does not answer: which part of the data is whose; ``preparation`` divides them.

Every process must make the same calls in the same order. So whatever decides about the next call is the same
everywhere: sums leave identical copies in all processes, clocks are read by one, and a failure in one is one in all.
"""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor
from torch import distributed as dist

from unstick.errors import BadData, BadModel, UnstickError

__all__ = ["ALONE", "Group", "Team", "check_alike", "team_of"]

Value = TypeVar("Value")

Group = dist.ProcessGroup | Literal["alone"] | None
"""Who shares a problem: a process group; None for all processes, where there are several; or "alone"."""


@dataclass(frozen=True, eq=False)
class Team:
    """The processes that share a problem, seen from one of them; by default this one alone, which costs nothing."""

    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of everybody's tensor, bit for bit the same in every process; a new tensor.

        Cost:
            One all-reduce of the tensor; nothing where the team is one process.
        """
        if self.size == 1:
            return tensor
        there = self._reachable(tensor)
        dist.all_reduce(there, group=self.group)
        return there.to(tensor.device)

    def agree(self, value: Value) -> Value:
        """What the first process says."""
        if self.size == 1:
            return value
        said: list[Any] = [value]
        first = 0 if self.group is None else dist.get_global_rank(self.group, 0)
        dist.broadcast_object_list(said, src=first, group=self.group)
        return cast("Value", said[0])

    def gather(self, value: Value) -> list[Value]:
        """What each process says, in order of rank."""
        if self.size == 1:
            return [value]
        said: list[Any] = [None] * self.size
        dist.all_gather_object(said, value, group=self.group)
        return cast("list[Value]", said)

    @contextmanager
    def together(self) -> Generator[None]:
        """Work of this process alone, after which an exception in one process is one in all.

        The body must exchange nothing: a process that fails in it would leave the others waiting.

        Raises:
            UnstickError: In another process; its message, and which process said so.
            KeyboardInterrupt: In any process.
        """
        if self.size == 1:
            yield
            return
        failure: BaseException | None = None
        try:
            yield
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the others must know of any
            failure = error
        failed = torch.tensor([0.0 if failure is None else 1.0])
        if not float(self.sum(failed)):
            return
        told = self.gather(_told(failure))
        first = next(rank for rank, said in enumerate(told) if said is not None)
        if failure is not None and first == self.rank:
            raise failure
        kind, message = cast("tuple[type[BaseException], str]", told[first])
        raise kind(f"{message} (process {first} of {self.size})") from failure

    def _reachable(self, tensor: Tensor) -> Tensor:
        """A copy where the group can reach it: NCCL sees only CUDA memory."""
        device = tensor.device
        if device.type == "cpu" and dist.get_backend(self.group) == dist.Backend.NCCL:
            device = torch.device("cuda", torch.cuda.current_device())
        copy = tensor.detach().to(device)
        return copy.clone(memory_format=torch.contiguous_format) if copy is tensor else copy


ALONE = Team()
"""A team of one."""


def team_of(group: Group) -> Team:
    """The team of a process group; without one, of all processes, where ``torch.distributed`` runs.

    Raises:
        BadModel: Something else was given, or this process is not in the group.
    """
    if group == "alone" or not dist.is_available() or not dist.is_initialized():
        return ALONE
    if group is not None and not _is_group(group):
        raise BadModel(
            f"group is {group!r}; expected a process group, 'alone', or None for all processes"
        )
    size = dist.get_world_size(group)
    if size < 1:
        raise BadModel("this process is not in the group given; call only from processes in it")
    return Team(dist.get_rank(group), size, group) if size > 1 else ALONE


def check_alike(team: Team, digest: int, what: str, advice: str) -> None:
    """Refuse, in every process, something that must be the same in all of them and is not.

    Args:
        team: The processes.
        digest: A number that tells this process's from others.
        what: Its name in the message.
        advice: What to do.

    Raises:
        BadData: The digests differ.
    """
    digests = team.gather(digest)
    other = next((rank for rank, found in enumerate(digests) if found != digests[0]), None)
    if other is not None:
        raise BadData(
            f"{what} differ between processes 0 and {other} of {team.size}; expected the same everywhere: {advice}"
        )


def _is_group(given: object) -> bool:
    return isinstance(given, dist.ProcessGroup)


def _told(failure: BaseException | None) -> tuple[type[BaseException], str] | None:
    """A failure in a form that every process can read."""
    if failure is None:
        return None
    said = " ".join(str(failure).split())
    if isinstance(failure, KeyboardInterrupt):
        return KeyboardInterrupt, said or "interrupted"
    if isinstance(failure, UnstickError):
        return type(failure), said
    return BadModel, f"{type(failure).__name__}: {said}"
