"""What is counted on the gallery: the right cause first, among two, false alarms, and how sure that is."""

from dataclasses import replace
from math import inf

import pytest
from scipy.optimize import brentq

from unstick.diagnosis.cause import FAMILIES, HEALTHY, Cause
from unstick.errors import BadRecipe
from unstick.studies.gallery import STAGES, all_healthy, all_stalls, measuring
from unstick.studies.gallery.measuring import Case, GalleryResult, measure_gallery, wilson
from unstick.studies.gallery.unsticking import Unsticking

QUICK = "two-scalars"


UNSTUCK = Unsticking("rate × 10", 2.0, 1.0, 1.0, 2.0, inf, 90.0, 100.0, 5)


def case(*found, accepted=(Cause.STRICT_SADDLE,), stage="stalled", gradients=10.0, name="one"):
    return Case(name, 0, stage, accepted, found, gradients)


def healthy(*found, **named):
    return case(*found, accepted=HEALTHY, stage="late", **named)


def result(stalls=(), fine=(), unstuck=()):
    return GalleryResult(tuple(stalls), tuple(fine), tuple(unstuck), "complete", 2.0)


def told(record, label):
    return [text for name, text in record.facts() if name == label]


@pytest.mark.parametrize(("hits", "total"), [(0, 1), (1, 1), (0, 40), (3, 40), (20, 40), (40, 40)])
def test_the_interval_ends_where_the_share_is_two_standard_errors_off(hits, total):
    def off(p):
        return (hits / total - p) ** 2 - 1.96**2 * p * (1 - p) / total

    share = hits / total
    low = 0.0 if hits == 0 else brentq(off, 1e-12, share - 1e-9 if hits == total else share)
    high = 1.0 if hits == total else brentq(off, share if hits else 1e-9, 1 - 1e-12)
    assert wilson(hits, total) == pytest.approx((low, high), abs=1e-6)


@pytest.mark.parametrize(
    ("found", "right", "near"),
    [
        ((Cause.STRICT_SADDLE,), True, True),
        ((Cause.DEAD_UNITS, Cause.STRICT_SADDLE), False, True),
        ((Cause.DEAD_UNITS, Cause.MODEL_FLOOR, Cause.STRICT_SADDLE), False, False),
        ((Cause.UNDECIDED,), False, False),
        ((), False, False),
    ],
)
def test_the_first_cause_is_right_and_the_second_near(found, right, near):
    assert (case(*found).right, case(*found).near) == (right, near)


@pytest.mark.parametrize("cause", Cause)
def test_an_alarm_is_a_stall_that_was_named(cause):
    named = cause not in (*FAMILIES["nothing wrong"], *FAMILIES["honest"])

    assert healthy(cause, Cause.DEAD_UNITS).alarm == named
    assert not healthy(cause).near or cause in HEALTHY


def test_every_accepted_answer_is_right():
    either = (Cause.STRICT_SADDLE, Cause.SYMMETRIC_UNITS)

    assert all(case(cause, accepted=either).right for cause in either)


def test_shares_are_counted_over_what_they_are_of():
    stalls = [case(Cause.STRICT_SADDLE)] * 3
    stalls += [case(Cause.DEAD_UNITS, Cause.STRICT_SADDLE, gradients=50.0)] * 2
    fine = [healthy(Cause.PROGRESSING)] * 6 + [healthy(Cause.UNDECIDED), healthy(Cause.DEAD_UNITS)]
    record = result(stalls, fine)

    assert record.headline() == (
        "The right cause first in 3 of 5 stalls, 1 false alarms on 8 healthy trainings."
    )
    assert told(record, "right first")[0].startswith("3 of 5 (60.0%; ")
    assert told(record, "among two")[0].startswith("5 of 5 (100.0%; ")
    assert told(record, "always the same")[0].startswith("strict-saddle: 5 of 5")
    assert told(record, "false alarms")[0].startswith("1 of 8 (12.5%; ")
    assert told(record, "undecided")[0].startswith("1 of 8")
    assert told(record, "gradients")[0].startswith("10 in the median stall")
    assert told(record, "confused") == ["strict-saddle taken for dead-units, 2 times"]
    assert told(record, "alarm") == ["one, late, seed 0: dead-units"]


def test_what_remedies_reached_is_counted_over_the_stalls_with_a_repair():
    stuck = replace(UNSTUCK, remedied=inf, constant=1.1, at_random=0.5, gradients=110.0)
    found = [UNSTUCK, UNSTUCK, stuck, None]
    stalls = [replace(case(Cause.STRICT_SADDLE), unsticking=one) for one in found]
    record = result(stalls)

    assert told(record, "unstuck by the best trial")[0].startswith("2 of 3 (66.7%; ")
    assert told(record, "by one constant answer")[0].startswith("1 of 3")
    assert told(record, "by the best of random ones")[0].startswith("1 of 3")
    assert told(record, "trials took") == ["90 gradients in the median stall"]
    assert told(record, "over their budget") == ["1 of 3"]
    assert not told(result(stalls[3:]), "over their budget")


def test_the_rule_that_always_says_the_same_is_told_beside():
    stalls = [case(Cause.DEAD_UNITS, accepted=(Cause.DEAD_UNITS,))]
    stalls += [case(Cause.STRICT_SADDLE)] * 3

    assert told(result(stalls), "always the same")[0].startswith("strict-saddle: 3 of 4 (75.0%")


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (result(), "Nothing was diagnosed."),
        (result([case(Cause.DEAD_UNITS)]), "The right cause first in 0 of 1 stalls."),
        (result(fine=[healthy(Cause.PROGRESSING)]), "0 false alarms on 1 healthy trainings."),
    ],
)
def test_what_there_is_none_of_is_not_counted(record, said):
    assert record.headline() == said
    assert told(record, "took") == ["2 s"]


def test_a_named_stall_is_trained_and_diagnosed_for_each_seed():
    calls = []
    record = measure_gallery(
        seeds=(0, 1), names=(QUICK,), healthy=False, progress=lambda *told: calls.append(told)
    )

    assert [(c.name, c.seed, c.stage) for c in record.stalls] == [
        (QUICK, 0, "stalled"),
        (QUICK, 1, "stalled"),
    ]
    assert all(c.right for c in record.stalls)
    assert all(0 < c.gradients < inf for c in record.stalls)
    assert record.healthy == record.did_not_stall == ()
    assert record.outcome == "complete"
    assert calls == [("trainings", 0, 2), ("trainings", 1, 2)]


def test_healthy_trainings_are_diagnosed_at_every_stage():
    record = measure_gallery(names=(f"{QUICK}-repaired",))

    assert record.stalls == ()
    assert [c.stage for c in record.healthy] == list(STAGES)
    assert all(c.accepted == HEALTHY for c in record.healthy)
    assert not any(c.alarm for c in record.healthy)


def test_the_same_seeds_find_the_same():
    first, second = (measure_gallery(names=(QUICK,), healthy=False) for _ in range(2))

    assert first.stalls == second.stalls


def test_a_training_that_is_refused_is_diagnosed_by_that():
    (found,) = measure_gallery(names=("relu-probabilities",), healthy=False).stalls

    assert found.found == (Cause.NON_FINITE,)
    assert found.gradients == 0


def test_a_seed_that_does_not_stall_is_named_and_not_counted(monkeypatch):
    (stall,) = (s for s in all_stalls() if s.name == QUICK)
    monkeypatch.setattr(type(stall), "stalls", lambda self, run: False)
    record = measure_gallery(names=(QUICK,), seeds=(3,), healthy=False)

    assert record.stalls == ()
    assert record.did_not_stall == (f"{QUICK}, seed 3",)
    assert told(record, "did not stall") == [f"{QUICK}, seed 3"]


def test_an_interruption_keeps_what_was_found():
    def press(stage, done, total):
        if done == 1:
            raise KeyboardInterrupt

    record = measure_gallery(names=(QUICK,), seeds=(0, 1, 2), progress=press)

    assert record.outcome == "interrupted"
    assert [c.seed for c in record.stalls] == [0]


@pytest.mark.parametrize("names", [("nothing-like-it",), ("", "x" * 99)[1:]])
def test_a_name_of_nothing_is_refused_with_those_that_there_are(names):
    with pytest.raises(BadRecipe, match=f"no training is called {names[0]}.*{QUICK}"):
        measure_gallery(names=names)


def test_a_name_that_only_a_healthy_training_has_is_refused_without_those():
    name = all_healthy()[0].name

    with pytest.raises(BadRecipe, match=name):
        measure_gallery(names=(name,), healthy=False)


def test_a_stall_is_chosen_by_a_part_of_its_name(monkeypatch):
    asked = []
    monkeypatch.setattr(measuring, "_stalled", lambda stall, *how: asked.append((stall.name, *how)))
    measure_gallery(names=("saddle-of-nothing", "scalars"), healthy=False, trials=True)

    names = ("two-scalars", "five-scalars", "five-scalars-at-zero")
    assert asked == [(name, 0, True) for name in names]
