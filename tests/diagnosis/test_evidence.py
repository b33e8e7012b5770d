"""What is gathered: everything that can be measured, a line for what cannot, and no trace left behind."""

import math
import random
from dataclasses import fields, is_dataclass

import numpy as np
import pytest
import torch
from torch import nn

from cases import network, train, zeroed
from unstick.critical.point import Kind
from unstick.diagnosis.evidence import IN_STEP, Outcome, coupled_decay, gather, in_step
from unstick.diagnosis.run import Run
from unstick.errors import BudgetTooSmall, UnstickError
from unstick.problem.problem import Problem
from unstick.trace import RunTrace

SAMPLES = 32
TIMED = ("cost", "notes")  # they say how long something took
NAN = math.nan


def samples():
    draw = torch.Generator().manual_seed(7)
    x = torch.randn(SAMPLES, 2, generator=draw)
    return x, (x[:, 0] * x[:, 1] > 0).long()


def stuck(model=None, make=None, loss=None, **known):
    model = network(2, 4, 2) if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), 0.1) if make is None else make(model)
    return Run(Problem(model, samples(), loss or nn.CrossEntropyLoss()), optimizer, **known)


def gathered(run, **how):
    return gather(run, **({"budget": 300, "seed": 0, "trials": False} | how))[0]


def bits(thing):
    """Everything inside, as comparable values; nan equals itself."""
    if isinstance(thing, torch.Tensor):
        return (str(thing.dtype), tuple(thing.shape), thing.detach().numpy().tobytes())
    if is_dataclass(thing):
        names = [f.name for f in fields(thing) if f.name not in TIMED]
        return tuple((name, bits(getattr(thing, name))) for name in names)
    if isinstance(thing, dict):
        return tuple((key, bits(value)) for key, value in thing.items())
    if isinstance(thing, (list, tuple)):
        return tuple(map(bits, thing))
    return repr(thing)


def traces(run):
    """All that a user could notice."""
    model, optimizer = run.problem.model, run.optimizer
    return bits(
        [
            dict(model.state_dict()),
            [p.grad for p in model.parameters()],
            [p.requires_grad for p in model.parameters()],
            optimizer.state_dict(),
            [module.training for module in model.modules()],
            [len(module._forward_hooks) for module in model.modules()],
            list(run.history or ()),
            torch.get_rng_state(),
            np.random.get_state()[1].tolist(),  # noqa: NPY002
            random.getstate(),
        ]
    )


def noisy():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(2, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.3), nn.Linear(6, 2)
        )


@pytest.mark.parametrize("make", [
    lambda m: torch.optim.SGD(m.parameters(), 0.1, momentum=0.9, weight_decay=0.01),
    lambda m: torch.optim.AdamW(m.parameters(), 0.01),
])  # fmt: skip
def test_gathering_leaves_everything_as_it_was(make):
    run = stuck(noisy(), make, batch_size=8, history=[1.0] * 40, clip_norm=0.5)
    train(run.problem.model, run.optimizer, *samples(), updates=3, batch_size=8)
    run.problem.model[1].eval()
    before = traces(run)
    gathered(run, trials=True)

    assert traces(run) == before


@pytest.mark.parametrize("stage", ["arms", "restarts"])
def test_an_interruption_leaves_everything_as_it_was_and_what_was_measured(stage):
    run = stuck(zeroed(network(2, 4, 2)), batch_size=8)
    run.problem.model[2].bias.requires_grad_(False)
    run = Run(Problem(run.problem.model, samples(), nn.CrossEntropyLoss()), run.optimizer)
    before = traces(run)
    seen = []

    def press(name, done, total):
        seen.append(name)
        if name == stage and done == 1:
            raise KeyboardInterrupt

    told = gathered(run, trials=True, progress=press)

    assert traces(run) == before
    assert told.loss == run.problem.value()
    if stage in seen:
        assert told.outcome == "interrupted"
    assert "arms" in seen
    assert "continue" in told.arms


def test_the_same_seed_gathers_the_same():
    first, second = (gathered(stuck(noisy(), batch_size=8), seed=3) for _ in range(2))

    assert bits(first) == bits(second)
    other = gathered(stuck(noisy(), batch_size=8), seed=4)
    assert other.arms["continue"].loss != first.arms["continue"].loss


def test_all_that_is_known_leaves_nothing_missing():
    told = gathered(stuck(batch_size=8, history=[0.7] * 40))

    assert told.missing == ()
    assert told.course.updates == 40
    assert told.steps.batch_size == 8
    assert {"continue", "rate ÷ 10", "rate × 10", "rate × 100", "momentum", "batch × 16"} == set(
        told.arms
    )


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ({"batch_size": 8}, "no history of losses: how they went is not known"),
        (
            {"batch_size": 8, "history": [1.0] * 7},
            "no history of losses: how they went is not known",
        ),
        ({"history": [1.0] * 40}, "no batch size: steps were tried on all samples"),
        (
            {"history": [1.0] * 40, "batch_size": 500},
            "batch_size=500 is more than the 32 samples: all were taken",
        ),
    ],
)
def test_what_was_not_given_is_said(known, said):
    assert gathered(stuck(**known)).missing == (said,)


def test_without_an_optimizer_no_step_is_tried():
    problem = stuck().problem
    told = gathered(Run(problem))

    assert told.missing == (
        "no history of losses: how they went is not known",
        "no optimizer: its steps could not be tried",
    )
    assert told.steps is None
    assert told.arms == {}
    assert told.gain("continue") is None


def test_an_optimizer_of_another_model_is_said_and_not_used():
    told = gathered(stuck(make=lambda _: torch.optim.SGD(network(2, 4, 2).parameters(), 0.1)))

    assert (
        "the optimizer holds none of the model's parameters: its steps could not be tried"
        in told.missing
    )
    assert told.steps is None
    assert told.arms == {}


def test_a_batch_size_above_the_data_takes_all_samples():
    large, whole = (gathered(stuck(batch_size=size)) for size in (500, SAMPLES))

    assert large.steps.batch_size == SAMPLES
    assert large.arms == whole.arms
    assert "batch × 16" not in large.arms


@pytest.mark.parametrize(
    "history", [[NAN] * 40, [1.0] * 20 + [NAN] * 20, [math.inf], [1.0] * 7 + [NAN], [NAN] * 3]
)
def test_a_history_that_ends_in_nan_is_read_as_a_blow_up(history):
    told = gathered(stuck(batch_size=8, history=history))

    assert told.course.blew_up
    assert told.course.finite == (0 if not math.isfinite(history[0]) else history.index(NAN) if NAN in history else len(history))  # fmt: skip
    assert math.isfinite(told.loss)
    assert math.isfinite(told.level)


@pytest.mark.parametrize("make", [
    lambda m: torch.optim.SGD(m.parameters(), 0.1, weight_decay=0.3),
    lambda m: torch.optim.Adam(m.parameters(), 0.1, weight_decay=0.3),
    lambda m: torch.optim.RMSprop(m.parameters(), 0.1, weight_decay=0.3),
])  # fmt: skip
def test_decay_that_goes_through_the_gradient_is_part_of_the_loss(make):
    run = stuck(make=make)
    told, problem = gather(run, budget=300, seed=0, trials=False)

    squares = sum(float(p.detach().double().square().sum()) for p in run.problem.model.parameters())
    assert told.loss == pytest.approx(run.problem.value() + 0.15 * squares)
    assert problem.value() == told.loss
    assert (told.steps.coupled, told.steps.decoupled) == (0.3, 0.0)
    assert "no decay" in told.arms
    assert told.without_decay.loss == run.problem.value()


def test_decay_beside_the_gradient_is_no_part_of_the_loss():
    run = stuck(make=lambda m: torch.optim.AdamW(m.parameters(), 0.1, weight_decay=0.3))
    told, problem = gather(run, budget=300, seed=0, trials=False)

    assert problem is run.problem
    assert told.loss == run.problem.value()
    assert (told.steps.coupled, told.steps.decoupled) == (0.0, 0.3)
    assert told.without_decay is None
    assert "no decay" in told.arms


@pytest.mark.parametrize("optimizer", [
    lambda g: torch.optim.Adam(g, 0.1, decoupled_weight_decay=True),
    lambda g: torch.optim.NAdam(g, 0.1, decoupled_weight_decay=True),
    lambda g: torch.optim.RAdam(g, 0.1, decoupled_weight_decay=True),
])  # fmt: skip
def test_decay_that_an_option_takes_out_of_the_gradient_is_no_part_of_the_loss(optimizer):
    run = stuck(make=lambda m: optimizer([{"params": m.parameters(), "weight_decay": 0.3}]))

    assert coupled_decay(run) == {}


def test_decay_is_that_of_each_parameters_own_group():
    model = network(2, 4, 2)
    model[0].bias.requires_grad_(False)
    groups = [
        {"params": [model[0].weight, model[0].bias], "weight_decay": 0.5},
        {"params": [model[2].weight], "weight_decay": 0.25},
        {"params": [model[2].bias]},
    ]
    run = stuck(model, lambda _: torch.optim.SGD(groups, 0.1))

    assert coupled_decay(run) == {"0.weight": 0.5, "2.weight": 0.25}


def test_gains_are_parts_of_the_way_from_the_best_constant_output():
    told = gathered(stuck(batch_size=8))

    shares = samples()[1].double().mean()
    entropy = float(-(shares * shares.log() + (1 - shares) * (1 - shares).log()))
    assert told.level == pytest.approx(entropy)
    assert told.level_known
    assert told.stuck == pytest.approx(told.loss / entropy)
    arm = told.arms["rate × 10"]
    assert arm.gain == pytest.approx(told.loss - arm.loss)
    assert told.gain("rate × 10") == pytest.approx(arm.gain / entropy)


def test_the_first_loss_is_the_level_where_no_constant_is_known():
    def loss(out, y):
        return nn.functional.cross_entropy(out, y)

    own = {"loss": lambda out, y: 2 * loss(out, y)}
    known, unknown = gathered(stuck(history=[9.0] * 40, **own)), gathered(stuck(**own))

    assert (known.level, known.level_known) == (9.0, True)
    assert (unknown.level_known, unknown.stuck) == (False, 1.0)


class Schedule:
    base_lrs = (0.7,)


@pytest.mark.parametrize("where", ["group", "scheduler", "trace"])
def test_the_highest_rate_is_remembered_by_whoever_knows_it(where):
    model = network(2, 4, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.7)
    known = {}
    if where == "scheduler":
        known["scheduler"] = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
        optimizer.param_groups[0].pop("initial_lr")
    if where == "group":
        optimizer.param_groups[0]["initial_lr"] = 0.7
    if where == "trace":
        known["history"] = RunTrace()
        for rate in (0.7, None, *[0.001] * 10):
            known["history"].record(loss=1.0, lr=rate)
    optimizer.param_groups[0]["lr"] = 0.001
    told = gathered(stuck(model, lambda _: optimizer, **known))

    assert (told.steps.rate, told.steps.highest_rate) == (0.001, 0.7)
    assert "highest rate" in told.arms


def test_a_rate_of_nothing_is_tried_at_what_it_was():
    model = network(2, 4, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.7)
    optimizer.param_groups[0] |= {"initial_lr": 0.7, "lr": 0.0}
    told = gathered(stuck(model, lambda _: optimizer))
    fresh = gathered(stuck(model, lambda m: torch.optim.SGD(m.parameters(), 0.7)))

    assert told.arms["continue"].gain == pytest.approx(0, abs=1e-6)
    assert told.arms["highest rate"].gain == fresh.arms["continue"].gain > 0


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False)])
def test_the_sharpness_is_the_rate_beside_what_a_plain_step_bears(momentum, nesterov):
    problem = Problem.from_function(
        lambda x: 0.5 * (torch.tensor([1.0, 4.0]).to(x) * x * x).sum(), torch.ones(2)
    )
    make = torch.optim.SGD(problem.model.parameters(), 0.25, momentum=momentum, nesterov=nesterov)
    told = gathered(Run(problem, make))

    assert told.steps.sharpness == pytest.approx(0.25 * 4 / (2 * (1 + momentum)))
    assert not told.steps.adaptive


def test_an_adaptive_optimizer_has_no_sharpness():
    told = gathered(stuck(make=lambda m: torch.optim.Adam(m.parameters(), 0.1)))

    assert told.steps.adaptive
    assert told.steps.sharpness is None
    assert "momentum" not in told.arms


def decades(*gains):
    names = ("continue", "rate × 10", "rate × 100")
    return {
        name: Outcome(20, 1 - gain, gain, gain) for name, gain in zip(names, gains, strict=False)
    }


@pytest.mark.parametrize(
    ("gains", "told"),
    [
        ((1e-9, 1e-8, 1e-7), True),
        ((1.0, 1.01 * IN_STEP, 1.01 * IN_STEP**2.01), True),
        ((1.0, 0.99 * IN_STEP, 100.0), False),
        ((1.0, 10.0, 0.99 * 10 * IN_STEP), False),  # beyond ten times the rate it bends
        ((0.0, 1.0, 10.0), False),
        ((-1e-3, 1.0, 10.0), False),
        ((1.0, 10.0, -math.inf), False),
        ((NAN, 10.0, 100.0), False),
        ((1.0, 10.0), False),
        ((), False),
    ],
)
def test_gains_are_in_step_where_they_grow_threefold_with_each_tenfold_rate(gains, told):
    assert in_step(decades(*gains)) == told


@pytest.mark.parametrize(("rate", "tried"), [(1e-5, True), (0.05, False)])
def test_a_thousand_times_the_rate_is_tried_where_all_below_is_far_too_small(rate, tried):
    told = gathered(stuck(make=lambda m: torch.optim.SGD(m.parameters(), rate)))

    assert ("rate × 1000" in told.arms) == in_step(told.arms) == tried
    if tried:
        tenfold = told.arms["rate × 1000"].gain / told.arms["rate × 100"].gain
        assert 2 < tenfold < 12
        assert told.arms["rate × 10"].gain == pytest.approx(
            10 * told.arms["continue"].gain, rel=0.1
        )


def test_what_settles_is_the_mean_loss_of_the_last_third_of_the_batches():
    """At rate r on x²/2 each update multiplies x by 1 − r."""
    problem = Problem.from_function(lambda x: 0.5 * (x * x).sum(), torch.ones(1).double())
    told = gathered(Run(problem, torch.optim.SGD(problem.model.parameters(), 0.1)))

    for name, rate in (("continue", 0.1), ("rate ÷ 10", 0.01), ("rate × 10", 1.0)):
        arm = told.arms[name]
        losses = 0.5 * (1 - rate) ** (2 * np.arange(arm.updates))
        assert arm.settled == pytest.approx(
            losses[-(arm.updates // 3) :].mean(), rel=1e-6, abs=1e-30
        )
        assert arm.loss == pytest.approx(0.5 * (1 - rate) ** (2 * arm.updates), rel=1e-9, abs=1e-30)


def test_an_arm_that_blew_up_settles_nowhere():
    problem = Problem.from_function(lambda x: 0.5 * (x * x).sum(), torch.ones(1).double())
    make = torch.optim.SGD(problem.model.parameters(), 1e200)
    arm = gathered(Run(problem, make)).arms["rate × 100"]

    assert arm.gain == -math.inf
    assert math.isnan(arm.settled)


def test_restarts_are_tried_only_where_the_point_leads_nowhere():
    def double_well(x):
        return (x[0] ** 2 - 1) ** 2 + 0.3 * x[0] + 0.5

    high = Problem.from_function(double_well, torch.tensor([0.9601], dtype=torch.float64))
    for _ in range(40):  # Newton's steps to the higher of two minima
        with torch.no_grad():
            x = high.model.x
            x -= (4 * x * (x * x - 1) + 0.3) / (12 * x * x - 4)
    told = gathered(Run(high), trials=True)

    assert told.point.kind == Kind.MINIMUM
    assert told.restarts < told.loss - 0.3
    assert gathered(Run(high)).restarts is None
    slope = Problem.from_function(lambda x: x.sum() + (x * x).sum(), torch.ones(2))
    assert gathered(Run(slope), trials=True).restarts is None


def test_a_function_needs_no_data():
    problem = Problem.from_function(lambda x: (x * x).sum(), torch.ones(2))
    run = Run(problem, torch.optim.SGD(problem.model.parameters(), 0.1), history=[2.0] * 10)
    told = gathered(run)

    assert told.noise_scale is None
    assert told.steps.batch_size == 1
    assert told.arms["rate ÷ 10"].gain > 0


def test_batches_by_name_are_gathered():
    x, y = samples()
    model = network(2, 4, 2)
    batches = [{"x": x[:16], "y": y[:16]}, {"x": x[16:], "y": y[16:]}]
    problem = Problem(
        model, batches, batch_loss=lambda m, b: nn.functional.cross_entropy(m(b["x"]), b["y"])
    )
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    told = gathered(Run(problem, optimizer, batch_size=8, history=[1.0] * 40))

    assert told.missing == ()
    assert told.steps.batch_size == 8
    assert told.arms.keys() == gathered(stuck(batch_size=8)).arms.keys()


def test_an_optimizer_whose_step_needs_a_closure_is_a_missing_line_or_a_refusal():
    try:
        told = gathered(stuck(make=lambda m: torch.optim.LBFGS(m.parameters())))
    except UnstickError:
        return
    assert any("LBFGS" in line for line in told.missing) or told.arms


def test_the_noise_scale_is_the_variance_over_the_squared_gradient():
    x = torch.tensor([[1.0], [2.0], [3.0], [6.0]], dtype=torch.float64)
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.ones_(model.weight)
    run = Run(Problem(model, (x, 0 * x), nn.MSELoss()), torch.optim.SGD(model.parameters(), 1e-3))
    told = gathered(run)

    each = 2 * x.numpy()[:, 0] ** 2
    ratios = [each.var(ddof=d) / each.mean() ** 2 for d in (0, 1)]
    assert any(told.noise_scale == pytest.approx(ratio, rel=1e-6) for ratio in ratios)


def test_the_same_problem_gathered_again_gives_the_same():
    run = stuck(batch_size=8)

    assert bits(gathered(run)) == bits(gathered(run))


@pytest.mark.parametrize("budget", [200, 500])
def test_no_more_is_spent_than_the_budget(budget):
    run = stuck(batch_size=8)
    before = run.problem.spent.gradients
    gathered(run, budget=budget)

    assert run.problem.spent.gradients - before <= budget


def test_a_budget_that_no_verdict_fits_in_is_refused_and_leaves_no_trace():
    run = stuck(batch_size=8)
    before = traces(run)

    with pytest.raises(BudgetTooSmall, match="raise the budget"):
        gathered(run, budget=20)
    assert traces(run) == before
