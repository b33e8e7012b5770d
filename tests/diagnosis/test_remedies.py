"""Each remedy's code does to a user's own run what the remedy does to a copy; joined ones apply in order."""

import math
from copy import deepcopy
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ExponentialLR
from torch.utils.data import DataLoader, TensorDataset

import unstick
from unstick.diagnosis import remedies as r
from unstick.diagnosis.bench import Bench
from unstick.diagnosis.copies import Copy
from unstick.diagnosis.run import Run
from unstick.diagnosis.signals import read_signals
from unstick.diagnosis.surgery import NotPossible, hidden_activations
from unstick.problem.problem import Problem

SAMPLES = 40
RATE = 1e-4


def data():
    draw = torch.Generator().manual_seed(5)
    x = 3 + 2 * torch.randn(SAMPLES, 3, generator=draw)
    return x, 10 + 4 * torch.randn(SAMPLES, 2, generator=draw)


def made():
    """Weights of a start but for the last, which are three times as large, and those before, half as large again."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(3, 40), nn.ReLU(), nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 2),
            nn.LeakyReLU(0.5),
        )  # fmt: skip
        for layer, size in ((model[0], 1.0), (model[2], 1.5), (model[4], 3.0)):
            nn.init.normal_(layer.weight, std=size * layer.in_features**-0.5)
        nn.init.constant_(model[2].bias[:3], -1e3)  # three dead units
    return model


@dataclass
class Own:
    """A user's own objects, by the names that codes use."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    problem: Problem
    loader: Any
    inputs: Any
    targets: Any
    torch: Any = torch
    unstick: Any = unstick
    scheduler: Any = None


def grouped(model):
    return torch.optim.SGD(
        [
            {"params": model[0].parameters(), "lr": 3 * RATE, "weight_decay": 0.2},
            {"params": [*model[2].parameters(), *model[4].parameters()], "momentum": 0.7},
        ],
        lr=RATE,
        weight_decay=0.01,
    )


def scheduled(model):
    optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=0.5)
    scheduler = ExponentialLR(optimizer, 0.5)
    for _ in range(3):
        optimizer.step()
        scheduler.step()
    return optimizer


def everything(model, kind, **settings):
    return kind(model.parameters(), **settings)


SGD = torch.optim.SGD
OPTIMIZERS = {
    "plain": partial(everything, kind=SGD, lr=RATE),
    "dampened": partial(everything, kind=SGD, lr=RATE, momentum=0.5, dampening=0.3),
    "grouped": grouped,
    "scheduled": scheduled,
    "adam": partial(everything, kind=torch.optim.Adam, lr=0.01, weight_decay=0.1),
    "adamw": partial(everything, kind=torch.optim.AdamW, lr=0.01),
    "frozen": partial(everything, kind=SGD, lr=RATE, momentum=0.5),
    "frozen, left out": lambda model: SGD(
        [p for p in model.parameters() if p.requires_grad], lr=RATE, momentum=0.5
    ),
    "head alone": lambda model: SGD(model[4].parameters(), lr=RATE),
}


@cache
def trained(scene):
    """Model and optimizer with three updates behind them; to be copied."""
    model = made()
    if scene.startswith("frozen"):
        model[4].requires_grad_(False)
    optimizer = OPTIMIZERS[scene](model)
    x, y = data()
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
    return model, optimizer


def own(scene):
    """A user's own objects, made anew."""
    model, optimizer = deepcopy(trained(scene))
    for p, other in zip(model.parameters(), trained(scene)[0].parameters(), strict=True):
        p.grad = deepcopy(other.grad)
    x, y = data()
    loader = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True)
    return Own(model, optimizer, Problem(model, (x, y), nn.MSELoss()), loader, x, y)


kept = cache(own)  # where only copies of it change


def copied(mine):
    run = Run(mine.problem, mine.optimizer, batch_size=8)
    return Copy(Bench(run, mine.problem), 0)


def executed(code, mine):
    """The user's objects after the code; what it makes anew has taken the place of the old."""
    names = dict(vars(mine))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exec(code, names)  # noqa: S102 - the package's own string
    return Own(**{name: names[name] for name in vars(mine)})


def settings(model, optimizer):
    """What each parameter is stepped by, and what is remembered of it, by its name."""
    names = {id(p): name for name, p in model.named_parameters()}
    found = {}
    for group in optimizer.param_groups:
        known = {k: v for k, v in group.items() if k not in ("params", "initial_lr")}
        for p in group["params"]:
            memory = {k: v for k, v in optimizer.state.get(p, {}).items() if v is not None}
            if p.requires_grad:
                found[names[id(p)]] = (type(optimizer), known, memory)
    return found


def alike(a, b):
    if isinstance(a, torch.Tensor):
        return a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=1e-5, atol=1e-9)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(alike(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(alike, a, b))
    return a == pytest.approx(b) if isinstance(a, float) else a == b


def kinds(model):
    return [(name, type(module)) for name, module in model.named_modules()]


def check_alike(mine, copy, before, *, random):
    assert kinds(mine.model) == kinds(copy.model)
    theirs = dict(copy.model.state_dict())
    for name, value in mine.model.state_dict().items():
        other = theirs[name]
        if random:  # the same shape, about the same size, and what stays, stays
            assert value.shape == other.shape
            if name in before and alike(other, before[name]):
                assert alike(value, other), name
            if value.numel() > 50:
                deviation, expected = value.double().std(), other.double().std()
                assert float(deviation) == pytest.approx(float(expected), rel=0.4, abs=1e-9), name
        else:
            assert alike(value, other), name
    assert [p.requires_grad for p in mine.model.parameters()] == [
        p.requires_grad for p in copy.model.parameters()
    ]
    expected = settings(copy.model, copy.optimizer)
    for name, found in settings(mine.model, mine.optimizer).items():
        assert alike(found, expected[name]), (name, found, expected[name])
    assert settings(mine.model, mine.optimizer).keys() == expected.keys()
    assert mine.loader.batch_size == copy.batch_size


def length(model):
    return float(
        nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    )


def x_of(mine, *, inputs=False, targets=False, squared=True):
    return r.standardize(
        (mine.inputs, mine.targets),
        inputs=inputs,
        targets=targets,
        plain=isinstance(mine.optimizer, SGD),
        squared=squared,
    )


MAKE = {
    "rate × 10": lambda _: r.rate(10.0),
    "rate ÷ 2": lambda _: r.rate(0.5),
    "rate back": lambda _: r.rate_of(0.123456, "highest rate", "the rate back"),
    "momentum 0.9": lambda _: r.momentum(0.9),
    "momentum 0.99 slower": lambda _: r.momentum(0.99, multiple=0.5),
    "Adam": lambda _: r.adam(0.05),
    "rate of curvature": lambda _: r.rate_by_curvature(SAMPLES),
    "clip": lambda _: r.clip(0.25),
    "clip where it is": lambda _: r.clip(0.0123456),
    "no clipping": lambda _: r.clip(None),
    "batch": lambda _: r.batch_of(32, "batch × 4"),
    "no decay": lambda _: r.decay(0.0),
    "decay ÷ 100": lambda _: r.decay(0.01),
    "noise": lambda _: r.noise(1.0),
    "rescale": lambda _: r.rescale(),
    "new start": lambda _: r.new_start("he"),
    "best start": lambda _: r.best_start(8),
    "revive": lambda mine: r.revive(read_signals(mine.problem, seed=0)),
    "normalize": lambda _: r.normalize(),
    "leaky": lambda mine: r.activations(
        hidden_activations(copied(mine).bench, r.RECTIFIERS), nn.ELU
    ),
    "plain outputs": lambda _: r.outputs(["5"], nn.Identity(), told="LeakyReLU"),
    "Softmax outputs": lambda _: r.outputs(["5"], nn.Softmax(-1), told="LeakyReLU"),
    "inputs": partial(x_of, inputs=True),
    "targets": partial(x_of, targets=True),
    "standardized": partial(x_of, inputs=True, targets=True),
    "unfrozen": lambda _: r.unfreeze(),
}


@pytest.mark.parametrize("scene", OPTIMIZERS)
@pytest.mark.parametrize("name", MAKE)
def test_the_code_does_to_the_users_own_run_what_the_change_does_to_a_copy(name, scene):
    mine, copy = own(scene), copied(kept(scene))
    remedy = MAKE[name](mine)
    before = {key: value.clone() for key, value in mine.model.state_dict().items()}
    try:
        remedy.change(copy)
    except NotPossible:
        return
    check_alike(executed(remedy.code, mine), copy, before, random=remedy.random)


@pytest.mark.parametrize("name", [n for n in MAKE if n != "no clipping"])  # nothing is clipped here
def test_every_remedy_changes_something_somewhere(name):
    changed = []
    for scene in ("grouped", "frozen, left out"):
        plain, copy = kept(scene), copied(kept(scene))
        try:
            MAKE[name](plain).change(copy)
        except NotPossible:
            continue
        before = settings(plain.model, plain.optimizer)
        changed.append(
            kinds(copy.model) != kinds(plain.model)
            or not alike(dict(copy.model.state_dict()), dict(plain.model.state_dict()))
            or not alike(settings(copy.model, copy.optimizer), before)
            or (copy.batch_size, copy.clip_norm) != (8, None)
        )
    assert any(changed)


@pytest.mark.parametrize("limit", [0.25, 1e-5, 0.0123456, 123.456])
def test_the_code_clips_where_the_copy_does(limit):
    mine, copy = own("adam"), copied(own("adam"))
    remedy = r.clip(limit)
    remedy.change(copy)
    mine.problem.model[0].bias.grad += 1e3
    executed(remedy.code, mine)

    assert length(mine.model) == pytest.approx(copy.clip_norm, rel=1e-4)
    assert copy.clip_norm == pytest.approx(limit, rel=0.05)  # two digits


def counting(rate=1e-3):
    """f = Σ x: the gradient is one, and each step is the rate."""
    problem = Problem.from_function(lambda x: x.sum(), torch.zeros(1).double())
    return problem, SGD(problem.model.parameters(), rate)


def test_the_code_warms_up_as_the_copy_does():
    problem, optimizer = counting()
    remedy = r.warm_up(0.5, 20)
    copy = Copy(Bench(Run(problem, optimizer), problem), 0)
    remedy.change(copy)
    mine = executed(remedy.code, Own(problem.model, optimizer, problem, None, None, None))
    copied_to, at, rates = 0.0, [], []
    for _ in range(25):
        copy.train(1)
        x = copy.model.get_parameter("x").item()
        at.append(copied_to - x)
        copied_to = x
        rates.append(mine.optimizer.param_groups[0]["lr"])
        mine.optimizer.step()
        mine.scheduler.step()

    assert at == pytest.approx([0.5 * min(1.0, k / 20) for k in range(1, 26)])
    assert rates == pytest.approx(at)


def saddle():
    """f = (1 − xy)² at the origin, where every optimizer stands."""
    problem = Problem.from_function(lambda x: (1 - x[0] * x[1]) ** 2, torch.zeros(2).double())
    return problem, SGD(problem.model.parameters(), 0.1)


def test_an_escapes_code_goes_where_the_copy_was_put():
    problem, optimizer = saddle()
    tried = unstick.escape(problem)
    problem.write(torch.zeros(2).double())
    assert tried.direction is not None
    remedy = r.move_to(tried.step * tried.direction, tried.outcome)
    copy = Copy(Bench(Run(problem, optimizer), problem), 0)
    remedy.change(copy)
    at = copy.model.get_parameter("x").detach().clone()

    assert copy.loss() == pytest.approx(tried.loss_after, rel=1e-9)
    assert problem.value() == 1.0
    mine = executed(remedy.code, Own(problem.model, optimizer, problem, None, None, None))
    assert torch.allclose(mine.model.get_parameter("x").abs(), at.abs(), rtol=1e-6)


@pytest.mark.parametrize(("scene", "squared", "power"), [
    ("plain", True, 2), ("plain", False, 1), ("adam", True, 0), ("adam", False, 0),
])  # fmt: skip
def test_plain_rates_are_divided_by_as_much_as_gradients_are_longer(scene, squared, power):
    mine, copy = own(scene), copied(own(scene))
    rate = copy.optimizer.param_groups[0]["lr"]
    remedy = x_of(mine, targets=True, squared=squared)
    remedy.change(copy)
    mine = executed(remedy.code, mine)

    deviation = float(data()[1].double().var(0, correction=0).mean().sqrt())
    for optimizer in (copy.optimizer, mine.optimizer):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(rate / deviation**power)


def standardized_by_hand(make):
    """What one full step moves, of the copy on raw targets, and of a plain loop on standardized inputs and targets."""
    x, y = data()
    y = y[:, :1]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))
    twin = deepcopy(model)
    problem = Problem(model, (x, y), nn.MSELoss())
    optimizer = make(model.parameters())
    copy = Copy(Bench(Run(problem, optimizer), problem), 0)
    plain = isinstance(optimizer, SGD)
    r.standardize((x, y), inputs=True, targets=True, plain=plain).change(copy)
    copy.train(1)
    z, t = ((part - part.mean(0)) / part.std(0, unbiased=False) for part in (x, y))
    optimizer = make(twin.parameters())
    nn.functional.mse_loss(twin(z), t).backward()
    before = [p.detach().clone() for p in twin.parameters()]
    optimizer.step()
    moved = [
        torch.cat(
            [(a - b).detach().flatten() for a, b in zip(now.parameters(), before, strict=True)]
        )
        for now in (copy.model, twin)
    ]
    return moved[0], moved[1]


def test_the_first_step_of_adam_on_raw_targets_is_that_on_standardized_ones():
    raw, plain = standardized_by_hand(lambda p: torch.optim.Adam(p, 0.01))

    torch.testing.assert_close(raw, plain, rtol=1e-3, atol=1e-6)


def test_the_first_plain_step_on_raw_targets_is_that_on_standardized_ones():
    raw, plain = standardized_by_hand(lambda p: SGD(p, 0.1))

    torch.testing.assert_close(raw, plain, rtol=1e-3, atol=1e-6)


def bare(model, scheme):
    """A start of a model without any weight matrix: by the copy and by the code."""
    problem = Problem(model, (torch.ones(4, 3), torch.zeros(4, 3)), nn.MSELoss())
    optimizer = SGD([p for p in model.parameters() if p.requires_grad], 0.1, momentum=0.5)
    optimizer.param_groups[0]["initial_lr"] = 0.7
    remedy, copy = r.new_start(scheme), Copy(Bench(Run(problem, optimizer), problem), 0)
    remedy.change(copy)
    mine = executed(remedy.code, Own(model, optimizer, problem, None, None, None))
    assert [g["lr"] for o in (copy.optimizer, mine.optimizer) for g in o.param_groups] == [0.7, 0.7]
    assert not copy.optimizer.state
    assert not mine.optimizer.state
    return dict(copy.model.named_parameters()), dict(mine.model.named_parameters())


class Scaled(nn.Module):
    """Each feature times a number, plus another."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.full((3,), 20.0))
        self.shift = nn.Parameter(torch.zeros(3))

    def forward(self, x):
        return self.scale * x + self.shift


def test_a_new_start_without_any_weight_matrix_is_as_wide_as_the_old_numbers():
    for drawn in bare(Scaled(), None):
        assert 2 < float(drawn["scale"].detach().norm()) < 100
        assert 0.1 < float(drawn["shift"].detach().norm()) < 5


def test_a_new_start_without_any_weight_matrix_leaves_what_is_frozen():
    model = Scaled()
    model.scale.requires_grad_(False)
    for drawn in bare(model, None):
        assert drawn["scale"].tolist() == [20.0] * 3


def test_a_new_start_without_any_weight_matrix_lets_modules_start_as_they_do():
    for drawn in bare(nn.LayerNorm(3), None):
        assert drawn["weight"].tolist() == [1.0] * 3


@pytest.mark.parametrize("scheme", ["he", "xavier"])
def test_a_scheme_without_any_weight_matrix_to_start_is_refused_in_one_line(scheme):
    problem, optimizer = saddle()
    copy = Copy(Bench(Run(problem, optimizer), problem), 0)
    with pytest.raises(NotPossible) as refusal:
        r.new_start(scheme).change(copy)

    assert "\n" not in str(refusal.value)


def test_the_code_exchanges_an_activation_under_every_name_as_the_copy_does():
    act = nn.ReLU()
    model = nn.Sequential(nn.Linear(3, 4), act, nn.Linear(4, 4), act, nn.Linear(4, 2))
    x, y = data()
    optimizer, problem = SGD(model.parameters(), RATE), Problem(model, (x, y), nn.MSELoss())
    copy = copied(Own(model, optimizer, problem, None, x, y))
    remedy = r.activations(hidden_activations(copy.bench, r.RECTIFIERS), nn.ELU)
    remedy.change(copy)
    mine = executed(remedy.code, Own(model, optimizer, problem, None, x, y))

    assert [type(m) for m in mine.model] == [type(m) for m in copy.model]


def test_only_dead_units_are_drawn_anew_as_wide_as_he():
    mine, copy = own("plain"), copied(own("plain"))
    signals = read_signals(mine.problem, seed=0)
    dead = {layer.module: layer.dead_units for layer in signals.layers if layer.dead_units}
    r.revive(signals).change(copy)

    units = list(dead["2"])
    assert units[:3] == [0, 1, 2]
    alive = [k for k in range(30) if k not in units]
    new, old = copy.model[2], mine.model[2]
    assert torch.equal(new.weight[alive], old.weight[alive])
    assert torch.equal(new.bias[alive], old.bias[alive])
    assert not new.bias[units].any()
    size = float(new.weight[units].detach().double().square().mean().sqrt())
    assert size == pytest.approx(math.sqrt(2 / 40), rel=0.3)
    assert not any(copy.optimizer.state.values())


def test_shrunk_matrices_keep_their_direction_and_small_ones_their_bits():
    mine, copy = own("plain"), copied(own("plain"))
    r.rescale().change(copy)

    w, big = (model[4].weight.detach().double() for model in (copy.model, mine.model))
    assert float(w.square().mean()) == pytest.approx(1 / 30, rel=1e-5)
    assert float((w * big).sum() / (w.norm() * big.norm())) == pytest.approx(1.0)
    assert torch.equal(copy.model[2].weight, mine.model[2].weight)  # 1.5 times a start: a near miss
    assert torch.equal(copy.model[4].bias, mine.model[4].bias)


@pytest.mark.parametrize(("name", "scene", "why"), [
    ("unfrozen", "plain", "no parameter is frozen"),
    ("momentum 0.9", "adam", "Adam has no momentum"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(name, scene, why):
    mine, copy = own(scene), copied(own(scene))
    with pytest.raises(NotPossible, match=why):
        MAKE[name](mine).change(copy)


def test_weights_of_the_size_of_a_start_are_not_rescaled():
    model = nn.Linear(100, 50)
    problem = Problem(model, (torch.randn(8, 100, generator=torch.Generator().manual_seed(0)), torch.zeros(8, 50)), nn.MSELoss())  # fmt: skip
    copy = Copy(Bench(Run(problem, SGD(model.parameters(), 0.1)), problem), 0)
    with pytest.raises(NotPossible, match="larger than twice"):
        r.rescale().change(copy)


def test_a_curvature_that_is_not_positive_gives_no_rate():
    problem = Problem.from_function(lambda x: -(x * x).sum(), torch.ones(2))
    copy = Copy(Bench(Run(problem, SGD(problem.model.parameters(), 0.1)), problem), 0)
    with pytest.raises(NotPossible, match="positive"):
        r.rate_by_curvature(0).change(copy)


def test_the_rate_of_curvature_is_one_over_the_largest_by_hand():
    scales = torch.tensor([1.0, 3.0, 8.0]).double()
    problem = Problem.from_function(lambda x: 0.5 * (scales * x * x).sum(), torch.ones(3).double())
    copy = Copy(Bench(Run(problem, SGD(problem.model.parameters(), 0.1)), problem), 0)
    spent = problem.spent.gradients
    r.rate_by_curvature(0).change(copy)

    assert copy.optimizer.param_groups[0]["lr"] == pytest.approx(1 / 8, rel=1e-6)
    assert problem.spent.gradients > spent


@pytest.mark.parametrize(("batch", "why"), [
    ((torch.zeros(4, 2).long(), torch.zeros(4, 1)), "not one floating-point tensor"),
    ({"x": torch.zeros(4, 2)}, "not one floating-point tensor"),
    ((torch.zeros(4, 2), torch.zeros(4).long()), "not one floating-point tensor"),
    ((torch.zeros(4, 2, 3), torch.zeros(4, 1)), "3 dimensions"),
])  # fmt: skip
def test_inputs_and_targets_that_have_no_scale_are_refused(batch, why):
    with pytest.raises(NotPossible, match=why):
        r.standardize(batch, inputs=True, targets=True)


# Joined


def planted(group, log, key=""):
    return r.Remedy(group, f"the {group}", group, lambda _: log.append(group), f"# {group}", key=key or group)  # fmt: skip


PAIRS = [(a, b) for k, a in enumerate(r.GROUPS) for b in list(r.GROUPS)[k + 1 :]]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_two_are_applied_in_the_order_of_the_groups(pair, turned):
    log = []
    first, second = (planted(group, log) for group in (pair[::-1] if turned else pair))
    both = first + second
    both.change(copied(own("plain")))

    assert tuple(log) == both.groups == pair
    assert both.code == f"# {pair[0]}\n# {pair[1]}"
    assert both.name == f"{pair[0]} + {pair[1]}"


@pytest.mark.parametrize("order", [
    ("model", "place", "step"),
    ("place", "step", "batch"),
    ("place", "objective", "step"),
    ("place", "step", "objective"),
    ("place", "batch", "step"),
])  # fmt: skip
@pytest.mark.parametrize("joined", [lambda a, b, c: a + b + c, lambda a, b, c: a + (b + c)])
def test_three_are_applied_in_the_order_of_the_groups_however_they_are_joined(order, joined):
    log = []
    every = joined(*(planted(group, log) for group in order))
    every.change(copied(own("plain")))

    assert log == [group for group in r.GROUPS if group in order]
    assert every.key == " & ".join(log)
    assert [part.group for part in every.parts] == log


def test_what_is_joined_keeps_weights_only_if_both_do_and_costs_both():
    mine = own("plain")
    both = MAKE["best start"](mine) + MAKE["rate of curvature"](mine)

    assert (both.keeps_weights, both.random) == (False, True)
    assert both.price == pytest.approx(8 / 3 + 40)
    assert not r.rate(2.0).intrusion > (r.rate(2.0) + r.batch_of(8, "b")).intrusion
    assert r.normalize().intrusion > r.rate(2.0).intrusion
    assert r.new_start("he").intrusion > r.normalize().intrusion


@pytest.mark.parametrize(("remedy", "left"), [
    (r.adam(0.01), [0.2, 0.01]),  # each group keeps its own
    (r.adam(0.01) + r.decay(0.5), [0.1, 0.005]),
    (r.decay(0.0) + r.adam(0.01), [0.0, 0.0]),
])  # fmt: skip
def test_adam_keeps_the_decay_of_each_group_and_less_decay_leaves_less(remedy, left):
    copy = copied(own("grouped"))
    remedy.change(copy)
    mine = executed(remedy.code, own("grouped"))

    for optimizer in (copy.optimizer, mine.optimizer):
        assert type(optimizer) is torch.optim.Adam
        assert [g["weight_decay"] for g in optimizer.param_groups] == pytest.approx(left)


def test_less_decay_and_another_rate_are_both_there():
    copy = copied(own("grouped"))
    (r.rate(10.0) + r.decay(0.5)).change(copy)

    assert [g["weight_decay"] for g in copy.optimizer.param_groups] == pytest.approx([0.1, 0.005])
    assert [g["lr"] for g in copy.optimizer.param_groups] == pytest.approx([30 * RATE, 10 * RATE])


STEPS = ("Adam", "momentum 0.9", "rate × 10", "no decay", "rescale")


@pytest.mark.parametrize(("first", "second"), [
    *((model, step) for model in ("normalize", "standardized", "leaky") for step in STEPS),
    ("leaky", "rate of curvature"),
    ("standardized", "rate of curvature"),
])  # fmt: skip
def test_the_code_of_two_does_what_both_do_to_a_copy(first, second):
    mine, copy = own("grouped"), copied(own("grouped"))
    both = MAKE[first](mine) + MAKE[second](mine)
    before = {key: value.clone() for key, value in mine.model.state_dict().items()}
    both.change(copy)
    check_alike(executed(both.code, mine), copy, before, random=both.random)


@pytest.mark.parametrize("bound", ["best start", "revive", "escape"])
@pytest.mark.parametrize("change", ["normalize", "inputs", "leaky"])
def test_what_holds_numbers_or_names_of_the_model_as_it_is_joins_no_change_of_it(change, bound):
    mine = own("plain")
    made = r.move_to(torch.zeros(2), "moved") if bound == "escape" else MAKE[bound](mine)
    with pytest.raises(NotPossible, match="as it is"):
        MAKE[change](mine) + made


def test_a_new_start_noise_and_an_escape_change_the_same():
    escaping = r.move_to(torch.zeros(2), "moved")

    assert escaping.groups == r.new_start("he").groups == r.noise(1.0).groups
