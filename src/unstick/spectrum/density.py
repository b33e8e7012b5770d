"""The spectral density of an operator by stochastic Lanczos quadrature.

Answers: roughly where the eigenvalues lie, and how sure the picture is.
Does not answer: how many lie on one side of a threshold; a density is too blunt for counts near zero.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from unstick.record import Fact, Record, number
from unstick.spectrum.krylov import Krylov
from unstick.spectrum.operator import SymmetricOperator
from unstick.spectrum.storage import Storage

__all__ = ["Density", "density"]

MARGIN_WIDTHS = 6.0  # how far the axis goes beyond the outermost Ritz values, in widths


@dataclass(frozen=True, slots=True, eq=False)
class Density(Record):
    """An estimate of the density of eigenvalues, smoothed by a Gaussian."""

    grid: Tensor  # [g] eigenvalue axis, equally spaced, float64
    density: Tensor  # [g] its sum times the spacing is 1; each value is the mean over its cell
    standard_error: Tensor  # [g] across starts; nan when fewer than two were finished
    width: float  # σ of the Gaussian each Ritz value is drawn with
    starts: int  # finished starts
    steps: int  # most Lanczos steps a start
    noise_floor: float  # features narrower than this, or nearer to zero, are arithmetic
    products: int
    outcome: str  # "complete" or "interrupted"

    def headline(self) -> str:
        """Where the bulk lies."""
        mass = (self.density / self.density.sum()).cumsum(0)
        low, high = (
            float(self.grid[min(int((mass < q).sum()), len(mass) - 1)]) for q in (0.05, 0.95)
        )
        return f"About 90 % of the eigenvalues lie between {number(low)} and {number(high)}."

    def facts(self) -> list[Fact]:
        """Resolution, certainty, cost."""
        worst = float((self.standard_error / self.density.max()).max())
        return [
            ("axis", f"{number(float(self.grid[0]))} to {number(float(self.grid[-1]))}"),
            ("resolution", f"Gaussian of width {number(self.width)}"),
            (
                "standard error",
                f"at most {number(100 * worst, 2)} % of the peak, over {self.starts} starts",
            ),
            ("noise floor", number(self.noise_floor)),
            ("outcome", self.outcome),
            ("cost", f"{self.products} operator products"),
        ]


@dataclass(frozen=True, slots=True, eq=False)
class _Quadrature:
    """One start's discrete measure: its moments up to 2·steps − 1 are those of the start."""

    nodes: Tensor  # [m] float64
    weights: Tensor  # [m] float64, sum 1


def density(
    operator: SymmetricOperator,
    *,
    generator: torch.Generator,
    starts: int = 8,
    steps: int = 40,
    points: int = 400,
    width: float | None = None,
    storage: Storage | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Density:
    """Estimate the density of eigenvalues from random starts, each a Lanczos run kept orthogonal.

    Args:
        operator: Symmetric map A on vectors of shape [dim].
        generator: On the CPU; draws the starts.
        starts: Random starts, at least 2; the standard error falls with √starts.
        steps: Lanczos steps a start; finer detail needs more.
        points: Points of the axis.
        width: σ of the Gaussian that each Ritz value is drawn with. None: 1 % of the range of the Ritz
            values, but at least the noise floor and a millionth of the largest |λ|.
        storage: Where the basis is kept, as for ``ends``.
        progress: Called with (products so far, most products) after every product.

    Returns:
        An estimate whose standard error covers the draw of the starts, not the bias of few steps and of the
        width. An interruption returns the starts finished so far.

    Raises:
        ValueError: Arguments out of range.
        NonFinite: A product holds inf or nan.
        KeyboardInterrupt: Before the first product is known.

    Cost:
        starts·steps products, steps·dim numbers, O(starts·steps²·dim) arithmetic.

    References:
        Lin, Saad, Yang (2016), Approximating spectral densities of large matrices.
        Ubaru, Chen, Saad (2017), Fast estimation of tr(f(A)) via stochastic Lanczos quadrature.

    Example:
        >>> from unstick.spectrum.operator import DenseOperator
        >>> A = DenseOperator(torch.diag(torch.tensor([-1.0, -1.0, 2.0, 2.0]).double()))
        >>> found = density(A, generator=torch.Generator().manual_seed(0))
        >>> spacing = found.grid[1] - found.grid[0]
        >>> round(float(found.density.sum() * spacing), 6), found.products  # two eigenvalues: two steps a start
        (1.0, 16)
    """
    if starts < 2 or steps < 1 or points < 2:
        raise ValueError(
            f"starts={starts}, steps={steps}, points={points}; expected at least 2, 1 and 2"
        )
    if width is not None and not width > 0:
        raise ValueError(f"width is {width}; expected a number > 0")
    finished: list[_Quadrature] = []
    products, noise, outcome = 0, 0.0, "complete"
    while len(finished) < starts and outcome == "complete":
        space = Krylov(operator, generator=generator, storage=storage)
        try:
            while space.frontier and space.multiplied < steps:
                space.expand()
                if progress is not None:
                    progress(products + space.products, starts * steps)
        except KeyboardInterrupt:
            if not finished and space.multiplied == 0:
                raise
            outcome = "interrupted"
        if outcome == "complete" or not finished:
            finished.append(_quadrature(space))
        products += space.products
        noise = max(noise, space.noise_floor)
    return _drawn(
        finished, points, width, steps=steps, noise_floor=noise, products=products, outcome=outcome
    )


def _quadrature(space: Krylov) -> _Quadrature:
    """Gauss quadrature of the start: Ritz values, and the squared first coordinates of their vectors."""
    ritz = space.ritz()
    return _Quadrature(ritz.values, ritz.coordinates[0].square())


def _drawn(
    finished: list[_Quadrature],
    points: int,
    width: float | None,
    *,
    steps: int,
    noise_floor: float,
    products: int,
    outcome: str,
) -> Density:
    """Spread every node over the cells of one common axis."""
    low = min(float(q.nodes[0]) for q in finished)
    high = max(float(q.nodes[-1]) for q in finished)
    size = max(abs(low), abs(high)) or 1.0  # a zero operator still gets an axis
    narrowest = max(noise_floor, 1e-6 * size)
    width = max(0.01 * (high - low), narrowest) if width is None else width
    spacing = (high - low + 2 * MARGIN_WIDTHS * width) / points
    edges = low - MARGIN_WIDTHS * width + spacing * torch.arange(points + 1, dtype=torch.float64)
    densities = torch.stack([_cells(q, edges, width) / spacing for q in finished])
    unknown = torch.full((points,), float("nan"), dtype=torch.float64)
    return Density(
        grid=(edges[:-1] + edges[1:]) / 2,
        density=densities.mean(0),
        standard_error=densities.std(0) / len(finished) ** 0.5 if len(finished) > 1 else unknown,
        width=width,
        starts=len(finished),
        steps=steps,
        noise_floor=noise_floor,
        products=products,
        outcome=outcome,
    )


def _cells(quadrature: _Quadrature, edges: Tensor, width: float) -> Tensor:
    """Mass of the Gaussian mixture in each cell: exact even where the cells are wider than the Gaussians."""
    below = torch.special.ndtr((edges[:, None] - quadrature.nodes) / width)
    return (below.diff(dim=0) * quadrature.weights).sum(1)
