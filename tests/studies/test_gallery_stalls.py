"""The stalls of the gallery really stall, at the losses that were published or follow by algebra; their repairs help."""

import random
from functools import cache

import numpy as np
import pytest
import torch
from torch.nn import functional

from unstick.diagnosis.cause import Cause
from unstick.errors import NonFinite
from unstick.studies.gallery import all_stalls
from unstick.studies.gallery.stall import DIVERGED
from unstick.studies.gallery.training import Descent

pytestmark = pytest.mark.slow

STALLS = {stall.name: stall for stall in all_stalls()}
REFUSED = ("exponential-activation", "relu-probabilities")
LEVELS = {  # loss of all data at the stall, and how far off it may be
    "zero-start": (2.303, 0.002),  # log 10
    "exclusive-or": (0.496, 0.01),
    "two-scalars": (1.0, 1e-9),
    "five-scalars": (1.0, 1e-3),
    "five-scalars-at-zero": (1.0, 1e-9),
    "false-frequency": (0.943, 0.01),
    "line-for-circles": (0.693, 0.002),  # log 2
    "stiff-regression": (1.47, 0.2),
    "random-labels": (2.15, 0.1),
    "banana-valley": (2.71, 0.01),
    "one-label": (1e-4, 1e-3),
    "dead-relu-circle": (0.693, 0.002),
    "vanishing-sigmoid-circle": (0.693, 0.002),
    "softmax-of-one": (8.0, 0.1),  # half the samples at −log 1e-7
    "softmax-regression": (7.2e7, 3e6),
    "dead-output": (1.4e3, 50),
    "frozen-zero-head": (2.303, 0.002),
    "saturated-tanh": (0.83, 0.25),
    "alike-units": (1.53, 0.1),
    "raw-quartic": (1.1e15, 5e13),  # 100⁸/9
    "raw-pixels": (3.5, 1.5),
    "starved-pixels": (2.302, 0.005),
    "softmax-twice": (2.15, 0.1),
    "three-faults": (2.1, 0.25),
    "one-sample-batches": (0.92, 0.3),
    "parabola-blow-up": (1.4e3, 50),
    "rate-5": (2.35, 0.1),
    "rate-1e-4": (2.5, 0.3),
    "decayed-every-update": (2.0, 0.2),
    "clipped-to-nothing": (2.5, 0.3),
    "weight-decay-1": (2.303, 0.002),
}
DIVERGING = ("linear-blow-up", "full-batch-blow-up")
ACCURACIES = {  # of all data at the stall; a coin is 0.1 for digits
    "zero-start": (0.05, 0.15),
    "frozen-zero-head": (0.05, 0.15),
    "saturated-tanh": (0.6, 0.85),
    "alike-units": (0.2, 0.45),
    "raw-pixels": (0.05, 0.3),
    "starved-pixels": (0.05, 0.2),
    "softmax-twice": (0.2, 0.55),
    "rate-5": (0.05, 0.15),
    "rate-1e-4": (0.03, 0.2),
    "decayed-every-update": (0.2, 0.55),
    "clipped-to-nothing": (0.03, 0.2),
    "weight-decay-1": (0.05, 0.15),
}
REPAIRED = {  # loss that the repair reaches, at most
    "zero-start": 0.15,
    "exclusive-or": 0.03,
    "two-scalars": 1e-9,
    "five-scalars": 1e-9,
    "five-scalars-at-zero": 1e-9,
    "false-frequency": 1e-9,
    "stiff-regression": 0.1,
    "banana-valley": 1e-3,
    "dead-relu-circle": 0.45,
    "vanishing-sigmoid-circle": 0.45,
    "exponential-activation": 0.45,
    "softmax-of-one": 0.02,
    "softmax-regression": 1.0,
    "dead-output": 1.0,
    "frozen-zero-head": 0.15,
    "saturated-tanh": 0.08,
    "alike-units": 0.08,
    "relu-probabilities": 0.55,
    "raw-quartic": 1e13,
    "raw-pixels": 0.12,
    "starved-pixels": 0.15,
    "softmax-twice": 0.06,
    "three-faults": 0.02,
    "one-sample-batches": 0.45,
    "linear-blow-up": 0.08,
    "parabola-blow-up": 40.0,
    "rate-5": 0.15,
    "rate-1e-4": 0.15,
    "full-batch-blow-up": 0.03,
    "decayed-every-update": 0.12,
    "clipped-to-nothing": 0.12,
    "weight-decay-1": 0.15,
}
OVERLAPPING = ("dead-relu-circle", "vanishing-sigmoid-circle", "one-sample-batches")
"""Stalls on classes that no model tells apart: the repaired loss is far from 0."""

NOT_A_CAUSE_OF_ANY = {Cause.UNDECIDED}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def stalled(name):
    return STALLS[name].start(0)


@torch.no_grad()
def outputs(name, run):
    inputs, targets = STALLS[name].training.data()
    return run.problem.model.eval()(inputs).double(), targets


def test_every_name_is_one_of_its_own_and_every_stall_is_in_these_tables():
    assert len(STALLS) == len(all_stalls()) >= 35
    assert set(STALLS) == {*LEVELS, *DIVERGING, *REFUSED}
    assert {name for name, stall in STALLS.items() if stall.repairable} == set(REPAIRED)


def test_every_cause_but_undecided_is_represented():
    first = {stall.causes[0] for stall in STALLS.values()}

    assert set(Cause) - first == NOT_A_CAUSE_OF_ANY


@pytest.mark.parametrize("name", LEVELS)
def test_a_stall_stands_at_its_known_loss(name):
    run, (level, tolerance) = stalled(name), LEVELS[name]

    assert STALLS[name].stalls(run)
    assert run.problem.value() == pytest.approx(level, abs=tolerance)


@pytest.mark.parametrize("name", ACCURACIES)
def test_the_accuracy_of_a_stall_is_that_of_a_model_that_learned_little(name):
    logits, targets = outputs(name, stalled(name))
    low, high = ACCURACIES[name]

    assert low <= float((logits.argmax(1) == targets).double().mean()) <= high


@pytest.mark.parametrize("name", ["zero-start", "starved-pixels", "rate-1e-4"])
def test_the_loss_of_a_run_is_that_of_its_model_on_all_its_data(name):
    run = stalled(name)
    logits, targets = outputs(name, run)

    assert run.problem.value() == pytest.approx(
        functional.cross_entropy(logits, targets).item(), rel=1e-5
    )


@pytest.mark.parametrize("name", DIVERGING)
def test_a_blow_up_ends_its_history_and_leaves_the_last_finite_parameters(name):
    run = stalled(name)

    assert STALLS[name].stalls(run)
    assert not np.isfinite(run.history.loss[-1])
    assert np.isfinite(run.history.loss[:-1]).all()
    assert len(run.history.loss) < STALLS[name].training.updates
    assert all(p.isfinite().all() for p in run.problem.model.parameters())
    assert run.problem.value() > run.history.loss[0]


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("seed", range(5))
def test_what_is_not_finite_at_first_is_refused_for_every_seed(name, seed):
    assert STALLS[name].band == DIVERGED
    assert STALLS[name].refused

    with pytest.raises(NonFinite, match=r"inf|nan"):
        STALLS[name].start(seed)


@pytest.mark.parametrize("name", [*LEVELS, *DIVERGING])
def test_a_run_comes_with_what_a_user_has(name):
    run, training = stalled(name), STALLS[name].training

    mine = {id(p) for group in run.optimizer.param_groups for p in group["params"]}
    theirs = {id(p) for p in run.problem.model.parameters() if p.requires_grad}
    assert mine == theirs
    assert name in DIVERGING or len(run.history.loss) == training.updates
    if not isinstance(training, Descent):
        samples = len(training.data()[0])
        assert run.batch_size == (training.batch_size or samples)
        assert run.clip_norm == training.clip_norm
        assert (run.scheduler is None) == (training.scheduler is None)


def test_the_schedule_that_ran_out_is_in_history_optimizer_and_scheduler():
    run = stalled("decayed-every-update")

    assert run.history.learning_rate[:3] == pytest.approx([0.1, 0.09, 0.081])
    assert run.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.9**800, rel=1e-6)
    assert run.scheduler.last_epoch == 800


def test_the_clipped_gradients_are_recorded_at_their_length_before():
    run = stalled("clipped-to-nothing")

    assert min(run.history.gradient_norm) > 100 * run.clip_norm


@pytest.mark.parametrize(
    "name",
    ["softmax-of-one", "softmax-regression", "dead-output", "frozen-zero-head", "two-scalars"],
)
def test_where_the_path_is_cut_or_the_point_exact_the_gradient_is_zero(name):
    assert float(stalled(name).problem.gradient().norm()) == 0.0


def test_alike_units_are_alike_bit_for_bit_and_dead_layers_give_the_same_for_every_sample():
    hidden = stalled("alike-units").problem.model[0].weight
    logits, _ = outputs("dead-relu-circle", stalled("dead-relu-circle"))

    assert all(torch.equal(row, hidden[0]) for row in hidden)
    assert float(logits.max() - logits.min()) == 0.0


@pytest.mark.parametrize("name", REPAIRED)
def test_a_repair_reaches_what_is_documented(name):
    stall = STALLS[name]

    reached = stall.repair(0)

    assert 0 <= reached <= min(REPAIRED[name], stall.reached)
    assert name in REFUSED or name in OVERLAPPING or reached < 0.1 * stalled(name).problem.value()


@pytest.mark.parametrize("name", sorted(set(STALLS) - set(REPAIRED)))
def test_at_a_floor_of_model_or_data_there_is_no_repair(name):
    assert STALLS[name].repair(0) is None
    assert set(STALLS[name].causes) <= {Cause.MODEL_FLOOR, Cause.PROGRESSING}


@pytest.mark.parametrize("name", ["three-faults", "rate-5", "raw-quartic"])
def test_a_seed_gives_the_same_bits_and_moves_no_global_generator(name):
    torch.manual_seed(5)
    before = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy())  # noqa: NPY002

    again = STALLS[name].training.run(3, updates=40)
    once_more = STALLS[name].training.run(3, updates=40)
    other = STALLS[name].training.run(4, updates=40)

    parameters = zip(
        again.problem.model.parameters(), once_more.problem.model.parameters(), strict=True
    )
    assert all(torch.equal(a, b) for a, b in parameters)
    assert again.history.loss == once_more.history.loss != other.history.loss
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
    assert (before[2] == np.random.get_state()[1]).all()  # noqa: NPY002
