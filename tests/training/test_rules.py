"""Each rule does what its formula says, alone, as an optimizer of torch's kind, and for many members at once."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from unstick.training.optimizers import OPTIMIZERS, make_optimizer, settings_of
from unstick.training.recipe import Recipe
from unstick.training.rules import RULES, RuleOptimizer

ELEMENTWISE = [name for name, kind in OPTIMIZERS.items() if kind.rule is not None]


def gradients(count, size=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, size, generator=generator, dtype=torch.float64)


def follow(optimizer, parameter, grads, *, rates=None):
    path = []
    for at, g in enumerate(grads):
        if rates is not None:
            optimizer.param_groups[0]["lr"] = rates[at]
        parameter.grad = g.clone()
        optimizer.step()
        path.append(parameter.detach().clone())
    return torch.stack(path)


def start(size=5):
    return torch.nn.Parameter(torch.linspace(-1, 1, size, dtype=torch.float64))


def moved(name, grads, **settings):
    parameter = start(grads.shape[1])
    recipe = Recipe(optimizer=name, batch_size=None, **settings)
    return follow(make_optimizer(recipe, [parameter], samples=8), parameter, grads)


@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_a_rule_on_rows_is_the_optimizer_on_each(name, decay):
    """What a population does is what torch, or our own optimizer, does to one model."""
    rates, steps = [0.3, 0.01, 0.001], 40
    grads = [gradients(steps, seed=seed) for seed in range(3)]
    alone = torch.stack(
        [moved(name, g, lr=rate, weight_decay=decay) for g, rate in zip(grads, rates, strict=True)]
    )

    rule = RULES[OPTIMIZERS[name].rule]
    settings = settings_of(Recipe(optimizer=name, batch_size=None, weight_decay=decay), samples=8)
    settings["lr"] = torch.tensor(rates, dtype=torch.float64).unsqueeze(1)
    theta = start().detach().repeat(3, 1)
    memory = {slot: torch.zeros_like(theta) for slot in rule.memory}
    for t in range(steps):
        g = torch.stack([each[t] for each in grads])
        if not rule.decoupled:
            g = g + decay * theta
        rule.step(theta, g, memory, settings, t)
        assert_close(theta, alone[:, t], rtol=1e-10, atol=1e-12)


def test_a_movement_is_the_weighted_sum_of_all_past_gradients():
    g, rate, keep = gradients(3), 0.1, 0.9
    path = moved("heavy-ball", g, lr=rate, momentum=keep)

    third = -(keep**2) * rate * g[0] - keep * rate * g[1] - rate * g[2]
    assert_close(path[2] - path[1], third)


@pytest.mark.parametrize(("name", "ends"), [("heavy-ball", -29.55), ("momentum", -15.97)])
def test_the_two_forms_of_momentum_differ_once_the_rate_changes(name, ends):
    """Gradient 1 throughout; the rate falls from 1 to a tenth after five updates."""
    parameter = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    recipe = Recipe(optimizer=name, lr=1.0, momentum=0.9)
    optimizer = make_optimizer(recipe, [parameter], samples=100)

    path = follow(optimizer, parameter, torch.ones(10, 1).double(), rates=[1.0] * 5 + [0.1] * 5)

    movement = place = 0.0
    for rate in [1.0] * 5 + [0.1] * 5:
        movement = 0.9 * movement + (rate if name == "heavy-ball" else 1.0)
        place -= movement if name == "heavy-ball" else rate * movement
    assert math.isclose(float(path[-1]), place, rel_tol=1e-12)
    assert round(place, 2) == ends


def test_momentum_forms_agree_while_the_rate_stays():
    g = gradients(30)

    assert_close(moved("heavy-ball", g, lr=0.1), moved("momentum", g, lr=0.1))


def test_adagrad_is_its_root_mean_square_form_with_a_rate_that_decays():
    g, rate = gradients(20), 0.1
    parameter = start()
    rms = RuleOptimizer([parameter], "adagrad-rms", lr=rate, eps=1e-10)
    rates = [rate / math.sqrt(t + 1) for t in range(20)]

    decayed = follow(rms, parameter, g, rates=rates)

    assert_close(decayed, moved("adagrad", g, lr=rate), rtol=0, atol=1e-9)


def test_the_root_mean_square_form_does_not_decay_by_itself():
    g = torch.ones(50, 1).double()
    steps = moved("adagrad-rms", g, lr=0.1).diff(dim=0)

    assert_close(steps, torch.full_like(steps, -0.1))


@pytest.mark.parametrize("name", ["adagrad", "adagrad-rms", "rmsprop-notes", "adam"])
def test_the_first_step_is_the_rate_times_the_sign(name):
    g = gradients(1)

    assert_close(moved(name, g, lr=0.1)[0], start().detach() - 0.1 * g[0].sign(), rtol=0, atol=1e-6)


def test_torchs_first_rmsprop_step_is_longer():
    g = gradients(1)
    path = moved("rmsprop", g, lr=0.1, alpha=0.9)

    assert_close(path[0], start().detach() - 0.1 / math.sqrt(0.1) * g[0].sign(), rtol=0, atol=1e-6)


def test_the_notes_rmsprop_follows_its_recursion():
    g, alpha, rate = gradients(6).numpy(), 0.8, 0.05
    sigma, theta = np.abs(g[0]), start().detach().numpy().copy()
    path = []
    for t, each in enumerate(g):
        sigma = np.abs(each) if t == 0 else np.sqrt(alpha * sigma**2 + (1 - alpha) * each**2)
        theta = theta - rate * each / sigma
        path.append(theta)

    found = moved("rmsprop-notes", torch.from_numpy(g), lr=rate, alpha=alpha)

    np.testing.assert_allclose(found.numpy(), np.stack(path), atol=1e-6)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam_follows_the_papers_algorithm(name):
    g, rate, b1, b2, eps, decay = gradients(7).numpy(), 0.01, 0.8, 0.95, 1e-3, 0.1
    theta = start().detach().numpy().copy()
    m = v = np.zeros_like(theta)
    for t, each in enumerate(g, 1):
        if name == "adam":
            each = each + decay * theta
        else:
            theta = theta - rate * decay * theta
        m, v = b1 * m + (1 - b1) * each, b2 * v + (1 - b2) * each**2
        theta = theta - rate * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)

    found = moved(
        name, torch.from_numpy(g), lr=rate, beta1=b1, beta2=b2, eps=eps, weight_decay=decay
    )

    np.testing.assert_allclose(found[-1].numpy(), theta, rtol=1e-10)


@pytest.mark.parametrize("condition", [10.0, 100.0])
def test_quadratics_converge_at_the_rates_of_theory(condition):
    """Gradient descent at 2/(λ₁ + λₙ): (κ − 1)/(κ + 1) an update; the heavy ball at its best: (√κ − 1)/(√κ + 1)."""
    curvatures = torch.tensor([1.0, condition], dtype=torch.float64)
    root = math.sqrt(condition)

    def shrinks(name, updates, **settings):
        parameter = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
        recipe = Recipe(optimizer=name, batch_size=None, **settings)
        optimizer = make_optimizer(recipe, [parameter], samples=8)
        sizes = []
        for _ in range(updates):
            parameter.grad = curvatures * parameter.detach()
            optimizer.step()
            sizes.append(float(parameter.detach().norm()))
        half = updates // 2
        return (sizes[-1] / sizes[half]) ** (1 / (updates - 1 - half))

    plain = shrinks("gradient-descent", 200, lr=2 / (1 + condition))
    heavy = shrinks(
        "heavy-ball", 200, lr=(2 / (root + 1)) ** 2, momentum=((root - 1) / (root + 1)) ** 2
    )

    assert math.isclose(plain, (condition - 1) / (condition + 1), rel_tol=1e-9)
    # a double root: t·ρᵗ, which is ρ only in the limit
    assert (root - 1) / (root + 1) <= heavy < 1.03 * (root - 1) / (root + 1)


def test_parameters_without_a_gradient_stay():
    still, moving = start(), start()
    optimizer = RuleOptimizer([still, moving], "heavy-ball", lr=0.1, momentum=0.9)
    moving.grad = torch.ones(5).double()
    optimizer.step()

    assert torch.equal(still, start())
    assert not torch.equal(moving, start())
