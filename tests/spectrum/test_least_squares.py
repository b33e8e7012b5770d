"""The minimizer is NumPy's and SciPy's, singular and inconsistent systems included."""

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import minres
from torch.testing import assert_close

from cases_spectra import Wrapped, rng
from unstick.errors import NonFinite
from unstick.spectrum.least_squares import minimum_residual
from unstick.spectrum.operator import DenseOperator


def matrix(eigenvalues, seed=0):
    values = torch.tensor(eigenvalues, dtype=torch.float64)
    Q, _ = torch.linalg.qr(torch.randn(len(values), len(values), generator=rng(seed)).double())
    A = (Q * values) @ Q.T
    return (A + A.T) / 2


def right(dim, seed=1):
    return torch.randn(dim, generator=rng(seed), dtype=torch.float64)


SPECTRA = {
    "definite": [1.0, 2.0, 3.0, 5.0, 8.0, 13.0],
    "indefinite": [-7.0, -2.0, -1.0, 1.0, 4.0, 9.0],
    "plus and minus pairs": [-3.0, 3.0, -2.0, 2.0, -1.0, 1.0],
    "singular": [-2.0, 0.0, 0.0, 0.0, 1.0, 5.0],
    "repeated": [2.0, 2.0, 2.0, -1.0, -1.0, -1.0],
    "rank one": [0.0, 0.0, 0.0, 0.0, 0.0, 4.0],
}


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_solution_is_the_shortest_least_squares_solution(name, seed):
    A, b = matrix(SPECTRA[name], seed), right(6, seed + 10)

    found = minimum_residual(DenseOperator(A), b)

    expected, *_ = np.linalg.lstsq(A.numpy(), b.numpy(), rcond=1e-10)
    assert_close(found.solution, torch.from_numpy(expected), rtol=1e-9, atol=1e-10)
    assert_close(found.residual, b - A @ found.solution, rtol=1e-9, atol=1e-10)
    assert found.residual_norm == pytest.approx(
        np.linalg.norm(b.numpy() - A.numpy() @ expected), abs=1e-10
    )
    consistent = 0.0 not in SPECTRA[name]
    assert found.outcome == "solved" if consistent else found.stationarity < 1e-9


def test_a_large_indefinite_system_is_solved_as_minres_solves_it():
    values = np.concatenate([np.linspace(-5, -1, 60), np.linspace(1, 20, 140)])
    A, b = matrix(values.tolist()), right(200)

    found = minimum_residual(DenseOperator(A), b, tolerance=1e-12)
    expected, code = minres(A.numpy(), b.numpy(), rtol=1e-12)

    assert code == 0
    assert found.outcome == "solved"
    assert found.products < 200
    assert_close(found.solution, torch.from_numpy(expected), rtol=1e-7, atol=1e-7)


def test_every_step_minimizes_over_its_krylov_space():
    A, b = matrix([-7.0, -2.0, -1.0, 1.0, 4.0, 9.0, 11.0, 20.0]), right(8)
    for steps in range(1, 8):
        found = minimum_residual(DenseOperator(A), b, steps=steps)
        space = np.linalg.qr(
            np.stack([np.linalg.matrix_power(A.numpy(), k) @ b.numpy() for k in range(steps)], 1)
        )[0]
        y, *_ = np.linalg.lstsq(A.numpy() @ space, b.numpy(), rcond=None)

        assert_close(found.solution, torch.from_numpy(space @ y), rtol=1e-6, atol=1e-7)
        assert (found.outcome, found.products) == ("steps", steps + 1)


def test_an_unreachable_right_hand_side_is_told_by_stationarity_and_not_by_a_small_residual():
    A = torch.diag(torch.tensor([3.0, 1.0, 0.0, 0.0]).double())
    b = torch.tensor([0.0, 0.0, 1.0, 2.0]).double()

    found = minimum_residual(DenseOperator(A), b)

    assert found.outcome == "stationary"
    assert (found.residual_norm, found.stationarity) == (pytest.approx(5**0.5), 0.0)
    assert float(found.solution.norm()) == 0.0


def test_a_stationary_residual_stops_before_the_space_is_exhausted():
    values = np.concatenate([np.zeros(50), np.linspace(1, 2, 50)]).tolist()
    found = minimum_residual(DenseOperator(matrix(values)), right(100), tolerance=1e-6)

    assert found.outcome == "stationary"
    assert found.products < 30
    assert found.stationarity <= 1e-5  # measured at the solution given back


@pytest.mark.parametrize("tiny", [1e-9, -1e-12])
def test_directions_below_rcond_get_no_part_and_are_counted(tiny):
    A, b = torch.diag(torch.tensor([tiny, 1.0, 2.0]).double()), torch.ones(3).double()

    cut = minimum_residual(DenseOperator(A), b, rcond=1e-7)
    whole = minimum_residual(DenseOperator(A), b, rcond=1e-15, tolerance=0.0)

    assert (cut.rank, cut.truncated) == (2, 1)
    assert_close(cut.solution, torch.tensor([0.0, 1.0, 0.5]).double(), rtol=1e-6, atol=1e-6)
    assert whole.truncated == 0
    assert float(whole.solution[0]) == pytest.approx(1 / tiny, rel=1e-3)


def test_a_right_hand_side_that_the_operator_hardly_sees_is_left_alone_where_its_norm_is_known():
    A = torch.diag(torch.tensor([1e-6, 1e-5, 10.0]).double())
    b = torch.tensor([1.0, 1.0, 0.0]).double()

    alone = minimum_residual(DenseOperator(A), b, tolerance=5e-4)
    known = minimum_residual(DenseOperator(A), b, tolerance=5e-4, scale=10.0)

    assert float(alone.solution.norm()) > 1e4
    assert (known.outcome, known.products, float(known.solution.norm())) == ("stationary", 2, 0.0)
    assert known.residual_norm == pytest.approx(2**0.5)
    assert known.stationarity == pytest.approx(float((A @ b).norm()) / (10 * 2**0.5))


def test_float32_products_are_solved_to_their_own_precision():
    A, b = matrix(SPECTRA["indefinite"]).float(), right(6).float()

    found = minimum_residual(DenseOperator(A), b)

    expected = np.linalg.solve(A.double().numpy(), b.double().numpy())
    assert found.solution.dtype == torch.float32
    assert_close(found.solution.double(), torch.from_numpy(expected), rtol=1e-4, atol=1e-5)


def test_nothing_to_solve_costs_nothing():
    found = minimum_residual(DenseOperator(torch.eye(3).double()), torch.zeros(3).double())

    assert (found.outcome, found.products, float(found.solution.norm())) == ("solved", 0, 0.0)


def test_a_zero_operator_reaches_nothing():
    found = minimum_residual(DenseOperator(torch.zeros(3, 3).double()), torch.ones(3).double())

    assert (found.outcome, found.rank, float(found.solution.norm())) == ("stationary", 0, 0.0)
    assert found.residual_norm == pytest.approx(3**0.5)


def test_what_cannot_be_solved_is_refused():
    A = DenseOperator(torch.eye(3).double())
    with pytest.raises(ValueError, match=r"expected \[3\]"):
        minimum_residual(A, torch.ones(2).double())
    with pytest.raises(ValueError, match="steps is 0"):
        minimum_residual(A, torch.ones(3).double(), steps=0)
    with pytest.raises(ValueError, match="tolerance"):
        minimum_residual(A, torch.ones(3).double(), tolerance=-1.0)
    with pytest.raises(NonFinite, match="b holds"):
        minimum_residual(A, torch.full((3,), torch.nan).double())
    with pytest.raises(NonFinite, match="product 2 "):
        minimum_residual(Wrapped(matrix(SPECTRA["indefinite"]), nan_at=2), right(6))


def test_the_record_tells_how_it_ended():
    told = str(minimum_residual(DenseOperator(matrix(SPECTRA["singular"])), right(6)))

    assert "cannot be reached" in told or "exhausted" in told
    assert "directions truncated" in told
