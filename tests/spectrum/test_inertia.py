"""Laws of exact counts."""

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import references
from cases_spectra import FLAT, REPEATED, SADDLE, SPECTRA, TINY_NEGATIVE, rng, rotation
from unstick.errors import NonFinite
from unstick.spectrum.inertia import _pivot_signs, extreme_eigenvectors, inertia, tolerance_sweep


def counts(found):
    return found.positive, found.zero, found.negative


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("case", SPECTRA, ids=str)
def test_counts_agree_with_another_algorithm_and_with_the_factorization(case, seed):
    matrix = case.matrix(seed)

    found = inertia(matrix)

    assert counts(found) == references.inertia(matrix, found.tau)
    assert found.agreed
    assert sum(counts(found)) == len(matrix)


@given(
    positive=st.integers(0, 8),
    zero=st.integers(0, 8),
    negative=st.integers(0, 8),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_congruence_keeps_the_inertia(positive, zero, negative, seed):  # Sylvester's law
    n = positive + zero + negative
    if n == 0:
        return
    signs = torch.tensor([1.0] * positive + [0.0] * zero + [-1.0] * negative).double()
    stretched = rotation(n, seed) * torch.rand(n, generator=rng(seed), dtype=torch.float64).add(0.2)
    C = stretched @ rotation(n, seed + 1)

    found = inertia(C.T @ torch.diag(signs) @ C)

    assert counts(found) == (positive, zero, negative)
    assert found.agreed


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ([[0.0, 1.0], [1.0, 0.0]], (1, 0, 1)),  # needs a 2 x 2 pivot
        ([[0.0, 0.0], [0.0, 0.0]], (0, 2, 0)),
        ([[-3.0]], (0, 0, 1)),
        ([[1.0, 1.0], [1.0, 1.0]], (1, 1, 0)),
        ([[2.0, 0.0, 0.0], [0.0, 0.0, 5.0], [0.0, 5.0, 0.0]], (2, 0, 1)),
    ],
    ids=str,
)
def test_small_matrices_by_hand(matrix, expected):
    found = inertia(torch.tensor(matrix))

    assert counts(found) == expected
    assert found.agreed


@given(seed=st.integers(0, 10_000), n=st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_pivots_have_the_signs_of_the_eigenvalues(seed, n):
    H = torch.randn(n, n, generator=rng(seed), dtype=torch.float64)
    H = H + H.T
    H.diagonal().zero_()  # forces 2 x 2 pivots

    negative, zero = _pivot_signs(H + 1e-9 * torch.eye(n).double())

    assert negative == int((references.eigenvalues(H) < -1e-9).sum())
    assert zero == 0


def test_an_eigenvalue_at_the_tolerance_can_only_disagree_there():
    found = inertia(torch.diag(torch.tensor([-1.0, 0.5, 2.0]).double()), tau=0.5)

    assert counts(found) == (1, 1, 1)
    assert found.agreed  # 0.5 is representable, both ways are exact


def test_tau_grows_with_the_precision_that_the_matrix_was_computed_in():
    matrix = TINY_NEGATIVE.matrix(0)

    fine, coarse = inertia(matrix), inertia(matrix, precision=torch.float32)

    assert coarse.tau == pytest.approx(
        fine.tau * torch.finfo(torch.float32).eps / torch.finfo(torch.float64).eps, rel=1e-6
    )
    assert counts(fine) == (58, 1, 1)  # planted: −0.01, one 0, the rest positive


def test_a_zero_matrix_has_tolerance_zero_and_only_zeros():
    found = inertia(FLAT.matrix(0))

    assert (found.tau, found.zero, found.agreed) == (0.0, 60, True)


def test_ratio_and_index_do_not_call_zeros_negative():
    found = inertia(REPEATED.matrix(0))

    assert found.minimum_ratio == 3 / 60
    assert found.morse_index == 3 / 60
    assert "54 zero" in str(found)


def test_asymmetry_enters_the_tolerance():
    matrix = SADDLE.matrix(0)
    matrix[0, 1] += 1e-3

    assert inertia(matrix).tau == pytest.approx(1e-3 / 2**0.5, rel=1e-6)


def test_a_sweep_counts_like_separate_calls():
    matrix = TINY_NEGATIVE.matrix(0)
    values = inertia(matrix).eigenvalues

    sweep = tolerance_sweep(values, [1e-1, 1e-12, 1e-3])

    for tau, *found in zip(sweep.taus, sweep.positive, sweep.zero, sweep.negative, strict=True):
        assert tuple(found) == counts(inertia(matrix, tau=float(tau)))
    assert "depends" in sweep.headline()
    assert len(tolerance_sweep(values).taus) == 15


@pytest.mark.parametrize("case", [SADDLE, TINY_NEGATIVE, REPEATED], ids=str)
def test_extreme_eigenvectors_are_eigenvectors_of_the_outermost_values(case):
    matrix = case.matrix(1)
    exact = references.eigenvalues(matrix)

    found = extreme_eigenvectors(matrix, 4)

    assert np.allclose(found.lowest.values, exact[:4], atol=1e-12 * case.radius)
    assert np.allclose(found.highest.values, exact[-1:], atol=1e-12 * case.radius)
    for pairs in (found.lowest, found.highest):
        assert references.residuals(matrix, pairs.values, pairs.vectors).max() < 1e-12 * case.radius
        assert pairs.vectors.shape == (60, len(pairs.values))


@pytest.mark.parametrize("call", [inertia, lambda H: extreme_eigenvectors(H, 1)])
def test_unusable_matrices_are_refused(call):
    with pytest.raises(ValueError, match="expected"):
        call(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="expected"):
        call(torch.zeros(0, 0))
    with pytest.raises(NonFinite, match="inf or nan"):
        call(torch.full((2, 2), float("inf")))


def test_arguments_out_of_range_are_refused():
    with pytest.raises(ValueError, match="tau"):
        inertia(torch.eye(2), tau=-1.0)
    with pytest.raises(ValueError, match="count"):
        extreme_eigenvectors(torch.eye(2), 3)


def test_eigenvectors_are_had_where_bisection_gives_up(monkeypatch):
    def gives_up(*_args, **_kwargs):
        raise scipy.linalg.LinAlgError("Internal Error.")

    draw = torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = draw + draw.T
    usual = extreme_eigenvectors(matrix, 3)
    monkeypatch.setattr(scipy.linalg, "eigh", gives_up)

    found = extreme_eigenvectors(matrix, 3)

    torch.testing.assert_close(found.lowest.values, usual.lowest.values, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        (found.lowest.vectors.T @ usual.lowest.vectors).abs(),
        torch.eye(3).double(),
        rtol=0,
        atol=1e-9,
    )
    assert found.lowest.residuals.max() < 1e-12
