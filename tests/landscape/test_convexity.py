"""One violation proves that a loss is not convex, and anybody can check it; a convex loss is never accused."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from cases import autoencoder, network, toy, train
from unstick.errors import BadData, BudgetTooSmall
from unstick.landscape.convexity import convexity
from unstick.problem.problem import Problem


def table(seed=0, rows=40, columns=4):
    """Inputs, a noisy linear target, and labels cut from it."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(rows, columns, generator=generator)
    target = inputs @ torch.randn(columns, generator=generator)
    target = (target + 0.3 * torch.randn(rows, generator=generator)).unsqueeze(1)
    return inputs, target


def hinge(outputs, signs):
    return torch.relu(1 - signs * outputs).mean()


def linear(outputs=1, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Linear(4, outputs)


def regression(seed, dtype, **given):
    inputs, target = table(seed)
    return Problem(linear(seed=seed), (inputs, target), nn.MSELoss(), dtype=dtype, **given)


def fitted(seed, dtype):
    """At the minimum, beside a large offset: the residuals are rounded relative to the outputs, not to the loss."""
    inputs, target = table(seed)
    model = linear(seed=seed)
    design = torch.cat([inputs, torch.ones(len(inputs), 1)], 1).double()
    solution = torch.linalg.lstsq(design, 100 + 0.01 * target.double()).solution[:, 0]
    with torch.no_grad():
        model.weight.copy_(solution[:4].unsqueeze(0))
        model.bias.copy_(solution[4:])
    return Problem(model, (inputs, 100 + 0.01 * target), nn.MSELoss(), dtype=dtype)


def logistic(seed, dtype):
    """Well separated, so that the loss saturates."""
    inputs, target = table(seed)
    labels = (target > 0).float()
    return Problem(linear(seed=seed), (10 + inputs, labels), nn.BCEWithLogitsLoss(), dtype=dtype)


def softmax(seed, dtype):
    inputs, target = table(seed)
    labels = ((target > 0).long() + (target > 1).long())[:, 0]
    return Problem(linear(3, seed), (inputs, labels), nn.CrossEntropyLoss(), dtype=dtype)


def machine(seed, dtype, **given):
    inputs, target = table(seed)
    return Problem(linear(seed=seed), (inputs, target.sign()), hinge, dtype=dtype, **given)


def absolute(seed, dtype):
    inputs, target = table(seed)
    return Problem(linear(seed=seed), (inputs, target), nn.L1Loss(), dtype=dtype)


CONVEX = {
    "linear regression": regression,
    "linear regression at its minimum, far from zero": fitted,
    "ridge": lambda seed, dtype: regression(seed, dtype, weight_decay=0.1),
    "logistic regression": logistic,
    "softmax regression": softmax,
    "support vector machine": machine,
    "support vector machine with decay": lambda seed, dtype: machine(seed, dtype, weight_decay=0.1),
    "absolute error": absolute,
}


@pytest.mark.parametrize(
    ("dtype", "seed"), [(torch.float32, 0), (torch.float32, 1), (torch.float64, 2)], ids=str
)
@pytest.mark.parametrize("name", CONVEX)
def test_a_convex_loss_is_never_accused(name, dtype, seed):
    found = convexity(CONVEX[name](seed, dtype), points=8, pairs=16, seed=seed)

    assert found.outcome == "none found", found
    assert found.violations == ()
    assert [test.done for test in found.tests] == [16, 28, 8]
    assert all(test.broken == 0 for test in found.tests)


FUNCTIONS = {
    "a constant": lambda x: 0 * x.sum() + 3.0,
    "a plane": lambda x: (x * torch.arange(4.0, dtype=x.dtype)).sum(),
    "a kink": lambda x: x.abs().sum(),
    "a maximum": lambda x: x.max(),
    "a plane rounded to steps": lambda x: (
        (1e2 + (x * torch.arange(4.0, dtype=x.dtype)).sum()) - 1e2
    ),
    "a saturated loss": lambda x: torch.log(1 + torch.exp(-8 * x)).sum(),
    "a high bowl": lambda x: 1e8 + (x**2).sum(),
    "a quartic": lambda x: (x**4).sum(),
    "a quotient": lambda x: ((1e3 + x) - 1e3).square().sum(),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_flat_and_kinked_convex_functions_are_not_accused(name, dtype):
    x0 = torch.linspace(-1, 1, 4, dtype=dtype)
    problem = Problem.from_function(FUNCTIONS[name], x0, dtype=dtype)
    found = convexity(problem, points=8, pairs=16, thorough=True)

    assert found.outcome == "none found", found


def test_the_last_digits_of_a_saturated_loss_are_no_violation():
    # a loss near 1e-9 is a multiple of float32's rounding of 1 here: steps, not a bend
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(60, 5, generator=generator) + 10
    target = inputs @ torch.randn(5, generator=generator)
    target = target + 0.3 * torch.randn(60, generator=generator)
    labels = (target > 0).float().unsqueeze(1)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = nn.Linear(5, 1)
    loss, steps = nn.BCEWithLogitsLoss(), torch.optim.Adam(model.parameters(), lr=0.05)
    train(model, steps, inputs, labels, updates=200, loss=loss)
    found = convexity(Problem(model, (inputs, labels), loss, dtype=torch.float32), seed=1)

    assert found.outcome == "none found", found


def test_a_derivative_that_a_kink_makes_arbitrary_is_no_violation():
    # x², written so that automatic differentiation gives −2 for its second derivative at 0
    def square(x):
        return (2 * torch.relu(x) ** 2 + 2 * torch.relu(-x) ** 2 - x**2).sum()

    found = convexity(Problem.from_function(square, torch.ones(2)))

    assert found.outcome == "none found"
    assert found.lowest_curvature == -2.0
    assert {test.kind: test.unconfirmed for test in found.tests}["curvature"] == 1


def check(violation, function):
    """By NumPy in float64: the middle is on the line, and its loss above the chord by what is said."""
    a, m, b = (x.double().numpy() for x in (violation.first, violation.middle, violation.second))
    t = violation.fraction
    way = Fraction(t).limit_denominator(16)
    for one, middle, other in zip(a.tolist(), m.tolist(), b.tolist(), strict=True):
        assert Fraction(middle) == (1 - way) * Fraction(one) + way * Fraction(other)
    losses = [function(x) for x in (a, m, b)]
    gap = losses[1] - ((1 - t) * losses[0] + t * losses[2])
    assert violation.gap > violation.noise > 0
    assert abs(gap - violation.gap) <= violation.noise


def perceptron_loss(activation, inputs, targets):
    """A network 4–5–1 with squared error, its parameters in the order W₁, b₁, W₂, b₂."""

    def loss(theta):
        first, bias, second, last = np.split(theta, [20, 25, 30])
        hidden = activation(inputs @ first.reshape(5, 4).T + bias)
        return np.mean((hidden @ second.reshape(1, 5).T + last - targets) ** 2)

    return loss


HIDDEN = {nn.Tanh: np.tanh, nn.ReLU: lambda z: np.maximum(z, 0), nn.Identity: lambda z: z}


@pytest.mark.parametrize(
    ("dtype", "seed"), [(torch.float32, 0), (torch.float32, 1), (torch.float64, 2)], ids=str
)
@pytest.mark.parametrize("activation", HIDDEN)
def test_a_hidden_layer_is_proved_nonconvex(activation, dtype, seed):
    inputs, target = table(seed)
    model = network(4, 5, 1, activation=activation, seed=seed)
    found = convexity(Problem(model, (inputs, target), nn.MSELoss(), dtype=dtype), seed=seed)

    assert found.outcome == "nonconvex"
    loss = perceptron_loss(HIDDEN[activation], inputs.double().numpy(), target.double().numpy())
    check(found.violations[0], loss)


def test_the_toy_net_and_the_linear_autoencoder_are_proved_nonconvex():
    found = convexity(Problem.from_function(toy, torch.ones(2)), thorough=True, budget=3000)

    assert {violation.kind for violation in found.violations} == {
        "segment",
        "gradient",
        "curvature",
    }
    for violation in found.violations:
        check(violation, lambda w: (1 - w[0] * w[1]) ** 2)
    assert found.lowest_curvature <= -2.0  # at zero the eigenvalues are ±2

    enough = convexity(Problem.from_function(toy, torch.ones(2)))
    assert sum(test.broken for test in enough.tests) == 1  # one proof suffices

    model, inputs, _ = autoencoder((6, 7))
    proof = convexity(Problem(model, (inputs, inputs), nn.MSELoss())).violations[0]
    X = inputs.numpy()

    def loss(theta):
        first, second = theta[:16].reshape(2, 8), theta[16:].reshape(8, 2)
        return np.mean((X - X @ first.T @ second.T) ** 2)

    check(proof, loss)


@pytest.mark.parametrize(("height", "outcome"), [(1e-15, "none found"), (1e-6, "nonconvex")])
def test_a_ripple_counts_only_above_the_noise(height, outcome):
    def rippled(x):
        return x.abs().sum() + height * torch.cos(3 * x).sum()

    found = convexity(Problem.from_function(rippled, torch.ones(3)))

    assert found.outcome == outcome
    for violation in found.violations:
        check(violation, lambda x: np.abs(x).sum() + height * np.cos(3 * x).sum())


def test_only_curvature_sees_a_narrow_dent_and_the_loss_confirms_it():
    # convex but for |x| < 1e-3; no segment between random points has its chord inside
    def dented(x):
        return (x**2).sum() + 1e-4 * torch.exp(-((1e3 * x) ** 2)).sum()

    found = convexity(Problem.from_function(dented, torch.ones(2)), thorough=True)

    [violation] = found.violations
    assert violation.kind == "curvature"
    assert violation.where == "zero"
    assert_close(violation.measured, -198.0, rtol=1e-6, atol=0)
    assert_close(found.lowest_curvature, -198.0, rtol=1e-6, atol=0)
    check(violation, lambda x: (x**2).sum() + 1e-4 * np.exp(-((1e3 * x) ** 2)).sum())
    point, v = violation.points
    assert point.tolist() == [0.0, 0.0]
    assert_close(float(v.norm()), 1.0)


def test_beyond_a_few_parameters_lanczos_finds_the_curvature():
    def bent(x):
        return (
            (x[1:] ** 2).sum() + x[0] ** 2 - 1e-3 * x[0] ** 2 * torch.exp(-(x**2).sum() * 1e6) * 5e3
        )

    found = convexity(Problem.from_function(bent, torch.zeros(60)))

    assert [violation.kind for violation in found.violations] == ["curvature"]
    assert found.lowest_curvature <= -7.9  # 2 − 10


def test_a_part_of_the_parameters_can_be_convex_alone():
    inputs, target = table()
    problem = Problem(network(4, 5, 1, seed=0), (inputs, target), nn.MSELoss())

    assert convexity(problem.restrict("2.*")).outcome == "none found"  # the last layer
    assert convexity(problem).outcome == "nonconvex"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_model_and_the_random_state_are_as_they_were(dtype):
    inputs, target = table()
    model = network(4, 5, 1, seed=0).to(dtype)
    before = {name: p.clone() for name, p in model.state_dict().items()}
    state = torch.random.get_rng_state()
    problem = Problem(model, (inputs.to(dtype), target.to(dtype)), nn.MSELoss())
    one, other = (convexity(problem, points=6, pairs=6, thorough=True) for _ in range(2))

    assert all(torch.equal(before[name], p) for name, p in model.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert one.outcome == other.outcome == "nonconvex"
    assert [v.gap for v in one.violations] == [v.gap for v in other.violations]


def test_an_interruption_keeps_the_counts_and_the_model():
    def stop(stage, done, total):
        if stage == "Hessians" and done == 3:
            raise KeyboardInterrupt

    problem = regression(0, torch.float64)
    before = problem.parameters()
    found = convexity(problem, progress=stop)

    assert found.outcome == "interrupted"
    assert [test.done for test in found.tests] == [32, 66, 3]
    assert torch.equal(problem.parameters(), before)
    assert "Interrupted" in found.headline()


def test_an_interruption_before_the_first_test_goes_on():
    def stop(stage, done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convexity(regression(0, torch.float64), progress=stop)


def test_a_small_budget_makes_fewer_tests_and_says_so():
    found = convexity(regression(0, torch.float64), budget=30)

    [segments, gradients, hessians] = found.tests
    assert 0 < segments.done < segments.planned
    assert gradients.done == hessians.done == 0
    assert found.cost.gradients <= 30
    assert f"{segments.done} segments" in found.headline()


def test_points_where_the_loss_is_not_finite_are_left_out():
    barrier = Problem.from_function(lambda x: -torch.log(1 - x).sum(), torch.zeros(2))
    found = convexity(barrier)

    assert found.outcome == "none found"
    assert 0 < found.tests[1].done < found.tests[1].planned


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"points": 1}, BadData, "points=1"),
        ({"pairs": 0}, BadData, "pairs=0"),
        ({"scale": 0.0}, BadData, "scale"),
        ({"budget": 3}, BudgetTooSmall, "raise the budget"),
    ],
)
def test_arguments_out_of_range_are_refused(given, error, message):
    with pytest.raises(error, match=message):
        convexity(Problem.from_function(toy, torch.ones(2)), **given)
