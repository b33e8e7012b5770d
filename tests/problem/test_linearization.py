"""Linearized gradients: chosen where they pay, refused where a record cannot repeat the loss, never stale."""

import contextlib

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from unstick import Problem
from unstick.errors import BadModel
from unstick.problem import hessian
from unstick.problem.linearization import form, linearize


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def data(samples=50):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(samples, 6, generator=generator), torch.arange(samples) % 3


def columns(n, k=5):
    return torch.randn(n, k, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def losses(model, batch):
    """Of any batch; unlike a loss of torch.nn this one is not regrouped."""
    return cross_entropy(model(batch[0]), batch[1])


@pytest.fixture
def always(monkeypatch):
    """Linearization is tried, and taken at any speed."""
    monkeypatch.setattr(hessian, "WORTH", 0.0)
    monkeypatch.setattr(hessian, "SAVES", 1e9)


def test_it_is_taken_where_it_saves_time_and_gives_the_same_products(always):
    problem = Problem(network(), data(), nn.CrossEntropyLoss())
    V = columns(problem.n)

    operator = problem.hessian()

    assert operator.mode == "linearized"
    assert "linearized" in problem.notes[-1]
    assert_close(operator.matmat(V), problem.hessian(mode="kept").matmat(V), rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize(("worth", "saves"), [(1e9, 1e9), (0.0, 0.0)])
def test_it_is_not_taken_where_it_cannot_pay_or_is_not_faster(monkeypatch, worth, saves):
    monkeypatch.setattr(hessian, "WORTH", worth)
    monkeypatch.setattr(hessian, "SAVES", saves)
    problem = Problem(network(), data(), nn.CrossEntropyLoss())

    assert problem.hessian().mode == "kept"
    assert ("linearized" in problem.notes[-1]) == (worth == 0.0)


def test_batches_of_other_shapes_get_records_of_their_own():
    x, y = data(57)
    batches = [(x[i : i + 20], y[i : i + 20]) for i in range(0, 57, 20)]
    problem = Problem(network(), batches, batch_loss=losses)
    V = columns(problem.n)

    operator = problem.hessian(mode="linearized")

    kept = problem.hessian(mode="kept")
    assert_close(operator.matmat(V), kept.matmat(V), rtol=1e-11, atol=1e-14)
    assert_close(operator.matvec(V[:, 0]), kept.matvec(V[:, 0]), rtol=1e-11, atol=1e-14)
    assert len(operator._products.records) == 2


def test_what_does_not_fit_is_made_anew_with_the_same_products():
    torch.manual_seed(1)
    x, y = torch.randn(60, 4), torch.arange(60) % 3
    batches = [(x[i : i + 20], y[i : i + 20]) for i in range(0, 60, 20)]
    model = nn.Sequential(nn.Linear(4, 30), nn.Tanh(), nn.Linear(30, 3))
    ample = Problem(model, batches, batch_loss=losses)
    everything = ample.hessian(mode="linearized").graphs
    scarce = Problem(
        model, batches, batch_loss=losses, memory=int(0.93 * everything.peak_bytes)
    ).hessian(mode="linearized")
    V = columns(ample.n)

    assert_close(ample.hessian(mode="kept").matmat(V), scarce.matmat(V), rtol=1e-11, atol=1e-14)
    assert scarce.mode == "linearized"
    assert 0 < sum(made is not None for made in scarce._products._kept) < 3


class Noisy(nn.Module):
    """Draws random numbers that are the same in every evaluation, since the guard seeds them."""

    def __init__(self, level):
        super().__init__()
        self.inner, self.level = network(), level

    def forward(self, x):
        return self.inner(x + self.level * torch.randn_like(x) if self.level else x)


@pytest.mark.parametrize("level", [0.0, 0.1])
def test_random_numbers_are_not_recorded(level):
    model = Noisy(level).double()
    x, y = data()
    batch = x.double(), y
    theta = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    names = [(name, p.shape) for name, p in model.named_parameters()]

    def loss(t, given):
        parts = t.split([shape.numel() for _, shape in names])
        named = {name: p.view(shape) for (name, shape), p in zip(names, parts, strict=True)}
        outputs = torch.func.functional_call(model, named, (given[0],))
        return cross_entropy(outputs, given[1])

    if not level:
        assert linearize(loss, theta, batch)
        return
    with pytest.raises(BadModel, match="random numbers"):
        linearize(loss, theta, batch)


class InPlace(nn.Module):
    """Changes half of what a layer returned, through a view or in a tensor of its own."""

    def __init__(self, view):
        super().__init__()
        self.first, self.last, self.view = nn.Linear(6, 8), nn.Linear(8, 3), view

    def forward(self, x):
        h = self.first(x)
        if not self.view:
            return self.last(h.mul_(2.0).tanh_())
        low, high = h.chunk(2, 1)
        return self.last(torch.cat([low.clone().tanh_(), high.clone().sigmoid_() * low], 1))


@pytest.mark.parametrize("view", [False, True])
def test_changes_in_place_are_recorded_right_or_refused(view):
    torch.manual_seed(0)
    problem = Problem(InPlace(view), data(), nn.CrossEntropyLoss())
    V = columns(problem.n)
    kept = problem.hessian(mode="kept").matmat(V)
    try:
        operator = problem.hessian(mode="linearized")
    except BadModel:
        assert view, "a tensor of its own can be recorded"
        return
    assert_close(operator.matmat(V), kept, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize(
    ("kind", "joined"),
    [
        ({}, True),
        ({"stride": 2, "padding": 1}, True),
        ({"dilation": 2, "bias": False}, True),
        ({"groups": 2}, False),
    ],
)
def test_convolutions_that_go_back_together_give_what_they_give_one_by_one(kind, joined):
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Conv2d(4, 6, 3, **kind), nn.Tanh()),
        *(nn.Flatten(), nn.LazyLinear(3)),
    )
    x, y = torch.randn(10, 1, 9, 9), torch.arange(10) % 3
    model(x)
    problem = Problem(model, (x, y), nn.CrossEntropyLoss())
    V = columns(problem.n)

    operator = problem.hessian(mode="linearized")

    assert_close(operator.matmat(V), problem.hessian(mode="kept").matmat(V), rtol=1e-11, atol=1e-14)
    [record] = operator._products.records.values()
    # Forward and back: two gradients by the weights of the last, one by those of the first, and two by the inputs.
    assert record.along.code.count("convolution_backward.default(") == (4 if joined else 5)


def test_a_new_operator_sees_what_has_changed_in_the_model(always):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.scale = network(), 1.0
            self.register_buffer("shift", torch.zeros(6))

        def forward(self, x):
            return self.scale * self.inner(x + self.shift)

    model = Scaled()
    problem = Problem(model, data(), nn.CrossEntropyLoss())
    V = columns(problem.n)
    problem.hessian_is_blind()  # chooses, long before anything is multiplied

    for change in (
        lambda: setattr(model, "scale", 3.0),
        lambda: model.shift.add_(1.0),
        lambda: setattr(model, "shift", torch.full((6,), -1.0)),
    ):
        before = problem.hessian().matmat(V)
        change()
        operator = problem.hessian()
        assert operator.mode == "linearized"
        expected = problem.hessian(mode="kept").matmat(V)
        assert_close(operator.matmat(V), expected, rtol=1e-11, atol=1e-14)
        assert float((before - expected).norm()) > 1e-3 * float(expected.norm())


def test_numbers_beside_the_tensors_of_a_batch_are_part_of_its_form():
    x, y = data(20)
    batches = [(x, y, 1.0), (x + 1, y, 1.0), (x, y, 2.0)]
    problem = Problem(
        network(), batches, batch_loss=lambda m, b: cross_entropy(b[2] * m(b[0]), b[1])
    )
    V = columns(problem.n)

    operator = problem.hessian(mode="linearized")

    expected = problem.hessian(mode="kept").matmat(V)
    assert_close(operator.matmat(V), expected, rtol=1e-11, atol=1e-14)
    assert len({form(batch) for batch in batches}) == 2


def test_what_cannot_be_compared_is_never_shared():
    x, y = data(20)

    assert form((x, y, {1, 2})) != form((x, y, {1, 2}))
    assert form((x, y)) == form((x.clone(), y.clone()))
    assert form((x, y)) != form((x[:10], y[:10]))


def test_what_torch_cannot_transform_is_refused_and_does_not_crash():
    """A single input feature: torch 2.13 mixes efficient zeros into the product, which recording cannot stand."""
    x = torch.linspace(-1, 1, 40, dtype=torch.float64)[:, None]
    model = nn.Sequential(nn.Linear(1, 8), nn.Sigmoid(), nn.Linear(8, 1)).double()
    problem = Problem(model, (x, x**4), nn.MSELoss())
    v = torch.ones(problem.n, dtype=torch.float64)
    expected = problem.hessian(mode="kept").matvec(v)

    with contextlib.suppress(BadModel):
        torch.testing.assert_close(problem.hessian(mode="linearized").matvec(v), expected)
    torch.testing.assert_close(problem.hessian().matvec(v), expected)
