"""Copies are trained on exactly as the user's own loop would, and nothing of the user's moves."""

import math
import random
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from cases import network
from unstick.diagnosis.bench import Bench, cloud
from unstick.diagnosis.run import Run
from unstick.problem.problem import Problem
from unstick.training.order import BatchOrder, generator_for

SAMPLES = 48


def samples(inputs=3, classes=2):
    draw = torch.Generator().manual_seed(7)
    x = torch.randn(SAMPLES, inputs, generator=draw)
    return x, torch.randint(classes, (SAMPLES,), generator=draw)


def noisy():
    """Batch statistics, and noise of its own."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.3), nn.Linear(6, 2)
        )


MODELS = {"dense": lambda: network(3, 6, 2), "noisy": noisy}
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1),
    "momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01),
}


def loop(model, optimizer, batches, *, clip=None, seed=0):
    """What a user's own loop does with these batches."""
    losses = []
    with torch.random.fork_rng():
        torch.manual_seed(generator_for("model", seed).initial_seed())
        model.train()
        for x, y in batches:
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(x), y)
            loss.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            losses.append(float(loss.detach()))
    return losses


def drawn(updates, size, *, seed=0):
    x, y = samples()
    order = BatchOrder(SAMPLES, size, seed=seed)
    return [(x[rows], y[rows]) for rows in (order.next() for _ in range(updates))]


def stuck(model="dense", optimizer="sgd", **known):
    """A run with some updates behind it, so that its optimizer remembers them."""
    model = MODELS[model]()
    optimizer = OPTIMIZERS[optimizer](model.parameters())
    loop(model, optimizer, drawn(4, 12, seed=9))
    problem = Problem(model, samples(), nn.CrossEntropyLoss())
    return Bench(Run(problem, optimizer, **known), problem), model, optimizer


def flat(model):
    return torch.cat([p.detach().double().reshape(-1) for p in model.parameters()])


def linear(w, *, rate=0.1, **settings):
    """f = ½ Σ c w², whose steps are done by hand, with c = 1, 2, 3."""
    scales = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    problem = Problem.from_function(
        lambda x: 0.5 * (scales * x * x).sum(), torch.tensor(w, dtype=torch.float64)
    )
    optimizer = torch.optim.SGD(problem.model.parameters(), rate, **settings)
    return problem, optimizer, scales.numpy()


@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize("size", [None, 10, 48])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("model", MODELS)
def test_going_on_is_the_users_own_loop_bit_for_bit(model, optimizer, size, clip):
    bench, own, settings = stuck(model, optimizer, batch_size=size, clip_norm=clip)
    arm = bench.go_on(12, seed=3)

    before = flat(own)
    losses = loop(own, settings, drawn(12, size, seed=3), clip=clip, seed=3)
    assert list(arm.losses) == losses
    assert torch.equal(arm.moved, flat(own) - before)


def test_the_loss_afterwards_is_of_all_data_at_the_copys_parameters():
    bench, own, settings = stuck("dense", "momentum", batch_size=10)
    arm = bench.go_on(12, seed=3)

    loop(own, settings, drawn(12, 10, seed=3))
    x, y = samples()
    with torch.no_grad():
        loss = functional.cross_entropy(own.double()(x.double()), y)
    assert arm.loss == pytest.approx(float(loss))


def test_the_loss_afterwards_is_by_the_copys_own_batch_statistics():
    bench, own, settings = stuck("noisy", "sgd", batch_size=10)
    arm = bench.go_on(40, seed=3)

    loop(own, settings, drawn(40, 10, seed=3), seed=3)
    x, y = samples()
    with torch.no_grad():
        loss = functional.cross_entropy(own.double().eval()(x.double()), y)
    assert arm.loss == pytest.approx(float(loss), rel=1e-6)


def everything(model, optimizer):
    """All that a user could notice."""
    return deepcopy(
        {
            "parameters": list(model.parameters()),
            "gradients": [p.grad for p in model.parameters()],
            "buffers": list(model.buffers()),
            "optimizer": optimizer.state_dict(),
            "modes": [module.training for module in model.modules()],
            "gradient mode": torch.is_grad_enabled(),
            "torch": torch.get_rng_state(),
            "numpy": np.random.get_state()[1],  # noqa: NPY002
            "python": random.getstate(),
        }
    )


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


WAYS = {
    "on": lambda bench: bench.go_on(5, seed=1),
    "changed": lambda bench: bench.go_on(
        5, seed=1, rate=10.0, batch=4.0, clip=False, decay=False, momentum=0.5
    ),
    "exploding": lambda bench: bench.go_on(5, seed=1, rate=1e30),
    "anew": lambda bench: bench.go_on(5, seed=1, anew=True).loss,
    "cloud": lambda bench: cloud(bench.problem, 5, seed=1),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
def test_nothing_of_the_users_moves(way, optimizer):
    bench, own, settings = stuck("noisy", optimizer, batch_size=10, clip_norm=0.1)
    own[1].eval()
    before = everything(own, settings)
    with torch.no_grad():
        WAYS[way](bench)

    assert same(before, everything(own, settings))
    assert all(p.grad is not None for p in own.parameters())


def test_a_loss_that_names_the_model_itself_leaves_its_gradients_alone():
    model = network(3, 4, 2)

    def loss(given, batch):
        return functional.cross_entropy(given(batch[0]), batch[1]) + model[0].weight.square().sum()

    problem = Problem(model, [samples()], batch_loss=loss)
    Bench(Run(problem, torch.optim.SGD(model.parameters(), 0.1)), problem).go_on(1, seed=0)

    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("way", ["on", "anew"])
def test_no_device_that_the_model_is_not_on_is_seeded(monkeypatch, way):
    bench, _, _ = stuck()
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    WAYS[way](bench)

    assert seeded == []


@pytest.mark.parametrize("rate", [0.1, 1.0, 10.0])
def test_another_rate_makes_one_plain_step_so_much_longer(rate):
    problem, optimizer, scales = linear([1.0, -1.0, 0.5])
    arm = Bench(Run(problem, optimizer), problem).go_on(1, seed=0, rate=rate)

    assert arm.moved.numpy() == pytest.approx(-0.1 * rate * scales * [1.0, -1.0, 0.5])


def test_another_momentum_and_no_decay_are_done_by_hand():
    problem, optimizer, scales = linear([1.0, -1.0, 0.5], momentum=0.2, weight_decay=0.7)
    arm = Bench(Run(problem, optimizer), problem).go_on(3, seed=0, momentum=0.9, decay=False)

    w, v = np.array([1.0, -1.0, 0.5]), np.zeros(3)
    for _ in range(3):
        v = 0.9 * v + scales * w
        w = w - 0.1 * v
    assert arm.moved.numpy() == pytest.approx(w - [1.0, -1.0, 0.5])
    assert arm.loss == pytest.approx(0.5 * float(scales @ w**2))


def test_the_optimizers_own_memory_goes_on():
    problem, optimizer, scales = linear([1.0, -1.0, 0.5], momentum=0.5)
    parameter = next(problem.model.parameters())
    optimizer.state[parameter]["momentum_buffer"] = torch.tensor([4.0, 0.0, -2.0]).double()
    arm = Bench(Run(problem, optimizer), problem).go_on(1, seed=0)

    gradient = scales * [1.0, -1.0, 0.5]
    assert arm.moved.numpy() == pytest.approx(-0.1 * (gradient + 0.5 * np.array([4.0, 0.0, -2.0])))


@pytest.mark.parametrize(("clip", "length"), [(True, 0.1 * 0.25), (False, 0.1 * 14**0.5)])
def test_clipping_shortens_a_step_and_can_be_left_out(clip, length):
    problem, optimizer, _ = linear([1.0, 1.0, 1.0])
    arm = Bench(Run(problem, optimizer, clip_norm=0.25), problem).go_on(1, seed=0, clip=clip)

    assert float(arm.moved.norm()) == pytest.approx(length, rel=1e-5)


def test_batches_so_many_times_as_large_are_the_loop_on_those():
    bench, own, settings = stuck(batch_size=5)
    arm = bench.go_on(6, seed=2, batch=4.0)
    whole = bench.go_on(1, seed=2, batch=16.0)

    start = deepcopy((own, settings))
    before = flat(own)
    assert list(arm.losses) == loop(own, settings, drawn(6, 20, seed=2))
    assert torch.equal(arm.moved, flat(own) - before)
    loop(*start, [samples()])
    assert torch.equal(whole.moved, flat(start[0]) - before)


@pytest.mark.parametrize(("asked", "taken"), [(None, 48), (1, 1), (10, 10), (48, 48), (500, 48)])
def test_no_update_takes_more_samples_than_there_are(asked, taken):
    bench, _, _ = stuck(batch_size=asked)

    assert bench.batch_size == taken
    assert bench.updates_for(10) == int(480 / taken)
    assert bench.updates_for(10, batch=16) == int(480 / min(48, 16 * taken))
    assert bench.updates_for(1e-9) == 1


def test_what_is_spent_is_counted_in_gradients():
    bench, own, _ = stuck(batch_size=12)
    problem = Problem(own, samples(), nn.CrossEntropyLoss())
    bench = Bench(Run(problem, bench.run.optimizer, batch_size=12), problem)
    before = problem.spent.gradients
    bench.go_on(40, seed=0)

    assert 10 <= problem.spent.gradients - before <= 11


@pytest.mark.parametrize("seed", [0, 1])
def test_an_arm_that_blows_up_says_so_and_has_no_loss(seed):
    problem, optimizer, _ = linear([1.0, 1.0, 1.0])
    arm = Bench(Run(problem, optimizer), problem).go_on(400, seed=seed, rate=100.0)

    assert arm.blew_up
    assert math.isnan(arm.loss)
    assert len(arm.losses) < 400


def test_an_arm_that_oscillates_without_end_has_not_blown_up():
    problem, optimizer, _ = linear([1.0, 0.0, 0.0], rate=2.0)  # η = 2/λ
    arm = Bench(Run(problem, optimizer), problem).go_on(400, seed=0)

    assert not arm.blew_up
    assert arm.losses == (0.5,) * 400


@pytest.mark.parametrize("which", ["none", "of another model", "of this one"])
def test_an_optimizer_fits_if_it_holds_the_models_parameters(which):
    model, other = network(3, 4, 2), network(3, 4, 2)
    problem = Problem(model, samples(), nn.CrossEntropyLoss())
    owner = {"none": None, "of another model": other, "of this one": model}[which]
    optimizer = None if owner is None else torch.optim.SGD(owner.parameters(), 0.1)

    assert Bench(Run(problem, optimizer), problem).fits == (owner is model)


def test_a_restart_begins_at_torchs_initialization_of_this_seed():
    model = network(3, 6, 2)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    problem = Problem(model, samples(), nn.CrossEntropyLoss())
    bench = Bench(Run(problem, torch.optim.SGD(model.parameters(), 0.0)), problem)
    reached = [bench.go_on(1, seed=seed, anew=True).loss for seed in (4, 4, 5)]

    with torch.random.fork_rng():
        torch.manual_seed(generator_for("model", 4).initial_seed())
        fresh = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2)).double()
        torch.manual_seed(generator_for("model", 4).initial_seed())
        for layer in (fresh[0], fresh[2]):
            drawn_like = nn.Linear(layer.in_features, layer.out_features)
            with torch.no_grad():
                layer.weight.copy_(drawn_like.weight)
                layer.bias.copy_(drawn_like.bias)
    x, y = samples()
    with torch.no_grad():
        loss = functional.cross_entropy(fresh(x.double()), y)
    assert reached[0] == pytest.approx(float(loss))
    assert reached[0] == reached[1] != reached[2]
    assert problem.value() == pytest.approx(math.log(2))


def test_a_restart_has_the_first_rate_and_no_memory():
    model = network(3, 6, 2)
    problem = Problem(model, samples(), nn.CrossEntropyLoss())
    plain = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    expected = Bench(Run(problem, plain), problem).go_on(5, seed=0, anew=True).loss

    used = torch.optim.SGD(model.parameters(), 1e-9, momentum=0.9)
    for group in used.param_groups:
        group["initial_lr"] = 0.1
    for parameter in model.parameters():
        used.state[parameter]["momentum_buffer"] = torch.full_like(parameter, 1e6)
    assert Bench(Run(problem, used), problem).go_on(5, seed=0, anew=True).loss == expected


def test_a_restart_moves_parameters_that_no_module_can_initialize():
    problem, optimizer, _ = linear([0.0, 0.0, 0.0], rate=0.0)
    bench = Bench(Run(problem, optimizer), problem)
    losses = {bench.go_on(1, seed=seed, anew=True).loss for seed in range(5)}

    assert len(losses) == 5
    assert 0 not in losses


def test_a_restart_keeps_what_is_frozen():
    model = network(3, 6, 2)
    model[0].requires_grad_(False)
    with torch.no_grad():
        model[0].weight.zero_()  # so that the first layer's outputs are the same for all samples
        model[0].bias.zero_()
    problem = Problem(model, samples(), nn.CrossEntropyLoss())
    bench = Bench(Run(problem, torch.optim.SGD(model[2].parameters(), 0.5)), problem)

    shares = samples()[1].double().mean()
    entropy = float(-(shares * shares.log() + (1 - shares) * (1 - shares).log()))
    assert bench.go_on(300, seed=0, anew=True).loss == pytest.approx(entropy, abs=1e-6)


def test_a_cloud_is_as_wide_as_the_parameters_and_never_below_the_lowest_value():
    problem, _, _ = linear([3.0, 0.0, 0.0])
    few, many = cloud(problem, 4, seed=0), cloud(problem, 4000, seed=0)

    assert 0 < many < few
    assert few == cloud(problem, 4, seed=0) != cloud(problem, 4, seed=1)
    # the lowest of ½ c w², w from N(0, 3²): fewer than 4000 · 0.2 % of them lie below a half
    assert 1e-3 < many < 1.0


def test_a_cloud_where_no_loss_is_finite_knows_nothing():
    problem = Problem.from_function(lambda x: (1e9 * (x * x).sum()).exp(), torch.zeros(2))

    assert math.isnan(cloud(problem, 16, seed=0))
