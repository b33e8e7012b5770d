"""Losses along directions are those of separate evaluations, whatever the model; what cannot be recorded is done plainly."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from problem.cases import CASES, build
from unstick import Problem
from unstick.errors import BadData
from unstick.problem import along

LOSS = nn.CrossEntropyLoss()
POINTS = 40  # enough for a record
NEAR = {torch.float32: 1e-5, torch.float64: 1e-11}
PLAIN = {  # torch's own recurrent cells write into views; routing by numbers; a kernel that may draw some; old functions
    "LSTM",
    "GRU",
    "mixture of experts",
    "attention by its own kernel",
    "once differentiable",
}


class Twice(nn.Module):
    """The input enters two layers, and is added to the result."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.last(x + torch.tanh(self.one(x)) * self.two(x) + self.two(x))


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.last = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x):
        hidden = self.one(x)
        kept = hidden.mean(1, keepdim=True)
        return self.last(hidden.relu_() + kept)


class Pooled(nn.Sequential):
    def __init__(self, **pooling):
        pool = nn.MaxPool2d(**pooling)
        super().__init__(
            *(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), pool),
            *(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveMaxPool2d(2)),
            *(nn.Flatten(), nn.Dropout(0.5), nn.Linear(16, 3)),
        )


def vectors():
    return torch.randn(12, 4), torch.arange(12) % 3


def images():
    return torch.randn(9, 1, 9, 9), torch.arange(9) % 3


def frozen(model):
    model[0].weight.requires_grad_(False)
    return model


MODELS = {
    "input used twice": (Twice, vectors),
    "changed in place": (InPlace, vectors),
    "frozen matrix": (
        lambda: frozen(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))),
        vectors,
    ),
    "linear": (lambda: nn.Linear(4, 3), vectors),
    "pool 2": (lambda: Pooled(kernel_size=2), images),
    "pool 3 by 2": (lambda: Pooled(kernel_size=(3, 2), stride=2), images),
    "pool, padded": (lambda: Pooled(kernel_size=3, stride=2, padding=1), images),
    "pool, ceiling": (lambda: Pooled(kernel_size=2, ceil_mode=True), images),
}


def made(name, dtype=torch.float64, **options):
    if name in MODELS:
        model, data = MODELS[name]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return Problem(model(), data(), LOSS, dtype=dtype, **options)
    case = build(name)
    return Problem(case.model, case.data, case.loss, mode=case.mode, dtype=dtype, **options)


def plane(problem, k=2, m=POINTS, reach=1.0):
    """An origin beside the model, directions of its length, and coordinates."""
    generator = torch.Generator().manual_seed(1)
    drawn = torch.randn(k + 1, problem.n, generator=generator, dtype=torch.float64)
    coordinates = torch.rand(m, k, generator=generator, dtype=torch.float64) * 2 - 1
    return problem.parameters().double() + 0.1 * drawn[0], 0.3 * drawn[1:], reach * coordinates


def separate(problem, origin, directions, coordinates):
    """Each by an evaluation of its own."""
    return torch.cat([problem.values((origin + at @ directions)[None]) for at in coordinates])


def fell_back(problem):
    return any("each point evaluated by itself" in note for note in problem.notes)


# -- the law ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*CASES, *MODELS])
def test_losses_along_directions_are_those_of_separate_evaluations(name):
    problem = made(name)
    given = plane(problem)

    assert_close(
        problem.values_along(*given),
        separate(problem, *given),
        rtol=NEAR[problem.dtype],
        atol=1e-12,
    )
    assert fell_back(problem) == (name in PLAIN), problem.notes


@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("name", ["perceptron", "pool 2", "LSTM"])
def test_in_both_types_and_any_number_of_directions(name, k, dtype):
    problem = made(name, dtype)
    given = plane(problem, k)

    assert_close(
        problem.values_along(*given), separate(problem, *given), rtol=NEAR[dtype], atol=1e-7
    )
    assert fell_back(problem) == (name in PLAIN and dtype == torch.float64), problem.notes


def test_a_plane_of_a_perceptron_is_the_one_worked_out_by_hand():
    x, y = (
        torch.randn(50, 4, generator=torch.Generator().manual_seed(3)).double(),
        torch.arange(50) % 3,
    )
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    problem = Problem(model, (x, y), LOSS, dtype=torch.float64)
    origin, directions, coordinates = plane(problem)

    by_hand = []
    for theta in origin + coordinates @ directions:
        W1, b1, W2, b2 = theta.split([24, 6, 18, 3])
        outputs = (x @ W1.view(6, 4).T + b1).clamp(min=0) @ W2.view(3, 6).T + b2
        chosen = outputs.exp()[torch.arange(50), y] / outputs.exp().sum(1)
        by_hand.append(-chosen.log().mean())
    assert_close(
        problem.values_along(origin, directions, coordinates),
        torch.stack(by_hand),
        rtol=1e-12,
        atol=0,
    )


def test_weight_decay_counts_at_every_point():
    problem = made("perceptron", weight_decay={"0.weight": 0.5, "2.bias": 2.0})
    given = plane(problem)

    assert_close(problem.values_along(*given), separate(problem, *given), rtol=1e-11, atol=0)


@pytest.mark.parametrize("threads", [1, 2])
def test_batches_of_other_weights_and_pieces_of_them_add_up_to_the_mean(threads, monkeypatch):
    monkeypatch.setattr(along, "CACHE", 64)  # pieces of a few samples
    generator = torch.Generator().manual_seed(4)
    x, y = torch.randn(43, 4, generator=generator), torch.arange(43) % 3
    y[5:20] = -100  # some pieces count for nothing
    batches = [(x[:30], y[:30]), (x[30:], y[30:])]
    class_weights = torch.tensor([1.0, 2.0, 0.5])
    loss = nn.CrossEntropyLoss(class_weights)
    model = nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 3))
    problem = Problem(model, batches, loss, dtype=torch.float64)
    given = plane(problem)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = problem.values_along(*given)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)

    expected = []
    for theta in given[0] + given[2] @ given[1]:
        W1, b1, W2, b2 = theta.split([36, 9, 27, 3])
        outputs = torch.tanh(x.double() @ W1.view(9, 4).T + b1) @ W2.view(3, 9).T + b2
        expected.append(cross_entropy(outputs, y, class_weights.double()))
    assert_close(found, torch.stack(expected).detach(), rtol=1e-10, atol=0)
    assert not fell_back(problem)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_loss_of_whole_batches_is_not_cut_to_pieces(weighted, monkeypatch):
    monkeypatch.setattr(along, "CACHE", 16)
    x = torch.randn(24, 4, generator=torch.Generator().manual_seed(5))

    def spread(model, batch):
        outputs = torch.tanh(model(batch))
        return outputs.var(0).sum()

    weight = (lambda batch: float(batch.abs().sum())) if weighted else None
    problem = Problem(
        nn.Linear(4, 3),
        [x[:14], x[14:], x[:3]],
        batch_loss=spread,
        weight=weight,
        dtype=torch.float64,
    )
    given = plane(problem)

    assert_close(problem.values_along(*given), separate(problem, *given), rtol=1e-11, atol=0)
    assert not fell_back(problem)


def test_a_function_without_data_has_its_values_along_directions():
    problem = Problem.from_function(lambda x: (1 - x[0] * x[1]) ** 2 + x[2], torch.zeros(3))
    coordinates = torch.cartesian_prod(torch.linspace(-2, 2, 9), torch.linspace(-2, 2, 9)).double()
    found = problem.values_along(torch.zeros(3), torch.eye(3)[:2], coordinates)

    assert_close(found, (1 - coordinates[:, 0] * coordinates[:, 1]) ** 2, rtol=1e-12, atol=1e-12)
    assert not fell_back(problem)


def test_infinite_and_undefined_losses_stay():
    problem = Problem.from_function(lambda x: torch.log(x[0]) + 1 / x[1], torch.ones(2))
    coordinates = torch.cartesian_prod(torch.arange(-3.0, 4), torch.arange(-3.0, 4)).double()
    found = problem.values_along(torch.zeros(2), torch.eye(2), coordinates)
    x, y = coordinates.T

    assert_close(found, x.log() + 1 / y, equal_nan=True)
    assert all(kind.any() for kind in (found.isnan(), found.isinf(), found.isfinite()))


# -- costs and traces ------------------------------------------------------------------------------


@pytest.mark.parametrize("m", [3, POINTS])
def test_each_point_costs_one_value(m):
    problem = made("pool 2")
    before = problem.spent
    problem.values_along(*plane(problem, m=m))

    assert problem.spent.samples - before.samples == m * problem.samples


@pytest.mark.parametrize(
    "name", ["convolutions, evaluating", "convolutions, training", "changed in place"]
)
def test_the_model_is_left_as_it_was(name):
    problem = made(name)
    before = copy.deepcopy(problem.model.state_dict())
    modes = [module.training for module in problem.model.modules()]
    states = torch.get_rng_state(), [p.requires_grad for p in problem.model.parameters()]
    problem.values_along(*plane(problem))

    after = problem.model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert [module.training for module in problem.model.modules()] == modes
    assert torch.equal(states[0], torch.get_rng_state())
    assert [p.requires_grad for p in problem.model.parameters()] == states[1]
    assert all(p.grad is None for p in problem.model.parameters())


def test_equal_questions_have_equal_answers_and_progress_ends_at_all():
    problem, told = made("pool 2"), []
    given = plane(problem)
    first = problem.values_along(*given, progress=lambda done, total: told.append((done, total)))

    assert torch.equal(first, problem.values_along(*given))
    assert told[-1] == (POINTS, POINTS)


def test_an_interruption_ends_the_threads_and_puts_their_number_back(monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    problem = made("perceptron")
    monkeypatch.setattr(along, "_block", interrupt)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(KeyboardInterrupt):
            problem.values_along(*plane(problem))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


# -- what is found out, what is refused ------------------------------------------------------------


def test_a_record_that_is_wrong_elsewhere_is_found_out_and_said():
    """A branch by numbers that a record cannot see: it keeps what was so at the origin."""

    def branching(x):
        return x.sum() if x.detach().numpy()[0] >= 0 else 2 * x.sum() + 1

    problem = Problem.from_function(branching, torch.ones(2))
    given = torch.zeros(2), torch.eye(2), torch.linspace(-1, 1, 2 * POINTS).double().view(-1, 2)

    x = given[2]
    expected = torch.where(x[:, 0] >= 0, x.sum(1), 2 * x.sum(1) + 1)
    assert_close(problem.values_along(*given), expected, rtol=1e-12, atol=1e-12)
    assert fell_back(problem)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o, d, c: (o[1:], d, c), r"origin has shape"),
        (lambda o, d, c: (o, d[:, 1:], c), r"directions has shape"),
        (lambda o, d, c: (o, d[0], c), r"directions has shape"),
        (lambda o, d, c: (o, d, c[:, :1]), r"coordinates has shape \[40, 1\]; expected \[m, 2\]"),
        (lambda o, d, c: (o, d, c / 0), "coordinates holds inf or nan"),
        (lambda o, d, c: (o, d * float("nan"), c), "directions holds inf or nan"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    problem = made("perceptron")
    with pytest.raises(BadData, match=message):
        problem.values_along(*change(*plane(problem)))


def test_no_points_have_no_losses():
    problem = made("perceptron")
    origin, directions, coordinates = plane(problem)

    assert problem.values_along(origin, directions, coordinates[:0]).shape == (0,)
