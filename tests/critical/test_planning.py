"""A plan is what the work then takes, and what does not fit is refused before any of it is done."""

import json

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from unstick.cli.main import main
from unstick.critical import room
from unstick.critical.classifying import classify
from unstick.critical.curvature import curvature_ends
from unstick.critical.planning import plan_curvature, plan_verdict
from unstick.errors import TooLittleMemory
from unstick.problem.problem import Problem
from unstick.spectrum.basis import Basis
from unstick.spectrum.storage import Storage

PLACES = ["device", "cpu", "disk"]
MEBIBYTE = 2**20


def bowl(n=3000):
    """Too many parameters for a dense Hessian, and nothing that takes long."""
    scale = torch.linspace(1, 2, n, dtype=torch.float64)
    return Problem.from_function(lambda x: (scale * x**2).sum(), torch.zeros(n))


def network(memory=None, samples=2048, width=64):
    draw = torch.Generator().manual_seed(0)
    data = torch.randn(samples, 64, generator=draw), torch.arange(samples) % 10
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, width), nn.Tanh(), nn.Linear(width, 10))
    return Problem(model, data, nn.CrossEntropyLoss(), memory=memory)


def stored(storage):
    return None if storage == "device" else Storage(storage)


@pytest.fixture
def machine(monkeypatch):
    """Let the machine have so many bytes left; seen from where plans are made."""

    def with_free(count):
        monkeypatch.setattr(Problem, "free_memory", lambda self, device=None: float(count))

    return with_free


# -- the plan, and what is then done ---------------------------------------------------------------


@pytest.mark.parametrize("plan", [plan_curvature, plan_verdict])
def test_a_plan_costs_the_probe_of_a_part_and_the_next_one_nothing(plan):
    problem = network()
    begin = problem.spent
    plan(problem)
    first = problem.spent - begin
    plan(problem)
    second = problem.spent - begin - first

    assert first.gradients * problem.samples <= 40 * 256  # about 20 gradients, and then some
    assert second.gradients == second.samples == 0


@pytest.mark.parametrize("storage", PLACES)
@pytest.mark.parametrize("columns", [32, 64, 100])
def test_the_bytes_of_the_basis_are_those_that_a_basis_takes(columns, storage):
    problem = bowl()
    plan = plan_curvature(problem, max_basis=columns, storage=stored(storage))
    basis = Basis(
        problem.n, dtype=problem.dtype, device=problem.device, storage=Storage(plan.basis_place)
    )
    for _ in range(plan.basis_columns):
        basis.append(torch.ones(problem.n, 1, dtype=problem.dtype))
    taken = basis.block(0, 1).untyped_storage().nbytes()

    assert plan.basis_columns == columns
    assert plan.column_bytes == problem.n * problem.dtype.itemsize
    if storage == "disk":
        assert plan.basis_bytes == 0
    elif columns & (columns - 1):  # the buffer doubles; the plan counts all of it
        assert columns * plan.column_bytes <= plan.basis_bytes == taken
    else:
        assert plan.basis_bytes == taken == columns * plan.column_bytes


@pytest.mark.parametrize("pairs", [(1, 5), (6, 6)])
@pytest.mark.parametrize("max_basis", [None, 40, 1])
def test_no_more_columns_are_kept_than_planned(monkeypatch, pairs, max_basis):
    sizes, append = [], Basis.append

    def seen(self, block):
        append(self, block)
        sizes.append(self.size)

    monkeypatch.setattr(Basis, "append", seen)
    problem, (lowest, highest) = bowl(), pairs
    given = {"lowest": lowest, "highest": highest, "max_basis": max_basis, "budget": 400}

    plan = plan_curvature(problem, **given)
    curvature_ends(problem, tolerance=1e-9, **given)

    assert max(sizes) <= plan.basis_columns
    assert plan.basis_columns <= max(sizes) + 1 or max_basis is None


def test_the_budget_pays_for_the_products_that_were_planned():
    problem = bowl()
    problem.hessian()  # its probe is paid
    plan, more = (plan_curvature(problem, budget=budget) for budget in (40, 80))
    before = problem.spent

    found = curvature_ends(problem, tolerance=0.0, budget=40)

    assert (found.outcome, found.products) == ("budget", plan.products)
    assert (problem.spent - before).gradients <= 40
    assert plan.setup_gradients + plan.products * plan.product_gradients <= 40
    assert more.products > plan.products
    assert more.seconds == pytest.approx(2 * plan.seconds)


def test_graphs_stay_within_what_they_were_given():
    for memory in (MEBIBYTE, 16 * MEBIBYTE):
        problem = network(memory)
        plan = plan_curvature(problem)

        assert plan.memory == memory
        assert plan.graph_bytes + plan.workspace_bytes <= memory
        assert plan.graphs_kept + plan.graphs_rebuilt == len(problem.hessian().graphs.kept)
        assert (plan.graphs_rebuilt == 0) == (memory > MEBIBYTE)
        assert ("rebuilt for every product" in str(plan)) == (plan.graphs_rebuilt > 0)


@pytest.mark.parametrize("pattern", ["0.*", ["0.bias", "2.*"]])
def test_fewer_parameters_take_shorter_columns(pattern):
    problem = network()
    part, whole = plan_curvature(problem, parameters=pattern), plan_curvature(problem)

    assert part.parameters == problem.restrict(pattern).n < whole.parameters
    assert part.column_bytes == 8 * part.parameters
    assert part.basis_bytes * whole.parameters == whole.basis_bytes * part.parameters
    assert part.vector_bytes * whole.parameters == whole.vector_bytes * part.parameters


def test_another_place_takes_the_basis_from_the_memory_and_nothing_else():
    plans = {place: plan_curvature(bowl(), storage=stored(place)) for place in PLACES}

    here, cpu, disk = (plans[place] for place in PLACES)
    assert [plan.basis_place for plan in plans.values()] == PLACES
    assert cpu.total_bytes == here.total_bytes  # the parameters are on the CPU
    assert disk.total_bytes == here.total_bytes - here.basis_bytes
    assert disk.basis_columns == here.basis_columns
    assert "in a file" in str(disk)
    assert "in a file" not in str(here)


def test_a_verdict_on_few_parameters_is_planned_dense():
    small, large = plan_verdict(bowl(300)), plan_verdict(bowl())

    assert (small.products, small.basis_columns, small.basis_bytes) == (300, 0, 0.0)
    assert small.dense_bytes >= 2 * 8 * 300**2  # the matrix and its eigenvectors at least
    assert large.dense_bytes == 0 < large.basis_bytes
    assert "dense Hessian" in str(small)
    assert "dense Hessian" not in str(large)


# -- too little memory -----------------------------------------------------------------------------

LEAST = 28  # columns that six pairs need


def needed(columns, problem):
    """What so many columns and the vectors beside them take."""
    [grown] = (2**k for k in range(4, 9) if columns <= 2**k < 2 * columns)
    return (grown + room.BESIDE + 6) * problem.n * 8 + problem.hessian().graphs.peak_bytes


def test_a_smaller_machine_keeps_fewer_columns_and_finds_the_same(machine):
    problem = bowl()
    roomy = curvature_ends(problem)
    machine(needed(LEAST, problem) + 1)

    plan, tight = plan_curvature(problem), curvature_ends(problem)

    assert plan.basis_columns == 32  # 128 halved until they fit
    assert plan.fits
    assert float(tight.lambda_max.value) == pytest.approx(float(roomy.lambda_max.value), rel=1e-3)


@pytest.mark.parametrize("call", [curvature_ends, plan_curvature, classify, plan_verdict])
def test_what_does_not_fit_is_refused_before_any_product(machine, call):
    problem = bowl()
    least = needed(LEAST, problem)
    before = problem.spent
    machine(least / 2)

    with pytest.raises(TooLittleMemory) as refusal:
        call(problem)

    told = str(refusal.value)
    assert "\n" not in told
    assert "columns takes" in told  # what was seen
    assert "are free on cpu" in told  # what there is
    assert "storage=Storage('disk')" in told  # what to do; another place on the CPU would not help
    assert problem.spent == before


def test_the_room_runs_out_exactly_where_the_smallest_basis_does(machine):
    problem = bowl()
    least = needed(LEAST, problem)

    machine(least)
    assert plan_curvature(problem).total_bytes <= least
    machine(least - 1)
    with pytest.raises(TooLittleMemory):
        plan_curvature(problem)
    assert plan_curvature(problem, storage=Storage("disk")).basis_columns > LEAST
    assert plan_curvature(problem, lowest=1, highest=0).basis_columns >= 18


def test_columns_that_were_asked_for_are_kept_or_refused(machine):
    problem = bowl()
    machine(needed(64, problem))

    assert plan_curvature(problem, max_basis=64).basis_columns == 64
    with pytest.raises(TooLittleMemory, match="100 columns"):
        plan_curvature(problem, max_basis=100)
    assert plan_curvature(problem).basis_columns == 64


def test_a_dense_hessian_is_refused_where_it_does_not_fit(machine):
    problem = bowl(300)
    before = problem.spent
    machine(room.dense_bytes(problem) - 1)
    for call in (classify, plan_verdict):
        with pytest.raises(TooLittleMemory, match="the dense Hessian of 300 parameters"):
            call(problem)
    assert problem.spent == before

    machine(room.dense_bytes(problem) + problem.hessian().graphs.peak_bytes)
    assert plan_verdict(problem).fits
    assert classify(problem).kind == "minimum"


# -- the command line ------------------------------------------------------------------------------

TARGET = """
import torch
import unstick

def bowl():
    return unstick.Problem.from_function(lambda x: (x**2).sum(), torch.zeros(3000))
"""


@pytest.mark.parametrize(
    "command",
    [
        ["spectrum"],
        ["spectrum", "--basis-on", "disk"],
        ["spectrum", "--parameters", "x", "--max-basis", "40"],
        ["diagnose"],
        ["escape"],
    ],
    ids=" ".join,
)
def test_the_command_line_plans_and_does_nothing_else(tmp_path, monkeypatch, command):
    monkeypatch.setattr(Basis, "append", None)  # whatever begins, fails
    file = tmp_path / "target.py"
    file.write_text(TARGET)

    def call(*more):
        return CliRunner().invoke(main, [command[0], f"{file}:bowl", *command[1:], *more])

    told, record = call("--plan"), call("--plan", "--json")

    assert (told.exit_code, record.exit_code) == (0, 0), told.output
    plan = json.loads(record.stdout)
    assert plan["type"] == "Plan"
    assert plan["basis_columns"] == (40 if "40" in command else plan["basis_columns"])
    assert plan["basis_place"] == ("disk" if "disk" in command else "device")
    assert f"{plan['basis_columns']} columns of 23.4 KiB" in told.stdout
    assert told.stdout.startswith("Up to ")
    assert told.stderr == record.stderr == ""
