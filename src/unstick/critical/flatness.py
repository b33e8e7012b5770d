"""Whether a gradient lies where the Hessian cannot see it.

Answers: is this a gradient-flat point, g ≠ 0 but Hg ≈ 0, where methods that minimize ‖∇L‖ get caught?
Does not answer: whether the gradient is small enough to be zero; ``finding`` weighs that.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from unstick.critical.room import is_small, room_for_basis
from unstick.problem.problem import Problem
from unstick.record import Fact, Record, number
from unstick.spectrum.least_squares import minimum_residual
from unstick.spectrum.operator import SymmetricOperator

__all__ = ["Flatness", "flatness_by_products", "flatness_of", "measure_flatness"]

UNEXPLAINED = 0.9  # r above it: Frye et al. 2021
SEEN = 5e-4  # r_H below it: the same
KERNEL = 1e-3  # of the largest |λ|: an eigenvector below it counts as kernel
PROBES = 16  # random vectors that estimate ‖H‖_F: to about a tenth on a flat spectrum, a third on a peaked one
STEPS = 50  # products for p; more only where the gradient lies between


@dataclass(frozen=True, slots=True, eq=False)
class Flatness(Record):
    """How much of a gradient a Newton step can remove, and where the rest lies."""

    residual_ratio: float  # r = ‖Hp + g‖ / (‖H‖_F‖p‖ + ‖g‖)
    co_kernel_ratio: float  # r_H = ‖H(Hp + g)‖ / (‖H‖_F‖Hp + g‖)
    kernel_energy: (
        float | None
    )  # part of ‖g‖² on eigenvectors with |λ| < 1e-3·max|λ|; None where not all are known
    rayleigh: float  # gᵀHg / gᵀg, the cheap proxy; 0.0 where g = 0
    hessian_norm: float  # ‖H‖_F
    exact: bool  # ‖H‖_F and the eigenvectors are those of the written-down Hessian, not estimated
    gradient_norm_squared: float

    @property
    def flat(self) -> bool:
        """Whether the gradient, if it is not zero, lies in the Hessian's kernel.

        Frye's rule, r > 0.9 while r_H < 5e-4; or, where all eigenvectors are known, the same bar for the part of ‖g‖ on
        those that hardly bend, 0.9² of its square: a few per cent of a gradient on a stiff direction make p long and r
        small without making the point any less flat.
        """
        if self.gradient_norm_squared == 0:
            return False
        by_step = self.residual_ratio > UNEXPLAINED and self.co_kernel_ratio < SEEN
        return by_step or (self.kernel_energy is not None and self.kernel_energy > UNEXPLAINED**2)

    @property
    def outcome(self) -> str:
        """In one word: "gradient-flat" or "curved"."""
        return "gradient-flat" if self.flat else "curved"

    def headline(self) -> str:
        """Whether the Hessian sees the gradient."""
        if self.flat:
            return "Gradient-flat: Hg ≈ 0 though g ≠ 0; a Newton step finds nothing to remove."
        return "Not gradient-flat: the Hessian sees the gradient."

    def facts(self) -> list[Fact]:
        """Both ratios, the kernel, the norm."""
        how = "" if self.exact else " (estimated)"
        energy = self.kernel_energy
        return [
            ("r", f"{number(self.residual_ratio)} (flat: above {UNEXPLAINED:g})"),
            ("r_H", f"{number(self.co_kernel_ratio)} (and below {SEEN:g})"),
            (
                "‖g‖² in the kernel",
                number(energy) if energy is None else f"{number(100 * energy)} %",
            ),
            ("gᵀHg / gᵀg", number(self.rayleigh)),
            ("‖H‖_F", number(self.hessian_norm) + how),
            ("‖g‖²", number(self.gradient_norm_squared)),
        ]


def flatness_of(matrix: Tensor, gradient: Tensor) -> Flatness:
    """Flatness by the Hessian written down; p solves all that has r_H above 5e-4 and nothing else.

    Args:
        matrix: H, shape [n, n]; its symmetric part is used, in float64.
        gradient: g, shape [n].

    Cost:
        An eigendecomposition, about 9·n³ multiplications.

    References:
        Frye, Simon, Wadia, Ligeralde, DeWeese, Bouchard (2021), Critical point-finding methods reveal gradient-flat
        regions of deep network losses, Neural Computation 33.

    Example:
        >>> found = flatness_of(torch.diag(torch.tensor([0.0, 10.0])), torch.tensor([3.0, 0.0]))
        >>> found.residual_ratio, found.kernel_energy, found.outcome
        (1.0, 1.0, 'gradient-flat')
    """
    H = matrix.detach().to("cpu", torch.float64)
    g = gradient.detach().to("cpu", torch.float64)
    values, V = torch.linalg.eigh((H + H.T) / 2)
    norm, size = float(values.norm()), float(g.norm())
    c = V.T @ g
    seen = values.abs() > SEEN * norm
    step = float((c[seen] / values[seen]).norm())
    rest, image = float(c[~seen].norm()), float((values * c)[~seen].norm())
    square = size**2
    kernel = values.abs() <= KERNEL * values.abs().max()
    return Flatness(
        residual_ratio=_over(rest, norm * step + size),
        co_kernel_ratio=_over(image, norm * rest),
        kernel_energy=_over(float(c[kernel].square().sum()), square),
        rayleigh=_over(float((values * c.square()).sum()), square),
        hessian_norm=norm,
        exact=True,
        gradient_norm_squared=square,
    )


def flatness_by_products(
    operator: SymmetricOperator,
    gradient: Tensor,
    *,
    generator: torch.Generator,
    probes: int = PROBES,
    steps: int = STEPS,
) -> Flatness:
    """Flatness by Hessian products: ‖H‖_F is estimated, p is the minimum-residual step up to r_H = 5e-4.

    Args:
        operator: H.
        gradient: g, shape [dim].
        generator: On the CPU; draws the signs whose images estimate ‖H‖_F² = E ‖Hz‖².
        probes: How many of them.
        steps: Most products for p.

    Cost:
        At most probes + steps + 2 products.

    References:
        That of ``flatness_of``; Hutchinson (1990), A stochastic estimator of the trace of the influence matrix.
    """
    dim = operator.dim
    signs = torch.randint(0, 2, (probes, dim), generator=generator, dtype=torch.int8)
    square = 0.0
    for row in signs:
        z = (2 * row - 1).to(operator.device, operator.dtype)
        square += float(operator.matvec(z).double().square().sum()) / probes
    norm = math.sqrt(square)
    g = gradient.to(operator.device, operator.dtype)
    found = minimum_residual(
        operator, -g, steps=min(steps, dim), tolerance=SEEN, rcond=SEEN, scale=norm
    )
    p = float(torch.linalg.vector_norm(found.solution.double()))
    length = found.right_norm
    along = float(g.double() @ operator.matvec(g).double()) if length else 0.0
    return Flatness(
        residual_ratio=_over(found.residual_norm, norm * p + length),
        co_kernel_ratio=found.stationarity * _over(found.scale, norm),
        kernel_energy=None,
        rayleigh=_over(along, length**2),
        hessian_norm=norm,
        exact=False,
        gradient_norm_squared=length**2,
    )


def measure_flatness(
    problem: Problem, *, gradient: Tensor | None = None, seed: int = 0
) -> Flatness:
    """Flatness at the model's parameters, by the dense Hessian where that is cheap, else by products.

    Args:
        problem: What is minimized.
        gradient: At these parameters, if you have it.
        seed: Seed of the estimate of ‖H‖_F.

    Example:
        >>> problem = Problem.from_function(lambda x: x[0] + x[1] ** 2, torch.zeros(2))
        >>> measure_flatness(problem).outcome
        'gradient-flat'
    """
    g = problem.gradient() if gradient is None else gradient
    operator = problem.hessian()
    if is_small(problem) and operator.mode != "difference":
        return flatness_of(problem.hessians(problem.parameters().unsqueeze(0))[0], g)
    room = room_for_basis(problem, pairs=1, most=STEPS)
    generator = torch.Generator().manual_seed(seed)
    return flatness_by_products(operator, g, generator=generator, steps=room.columns)


def _over(part: float, whole: float) -> float:
    """A ratio; nothing of nothing is nothing."""
    return part / whole if whole > 0 else 0.0
