"""What the search for the peers' best settings needs; none of it is timed."""

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from hessian_eigenthings.algorithms.lanczos import LanczosTridiag
from numpy.typing import NDArray
from reference import HIGHEST, LOWEST, WANTED_HIGH, WANTED_LOW, Answer, Pairs, Reference
from torch import Tensor

__all__ = [
    "Counting",
    "Multiply",
    "Remembering",
    "Settings",
    "TooMany",
    "leading",
    "outermost",
    "reached",
]

Settings = dict[str, Any]
Multiply = Callable[[Tensor], Tensor]


class TooMany(Exception):
    """More products than the best settings so far need."""


class Counting:
    """A SciPy operator that counts its products."""

    def __init__(self, operator: Any) -> None:
        self.inner, self.shape, self.dtype = operator, operator.shape, operator.dtype
        self.count = 0

    def matvec(self, v: NDArray[Any]) -> NDArray[Any]:
        self.count += 1
        return self.inner.matvec(v)


class Remembering(Counting):
    """A SciPy operator that computes each product once: from one start, ARPACK asks for the same ones again."""

    def __init__(self, operator: Any) -> None:
        super().__init__(operator)
        self._known: dict[bytes, NDArray[Any]] = {}
        self._most: int | None = None

    def begin(self, most: int | None) -> None:
        """Count from zero, up to most products."""
        self.count, self._most = 0, most

    def matvec(self, v: NDArray[Any]) -> NDArray[Any]:
        if self._most is not None and self.count >= self._most:
            raise TooMany
        key = hashlib.sha256(np.ascontiguousarray(v).data).digest()
        if key not in self._known:
            self._known[key] = self.inner.matvec(v)
        self.count += 1
        return self._known[key]


def leading(run: LanczosTridiag, steps: int, reference: Reference) -> int:
    """How many of the largest |λ| hold all that is wanted after so many steps; 0: they are not exact enough."""
    diagonal, off = run.alphas.double().cpu(), run.betas.double().cpu()
    beside = off[: steps - 1]
    T = torch.diag(diagonal[:steps]) + torch.diag(beside, 1) + torch.diag(beside, -1)
    values, S = torch.linalg.eigh(T)
    residuals = off[steps - 1] * S[-1].abs() / values.abs()
    at = [0, *range(steps - HIGHEST, steps)]
    if residuals[0] > WANTED_LOW or residuals[at[1:]].max() > WANTED_HIGH:
        return 0  # T's own word costs nothing and is nearly right
    V = torch.zeros(len(run.basis[0]), len(at), dtype=S.dtype, device=run.basis[0].device)
    for vector, row in zip(run.basis[:steps], S[:, at].to(V), strict=True):
        V.addr_(vector.to(V), row)
    top = Pairs(values[at[1:]].flip(0), V[:, 1:].flip(1))
    if not reference.judge(Answer(top, Pairs(values[:1], V[:, :1]), steps)).reached():
        return 0
    order = values.abs().argsort(descending=True).tolist()
    return max(order.index(k) for k in at) + 1


def outermost(values: NDArray[Any], vectors: NDArray[Any], products: int) -> Answer:
    """The outermost pairs of all that were found."""
    order = np.argsort(values)
    high, low = order[::-1][:HIGHEST], order[:LOWEST]
    return Answer(
        Pairs(torch.from_numpy(values[high]), torch.from_numpy(vectors[:, high])),
        Pairs(torch.from_numpy(values[low]), torch.from_numpy(vectors[:, low])),
        products,
    )


def reached(reference: Reference, which: str, values: NDArray[Any], vectors: NDArray[Any]) -> bool:
    answer = outermost(values, vectors, 0)
    if which == "BE":
        return reference.judge(answer).reached()
    if which == "LA":
        residual, missed = reference.judge_high(answer.highest)
        return residual <= WANTED_HIGH and not missed
    assert answer.lowest is not None
    residual, missed = reference.judge_low(answer.lowest)
    return residual <= WANTED_LOW and not missed
