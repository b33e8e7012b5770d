"""Which layer a curvature belongs to: the share of each eigenvector in every tensor, and each layer's own ends.

Answers: where in the model does a direction live, and how sharply does the loss bend when one layer alone moves?
Does not answer: what moving it does to the loss beyond second order.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unstick.critical.curvature import Progress, curvature_ends, restricted
from unstick.errors import BadData, BudgetTooSmall
from unstick.problem.cost import Cost
from unstick.problem.problem import Problem
from unstick.record import Fact, Record, number
from unstick.spectrum.ends import Ends
from unstick.spectrum.interval import Interval
from unstick.spectrum.storage import Storage

__all__ = [
    "Block",
    "CurvatureByLayer",
    "LayerMass",
    "LayeredEnds",
    "curvature_by_layer",
    "layer_mass",
    "layered_ends",
    "module_of",
]

MODEL = "the model"
"""What the parameters that no part of the model owns are listed under."""

TOLD = 3  # layers named for each vector, the heaviest first
PRODUCTS = (
    40  # of one layer, at most: a block without negative curvature would take all that is left
)


@dataclass(frozen=True, slots=True, eq=False)
class LayerMass(Record):
    """The share of the squared length of each vector that lies in each parameter tensor, and in each module."""

    vectors: tuple[str, ...]  # what each vector is called, [k]
    names: tuple[str, ...]  # parameter tensors, in the order of the model
    shares: Tensor  # [names, k] float64; each column adds up to 1
    sizes: tuple[int, ...]  # parameters of each tensor
    modules: tuple[str, ...]  # each once, in the order of the model
    module_shares: Tensor  # [modules, k] float64; each column adds up to 1
    outcome: str = "complete"

    def headline(self) -> str:
        """Where the first vector lives."""
        if not self.vectors:
            return "No vector was given."
        heaviest = int(self.module_shares[:, 0].argmax())
        share = float(self.module_shares[heaviest, 0])
        where = _told_as(self.modules[heaviest])
        return f"{self.vectors[0]}: {share:.0%} of the squared length lies in {where}."

    def facts(self) -> list[Fact]:
        """The heaviest modules of each vector."""
        return [(name, self._told(at)) for at, name in enumerate(self.vectors)]

    def _told(self, column: int) -> str:
        shares = self.module_shares[:, column]
        order = shares.argsort(descending=True, stable=True)[:TOLD].tolist()
        told = [f"{float(shares[k]):.1%} in {self.modules[k]}" for k in order]
        rest = len(self.modules) - len(order)
        others = 1.0 - sum(float(shares[k]) for k in order)
        return ", ".join(told) + (f", {max(0.0, others):.1%} in {rest} more" if rest else "")


@dataclass(frozen=True, slots=True, eq=False)
class LayeredEnds(Record):
    """Both ends of the spectrum, and the layers in which their eigenvectors lie."""

    ends: Ends
    mass: LayerMass
    outcome: str

    def headline(self) -> str:
        """Where the spectrum begins and ends."""
        return self.ends.headline()

    def facts(self) -> list[Fact]:
        """The ends, then where each vector lies."""
        return [*self.ends.facts(), *((f"v of {name}", told) for name, told in self.mass.facts())]


@dataclass(frozen=True, slots=True, eq=False)
class Block(Record):
    """The ends of the spectrum of one layer's diagonal block of the Hessian."""

    name: str
    parameters: int
    lambda_min: Interval
    lambda_max: Interval
    noise_floor: float
    products: int
    outcome: str  # as of ``Ends``

    def headline(self) -> str:
        """Where the block's spectrum begins and ends."""
        low, high = number(self.lambda_min.value), number(self.lambda_max.value)
        return f"{self.name}: eigenvalues from {low} to {high}."

    def facts(self) -> list[Fact]:
        """Intervals and cost."""
        return [
            ("λ min", str(self.lambda_min)),
            ("λ max", str(self.lambda_max)),
            ("parameters", f"{self.parameters:,}"),
            ("cost", f"{self.products} operator products, {self.outcome}"),
        ]


@dataclass(frozen=True, slots=True, eq=False)
class CurvatureByLayer(Record):
    """The ends of the spectrum of every layer's diagonal block, the other layers held fixed."""

    blocks: tuple[Block, ...]  # in the order of the model
    notes: tuple[str, ...]
    outcome: str  # "complete", "budget" (a block has not converged) or "interrupted" (blocks are missing)
    cost: Cost

    def headline(self) -> str:
        """The sharpest layer, and the one that bends down most."""
        sharpest = max(self.blocks, key=lambda block: block.lambda_max.value)
        lowest = min(self.blocks, key=lambda block: block.lambda_min.value)
        told = f"Sharpest is {_told_as(sharpest.name)}, λ max {number(sharpest.lambda_max.value)}"
        if lowest.lambda_min.high < 0:
            return f"{told}; {_told_as(lowest.name)} bends down most, λ min {number(lowest.lambda_min.value)}."
        return f"{told}; no layer alone was seen to bend down."

    def facts(self) -> list[Fact]:
        """One line a layer, the model's order."""
        rows = [
            (
                block.name,
                f"λ {number(block.lambda_min.value)} to {number(block.lambda_max.value)}, "
                f"{block.parameters:,} parameters"
                + ("" if _complete(block.outcome) else f" ({block.outcome}: the best so far)"),
            )
            for block in self.blocks
        ]
        return [*rows, ("cost", str(self.cost)), *(("note", note) for note in self.notes)]


def layer_mass(
    problem: Problem,
    vectors: Tensor,
    *,
    labels: Sequence[str] | None = None,
    parameters: str | Sequence[str] | None = None,
) -> LayerMass:
    """Tell in which parameter tensors and modules directions lie.

    Args:
        problem: Whose layout the vectors have.
        vectors: Shape [n] or [n, k], any lengths above zero.
        labels: What to call them; None: ``vector 1`` and so on.
        parameters: The pattern or patterns that the vectors were computed with; n is then theirs.

    Returns:
        Shares of squared length, which add up to 1 for each vector.

    Raises:
        BadData: Another shape, another number of labels, a zero vector, or one that is not finite.
        BadModel: Nothing matches a pattern.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
        >>> problem = Problem(model, (torch.ones(2, 1), torch.zeros(2, 1)), nn.MSELoss())
        >>> mass = layer_mass(problem, torch.tensor([1.0, 1.0, 1.0, 1.0]))
        >>> mass.modules, mass.module_shares.flatten().tolist()
        (('0', '1'), [0.5, 0.5])
    """
    layout = restricted(problem, parameters).layout
    columns = vectors.unsqueeze(1) if vectors.ndim == 1 else vectors
    if columns.ndim != 2 or columns.shape[0] != layout.n:
        raise BadData(
            f"vectors have shape {list(vectors.shape)}; expected [{layout.n}] or [{layout.n}, k]"
        )
    numbered = (f"vector {k + 1}" for k in range(columns.shape[1]))
    told = tuple(numbered if labels is None else labels)
    if len(told) != columns.shape[1]:
        raise BadData(f"{len(told)} labels for {columns.shape[1]} vectors; expected one each")
    sums = torch.stack(
        [part.double().square().sum(0) for part in columns.detach().split(layout.sizes)]
    ).cpu()
    if problem.sharded:  # each process has summed its part
        sums = problem.team.sum(sums)
    lengths = sums.sum(0)
    if not bool(((lengths > 0) & torch.isfinite(lengths)).all()):
        at = int((~((lengths > 0) & torch.isfinite(lengths))).nonzero()[0])
        raise BadData(f"{told[at]} has squared length {float(lengths[at])}; expected finite, > 0")
    shares = sums / lengths
    owners = [module_of(name) for name in layout.names]
    modules = tuple(dict.fromkeys(owners))
    grouped = torch.zeros(len(modules), shares.shape[1], dtype=torch.float64)
    grouped.index_add_(0, torch.tensor([modules.index(owner) for owner in owners]), shares)
    return LayerMass(told, layout.names, shares, layout.sizes, modules, grouped)


def layered_ends(
    problem: Problem,
    *,
    lowest: int = 1,
    highest: int = 5,
    tolerance: float | tuple[float, float] = (1e-2, 1e-3),
    budget: float = 200,
    seed: int = 0,
    parameters: str | Sequence[str] | None = None,
    max_basis: int | None = None,
    storage: Storage | None = None,
    progress: Progress | None = None,
) -> LayeredEnds:
    """``curvature_ends``, and beside each eigenvector the layers that it lies in.

    Args:
        problem: What is minimized.
        lowest: Eigenpairs wanted at the lower end.
        highest: Eigenpairs wanted at the upper end.
        tolerance: As of ``curvature_ends``.
        budget: Most work, in full-data gradients.
        seed: Seed of the random starts.
        parameters: Only parameters whose names match this pattern, or one of these.
        max_basis: Columns of the Krylov basis, as of ``curvature_ends``.
        storage: Where the basis is kept.
        progress: Told about every product.

    Raises:
        BudgetTooSmall, BadModel, TooLittleMemory: As ``curvature_ends``.

    Example:
        >>> problem = Problem.from_function(lambda x: x[0] ** 2 - x[1] ** 2, torch.zeros(2))
        >>> print(layered_ends(problem, lowest=1, highest=0).facts()[-1])
        ('v of λ = −2', '100.0% in the model')
    """
    ends = curvature_ends(
        problem,
        lowest=lowest,
        highest=highest,
        tolerance=tolerance,
        budget=budget,
        seed=seed,
        parameters=parameters,
        max_basis=max_basis,
        storage=storage,
        progress=progress,
    )
    values = torch.cat([ends.lowest.values, ends.highest.values]).tolist()
    labels = [f"λ = {number(value)}" for value in values]
    vectors = torch.cat([ends.lowest.vectors, ends.highest.vectors], dim=1)
    mass = layer_mass(problem, vectors, labels=labels, parameters=parameters)
    return LayeredEnds(ends, mass, ends.outcome)


def curvature_by_layer(
    problem: Problem,
    *,
    parameters: str | Sequence[str] | None = None,
    tolerance: float | tuple[float, float] = (1e-2, 1e-2),
    budget: float = 200,
    seed: int = 0,
    max_basis: int | None = None,
    storage: Storage | None = None,
    progress: Progress | None = None,
) -> CurvatureByLayer:
    """Find the ends of the spectrum of each module's diagonal block: how the loss bends when that layer alone moves.

    A block's values lie within those of the whole Hessian. Its λ max is at most the whole's, and negative curvature
    in a block is negative curvature of the whole; the reverse is not so, as layers also bend together.

    Args:
        problem: What is minimized.
        parameters: Only layers with parameters that match this pattern, or one of these.
        tolerance: As of ``curvature_ends``.
        budget: Most work for all layers together, in full-data gradients; each gets an equal part of what is left.
        seed: Seed of the random starts.
        max_basis: Columns of each Krylov basis, as of ``curvature_ends``.
        storage: Where each basis is kept.
        progress: Told about every product of every layer.

    Returns:
        One block a module that owns parameters. On Ctrl-C the layers that are done.

    Raises:
        BudgetTooSmall: The budget does not pay for five products a layer.
        BadModel: Nothing matches a pattern, or the parameters are sharded.
        TooLittleMemory: As ``curvature_ends``.

    Cost:
        About 10 to 40 Hessian products a layer, each over all the data.

    Example:
        >>> problem = Problem.from_function(lambda x: x[0] ** 2 - x[1] ** 2, torch.zeros(2))
        >>> found = curvature_by_layer(problem)
        >>> block = found.blocks[0]
        >>> block.name, round(block.lambda_max.value, 6)
        ('the model', 2.0)
    """
    whole = problem.require_whole("curvature by layer").layout
    names = whole.names if parameters is None else whole.restrict(parameters).names
    members: dict[str, list[str]] = {}
    for name in names:
        members.setdefault(module_of(name), []).append(name)
    blocks: list[Block] = []
    before = problem.spent
    operator = problem.hessian()  # its probe serves all layers
    most = operator.setup_price + PRODUCTS * operator.product_price
    spent, outcome = problem.spent - before, "complete"
    for done, (module, owned) in enumerate(members.items()):
        share = min(most, (budget - spent.gradients) / (len(members) - done))
        part = problem.restrict([_literal(name) for name in owned])
        try:
            ends = curvature_ends(
                part,
                lowest=1,
                highest=1,
                tolerance=tolerance,
                budget=share,
                seed=seed,
                max_basis=max_basis,
                storage=storage,
                progress=_of_layer(progress, f"{done + 1} of {len(members)}: {module}"),
            )
        except BudgetTooSmall:
            least = operator.setup_price + min(5, part.n) * operator.product_price
            raise BudgetTooSmall(
                f"budget={budget:g} gradients leaves {max(0.0, share):.3g} for each of {len(members) - done} layers; "
                f"expected at least {least:.3g}: raise the budget or name fewer layers by parameters="
            ) from None
        except KeyboardInterrupt:
            if not blocks:
                raise
            outcome = "interrupted"
            break
        spent += part.spent
        blocks.append(
            Block(
                name=module,
                parameters=part.n,
                lambda_min=ends.lambda_min,
                lambda_max=ends.lambda_max,
                noise_floor=ends.noise_floor,
                products=ends.products,
                outcome=ends.outcome,
            )
        )
        if ends.outcome == "interrupted":
            outcome = "interrupted"
            break
    if outcome == "complete" and not all(_complete(block.outcome) for block in blocks):
        outcome = "budget"
    missing = list(members)[len(blocks) :]
    notes = (f"not reached: {', '.join(missing)}",) if missing else ()
    return CurvatureByLayer(tuple(blocks), notes, outcome, spent)


def module_of(name: str) -> str:
    """The module that owns a parameter, by its name; those of the model itself are ``the model``'s."""
    return name.rpartition(".")[0] or MODEL


def _told_as(module: str) -> str:
    """A module in a sentence: its name alone may be a bare number."""
    return module if module == MODEL else f"layer {module}"


def _literal(name: str) -> str:
    """A pattern that matches this name alone."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _complete(outcome: str) -> bool:
    return outcome in ("converged", "exhausted")


def _of_layer(progress: Progress | None, what: str) -> Progress | None:
    return None if progress is None else (lambda _stage, done, total: progress(what, done, total))
