"""A product is the reference's, whatever the model is made of; what the model is wrapped in does not matter."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from problem.architectures import MODELS, architecture, batch_loss, language_model, sentences
from problem.cases import (
    ALL,
    Checkpointed,
    Mixed,
    distributed_data_parallel,
    perceptron,
    process_group,
)
from unstick import Problem
from unstick.errors import BadModel
from unstick.problem.guard import unwrapped

LOSS = nn.CrossEntropyLoss()


def data():
    generator = torch.Generator().manual_seed(2)
    return torch.randn(12, 4, generator=generator), torch.arange(12) % 3


def directions(n, dtype=torch.float64):
    V = torch.randn(n, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (V / V.norm(dim=0)).to(dtype)


def far(found, expected):
    return float((found.double() - expected).norm() / expected.norm())


# -- language and vision models; the small models of cases.py are in test_derivatives.py -----------


@pytest.mark.parametrize("name", MODELS)
def test_a_product_is_the_references(name):
    """To float32's rounding: models of Hugging Face take that type on the way, whatever their parameters have."""
    row = architecture(name)
    V = directions(row.problem.n)
    expected = row.products(V)

    for mode in (*row.modes, "auto"):
        operator = row.problem.hessian(mode=mode)
        together, alone = operator.matmat(V).double(), operator.matvec(V[:, 0]).double()
        slack = 1e-5 * float(expected.norm()) + 3 * operator.error()

        assert mode == "auto" or operator.mode == mode
        assert float((together - expected).norm(dim=0).max()) < slack, mode
        assert float((alone - expected[:, 0]).norm()) < slack, mode


@pytest.mark.parametrize("name", MODELS)
def test_a_mode_outside_the_table_is_refused(name):
    row = architecture(name)
    for mode in set(ALL) - set(row.modes):
        with pytest.raises(BadModel, match=mode):
            row.problem.hessian(mode=mode)


def test_batches_of_a_language_model_weigh_as_many_tokens_as_they_hold():
    from transformers import GPT2LMHeadModel

    row = architecture("GPT-2 of Hugging Face")
    model = row.problem.model
    assert isinstance(model, GPT2LMHeadModel)
    assert "lm_head.weight" not in row.problem.layout.names  # it is transformer.wte.weight
    lone = Problem(model, sentences(), batch_loss=batch_loss)
    assert lone.value() != pytest.approx(row.problem.value(), rel=1e-6)
    assert model.config._attn_implementation == "sdpa"


# -- wrappers --------------------------------------------------------------------------------------

WRAPPED = {
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "DataParallel": nn.DataParallel,
    "DistributedDataParallel": distributed_data_parallel,
    "compiled, distributed": lambda model: torch.compile(
        distributed_data_parallel(model), backend="eager"
    ),
    "distributed, compiled": lambda model: distributed_data_parallel(
        torch.compile(model, backend="eager")
    ),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_a_problem_speaks_of_the_parameters_inside_the_wrapper(name):
    inner = perceptron()
    wrapped = WRAPPED[name](inner)
    problem = Problem(wrapped, data(), LOSS, weight_decay={"0.weight": 0.5})
    plain = Problem(inner, data(), LOSS, weight_decay={"0.weight": 0.5})

    assert unwrapped(wrapped) is problem.model is inner
    assert problem.layout.names == ("0.weight", "0.bias", "2.weight", "2.bias")
    assert problem.restrict("2.*").layout.names == ("2.weight", "2.bias")
    V = directions(problem.n)
    assert torch.equal(problem.hessian(mode="kept").matmat(V), plain.hessian(mode="kept").matmat(V))
    problem.write(torch.arange(problem.n) / 100)
    assert inner[2].bias.tolist() == pytest.approx([0.40, 0.41, 0.42])


def test_parts_keep_the_names_that_the_user_sees():
    model = nn.Sequential(nn.DataParallel(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3))
    problem = Problem(model, data(), LOSS)

    assert problem.layout.names == tuple(name for name, _ in model.named_parameters())
    assert problem.restrict("0.module.*").n == 25
    problem.write(torch.zeros(problem.n))
    assert all(parameter.eq(0).all() for parameter in model.parameters())


@pytest.mark.parametrize("wrap", [distributed_data_parallel, nn.DataParallel])
def test_the_forward_pass_of_a_parallel_part_never_runs(wrap, monkeypatch):
    """It would broadcast buffers and expect a backward pass: other processes would wait for it."""
    part = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5))
    model = nn.Sequential(wrap(part), nn.Tanh(), nn.Linear(5, 3))
    plain = Problem(nn.Sequential(part, *model[1:]), data(), LOSS, mode="train")

    def collective(*inputs):
        raise AssertionError("a collective operation")

    monkeypatch.setattr(type(model[0]), "forward", collective)
    problem = Problem(model, data(), LOSS, mode="train")
    V = directions(problem.n)

    assert torch.equal(problem.hessian(mode="kept").matmat(V), plain.hessian(mode="kept").matmat(V))
    assert "forward" not in vars(model[0])


def test_a_loss_that_calls_the_wrapper_itself_is_the_same_loss():
    inner = perceptron()
    plain = Problem(inner, data(), LOSS)
    with process_group():
        wrapped = DistributedDataParallel(inner)
        called = Problem(
            wrapped, [data()], batch_loss=lambda _, batch: LOSS(wrapped(batch[0]), batch[1])
        )
        V = directions(plain.n)
        products = called.hessian(mode="kept").matmat(V)
        for _ in range(2):  # its own training goes on as if nothing had been
            wrapped.zero_grad()
            LOSS(wrapped(data()[0]), data()[1]).backward()

    assert torch.equal(products, plain.hessian(mode="kept").matmat(V))
    own = torch.cat([parameter.grad.reshape(-1) for parameter in inner.parameters()])
    assert_close(own.double(), plain.gradient(), rtol=1e-5, atol=1e-6)


def test_a_loss_that_calls_the_compiled_model_or_a_compiled_function_is_the_same_loss():
    inner = perceptron()
    compiled = torch.compile(inner, backend="aot_eager")
    function = torch.compile(cross_entropy, backend="aot_eager")
    plain = Problem(inner, data(), LOSS)
    called = Problem(
        compiled, [data()], batch_loss=lambda _, batch: function(compiled(batch[0]), batch[1])
    )
    V = directions(plain.n)

    assert torch.equal(called.hessian(mode="kept").matmat(V), plain.hessian(mode="kept").matmat(V))


# -- a model that casts by itself ------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_autocast_of_a_model_is_left_out_and_said(dtype):
    model = Mixed(*perceptron())
    plain = Problem(nn.Sequential(*model), data(), LOSS, dtype=torch.float64)
    problem = Problem(model, data(), LOSS, dtype=dtype)
    V = directions(plain.n)
    near = {torch.float32: 1e-5, torch.float64: 1e-12}[dtype]

    assert far(problem.hessian(mode="kept").matmat(V), plain.hessian(mode="kept").matmat(V)) < near
    assert far(problem.gradient(), plain.gradient()) < near
    assert sum("autocast is left out" in note for note in problem.notes) == 1
    assert not any("autocast" in note for note in plain.notes)
    assert model(data()[0]).dtype == torch.bfloat16  # as ever outside


def test_what_the_casting_model_itself_computes_bends_by_the_same_amount():
    """Its own gradients are right to three digits, so that only a long step shows how they change."""
    torch.manual_seed(5)
    model = Mixed(*perceptron())
    x, y = data()
    problem = Problem(model, (x, y), LOSS, dtype=torch.float32)
    theta, v = problem.parameters(), directions(problem.n, torch.float32)[:, 0]

    def gradient(at):
        problem.write(at)
        parameters = list(model.parameters())
        parts = torch.autograd.grad(LOSS(model(x).float(), y), parameters)
        return torch.cat([part.reshape(-1) for part in parts]).double()

    product = problem.hessian(mode="kept").matvec(v)
    quotient = (gradient(theta + 0.5 * v) - gradient(theta - 0.5 * v)) / 1.0
    problem.write(theta)

    assert far(product, quotient) < 0.1


def test_a_checkpoint_inside_an_autocast_is_recomputed_without_it():
    class Both(Checkpointed):
        def forward(self, x):
            with torch.autocast("cpu", torch.bfloat16):
                return super().forward(x)

    model = Both(reentrant=False)
    problem = Problem(model, data(), LOSS, dtype=torch.float32)
    plain = Problem(
        nn.Sequential(model.first, nn.Tanh(), model.middle, nn.Tanh(), model.last),
        data(),
        LOSS,
        dtype=torch.float64,
    )
    V = directions(plain.n)

    assert far(problem.hessian(mode="kept").matmat(V), plain.hessian(mode="kept").matmat(V)) < 1e-5


# -- refusals --------------------------------------------------------------------------------------


def test_a_model_without_shapes_yet_is_refused_with_what_to_do():
    with pytest.raises(BadModel, match=r"0\.weight has no shape yet.*run the model once"):
        Problem(nn.Sequential(nn.LazyLinear(3)), data(), LOSS)


def test_wrong_second_derivatives_of_torch_are_found_out_and_said():
    row = architecture("weight normalization")

    assert row.problem.hessian().mode == "difference"
    assert "kept not possible: double backward is not a symmetric" in row.problem.notes[-1]


def test_a_language_model_can_be_moved_and_put_back():
    model = language_model()
    problem = Problem(model, sentences(), batch_loss=batch_loss)
    theta = problem.parameters()
    before = problem.value()
    problem.write(theta - 0.1 * problem.gradient())
    assert problem.value() < before
    problem.write(theta)
    assert problem.value() == before
    assert model.lm_head.weight is model.transformer.wte.weight
