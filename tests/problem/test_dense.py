"""Dense Hessians at many parameter vectors are those that autograd gives one by one."""

import pytest
import torch
from torch import nn
from torch.autograd.functional import hessian
from torch.func import functional_call
from torch.testing import assert_close

from cases import frye, network
from unstick.errors import BadData, BadModel
from unstick.problem.problem import Problem

N = 3 * 4 + 4 + 4 * 2 + 2


def data(samples=20):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(samples, 3, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(0, 2, (samples,), generator=generator)


def points(m, n=N):
    return torch.randn(m, n, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def reference(model, theta, inputs, targets, decay=0.0):
    shapes = {name: p.shape for name, p in model.named_parameters()}

    def loss(flat):
        pieces = flat.split([shape.numel() for shape in shapes.values()])
        named = {
            name: piece.view(shape)
            for (name, shape), piece in zip(shapes.items(), pieces, strict=True)
        }
        outputs = functional_call(model, named, (inputs,))
        return nn.functional.cross_entropy(outputs, targets) + 0.5 * decay * flat @ flat

    return hessian(loss, theta)


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("batches", [1, 3])
def test_each_is_the_hessian_that_autograd_gives(decay, batches):
    model, (inputs, targets) = network(3, 4, 2).double(), data()
    parts = list(zip(inputs.split(20 // batches), targets.split(20 // batches), strict=True))
    problem = Problem(model, parts, nn.CrossEntropyLoss(), weight_decay=decay)
    thetas = points(3)

    found = problem.hessians(thetas)

    for theta, H in zip(thetas, found, strict=True):
        assert_close(H, reference(model, theta, inputs, targets, decay), rtol=1e-10, atol=1e-13)


def test_the_quartic_has_the_hessian_of_its_formula():
    problem = Problem.from_function(frye, torch.tensor([0.5, 0.5]))
    thetas = points(4, 2)

    expected = torch.diag_embed(
        torch.stack([3 * thetas[:, 0] ** 2 - 6, 10.8 * thetas[:, 1] ** 2 + 10], dim=1)
    )
    assert_close(problem.hessians(thetas), expected, rtol=1e-12, atol=1e-12)


class Branching(nn.Module):
    """What vmap refuses: Python decides by a number."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        out = self.layer(x)
        return out.tanh() if float(out.detach().abs().sum()) > 0 else out


def test_a_model_that_cannot_be_batched_is_taken_one_by_one():
    model, (inputs, targets) = Branching().double(), data()
    problem = Problem(model, (inputs, targets), nn.CrossEntropyLoss())
    thetas = points(2, 8)

    found = problem.hessians(thetas)

    for theta, H in zip(thetas, found, strict=True):
        assert_close(H, reference(model, theta, inputs, targets), rtol=1e-10, atol=1e-13)


def test_a_small_memory_only_makes_more_blocks():
    model, pair = network(3, 4, 2).double(), data()
    wide = Problem(model, pair, nn.CrossEntropyLoss())
    narrow = Problem(model, pair, nn.CrossEntropyLoss(), memory=20_000)

    assert_close(narrow.hessians(points(5)), wide.hessians(points(5)), rtol=1e-12, atol=1e-14)


def test_a_part_of_the_parameters_has_its_block():
    model, pair = network(3, 4, 2).double(), data()
    whole = Problem(model, pair, nn.CrossEntropyLoss())
    block = whole.restrict("2.*")
    theta = whole.parameters()

    H = whole.hessians(theta.unsqueeze(0))[0]

    assert_close(block.hessians(block.parameters().unsqueeze(0))[0], H[16:, 16:])


def test_a_linear_loss_has_none_and_so_has_no_vector_at_all():
    problem = Problem.from_function(lambda x: x.sum(), torch.zeros(3))

    assert_close(problem.hessians(points(2, 3)), torch.zeros(2, 3, 3, dtype=torch.float64))
    assert problem.hessians(points(0, 3)).shape == (0, 3, 3)


def test_the_price_is_a_gradient_and_n_products_for_each():
    problem = Problem(network(3, 4, 2).double(), data(), nn.CrossEntropyLoss())
    problem.hessian()  # the probe of how to differentiate
    before = problem.spent

    problem.hessians(points(3))

    assert (problem.spent - before).gradients == pytest.approx(3 * (1 + 2 * N))


def test_the_model_stays_as_it_was():
    model = network(3, 4, 2).double()
    problem = Problem(model, data(), nn.CrossEntropyLoss())
    before = [p.detach().clone() for p in model.parameters()]
    random = torch.get_rng_state()

    problem.hessians(points(2))

    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_another_shape_is_refused():
    problem = Problem.from_function(frye, torch.zeros(2))

    with pytest.raises(BadData, match=r"expected \[m, 2\]"):
        problem.hessians(torch.zeros(2))


class OnlyOnce(torch.autograd.Function):
    """Has a gradient, but none of the gradient."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, out):
        return 2 * ctx.saved_tensors[0] * out


def test_a_loss_without_second_derivatives_is_refused_in_one_line():
    problem = Problem.from_function(lambda x: OnlyOnce.apply(x).sum(), torch.ones(2))

    with pytest.raises(BadModel, match="second derivatives"):
        problem.hessians(torch.ones(1, 2))
