from collections import UserDict

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.testing import assert_close
from torch.utils.data import DataLoader, IterableDataset, SubsetRandomSampler, TensorDataset

from problem.cases import perceptron
from unstick import Problem
from unstick.errors import BadData, BadModel, NonFinite

LOSS = nn.CrossEntropyLoss()


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(50, 4, generator=generator), torch.arange(50) % 3


@pytest.fixture
def model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return perceptron()


def inputs_of(problem):
    """All first columns, sorted: which samples are kept."""
    return torch.cat([batch[0][:, 0] for batch in problem._evaluation.batches]).sort().values


class Stream(IterableDataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __iter__(self):
        return iter(list(zip(self.x, self.y, strict=True)))


def forms(x, y):
    set_ = TensorDataset(x, y)
    yield "pair", (x, y)
    yield "pair as a list", [x, y]
    yield "batches", [(x[:20], y[:20]), (x[20:], y[20:])]
    yield "lists", [[x[:20], y[:20]], [x[20:], y[20:]]]
    yield "generator", ((x[i : i + 9], y[i : i + 9]) for i in range(0, 50, 9))
    yield "loader", DataLoader(set_, batch_size=16)
    yield "shuffled", DataLoader(set_, batch_size=16, shuffle=True)
    yield "seeded", DataLoader(set_, 16, shuffle=True, generator=torch.Generator().manual_seed(4))
    yield "iterable", DataLoader(Stream(x, y), batch_size=16)
    yield "batches as items", DataLoader([(x[:30], y[:30]), (x[30:], y[30:])], batch_size=None)


NAMES = [name for name, _ in forms(torch.zeros(50, 1), torch.zeros(50))]


@pytest.mark.parametrize("name", NAMES)
def test_every_form_of_the_same_data_is_the_same_problem(name, model, data):
    expected = LOSS(model.double()(data[0].double()), data[1]).item()
    model.float()
    problem = Problem(model, dict(forms(*data))[name], LOSS)

    assert problem.value() == pytest.approx(expected, rel=1e-12)
    assert problem.samples == 50


def test_batches_of_keywords_reach_a_loss_of_ones_own(model, data):
    x, y = data
    batches = [UserDict(x=x[:20], y=y[:20], note="kept"), UserDict(x=x[20:], y=y[20:], note="")]
    problem = Problem(model, batches, batch_loss=lambda m, b: LOSS(m(b["x"]), b["y"]))

    assert problem.value() == pytest.approx(Problem(model, data, LOSS).value(), rel=1e-12)


@pytest.mark.parametrize("form", [tuple, dict, UserDict])
def test_inputs_may_be_several(form, data):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, a, b):
            return self.first(a) * self.second(b)

    x, y = data
    make = (lambda s: (x[s], x[s] + 1)) if form is tuple else (lambda s: form(a=x[s], b=x[s] + 1))
    model = Two()
    problem = Problem(model, [(make(slice(0, 7)), y[:7]), (make(slice(7, 50)), y[7:])], LOSS)

    wide = model.double()
    assert problem.dtype == torch.float64
    expected = LOSS(wide(x.double(), (x + 1).double()), y).item()
    assert problem.value() == pytest.approx(expected, rel=1e-7)


def test_a_generator_is_read_once_and_refused_when_used_up(model, data):
    batches = (batch for batch in [data])
    Problem(model, batches, LOSS)
    with pytest.raises(BadData, match="already used up"):
        Problem(model, batches, LOSS)


def test_data_are_frozen(model, data):
    x, y = data
    problem = Problem(model, (x, y), LOSS)
    before = problem.value()
    x.zero_()
    assert problem.value() == before


def test_a_loader_that_reuses_its_memory_is_copied(model, data):
    def reusing():
        x, y = torch.empty(25, 4), torch.empty(25, dtype=torch.long)
        for i in (0, 25):
            yield x.copy_(data[0][i : i + 25]), y.copy_(data[1][i : i + 25])

    assert_close(inputs_of(Problem(model, reusing(), LOSS)), data[0][:, 0].sort().values.double())


@pytest.mark.parametrize("name", [n for n in NAMES if n != "generator"])
def test_a_subset_is_seeded_repeatable_and_of_the_size_asked_for(name, model, data):
    def kept(seed):
        torch.manual_seed(seed + 10)  # nothing global decides
        return inputs_of(Problem(model, dict(forms(*data))[name], LOSS, samples=20, seed=seed))

    assert len(kept(0)) == 20
    assert torch.equal(kept(0), kept(0))
    assert not torch.equal(kept(0), kept(1))


def test_a_subset_is_drawn_from_what_the_sampler_visits(model, data):
    loader = DataLoader(
        TensorDataset(*data), batch_size=8, sampler=SubsetRandomSampler(range(30, 50))
    )
    problem = Problem(model, loader, LOSS, samples=10)

    assert set(inputs_of(problem).tolist()) <= set(data[0][30:, 0].double().tolist())


def test_a_subset_of_a_problem_is_one_of_its_samples(model, data):
    problem = Problem(model, data, LOSS)
    part = problem.subset(12, seed=3)

    assert part.samples == 12
    assert problem.samples == 50
    assert torch.equal(inputs_of(part), inputs_of(problem.subset(12, seed=3)))
    assert set(inputs_of(part).tolist()) <= set(inputs_of(problem).tolist())
    part.gradient()
    assert part.spent.gradients == pytest.approx(12 / 50)
    assert problem.subset(1000).value() == pytest.approx(problem.value())
    with pytest.raises(BadData, match="samples=0"):
        problem.subset(0)


def test_more_than_the_memory_holds_is_refused_with_the_way_out(data, model):
    for given in ([data], data, DataLoader(TensorDataset(*data), 16)):
        with pytest.raises(BadData, match="give samples= to keep a random subset") as refusal:
            Problem(model, given, LOSS, memory=500)
        assert "\n" not in str(refusal.value)
        assert Problem(model, given, LOSS, memory=500, samples=10).samples == 10


# -- refusals --------------------------------------------------------------------------------------


def bad(x, y, place, value):
    x = x.clone()
    x[place] = value
    return x, y


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_data_that_are_not_finite_are_refused_with_their_place(value, model, data):
    x, y = bad(*data, (33, 2), value)
    with pytest.raises(NonFinite, match=r"tensor 0 of batch 1 .*\[13, 2\]") as refusal:
        Problem(model, [(x[:20], y[:20]), (x[20:], y[20:])], LOSS)
    assert "\n" not in str(refusal.value)


REFUSED = {
    "no batch": ([], "hold no batch"),
    "no sample": ((torch.zeros(0, 4), torch.zeros(0).long()), "no sample"),
    "an empty batch": ([(torch.zeros(0, 4), torch.zeros(0).long())], "batch 0 holds no sample"),
    "lengths that differ": (
        (torch.zeros(3, 4), torch.zeros(2).long()),
        r"\[3, 4\] and targets \[2\]",
    ),
    "a data set": (TensorDataset(torch.zeros(3, 4)), "expected a DataLoader"),
    "a number": (7, "expected a DataLoader"),
    "inputs alone": ([torch.zeros(3, 4)], r"expected \(inputs, targets\)"),
    "targets that are no tensor": ([(torch.zeros(3, 4), [1, 2, 0])], "targets are a list"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_data_is_refused(name, model):
    given, match = REFUSED[name]
    with pytest.raises(BadData, match=match) as refusal:
        Problem(model, given, LOSS)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("loss", [nn.MSELoss(), functional.mse_loss, nn.BCEWithLogitsLoss()])
def test_targets_that_would_broadcast_are_refused(loss):
    with pytest.raises(BadData, match=r"\[6, 1\] and the targets \[6\].*would broadcast"):
        Problem(nn.Linear(4, 1), (torch.randn(6, 4), torch.rand(6)), loss)


@pytest.mark.parametrize("samples", [0, -3])
def test_fewer_than_one_sample_is_refused(samples, model, data):
    with pytest.raises(BadData, match="samples="):
        Problem(model, data, LOSS, samples=samples)


def test_a_later_batch_that_the_model_does_not_take_is_named(model, data):
    batches = [data, (torch.randn(3, 5), torch.zeros(3).long())]
    with pytest.raises(BadModel, match=r"failed on batch 1 \(\[3, 5\] and \[3\]\)") as refusal:
        Problem(model, batches, LOSS)
    assert "\n" not in str(refusal.value)
