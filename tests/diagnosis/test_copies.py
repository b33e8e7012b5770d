"""A copy trains as the user's loop does, in one piece or several, takes new parts, and never touches the original."""

import random
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from cases import network
from unstick.diagnosis.bench import Bench
from unstick.diagnosis.copies import Copy
from unstick.diagnosis.run import Run
from unstick.errors import BadModel
from unstick.problem.problem import Problem
from unstick.training import hand_over, insert_normalization
from unstick.training.normalization import add_alike
from unstick.training.order import BatchOrder

SAMPLES = 30


def samples(classes=2):
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(SAMPLES, 3, generator=draw)
    return x, torch.randint(classes, (SAMPLES,), generator=draw)


def normalizing():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 2))


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1),
    "nesterov": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, 0.01),
    "adagrad": lambda p: torch.optim.Adagrad(p, 0.01),
}


def benched(model=None, make=None, **known):
    """A bench of a run that remembers three updates."""
    model = network(3, 6, 2) if model is None else model
    make = make or OPTIMIZERS["nesterov"]
    optimizer = make([p for p in model.parameters() if p.requires_grad])
    x, y = (part.to(p.dtype) if part.is_floating_point() else part
            for part, p in ((part, next(model.parameters())) for part in samples()))  # fmt: skip
    modes = [module.training for module in model.modules()]
    for k in range(3):
        optimizer.zero_grad()
        functional.cross_entropy(model(x[9 * k : 9 * k + 9]), y[9 * k : 9 * k + 9]).backward()
        optimizer.step()
    for module, mode in zip(model.modules(), modes, strict=True):
        module.training = mode
    problem = Problem(model, (x, y), nn.CrossEntropyLoss())
    return Bench(Run(problem, optimizer, **known), problem)


def function(x0=(1.0, -2.0), **settings):
    """f = ½ Σ x², whose gradient is x."""
    problem = Problem.from_function(lambda x: 0.5 * (x * x).sum(), torch.tensor(x0).double())
    optimizer = torch.optim.SGD(problem.model.parameters(), **({"lr": 0.1} | settings))
    return Bench(Run(problem, optimizer), problem)


def numbers(model):
    return torch.cat([t.detach().double().reshape(-1) for t in model.state_dict().values()])


def everything(run):
    """All that a user could notice."""
    model, optimizer = run.problem.model, run.optimizer
    return deepcopy(
        [
            list(model.state_dict().items()),
            [p.grad for p in model.parameters()],
            [p.requires_grad for p in model.parameters()],
            [module.training for module in model.modules()],
            [name for name, _ in model.named_modules()],
            optimizer.state_dict(),
            torch.get_rng_state(),
            np.random.get_state()[1],  # noqa: NPY002
            random.getstate(),
        ]
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


@pytest.mark.parametrize("warmup", [0, 9])
@pytest.mark.parametrize("size", [None, 7, 30])
@pytest.mark.parametrize("make", OPTIMIZERS)
def test_trained_in_pieces_it_is_the_same_bit_for_bit(make, size, warmup):
    bench = benched(normalizing(), OPTIMIZERS[make], batch_size=size, clip_norm=0.5)
    if size == 7:
        bench.batch = tuple(part[:28] for part in bench.batch)  # so that no batch holds two
        bench.samples = 28
    pieces, whole = Copy(bench, 4), Copy(bench, 4)
    pieces.warmup = whole.warmup = warmup
    for updates in (5, 7):
        pieces.train(updates)
    whole.train(12)

    assert pieces.losses == whole.losses
    assert len(whole.losses) == 12
    assert torch.equal(numbers(pieces.model), numbers(whole.model))
    assert same(pieces.optimizer.state_dict(), whole.optimizer.state_dict())


def test_another_seed_takes_other_batches():
    first, second = (Copy(benched(batch_size=7), seed) for seed in (0, 1))
    for copy in (first, second):
        copy.train(3)

    assert first.losses != second.losses


@pytest.mark.parametrize("size", [None, 7])
def test_warm_up_steps_at_the_rates_done_by_hand(size):
    bench = function((1.0, -2.0), lr=0.3)
    copy = Copy(bench, 0)
    copy.batch_size, copy.warmup = size or 1, 4
    copy.train(6)

    x, losses = np.array([1.0, -2.0]), []
    for rate in (0.075, 0.15, 0.225, 0.3, 0.3, 0.3):
        losses.append(0.5 * float(x @ x))
        x = x - rate * x
    assert copy.losses == pytest.approx(losses, rel=1e-12)
    assert numbers(copy.model).numpy() == pytest.approx(x, rel=1e-12)
    assert copy.optimizer.param_groups[0]["lr"] == 0.3


def test_warm_up_scales_the_rate_of_every_group():
    model = network(3, 4, 2)
    groups = [{"params": model[0].parameters(), "lr": 0.2}, {"params": model[2].parameters()}]
    problem = Problem(model, samples(), nn.CrossEntropyLoss())
    bench = Bench(Run(problem, torch.optim.SGD(groups, 0.5)), problem)
    slow, plain = Copy(bench, 0), Copy(bench, 0)
    slow.warmup = 10
    before = [p.detach().clone() for p in model.parameters()]
    for copy in (slow, plain):
        copy.train(1)

    for p, a, b in zip(before, slow.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(p - a, (p - b) / 10, rtol=1e-3, atol=1e-7)
    assert [g["lr"] for g in slow.optimizer.param_groups] == [0.2, 0.5]


def test_an_update_is_clipped_at_the_copys_own_norm():
    copy = Copy(function((3.0, 4.0), lr=1.0), 0)
    copy.clip_norm = 0.5
    copy.train(1)

    assert numbers(copy.model).numpy() == pytest.approx([3.0 - 0.3, 4.0 - 0.4], rel=1e-5)


@pytest.mark.parametrize("model", ["dense", "normalizing", "evaluating"])
def test_nothing_of_the_users_moves_when_the_copy_is_changed_all_over(model):
    own = network(3, 6, 2) if model == "dense" else normalizing()
    bench = benched(own, batch_size=10)
    if model == "evaluating":
        own.eval()
    before = everything(bench.run)
    copy = Copy(bench, 0)
    copy.set_rates(lambda rate: 10 * rate)
    copy.forget()
    copy.move_to(torch.ones(bench.problem.n).double())
    copy.optimizer.param_groups[0]["momentum"] = 0.1
    copy.train(4)
    copy.step_by(torch.optim.Adam, lr=0.1)
    copy.train(4)
    copy.loss()

    assert same(before, everything(bench.run))
    assert not torch.equal(numbers(copy.model), numbers(own))


class Failing(nn.Module):
    """Fails in the forward pass of so many calls after the first three."""

    def __init__(self, error, after):
        super().__init__()
        self.layer, self.error, self.left = nn.Linear(3, 2), error, after

    def forward(self, x):
        if self.training:
            self.left -= 1
            if self.left < 0:
                raise self.error
        return self.layer(x)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("out of memory")])
def test_nothing_of_the_users_moves_when_training_the_copy_fails(error):
    bench = benched(Failing(error, 5), batch_size=10)
    before = everything(bench.run)
    copy = Copy(bench, 0)
    with torch.no_grad(), pytest.raises(type(error)):
        copy.train(9)

    assert same(before, everything(bench.run))
    assert len(copy.losses) == 2


def test_a_copy_that_blew_up_says_so_and_trains_no_further():
    copy = Copy(function(lr=1e9), 0)
    copy.train(50)
    done = len(copy.losses)
    copy.train(50)

    assert copy.blew_up
    assert np.isnan(copy.loss())
    assert len(copy.losses) == done < 50


def test_a_copy_that_swings_without_end_has_not_blown_up():
    copy = Copy(function((1.0, -2.0), lr=2.0), 0)
    copy.train(50)

    assert not copy.blew_up
    assert copy.loss() == 2.5


def test_first_rates_are_those_that_a_scheduler_noted():
    bench = benched()
    group = bench.run.optimizer.param_groups[0]
    group["initial_lr"], group["lr"] = 0.7, 1e-6
    copy, plain = Copy(bench, 0), Copy(benched(), 0)
    copy.to_first_rates()
    plain.to_first_rates()

    assert copy.optimizer.param_groups[0]["lr"] == 0.7
    assert group["lr"] == 1e-6
    assert plain.optimizer.param_groups[0]["lr"] == 0.1


def grouped():
    """Two groups with rates, momenta and memories of their own."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)
        )
    optimizer = torch.optim.SGD(
        [
            {"params": [model[0].weight, model[4].bias], "lr": 0.2, "momentum": 0.5},
            {"params": [model[0].bias, *model[2].parameters(), model[4].weight]},
        ],
        lr=0.01,
        momentum=0.9,
    )
    for k, parameter in enumerate(model.parameters()):
        optimizer.state[parameter]["momentum_buffer"] = torch.full_like(parameter, k + 1.0)
    problem = Problem(model, samples(), nn.CrossEntropyLoss())
    return Bench(Run(problem, optimizer), problem)


def apart(model):
    """Parameters outside normalization, and inside."""
    inside = [p for m in model.modules() if isinstance(m, nn.BatchNorm1d) for p in m.parameters()]
    ids = {id(p) for p in inside}
    return [p for p in model.parameters() if id(p) not in ids], inside


def handed_over():
    """A user's own optimizer, and the model it goes on with."""
    run = grouped().run
    model = insert_normalization(run.problem.model)
    hand_over(run.optimizer, run.problem.model, model)
    return run.optimizer, model


def put_in():
    copy = Copy(grouped(), 0)
    copy.put_in(insert_normalization(copy.model))
    return copy.optimizer, copy.model


@pytest.mark.parametrize("make", [put_in, handed_over])
def test_a_normalized_model_takes_over_each_parameters_memory_and_its_groups_settings(make):
    optimizer, model = make()
    others, norms = apart(model)

    memory = [float(optimizer.state[p]["momentum_buffer"].flatten()[0]) for p in others]
    assert memory == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert len(optimizer.state) == 6
    groups = optimizer.param_groups
    ids = [[id(p) for p in group["params"]] for group in groups]
    w1, b1, w2, b2, w3, b3 = map(id, others)
    assert ids == [[w1, b3], [b1, w2, b2, w3], [id(p) for p in norms]]
    assert [(g["lr"], g["momentum"]) for g in groups] == [(0.2, 0.5), (0.01, 0.9), (0.2, 0.5)]
    assert len(norms) == 4


def test_old_parameters_are_told_their_new_ones():
    old, optimizer = network(3, 4, 2), torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)
    new = insert_normalization(old)

    assert list(hand_over(optimizer, old, new).items()) == list(
        zip(old.parameters(), apart(new)[0], strict=True)
    )


def test_the_names_of_the_run_lead_to_the_parameters_of_the_model_put_in():
    copy = Copy(grouped(), 0)
    copy.put_in(insert_normalization(copy.model))

    assert copy.parameters["4.weight"] is copy.model[6].weight
    assert {id(p) for p in copy.parameters.values()} == {id(p) for p in apart(copy.model)[0]}


@pytest.mark.parametrize("other", [
    lambda: network(3, 6, 2),
    lambda: insert_normalization(network(3, 6, 5, 3)),
    lambda: insert_normalization(network(3, 6, 5, 2, 2)),
], ids=["fewer", "other shapes", "more"])  # fmt: skip
def test_a_model_that_differs_in_more_than_normalization_is_refused_and_nothing_has_changed(other):
    copy = Copy(grouped(), 0)
    own, held = copy.model, [[id(p) for p in g["params"]] for g in copy.optimizer.param_groups]
    before = deepcopy(copy.optimizer.state_dict())
    for refused in (copy.put_in, lambda m: hand_over(copy.optimizer, own, m)):
        with pytest.raises(BadModel, match="expected a model that normalization was inserted into"):
            refused(other())

    assert copy.model is own
    assert [[id(p) for p in g["params"]] for g in copy.optimizer.param_groups] == held
    assert same(copy.optimizer.state_dict(), before)


def test_all_parameters_of_a_normalized_model_are_trained():
    copy = Copy(grouped(), 0)
    copy.put_in(insert_normalization(copy.model))
    before = [p.detach().clone() for p in copy.model.parameters()]
    copy.train(2)

    assert copy.model[1].__class__ is nn.BatchNorm1d
    for name, old, new in zip(
        [n for n, _ in copy.model.named_parameters()], before, copy.model.parameters(), strict=True
    ):
        assert not torch.equal(old, new), name


def test_a_memory_put_in_steps_as_it_would_have_by_hand():
    copy = Copy(grouped(), 0)
    copy.put_in(insert_normalization(copy.model))
    twin = deepcopy(copy.model)
    x, y = samples()
    functional.cross_entropy(twin(x), y).backward()
    first, memory = (0.2, 0.5), iter(range(1, 7))
    expected = []
    for name, p in twin.named_parameters():
        norm = name.startswith(("1.", "4."))
        rate, momentum = first if norm or name in ("0.weight", "6.bias") else (0.01, 0.9)
        kept = 0 if norm else next(memory)
        expected.append(p.detach() - rate * (momentum * kept + p.grad))
    copy.train(1)

    for p, by_hand in zip(copy.model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.detach(), by_hand, rtol=1e-5, atol=1e-6)


def test_more_parameters_join_with_the_settings_of_the_first_group():
    bench = grouped()
    extra = [nn.Parameter(torch.zeros(2))]
    copy = Copy(bench, 0)
    add_alike(copy.optimizer, extra)

    last = copy.optimizer.param_groups[-1]
    assert last["params"] == extra
    assert (last["lr"], last["momentum"]) == (0.2, 0.5)
    assert len(bench.run.optimizer.param_groups) == 2


def test_another_optimizer_holds_the_same_groups_each_with_its_own_weight_decay():
    copy = Copy(grouped(), 0)
    copy.optimizer.param_groups[1]["weight_decay"] = 0.4
    held = [[id(p) for p in group["params"]] for group in copy.optimizer.param_groups]
    copy.step_by(torch.optim.Adam, lr=0.3)

    groups = copy.optimizer.param_groups
    assert [[id(p) for p in group["params"]] for group in groups] == held
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [(0.3, 0.0), (0.3, 0.4)]
    assert not copy.optimizer.state


# Awkward users


def frozen_backbone():
    model = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))
    model[:2].requires_grad_(False)
    return model


@pytest.mark.parametrize("how", ["backbone in eval", "all in eval"])
def test_the_statistics_of_a_frozen_backbone_stay(how):
    model = frozen_backbone()
    (model[1] if how == "backbone in eval" else model).eval()
    bench = benched(model, batch_size=10)
    copy = Copy(bench, 0)
    copy.train(10)

    for name, buffer in model[1].named_buffers():
        assert torch.equal(copy.model[1].get_buffer(name), buffer)
    assert torch.equal(copy.model[0].weight, model[0].weight)
    assert not torch.equal(copy.model[3].weight, model[3].weight)


def test_statistics_that_are_trained_are_gathered_whatever_the_mode_at_hand():
    model = normalizing()
    bench = benched(model, batch_size=10)
    model.eval()
    copy = Copy(bench, 0)
    copy.train(10)

    assert not torch.equal(copy.model[1].running_mean, model[1].running_mean)


@pytest.mark.parametrize(("size", "training", "drops"), [
    (29, True, True),  # the last batch of an epoch holds one sample
    (28, True, False),
    (29, False, False),
    (29, None, False),
])  # fmt: skip
def test_a_last_batch_of_one_sample_is_left_out_only_where_batch_normalization_trains(
    size, training, drops
):
    model = network(3, 6, 2) if training is None else normalizing()
    if training is False:
        model[1].eval()
    bench = benched(model, batch_size=size)
    own, optimizer = deepcopy((model, bench.run.optimizer))
    copy = Copy(bench, 0)
    copy.train(4)

    order, losses = BatchOrder(SAMPLES, size, seed=0, drop_last=drops), []
    x, y = samples()
    for rows in (order.next() for _ in range(4)):
        optimizer.zero_grad()
        loss = functional.cross_entropy(own(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert copy.losses == losses


def test_float64_models_stay_so():
    bench = benched(normalizing().double(), batch_size=10)
    copy = Copy(bench, 0)
    copy.train(3)

    assert {p.dtype for p in copy.model.parameters()} == {torch.float64}
    x, y = bench.batch
    rows = BatchOrder(SAMPLES, 10, seed=0).next()
    own = deepcopy(bench.run.problem.model).train()
    assert copy.losses[0] == float(functional.cross_entropy(own(x[rows]), y[rows]).detach())


def test_batches_that_are_dictionaries_are_the_loop_on_those():
    model = network(3, 6, 2)
    x, y = samples()
    parts = [{"x": x[k : k + 10], "y": y[k : k + 10]} for k in (0, 10, 20)]
    problem = Problem(
        model,
        parts,
        batch_loss=lambda m, batch: functional.cross_entropy(m(batch["x"]), batch["y"]),
    )
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    copy = Copy(Bench(Run(problem, optimizer, batch_size=7), problem), 2)
    copy.train(6)

    order, losses = BatchOrder(SAMPLES, 7, seed=2), []
    for rows in (order.next() for _ in range(6)):
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert copy.losses == losses
    assert torch.equal(numbers(copy.model), numbers(model))
