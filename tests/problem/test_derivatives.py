import pytest
import torch
from torch import nn
from torch.testing import assert_close

from problem.cases import CASES, build, reference
from unstick import Problem
from unstick.errors import BadModel
from unstick.problem.products import settle

MODES = [(name, mode) for name in CASES for mode in (*build(name).modes, "auto")]
TOLERANCE = {"difference": {"rtol": 1e-5, "atol": 1e-7}}


def problem_of(case, **options):
    return Problem(case.model, case.data, case.loss, mode=case.mode, **options)


def dense(problem, mode="auto"):
    return problem.hessian(mode=mode).matmat(torch.eye(problem.n, dtype=problem.dtype))


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient_are_those_of_the_naive_loss(name):
    case = build(name)
    naive = reference(case)
    problem = problem_of(case)

    assert problem.dtype == torch.float64
    assert problem.n == len(naive.theta)
    assert problem.value() == pytest.approx(float(naive(naive.theta)), rel=1e-12)
    assert_close(problem.gradient(), naive.gradient(), rtol=1e-9, atol=1e-12)
    assert_close(problem.gradient(), naive.slopes(), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("name", "mode"), MODES)
def test_products_are_those_of_the_dense_hessian(name, mode):
    case = build(name)
    problem = problem_of(case)
    H = reference(case).hessian()

    operator = problem.hessian(mode=mode)
    tolerance = TOLERANCE.get(operator.mode, {"rtol": 1e-9, "atol": 1e-12})
    v = torch.linspace(-1, 1, problem.n, dtype=torch.float64)

    assert mode == "auto" or operator.mode == mode
    assert operator.mode in case.modes
    assert_close(operator.matmat(torch.eye(problem.n).double()), H, **tolerance)
    assert_close(operator.matvec(v), H @ v, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_a_mode_that_does_not_work_is_refused_and_auto_says_why(name):
    case = build(name)
    problem = problem_of(case)
    for mode in {"kept", "linearized", "rebuilt", "forward"} - set(case.modes):
        with pytest.raises(BadModel, match=mode) as refusal:
            problem.hessian(mode=mode)
        assert "\n" not in str(refusal.value)
    problem.hessian()
    if "kept" not in case.modes:
        assert "kept not possible" in problem.notes[-1]
        assert "forward not possible" in problem.notes[-1]


@pytest.mark.parametrize(
    ("room", "kept"),
    [
        (0.65, [False, False, False]),
        (0.8, [False, False, True]),
        (0.92, [True, False, False]),
        (1.01, [True, True, True]),
    ],
)
def test_graphs_kept_in_part_or_in_full_give_the_same_products(room, kept):
    torch.manual_seed(1)
    x, y = torch.randn(60, 4), torch.arange(60) % 3
    batches = [(x[i : i + 25], y[i : i + 25]) for i in range(0, 60, 25)]
    model = nn.Sequential(nn.Linear(4, 30), nn.Tanh(), nn.Linear(30, 3))
    options = {"batch_loss": lambda m, b: nn.functional.cross_entropy(m(b[0]), b[1])}
    ample = Problem(model, batches, **options)
    everything = ample.hessian(mode="kept").graphs.peak_bytes
    scarce = Problem(model, batches, memory=int(room * everything), **options)
    operator = scarce.hessian(mode="kept")

    assert_close(dense(ample, "kept"), operator.matmat(torch.eye(scarce.n).double()))
    assert [graph is not None for graph in operator._products._kept] == kept


def test_the_hessian_of_a_function_is_the_one_on_paper():
    problem = Problem.from_function(
        lambda x: x[0] ** 3 * x[1] + x[1] ** 2, torch.tensor([1.0, 2.0])
    )

    assert problem.value() == 6.0
    assert problem.gradient().tolist() == [6.0, 5.0]
    for mode in ("kept", "rebuilt", "forward", "auto"):
        assert_close(dense(problem, mode), torch.tensor([[12.0, 3.0], [3.0, 2.0]]).double())


def test_a_function_of_constant_value_has_no_gradient_and_no_curvature():
    problem = Problem.from_function(lambda x: (0 * x).sum() + 3, torch.ones(2))

    assert problem.value() == 3.0
    assert problem.gradient().tolist() == [0.0, 0.0]
    assert dense(problem).tolist() == [[0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("name", ["perceptron", "LSTM", "reentrant checkpoint", "checkpoint"])
def test_many_points_at_once_are_the_points_one_by_one(name):
    case = build(name)
    problem, naive = problem_of(case, weight_decay=0.1), reference(case)
    thetas = naive.theta + 0.1 * torch.randn(
        5, problem.n, generator=torch.Generator().manual_seed(0)
    )

    penalty = 0.05 * thetas.square().sum(1)
    values = torch.stack([naive(theta).detach() for theta in thetas]) + penalty
    gradients = torch.stack([naive.gradient(theta) for theta in thetas]) + 0.1 * thetas

    assert_close(problem.values(thetas), values, rtol=1e-11, atol=0)
    assert_close(problem.gradients(thetas), gradients, rtol=1e-9, atol=1e-12)
    assert_close(problem.values(thetas[:1]), values[:1], rtol=1e-11, atol=0)
    assert problem.values(thetas[:0]).shape == (0,)
    assert problem.gradients(thetas[:0]).shape == (0, problem.n)


def test_large_problems_go_point_by_point_and_agree():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 40), nn.Tanh(), nn.Linear(40, 3))
    problem = Problem(model, (torch.randn(200, 30), torch.arange(200) % 3), nn.CrossEntropyLoss())
    assert problem._evaluation._together == 1
    thetas = problem.parameters() * torch.tensor([[1.0], [0.5]])

    assert problem.values(thetas)[0] == problem.value()
    assert torch.equal(problem.gradients(thetas)[0], problem.gradient())


def test_points_where_the_loss_is_not_finite_come_back_as_they_are():
    problem = Problem.from_function(lambda x: x.log().sum(), torch.ones(2))
    values = problem.values(torch.tensor([[1.0, 1.0], [0.0, 1.0], [-1.0, 1.0]]))

    assert values[0] == 0
    assert values[1] == -torch.inf
    assert values[2].isnan()


def test_where_single_precision_stops_a_mode_auto_takes_another():
    case = build("LSTM")
    problem, naive = problem_of(case, dtype=torch.float32), reference(case)

    with pytest.raises(BadModel, match="forward"):
        problem.hessian(mode="forward")
    assert_close(dense(problem).double(), naive.hessian(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["perceptron", "LSTM", "encoder layer", "once differentiable"])
def test_differences_take_a_step_that_suits_and_know_their_error(name, dtype):
    case = build(name)
    H = reference(case).hessian()
    operator = problem_of(case, dtype=dtype).hessian(mode="difference")
    V = torch.randn(len(H), 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    V /= V.norm(dim=0)

    far = (operator.matmat(V.to(dtype)).double() - H @ V).norm(dim=0)

    assert float(far.max()) < (1e-3 if dtype == torch.float32 else 1e-8) * float(H.norm())
    assert float(far.max()) < 5 * operator.error()
    assert operator.error() < 20 * float(far.max())


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_step_is_found_wherever_truncation_and_rounding_balance(scale):
    """exp(x/scale) at 0: the best step for its slope is scale times the cube root of the rounding error."""

    def quotient(step):
        x = torch.tensor(step / scale, dtype=torch.float64)
        return (torch.exp(x) - torch.exp(-x)).reshape(1) * scale / (2 * step)

    step, error, found = settle(quotient, 1.0 * scale, lambda w: float(w.norm()))

    far = abs(float(found) - 1.0)
    assert 1e-7 * scale < step < 1e-2 * scale
    assert far <= error < 1e-5


def test_a_step_that_overflows_is_not_the_last():
    def quotient(step):
        return torch.tensor([float("inf") if step > 0.1 else 1.0 + step**2], dtype=torch.float64)

    step, error, found = settle(quotient, 1.0, lambda w: float(w.norm()))

    assert step <= 0.01
    assert abs(float(found) - 1.0) <= error
