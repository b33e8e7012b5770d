"""How much room the Hessian takes written down, or a Krylov basis of it, and whether that is there.

Answers: dense or by products, how many columns before a restart, and what has to be refused before it begins?
Does not answer: what graphs take; that is ``problem.memory``.
"""

from dataclasses import dataclass

import torch

from unstick.errors import TooLittleMemory
from unstick.problem.memory import size
from unstick.problem.problem import Problem
from unstick.spectrum.storage import Storage

__all__ = [
    "DIRECTIONS",
    "Room",
    "check_room",
    "column_bytes",
    "dense_bytes",
    "is_small",
    "room_for_basis",
    "room_for_ends",
    "room_for_verdict",
]

DENSE_PARAMETERS = 2000
DENSE_WORK = 5e9  # parameters² × samples; a dense Hessian of so much takes about five seconds
DENSE_SECONDS = 60.0  # by the measured price, far above: only models that share weights meet it
BASIS_BYTES = 2 * 2**30  # the Krylov basis is restarted beyond
SMALL_BASIS = 24
BASIS = 128  # columns, where they fit: a restart costs products, and both ends take 60 to 80
BESIDE = 12  # columns in use beside the basis: products, remainders, and vectors being made
DENSE_MATRICES = 6  # of n² float64 numbers, while the eigenvalues of a dense Hessian are computed
DIRECTIONS = 4  # eigenvectors kept at the lower end


@dataclass(frozen=True, slots=True)
class Room:
    """What a Krylov basis will take."""

    columns: int  # before a restart
    basis_bytes: float  # where the basis is kept, while its buffer grows included
    vector_bytes: float  # vectors in use beside it, where the parameters are
    free_bytes: float | None  # where the basis is kept


def is_small(problem: Problem) -> bool:
    """Whether the dense Hessian and its eigenvalues take about ten seconds at most.

    By size, so that equal inputs take equal ways on a busy machine too; the measured time only stops what is far slower
    than its size tells.
    """
    if problem.sharded:
        return False
    n, work = problem.n, float(problem.n) ** 2 * max(1, problem.samples)
    return n <= DENSE_PARAMETERS and work <= DENSE_WORK and problem.price(2.0 * n) <= DENSE_SECONDS


def room_for_basis(
    problem: Problem,
    *,
    pairs: int,
    most: int,
    least: int = 1,
    starts: int = 2,
    graphs: float = 0.0,
    storage: Storage | None = None,
) -> Room:
    """As many columns as were asked for, fewer where the memory is short.

    Args:
        problem: Whose Hessian.
        pairs: Eigenpairs wanted, both ends together.
        most: Columns to keep if they fit.
        least: Fewest columns that will do.
        starts: Vectors that the search starts from; each step multiplies as many.
        graphs: Bytes that Hessian products will take where the parameters are.
        storage: Where the basis will be kept; a file takes no memory.

    Raises:
        TooLittleMemory: Not even the fewest columns fit; says what would help.
    """
    place = "device" if storage is None else storage.place
    column = column_bytes(problem)
    least = min(max(least, 2 * pairs + 4 * starts + 8), problem.n)  # as ``ends`` needs them
    columns = max(least, min(most, problem.n))
    vectors = float((BESIDE + pairs + 3 * max(0, starts - 2)) * column)
    if place == "disk":
        return Room(columns, 0.0, vectors, None)
    device = torch.device("cpu") if place == "cpu" else problem.device
    free = problem.free_memory(device)
    # Some of the vectors come by where a basis is kept elsewhere; the graphs do not.
    beside = vectors + (graphs if device == problem.device else 0.0)
    while free is not None and columns > least and _grown(columns, column, device) + beside > free:
        columns = max(least, columns // 2)
    needed = _grown(columns, column, device)
    if free is not None and needed + beside > free:
        elsewhere = f"storage=Storage('{'disk' if device.type == 'cpu' else 'cpu'}')"
        raise TooLittleMemory(
            f"a Krylov basis of {columns} columns takes {size(needed)}, and what is computed beside it {size(beside)}; "
            f"{size(free)} are free on {device}: keep the basis elsewhere by {elsewhere}, ask for part of the parameters, "
            "fewer pairs or a smaller max_basis=, or give the problem a smaller memory="
        )
    return Room(columns, needed, vectors, free)


def room_for_ends(
    problem: Problem,
    lowest: int,
    highest: int,
    *,
    max_basis: int | None = None,
    starts: int = 2,
    graphs: float = 0.0,
    storage: Storage | None = None,
) -> Room:
    """The basis that ``curvature_ends`` will take.

    Raises:
        TooLittleMemory: As ``room_for_basis``; also where ``max_basis`` columns were asked for and do not fit.
    """
    pairs = min(lowest, problem.n) + min(highest, problem.n)
    column = column_bytes(problem)
    most = min(BASIS, max(SMALL_BASIS, BASIS_BYTES // column)) if max_basis is None else max_basis
    return room_for_basis(
        problem,
        pairs=pairs,
        most=most,
        least=max_basis or 1,
        starts=starts,
        graphs=graphs,
        storage=storage,
    )


def room_for_verdict(problem: Problem, max_products: int, *, graphs: float) -> Room:
    """The basis by which ``classify`` looks for negative curvature.

    The bound on what may be hidden tightens only until the first restart, so that comes as late as memory allows.

    Raises:
        TooLittleMemory: As ``room_for_basis``.
    """
    most = max(SMALL_BASIS, min(max_products, BASIS_BYTES // column_bytes(problem)))
    return room_for_basis(problem, pairs=DIRECTIONS + 1, most=most, graphs=graphs)


def check_room(problem: Problem) -> None:
    """Refuse a problem whose smallest basis, or dense Hessian where one is taken, does not fit; nothing is taken yet.

    Raises:
        TooLittleMemory: Says how much is missing.
    """
    if not is_small(problem):
        room_for_basis(problem, pairs=DIRECTIONS + 1, most=SMALL_BASIS)
        return
    needed, free = dense_bytes(problem), problem.free_memory(torch.device("cpu"))
    if free is not None and needed > free:
        raise TooLittleMemory(
            f"the dense Hessian of {problem.n:,} parameters and its eigenvalues take {size(needed)}, {size(free)} are free"
        )


def dense_bytes(problem: Problem) -> float:
    """What the dense Hessian and its eigenvalues take, in the CPU's memory."""
    return DENSE_MATRICES * 8.0 * problem.n**2


def column_bytes(problem: Problem) -> int:
    """Bytes of a vector, or of the part of one that a process holds; the same number in every process."""
    entries = -(-problem.n // problem.team.size) if problem.sharded else problem.n
    return entries * problem.dtype.itemsize


def _grown(columns: int, column: int, device: torch.device) -> float:
    """Bytes of a basis while its buffer, which doubles, takes the last of so many columns."""
    capacity = 16
    while capacity < columns:
        capacity *= 2
    # Pages of the CPU's memory count when they are written to, those of a device at once, beside the old buffer's.
    return float(column * capacity * (1.0 if device.type == "cpu" else 1.5))
