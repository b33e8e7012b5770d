"""Laws of the probable bounds beyond the outermost Ritz values."""

import math

import pytest

from cases_spectra import PLUS_MINUS, SADDLE, STIFF, rng
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


def test_nothing_is_claimed_before_the_starts_are_multiplied_or_after_a_restart():
    space = Krylov(SADDLE.operator(0), generator=rng(0), block=2)
    space.expand(1)
    early = reach(space, space.ritz(), failure=0.1)
    for _ in range(4):
        space.expand()
    space.restart(space.ritz().coordinates[:, :2])
    late = reach(space, space.ritz(), failure=0.1)

    assert (early.low, early.high) == (late.low, late.high) == (-math.inf, math.inf)
