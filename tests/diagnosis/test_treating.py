"""The treated run is the trial's copy at its start; the user's own run stays, and what does not fit is refused."""

import math
import random
from copy import deepcopy
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LinearLR

import unstick
from cases import network, zeroed
from unstick.diagnosis import trials as room
from unstick.diagnosis.bench import Bench
from unstick.diagnosis.diagnosing import diagnose
from unstick.diagnosis.run import Run
from unstick.diagnosis.treating import treat
from unstick.diagnosis.trials import _curve
from unstick.errors import BadModel, UnstickError
from unstick.problem.problem import Problem
from unstick.training.order import BatchOrder

SGD = torch.optim.SGD


def points():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(60, 3, generator=draw)
    return x, (x[:, 0] * x[:, 1] > 0).long()


def normal():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))


def grouped(model):
    layers = [m for m in model if isinstance(m, nn.Linear)]
    return SGD(
        [{"params": layers[0].parameters(), "lr": 1e-5}, {"params": layers[1].parameters()}],
        lr=1e-6, momentum=0.5, weight_decay=1e-3,
    )  # fmt: skip


def scheduled(model):
    optimizer = SGD(model.parameters(), 1e-7)
    optimizer.param_groups[0]["initial_lr"] = 0.3
    return optimizer


MODELS = {
    "slow": (lambda: network(3, 5, 2, activation=nn.ReLU), lambda m: SGD(m.parameters(), 1e-5), {}),
    "groups": (lambda: network(3, 5, 2, activation=nn.Sigmoid), grouped, {}),
    "normalized": (normal, lambda m: SGD(m.parameters(), 1e-5, momentum=0.9), {}),
    "clipped": (lambda: network(3, 5, 2), lambda m: SGD(m.parameters(), 0.3), {"clip_norm": 1e-4}),
    "zero": (lambda: zeroed(network(3, 5, 2)), lambda m: SGD(m.parameters(), 0.1), {}),
    "used up": (lambda: network(3, 5, 2), scheduled, {}),
    "softmax": (
        lambda: nn.Sequential(*network(3, 5, 2), nn.Softmax(-1)), lambda m: SGD(m.parameters(), 0.01), {}
    ),
}  # fmt: skip


@cache
def diagnosed(name):
    """A run of a few updates, and its diagnosis."""
    make, make_optimizer, known = MODELS[name]
    model = make()
    optimizer = make_optimizer(model)
    problem = Problem(model, points(), nn.CrossEntropyLoss())
    run = Run(problem, optimizer, 12, [problem.value()] * 40, None, known.get("clip_norm"))
    return run, diagnose(
        problem, optimizer, batch_size=12, history=run.history, clip_norm=run.clip_norm, budget=200,
        pictures=False,
    )  # fmt: skip


def function():
    problem = Problem.from_function(lambda x: (1 - x[0] * x[1]) ** 2, torch.zeros(2).double())
    optimizer = SGD(problem.model.parameters(), 0.1)
    return Run(problem, optimizer), diagnose(problem, optimizer, pictures=False, budget=150)


def everything(run):
    model, optimizer = run.problem.model, run.optimizer
    return deepcopy([
        [(n, t.tolist()) for n, t in model.state_dict().items()],
        [None if p.grad is None else p.grad.tolist() for p in model.parameters()],
        [p.requires_grad for p in model.parameters()],
        [(n, type(m), m.training) for n, m in model.named_modules()],
        str(optimizer.state_dict()),
        torch.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),  # noqa: NPY002
        random.getstate(),
        torch.is_grad_enabled(),
    ])  # fmt: skip


def best_seed(trial):
    losses = [loss if math.isfinite(loss) else math.inf for loss in trial.losses_after]
    return losses.index(min(losses))


def gone_on(treated, trial):
    """The losses of the treated run where it is trained on as its trial was."""
    bench = Bench(treated, treated.problem)
    return bench.go_on(trial.updates, seed=trial.seeds[best_seed(trial)])


@pytest.mark.parametrize("name", MODELS)
def test_the_treated_runs_losses_are_its_trials(name):
    run, diagnosis = diagnosed(name)
    assert diagnosis.trials
    for trial in diagnosis.trials:
        if trial.key == "warm-up" or not trial.curve[0]:  # one that rises is trained by hand below
            continue
        before = everything(run)
        treated = treat(run, diagnosis, trial)
        assert everything(run) == before
        arm = gone_on(treated, trial)
        seen = trial.curve[best_seed(trial)]
        assert _curve(arm.losses) == pytest.approx(seen, rel=1e-4), trial.remedy
        assert arm.data_loss == pytest.approx(trial.losses_after[best_seed(trial)], rel=1e-3)
    assert treat(run, diagnosis).problem.model is not run.problem.model


def test_nothing_of_the_treated_run_is_the_users():
    run, diagnosis = diagnosed("slow")
    treated = treat(run, diagnosis)
    before = everything(run)
    own = {p.data_ptr() for p in run.problem.model.parameters()}
    for p in treated.problem.model.parameters():
        assert p.data_ptr() not in own
        p.grad = torch.ones_like(p)
    assert treated.optimizer is not run.optimizer
    treated.optimizer.step()

    assert everything(run) == before


@pytest.mark.parametrize("name", MODELS)
def test_the_treated_optimizer_holds_the_treated_models_parameters(name):
    run, diagnosis = diagnosed(name)
    for trial in diagnosis.trials:
        treated = treat(run, diagnosis, trial)
        names = {id(p) for p in treated.problem.model.parameters()}
        held = [id(p) for group in treated.optimizer.param_groups for p in group["params"]]
        assert set(held) == names, trial.remedy
        assert len(held) == len(names)


def test_batch_size_and_clipping_are_the_remedys():
    run, diagnosis = diagnosed("clipped")
    free = next(t for t in diagnosis.trials if t.key == "no clipping")
    treated = treat(run, diagnosis, free)

    assert (treated.clip_norm, treated.batch_size) == (None, 12)
    assert run.clip_norm == 1e-4
    other = next((t for t in diagnosis.trials if t.key == "Adam 0.001"), None)
    if other is not None:
        assert treat(run, diagnosis, other).clip_norm == 1e-4


def test_a_warm_up_is_part_of_the_treated_run():
    run, diagnosis = diagnosed("used up")
    trial = next(t for t in diagnosis.trials if t.key == "warm-up")
    treated = treat(run, diagnosis, trial)
    assert isinstance(treated.scheduler, LinearLR)
    assert all(treat(run, diagnosis, t).scheduler is None for t in diagnosis.trials if t != trial)

    model, optimizer, x, y = treated.problem.model, treated.optimizer, *points()
    order, rates, losses = BatchOrder(60, 12, seed=trial.seeds[best_seed(trial)]), [], []
    for rows in (order.next() for _ in range(24)):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
        treated.scheduler.step()
        losses.append(float(loss.detach()))
    assert rates == pytest.approx([0.3 * min(1.0, k / 20) for k in range(1, 25)])
    seen = trial.curve[best_seed(trial)]
    assert _curve(losses[: trial.updates]) == pytest.approx(seen, rel=1e-4)


@pytest.mark.parametrize("name", ["slow", "zero", "normalized", "softmax", "function"])
def test_a_diagnosis_that_was_saved_and_read_again_treats_alike(name, tmp_path):
    run, diagnosis = function() if name == "function" else diagnosed(name)
    unstick.save(diagnosis, tmp_path / "d.json")
    again = unstick.load(tmp_path / "d.json")

    assert [t.key for t in again.trials] == [t.key for t in diagnosis.trials]
    for trial, same in list(zip(diagnosis.trials, again.trials, strict=True))[:4]:
        one, other = treat(run, diagnosis, trial), treat(run, again, same)
        assert torch.equal(one.problem.parameters(), other.problem.parameters())
        assert str(one.optimizer.state_dict()) == str(other.optimizer.state_dict())
        assert (one.batch_size, one.clip_norm) == (other.batch_size, other.clip_norm)


def test_a_functions_saddle_is_left():
    run, diagnosis = function()
    treated = treat(run, diagnosis)

    assert treated.problem.value() < 0.5
    assert run.problem.value() == 1.0
    assert treated.batch_size is None
    assert [type(p) for p in treated.problem.model.parameters()] == [nn.Parameter]


def test_of_a_random_remedy_it_is_the_seed_that_came_out_best():
    run, diagnosis = diagnosed("zero")
    trial = next(t for t in diagnosis.trials if t.key in ("noise", "new start"))
    turned = replace(trial, losses_after=(1.0, math.nan, 0.5))
    first = replace(trial, losses_after=(0.1, 0.2, 0.5))
    thetas = [treat(run, diagnosis, t).problem.parameters() for t in (turned, first, first)]

    assert torch.equal(thetas[1], thetas[2])
    assert not torch.equal(thetas[0], thetas[1])


def test_the_weight_decay_of_the_problem_stays():
    model = network(3, 5, 2)
    problem = Problem(model, points(), nn.CrossEntropyLoss(), weight_decay=0.5)
    run = Run(problem, SGD(model.parameters(), 1e-6), 12)
    diagnosis = diagnose(problem, run.optimizer, batch_size=12, history=[0.7] * 40, budget=120, pictures=False)  # fmt: skip
    trial = next(t for t in diagnosis.trials if t.key == "rate × 10")

    assert treat(run, diagnosis, trial).problem.value() == pytest.approx(problem.value())


# Refusals


@pytest.mark.parametrize("by", [1e-2, pytest.param(0.0, id="not moved")])
def test_a_model_that_has_moved_is_refused_and_stays(by):
    model = network(3, 5, 2)
    problem = Problem(model, points(), nn.CrossEntropyLoss())
    run = Run(problem, SGD(model.parameters(), 1e-5), 12)
    diagnosis = diagnose(problem, run.optimizer, batch_size=12, history=[0.7] * 40, budget=120, pictures=False)  # fmt: skip
    problem.write(problem.parameters() + by)
    before = everything(run)
    if by:
        with pytest.raises(BadModel, match="diagnose again"):
            treat(run, diagnosis, diagnosis.trials[0])
    else:
        treat(run, diagnosis, diagnosis.trials[0])

    assert everything(run) == before


def test_where_nothing_helped_there_is_nothing_to_apply_but_any_trial_can_be_asked_for():
    run, diagnosis = diagnosed("slow")
    vain = replace(diagnosis, trials=tuple(replace(t, helped=False) for t in diagnosis.trials))
    with pytest.raises(BadModel, match=f"no remedy helped, of {len(vain.trials)}"):
        treat(run, vain)
    with pytest.raises(BadModel, match="of 0"):
        treat(run, replace(diagnosis, trials=()))

    assert treat(run, vain, vain.trials[-1]).optimizer is not None


@pytest.mark.parametrize(("key", "why"), [
    ("no clipping", "does not fit this run"),
    ("revive", "does not fit this run"),
    ("magic", "no remedy is called 'magic'"),
    ("from a newer version 2", "no remedy is called"),
])  # fmt: skip
def test_a_trial_that_does_not_fit_the_run_is_refused_in_one_line(key, why):
    run, diagnosis = diagnosed("slow")
    before = everything(run)
    with pytest.raises(UnstickError, match=why) as refusal:
        treat(run, diagnosis, replace(diagnosis.trials[0], key=key, remedy=key))

    assert "\n" not in str(refusal.value)
    assert everything(run) == before


def test_a_run_without_its_optimizer_is_refused():
    run, diagnosis = diagnosed("slow")
    with pytest.raises(UnstickError, match="no optimizer"):
        treat(replace(run, optimizer=None), diagnosis)


def test_an_interrupted_diagnosis_can_be_applied():
    make, make_optimizer, _ = MODELS["slow"]
    model = make()
    run = Run(Problem(model, points(), nn.CrossEntropyLoss()), make_optimizer(model), 12)
    calls = []

    def press(stage, *_):
        calls.append(stage)
        if calls.count("trials") > room.SEEDS * 5:
            raise KeyboardInterrupt

    before = everything(run)
    diagnosis = diagnose(run.problem, run.optimizer, batch_size=12, history=[0.7] * 40, budget=120, progress=press)  # fmt: skip

    assert diagnosis.outcome == "interrupted"
    assert len(diagnosis.trials) == 4
    treated = treat(run, diagnosis, diagnosis.trials[0])
    assert treated.problem.n > 0
    assert everything(run) == before


@pytest.mark.parametrize("stage", ["arms", "trials"])
def test_ctrl_c_at_any_stage_leaves_the_run_as_it_was(stage):
    run, _ = diagnosed("groups")
    before = everything(run)

    def press(name, *_):
        if name == stage:
            raise KeyboardInterrupt

    diagnosis = diagnose(run.problem, run.optimizer, batch_size=12, budget=120, progress=press)
    assert diagnosis.outcome == "interrupted"
    assert diagnosis.trials == ()
    assert everything(run) == before
