"""Laws of the two ends of a spectrum."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import references
from cases_spectra import (
    CLUSTERED,
    DTYPES,
    FLAT,
    PLUS_MINUS,
    REPEATED,
    SADDLE,
    SPECTRA,
    STIFF,
    TINY_NEGATIVE,
    Spectrum,
    Wrapped,
    rng,
    rotation,
    rounding,
)
from unstick.errors import NonFinite
from unstick.spectrum.ends import ends
from unstick.spectrum.operator import DenseOperator

SEEDS = range(5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("case", SPECTRA, ids=str)
def test_both_ends_agree_with_a_dense_solver(case, seed, dtype):
    matrix = case.matrix(seed, dtype)
    exact = references.eigenvalues(matrix)

    found = ends(DenseOperator(matrix), generator=rng(seed), max_basis=60, tolerance=1e-6)

    atol = found.noise_floor + rounding(torch.float64, case.radius)
    for pairs, value in ((found.lowest, exact[0]), (found.highest, exact[-1])):
        assert bool(pairs.converged.all())
        assert abs(float(pairs.values[0]) - value) <= float(pairs.residuals[0]) + atol
    assert found.outcome in ("converged", "exhausted")
    assert found.products <= 60


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("case", SPECTRA, ids=str)
def test_intervals_hold_the_ends_and_pairs_are_true(case, seed, dtype):
    matrix = case.matrix(seed, dtype)
    exact = references.eigenvalues(matrix)

    found = ends(
        DenseOperator(matrix), generator=rng(seed + 100), lowest=3, highest=2, max_products=40
    )

    own = rounding(torch.float64, case.radius)  # of the reference
    assert found.lambda_min.low - own <= exact[0] <= found.lambda_min.high + own
    assert found.lambda_max.low - own <= exact[-1] <= found.lambda_max.high + own
    assert found.lambda_min.high_confidence == found.lambda_max.low_confidence == 1.0
    atol = found.noise_floor + rounding(dtype, case.radius)
    for pairs in (found.lowest, found.highest):
        true = references.residuals(matrix, pairs.values, pairs.vectors)
        assert np.allclose(true, pairs.residuals, rtol=1e-5, atol=atol)
        gram = pairs.vectors.double().T @ pairs.vectors.double()
        assert torch.allclose(
            gram, torch.eye(len(gram)).double(), atol=100 * torch.finfo(dtype).eps
        )


@pytest.mark.parametrize("case", SPECTRA, ids=str)
def test_a_basis_of_the_whole_space_makes_both_bounds_rigorous(case):
    matrix = case.matrix(0)
    exact = references.eigenvalues(matrix)

    found = ends(
        DenseOperator(matrix), generator=rng(0), lowest=30, highest=30, block=4, tolerance=0.0
    )

    assert found.outcome == "exhausted"
    if len(found.ritz_values) == len(exact):
        assert found.lambda_min.low_confidence == found.lambda_max.high_confidence == 1.0
        assert found.lambda_min.high - found.lambda_min.low <= 3 * found.noise_floor
    assert np.allclose(found.ritz_values[:3], exact[:3], atol=rounding(torch.float64, case.radius))
    assert np.allclose(found.lowest.values, exact[:30], atol=rounding(torch.float64, case.radius))
    assert np.allclose(
        found.highest.values, exact[:-31:-1], atol=rounding(torch.float64, case.radius)
    )


@pytest.mark.parametrize("case", [SADDLE, PLUS_MINUS, CLUSTERED, TINY_NEGATIVE], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_thick_restart_finds_the_same_ends(case, dtype):
    operator = case.operator(3, dtype)

    whole = ends(operator, generator=rng(0), max_basis=60, tolerance=1e-5)
    short = ends(operator, generator=rng(0), max_basis=16, tolerance=1e-5, max_products=2000)

    assert short.outcome == "converged"
    assert len(short.ritz_values) <= 16
    atol = 1e-5 * case.radius + 2 * whole.noise_floor
    assert abs(short.lambda_min.value - whole.lambda_min.value) <= atol
    assert abs(short.lambda_max.value - whole.lambda_max.value) <= atol
    true = references.residuals(operator.matrix, short.lowest.values, short.lowest.vectors)
    assert np.allclose(true, short.lowest.residuals, atol=short.noise_floor)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("block", [None, 1, 2, 3])
def test_a_repeated_eigenvalue_is_found_as_often_as_asked(seed, dtype, block):
    operator = REPEATED.operator(seed, dtype)

    found = ends(operator, generator=rng(seed), lowest=4, highest=4, block=block, tolerance=1e-4)

    expected = torch.tensor([-1.0, -1.0, -1.0, 0.0]).double()
    atol = 10 * found.noise_floor
    assert torch.allclose(found.lowest.values, expected, atol=atol, rtol=0)
    assert torch.allclose(found.highest.values, -2 * expected, atol=atol, rtol=0)


def test_one_start_sees_a_repeated_eigenvalue_once():  # the stated limit of block=1, pinned
    exact = torch.diag(torch.tensor(REPEATED.eigenvalues).double())  # repeated to the last bit

    found = ends(DenseOperator(exact), generator=rng(0))

    assert found.outcome == "exhausted"
    assert [round(x, 9) + 0.0 for x in found.ritz_values.tolist()] == [-1.0, 0.0, 2.0]
    assert (
        found.lambda_min.low > -1.001
    )  # yet the ends are known: the start has a part in every eigenspace


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_flat_operator_has_only_zeros(dtype):
    found = ends(FLAT.operator(0, dtype), generator=rng(0), lowest=2, highest=2)

    assert found.outcome == "exhausted"
    assert found.lambda_min.low == found.lambda_min.high == found.noise_floor == 0.0
    assert bool(found.lowest.converged.all())


@given(
    shift=st.floats(-5, 5),
    scale=st.sampled_from([1e-6, 0.5, 3.0, 1e6]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=15, deadline=None)
def test_shift_scale_and_rotation_carry_over(shift, scale, seed):
    A = SADDLE.matrix(1)
    Q = rotation(60, seed)
    moved = scale * (Q @ (A + shift * torch.eye(60).double()) @ Q.T)

    plain = ends(DenseOperator(A), generator=rng(seed), tolerance=1e-6, max_basis=60)
    found = ends(
        DenseOperator((moved + moved.T) / 2), generator=rng(seed), tolerance=1e-6, max_basis=60
    )

    atol = scale * 1e-5 * (3 + abs(shift))
    assert math.isclose(
        found.lambda_min.value, scale * (plain.lambda_min.value + shift), abs_tol=atol
    )
    assert math.isclose(
        found.lambda_max.value, scale * (plain.lambda_max.value + shift), abs_tol=atol
    )


def test_a_power_of_two_scales_everything_but_the_path():
    A = CLUSTERED.matrix(2)

    plain = ends(DenseOperator(A), generator=rng(5))
    scaled = ends(DenseOperator(1024 * A), generator=rng(5))

    assert scaled.products == plain.products
    assert torch.equal(scaled.ritz_values, 1024 * plain.ritz_values)
    assert scaled.noise_floor == 1024 * plain.noise_floor


def test_equal_seeds_give_equal_results():
    one, two = (ends(CLUSTERED.operator(0), generator=rng(7), lowest=2) for _ in range(2))

    assert torch.equal(one.lowest.vectors, two.lowest.vectors)
    assert one.lambda_min == two.lambda_min


@pytest.mark.parametrize("columns", [1, 2])
def test_a_warm_start_that_is_nearly_right_saves_products(columns):
    tight = Spectrum("tight", (-1.01, *torch.linspace(-1, 1, 299).tolist()))
    operator = tight.operator(0)
    exact = rotation(300, 0)[:, :columns]
    start = exact + 1e-5 * torch.randn(300, columns, generator=rng(1), dtype=torch.float64)

    cold = ends(operator, generator=rng(0), highest=0, tolerance=1e-3)
    warm = ends(operator, generator=rng(0), highest=0, tolerance=1e-3, start=start.squeeze())

    assert cold.outcome == warm.outcome == "converged"
    assert warm.products <= 0.6 * cold.products


@pytest.mark.parametrize("block", [1, 2])
def test_a_warm_start_that_knows_nothing_costs_hardly_more(block):
    spread = Spectrum("spread", tuple(torch.linspace(-1, 1, 200).pow(3).tolist()))
    useless = torch.randn(200, 6, generator=rng(1), dtype=torch.float64)

    def products(start):
        found = [
            ends(spread.operator(0), generator=rng(seed), start=start, block=block)
            for seed in SEEDS
        ]
        assert {each.outcome for each in found} == {"converged"}
        return sum(each.products for each in found)

    assert products(useless) <= 1.2 * products(None)


def test_a_warm_start_that_is_no_longer_the_lowest_does_not_blind():
    case = Spectrum("crossed", (-2.0, -1.0, *torch.linspace(0, 1, 58).tolist()))
    Q = rotation(60, 4)  # the basis that matrix(4) uses
    second = Q[:, 1]

    found = ends(case.operator(4), generator=rng(0), start=second, highest=0)

    assert math.isclose(found.lambda_min.value, -2.0, rel_tol=1e-3)


@pytest.mark.parametrize("start", [torch.zeros(60), torch.ones(60, 70)], ids=["zero", "dependent"])
def test_a_useless_warm_start_does_no_harm(start):
    found = ends(SADDLE.operator(0), generator=rng(0), start=start)

    assert math.isclose(found.lambda_min.value, -1.0, rel_tol=1e-3)


def no_start(_matrix):
    return None


def inner_start(matrix):
    """The worst a warm start can be: exact eigenvectors next to both ends, with no part in the ends themselves."""
    return torch.linalg.eigh(matrix).eigenvectors[:, [1, -2]]


def outer_start(matrix):
    """The best: the ends themselves."""
    return torch.linalg.eigh(matrix).eigenvectors[:, [0, -1]]


@pytest.mark.calibration
@pytest.mark.parametrize(("confidence", "allowed"), [(1 - 1e-6, 0), (0.8, 0.2)])
@pytest.mark.parametrize("block", [1, 2])
@pytest.mark.parametrize(
    "start_for", [no_start, inner_start, outer_start], ids=lambda f: f.__name__
)
def test_outer_bounds_fail_no_more_often_than_stated(confidence, allowed, block, start_for):
    trials, failures = 300, 0
    kinds = [SADDLE, PLUS_MINUS, CLUSTERED, STIFF]
    matrices = [case.matrix(seed) for case in kinds for seed in range(5)]
    starts = [start_for(matrix) for matrix in matrices]
    for seed in range(trials):
        case = kinds[seed % 20 // 5]
        found = ends(
            DenseOperator(matrices[seed % 20]),
            generator=rng(seed),
            block=block,
            start=starts[seed % 20],
            confidence=confidence,
            tolerance=0.0,
            max_products=block * (2 + seed % 9),
        )
        low, high = case.eigenvalues[0], case.eigenvalues[-1]
        inside = found.lambda_min.low <= low and high <= found.lambda_max.high
        failures += not inside
        assert found.lambda_min.high >= low - 1e-12 * case.radius
        assert found.lambda_max.low <= high + 1e-12 * case.radius

    assert failures <= allowed * trials  # the bound is conservative: no slack is needed


def test_a_start_that_hides_the_end_is_what_the_confidence_pays_for():
    """An adversary may not choose the start: one orthogonal to the lowest eigenvector never sees it."""
    case = Spectrum("hidden", (-1.0, *torch.linspace(0, 1, 59).tolist()))
    found = ends(case.operator(0), generator=rng(0), max_products=6, tolerance=0.0)

    assert found.lambda_min.low < -1.0 < found.lambda_min.high + 1.0
    assert 0 < found.lambda_min.low_confidence < 1


@pytest.mark.parametrize("nan_at", [1, 4])
def test_a_nan_product_is_refused_with_its_number(nan_at):
    with pytest.raises(NonFinite, match=f"product {nan_at} "):
        ends(Wrapped(SADDLE.matrix(0), nan_at=nan_at), generator=rng(0))


@pytest.mark.parametrize("block", [1, 2])
def test_an_interruption_keeps_the_best_so_far(block):
    matrix = CLUSTERED.matrix(0)
    cut = ends(Wrapped(matrix, interrupt_at=9), generator=rng(0), block=block, tolerance=0.0)
    short = ends(
        DenseOperator(matrix), generator=rng(0), block=block, tolerance=0.0, max_products=8
    )

    assert cut.outcome == "interrupted"
    assert cut.products == 8
    assert torch.equal(cut.ritz_values, short.ritz_values)


def test_an_interruption_before_anything_is_known_is_passed_on():
    with pytest.raises(KeyboardInterrupt):
        ends(Wrapped(SADDLE.matrix(0), interrupt_at=1), generator=rng(0))


@pytest.mark.parametrize("budget", [1, 2, 3, 7])
@pytest.mark.parametrize("block", [1, 2, 3])
def test_the_budget_is_kept(budget, block):
    operator = Wrapped(STIFF.matrix(0))

    found = ends(operator, generator=rng(0), block=block, max_products=budget, lowest=2)

    assert found.products == operator.products == budget
    assert found.outcome == "budget"


def test_stop_ends_the_search_and_progress_sees_every_expansion():
    seen = []

    found = ends(
        SADDLE.operator(0),
        generator=rng(0),
        stop=lambda now: float(now.lowest_values[0]) < -now.noise_floor,
        progress=lambda done, most: seen.append((done, most)),
        tolerance=0.0,
    )

    assert found.outcome == "stopped"
    assert found.lambda_min.high < 0
    assert seen == [(k, 240) for k in range(1, found.products + 1)]


def test_asymmetry_is_measured():
    A = SADDLE.matrix(0)
    A[3, 5] += 0.1

    found = ends(DenseOperator(A), generator=rng(0), tolerance=0.0, max_products=30)

    assert 1e-4 < found.asymmetry < 0.1
    assert found.noise_floor > found.asymmetry


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_smallest_operators_work(dim, dtype):
    operator = DenseOperator(torch.diag(torch.arange(dim, dtype=dtype) - 1))

    found = ends(operator, generator=rng(0), lowest=2, highest=2)

    assert found.outcome == "exhausted"
    assert math.isclose(found.lambda_min.value, -1.0, abs_tol=found.noise_floor)
    assert math.isclose(found.lambda_max.value, dim - 2.0, abs_tol=found.noise_floor)
    assert len(found.lowest.values) == min(2, dim)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lowest": 0, "highest": 0}, "at least one"),
        ({"lowest": -1}, "counts"),
        ({"block": 0}, "block"),
        ({"max_products": 0}, "max_products"),
        ({"max_basis": 0}, "max_basis"),
        ({"confidence": 1.0}, "confidence"),
        ({"tolerance": -1.0}, "tolerance"),
        ({"start": torch.ones(3)}, "start has shape"),
    ],
    ids=str,
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ends(SADDLE.operator(0), generator=rng(0), **arguments)


def test_half_precision_is_refused():
    with pytest.raises(ValueError, match="float32"):
        ends(DenseOperator(torch.eye(3, dtype=torch.bfloat16)), generator=rng(0))


def test_a_start_that_is_not_finite_is_refused():
    with pytest.raises(NonFinite, match="start"):
        ends(SADDLE.operator(0), generator=rng(0), start=torch.full((60,), math.inf))


def test_the_record_tells_its_story():
    told = str(ends(SADDLE.operator(0), generator=rng(0), max_products=3))

    assert told.startswith("Eigenvalues from")
    assert "budget" in told
    assert "3 operator products" in told
