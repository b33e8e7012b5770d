"""Directions worth looking along: random ones of the parameters' own scale, eigenvectors, the gradient.

Answers: which way, and how long is it beside the parameters?
Does not answer: what the loss does there; ``scan`` shows that.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from unstick.errors import BadData, BudgetTooSmall
from unstick.problem.cost import NOTHING, Cost
from unstick.problem.problem import Problem
from unstick.record import Fact, Record, number
from unstick.spectrum.ends import Ends, Pairs, ends

__all__ = [
    "Direction",
    "axes",
    "eigen_directions",
    "filter_normalized",
    "negative_gradient",
    "random_direction",
]

Normalization = Literal["filter", "layer", "none"]

NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    *(nn.LayerNorm, nn.GroupNorm, nn.RMSNorm),
)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
ZEROED = ("bias", "norm")


@dataclass(frozen=True, slots=True, eq=False)
class Direction(Record):
    """A direction in parameter space, and what its length means."""

    name: str
    vector: Tensor  # [n], in the type computed with
    said: str  # how its length came about
    relative: bool = (
        False  # True: it is as long as the parameters themselves, the natural unit of a picture
    )
    curvature: float | None = None  # vᵀHv of the unit vector, of an eigenvector
    residual: float | None = None  # ‖Hv − λv‖, of an eigenvector
    outcome: str = "complete"  # of an eigenvector: how the search for it ended
    cost: Cost = NOTHING

    def headline(self) -> str:
        """Its name and length."""
        return f"The {self.name}, of length {number(self.length)}."

    def facts(self) -> list[Fact]:
        """What the length means, and the curvature where it is known."""
        facts: list[Fact] = [("length", self.said)]
        if self.curvature is not None:
            facts.append(("eigenvalue", f"{number(self.curvature)} ± {number(self.residual, 2)}"))
        return [*facts, ("outcome", self.outcome), ("cost", str(self.cost))]

    @property
    def length(self) -> float:
        """‖vector‖."""
        return float(torch.linalg.vector_norm(self.vector.double()))


def random_direction(
    problem: Problem,
    *,
    seed: int = 0,
    normalize: Normalization = "filter",
    zeroed: Collection[str] = ZEROED,
) -> Direction:
    """A Gaussian direction in which each filter is as long as the parameters' own.

    Args:
        problem: At the parameters to measure by.
        seed: Of the direction; the same on every device.
        normalize: By "filter", "layer" or "none", as for ``filter_normalized``.
        zeroed: Parts that do not move, as there.

    Raises:
        BadData, BadModel: As for ``filter_normalized``.

    References:
        Li, Xu, Taylor, Studer, Goldstein (2018), Visualizing the loss landscape of neural nets.

    Example:
        >>> problem = Problem.from_function(lambda x: (x**2).sum(), torch.tensor([3.0, 4.0]))
        >>> round(random_direction(problem, zeroed=()).length, 6)
        5.0
    """
    return _random(problem, _generator(seed), "random direction", normalize, zeroed)


def filter_normalized(
    problem: Problem,
    vector: Tensor,
    *,
    normalize: Normalization = "filter",
    zeroed: Collection[str] = ZEROED,
    name: str = "direction",
) -> Direction:
    """Any direction, each part of it made as long as the same part of the parameters.

    A network of rectified units computes the same when a layer is scaled up and the next one down; a direction that is
    scaled along with the filters shows the same picture of both.

    Args:
        problem: At the parameters to measure by.
        vector: Shape [n]; left as it is.
        normalize: "filter": by the weights of each output unit: a row of a dense layer or an embedding, a filter of a
            convolution, which lies in the second dimension of a transposed one. "layer": by whole tensors. "none".
        zeroed: Parts that do not move: "bias" (vectors and scalars outside normalization) and "norm" (parameters of
            normalization). What is not named is normalized as one block a tensor.
        name: What to call it.

    Returns:
        The direction; a part that is zero in the vector or in the parameters is zero in it.

    Raises:
        BadData: Another shape, an unknown option, or nothing is left to move.
        BadModel: The parameters are sharded.

    References:
        Li, Xu, Taylor, Studer, Goldstein (2018), Visualizing the loss landscape of neural nets.

    Example:
        >>> problem = Problem.from_function(lambda x: (x**2).sum(), torch.tensor([3.0, 4.0]))
        >>> filter_normalized(problem, torch.tensor([0.0, 9.0]), zeroed=()).vector.tolist()
        [0.0, 5.0]
    """
    problem.require_whole("a direction")
    if vector.shape != (problem.n,):
        raise BadData(f"{name} has shape {list(vector.shape)}; expected [{problem.n}]")
    if unknown := [part for part in zeroed if part not in ZEROED]:
        raise BadData(f"zeroed names {', '.join(unknown)}; expected of {', '.join(ZEROED)}")
    if normalize not in ("filter", "layer", "none"):
        raise BadData(f"normalize is {normalize!r}; expected 'filter', 'layer' or 'none'")
    owners = _owners(problem)
    given = problem.layout.named(vector.to(problem.device, problem.dtype))
    own = problem.layout.named(problem.parameters())
    parts = [
        torch.zeros_like(d) if _kind(d, owners[key]) in zeroed else _scaled(d, own[key], owners[key], normalize)
        for key, d in given.items()
    ]  # fmt: skip
    made = torch.cat([part.reshape(-1) for part in parts])
    if not bool(made.any()):
        raise BadData(
            f"nothing of {name} is left: every parameter that moves in it is zero, or zeroed as {' or '.join(zeroed)}; "
            "expected a direction: give zeroed=() to move biases and normalization too"
        )
    return Direction(name, made, _said(normalize, zeroed), relative=normalize != "none")


def eigen_directions(
    problem: Problem, *, budget: float = 200, seed: int = 0
) -> tuple[Direction, Direction]:
    """The unit eigenvectors of the lowest and of the highest eigenvalue of the Hessian; never normalized otherwise.

    Args:
        problem: At the parameters to look at.
        budget: Most work, in full-data gradients.
        seed: Of the random start.

    Returns:
        (lowest, highest), each with its eigenvalue and residual. Scaled filter by filter they would no longer be
        eigenvectors.

    Raises:
        BudgetTooSmall: The budget does not pay for five products.
        BadModel: The parameters are sharded.

    Example:
        >>> problem = Problem.from_function(lambda x: x[0] ** 2 - x[1] ** 2, torch.zeros(2))
        >>> [round(direction.curvature, 6) for direction in eigen_directions(problem)]
        [-2.0, 2.0]
    """
    problem.require_whole("a direction")
    before = problem.spent
    operator = problem.hessian()
    left = budget - (problem.spent - before).gradients - operator.setup_price
    products, least = int(left / operator.product_price), min(5, problem.n)
    if products < least:
        raise BudgetTooSmall(
            f"budget={budget:g} gradients pays for {max(0, products)} Hessian products after set-up; expected at least "
            f"{least}: raise the budget"
        )
    found = ends(operator, generator=_generator(seed), max_products=products)
    cost = problem.spent - before
    return (
        _outermost(found, found.lowest, "eigenvector of λ min", cost),
        _outermost(found, found.highest, "eigenvector of λ max", cost),
    )


def negative_gradient(problem: Problem) -> Direction:
    """−∇L, at its own length.

    Raises:
        BadData: The gradient is zero.
        BadModel: The parameters are sharded.

    Cost:
        One gradient.
    """
    problem.require_whole("a direction")
    before = problem.spent
    gradient = problem.gradient()
    if not bool(gradient.any()):
        raise BadData("the gradient is zero here, so it has no direction; take another one")
    return Direction(
        "negative gradient −g", -gradient, "the gradient's own", cost=problem.spent - before
    )


def axes(
    problem: Problem,
    kind: Literal["random", "eigenvectors", "gradient"] = "random",
    *,
    seed: int = 0,
    budget: float = 200,
) -> tuple[Direction, Direction]:
    """Two directions that span a plane to look at.

    Args:
        problem: At the parameters to look at.
        kind: "random": two filter-normalized ones; biases and normalization move only where there is nothing else.
            "eigenvectors": of the lowest and the highest eigenvalue. "gradient": −g, and the eigenvector of the lowest.
        seed: Of random directions, and of the search for eigenvectors.
        budget: Most work on eigenvectors, in full-data gradients.

    Raises:
        BadData: An unknown kind, or a zero gradient.
        BudgetTooSmall, BadModel: As for ``eigen_directions``.
    """
    if kind == "random":
        generator = _generator(seed)
        names = ("random direction 1", "random direction 2")
        zeroed = ZEROED if any(len(shape) > 1 for shape in problem.layout.shapes) else ()
        one, two = (_random(problem, generator, name, "filter", zeroed) for name in names)
        return one, two
    if kind == "eigenvectors":
        return eigen_directions(problem, budget=budget, seed=seed)
    if kind == "gradient":
        return negative_gradient(problem), eigen_directions(problem, budget=budget, seed=seed)[0]
    raise BadData(f"kind is {kind!r}; expected 'random', 'eigenvectors' or 'gradient'")


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _random(
    problem: Problem,
    generator: torch.Generator,
    name: str,
    normalize: Normalization,
    zeroed: Collection[str],
) -> Direction:
    gaussian = torch.randn(problem.n, generator=generator, dtype=torch.float64)
    return filter_normalized(problem, gaussian, normalize=normalize, zeroed=zeroed, name=name)


def _owners(problem: Problem) -> dict[str, nn.Module]:
    """The module that each trainable parameter belongs to."""
    return {
        name: problem.model.get_submodule(name.rpartition(".")[0]) for name in problem.layout.names
    }


def _kind(part: Tensor, owner: nn.Module) -> str:
    """What a parameter is for; a normalization that torch does not have is known by its name."""
    if isinstance(owner, NORMS) or (part.ndim <= 1 and "Norm" in type(owner).__name__):
        return "norm"
    return "bias" if part.ndim <= 1 else "weight"


def _scaled(d: Tensor, own: Tensor, owner: nn.Module, normalize: Normalization) -> Tensor:
    """A part of the direction, each filter of it as long as the parameters' own."""
    if normalize == "none":
        return d
    shape, over = [-1], (0,)  # one block
    if normalize == "filter" and _kind(d, owner) == "weight":
        shape, over = [len(d), -1], (1,)
        if isinstance(
            owner, TRANSPOSED
        ):  # [in, out / groups, …]: a filter lies across the inputs of its group
            shape, over = [owner.groups, len(d) // owner.groups, d.shape[1], -1], (1, 3)
    blocks = d.reshape(shape)
    lengths = torch.linalg.vector_norm(blocks, dim=over, keepdim=True)
    wanted = torch.linalg.vector_norm(own.reshape(shape), dim=over, keepdim=True)
    factor = torch.where(lengths > 0, wanted / lengths, torch.zeros_like(wanted))
    return (blocks * factor).reshape(d.shape)


def _said(normalize: Normalization, zeroed: Collection[str]) -> str:
    words = {"bias": "biases", "norm": "parameters of normalization"}
    still = " and ".join(words[part] for part in ZEROED if part in zeroed)
    moving = " and ".join(words[part] for part in ZEROED if part not in zeroed)
    how = {
        "filter": "each filter as long as the parameters' own",
        "layer": "each tensor as long as the parameters' own",
        "none": "as given",
    }[normalize]
    blocks = f"; {moving} as one block a tensor" if moving and normalize == "filter" else ""
    return f"{how}{blocks}{f'; {still} do not move' if still else ''}"


def _outermost(found: Ends, pairs: Pairs, name: str, cost: Cost) -> Direction:
    made = Direction(name, pairs.vectors[:, 0], "1", outcome=found.outcome, cost=cost)
    return replace(made, curvature=float(pairs.values[0]), residual=float(pairs.residuals[0]))
