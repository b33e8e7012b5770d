"""Trials say something about the causes where none was found, or a floor was: no more than what moved the training shows."""

import math
from dataclasses import replace

import pytest

from report.examples import evidence, point, trial
from unstick.critical.point import Kind
from unstick.diagnosis.cause import HEALTHY, Cause
from unstick.diagnosis.confirming import MOVES, REFUTES, STRENGTH, confirmed
from unstick.diagnosis.rules import Support
from unstick.diagnosis.trials import Tested as Tried  # pytest takes Test… for tests

BEFORE, LEVEL = 2.302, math.log(10)
FLOOR = Support(Cause.MODEL_FLOOR, 0.55, ("nothing gained",))
OPEN = Support(Cause.UNDECIDED, 0.0, ("no rule fits",))
DEAD = Support(Cause.DEAD_UNITS, 0.45, ("half of them",))
NEARLY = REFUTES * LEVEL


def tried(key, gain, *, helped=True):
    return trial(key, ends=(BEFORE - gain,) * 3, helped=helped)


def after(*trials, causes=(FLOOR,), kind=Kind.NOT_CRITICAL):
    shown = replace(evidence(), point=replace(point(), kind=kind))
    return confirmed(causes, Tried(trials, (), None, "complete"), shown)


def named(told):
    return [(one.cause, one.strength) for one in told]


@pytest.mark.parametrize("causes", [(FLOOR,), (OPEN,), (FLOOR, DEAD)], ids=len)
@pytest.mark.parametrize(
    "trials",
    [
        (),
        (tried("rate × 10", 1.0, helped=False),),
        (tried("rate × 10", 0.9 * NEARLY),),
        (tried("rate × 10", -1.0), tried("new start", math.nan)),
    ],
    ids=["nothing was tried", "by chance", "by too little", "upward"],
)
def test_what_no_remedy_moved_stands_as_it_was(causes, trials):
    assert after(*trials, causes=causes) == causes


@pytest.mark.parametrize("first", sorted(set(Cause) - {Cause.MODEL_FLOOR, Cause.UNDECIDED}))
def test_a_cause_that_was_found_is_left_alone(first):
    causes = (Support(first, 0.9, ("measured",)), FLOOR)

    assert after(tried("rate × 10", 2.0), causes=causes) == causes


@pytest.mark.parametrize("first", [FLOOR, OPEN], ids=["floor", "open"])
@pytest.mark.parametrize("key", MOVES)
def test_a_single_change_that_moved_it_names_its_cause(first, key):
    told = after(tried(key, 1.1 * NEARLY), causes=(first,), kind=Kind.UNDECIDED)

    assert named(told) == [(MOVES[key], STRENGTH)]
    assert "this alone moved it" in told[0].reasons[0]


def test_each_remedy_that_changes_one_thing_has_a_cause_that_is_a_stall():
    assert not {*HEALTHY, Cause.UNDECIDED} & set(MOVES.values())


def test_of_several_single_changes_the_one_that_gained_most_names_it():
    told = after(tried("momentum 0.9", 0.4), tried("rate × 100", 0.9), tried("escape", 0.2))

    assert named(told) == [(Cause.LEARNING_RATE_TOO_SMALL, STRENGTH)]
    assert "rate × 100" in told[0].reasons[0]


def test_a_single_change_is_heard_beside_a_joined_one_that_gained_more():
    told = after(tried("rate × 10 & batch × 16", 1.5), tried("rate × 10", 0.5))

    assert named(told) == [(Cause.LEARNING_RATE_TOO_SMALL, STRENGTH)]


@pytest.mark.parametrize("key", ["rate × 10 & batch × 16", "standardized", "Adam 0.01", "repair"])
def test_what_changes_several_things_at_once_refutes_a_floor_and_names_nothing(key):
    told = after(tried(key, 1.0))

    assert named(told) == [(Cause.UNDECIDED, 0.0)]
    assert key in told[0].reasons[0]
    assert "to 1.302" in told[0].reasons[0]


@pytest.mark.parametrize("key", ["new start", "best start"])
def test_that_a_restart_helps_makes_a_local_minimum_only_of_a_critical_point(key):
    away, there = (
        after(tried(key, 1.0), kind=kind) for kind in (Kind.NOT_CRITICAL, Kind.DEGENERATE)
    )

    assert named(away) == [(Cause.UNDECIDED, 0.0)]
    assert named(there) == [(Cause.LOCAL_MINIMUM, STRENGTH)]


def test_a_smaller_gain_than_that_of_a_restart_names_nothing_away_from_a_critical_point():
    told = after(tried("new start", 1.0), tried("rate × 10", 0.5))

    assert named(told) == [(Cause.UNDECIDED, 0.0)]


def test_a_refuted_floor_gives_way_to_what_else_was_seen():
    told = after(tried("several", 1.0), causes=(FLOOR, DEAD))

    assert told == (DEAD,)


@pytest.mark.parametrize(("strength", "first"), [(0.45, 0), (0.85, 1)])
def test_what_else_was_seen_is_ranked_by_strength_beside_what_moved_it(strength, first):
    seen = replace(DEAD, strength=strength)
    told = after(tried("rate × 10", 1.0), causes=(FLOOR, seen, OPEN))

    assert [one.cause for one in told][first] == Cause.LEARNING_RATE_TOO_SMALL
    assert seen in told
    assert len(told) == 2


def test_a_cause_that_was_doubted_and_is_named_stands_there_once():
    doubted = Support(Cause.LEARNING_RATE_TOO_SMALL, 0.5, ("it fits",))
    told = after(tried("rate × 10", 1.0), causes=(FLOOR, doubted))

    assert named(told) == [(Cause.LEARNING_RATE_TOO_SMALL, STRENGTH)]
