"""What a search for critical points found: where each start ended, and what is there.

Answers: is the end of a search critical, gradient-flat or neither, of which inertia, and why did it end there?
Does not answer: how it got there; ``steps`` walks, ``finding`` judges.
"""

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from unstick.critical.flatness import Flatness
from unstick.critical.point import Point
from unstick.problem.cost import Cost
from unstick.record import Fact, Record, number

__all__ = ["OUTCOMES", "Found", "Search"]

OUTCOMES = ("critical", "gradient-flat", "neither")

HEADLINES = {
    "critical": "A critical point",
    "gradient-flat": "Not a critical point, but a gradient-flat one: g ≠ 0 lies in the Hessian's kernel",
    "neither": "Neither a critical point nor a gradient-flat one",
}


@dataclass(frozen=True, slots=True, eq=False)
class Found(Record):
    """Where one start ended."""

    outcome: str  # "critical", "gradient-flat" or "neither"
    ended: str  # "converged", "stalled" (no step lowers ‖g‖), "steps", "budget" or "interrupted"
    method: str  # "levenberg-marquardt", "newton-mr" or "gradient-norm"
    parameters: Tensor  # [n], in the type computed in
    loss: float
    gradient_norm_squared: float
    cutoff: float  # ‖g‖² at most this may be critical
    rounding: float  # ‖g‖² at most this is zero to the arithmetic, whatever the Hessian
    flatness: Flatness | None  # None where an interruption left no time for it
    inertia: tuple[int, int, int] | None  # (n₊, n₀, n₋), exact; None where the Hessian is not dense
    minimum_ratio: float | None  # n₊ / n where the inertia is exact
    point: Point | None  # the full verdict of ``classify`` there, where it was asked for
    note: str  # where outcome and point differ, why; else what is missing, or ""
    losses: Tensor  # [k] float64, at the start and after each accepted step
    squares: Tensor  # [k] float64, ‖g‖² there
    start_loss: float
    start_gradient_norm_squared: float
    steps: int  # tried; of newton-mr and gradient-norm each was accepted
    cost: Cost

    @property
    def morse_index(self) -> float | None:
        """n₋ / n where the inertia is exact."""
        return None if self.inertia is None else self.inertia[2] / sum(self.inertia)

    def headline(self) -> str:
        """What is there, and of which inertia."""
        text = HEADLINES[self.outcome]
        if self.point is not None and self.outcome == "critical":
            text += f", by its curvature: {self.point.kind}"
        return f"{text}; ‖g‖² = {number(self.gradient_norm_squared)}, loss {number(self.loss, 6)}."

    def facts(self) -> list[Fact]:
        """The cut-off, the kernel, the eigenvalues, the way."""
        facts = [
            ("outcome", f"{self.outcome}; the search {_told(self.ended)}"),
            (
                "critical means",
                f"‖g‖² ≤ {number(self.cutoff)} (rounding alone: {number(self.rounding)})",
            ),
        ]
        if self.flatness is not None:
            flat = self.flatness
            energy = flat.kernel_energy
            kernel = "" if energy is None else f", {number(100 * energy)} % of ‖g‖² in the kernel"
            facts.append(
                (
                    "flatness",
                    f"r = {number(flat.residual_ratio)}, r_H = {number(flat.co_kernel_ratio)}{kernel}",
                )
            )
        if self.inertia is not None:
            positive, zero, negative = self.inertia
            facts += [
                ("inertia", f"{positive} positive, {zero} zero, {negative} negative eigenvalues"),
                ("minimum ratio", number(self.minimum_ratio)),
            ]
        if self.point is not None:
            facts.append(("classified", self.point.proof))
        if self.note:
            facts.append(("note", self.note))
        facts += [
            (
                "from",
                f"loss {number(self.start_loss, 6)}, ‖g‖² {number(self.start_gradient_norm_squared)}",
            ),
            ("method", f"{self.method}, {self.steps} steps"),
            ("cost", str(self.cost)),
        ]
        return facts


@dataclass(frozen=True, slots=True, eq=False)
class Search(Record):
    """Where many starts ended."""

    founds: tuple[Found, ...]  # in the order of the starts; those not begun are left out
    starts: int  # given
    resumed: int  # read from the store instead of computed
    outcome: str  # "complete", "budget" or "interrupted"
    cost: Cost  # of this call

    @property
    def counts(self) -> dict[str, int]:
        """How many ended at each outcome."""
        found = Counter(found.outcome for found in self.founds)
        return {outcome: found[outcome] for outcome in OUTCOMES}

    @property
    def critical(self) -> tuple[Found, ...]:
        """Those that ended at critical points."""
        return tuple(found for found in self.founds if found.outcome == "critical")

    @property
    def losses(self) -> Tensor:
        """The final losses, shape [number of founds], float64."""
        return torch.tensor([found.loss for found in self.founds], dtype=torch.float64)

    @property
    def minimum_ratios(self) -> Tensor:
        """n₊ / n of each, shape [number of founds], float64; nan where the inertia is not exact."""
        ratios = [found.minimum_ratio for found in self.founds]
        known = [float("nan") if ratio is None else ratio for ratio in ratios]
        return torch.tensor(known, dtype=torch.float64)

    def headline(self) -> str:
        """The counts."""
        counts = ", ".join(f"{count} {outcome}" for outcome, count in self.counts.items())
        partial = "" if self.outcome == "complete" else f" ({self.outcome}: the best so far)"
        return f"Of {self.starts} starts: {counts}{partial}."

    def facts(self) -> list[Fact]:
        """The critical points, lowest loss first, and the cost."""
        facts: list[Fact] = []
        for found in sorted(self.critical, key=lambda found: found.loss):
            at = "" if found.inertia is None else f", (n₊, n₀, n₋) = {found.inertia}"
            facts.append(
                (
                    f"loss {number(found.loss, 6)}",
                    f"‖g‖² = {number(found.gradient_norm_squared)}{at}",
                )
            )
        if self.resumed:
            facts.append(("resumed", f"{self.resumed} starts were read from the store"))
        return [*facts, ("cost", str(self.cost))]


def _told(ended: str) -> str:
    return {
        "converged": "converged: ‖g‖ is at its rounding error",
        "stalled": "stalled: no step lowers ‖g‖ further",
        "steps": "ran out of steps",
        "budget": "ran out of budget",
        "interrupted": "was interrupted",
    }[ended]
