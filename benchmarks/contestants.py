"""Who takes part in ``curvature.py``: this package with its defaults, and three peers with settings tuned for them."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from peers import Curvlinops, Eigenthings, PyHessian
from reference import HIGHEST, LOWEST, WANTED_HIGH, WANTED_LOW, Answer, Batches, Pairs, Reference
from torch import nn
from tuning import Multiply, Settings

import unstick

__all__ = ["Contestant", "Unstick", "everybody"]


class Contestant(Protocol):
    """Something that finds the ends of a Hessian's spectrum."""

    name: str
    columns: bool  # ``multiply`` takes many vectors at once

    def construct(self) -> Any:
        """The problem or operator, as its users make it once; timed on its own."""
        ...

    def tune(self, seed: int, reference: Reference) -> Settings:
        """The cheapest settings that reach what is wanted from this start; not timed."""
        ...

    def solve(self, made: Any, seed: int, settings: Settings) -> Answer:
        """Both ends; timed."""
        ...

    def ladder(self, settings: Settings) -> Sequence[Settings]:
        """Settings from coarse to fine around the tuned ones, for the picture."""
        ...

    def multiply(self, made: Any) -> Multiply:
        """Products with one vector [n], or with the columns of [n, k]; timed."""
        ...


def everybody(model: nn.Module, batches: Batches) -> list[Contestant]:
    """All contestants, each with a copy of the model."""
    makers = (Unstick, Eigenthings, Curvlinops, PyHessian)
    return [make(copy.deepcopy(model), batches) for make in makers]


@dataclass
class Unstick:
    """This package, with its defaults."""

    model: nn.Module
    batches: Batches
    name: str = "unstick"
    columns: bool = True

    def construct(self) -> unstick.Problem:
        return unstick.Problem(self.model, self.batches, nn.CrossEntropyLoss())

    def tune(self, seed: int, reference: Reference) -> Settings:  # noqa: ARG002 - nothing is tuned
        return {"scale": 1.0}

    def solve(self, made: unstick.Problem, seed: int, settings: Settings) -> Answer:
        tolerance = (WANTED_LOW * settings["scale"], WANTED_HIGH * settings["scale"])
        found = unstick.curvature_ends(
            made, lowest=LOWEST, highest=HIGHEST, tolerance=tolerance, budget=1e4, seed=seed
        )
        high, low = found.highest, found.lowest
        return Answer(
            Pairs(high.values, high.vectors), Pairs(low.values, low.vectors), found.products
        )

    def ladder(self, settings: Settings) -> Sequence[Settings]:  # noqa: ARG002
        return [{"scale": scale} for scale in (100.0, 30.0, 10.0, 3.0, 1.0, 0.3)]

    def multiply(self, made: unstick.Problem) -> Multiply:
        hessian = made.hessian()
        return lambda V: hessian.matvec(V) if V.ndim == 1 else hessian.matmat(V)
