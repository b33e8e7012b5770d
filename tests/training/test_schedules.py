"""The multiplier of every schedule, against its closed form."""

import math

import pytest

from unstick.errors import BadRecipe
from unstick.training.schedules import SCHEDULES, Pace, scaled_rate

FORMS = {
    "constant": lambda _t: 1.0,
    "step": lambda t: 0.5 ** (t // 7),
    "exponential": lambda t: 0.5 ** (t / 7),
    "cosine": lambda t: 0.1 + 0.9 * (1 + math.cos(math.pi * t / 50)) / 2,
    "inverse-sqrt": lambda t: 1 / math.sqrt(t + 1),
}


def made(kind, *, warmup=0, **more):
    return Pace(kind, updates=50 + warmup, warmup=warmup, every=7, factor=0.5, floor=0.1, **more)


def walk(pace, updates):
    seen = []
    for _ in range(updates):
        seen.append(pace.multiplier)
        pace.advance()
    return seen


@pytest.mark.parametrize("warmup", [0, 1, 2, 9])
@pytest.mark.parametrize("kind", FORMS)
def test_a_schedule_is_its_formula_after_a_warm_up_by_equal_steps(kind, warmup):
    expected = [(t + 1) / warmup for t in range(warmup)] + [FORMS[kind](t) for t in range(50)]

    seen = walk(made(kind, warmup=warmup), 50 + warmup)

    assert seen == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_the_first_update_of_a_warm_up_moves():
    assert made("constant", warmup=10).multiplier == pytest.approx(0.1)


def test_a_gradual_warm_up_starts_from_the_old_rate():
    seen = walk(Pace(warmup=5, warmup_from=0.25), 6)

    assert seen == pytest.approx([0.4, 0.55, 0.7, 0.85, 1.0, 1.0])


def test_a_plateau_lowers_the_rate_after_patience_and_never_on_a_steady_descent():
    stuck, falling = (Pace("plateau", factor=0.5, patience=2) for _ in range(2))
    for epoch in range(8):
        stuck.after_epoch(1.0)
        falling.after_epoch(0.9**epoch)

    assert (
        stuck.multiplier == 0.25
    )  # the first epoch is the best; then two times three without a better one
    assert falling.multiplier == 1.0


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("stop", [0, 3, 20])
def test_a_schedule_goes_on_exactly_where_it_was(kind, stop):
    whole, before, after = (made(kind, warmup=5, patience=1) for _ in range(3))

    def go(pace, updates):
        seen = []
        for _ in range(updates):
            seen.append(pace.multiplier)
            pace.advance()
            pace.after_epoch(1.0)
        return seen

    expected = go(whole, 40)
    first = go(before, stop)
    after.load_state_dict(before.state_dict())

    assert first + go(after, 40 - stop) == expected


def test_only_a_schedule_that_is_over_is_constant():
    pace = Pace(warmup=2)
    assert not pace.constant
    pace.advance()
    pace.advance()

    assert pace.constant
    assert pace.multiplier == 1.0


def test_rates_grow_with_the_batch():
    assert scaled_rate(0.1, 512, base=128) == pytest.approx(0.4)
    assert scaled_rate(0.1, 512, base=128, how="sqrt") == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"schedule": "linear"}, "expected one of constant"),
        ({"schedule": "cosine"}, "needs the number of updates"),
        ({"warmup": -1}, "warmup is -1; expected at least 0"),
        ({"schedule": "step", "factor": 1.5}, "factor is 1.5; expected 0 to 1"),
    ],
)
def test_what_is_out_of_range_is_refused(given, said):
    with pytest.raises(BadRecipe, match=said):
        Pace(**given)
