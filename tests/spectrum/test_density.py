"""Laws of spectral densities."""

import math

import pytest
import torch

import references
from cases_spectra import (
    CLUSTERED,
    DTYPES,
    FLAT,
    REPEATED,
    SADDLE,
    SPECTRA,
    STIFF,
    Spectrum,
    Wrapped,
    rng,
)
from unstick.errors import NonFinite
from unstick.spectrum.density import density
from unstick.spectrum.operator import DenseOperator


def mass(found):
    return float(found.density.sum() * (found.grid[1] - found.grid[0]))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", SPECTRA, ids=str)
@pytest.mark.parametrize("width", [None, 1e-4])
def test_a_density_integrates_to_one_and_is_nowhere_negative(case, dtype, width):
    found = density(case.operator(0, dtype), generator=rng(0), starts=2, steps=15, width=width)

    assert math.isclose(mass(found), 1.0, rel_tol=1e-6)
    assert bool((found.density >= 0).all())
    assert len(found.grid) == len(found.standard_error) == 400


@pytest.mark.calibration
def test_a_density_matches_the_smoothed_eigenvalues_within_its_standard_error():
    # a semicircle of 400 eigenvalues and two outliers
    x = torch.linspace(-0.999, 0.999, 398, dtype=torch.float64)
    bulk = torch.sin(x * math.pi / 2)
    case = Spectrum("bulk", (-3.0, *bulk.tolist(), 4.0))
    found = density(case.operator(0), generator=rng(0), starts=20, steps=80, width=0.1)

    exact = torch.as_tensor(references.smoothed_density(case.eigenvalues, found.grid, 0.1))

    difference = (found.density - exact).abs()
    assert float(difference.max()) < 0.1 * float(exact.max())
    seen = exact > 0.02 * exact.max()
    within = difference[seen] <= 2 * found.standard_error[seen] + 0.01 * exact.max()
    assert float(within.double().mean()) > 0.85


def test_shares_of_repeated_eigenvalues_are_recovered():
    found = density(REPEATED.operator(0), generator=rng(0), starts=40, steps=5, width=0.05)

    spacing = found.grid[1] - found.grid[0]
    near_zero = float(found.density[found.grid.abs() < 0.5].sum() * spacing)
    assert near_zero == pytest.approx(54 / 60, abs=0.05)


def test_nothing_negative_is_invented_for_a_semidefinite_operator():
    A = torch.randn(60, 5, generator=rng(0))
    found = density(DenseOperator(A @ A.T), generator=rng(0), width=1e-3)

    below = found.grid < -6 * found.width - found.noise_floor
    assert float(found.density[below].sum()) == pytest.approx(0.0, abs=1e-6)


def test_the_default_width_is_a_hundredth_of_the_range():
    found = density(SADDLE.operator(0), generator=rng(0))

    assert found.width == pytest.approx(0.04, rel=1e-3)
    assert found.grid[0] < -1.0
    assert found.grid[-1] > 3.0


def test_a_flat_operator_is_one_peak_at_zero():
    found = density(FLAT.operator(0), generator=rng(0))

    assert found.products == 8
    assert abs(float(found.grid @ found.density) / float(found.density.sum())) < 1e-10


@pytest.mark.parametrize("interrupt_at", [2, 11, 25])
def test_an_interruption_keeps_the_best_so_far(interrupt_at):
    operator = Wrapped(CLUSTERED.matrix(0), interrupt_at=interrupt_at)

    found = density(operator, generator=rng(0), starts=5, steps=10)

    assert found.outcome == "interrupted"
    assert found.starts == max(1, (interrupt_at - 1) // 10)
    assert found.products == interrupt_at - 1
    assert math.isclose(mass(found), 1.0, rel_tol=1e-6)
    assert bool(found.standard_error.isnan().all()) == (found.starts == 1)
    assert "interrupted" in str(found)


def test_an_interruption_before_anything_is_known_is_passed_on():
    with pytest.raises(KeyboardInterrupt):
        density(Wrapped(SADDLE.matrix(0), interrupt_at=1), generator=rng(0))


def test_progress_counts_every_product():
    seen = []

    density(
        STIFF.operator(0),
        generator=rng(0),
        starts=2,
        steps=3,
        progress=lambda *now: seen.append(now),
    )

    assert seen == [(k, 6) for k in range(1, 7)]


def test_unusable_arguments_and_products_are_refused():
    operator = SADDLE.operator(0)
    with pytest.raises(ValueError, match="starts=1"):
        density(operator, generator=rng(0), starts=1)
    with pytest.raises(ValueError, match="width"):
        density(operator, generator=rng(0), width=0.0)
    with pytest.raises(NonFinite, match="product 2 "):
        density(Wrapped(SADDLE.matrix(0), nan_at=2), generator=rng(0))
