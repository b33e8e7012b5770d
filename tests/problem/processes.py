"""What several processes do together in ``test_processes.py``: started once for each, writes down what it found.

Run as ``python processes.py FOLDER`` with the environment variables that ``torchrun`` sets.
"""

import io
import os
import runpy
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import distributed as dist
from torch import nn

import unstick
from unstick.errors import UnstickError
from unstick.spectrum import ends

THREADS = 1
EXAMPLE = Path(__file__).parents[2] / "examples" / "torchrun.py"


class Quotient(nn.Module):
    """The logarithm of a number that may be negative."""

    def __init__(self):
        super().__init__()
        self.x = nn.Parameter(torch.ones(3))

    def forward(self, inputs):
        return torch.log(inputs @ self.x)


def perceptron(seed=0, width=5):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(4, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 3)
        )


def normalized():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))


def points(count=37):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, 4, generator=generator)
    return x, torch.randint(0, 3, (count,), generator=generator)


def batches(size=10):
    x, y = points()
    y[3] = -100  # does not count
    return [(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)]


def of_labels(outputs, targets):
    """A function that nobody knows to be a mean over samples."""
    return nn.functional.cross_entropy(outputs, targets)


@dataclass(frozen=True)
class Case:
    model: object
    data: object
    loss: object
    options: dict = field(default_factory=dict)

    def problem(self, **more):
        return unstick.Problem(self.model(), self.data(), self.loss, **self.options, **more)


CASES = {
    "odd number of samples": Case(perceptron, points, nn.CrossEntropyLoss(), {"weight_decay": 0.1}),
    "weighted and ignored": Case(
        perceptron, batches, nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]))
    ),
    "whole batches": Case(perceptron, batches, of_labels),
    "batch statistics": Case(normalized, batches, nn.CrossEntropyLoss(), {"mode": "train"}),
    "fewer batches than processes": Case(perceptron, lambda: batches()[:1], of_labels),
    "float32": Case(perceptron, points, nn.CrossEntropyLoss(), {"dtype": torch.float32}),
}


def measure(problem):
    """Everything that a problem gives, and what it cost."""
    before = problem.spent
    noise = problem.gradient_noise()
    every = problem.gradient_noise(everything=True)
    thetas = problem.parameters() + 0.1 * torch.arange(3)[:, None]
    found = {
        "value": problem.value(),
        "gradient": problem.gradient(),
        "values": problem.values(thetas),
        "gradients": problem.gradients(thetas),
        "noise": [noise.trace, noise.standard_error, noise.samples, *noise.traces.values()],
        "noise of every sample": every.trace,
        "block": problem.restrict("0.*").gradient(),
        "samples": problem.samples,
    }
    if not problem.model[1]._get_name().startswith("Batch"):  # a batch of one has no statistics
        part = problem.subset(11, seed=3)
        found["subset"] = [part.value(), part.samples, float(part.gradient().norm())]
    operator = problem.hessian(mode="kept")
    V = torch.randn(problem.n, 2, generator=torch.Generator().manual_seed(0)).to(problem.dtype)
    found["products"] = operator.matmat(V)
    found["cost"] = [(problem.spent - before).samples, (problem.spent - before).gradients]
    both = unstick.curvature_ends(problem, lowest=2, highest=2, tolerance=1e-6)
    found["eigenvalues"] = torch.cat([both.lowest.values, both.highest.values])
    return found


def refusal(work):
    """What a call says that raises, and its kind."""
    try:
        work()
    except (UnstickError, KeyboardInterrupt) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was raised"


def failures(rank):
    """Whatever goes wrong in one process."""
    ones = torch.ones(6, 3)
    negative = ones.clone()
    negative[5] = -1.0
    pieces = [(ones[:3], torch.zeros(3)), (negative[3:], torch.zeros(3))]

    def broken(model, batch):
        if rank == 1:
            raise RuntimeError("no space left")
        return model(batch[0]).square().mean()

    other = points()
    other[0][rank] += rank
    return {
        "not finite": refusal(lambda: unstick.Problem(Quotient(), pieces, nn.MSELoss())),
        "raises": refusal(lambda: unstick.Problem(Quotient(), pieces[:1], batch_loss=broken)),
        "parameters": refusal(
            lambda: unstick.Problem(perceptron(seed=rank), points(), nn.CrossEntropyLoss())
        ),
        "data": refusal(lambda: unstick.Problem(perceptron(), other, nn.CrossEntropyLoss())),
        "interrupted": interrupted(rank),
        "group": refusal(
            lambda: unstick.Problem(perceptron(), points(), nn.CrossEntropyLoss(), group="all")
        ),
    }


def interrupted(rank):
    """How a search ends that Ctrl-C interrupts in one process, in the middle of a product."""
    calls = {"left": 1_000_000}

    def loss(outputs, targets):
        calls["left"] -= 1
        if calls["left"] == 0 and rank == 1:
            raise KeyboardInterrupt
        return nn.functional.cross_entropy(outputs, targets)

    operator = unstick.Problem(perceptron(), batches(), loss).hessian(mode="difference")
    calls["left"] = 60
    return ends(operator, generator=torch.Generator().manual_seed(0), tolerance=1e-12).outcome


def sharded(rank):
    """The same model under FSDP2."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))

    def shards(dtype, *, root=True):
        model = perceptron().to(dtype)
        for part in model:
            if isinstance(part, nn.Linear):
                fully_shard(part, mesh=mesh, reshard_after_forward=False)
        return fully_shard(model, mesh=mesh, reshard_after_forward=False) if root else model

    def whole(problem, vector):
        """A vector of the whole model in the order of its parameters, from everybody's shards."""
        said = problem.team.gather(list(vector.split(problem.layout.sizes)))
        return torch.cat([torch.cat(parts) for parts in zip(*said, strict=True)])

    found = {}
    for dtype in (torch.float32, torch.float64):
        model = shards(dtype)
        x, y = points()
        problem = unstick.Problem(
            model, (x.to(dtype), y), nn.CrossEntropyLoss(), weight_decay={"0.weight": 0.1}
        )
        parameters = list(model.parameters())
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, 3.0)
        before = [parameter.to_local().clone() for parameter in parameters]
        given = [parameter.grad for parameter in parameters]
        both = unstick.curvature_ends(problem, lowest=1, highest=2, tolerance=1e-4)
        found[str(dtype)] = {
            "value": problem.value(),
            "gradient": whole(problem, problem.gradient()),
            "values": problem.values(problem.parameters() + torch.tensor([[0.0], [0.0]])),
            "eigenvalues": torch.cat([both.lowest.values, both.highest.values]),
            "top": whole(problem, both.highest.vectors[:, 0]),
            "n": [problem.n, problem.layout.n],
            "cost": [problem.samples, both.products, problem.spent.gradients],
            "untouched": all(
                torch.equal(a, p.to_local()) for a, p in zip(before, parameters, strict=True)
            )
            and all(a is p.grad for a, p in zip(given, parameters, strict=True)),
        }

    densities = [
        unstick.spectral_density(problem, starts=2, steps=3, storage=storage).density
        for storage in (None, unstick.Storage("disk"))
    ]
    found["density on disk"] = torch.equal(*densities)

    calls = {"left": -1}

    def failing(model, batch):
        calls["left"] -= 1
        if calls["left"] == 0:
            raise ValueError("broken")
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    model = shards(torch.float64)
    problem = unstick.Problem(model, [(points()[0].double(), points()[1])], batch_loss=failing)
    before = problem.parameters()
    calls["left"] = 2
    try:
        problem.hessian().matvec(torch.ones_like(before))
    except ValueError as error:
        found["after an error"] = [str(error), torch.equal(problem.parameters(), before)]
    operator = problem.hessian()
    with torch.no_grad():
        if rank == 1:
            next(iter(model.parameters())).to_local().add_(1.0)
    found["refusals"] = {
        "stale": refusal(lambda: operator.matvec(torch.ones_like(before))),
        "classify": refusal(lambda: unstick.classify(problem)),
        "kept": refusal(lambda: problem.hessian(mode="kept")),
        "part": refusal(lambda: problem.restrict("0.*")),
        "no root": refusal(
            lambda: unstick.Problem(
                nn.Sequential(shards(torch.float32, root=False), nn.Linear(3, 3)),
                points(),
                nn.CrossEntropyLoss(),
            )
        ),
        "half": refusal(
            lambda: unstick.Problem(shards(torch.bfloat16), points(), nn.CrossEntropyLoss())
        ),
        "shapes": refusal(
            lambda: unstick.Problem(
                shards(torch.float32), (torch.ones(4, 5), points(4)[1]), nn.CrossEntropyLoss()
            )
        ),
    }
    return found


def main(folder):
    torch.set_num_threads(THREADS)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    found = {"measured": {}}
    for name, case in CASES.items():
        problem = case.problem()
        found["measured"][name] = measure(problem)
        found["measured"][name]["words"] = [*problem.notes, problem.price(1.0)]
    problem = CASES["odd number of samples"].problem()
    found["differences"] = problem.hessian(mode="difference").matvec(torch.ones(problem.n))
    found["kind"] = str(unstick.classify(problem).kind)
    found["failures"] = failures(rank)
    found["sharded"] = sharded(rank)
    with redirect_stdout(io.StringIO()) as said:
        runpy.run_path(str(EXAMPLE), run_name="__main__")  # ends the process group
    found["said"] = said.getvalue()
    torch.save(found, folder / f"{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    sys.stdout.flush()
    os._exit(0)  # the threads of gloo are slow to go
