"""The verdict on a point: which kind it is, the proof, and what it rests on."""

from dataclasses import dataclass
from enum import StrEnum

from torch import Tensor

from unstick.problem.cost import Cost
from unstick.record import Fact, Record, number
from unstick.spectrum.interval import Interval

__all__ = ["Kind", "Point"]


class Kind(StrEnum):
    """What a point of the loss surface is."""

    NOT_CRITICAL = "not-critical"
    SADDLE = "saddle"
    MAXIMUM = "maximum"
    MINIMUM = "minimum"
    DEGENERATE = "degenerate"
    UNDECIDED = "undecided"


HEADLINES = {
    Kind.NOT_CRITICAL: "Not a critical point: going on along the negative gradient still pays.",
    Kind.SADDLE: "A saddle point: the slope is used up, but the loss falls along a direction of negative curvature.",
    Kind.MAXIMUM: "A maximum: the loss curves downward or is flat in every direction.",
    Kind.MINIMUM: "A minimum: no direction leads down from here.",
    Kind.DEGENERATE: "A degenerate critical point: second derivatives cannot tell what it is.",
    Kind.UNDECIDED: "Undecided: the arithmetic or the budget cannot tell.",
}


@dataclass(frozen=True, slots=True, eq=False)
class Point(Record):
    """A classified point, with its evidence and its cost.

    A λ is an eigenvalue of the Hessian of the loss over all n trainable parameters.
    """

    kind: Kind
    proof: str  # one sentence that a reader can check
    loss: float  # full-data loss, weight decay included
    gradient_norm: float
    gradient_standard_error: float | None  # √(tr Σ / N); None where there are no samples
    lambda_min: Interval | None  # None only when interrupted before any product
    lambda_max: Interval | None
    inertia: (
        tuple[int, int, int] | None
    )  # (n₊, n₀, n₋) when exact; |λ| ≤ noise_floor counts as zero
    minimum_ratio: float | None  # n₊ / n when exact
    noise_floor: float  # the arithmetic cannot tell a smaller |λ| from zero
    tau: float  # the verdict takes |λ| ≤ tau for zero; above noise_floor where the gradient is not zero
    slope_decrease: float  # best decrease measured along −g, as far as the slope explains it
    curvature_decrease: float  # best decrease measured along ±v, v the most negative eigenvectors
    loss_noise: float  # two losses closer than this are equal to the arithmetic
    escape_direction: Tensor | None  # [n], the model's dtype; set when it lowers the measured loss
    escape_step: float  # distance along it where the loss was measured lowest; 0.0 without one
    lowest_curvatures: Tensor  # [k] vᵀHv of the columns below; those under −tau are negative
    lowest_directions: Tensor  # [n, k] orthonormal eigenvectors (Ritz vectors when not exact)
    eigenvalues: Tensor  # [m] ascending: all n when the inertia is exact, else Ritz values
    parameters: int  # n
    notes: tuple[str, ...]  # what was chosen on the way, and why
    outcome: str  # "complete", "budget" (spent before all was known) or "interrupted"
    cost: Cost

    def headline(self) -> str:
        """The verdict in plain words."""
        partial = "" if self.outcome == "complete" else f" ({self.outcome}: the best answer so far)"
        return HEADLINES[self.kind] + partial

    def facts(self) -> list[Fact]:
        """The proof first, then the numbers."""
        error = self.gradient_standard_error
        noise = "" if error is None else f", sampling error {number(error)}"
        facts = [
            ("kind", str(self.kind)),
            ("proof", self.proof),
            ("loss", number(self.loss, 6)),
            ("gradient norm", number(self.gradient_norm) + noise),
            ("−g pays", number(self.slope_decrease)),
            ("±v pays", number(self.curvature_decrease)),
        ]
        if self.lambda_min is not None and self.lambda_max is not None:
            facts += [("λ min", str(self.lambda_min)), ("λ max", str(self.lambda_max))]
        if self.inertia is not None:
            positive, zero, negative = self.inertia
            counts = f"{positive} positive, {zero} zero, {negative} negative eigenvalues of {self.parameters}"
            facts.append(("inertia", f"{counts} (zero: |λ| ≤ {number(self.noise_floor)})"))
        if self.minimum_ratio is not None:
            facts.append(("minimum ratio", number(self.minimum_ratio)))
        facts.append(("cost", str(self.cost)))
        facts += [("note", note) for note in self.notes]
        return facts
