"""Laws of trace estimates."""

import pytest
import torch

from cases_spectra import DTYPES, FLAT, PLUS_MINUS, SADDLE, STIFF, Wrapped, rng
from unstick.errors import NonFinite
from unstick.spectrum.operator import DenseOperator
from unstick.spectrum.trace import trace

METHODS = ["hutch++", "hutchinson"]


@pytest.mark.calibration
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", [SADDLE, PLUS_MINUS, STIFF], ids=str)
def test_estimates_are_unbiased_and_their_standard_errors_calibrated(case, method):
    operator = case.operator(0)
    exact = sum(case.eigenvalues)

    runs = [trace(operator, products=30, generator=rng(seed), method=method) for seed in range(200)]

    values = torch.tensor([run.value for run in runs]).double()
    errors = torch.tensor([run.standard_error for run in runs]).double()
    spread = float(values.std())
    rounding = 1e-12 * case.radius
    assert abs(float(values.mean()) - exact) <= 4 * spread / 200**0.5 + rounding
    assert float(errors.square().mean().sqrt()) == pytest.approx(spread, rel=0.3, abs=rounding)


def test_a_sketch_wins_where_few_eigenvalues_dominate():
    plain, sketched = (
        trace(STIFF.operator(0), products=30, generator=rng(0), method=method)
        for method in METHODS[::-1]
    )

    assert sketched.standard_error < 0.1 * plain.standard_error


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", [SADDLE, PLUS_MINUS], ids=str)
def test_enough_products_give_the_exact_trace(case, dtype):
    found = trace(case.operator(0, dtype), products=180, generator=rng(0))

    assert found.standard_error < 1e-7
    assert found.value == pytest.approx(sum(case.eigenvalues), rel=1e-5, abs=1e-5)


def test_a_zero_operator_has_trace_zero():
    found = trace(FLAT.operator(0), products=9, generator=rng(0))

    assert (found.value, found.standard_error) == (0.0, 0.0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("products", [4, 5, 10, 31])
def test_the_products_are_counted_and_kept(method, products):
    operator = Wrapped(STIFF.matrix(0))

    found = trace(operator, products=products, generator=rng(0), method=method)

    assert found.products == operator.products == products
    assert f"{products} operator products" in str(found)


def test_unusable_arguments_and_products_are_refused():
    with pytest.raises(ValueError, match="at least 4"):
        trace(SADDLE.operator(0), products=3, generator=rng(0))
    with pytest.raises(ValueError, match="method"):
        trace(SADDLE.operator(0), products=9, generator=rng(0), method="exact")  # type: ignore[arg-type]
    with pytest.raises(NonFinite, match="inf or nan"):
        trace(DenseOperator(torch.full((3, 3), float("nan"))), products=9, generator=rng(0))
