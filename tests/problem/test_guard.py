import copy
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from problem.cases import Recurrent, convolutional, perceptron
from unstick import Problem
from unstick.errors import BadData, BadModel, NonFinite, StaleOperator
from unstick.problem.matmul import onednn_is_exact

LOSS = nn.CrossEntropyLoss()
CUDNN = ("enabled", "benchmark", "deterministic")


class Watched(nn.Module):
    """Raises something at its n-th evaluation."""

    def __init__(self, error=None):
        super().__init__()
        self.inner, self.last = convolutional(), nn.Dropout(0.0)
        self.error, self.at, self.seen = error, -1, 0

    def forward(self, x):
        self.seen += 1
        if self.seen == self.at:
            raise self.error
        return self.last(self.inner(x))


def planted(error=None):
    torch.manual_seed(0)
    model = Watched(error)
    model.inner[0].train()
    model.inner[1].eval()
    model.last.train()
    model.inner[4].bias.requires_grad_(False)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    return model


def state(model):
    """Everything that must not change; the tensors of .grad by identity too."""
    return {
        "mode": [module.training for module in model.modules()],
        "values": [t.detach().clone() for t in (*model.parameters(), *model.buffers())],
        "objects": [id(t) for t in (*model.parameters(), *model.buffers())],
        "grad": [(id(p.grad), p.grad.clone()) for p in model.parameters()],
        "trainable": [p.requires_grad for p in model.parameters()],
        "hooks": [len(m._forward_hooks) for m in model.modules()],
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1].copy(),  # noqa: NPY002 - the state that must not move
        "python": random.getstate(),
        "grad mode": torch.is_grad_enabled(),
        "attention": torch.backends.cuda.flash_sdp_enabled(),
        "autocast": torch.autocast.__enter__,
        "cuDNN": [getattr(torch.backends.cudnn, name) for name in CUDNN],
        "float32": precisions(),
    }


def precisions():
    """What each kind of operation does to float32 numbers on the way."""
    backends = torch.backends
    operations = [backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn]
    operations += [backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn]
    return [operation.fp32_precision for operation in operations]


def assert_same(before, after):
    def equal(a, b):
        if isinstance(a, torch.Tensor):
            return torch.equal(a, b)
        if isinstance(a, np.ndarray):
            return np.array_equal(a, b)
        if isinstance(a, (list, tuple)):
            return len(a) == len(b) and all(map(equal, a, b))
        return a == b

    for key in before:
        assert equal(before[key], after[key]), key


def images():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(8, 1, 4, 4, generator=generator), torch.arange(8) % 3


def use_everything(model, mode):
    problem = Problem(model, images(), LOSS, mode=mode)
    thetas = problem.parameters() * torch.tensor([[1.0], [0.9]])
    problem.value_and_gradient()
    problem.values(thetas)
    problem.gradients(thetas)
    for way in ("auto", "kept", "rebuilt", "difference"):
        problem.hessian(mode=way).matmat(torch.ones(problem.n, 3))
    problem.gradient_noise()
    problem.subset(5).gradient()
    problem.restrict("inner.0.*").hessian()
    return problem


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("around", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_nothing_of_the_model_and_no_random_state_changes(mode, around):
    model = planted()
    before = state(model)
    with around():
        use_everything(model, mode)
    assert_same(before, state(model))


def test_answers_under_inference_mode_are_the_same():
    model = planted()
    plain = Problem(model, images(), LOSS)
    with torch.inference_mode():
        problem = Problem(model, images(), LOSS)
        gradient = problem.gradient()
        product = problem.hessian(mode="kept").matvec(torch.ones(problem.n))
        point = Problem.from_function(lambda x: (x**2).sum(), torch.ones(2))
    assert torch.equal(gradient, plain.gradient())
    assert torch.equal(product, plain.hessian(mode="kept").matvec(torch.ones(plain.n)))
    assert point.gradient().tolist() == [2.0, 2.0]


def evaluations():
    model = planted()
    use_everything(model, "train")
    return model.seen


@pytest.mark.parametrize("error", [ZeroDivisionError("planted"), KeyboardInterrupt()], ids=repr)
def test_nothing_changes_when_any_evaluation_fails(error):
    total = evaluations()
    for at in {1, 2, *range(3, total, 16), total - 1}:
        model = planted(error)
        model.at = at
        before = state(model)
        try:
            use_everything(model, "train")
        except (type(error), BadModel):
            pass
        assert_same(before, state(model))


def test_an_interrupt_is_not_swallowed():
    model = planted(KeyboardInterrupt())
    model.at = 1
    with pytest.raises(KeyboardInterrupt):
        Problem(model, images(), LOSS)


def test_a_recurrent_model_can_be_copied_and_used_afterwards():
    model = Recurrent()
    x, y = torch.randn(6, 5, 2), torch.arange(6) % 3
    before = model(x).detach()
    Problem(model, (x, y), LOSS).hessian().matvec(
        torch.ones(sum(p.numel() for p in model.parameters()))
    )

    assert torch.equal(copy.deepcopy(model)(x), before)
    assert torch.equal(model(x), before)


@pytest.mark.parametrize("samples", [None, 5])
def test_reading_a_loader_moves_no_generator(samples):
    class Augmented(TensorDataset):
        def __getitem__(self, index):
            x, y = super().__getitem__(index)
            noise = torch.rand(()) + random.random() + np.random.rand()  # noqa: S311, NPY002
            return x + float(noise), y

    generator = torch.Generator().manual_seed(3)
    loader = DataLoader(Augmented(*images()), 3, shuffle=True, generator=generator)
    model = planted()
    before, own = state(model), generator.get_state()
    problem = Problem(model, loader, LOSS, samples=samples)

    assert_same(before, state(model))
    assert torch.equal(own, generator.get_state())
    assert problem.value() == problem.value()


def test_a_compiled_model_stays_compiled():
    model = nn.Sequential(torch.compile(nn.Linear(4, 3), backend="eager"), nn.Tanh())
    model.compile(backend="eager")
    problem = Problem(model, (torch.randn(6, 4), torch.arange(6) % 3), LOSS)
    problem.hessian().matvec(torch.ones(problem.n))

    assert model._compiled_call_impl is not None
    assert hasattr(model[0], "_orig_mod")
    assert torch._dynamo.eval_frame._stance.stance == "default"


@pytest.fixture(params=["all at once", "by the old switch", "untouched"])
def shortened(request):
    """Float32 numbers lose digits in products, as programs that want speed ask for."""
    before, matrices = (
        precisions(),
        (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul),
    )
    torch.backends.cudnn.benchmark = True
    if request.param == "all at once":
        torch.backends.fp32_precision = "tf32"
    elif request.param == "by the old switch":
        torch.set_float32_matmul_precision("medium")
    yield
    torch.backends.cudnn.benchmark = False
    if request.param == "all at once":
        torch.backends.fp32_precision = "none"
    elif request.param == "by the old switch":
        torch.set_float32_matmul_precision("highest")
        for operation in matrices:
            operation.fp32_precision = "none"
    assert precisions() == before


def test_float32_keeps_its_digits_inside_and_its_settings_outside(shortened):
    seen = []

    class Looking(nn.Module):
        def forward(self, x):
            seen.append((*precisions(), torch.backends.cudnn.benchmark))
            return x

    before = precisions()
    model = nn.Sequential(nn.Linear(4, 3), Looking())
    problem = Problem(model, (torch.randn(6, 4), torch.arange(6) % 3), LOSS)
    problem.hessian().matvec(torch.ones(problem.n))

    assert "tf32" in before  # convolutions have it unasked
    assert precisions() == before
    assert torch.backends.cudnn.benchmark
    assert seen
    # bfloat16 may be permitted for products of matrices on a CPU only where all digits are kept all the same.
    allowed = ["bf16"] if onednn_is_exact() else []
    shortened = [[word for word in found if word in ("tf32", "bf16", True)] for found in seen]
    assert all(found in ([], allowed) for found in shortened)


# -- stale operators -------------------------------------------------------------------------------


def step(model):
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def change_data(model):
    next(model.parameters()).data[0, 0] += 1


def load(model):
    model.load_state_dict({k: v + 1 for k, v in model.state_dict().items()})


@pytest.mark.parametrize("move", [step, change_data, load])
def test_an_operator_is_refused_after_its_parameters_changed(move):
    model = perceptron()
    problem = Problem(model, (torch.randn(9, 4), torch.arange(9) % 3), LOSS)
    operator = problem.hessian()
    before = problem.parameters()
    product = operator.matvec(torch.ones(problem.n))
    move(model)

    with pytest.raises(StaleOperator, match=r"call problem\.hessian"):
        operator.matvec(torch.ones(problem.n))
    problem.hessian().matvec(torch.ones(problem.n))
    problem.write(before)
    assert torch.equal(operator.matvec(torch.ones(problem.n)), product)


def test_a_problem_speaks_of_the_current_parameters():
    problem = Problem.from_function(lambda x: (x**2).sum(), torch.ones(2))
    problem.write(torch.tensor([3.0, 0.0]))
    assert problem.value() == 9.0
    assert problem.gradient().tolist() == [6.0, 0.0]


# -- refusals of the model -------------------------------------------------------------------------


def refused(error, match, *arguments, **options):
    with pytest.raises(error, match=match) as refusal:
        Problem(*arguments, **options)
    assert "\n" not in str(refusal.value)


DATA = (torch.ones(6, 4), torch.arange(6) % 3)


def test_parameters_that_are_not_finite_are_refused_by_name():
    model = perceptron()
    model[2].weight.data[1, 3] = float("nan")
    refused(NonFinite, r"parameter 2.weight .*\[1, 3\]", model, DATA, LOSS)
    model.requires_grad_(False)
    model[0].requires_grad_(True)
    refused(NonFinite, r"parameter 2.weight", model, DATA, LOSS)


@pytest.mark.parametrize("size", [2, 100])
def test_a_loss_that_is_not_finite_is_refused_with_its_batch(size):
    class Logarithm(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x):
            return (self.scale * x).log()

    x = torch.ones(4 * size, 1)
    x[3 * size + 1] = -1
    refused(
        NonFinite,
        "loss is nan on batch 3",
        Logarithm(),
        list(zip(x.split(size), x.split(size), strict=True)),
        nn.MSELoss(),
    )


def test_a_buffer_that_is_not_finite_is_named():
    model = convolutional()
    model[1].running_var.fill_(float("nan"))
    refused(NonFinite, "1.running_var", model, images(), LOSS)


def test_a_gradient_that_is_not_finite_is_refused():
    with pytest.raises(NonFinite, match="gradient is not finite"):
        Problem.from_function(lambda x: x.abs().sqrt().sum(), torch.zeros(2))


def test_a_model_without_trainable_parameters_is_refused():
    refused(BadModel, "no trainable parameter", nn.Tanh(), DATA, LOSS)
    refused(
        BadModel, "2 with requires_grad=False", nn.Linear(4, 3).requires_grad_(False), DATA, LOSS
    )
    refused(BadModel, "complex64", nn.Linear(4, 3, dtype=torch.complex64), DATA, LOSS)


def test_what_is_no_scalar_loss_is_refused():
    model = perceptron()
    refused(
        BadModel,
        r"shape \[6\]; expected a scalar",
        model,
        DATA,
        nn.CrossEntropyLoss(reduction="none"),
    )
    refused(BadModel, "the loss is a float", model, [DATA], batch_loss=lambda m, b: 1.0)
    refused(BadModel, "expected one of loss=", model, DATA)
    refused(BadModel, "expected one of loss=", model, DATA, LOSS, batch_loss=lambda m, b: 0)


def test_shapes_that_do_not_fit_are_refused_in_one_line():
    refused(
        BadModel,
        r"batch 0 \(\[6, 5\] and \[6\]\): RuntimeError",
        perceptron(),
        (torch.ones(6, 5), DATA[1]),
        LOSS,
    )
    refused(BadModel, "IndexError", perceptron(), (DATA[0], DATA[1] + 4), LOSS)


@pytest.mark.parametrize(
    "options",
    [{"mode": "evaluate"}, {"dtype": torch.bfloat16}, {"dtype": torch.int64}, {"dtype": "float64"}],
    ids=str,
)
def test_options_without_meaning_are_refused(options):
    refused(BadModel, next(iter(options)), perceptron(), DATA, LOSS, **options)


def test_an_unknown_mode_of_products_is_refused():
    with pytest.raises(BadModel, match="expected one of auto, kept"):
        Problem(perceptron(), DATA, LOSS).hessian(mode="backward")


@pytest.mark.parametrize("x0", [torch.ones(2, 2), torch.ones(0), torch.ones(2).long()], ids=str)
def test_a_start_that_is_no_vector_is_refused(x0):
    with pytest.raises(BadModel, match="expected floating point"):
        Problem.from_function(lambda x: x.sum(), x0)


def test_points_of_another_shape_are_refused():
    problem = Problem.from_function(lambda x: x.sum(), torch.ones(2))
    for thetas in (torch.ones(2), torch.ones(3, 3)):
        with pytest.raises(BadData, match=r"expected \[m, 2\]"):
            problem.values(thetas)


@pytest.mark.parametrize(
    "loss",
    [
        lambda model, batch: model(batch[0]).detach().square().mean(),
        lambda model, batch: batch[0].square().mean(),
    ],
    ids=["detached", "without the model"],
)
def test_a_loss_that_reaches_no_parameter_is_refused(loss):
    with pytest.raises(BadModel, match="does not depend on any trainable parameter"):
        Problem(nn.Linear(3, 2), [(torch.ones(4, 3), torch.zeros(4))], batch_loss=loss)


def test_a_gradient_that_is_merely_zero_is_no_reason_to_refuse():
    problem = Problem(
        nn.Linear(3, 2),
        [(torch.ones(4, 3), torch.zeros(4))],
        batch_loss=lambda model, batch: (0.0 * model(batch[0])).mean() + 1.0,
    )

    assert problem.gradient().eq(0).all()
