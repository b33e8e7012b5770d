"""The trace of an operator from random products.

Answers: the sum of all eigenvalues, as an unbiased estimate with its standard error.
Does not answer: how the sum is spread over the eigenvalues; that is ``density.py``.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from unstick.errors import NonFinite
from unstick.record import Fact, Record, number
from unstick.spectrum.basis import Basis
from unstick.spectrum.krylov import NOISE_FACTOR
from unstick.spectrum.operator import SymmetricOperator

__all__ = ["TraceEstimate", "trace"]


@dataclass(frozen=True, slots=True)
class TraceEstimate(Record):
    """An unbiased estimate of tr A."""

    value: float
    standard_error: float  # of the random part; 0.0 when the products determined the trace
    products: int
    outcome: str = "complete"

    def headline(self) -> str:
        """The estimate and its standard error."""
        return f"Trace {number(self.value)} ± {number(self.standard_error, 2)} (standard error)."

    def facts(self) -> list[Fact]:
        """What it cost."""
        return [("cost", f"{self.products} operator products")]


def trace(
    operator: SymmetricOperator,
    *,
    products: int,
    generator: torch.Generator,
    method: Literal["hutch++", "hutchinson"] = "hutch++",
) -> TraceEstimate:
    """Estimate tr A from random sign vectors.

    Hutchinson averages gᵀAg. Hutch++ spends a third of the products on a basis Q of the range of A·S for a
    random S, takes tr QᵀAQ exactly, and averages only what is outside Q: far better when few eigenvalues dominate.

    Args:
        operator: Symmetric map A on vectors of shape [dim].
        products: Most products to spend: at least 4, or 2 for Hutchinson.
        generator: On the CPU; draws the sign vectors.
        method: "hutch++" or "hutchinson".

    Returns:
        An unbiased estimate. Its standard error is itself estimated, from (products / 3) samples or more.

    Raises:
        ValueError: Too few products, or an unknown method.
        NonFinite: A product holds inf or nan.

    Cost:
        ``products`` products and ⅔·products·dim numbers.

    References:
        Hutchinson (1989), A stochastic estimator of the trace of the influence matrix.
        Meyer, Musco, Musco, Woodruff (2021), Hutch++: Optimal stochastic trace estimation.

    Example:
        >>> from unstick.spectrum.operator import DenseOperator
        >>> A = DenseOperator(torch.diag(torch.tensor([-1.0, 2.0, 3.0]).double()))
        >>> trace(A, products=4, generator=torch.Generator().manual_seed(0), method="hutchinson").value
        4.0
    """
    if method not in ("hutch++", "hutchinson"):
        raise ValueError(f"method is {method!r}; expected 'hutch++' or 'hutchinson'")
    least = 4 if method == "hutch++" else 2
    if products < least:
        raise ValueError(f"products is {products}; {method} needs at least {least}")
    basis = Basis(operator.dim, dtype=operator.dtype, device=operator.device)
    inside, spent = 0.0, 0
    if method == "hutch++":
        sketch = min(products // 3, operator.dim)
        image = _multiply(operator, _signs(operator, sketch, generator))
        basis.absorb(
            image,
            floor=NOISE_FACTOR * torch.finfo(image.dtype).eps * float(basis.lengths(image).max()),
        )
        Q = basis.block(0, basis.size)
        inside = float(basis.inner(Q, _multiply(operator, Q)).trace()) if basis.size else 0.0
        spent = sketch + basis.size
    if basis.size == operator.dim:
        return TraceEstimate(inside, 0.0, spent)
    probes = basis.project(_signs(operator, products - spent, generator)).remainder
    samples = basis.inner(probes, _multiply(operator, probes)).diagonal()
    error = float(samples.std()) / len(samples) ** 0.5
    return TraceEstimate(inside + float(samples.mean()), error, products)


def _signs(operator: SymmetricOperator, columns: int, generator: torch.Generator) -> Tensor:
    """Random vectors of ±1, shape [dim, columns], drawn on the CPU so that devices agree."""
    bits = torch.randint(0, 2, (columns, operator.dim), generator=generator)
    return (2 * bits - 1).T.to(operator.device, operator.dtype)


def _multiply(operator: SymmetricOperator, V: Tensor) -> Tensor:
    W = operator.matmat(V)
    if not bool(torch.isfinite(W).all()):
        raise NonFinite("a product of the operator holds inf or nan; expected finite numbers")
    return W
