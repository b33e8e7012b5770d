"""Laws of the orthonormal basis."""

import pytest
import torch

from cases_spectra import DTYPES, rng
from unstick.spectrum import basis as basis_module
from unstick.spectrum.basis import Basis


def random(dim, k, seed, dtype=torch.float64):
    return torch.randn(dim, k, generator=rng(seed), dtype=dtype)


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request):
    return request.param


@pytest.fixture
def made(dtype):
    """A basis of 7 columns in 50 dimensions, grown past its first capacity."""
    made = Basis(50, dtype=dtype, device=torch.device("cpu"), capacity=2)
    made.absorb(random(50, 7, 0, dtype), floor=0.0)
    return made


def gram(basis):
    V = basis.block(0, basis.size).double()
    return V.T @ V


def near(actual, expected, dtype):
    return torch.allclose(
        actual.double(), expected.double(), rtol=0, atol=100 * torch.finfo(dtype).eps
    )


def test_columns_stay_orthonormal(made, dtype):
    assert near(gram(made), torch.eye(7), dtype)


def test_a_block_is_the_sum_of_its_two_parts(made, dtype):
    W = random(50, 3, 1, dtype)

    split = made.project(W)

    V = made.block(0, 7)
    assert near(V.double() @ split.coefficients + split.remainder, W, dtype)
    assert near(made.inner(V, split.remainder), torch.zeros(7, 3), dtype)
    assert split.coefficients.dtype == torch.float64


def test_what_is_absorbed_can_be_written_in_the_basis(made, dtype):
    W = random(50, 3, 2, dtype)

    coefficients = made.absorb(W, floor=0.0).coefficients

    assert made.size == 10
    assert near(made.block(0, 10).double() @ coefficients, W, dtype)


@pytest.mark.parametrize("tilt", [0.0, 1e-9], ids=["dependent", "nearly-dependent"])
def test_dependent_columns_are_not_absorbed_twice(made, dtype, tilt):
    w = random(50, 1, 3, dtype)
    W = torch.cat([w, 2 * w + tilt * random(50, 1, 4, dtype), made.block(0, 1)], dim=1)
    floor = 1e-5 if dtype == torch.float32 else 1e-12

    absorbed = made.absorb(W, floor=floor)

    assert made.size == 7 + 1 + (tilt > 0 and dtype == torch.float64)
    assert absorbed.discarded <= 2 * floor
    assert near(gram(made), torch.eye(made.size), dtype)


def test_it_never_holds_more_columns_than_dimensions(dtype):
    basis = Basis(4, dtype=dtype, device=torch.device("cpu"))

    absorbed = basis.absorb(random(4, 6, 0, dtype), floor=0.0)

    assert basis.size == 4
    assert absorbed.coefficients.shape == (4, 6)
    assert absorbed.discarded < 1e-5


def test_compressing_in_place_equals_combining(made, dtype):
    Y = torch.linalg.qr(random(5, 3, 5))[0]
    combined, tail = made.combine(Y), made.block(5, 7).clone()

    made.compress(Y)

    assert made.size == 5
    assert torch.equal(made.block(0, 3), combined)
    assert torch.equal(made.block(3, 5), tail)
    assert near(gram(made), torch.eye(5), dtype)


def test_chunks_change_nothing(made, dtype, monkeypatch):
    W, Y = random(50, 2, 6, dtype), torch.linalg.qr(random(7, 2, 7))[0]
    before = made.project(W), made.combine(Y), made.lengths(W)

    monkeypatch.setattr(basis_module, "CHUNK_NUMBERS", 40)

    assert near(made.project(W).remainder, before[0].remainder, dtype)
    assert near(made.combine(Y), before[1], dtype)
    assert near(made.lengths(W), before[2], torch.float64)


def test_float32_sums_are_as_exact_as_float64_ones():
    basis = Basis(1_000_000, dtype=torch.float32, device=torch.device("cpu"))
    w = torch.full((1_000_000, 1), 0.1)

    assert abs(float(basis.inner(w, w)) - 1e6 * float(w[0]) ** 2) < 1e-7


def test_truncating_forgets_the_last_columns(made):
    first = made.block(0, 4).clone()

    made.truncate(4)

    assert made.size == 4
    assert torch.equal(made.block(0, 4), first)
