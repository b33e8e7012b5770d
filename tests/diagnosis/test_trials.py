"""Remedies are tried at equal cost beside going on, and help only where every seed says so."""

import math
import random
from contextlib import suppress
from copy import deepcopy
from dataclasses import fields, replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from cases import digits, network, train, zeroed
from unstick.diagnosis import remedies as r
from unstick.diagnosis.bench import Bench
from unstick.diagnosis.cause import Cause
from unstick.diagnosis.choosing import Choice, choose
from unstick.diagnosis.copies import Copy
from unstick.diagnosis.diagnosing import diagnose
from unstick.diagnosis.evidence import gather
from unstick.diagnosis.rules import support
from unstick.diagnosis.run import Run
from unstick.diagnosis.surgery import NotPossible
from unstick.diagnosis.trials import SEEDS, helped, plan_trials, run_trials
from unstick.problem.problem import Problem
from unstick.studies.gallery import all_stalls

STALLS = {stall.name: stall for stall in all_stalls()}
NINE = (
    "two-scalars", "five-scalars-at-zero", "exclusive-or", "false-frequency", "line-for-circles",
    "stiff-regression", "softmax-regression", "dead-output", "clipped-to-nothing",
)  # fmt: skip
NAN = math.nan


@pytest.fixture(autouse=True)
def _seeded():
    """Models that are made in a test are the same in any order of tests."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


# Whether a remedy helped, by hand


@pytest.mark.parametrize(("after", "unchanged", "answer"), [
    ((0.5, 0.5, 0.5), (0.9, 0.9, 0.9), True),
    ((0.5, 0.5, 0.95), (0.9, 0.9, 0.9), True),  # the median counts
    ((0.5, 0.95, 0.95), (0.9, 0.9, 0.9), False),
    ((0.9, 0.9, 0.9), (0.9, 0.9, 0.9), False),  # nothing gained
    ((0.892, 0.892, 0.892), (0.9, 0.9, 0.9), False),  # less than a hundredth of what is left
    ((0.888, 0.888, 0.888), (0.9, 0.9, 0.9), True),
    ((0.7, 0.7, 0.7), (0.6, 0.9, 0.9), False),  # one that went on got lower
    ((0.65, 0.65, 0.65), (0.7, 1.0, 1.3), True),  # by 0.35, where they deviate by 0.245
    ((0.69, 0.69, 0.69), (0.7, 0.75, 1.6), False),  # by 0.06, where they deviate by 0.41
    ((1.1, 1.1, 1.1), (1.5, 1.5, 1.5), False),  # above where it began
    ((NAN, 0.5, 0.5), (0.9, 0.9, 0.9), True),  # one blew up
    ((NAN, NAN, 0.5), (0.9, 0.9, 0.9), False),
    ((NAN, NAN, NAN), (0.9, 0.9, 0.9), False),
    ((math.inf, 0.5, 0.5), (0.9, 0.9, 0.9), True),
    ((0.5, 0.5, 0.5), (NAN, 0.9, 0.9), True),
    ((0.95, 0.95, 0.95), (NAN, 0.9, 0.9), False),
    ((0.95, 0.95, 0.95), (NAN, NAN, NAN), True),  # going on blew up: lower than where it began
    ((0.995, 0.995, 0.995), (NAN, NAN, NAN), False),
    ((NAN, NAN, NAN), (NAN, NAN, NAN), False),
    ((0.5,), (0.9,), True),
])  # fmt: skip
def test_helping_is_a_median_below_every_one_that_went_on_by_more_than_they_deviate(
    after, unchanged, answer
):
    assert helped(after, unchanged, before=1.0, left=1.0) is answer


@pytest.mark.parametrize(("left", "answer"), [(0.3, True), (3.0, False)])
def test_what_matters_is_a_part_of_what_is_left(left, answer):
    assert helped((0.88,) * 3, (0.9,) * 3, before=1.0, left=left) is answer


def test_where_going_on_blows_up_nothing_above_the_beginning_helps():
    assert not helped((-4.97,) * 3, (NAN,) * 3, before=-5.0, left=-5.0)


# Planted runs


def function(rate=0.0):
    """f = x₁² + x₂² at (1, 0), without noise, where a rate of 0 stays."""
    problem = Problem.from_function(lambda x: (x * x).sum(), torch.tensor([1.0, 0.0]).double())
    optimizer = torch.optim.SGD(problem.model.parameters(), rate)
    return Bench(Run(problem, optimizer), problem)


def noisy(*, size=4, rate=0.02, model=None, samples=32):
    """A regression whose batches differ."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(samples, 2, generator=draw)
    y = x @ torch.tensor([[1.0], [-2.0]]) + torch.randn(samples, 1, generator=draw)
    model = network(2, 3, 1) if model is None else model
    problem = Problem(model, (x, y), nn.MSELoss())
    return Bench(Run(problem, torch.optim.SGD(model.parameters(), rate), batch_size=size), problem)


def planted(name, loss, *, group="place", **known):
    """Moves a copy of ``function`` to where f is this, and stays there."""

    def change(copy):
        each = loss if isinstance(loss, float) else loss[copy.seed % SEEDS]
        copy.move_to(torch.tensor([each**0.5 if each >= 0 else NAN, 0.0]).double())

    return r.Remedy(name, name, group, change, f"# {name}", key=name, **known)


def tried(bench, *remedies, updates=40, budget=1e4, seed=0, left=1.0, progress=None):
    plan = plan_trials(bench, remedies, updates=updates, budget=budget)
    choice = Choice(tuple(remedies), (("before", "planted"),))
    return run_trials(bench, choice, plan=plan, left=left, seed=seed, progress=progress)


def names(tested):
    return [trial.remedy for trial in tested.trials]


def nothing(group="batch", name="nothing"):
    return r.Remedy(name, name, group, lambda _: None, "", key=name)


def bits(trial):
    """All but the seconds; nan equals itself."""
    seen = {f.name: getattr(trial, f.name) for f in fields(trial) if f.name != "cost"}
    return repr(seen), trial.cost.gradients


@pytest.mark.parametrize("bench", [function, noisy, lambda: noisy(model=nn.Sequential(nn.Linear(2, 9), nn.Dropout(0.5), nn.Linear(9, 1)))])  # fmt: skip
def test_a_remedy_that_does_nothing_goes_on_bit_for_bit_and_never_helps(bench):
    (trial,) = tried(bench(), nothing()).trials

    assert trial.losses_after == trial.continue_losses
    assert trial.curve[0] == trial.continue_curve[0]
    assert not trial.helped


def test_there_is_a_curve_for_every_seed_where_nothing_is_random():
    (trial,) = tried(function(), nothing()).trials

    assert len(trial.curve) == len(trial.losses_after) == SEEDS


def test_planted_losses_are_told_best_first_with_what_helped():
    losses = {"best": 0.1, "good": 0.3, "slight": 0.9, "none": 1.0, "worse": 3.0}
    tested = tried(function(), *(planted(name, loss) for name, loss in losses.items()))

    assert names(tested) == list(losses)
    for trial, loss in zip(tested.trials, losses.values(), strict=True):
        assert trial.losses_after == pytest.approx((loss,) * 3)
    assert [t.helped for t in tested.trials] == [True, True, True, False, False]
    assert all(t.continue_losses == (1.0, 1.0, 1.0) and t.loss_before == 1.0 for t in tested.trials)
    assert [t.outcome for t in tested.trials] == ["complete", "complete", "dropped", "dropped", "dropped"]  # fmt: skip
    assert tested.outcome == "complete"
    assert tested.skipped == (("before", "planted"),)


@pytest.mark.parametrize("bench", [function, noisy])
def test_there_is_a_loss_and_a_curve_for_every_seed(bench):
    tested = tried(bench(), r.rate(3.0), r.noise(0.1), r.batch_of(8, "larger"), seed=5)

    assert tested.trials
    for trial in tested.trials:
        assert trial.seeds == (5, 6, 7)
        assert len(trial.losses_after) == len(trial.continue_losses) == SEEDS
        assert len(trial.curve) == len(trial.continue_curve) == SEEDS
    random = next(t for t in tested.trials if t.remedy == "little noise")
    assert len(set(random.losses_after)) == SEEDS


@pytest.mark.parametrize("loss", [(0.1, 0.3, 0.2), (0.3, 0.2, -1.0), (-1.0, -1.0, 0.2)])
def test_random_remedies_are_told_by_each_seed_and_judged_by_their_median(loss):
    (trial,) = tried(function(), planted("drawn", loss, random=True)).trials

    finite = [each if each >= 0 else NAN for each in loss]
    assert trial.losses_after == pytest.approx(tuple(finite), nan_ok=True)
    assert trial.loss_after == pytest.approx(0.2 if min(loss) > 0 else 0.3 if loss[0] > 0 else math.inf)  # fmt: skip
    assert trial.helped is (loss[0] > 0)


@pytest.mark.parametrize("size", [1, 3, 8, 32])
def test_every_remedy_has_as_many_gradients_whatever_its_batches(size):
    bench = noisy(size=4)
    seen = {}

    def watched(name, batch):
        def change(copy):
            copy.batch_size = batch
            seen.setdefault(name, []).append(copy)

        return r.Remedy(name, name, "batch", change, "", key=name)

    tested = tried(bench, watched("other", size), watched("same", 4), updates=60)
    for trial in tested.trials:
        batch = size if trial.remedy == "other" else 4
        samples = 32 * trial.gradients
        assert samples - batch < trial.updates * batch <= samples
        assert {len(copy.losses) for copy in seen[trial.remedy]} == {trial.updates}
    assert len({trial.gradients for trial in tested.trials}) == 1


def test_nothing_is_trained_for_longer_than_the_run():
    tested = tried(noisy(), nothing(), updates=37, budget=1e6)

    assert tested.trials[0].updates == 37
    assert tested.plan.length == pytest.approx(37 * 4 / 32)


def test_the_last_round_takes_what_is_left_of_the_plan():
    failing = [planted(f"fails {k}", -1.0) for k in range(6)]
    bench = function(0.1)
    plan = plan_trials(bench, [*failing, nothing()], updates=1000, budget=300)
    tested = tried(bench, *failing, nothing(), updates=1000, budget=300)

    whole = [t for t in tested.trials if t.remedy == "nothing"]
    assert whole[0].gradients > plan.each


# What blows up


def test_what_blows_up_comes_last():
    tested = tried(
        function(), planted("blows up", -1.0), planted("good", 0.3), planted("worse", 3.0),
        planted("far off", 1e3),
    )  # fmt: skip

    assert names(tested)[-1] == "blows up"
    assert tested.trials[-1].loss_after == math.inf
    assert "blew up" in tested.trials[-1].headline()


def late(name, after):
    """Blows up after so many updates."""

    def change(copy):
        update = copy._update

        def failing(batch, pace):
            return update(batch, pace) if len(copy.losses) < after else math.nan

        copy._update = failing

    return r.Remedy(name, name, "step", change, "", key=name)


def test_what_blows_up_in_the_last_round_comes_last_too():
    # three remedies, of which two get to the last round
    tested = tried(function(), planted("good", 0.3), late("blows up", 30), planted("worse", 3.0))

    assert names(tested)[-1] == "blows up"


def test_where_going_on_blows_up_what_stays_helps():
    bench = function(1e9)
    still = r.Remedy("still", "still", "step", lambda copy: copy.set_rates(lambda _: 0.4), "", key="still")  # fmt: skip
    (trial,) = tried(bench, still).trials

    assert all(map(math.isnan, trial.continue_losses))
    assert trial.helped
    assert trial.loss_after == pytest.approx(0.0, abs=1e-9)


# What fails


def test_a_remedy_that_does_not_fit_or_fails_is_skipped_with_its_reason():
    def refuse(_):
        raise NotPossible("does not fit")

    def fail(_):
        raise RuntimeError("mat1 and mat2\nshapes")

    bad = [r.Remedy(name, name, "step", change, "", key=name) for name, change in (("a", refuse), ("b", fail))]  # fmt: skip
    tested = tried(noisy(), *bad, nothing())

    assert names(tested) == ["nothing"]
    assert dict(tested.skipped) == {
        "before": "planted", "a": "does not fit", "b": "it fails: mat1 and mat2 shapes"
    }  # fmt: skip


class Failing(nn.Module):
    """Fails in the training pass after so many."""

    def __init__(self, after):
        super().__init__()
        self.layer, self.left = nn.Linear(2, 1), after

    def forward(self, x):
        self.left -= self.training
        if self.left < 0:
            raise ValueError("planted")
        return self.layer(x)


def failing_after(updates):
    def change(copy):
        copy.model.left = updates

    return r.Remedy("fails late", "fails late", "step", change, "", key="fails late")


def test_a_remedy_that_fails_in_a_later_round_is_left_out():
    tested = tried(noisy(model=Failing(10**6)), failing_after(25), nothing(), updates=80)

    assert "nothing" in names(tested)


def test_where_going_on_fails_nothing_is_tried_and_that_is_said():
    tested = tried(noisy(model=Failing(3)), nothing(), updates=80)

    assert tested.trials == ()
    assert "every remedy" in dict(tested.skipped)


# Joined


def halving(name, group, part):
    """Takes a part of the loss away, whatever else was done."""

    def change(copy):
        with torch.no_grad():
            copy.model.get_parameter("x").mul_(part**0.5)

    return r.Remedy(name, name, group, change, f"# {name}", key=name)


@pytest.mark.parametrize(("group", "part", "joins"), [
    ("batch", 0.5, True),
    ("place", 0.5, False),  # both change the same
    ("batch", 0.999, False),  # one did not help
])  # fmt: skip
def test_two_are_joined_only_if_both_helped_and_change_different_things(group, part, joins):
    others = [planted(f"worse {k}", 3.0) for k in range(3)]
    tested = tried(function(), planted("a", 0.4), halving("b", group, part), *others)

    assert ("a + b" in names(tested)) is joins
    if joins:
        best = tested.trials[0]
        assert best.remedy == "a + b"
        assert best.losses_after == pytest.approx((0.2,) * 3)
        assert best.key == "a & b"


def test_what_was_tried_joined_already_is_not_tried_again():
    a, b = planted("a", 0.4), halving("b", "batch", 0.5)
    tested = tried(function(), a, b, a + b)

    assert names(tested).count("a + b") == 1


# Simplicity


@pytest.mark.parametrize(("simple", "first"), [(0.13, "simple"), (0.16, "intrusive")])
def test_of_two_almost_as_good_the_one_that_changes_less_comes_first(simple, first):
    intrusive = planted("intrusive", 0.1, keeps_weights=False)
    tested = tried(function(), intrusive, planted("simple", simple))

    assert names(tested)[0] == first
    assert {t.remedy for t in tested.trials} == {"simple", "intrusive"}


def test_what_did_not_help_never_comes_before_what_did():
    # what matters is 0.0107: one gains 0.011, the other 0.01051, which is less than 5 % behind
    intrusive = planted("helped", 0.9890, keeps_weights=False)
    tested = tried(function(), intrusive, planted("did not", 0.98949), left=1.07)

    assert [t.helped for t in tested.trials] == [True, False]


# Again, the user's own, and Ctrl-C


@pytest.mark.parametrize("bench", [function, noisy])
def test_the_same_seed_gives_the_same_answer_bit_for_bit_and_another_gives_another(bench):
    def remedies():
        return r.rate(3.0), r.noise(0.3), r.momentum(0.9), r.new_start("xavier")

    one, again, other = (tried(bench(), *remedies(), seed=seed) for seed in (0, 0, 3))
    assert list(map(bits, one.trials)) == list(map(bits, again.trials))
    assert list(map(bits, one.trials)) != list(map(bits, other.trials))


def everything(run):
    model, optimizer = run.problem.model, run.optimizer
    return deepcopy([
        [(n, t.tolist()) for n, t in model.state_dict().items()],
        [p.grad if p.grad is None else p.grad.tolist() for p in model.parameters()],
        [p.requires_grad for p in model.parameters()],
        [m.training for m in model.modules()],
        [n for n, _ in model.named_modules()],
        str(optimizer.state_dict()),
        torch.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),  # noqa: NPY002
        random.getstate(),
        torch.is_grad_enabled(),
    ])  # fmt: skip


def full():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.2), nn.Linear(6, 1))  # fmt: skip
        bench = noisy(model=model)
        x, y = (part.float() for part in bench.batch)
        train(model, bench.run.optimizer, x, y, updates=3, loss=nn.MSELoss())
    return bench


def remedies_of_all_kinds():
    x = noisy().batch
    return (
        r.rate(10.0), r.adam(0.01), r.noise(1.0), r.new_start("he"), r.batch_of(16, "batch × 4"),
        r.activations(["2"], nn.ELU), r.standardize(x, inputs=True, targets=True), r.rate_by_curvature(32),
    )  # fmt: skip


@cache
def uninterrupted():
    """Of ``full``, by remedy."""
    return {trial.remedy: trial for trial in tried(full(), *remedies_of_all_kinds()).trials}


def test_nothing_of_the_users_moves():
    bench = full()
    before = everything(bench.run)
    with torch.no_grad():
        tested = tried(bench, *remedies_of_all_kinds())
        assert everything(bench.run)[:-1] == before[:-1]

    assert everything(bench.run) == before
    assert len(tested.trials) >= 8


@pytest.mark.parametrize("after", [0, 2, 3, 10, 20, 27, 30, 33])
def test_an_interruption_at_any_stage_keeps_what_was_measured_and_the_users_own(after):
    bench = full()
    before = everything(bench.run)
    calls = []

    def press(stage, done, total):
        calls.append((stage, done <= total))
        if len(calls) > after:
            raise KeyboardInterrupt

    tested = tried(bench, *remedies_of_all_kinds(), progress=press)

    assert set(calls) == {("trials", True)}
    assert tested.outcome == "interrupted"
    assert everything(bench.run) == before
    assert len(tested.trials) == max(0, min(8, after // 3 - 1)) or after > 24
    for trial in tested.trials:
        assert len(trial.losses_after) == len(trial.continue_losses) == 3
        assert trial.outcome in ("interrupted", "complete")
        if trial.gradients == uninterrupted()[trial.remedy].gradients:
            assert trial.losses_after == uninterrupted()[trial.remedy].losses_after


def test_an_interrupted_trial_tells_the_updates_that_its_losses_are_of():
    calls = []

    def press(*_):
        calls.append(None)
        if len(calls) > 3 * 3 + 3 + 1:  # in the second round, after a copy of the first remedy
            raise KeyboardInterrupt

    tested = tried(noisy(), r.rate(2.0), r.rate(3.0), updates=200, progress=press)
    for trial in tested.trials:
        assert trial.updates * 4 <= 32 * trial.gradients


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError("planted"), MemoryError])
def test_nothing_of_the_users_moves_when_a_remedy_fails_halfway(error):
    bench = full()
    before = everything(bench.run)

    def change(copy):
        r.noise(1.0).change(copy)
        copy.train(2)
        raise error

    bad = r.Remedy("bad", "bad", "place", change, "", key="bad")
    with suppress(MemoryError):
        tried(bench, nothing(), bad)
    assert everything(bench.run) == before


# What it costs


@cache
def stalled(name):
    run = STALLS[name].start(0)
    evidence, problem = gather(run, budget=120, seed=0, trials=False)
    return Bench(run, problem), evidence


@pytest.mark.parametrize(("stall", "budget"), [
    *((stall, 1000.0) for stall in NINE[:6]),  # of all samples at once: least lengths cost hundreds
    *((stall, budget) for stall in ("two-scalars", *NINE[6:]) for budget in (1.0, 150.0)),
])  # fmt: skip
def test_trials_cost_no_more_than_planned(stall, budget):
    bench, evidence = stalled(stall)
    choice = choose(bench, evidence, support(evidence), None)
    if not choice.remedies:  # the stall goes on, as far as so small a budget shows
        choice = choose(bench, evidence, [replace(support(evidence)[0], cause=Cause.UNDECIDED)], None)  # fmt: skip
    plan = plan_trials(bench, choice.remedies, updates=60, budget=budget)
    begin = bench.problem.spent
    tested = run_trials(bench, choice, plan=plan, left=evidence.loss, seed=0)

    spent = (bench.problem.spent - begin).gradients
    assert spent <= 1.02 * plan.gradients
    told = sum(trial.cost.gradients for trial in tested.trials)
    assert told <= spent
    assert all(len(trial.losses_after) == SEEDS for trial in tested.trials)


def test_a_tiny_budget_still_tries_a_few_updates_of_each():
    tested = tried(noisy(), nothing(), r.rate(2.0), budget=1e-3, updates=400)

    assert len(tested.trials) == 2
    assert all(trial.updates >= 16 for trial in tested.trials)


def test_what_a_remedy_itself_takes_is_counted_and_planned():
    plain = plan_trials(noisy(), [nothing()], updates=40, budget=1e4).gradients
    dear = plan_trials(noisy(), [replace(nothing(), price=10.0)], updates=40, budget=1e4).gradients

    assert dear >= plain + SEEDS * 10


# Real stalls


@cache
def few():
    x, y = digits()
    return x[:300], y[:300]


def stuck(model, make, *, updates=150, loss=None, data=None, clip=None):
    x, y = data or few()
    optimizer = make([p for p in model.parameters() if p.requires_grad])
    loss, history = loss or nn.CrossEntropyLoss(), []
    order = torch.Generator().manual_seed(0)
    for _ in range(updates):
        rows = torch.randperm(len(x), generator=order)[:30]
        optimizer.zero_grad()
        value = loss(model(x[rows]), y[rows])
        value.backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        history.append(value.item())
    return Problem(model, (x, y), loss), optimizer, history


def head_frozen():
    model = network(64, 4, 10, activation=nn.ReLU)
    zeroed(model[2]).requires_grad_(False)
    return model


def shares(outputs, targets):
    kept = outputs.clamp(1e-6, 1 - 1e-6)
    return -(targets * kept.log() + (1 - targets) * (1 - kept).log()).mean()


def two_classes():
    x, y = few()
    return x, (y > 4).float()[:, None]


SGD = torch.optim.SGD
REAL = {
    "zero start": (lambda: zeroed(network(64, 4, 10)), 0.2, {}),
    "rate 1e-4": (lambda: network(64, 4, 10, activation=nn.ReLU), 1e-4, {}),
    "clipping 1e-3": (lambda: network(64, 4, 10, activation=nn.ReLU), 0.2, {"clip": 1e-3}),
    "softmax of one": (
        lambda: nn.Sequential(*network(64, 4, 1), nn.Softmax(-1)), 0.2,
        {"loss": shares, "data": two_classes}),
    "frozen zero head": (head_frozen, 0.2, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_the_best_trial_of_a_real_stall_unsticks_it(name):
    make, rate, how = REAL[name]
    how = {key: value() if key == "data" else value for key, value in how.items()}
    problem, optimizer, history = stuck(make(), lambda p: SGD(p, rate), **how)
    before = everything(Run(problem, optimizer))
    diagnosis = diagnose(
        problem, optimizer, batch_size=30, history=history, clip_norm=how.get("clip"), budget=150,
        pictures=False,
    )  # fmt: skip

    assert everything(Run(problem, optimizer)) == before
    best = diagnosis.remedy
    assert best is not None
    assert best.loss_after < 0.8 * min(best.continue_losses)


def test_a_linear_model_at_its_least_squares_is_offered_nothing():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(200, 2, generator=draw)
    y = (x[:, :1] * x[:, 1:] > 0).float()
    model, X = network(2, 1).double(), torch.cat([x, torch.ones(200, 1)], 1).double()
    w = torch.linalg.lstsq(X, y.double()).solution
    with torch.no_grad():
        model[0].weight.copy_(w[:2].T)
        model[0].bias.copy_(w[2])
    floor = float((X @ w - y).square().mean())
    problem = Problem(model, (x.double(), y.double()), nn.MSELoss())
    diagnosis = diagnose(
        problem, SGD(model.parameters(), 0.3), history=[floor] * 200, budget=150, pictures=False
    )

    assert diagnosis.cause == Cause.MODEL_FLOOR
    assert diagnosis.trials == ()


def test_a_healthy_training_is_offered_nothing():
    model = network(64, 4, 10, activation=nn.ReLU)
    problem, optimizer, history = stuck(model, lambda p: SGD(p, 0.2, momentum=0.5), updates=80)
    diagnosis = diagnose(problem, optimizer, batch_size=30, history=history, budget=150, pictures=False)  # fmt: skip

    assert diagnosis.cause == Cause.PROGRESSING
    assert diagnosis.trials == ()
    assert [name for name, _ in diagnosis.untried] == ["every remedy"]


# Awkward users


def awkward(model, optimizer, *, batch_size=16, data=None, **how):
    draw = torch.Generator().manual_seed(0)
    kind = next(model.parameters()).dtype
    x, y = torch.randn(48, 3, generator=draw).to(kind), torch.randint(2, (48,), generator=draw)
    problem = Problem(model, (x, y), nn.CrossEntropyLoss()) if data is None else data(model, x, y)
    before = everything(Run(problem, optimizer))
    diagnosis = diagnose(
        problem, optimizer, batch_size=batch_size, history=[0.7] * 100, budget=120, pictures=False, **how
    )  # fmt: skip
    assert everything(Run(problem, optimizer)) == before
    return diagnosis


def normal():
    return nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))


@pytest.mark.parametrize("size", [47, 46])  # a last batch of one sample, and of two
def test_a_last_batch_of_one_sample_does_not_stop_batch_normalization(size):
    model = normal()
    diagnosis = awkward(model, SGD(model.parameters(), 1e-4), batch_size=size)

    assert diagnosis.evidence.arms
    assert diagnosis.trials


@pytest.mark.parametrize("normalizing", [True, False])
def test_batch_normalization_in_batches_of_one_is_told_and_does_not_stop_the_diagnosis(normalizing):
    model = normal() if normalizing else network(3, 6, 2, activation=nn.ReLU)
    diagnosis = awkward(model, SGD(model.parameters(), 1e-4), batch_size=1)

    assert diagnosis.cause
    assert bool(diagnosis.evidence.arms) is not normalizing
    told = [why for why in diagnosis.evidence.missing if "steps could not be tried" in why]
    assert len(told) == normalizing
    if normalizing:
        assert diagnosis.trials == ()
        assert "more than 1 value per channel" in told[0]
        assert "every remedy" in dict(diagnosis.untried)


def test_float64_two_groups_and_a_noted_first_rate():
    model = network(3, 6, 2, activation=nn.ReLU).double()
    optimizer = SGD([{"params": model[0].parameters(), "lr": 1e-5}, {"params": model[2].parameters()}], 1e-6)  # fmt: skip
    for group in optimizer.param_groups:
        group["initial_lr"] = 0.1

    assert awkward(model, optimizer).trials


@pytest.mark.parametrize("kind", ["LBFGS", "other parameters", "none"])
def test_an_optimizer_that_cannot_be_copied_on_is_told_and_nothing_tried(kind):
    model = network(3, 6, 2)
    optimizer = {
        "LBFGS": torch.optim.LBFGS(model.parameters()),
        "other parameters": SGD(network(3, 6, 2).parameters(), 0.1),
        "none": SGD(model.parameters(), 0.1),
    }[kind]
    problem = Problem(model, few_points(), nn.CrossEntropyLoss())
    diagnosis = diagnose(problem, None if kind == "none" else optimizer, budget=120, pictures=False)

    assert diagnosis.trials == ()
    if diagnosis.cause not in (Cause.PROGRESSING, Cause.MODEL_FLOOR):
        assert "could not be tried" in dict(diagnosis.untried)["every remedy"]


def few_points():
    draw = torch.Generator().manual_seed(0)
    return torch.randn(48, 3, generator=draw), torch.randint(2, (48,), generator=draw)


def test_batches_that_are_dictionaries_are_tried_on():
    def data(model, x, y):
        parts = [{"x": x[k : k + 16], "y": y[k : k + 16]} for k in (0, 16, 32)]
        return Problem(model, parts, batch_loss=lambda m, b: nn.functional.cross_entropy(m(b["x"]), b["y"]))  # fmt: skip

    model = network(3, 6, 2)
    assert awkward(model, SGD(model.parameters(), 1e-5), data=data).trials


def test_a_frozen_backbone_keeps_its_statistics_in_every_copy(monkeypatch):
    model = normal()
    model[:2].requires_grad_(False)
    model[1].eval()
    copies = []
    train = Copy.train
    monkeypatch.setattr(Copy, "train", lambda copy, n: (train(copy, n), copies.append(copy)))
    awkward(model, SGD(model[3].parameters(), 1e-5))

    frozen = [c.model for c in copies if isinstance(c.model, nn.Sequential) and not c.model[0].weight.requires_grad]  # fmt: skip
    assert len(frozen) > 10
    means = [m[1].running_mean for m in frozen if isinstance(m[1], nn.BatchNorm1d)]
    assert all(torch.equal(mean, model[1].running_mean) for mean in means)
