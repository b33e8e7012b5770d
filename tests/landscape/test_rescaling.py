"""Rescaling two layers keeps the function bit for bit and changes the Hessian as algebra says."""

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.testing import assert_close

from cases import network
from unstick.errors import BadData, BadModel
from unstick.landscape.rescaling import rescalable, rescale, rescaling_study
from unstick.problem.problem import Problem


def inputs_of(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def relu_problem(activation=nn.ReLU, **given):
    model = network(3, 5, 4, 2, activation=activation, seed=1)
    return Problem(model, (inputs_of(30, 3), inputs_of(30, 2, seed=1)), nn.MSELoss(), **given)


def scalar_net():
    """w₂·w₁·x on one sample (1, 1), both weights 1: a minimum with λ = 2(w₁² + w₂²)."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False))
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    return Problem(model, (torch.ones(1, 1), torch.ones(1, 1)), nn.MSELoss())


def hessian(problem, theta):
    """Dense, by torch's own double backward through a call of the model."""
    model = problem.model.double()
    named = dict(model.named_parameters())
    (inputs, targets) = (inputs_of(30, 3).double(), inputs_of(30, 2, seed=1).double())

    def function(flat):
        parts = dict(zip(named, flat.split([p.numel() for p in named.values()]), strict=True))
        shaped = {name: parts[name].view(p.shape) for name, p in named.items()}
        return nn.functional.mse_loss(functional_call(model, shaped, inputs), targets)

    return torch.autograd.functional.hessian(function, theta)


@pytest.mark.parametrize("alpha", [0.25, 3.0])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Identity])
def test_blocks_of_the_hessian_scale_by_alpha_squared(alpha, activation):
    problem = relu_problem(activation)
    before, theta = problem.parameters(), rescale(problem, "0", "2", alpha)
    H, scaled = hessian(problem, before), hessian(problem, theta)

    D = torch.ones(problem.n, dtype=torch.float64)
    D[:20], D[20:40] = alpha, 1 / alpha  # weight 5×3 and bias 5; weight 4×5; the rest stays
    assert_close(theta, before * D, rtol=1e-14, atol=0)
    assert_close(scaled, H / D.unsqueeze(1) / D, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("alphas", [(0.5, 1.0, 4.0)])
def test_lambda_max_follows_the_dense_hessian_and_adaptive_sharpness_does_not_move(alphas):
    problem = relu_problem()
    found = rescaling_study(problem, alphas=alphas)

    for theta, top in zip(found.thetas, found.lambda_max.tolist(), strict=True):
        reference = float(torch.linalg.eigvalsh(hessian(problem, theta))[-1])
        assert_close(top, reference, rtol=1e-5, atol=0)
    assert_close(found.adaptive, found.adaptive[:1].expand(3), rtol=1e-6, atol=0)
    assert_close(found.losses, found.losses[:1].expand(3), rtol=1e-13, atol=0)
    assert float(found.lambda_max.max() / found.lambda_max.min()) > 2
    assert found.outcome == "complete"
    assert found.output_changes.tolist() == [0.0, 0.0, 0.0]  # powers of two are exact


def test_the_scalar_net_gets_as_sharp_as_one_likes():
    found = rescaling_study(scalar_net(), alphas=(1.0, 4.0, 64.0))

    expected = [4.0, 2 * (16 + 1 / 16), 2 * (64**2 + 1 / 64**2)]
    assert_close(found.lambda_max, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=0)
    assert found.losses.tolist() == [0.0, 0.0, 0.0]
    # f = (1 − w₁w₂)² at w = (α, 1/α): within the box its largest value is at w + ε(w + 1)
    e = 1e-3
    for alpha, phi in zip((1.0, 4.0, 64.0), found.phi[:, 0].tolist(), strict=True):
        corner = (alpha + e * (alpha + 1)) * (1 / alpha + e * (1 / alpha + 1))
        assert_close(phi, 100 * (corner - 1) ** 2, rtol=1e-6, atol=0)


def test_a_convolutional_network_keeps_its_function():
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 3, 3), nn.LeakyReLU(0.2), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(3, 2, 2), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten()),
        nn.Linear(2, 3),
    )
    images, labels = inputs_of(6, 1, 8, 8), torch.arange(6) % 3
    problem = Problem(model, (images, labels), nn.CrossEntropyLoss(), dtype=torch.float32)
    before, theta = model(images).detach(), problem.parameters()
    assert rescalable(model) == [("0.0", "1.0"), ("1.0", "2")]
    for pair in rescalable(model):
        problem.write(rescale(problem, *pair, 7.0))

    assert_close(model(images).detach(), before, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(problem.parameters(), theta, rtol=0.5)  # it was rescaled


SHARED = nn.Linear(2, 2)
CHAINS = {
    "deep linear": (nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), [("0", "1")]),
    "normalization between": (
        nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.ReLU(), nn.Linear(2, 2)),
        [],
    ),
    "saturating": (nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2)), []),
    "smooth": (nn.Sequential(nn.Linear(2, 2), nn.GELU(), nn.Linear(2, 2)), []),
    "a layer used twice": (nn.Sequential(SHARED, nn.ReLU(), SHARED), []),
    "no chain": (nn.Linear(2, 2), []),
    "inside another module": (
        nn.ModuleDict({"body": nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))}),
        [("body.0", "body.2")],
    ),
}


@pytest.mark.parametrize("name", CHAINS)
def test_only_homogeneous_chains_are_listed(name):
    model, pairs = CHAINS[name]

    assert rescalable(model) == pairs


class Peeking(nn.Module):
    """A chain whose hidden layer is used outside it, too."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))

    def forward(self, x):
        return self.body(x) + self.body[0](x).sum(1, keepdim=True)


def test_a_function_that_changes_is_refused():
    problem = Problem(Peeking(), (inputs_of(9, 3), inputs_of(9, 2)), nn.MSELoss())

    with pytest.raises(BadModel, match="outputs change"):
        rescale(problem, "body.0", "body.2", 2.0)


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("inf"), float("nan")])
def test_a_factor_that_is_not_positive_and_finite_is_refused(alpha):
    with pytest.raises(BadData, match="> 0"):
        rescale(relu_problem(), "0", "2", alpha)


def test_layers_that_cannot_be_rescaled_are_refused_with_those_that_can():
    with pytest.raises(BadModel, match="pairs that can: 0 and 2, 2 and 4"):
        rescale(relu_problem(), "0", "4", 2.0)
    with pytest.raises(BadModel, match="pairs that can: none"):
        rescale(relu_problem(nn.Tanh), "0", "2", 2.0)
    with pytest.raises(BadModel, match="no normalization"):
        rescaling_study(relu_problem(nn.Tanh))
    with pytest.raises(BadData, match="at least one"):
        rescaling_study(relu_problem(), alphas=())


def test_a_frozen_layer_is_refused_by_name():
    model = network(3, 5, 2, activation=nn.ReLU)
    model[0].bias.requires_grad_(False)
    problem = Problem(model, (inputs_of(9, 3), inputs_of(9, 2)), nn.MSELoss())

    with pytest.raises(BadModel, match=r"0\.bias is not among the trained"):
        rescale(problem, "0", "2", 2.0)


def test_weight_decay_is_not_invariant():
    found = rescaling_study(relu_problem(weight_decay=0.1), alphas=(1.0, 4.0))

    assert float(found.losses[1]) > float(found.losses[0]) + 0.1
    assert float(found.output_changes.max()) == 0.0


@pytest.mark.parametrize("interrupted", [False, True])
def test_the_model_is_as_it_was(interrupted):
    def stop(stage, done, total):
        if interrupted and done == 1:
            raise KeyboardInterrupt

    problem = relu_problem()  # float32 parameters, computed in float64
    hooks = dict(problem.model._forward_hooks)
    before = {name: p.clone() for name, p in problem.model.state_dict().items()}
    found = rescaling_study(problem, alphas=(3.0, 0.3), progress=stop)

    assert len(found.alphas) == len(found.thetas) == len(found.measured) == 2 - interrupted
    assert found.outcome == ("interrupted" if interrupted else "complete")
    assert all(torch.equal(before[name], p) for name, p in problem.model.state_dict().items())
    assert dict(problem.model._forward_hooks) == hooks
    assert 0 < float(found.output_changes[0]) < 1e-6  # thirds are rounded to the model's float32


def test_an_interruption_before_anything_is_measured_is_told():
    def stop(stage, done, total):
        raise KeyboardInterrupt

    found = rescaling_study(relu_problem(), progress=stop)

    assert found.outcome == "interrupted"
    assert found.thetas.shape == (0, found.thetas.shape[1])
    assert "Interrupted" in str(found)
