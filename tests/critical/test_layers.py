"""Which layer a curvature belongs to: shares are squared lengths of slices, blocks are diagonal blocks of the Hessian."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

import references
from problem.cases import Reference
from unstick.critical.curvature import curvature_ends
from unstick.critical.layers import curvature_by_layer, layer_mass, layered_ends
from unstick.errors import BadData, BadModel, BudgetTooSmall
from unstick.problem.problem import Problem

TIGHT = {"tolerance": 1e-8, "budget": 4000}


class Apart(nn.Module):
    """Two linear layers, each with an input and a target of its own; ``coupling`` shows the second what the first says."""

    def __init__(self, coupling=0.0):
        super().__init__()
        self.left, self.right = nn.Linear(4, 1), nn.Linear(4, 1)
        self.coupling = coupling

    def forward(self, x):
        first = self.left(3 * x[:, :4])
        return torch.cat([first, self.right(x[:, 4:]) + self.coupling * first], 1)


class Dropping(nn.Sequential):
    """A model with buffers and random numbers of its own."""

    def __init__(self):
        super().__init__(
            nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 3)
        )


def perceptron(frozen=(), width=5):
    model = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 3), nn.Linear(3, 3))
    for at in frozen:
        model[at].requires_grad_(False)
    return model


def seeded(make, *given):
    """A model whose weights and data are the same in every run."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = make(*given)
        inputs = torch.randn(24, 8 if isinstance(model, Apart) else 4)
        apart = torch.randn(24, 2), nn.MSELoss()
        targets, loss = apart if isinstance(model, Apart) else (torch.arange(24) % 3, CLASSES)
    return model, (inputs, targets), loss


CLASSES = nn.CrossEntropyLoss()


def dense(model, data, loss, decay=0.0):
    """The whole Hessian by torch's own dense derivatives, and where each parameter lies in it."""
    naive = Reference(model, data, loss)
    sizes = [shape.numel() for shape in naive.shapes]
    ends = np.cumsum([0, *sizes])
    places = {
        name: np.arange(ends[k], ends[k + 1]) for k, name in enumerate(naive.names)
    }  # tied parameters would need more than this
    return naive.hessian().numpy() + decay * np.eye(len(naive.theta)), places


def inside(places, *starts):
    """The rows of all parameters whose names begin so."""
    chosen = [rows for name, rows in places.items() if name.startswith(starts)]
    return np.concatenate(chosen)


def block(matrix, rows):
    return matrix[np.ix_(rows, rows)]


def saddle_of_two():
    """y = w₂w₁x at zero: H = [[0, −2], [−2, 0]]."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return Problem(model, (torch.ones(1, 1), torch.ones(1, 1)), nn.MSELoss())


# -- shares ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-100, 1.0, 1e100])
def test_shares_are_squared_lengths_of_slices_and_add_up_to_one(scale):
    model, data, loss = seeded(perceptron)
    problem = Problem(model, data, loss)
    V = np.random.default_rng(0).normal(size=(problem.n, 3))
    _, places = dense(model, data, loss)

    mass = layer_mass(problem, torch.from_numpy(scale * V))

    lengths = (V**2).sum(0)
    for name, rows in places.items():
        expected = (V[rows] ** 2).sum(0) / lengths
        assert_close(mass.shares[mass.names.index(name)].numpy(), expected, rtol=1e-12, atol=0)
    for module in ("0", "2", "3"):
        expected = (V[inside(places, f"{module}.")] ** 2).sum(0) / lengths
        got = mass.module_shares[mass.modules.index(module)].numpy()
        assert_close(got, expected, rtol=1e-12, atol=0)
    assert mass.modules == ("0", "2", "3")
    assert mass.sizes == tuple(len(rows) for rows in places.values())
    for shares in (mass.shares, mass.module_shares):
        assert_close(shares.sum(0), torch.ones(3).double(), rtol=0, atol=1e-14)


def test_one_vector_is_a_column():
    problem = Problem(*seeded(perceptron))
    v = torch.linspace(-1, 1, problem.n).double()

    alone, column = layer_mass(problem, v), layer_mass(problem, v.unsqueeze(1))

    assert torch.equal(alone.shares, column.shares)
    assert alone.vectors == ("vector 1",)


def test_a_restricted_vector_lies_in_its_part():
    problem = Problem(*seeded(perceptron))
    v = torch.ones(problem.restrict("2.*").n)

    mass = layer_mass(problem, v, parameters="2.*")

    assert mass.names == ("2.weight", "2.bias")
    assert mass.shares.flatten().tolist() == pytest.approx([15 / 18, 3 / 18])
    assert mass.headline() == "vector 1: 100% of the squared length lies in layer 2."


@pytest.mark.parametrize(
    ("change", "labels", "message"),
    [
        (lambda V: V[:-1], None, "expected"),
        (lambda V: V.unsqueeze(2), None, "expected"),
        (lambda V: V, ["one"], "1 labels for 2 vectors"),
        (lambda V: V, [], "0 labels for 2 vectors"),
        (lambda V: V * torch.tensor([1.0, 0.0]), None, "vector 2 has squared length 0"),
        (lambda V: V * torch.tensor([torch.nan, 1.0]), ["a", "b"], "a has squared length nan"),
        (lambda V: V * torch.tensor([1.0, torch.inf]), None, "vector 2 has squared length inf"),
    ],
)
def test_vectors_that_have_no_shares_are_refused(change, labels, message):
    problem = Problem(*seeded(perceptron))
    with pytest.raises(BadData, match=message) as refusal:
        layer_mass(problem, change(torch.ones(problem.n, 2)), labels=labels)

    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("frozen", [(), (0,)])
def test_beside_each_eigenvector_stand_the_shares_of_the_dense_one(frozen):
    model, data, loss = seeded(perceptron, frozen)
    matrix, places = dense(model, data, loss)
    values, vectors = np.linalg.eigh(matrix)
    at = [0, 1, -1, -2, -3]  # the ends, outermost first; the eigenvalues there are simple

    found = layered_ends(Problem(model, data, loss), lowest=2, highest=3, **TIGHT)

    assert found.outcome in ("converged", "exhausted")
    assert tuple(found.mass.names) == tuple(places)
    assert all(not name.startswith(tuple(map(str, frozen))) for name in places) or not frozen
    for name, rows in places.items():
        expected = (vectors[rows][:, at] ** 2).sum(0)
        got = found.mass.shares[found.mass.names.index(name)].numpy()
        assert_close(got, expected, rtol=0, atol=1e-6)
    got = torch.cat([found.ends.lowest.values, found.ends.highest.values])
    assert_close(got.numpy(), values[at], rtol=1e-7, atol=1e-9)
    assert [label for label, _ in found.facts() if label.startswith("v of λ = ")] == [
        f"v of {name}" for name in found.mass.vectors
    ]


@pytest.mark.parametrize("coupling", [0.0, 0.01])
def test_layers_that_do_not_interact_have_eigenvectors_of_their_own(coupling):
    """And the near miss: a weak coupling leaks, by as much as the dense eigenvectors say."""
    model, data, loss = seeded(Apart, coupling)
    matrix, places = dense(model, data, loss)
    _, vectors = np.linalg.eigh(matrix)
    left = (vectors[inside(places, "left")] ** 2).sum(0)[[0, -1]]

    found = layered_ends(Problem(model, data, loss), lowest=1, highest=1, **TIGHT).mass

    shares = found.module_shares[found.modules.index("left")].numpy()
    assert_close(shares, left, rtol=0, atol=1e-7)
    leaked = np.minimum(shares, 1 - shares)
    low, high = (0.0, 1e-12) if coupling == 0.0 else (1e-7, 1e-2)
    assert low <= leaked.min()
    assert leaked.max() <= high


# -- blocks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("frozen", [(), (2,)])
@pytest.mark.parametrize("pattern", [None, ["0.*", "3.weight"]])
def test_blocks_have_the_ends_of_the_dense_diagonal_blocks(frozen, decay, pattern):
    model, data, loss = seeded(perceptron, frozen)
    matrix, places = dense(model, data, loss, decay)
    if pattern:
        places = {name: rows for name, rows in places.items() if name[0] == "0" or "3.w" in name}
    problem = Problem(model, data, loss, weight_decay=decay)

    found = curvature_by_layer(problem, parameters=pattern, **TIGHT)

    whole = references.eigenvalues(matrix)
    modules = list(dict.fromkeys(name.split(".")[0] for name in places))
    assert [part.name for part in found.blocks] == modules
    for part in found.blocks:
        rows = inside(places, f"{part.name}.")
        values = references.eigenvalues(block(matrix, rows))
        slack = part.noise_floor + 1e-7 * abs(values).max()
        assert part.parameters == len(rows)
        assert part.lambda_min.value == pytest.approx(values[0], abs=slack)
        assert part.lambda_max.value == pytest.approx(values[-1], abs=slack)
        assert part.lambda_min.low <= values[0] <= part.lambda_min.high
        assert part.lambda_max.low <= values[-1] <= part.lambda_max.high
        assert whole[0] - slack <= part.lambda_min.value
        assert part.lambda_max.value <= whole[-1] + slack
    assert found.outcome == "complete"


@pytest.mark.parametrize("coupling", [0.0, 0.5])
def test_blocks_make_up_the_spectrum_only_where_layers_do_not_interact(coupling):
    model, data, loss = seeded(Apart, coupling)
    whole = references.eigenvalues(dense(model, data, loss)[0])

    found = curvature_by_layer(Problem(model, data, loss), **TIGHT)

    highest = max(part.lambda_max.value for part in found.blocks)
    assert (highest == pytest.approx(whole[-1], rel=1e-7)) == (coupling == 0.0)
    assert highest <= whole[-1] * (1 + 1e-9)


def test_layers_may_bend_down_only_together():
    problem = saddle_of_two()

    together = layered_ends(problem, lowest=1, highest=1)
    alone = curvature_by_layer(problem)

    assert together.ends.lambda_min.value == pytest.approx(-2)
    assert together.mass.module_shares[:, 0].tolist() == pytest.approx([0.5, 0.5])
    assert [part.lambda_min.value for part in alone.blocks] == [0.0, 0.0]
    assert "no layer alone was seen to bend down" in alone.headline()


def test_a_layer_that_bends_down_alone_is_named():
    problem = saddle_of_two()
    problem.write(torch.tensor([1.0, 0.0]))
    bent = Problem(problem.model, (torch.ones(1, 1), torch.ones(1, 1)), lambda y, t: -(y**2).mean())

    assert "layer 1 bends down most, λ min −2" in curvature_by_layer(bent).headline()


def test_a_layer_is_told_from_one_whose_name_reads_like_a_pattern():
    model = nn.Sequential()
    for name, scale in (("head[1]", 1.0), ("head1", 2.0)):
        layer = nn.Linear(1, 1, bias=False)
        nn.init.constant_(layer.weight, scale)
        model.add_module(name, layer)
    problem = Problem(model, (torch.ones(1, 1), torch.zeros(1, 1)), nn.MSELoss())

    found = {part.name: part for part in curvature_by_layer(problem).blocks}

    assert {name: part.parameters for name, part in found.items()} == {"head[1]": 1, "head1": 1}
    # y = w₂w₁: the curvature in each is twice the square of the other.
    assert found["head[1]"].lambda_max.value == pytest.approx(8)
    assert found["head1"].lambda_max.value == pytest.approx(2)


# -- a part of the parameters ----------------------------------------------------------------------

PATTERNS = {
    "0.*": ("0.",),
    "*.weight": ("0.w", "2.w", "3.w"),
    ("0.bias", "3.*"): ("0.b", "3."),
    "*": ("0.", "2.", "3."),
}


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_ends_in_some_parameters_are_those_of_the_dense_block(pattern, decay):
    model, data, loss = seeded(perceptron)
    matrix, places = dense(model, data, loss, decay)
    part = block(matrix, inside(places, *PATTERNS[pattern]))
    values = references.eigenvalues(part)
    problem = Problem(model, data, loss, weight_decay=decay)

    found = curvature_ends(problem, lowest=1, highest=2, parameters=pattern, **TIGHT)

    assert float(found.lowest.values[0]) == pytest.approx(values[0], rel=1e-7, abs=1e-9)
    assert_close(found.highest.values.numpy(), values[[-1, -2]], rtol=1e-7, atol=1e-9)
    assert found.highest.vectors.shape == (len(part), 2)
    residuals = references.residuals(part, found.highest.values, found.highest.vectors)
    assert (residuals <= found.highest.residuals.numpy() + 1e-9).all()


@pytest.mark.parametrize("call", [curvature_ends, layered_ends, curvature_by_layer])
@pytest.mark.parametrize("pattern", ["head.*", ["0.*", "head.*"], "2.*", []], ids=str)
def test_a_pattern_without_a_trainable_parameter_is_refused_in_one_line(call, pattern):
    model, data, loss = seeded(perceptron, (2,))  # 2.* is frozen
    with pytest.raises(BadModel, match=r"0\.weight|no pattern was given") as refusal:
        call(Problem(model, data, loss), parameters=pattern)

    assert "\n" not in str(refusal.value)
    assert call(Problem(model, data, loss), parameters=["0.*", "3.*"]).outcome != "interrupted"


# -- what is left behind, and how it ends ----------------------------------------------------------


def test_the_model_is_bit_for_bit_as_it_was():
    model, data, loss = seeded(Dropping)
    model.train()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.25)
    model[0].bias.requires_grad_(False)
    before = copy.deepcopy(model)
    random = torch.get_rng_state()

    problem = Problem(model, data, loss)
    found = layered_ends(problem, parameters="0.*")
    curvature_by_layer(problem)
    layer_mass(problem, found.ends.lowest.vectors, parameters="0.*")

    assert torch.equal(torch.get_rng_state(), random)
    for now, then in zip(model.modules(), before.modules(), strict=True):
        assert now.training == then.training
    for name, value in before.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    for now, then in zip(model.parameters(), before.parameters(), strict=True):
        assert now.requires_grad == then.requires_grad
        assert now.grad.eq(0.25).all()


def test_equal_seeds_give_equal_blocks_and_the_budget_bounds_the_cost():
    for budget in (150, 400):
        one, two = (
            curvature_by_layer(Problem(*seeded(perceptron)), budget=budget, seed=4)
            for _ in range(2)
        )
        assert [str(part) for part in one.blocks] == [str(part) for part in two.blocks]
        assert 0 < one.cost.gradients <= budget


def test_a_budget_too_small_for_every_layer_says_so():
    with pytest.raises(
        BudgetTooSmall, match="budget=5 gradients leaves 0 for each of 3 layers"
    ) as refusal:
        curvature_by_layer(Problem(*seeded(perceptron)), budget=5)

    assert "\n" not in str(refusal.value)


def test_a_layer_that_has_not_converged_is_told_apart():
    problem = Problem(*seeded(lambda: perceptron(width=40)))
    found = curvature_by_layer(problem, tolerance=0.0, budget=250)

    assert found.outcome == "budget"
    told = dict(found.facts())
    for part in found.blocks:
        unfinished = part.outcome == "budget"
        assert ("the best so far" in told[part.name]) == unfinished
    assert {part.outcome for part in found.blocks} == {"budget", "exhausted"}


def test_ctrl_c_leaves_the_layers_that_were_done():
    problem = Problem(*seeded(perceptron))
    seen = []

    def press(what, done, total):
        seen.append(what)
        if what.startswith("2 of 3"):
            raise KeyboardInterrupt

    found = curvature_by_layer(problem, progress=press)

    assert seen[0] == "1 of 3: 0"
    assert found.outcome == "interrupted"
    assert [part.name for part in found.blocks] == ["0", "2"]
    assert found.notes == ("not reached: 3",)
    assert found.blocks[0].outcome in ("converged", "exhausted")
