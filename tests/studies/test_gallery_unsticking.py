"""A remedy is judged where training ends, beside the documented repair, a constant answer, and remedies drawn at random."""

import math
from dataclasses import replace
from functools import cache

import pytest
import torch

from unstick.diagnosis.diagnosing import diagnose
from unstick.studies.gallery import all_stalls
from unstick.studies.gallery.measuring import measure_gallery
from unstick.studies.gallery.unsticking import NEAR, Unsticking, unstick_stall

QUICK, FOR_GOOD = "banana-valley", "line-for-circles"
INF, NAN = math.inf, math.nan
REACHED = Unsticking(
    remedy="rate × 10",
    stalled=2.0,
    repaired=1.0,
    remedied=1.1,
    constant=2.0,
    at_random=INF,
    gradients=90.0,
    allowed=100.0,
    tried=5,
)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def stall(name):
    return next(each for each in all_stalls() if each.name == name)


@cache
def stalled(name):
    """A run, its diagnosis with trials, and its parameters before."""
    run = stall(name).start(0)
    before = run.problem.parameters().clone()
    told = diagnose(run.problem, run.optimizer, history=run.history, pictures=False)
    return run, told, before


@cache
def unstuck():
    run, told, _ = stalled(QUICK)
    return unstick_stall(stall(QUICK), run, told, seed=0)


@pytest.mark.parametrize(
    ("remedied", "near"),
    [
        (1.0 + 0.99 * NEAR, True),
        (1.0 + 1.01 * NEAR, False),
        (0.0, True),  # better than documented
        (2.0, False),
        (INF, False),
        (NAN, False),
        (-INF, False),
    ],
)
def test_near_is_a_fifth_of_the_way_from_the_stall_to_the_repair(remedied, near):
    assert replace(REACHED, remedied=remedied).unstuck == near
    assert REACHED.near(remedied) == near


def test_the_best_remedy_of_a_long_valley_ends_where_the_repair_does():
    found, (run, told, _) = unstuck(), stalled(QUICK)

    assert found.remedy == told.remedy.remedy
    assert found.unstuck
    assert found.stalled == run.problem.value()
    assert found.repaired == stall(QUICK).repair(0)
    assert found.remedied < 0.01 * found.stalled
    assert found.tried == len(told.trials) > 2


def test_the_trials_and_restarts_keep_to_what_they_may_take():
    found, (_, told, _) = unstuck(), stalled(QUICK)

    assert found.gradients == told.trials_cost.gradients + told.evidence.restart_gradients
    assert 0 < found.gradients <= found.allowed
    assert found.allowed == 3 * stall(QUICK).training.updates


def test_what_asks_nothing_is_no_remedy_that_was_chosen():
    """The constant answer starts anew, and a random remedy is another draw: each ends somewhere of its own."""
    found = unstuck()

    assert math.isfinite(found.constant)
    assert found.constant != found.remedied
    assert found.at_random >= 0


def test_the_stalled_run_is_left_as_it_was():
    run, _, before = stalled(QUICK)
    optimizer = [group["lr"] for group in run.optimizer.param_groups]
    unstuck()

    assert torch.equal(run.problem.parameters(), before)
    assert [group["lr"] for group in run.optimizer.param_groups] == optimizer
    assert all(p.grad is None or p.grad.isfinite().all() for p in run.problem.model.parameters())


def test_the_same_seed_ends_at_the_same():
    run, told, _ = stalled(QUICK)

    assert unstick_stall(stall(QUICK), run, told, seed=0) == unstuck()


def test_where_no_remedy_helped_the_loss_is_as_far_as_can_be():
    run, told, _ = stalled(QUICK)
    found = unstick_stall(stall(QUICK), run, replace(told, trials=()), seed=0)

    assert (found.remedy, found.tried) == ("", 0)
    assert found.remedied == found.at_random == INF
    assert not found.unstuck
    assert found.constant == unstuck().constant


def test_a_floor_of_the_model_has_no_repair_to_compare_with():
    run, told, _ = stalled(FOR_GOOD)

    assert unstick_stall(stall(FOR_GOOD), run, told, seed=0) is None


def test_a_gallery_with_trials_tells_how_many_were_unstuck():
    record = measure_gallery(names=(QUICK, FOR_GOOD), healthy=False, trials=True)
    facts = dict(record.facts())

    by_name = {case.name: case.unsticking for case in record.stalls}
    assert by_name[FOR_GOOD] is None
    assert by_name[QUICK].unstuck
    assert facts["unstuck by the best trial"].startswith("1 of 1")
    assert facts["by one constant answer"].startswith("1 of 1")
    assert facts["over their budget"] == "0 of 1"
    assert "by the best of random ones" in facts


def test_a_gallery_without_trials_says_nothing_of_remedies():
    record = measure_gallery(names=(QUICK,), healthy=False)

    assert record.stalls[0].unsticking is None
    assert not any("unstuck" in label for label, _ in record.facts())
