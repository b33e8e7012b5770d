"""What a curvature computation will take, told before it begins: memory, gradients, seconds.

Answers: does it fit, what takes the room, and what would take less?
Does not answer: how many products convergence will take; that shows on the way, up to the budget.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from unstick.critical.curvature import affordable, restricted
from unstick.critical.room import (
    Room,
    check_room,
    column_bytes,
    dense_bytes,
    is_small,
    room_for_ends,
    room_for_verdict,
)
from unstick.problem.memory import size
from unstick.problem.problem import Hessian, Problem
from unstick.record import Fact, Record
from unstick.spectrum.storage import Storage

__all__ = ["Plan", "plan_curvature", "plan_verdict"]


@dataclass(frozen=True, slots=True)
class Plan(Record):
    """The memory and the cost of a computation with the Hessian of a problem; nothing of it was taken yet."""

    parameters: int  # n
    samples: int  # in all data; 0 without data
    mode: str  # how Hessian products will be computed
    device: str
    data_bytes: float  # frozen, held already
    graph_bytes: float  # kept between products
    graphs_kept: int  # batches whose graphs stay
    graphs_rebuilt: int  # batches whose graphs are built anew for every product
    workspace_bytes: (
        float  # on top during a product: one batch's graph and what goes back through it
    )
    memory: float  # what graphs and workspace together were given
    basis_columns: int  # before the Krylov basis is restarted; 0: there is none
    basis_place: str  # "device", "cpu" or "disk"
    column_bytes: int  # a vector of all parameters
    basis_bytes: float  # in memory, at the worst moment; 0.0 on disk
    vector_bytes: float  # vectors in use beside the basis
    dense_bytes: float  # of the Hessian written down, and its eigenvalues, instead of a basis; 0.0: there is none
    free_bytes: float | None  # where the tensors live; None where that cannot be known
    setup_gradients: float  # before the first product
    product_gradients: float  # of each product
    products: int  # that the budget pays for; of a dense Hessian, as many as it takes
    seconds: float  # that the budget takes, as measured when the problem was made
    outcome: str = "complete"

    @property
    def total_bytes(self) -> float:
        """What comes on top of the data at the worst moment: graphs, workspace, vectors, and basis or dense Hessian."""
        here = self.basis_place == "device" or self.device.startswith("cpu")
        basis = self.basis_bytes if here else 0.0
        rest = basis + self.vector_bytes + self.dense_bytes
        return self.graph_bytes + self.workspace_bytes + rest

    @property
    def fits(self) -> bool:
        """Whether it does, as far as can be known."""
        return self.free_bytes is None or self.total_bytes <= self.free_bytes

    def headline(self) -> str:
        """How much memory, how long, and whether that is there."""
        of = "" if self.free_bytes is None else f" of {size(self.free_bytes)} free"
        refusal = "" if self.fits else ": too little memory"
        return (
            f"Up to {size(self.total_bytes)}{of}, at most about {_duration(self.seconds)}{refusal}."
        )

    def facts(self) -> list[Fact]:
        """What takes the memory, and what a product costs."""
        of = f", {self.samples:,} samples" if self.samples else ""
        known = self.free_bytes
        return [
            (
                "problem",
                f"{self.parameters:,} parameters{of}, Hessian products by mode {self.mode}",
            ),
            ("data", f"{size(self.data_bytes)}, held already"),
            ("graphs", f"{size(self.graph_bytes)} kept: {self._batches()}"),
            ("workspace", f"{size(self.workspace_bytes)} during a product, for one batch"),
            ("allowed", f"{size(self.memory)} for graphs and workspace together (memory=)"),
            *self._matrix(),
            ("free", "not known" if known is None else f"{size(known)} on {self.device}"),
            ("set-up", f"{self.setup_gradients:.1f} gradients"),
            ("a product", f"{self.product_gradients:.1f} gradients"),
            ("products", f"at most {self.products:,}, all in about {_duration(self.seconds)}"),
        ]

    def _batches(self) -> str:
        of = self.graphs_kept + self.graphs_rebuilt
        rest = f", {self.graphs_rebuilt:,} rebuilt for every product" if self.graphs_rebuilt else ""
        return f"of {self.graphs_kept:,} of {of:,} batches{rest}"

    def _matrix(self) -> list[Fact]:
        if self.dense_bytes:
            return [("dense Hessian", f"{size(self.dense_bytes)} with its eigenvalues, no basis")]
        where = {"device": "", "cpu": " in the CPU's memory", "disk": " in a file"}
        columns = f"{self.basis_columns} columns of {size(self.column_bytes)}"
        told = f"{size(self.basis_bytes)}{where[self.basis_place]}: {columns}, then a restart"
        return [("basis", told), ("vectors", f"{size(self.vector_bytes)} beside the basis")]


def plan_curvature(
    problem: Problem,
    *,
    lowest: int = 1,
    highest: int = 5,
    parameters: str | Sequence[str] | None = None,
    max_basis: int | None = None,
    storage: Storage | None = None,
    budget: float = 200,
) -> Plan:
    """Tell what ``curvature_ends`` with the same arguments would take, without beginning.

    Args:
        problem: What is minimized.
        lowest: Eigenpairs wanted at the lower end.
        highest: Eigenpairs wanted at the upper end.
        parameters: The pattern or patterns of the parameters whose block is asked for.
        max_basis: Columns of the Krylov basis before a restart; None: as ``curvature_ends`` would choose.
        storage: Where the basis would be kept; a file takes no memory.
        budget: Most work, in full-data gradients.

    Returns:
        The plan. Bytes are what the process will grow by beside what it holds; graphs and workspace together stay
        within ``memory`` of the problem.

    Raises:
        TooLittleMemory: Not even one batch fits, or the smallest basis does not.
        BadModel: Nothing matches a pattern.

    Cost:
        The probe of the first ``problem.hessian()``: about 20 gradients of at most 256 samples.

    Example:
        >>> import torch
        >>> problem = Problem.from_function(lambda x: (x**2).sum(), torch.zeros(1000))
        >>> plan = plan_curvature(problem, max_basis=50)
        >>> plan.basis_columns, plan.column_bytes
        (50, 8000)
    """
    problem = restricted(problem, parameters)
    before = problem.spent
    operator = problem.hessian()
    taken = operator.graphs.peak_bytes
    room = room_for_ends(
        problem, lowest, highest, max_basis=max_basis, graphs=taken, storage=storage
    )
    left = budget - (problem.spent - before).gradients
    place = "device" if storage is None else storage.place
    return _plan(problem, operator, room, place, products=affordable(operator, left), budget=budget)


def plan_verdict(problem: Problem, *, budget: float = 200) -> Plan:
    """Tell what ``classify``, and so ``escape`` and ``diagnose``, would take, without beginning.

    Args:
        problem: What is minimized.
        budget: Most work, in full-data gradients.

    Returns:
        The plan: of the dense Hessian where one would be taken, else of a Krylov basis.

    Raises:
        TooLittleMemory: One batch, the dense Hessian or the smallest basis does not fit.

    Cost:
        The probe of the first ``problem.hessian()``.

    Example:
        >>> import torch
        >>> plan = plan_verdict(Problem.from_function(lambda x: (x**2).sum(), torch.zeros(1000)))
        >>> plan.dense_bytes, plan.products
        (48000000.0, 1000)
    """
    check_room(problem)
    before = problem.spent
    operator = problem.hessian()
    if is_small(problem):
        room = Room(0, 0.0, 0.0, None)
        products, dense = problem.n, dense_bytes(problem)
        return _plan(
            problem, operator, room, "device", products=products, budget=budget, dense=dense
        )
    products = affordable(operator, budget - (problem.spent - before).gradients)
    room = room_for_verdict(problem, max(1, products), graphs=operator.graphs.peak_bytes)
    return _plan(problem, operator, room, "device", products=products, budget=budget)


def _plan(
    problem: Problem,
    operator: Hessian,
    room: Room,
    place: str,
    *,
    products: int,
    budget: float,
    dense: float = 0.0,
) -> Plan:
    graphs = operator.graphs
    # A graph takes the allocator's share too; both parts add up to what the process grows by.
    share = graphs.peak_bytes / max(1.0, graphs.kept_bytes + graphs.workspace_bytes)
    work = budget + (products * operator.product_price if dense else 0.0)
    return Plan(
        parameters=problem.n,
        samples=problem.samples,
        mode=operator.mode,
        device=str(problem.device),
        data_bytes=float(problem.data_bytes),
        graph_bytes=share * graphs.kept_bytes,
        graphs_kept=sum(graphs.kept),
        graphs_rebuilt=len(graphs.kept) - sum(graphs.kept),
        workspace_bytes=share * graphs.workspace_bytes,
        memory=float(problem.memory),
        basis_columns=room.columns,
        basis_place=place,
        column_bytes=column_bytes(problem),
        basis_bytes=room.basis_bytes,
        vector_bytes=room.vector_bytes,
        dense_bytes=dense,
        free_bytes=problem.free_memory(),
        setup_gradients=operator.setup_price,
        product_gradients=operator.product_price,
        products=max(0, products),
        seconds=problem.price(work),
    )


def _duration(seconds: float) -> str:
    """As people say it."""
    if seconds < 100:
        return f"{max(seconds, 0.1):.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
