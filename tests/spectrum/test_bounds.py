"""Laws of the probable bounds beyond the outermost Ritz values."""

import math

import pytest
import torch

from cases_spectra import PLUS_MINUS, SADDLE, STIFF, Spectrum, rng, rotation
from unstick.spectrum.bounds import a_priori_margin, reach
from unstick.spectrum.krylov import Krylov


def margins(case, failure, steps, block=1):
    space = Krylov(case.operator(0), generator=rng(0), block=block)
    for _ in range(steps):
        space.expand()
    ritz = space.ritz()
    bounds = reach(space, ritz, failure=failure)
    return float(ritz.values[0]) - bounds.low, bounds.high - float(ritz.values[-1])


def test_the_margin_by_steps_matches_the_published_example():
    # dim 10⁴, ε = 10⁻³, failure 10⁻⁶: about 300 products
    needed = next(
        k for k in range(1, 1000) if a_priori_margin(10_000, steps=k, starts=1, failure=1e-6) < 1e-3
    )

    assert 295 <= needed <= 310


@pytest.mark.parametrize("case", [SADDLE, PLUS_MINUS, STIFF], ids=str)
def test_more_steps_and_more_risk_both_tighten(case):
    few, many = margins(case, 1e-6, 10), margins(case, 1e-6, 30)
    risky = margins(case, 1e-2, 10)

    assert all(a > b >= 0 for a, b in zip(few, many, strict=True))
    assert all(a > b >= 0 for a, b in zip(few, risky, strict=True))


def test_the_measured_margin_is_much_tighter_where_the_end_stands_apart():
    relative = a_priori_margin(60, steps=20, starts=1, failure=2.5e-7)
    below, _ = margins(SADDLE, 1e-6, 20)

    assert below < 1e-3 * relative * 4.0


def test_two_starts_must_fail_together():
    assert a_priori_margin(100, steps=20, starts=2, failure=1e-6) < a_priori_margin(
        100, steps=20, starts=1, failure=1e-6
    )


@pytest.mark.calibration
@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("block", [1, 2])
def test_a_warm_start_orthogonal_to_the_end_keeps_the_probability(block, steps):
    """The warm part holds exact eigenvectors only, so it hides the lowest one as well as any start can."""
    dim, failure, trials = 40, 0.2, 400
    apart = Spectrum("apart", (-1.0, *torch.linspace(0, 1, dim - 1).tolist()))
    hidden = rotation(dim, 0)[:, 1:3]  # the basis that operator(0) uses; column 0 is the lowest
    missed = 0
    for seed in range(trials):
        space = Krylov(apart.operator(0), generator=rng(seed), block=block, warm=hidden)
        for _ in range(steps):
            space.expand()
        missed += reach(space, space.ritz(), failure=failure).low > -1.0

    assert missed <= failure / 2 * trials  # the lower end has half of the failure


def test_the_mean_of_a_start_widens_the_margin_by_its_length_only():
    cold, warm = (
        a_priori_margin(square, steps=40, starts=1, failure=1e-6) for square in (10_000, 20_000)
    )

    assert cold < warm < 1.1 * cold


def test_nothing_is_claimed_before_the_starts_are_multiplied_or_after_a_restart():
    space = Krylov(SADDLE.operator(0), generator=rng(0), block=2)
    space.expand(1)
    early = reach(space, space.ritz(), failure=0.1)
    for _ in range(4):
        space.expand()
    space.restart(space.ritz().coordinates[:, :2])
    late = reach(space, space.ritz(), failure=0.1)

    assert (early.low, early.high) == (late.low, late.high) == (-math.inf, math.inf)
