import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.testing import assert_close

from problem.cases import perceptron
from unstick import Problem
from unstick.errors import BadData, BadModel

N = 23
CLASS_WEIGHTS = torch.tensor([0.2, 1.0, 3.0])


def data(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(N, 4, generator=generator), torch.randint(3, (N,), generator=generator)


def model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return perceptron()


def cut(x, y, ends):
    places = [0, *sorted(ends), len(x)]
    return [(x[a:b], y[a:b]) for a, b in itertools.pairwise(places)]


def same(one, other):
    assert one.value() == pytest.approx(other.value(), rel=1e-12)
    assert_close(one.gradient(), other.gradient(), rtol=1e-10, atol=1e-13)
    v = torch.linspace(-1, 1, one.n).double()
    assert_close(one.hessian(mode="kept").matvec(v), other.hessian(mode="kept").matvec(v))


LOSSES = {
    "mean": nn.CrossEntropyLoss(),
    "class weights": nn.CrossEntropyLoss(weight=CLASS_WEIGHTS),
    "ignored class": nn.CrossEntropyLoss(ignore_index=1),
    "smoothed": nn.CrossEntropyLoss(weight=CLASS_WEIGHTS, label_smoothing=0.1, ignore_index=0),
    "function": functional.cross_entropy,
    "sum": nn.CrossEntropyLoss(reduction="sum"),
}


@pytest.mark.parametrize("name", LOSSES)
@settings(max_examples=8, deadline=None)
@given(ends=st.sets(st.integers(1, N - 1), max_size=6))
def test_any_batching_of_the_same_data_gives_the_same_problem(name, ends):
    x, y = data()
    loss = LOSSES[name]

    whole = Problem(model(), (x, y), loss)
    same(Problem(model(), cut(x, y, ends), loss), whole)

    outputs = model().double()(x.double())
    wide = nn.CrossEntropyLoss() if name in ("function", "sum") else loss
    weight = wide.weight
    wide = nn.CrossEntropyLoss(
        weight=None if weight is None else weight.double(),
        ignore_index=wide.ignore_index,
        label_smoothing=wide.label_smoothing,
    )
    assert whole.value() == pytest.approx(wide(outputs, y).item(), rel=1e-7)


@settings(max_examples=8, deadline=None)
@given(ends=st.sets(st.integers(1, N - 1), max_size=6))
def test_batches_that_may_not_be_regrouped_weigh_by_their_samples(ends):
    x, y = data()
    problem = Problem(
        model(), cut(x, y, ends), batch_loss=lambda m, b: functional.cross_entropy(m(b[0]), b[1])
    )

    same(problem, Problem(model(), (x, y), nn.CrossEntropyLoss()))


@settings(max_examples=8, deadline=None)
@given(ends=st.sets(st.integers(1, N - 1), max_size=4), seed=st.integers(0, 3))
def test_tokens_count_and_ignored_ones_do_not(ends, seed):
    torch.manual_seed(seed)
    x, y = torch.randn(N, 5, 4), torch.randint(3, (N, 5))
    y[torch.rand(N, 5) < 0.5] = -100

    def tokens(m, batch):
        return functional.cross_entropy(m(batch["x"]).flatten(0, 1), batch["y"].flatten())

    batches = [{"x": a, "y": b} for a, b in cut(x, y, ends)]
    problem = Problem(
        model(), batches, batch_loss=tokens, weight=lambda batch: (batch["y"] != -100).sum()
    )
    expected = tokens(model().double(), {"x": x.double(), "y": y})

    assert problem.value() == pytest.approx(expected.item(), rel=1e-10)


def test_the_loss_on_tokens_knows_its_own_denominator():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model()

        def forward(self, x):
            return self.inner(x).transpose(1, 2)

    torch.manual_seed(0)
    x, y = torch.randn(N, 5, 4), torch.randint(3, (N, 5))
    y[:10, 2:] = -100
    y[20:] = -100
    batches = cut(x, y, {3, 11, 20})  # in the last, every target is ignored

    for loss in (nn.CrossEntropyLoss(), functional.cross_entropy):
        problem = Problem(Tokens(), batches, loss)
        expected = functional.cross_entropy(Tokens().double()(x.double()), y)
        assert problem.value() == pytest.approx(expected.item(), rel=1e-10)


def test_a_batch_that_counts_for_nothing_changes_nothing():
    x, y = data()
    weight = lambda batch: float((batch[1] >= 0).sum())  # noqa: E731
    loss = lambda m, b: functional.cross_entropy(m(b[0]), b[1], ignore_index=-1)  # noqa: E731
    nothing = (torch.randn(4, 4), torch.full((4,), -1))

    same(
        Problem(model(), [nothing, (x, y)], batch_loss=loss, weight=weight),
        Problem(model(), [(x, y)], batch_loss=loss, weight=weight),
    )


def test_class_probabilities_count_by_the_sample():
    x, _ = data()
    y = torch.rand(N, 3).softmax(1)
    loss = nn.CrossEntropyLoss()
    problem = Problem(model(), cut(x, y, {2, 9}), loss)

    expected = loss(model().double()(x.double()), y.double())
    assert problem.value() == pytest.approx(expected.item(), rel=1e-7)
    assert problem.lower_bound is None


@pytest.mark.parametrize("weight", [None, lambda batch: 2.0 * len(batch[1])])
def test_a_sum_is_divided_and_said(weight):
    x, y = data()
    problem = Problem(model(), cut(x, y, {5}), nn.CrossEntropyLoss(reduction="sum"), weight=weight)
    total = functional.cross_entropy(model().double()(x.double()), y, reduction="sum")

    assert problem.value() == pytest.approx(total.item() / (N if weight is None else 2 * N))
    assert any("reduction='sum'" in note for note in problem.notes)


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(
            nn.Linear(4, 5), nn.BatchNorm1d(5, track_running_stats=False), nn.Linear(5, 3)
        ),
        nn.Sequential(nn.Linear(4, 3), nn.Softmax(dim=0)),
    ],
    ids=["batch statistics", "softmax over the batch"],
)
def test_batches_whose_samples_see_one_another_stay_as_given(network):
    x, y = data()
    batches = cut(x, y, {10})
    problem = Problem(network, batches, nn.CrossEntropyLoss())
    with torch.no_grad():
        wide = network.double().eval()
        losses = [float(functional.cross_entropy(wide(a.double()), b)) for a, b in batches]
        network.float()

    assert problem.value() == pytest.approx((10 * losses[0] + 13 * losses[1]) / 23, rel=1e-6)
    assert any("batches left as given" in note for note in problem.notes)


def test_batch_statistics_in_train_mode_come_from_the_batches_as_given():
    x, y = data()
    network = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    problem = Problem(network, cut(x, y, {10}), nn.CrossEntropyLoss(), mode="train")
    wide = copy.deepcopy(network).double().train()
    losses = [functional.cross_entropy(wide(a.double()), b).item() for a, b in cut(x, y, {10})]

    assert problem.value() == pytest.approx((10 * losses[0] + 13 * losses[1]) / 23, rel=1e-10)


# -- weight decay ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["kept", "rebuilt", "forward", "difference"])
@pytest.mark.parametrize("decay", [0.01, {"0.weight": 0.3, "2.bias": 1e-4}])
def test_weight_decay_is_the_explicit_sum(decay, mode):
    x, y = data()
    plain = Problem(model(), (x, y), nn.CrossEntropyLoss())
    problem = Problem(model(), (x, y), nn.CrossEntropyLoss(), weight_decay=decay)
    named = {name: p.double() for name, p in model().named_parameters()}
    each = {name: decay.get(name, 0.0) if isinstance(decay, dict) else decay for name in named}
    flat = torch.cat([each[n] * torch.ones(p.numel()).double() for n, p in named.items()])
    penalty = sum(0.5 * each[name] * p.square().sum().item() for name, p in named.items())
    v = torch.linspace(-1, 1, problem.n).double()

    assert problem.value() == pytest.approx(plain.value() + penalty, rel=1e-12)
    assert_close(problem.gradient(), plain.gradient() + flat * problem.parameters())
    expected = plain.hessian(mode="kept").matvec(v) + flat * v
    assert_close(problem.hessian(mode=mode).matvec(v), expected, rtol=1e-6, atol=1e-8)


def test_weight_decay_of_a_part_is_that_part_of_the_weight_decay():
    x, y = data()
    problem = Problem(
        model(), (x, y), nn.CrossEntropyLoss(), weight_decay={"0.weight": 0.3, "2.bias": 1.0}
    )
    part = problem.restrict("2.*")

    assert_close(part.gradient(), problem.gradient()[-part.n :])


@pytest.mark.parametrize("decay", [{"nobody": 0.1}, -1.0, float("nan"), {"0.bias": float("inf")}])
def test_weight_decay_without_meaning_is_refused(decay):
    with pytest.raises(BadModel, match="weight_decay") as refusal:
        Problem(model(), data(), nn.CrossEntropyLoss(), weight_decay=decay)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "weight", [lambda b: -1.0, lambda b: float("nan"), lambda b: 0.0, lambda b: b["tokens"]]
)
def test_weights_that_cannot_average_are_refused(weight):
    with pytest.raises(BadData, match="weight") as refusal:
        Problem(model(), data(), nn.CrossEntropyLoss(), weight=weight)
    assert "\n" not in str(refusal.value)


def test_targets_without_a_class_weight_are_refused():
    x, y = data()
    y[4] = 7
    with pytest.raises(BadData, match="run from 0 to 7 and there are 3 class weights"):
        Problem(model(), (x, y), nn.CrossEntropyLoss(weight=CLASS_WEIGHTS))


# -- lower bounds ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "bound"),
    [
        (nn.CrossEntropyLoss(), 0.0),
        (functional.cross_entropy, 0.0),
        (nn.CrossEntropyLoss(label_smoothing=0.1), None),
        (lambda o, t: functional.cross_entropy(o, t), None),
        (nn.NLLLoss(), None),
    ],
)
def test_a_lower_bound_is_known_where_the_form_shows_one(loss, bound):
    assert Problem(model(), data(), loss).lower_bound == bound
