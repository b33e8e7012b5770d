"""Block Lanczos with full re-orthogonalization, thick restart and fresh starts.

Answers: what is the operator on the space that its products span, and how exact is each Ritz pair?
Does not answer: when to stop, what to keep, what is proved; that is ``ends.py`` and ``bounds.py``.

The basis has p *multiplied* columns, whose products are known, and after them a *frontier* of
columns whose products are not. A V[:, :p] = V T[:, :p] holds to rounding, before and after a restart,
for any operator: T holds full projections, so asymmetry is measured and not assumed away.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from unstick.errors import NonFinite
from unstick.spectrum.basis import Basis
from unstick.spectrum.operator import SymmetricOperator
from unstick.spectrum.storage import Shard, Storage

__all__ = ["NOISE_FACTOR", "WARMTH", "Krylov", "Ritz", "gaussian"]

NOISE_FACTOR = 10.0
"""Rounding error of vᵀAv in units of eps·‖A‖, and the shortest remainder that counts as a direction.

Backward stable products err by one to three units (measured on dense float32 matrices of dim 50 to 2,000,
where it does not grow with dim: the errors of a sum are random, and the sums here run in float64).
Worse products show as asymmetry, which is measured and added.
"""


WARMTH = 10.0
"""Length of the warm part of a start over that of its random part.

Measured from 1 to 100: more saves products where the warm part is nearly right (at the same point to a tenth of the
residuals 48, 57, 63 percent on a network of 101,770 parameters), changes nothing where it is not, widens the outer bounds.
"""


def gaussian(
    operator: SymmetricOperator,
    columns: int,
    *,
    generator: torch.Generator,
    shard: Shard | None = None,
) -> Tensor:
    """Standard normal vectors, shape [dim, columns], drawn on the CPU so that devices agree.

    Of sharded vectors each process draws its own entries, from a seed that the common generator and its rank give.
    """
    if generator.device.type != "cpu":
        raise ValueError(
            f"generator lives on {generator.device}; pass torch.Generator() (CPU), the same for all"
        )
    length = operator.dim
    if shard is not None:
        seed = int(torch.randint(2**31, (1,), generator=generator))
        length, generator = shard.length, torch.Generator().manual_seed((seed + shard.rank) % 2**32)
    draws = torch.randn(columns, length, generator=generator, dtype=operator.dtype)
    return draws.T.to(operator.device)


@dataclass(frozen=True, slots=True, eq=False)
class Ritz:
    """Eigenpairs of the operator seen through the multiplied columns."""

    values: Tensor  # [p] float64, ascending
    coordinates: Tensor  # [p, p] float64: the Ritz vectors are V[:, :p] @ coordinates
    residuals: Tensor  # [p] float64, ‖Av − λv‖


class Krylov:
    """The growing Krylov space of an operator.

    Args:
        operator: Symmetric map A of shape [dim, dim].
        generator: Draws the random starts.
        block: Random start vectors, at least one.
        warm: Shape [dim] or [dim, k]. Column i is added to random start i mod block, so that a warm step costs what a
            cold one does. Each start stays normal, with a mean that its draw knows nothing of: that is what carries
            probability statements.
        storage: Where the basis is kept; with a shard, all vectors are this process's part.

    Raises:
        ValueError: Bad shape of ``warm``, no random start, a generator off the CPU, half precision.
        NonFinite: ``warm`` holds inf or nan.

    References:
        Wu, Simon (2000), Thick-restart Lanczos method for large symmetric eigenvalue problems.

    Example:
        >>> from unstick.spectrum.operator import DenseOperator
        >>> A = DenseOperator(torch.diag(torch.tensor([-1.0, 1.0, 2.0]).double()))
        >>> space = Krylov(A, generator=torch.Generator().manual_seed(0))
        >>> while space.frontier:
        ...     space.expand()
        >>> [round(x, 6) for x in space.ritz().values.tolist()], space.products
        ([-1.0, 1.0, 2.0], 3)
    """

    def __init__(
        self,
        operator: SymmetricOperator,
        *,
        generator: torch.Generator,
        block: int = 1,
        warm: Tensor | None = None,
        storage: Storage | None = None,
    ) -> None:
        if block < 1:
            raise ValueError(f"block is {block}; at least one random start is needed")
        self._operator = operator
        self._generator = generator
        self._eps = torch.finfo(operator.dtype).eps
        self._shard = None if storage is None else storage.shard
        self.basis = Basis(
            operator.dim, dtype=operator.dtype, device=operator.device, storage=storage
        )
        self.multiplied = 0  # columns whose product is known
        self.products = 0
        self.scale = 0.0  # lower bound on ‖A‖₂, in practice within a factor of two
        self.asymmetry = 0.0  # largest |uᵀAv − vᵀAu| over pairs of basis columns
        self.discarded = 0.0  # norm of all remainders dropped as rounding error
        self.starts = min(block, operator.dim)  # random vectors drawn, injected ones included
        self.unrestarted = 0  # block steps in the Krylov space of the first starts
        self.since_start = 0  # block steps since the last random vector came in
        self.restarted = False
        self.injected = False
        self.start_square = float(operator.dim)  # no start's expected squared length is larger
        means = None if warm is None else _means(warm, self.starts, operator, self.basis)
        if means is not None:
            self.start_square *= 1 + WARMTH**2
            generator = _apart(generator, means, shard=self._shard)
        starts = gaussian(operator, self.starts, generator=generator, shard=self._shard)
        first = self.basis.absorb(
            starts if means is None else starts + means, floor=NOISE_FACTOR * self._eps
        )
        self.start_size = self.basis.size
        self.start_coordinates = first.coefficients  # of the starts, not made unit vectors
        self.projected = torch.zeros(
            self.basis.size, 0, dtype=torch.float64
        )  # T, [size, multiplied]

    @property
    def frontier(self) -> int:
        """Basis columns not yet multiplied; none: the basis is an invariant subspace, to rounding."""
        return self.basis.size - self.multiplied

    @property
    def complete(self) -> bool:
        """Whether the multiplied columns span the whole space."""
        return self.multiplied == self._operator.dim

    @property
    def noise_floor(self) -> float:
        """A vᵀAv of at most this size is zero to the arithmetic of the products."""
        return NOISE_FACTOR * self._eps * self.scale + self.asymmetry

    def expand(self, limit: int | None = None) -> None:
        """Multiply the frontier, at most ``limit`` columns of it, and grow a new one from the remainders.

        An interruption leaves the state as it was.

        Raises:
            ValueError: There is no frontier, or limit < 1.
            NonFinite: A product holds inf or nan.
        """
        count = self.frontier if limit is None else min(limit, self.frontier)
        if count < 1:
            raise ValueError(f"nothing to multiply: frontier {self.frontier}, limit {limit}")
        first, size, whole = self.multiplied, self.basis.size, count == self.frontier
        W = self._multiply(self.basis.block(first, first + count))
        longest = max(self.scale, float(self.basis.lengths(W).max()))
        try:
            image = self.basis.absorb(W, floor=NOISE_FACTOR * self._eps * longest)
        except BaseException:
            self.basis.truncate(size)
            raise
        T = torch.zeros(self.basis.size, first + count, dtype=torch.float64)
        T[:size, :first] = self.projected
        T[:, first:] = image.coefficients
        square = T[: first + count]
        self.projected, self.scale = T, longest
        self.asymmetry = max(
            self.asymmetry, float((square[:, first:] - square[first:].T).abs().max())
        )
        self.discarded = (self.discarded**2 + image.discarded**2) ** 0.5
        self.multiplied += count
        self.products += count
        self.since_start += whole
        self.unrestarted += whole and not (self.restarted or self.injected)

    def inject(self) -> None:
        """Put a fresh random vector, orthogonal to the basis, into the frontier.

        One start sees each eigenvalue once; every further one shows one more copy of a repeated eigenvalue.
        """
        fresh = gaussian(self._operator, 1, generator=self._generator, shard=self._shard)
        self.basis.absorb(fresh, floor=0.0)
        self.projected = _padded(self.projected, self.basis.size)
        self.starts += 1
        self.since_start = 0
        self.injected = True

    def ritz(self) -> Ritz:
        """Eigenpairs of the symmetrized projection; their residuals are exact, asymmetry included."""
        p = self.multiplied
        square = self.projected[:p]
        values, Y = torch.linalg.eigh((square + square.T) / 2)
        residual = self.projected @ Y
        residual[:p] -= Y * values
        self.scale = max(self.scale, float(values.abs().max()))
        return Ritz(values, Y, torch.linalg.vector_norm(residual, dim=0))

    def restart(self, Y: Tensor) -> None:
        """Shrink the multiplied columns to V[:, :p] Y, in place; the frontier stays.

        Args:
            Y: Shape [p, k], orthonormal columns, usually coordinates of the Ritz vectors to keep.
        """
        p, k = Y.shape
        T = torch.cat([Y.T @ self.projected[:p] @ Y, self.projected[p:] @ Y])
        self.basis.compress(Y)
        self.projected, self.multiplied, self.restarted = T, k, True

    def _multiply(self, Q: Tensor) -> Tensor:
        """A Q, checked to be finite."""
        W = self._operator.matvec(Q[:, 0])[:, None] if Q.shape[1] == 1 else self._operator.matmat(Q)
        if not bool(torch.isfinite(W).all()):
            column = int((~torch.isfinite(W)).any(0).nonzero()[0])
            raise NonFinite(
                f"product {self.products + column + 1} of the operator holds inf or nan; "
                "expected finite numbers: look for overflow in the model at these parameters"
            )
        return W


def _means(warm: Tensor, starts: int, operator: SymmetricOperator, basis: Basis) -> Tensor:
    """What is added to each random start, shape [dim, starts]: WARMTH·√dim long, or zero."""
    columns = warm[:, None] if warm.ndim == 1 else warm
    if columns.ndim != 2 or columns.shape[0] != basis.length:
        raise ValueError(
            f"start has shape {tuple(warm.shape)}; expected [{basis.length}] or [{basis.length}, k]"
        )
    if not bool(torch.isfinite(columns).all()):
        raise NonFinite("a start vector holds inf or nan; expected finite numbers")
    columns = _unit(columns.detach().to(operator.device, operator.dtype), basis)
    sums = torch.stack([columns[:, j::starts].sum(1) for j in range(starts)], dim=1)
    return WARMTH * operator.dim**0.5 * _unit(sums, basis)


def _unit(columns: Tensor, basis: Basis) -> Tensor:
    """Columns of length one; zero ones stay zero, and a square that overflows does no harm."""
    tiny = torch.finfo(columns.dtype).tiny
    columns = columns / basis.scales(columns).clamp_min(tiny)
    return columns / basis.lengths(columns).to(columns).clamp_min(tiny)


def _apart(generator: torch.Generator, means: Tensor, *, shard: Shard | None) -> torch.Generator:
    """A generator seeded by ``generator`` and the bits of ``means``, the same in all processes.

    Means often come from an earlier run with an equal seed; its draws must not come again, for they are not independent
    of what was made of them.
    """
    flat = means.flatten()  # may be empty in a process
    bits = flat.view(torch.int32).sum().remainder(2**32).double().reshape(1).cpu()
    if shard is not None:
        bits = shard.sum(bits.to(means.device))
    drawn = int(torch.randint(2**31, (1,), generator=generator))
    return torch.Generator().manual_seed((drawn + int(bits)) % 2**63)


def _padded(T: Tensor, rows: int) -> Tensor:
    """T with zero rows below it."""
    return torch.cat([T, T.new_zeros(rows - T.shape[0], T.shape[1])])
