"""What keeps answers honest: determinism, precision, self-tests, parts, and the account of costs."""

import time

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.testing import assert_close

from problem.cases import Recurrent, perceptron
from unstick import Problem
from unstick.errors import BadModel, NonDeterministic
from unstick.problem.cost import Cost

LOSS = nn.CrossEntropyLoss()


def data(n=30, width=4):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, width, generator=generator), torch.arange(n) % 3


class Noisy(nn.Module):
    def forward(self, x):
        return functional.dropout(x, 0.5, training=True)


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x * (1 + 0.01 * self.calls)


class Outer(nn.Module):
    """Dropout in the forward of the model itself, not in a module of its own."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 3)

    def forward(self, x):
        return functional.dropout(self.inner(x), 0.5)


RANDOM = {
    "dropout": (
        nn.Dropout(0.5),
        "train",
        r"it draws random numbers.*in 1: Dropout \(in train mode\)",
    ),
    "functional": (Noisy(), "eval", "it draws random numbers.*in 1: Noisy"),
    "state": (Counting(), "eval", "changes state of its own.*in 1: Counting"),
}


@pytest.mark.parametrize("name", RANDOM)
def test_a_model_that_does_not_repeat_itself_is_refused_by_module(name):
    module, mode, match = RANDOM[name]
    model = nn.Sequential(nn.Linear(4, 3), module)
    with pytest.raises(NonDeterministic, match=match) as refusal:
        Problem(model, data(), LOSS, mode=mode)
    assert "\n" not in str(refusal.value)
    assert not any(m._forward_hooks for m in model.modules())


def test_randomness_in_the_model_itself_is_named():
    with pytest.raises(NonDeterministic, match="in the model: Outer"):
        Problem(Outer(), data(), LOSS)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_models_that_repeat_themselves_pass(mode):
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.0), nn.Linear(5, 3))
    Problem(model, data(), LOSS, mode=mode)
    Problem(nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)), data(), LOSS)


# -- precision -------------------------------------------------------------------------------------


class Constant(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.inner, self.change = nn.Linear(4, 3), forward

    def forward(self, x):
        return self.change(self.inner(x))


CONSTANTS = {
    "a float32 matrix": lambda x: x @ torch.eye(3),
    "logits as float": lambda x: x.float(),
    "there and back": lambda x: x.float().softmax(1).to(x.dtype),
    "half way": lambda x: x.to(torch.bfloat16).to(x.dtype),
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_a_model_that_cannot_keep_float64_stays_in_its_own_type(name):
    problem = Problem(Constant(CONSTANTS[name]), data(), LOSS)
    assert problem.dtype == torch.float32
    assert not any("float64" in note for note in problem.notes)


def test_small_problems_are_computed_in_float64_and_say_so():
    small = Problem(perceptron(), data(), LOSS)
    assert small.dtype == small.gradient().dtype == torch.float64
    assert any("float64" in note for note in small.notes)
    assert Problem(perceptron(), data(), LOSS, dtype=torch.float32).dtype == torch.float32
    large = nn.Sequential(nn.Linear(4, 5000), nn.Linear(5000, 3))
    assert Problem(large, data(), LOSS).dtype == torch.float32
    assert Problem(large, data(), LOSS, dtype=torch.float64).dtype == torch.float64


def test_a_type_insisted_on_is_refused_where_the_model_cannot():
    with pytest.raises(BadModel, match="RuntimeError") as refusal:
        Problem(Constant(CONSTANTS["a float32 matrix"]), data(), LOSS, dtype=torch.float64)
    assert "\n" not in str(refusal.value)


def test_autocast_around_changes_nothing():
    model = perceptron()
    plain = Problem(model, data(), LOSS, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert plain.value() == Problem(model, data(), LOSS, dtype=torch.float32).value()


# -- self-tests ------------------------------------------------------------------------------------


def planted(wrong):
    """A cube whose second derivative (alone) comes out as ``wrong`` makes it, under double backward."""

    class Slope(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return 3 * x**2

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return wrong(grad, x)

    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return grad * Slope.apply(x)

    return Cube.apply


WRONG = {
    "asymmetric": lambda g, x: (6 * x * g).roll(1),
    "not linear": lambda g, x: 6 * x * g.abs(),
    "twice as large": lambda g, x: 12 * x * g,
    "zero": lambda g, x: 0 * g,
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_double_backward_is_found_out(name):
    cube = planted(WRONG[name])
    problem = Problem.from_function(lambda x: cube(x).sum(), torch.tensor([1.0, -2.0, 0.5]))

    operator = problem.hessian()
    assert operator.mode == "difference"
    H = operator.matmat(torch.eye(3).double())
    assert_close(H, torch.diag(torch.tensor([6.0, -12.0, 3.0])).double(), rtol=1e-6, atol=1e-6)
    assert "kept not possible" in problem.notes[-1]
    assert 0 < operator.error() < 1e-5
    assert not problem.hessian_is_blind()
    with pytest.raises(BadModel, match="kept") as refusal:
        problem.hessian(mode="kept")
    assert "\n" not in str(refusal.value)


def test_a_right_double_backward_of_ones_own_is_kept():
    cube = planted(lambda g, x: 6 * x * g)
    problem = Problem.from_function(lambda x: cube(x).sum(), torch.tensor([1.0, -2.0, 0.5]))
    assert problem.hessian().mode == "kept"


def relu_network(width, *, zero, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(20, width), nn.ReLU(), nn.Linear(width, 3))
    for parameter in model.parameters() if zero else ():
        nn.init.zeros_(parameter)
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kinks_at_zero_blind_the_hessian(dtype):
    problem = Problem(relu_network(30, zero=True), data(300, 20), LOSS, dtype=dtype)
    assert problem.hessian_is_blind()
    assert "kinks" in problem.notes[-1]


@pytest.mark.parametrize(("width", "dtype"), [(30, None), (800, None), (300, torch.float32)])
def test_an_ordinary_rectified_network_is_not_blind(width, dtype):
    for seed in range(4):
        problem = Problem(
            relu_network(width, zero=False, seed=seed), data(300, 20), LOSS, dtype=dtype
        )
        assert not problem.hessian_is_blind()
        assert problem.hessian().mode != "difference"  # the exact ones differ in speed only


FUNCTIONS = {
    "quartic": (lambda x: (x**4).sum(), 0.0, False),
    "cubic": (lambda x: (x**3).sum(), 0.0, False),
    "flat": (lambda x: (0 * x).sum(), 0.0, False),
    "linear": (lambda x: x.sum(), 1.0, False),
    "saddle": (lambda x: x[0] * x[1], 0.0, False),
    "cosine": (lambda x: x.cos().sum(), 0.3, False),
    "absolute value": (lambda x: x.abs().sum(), 0.0, True),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_only_kinks_blind(name, dtype):
    function, where, blind = FUNCTIONS[name]
    problem = Problem.from_function(function, torch.full((2,), where), dtype=dtype)
    assert problem.hessian_is_blind() is blind


# -- parts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["kept", "forward", "difference"])
@pytest.mark.parametrize("pattern", ["0.*", "*.bias", "2.weight"])
def test_a_part_is_the_block_of_its_parameters(pattern, mode):
    problem = Problem(perceptron(), data(), LOSS, weight_decay={"0.bias": 0.2, "2.weight": 0.1})
    part = problem.restrict(pattern)
    named = problem.layout.named(torch.arange(problem.n))
    mine = torch.cat([named[name].flatten() for name in part.layout.names])
    H = problem.hessian(mode="kept").matmat(torch.eye(problem.n).double())

    block = part.hessian(mode=mode).matmat(torch.eye(part.n).double())
    assert_close(block, H[mine][:, mine], rtol=1e-6, atol=1e-8)
    assert_close(part.gradient(), problem.gradient()[mine])
    assert torch.equal(part.parameters(), problem.parameters()[mine])


def test_a_part_that_is_none_is_refused():
    with pytest.raises(BadModel, match=r"no trainable parameter matches 'head\.\*'"):
        Problem(perceptron(), data(), LOSS).restrict("head.*")


# -- costs -----------------------------------------------------------------------------------------


def spent(problem, work):
    before = problem.spent
    work()
    return problem.spent - before


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_kind_of_work_costs_what_the_price_list_says(dtype):
    problem = Problem(perceptron(), data(30), LOSS, dtype=dtype)
    thetas = torch.stack([problem.parameters()] * 4)
    costs = {
        problem.value: (30, 1 / 3),
        problem.gradient: (30, 1.0),
        (lambda: problem.values(thetas)): (120, 4 / 3),
        (lambda: problem.gradients(thetas)): (120, 4.0),
        (lambda: problem.subset(10)): (0, 0.0),
    }
    for work, (samples, gradients) in costs.items():
        cost = spent(problem, work)
        assert (cost.samples, cost.gradients) == (samples, pytest.approx(gradients))
        assert cost.seconds > 0 or samples == 0


@pytest.mark.parametrize("mode", ["kept", "rebuilt", "forward", "difference"])
def test_products_cost_what_the_operator_says(mode):
    problem = Problem(perceptron(), data(30), LOSS)
    operator = problem.hessian(mode=mode)
    v = torch.ones(problem.n)

    first = spent(problem, lambda: operator.matvec(v)).gradients
    if mode == "difference":  # rounding decides how long the step is looked for
        assert any(first == pytest.approx(2 * quotients) for quotients in range(3, 9))
    else:
        assert first == pytest.approx(operator.setup_price + operator.product_price)
    assert spent(problem, lambda: operator.matvec(v)).gradients == pytest.approx(
        operator.product_price
    )


def test_costs_add_and_subtract():
    one, two = Cost(10, 1.5, 0.25), Cost(5, 0.5, 0.75)
    assert one + two == Cost(15, 2.0, 1.0)
    assert one + two - two == one
    assert str(Cost(17654, 12.34, 0.4)) == "12.3 gradients (17,654 samples) in 0.4 s"


def test_the_seconds_are_counted_once():
    problem = Problem(Recurrent(), (torch.randn(60, 5, 2), torch.arange(60) % 3), LOSS)
    begin = time.perf_counter()
    cost = spent(problem, lambda: problem.hessian(mode="difference").matvec(torch.ones(problem.n)))
    assert 0 < cost.seconds <= time.perf_counter() - begin
