"""A plane of losses, 51 by 51: this package, the package loss-landscapes, and the plain loop that everybody writes.

Two workloads: 64-32-10 on all 1,797 digits, and a small convolutional network on the first 1,000 images of
Fashion-MNIST (in the folder that the environment variable UNSTICK_DATA names). All compute in float32 with two threads
and take turns, round after round; printed are medians, ratios within one run, and how far the losses are apart.

Everybody has the same plane: from θ along two random directions, normalized filter by filter, to about θ's own length.
loss-landscapes walks it to and fro, a step further in every other row; losses are compared at the points that it shares.

    python benchmarks/landscape.py                # ten minutes or so on two cores
    python benchmarks/landscape.py --steps 21 --rounds 3
"""

import argparse
import copy
import importlib.util
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import unstick
from unstick import data

LOSS = nn.CrossEntropyLoss()
BATCH = 128  # of the DataLoader
STEP = 0.02  # in lengths of θ


@dataclass(frozen=True)
class Task:
    """A model, its data, and the plane: both steps [2, n] and how many of them."""

    name: str
    model: nn.Module
    inputs: Tensor
    targets: Tensor
    directions: Tensor
    steps: int

    @property
    def coordinates(self) -> Tensor:
        """Points in the order of the losses of everybody, [steps², 2]."""
        at = torch.arange(self.steps, dtype=torch.float32)
        return torch.cartesian_prod(at, at)


def task(name: str, model: nn.Module, inputs: Tensor, targets: Tensor, steps: int) -> Task:
    """A workload, its directions drawn and normalized filter by filter."""
    generator = torch.Generator().manual_seed(0)
    directions: list[Tensor] = []
    for _ in range(2):
        parts: list[Tensor] = []
        for parameter in model.parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            rows, lengths = (t.detach().reshape(len(parameter), -1) for t in (drawn, parameter))
            parts.append(
                (rows * lengths.norm(dim=1, keepdim=True) / rows.norm(dim=1, keepdim=True)).reshape(
                    -1
                )
            )
        directions.append(torch.cat(parts) * STEP)
    return Task(name, model, inputs, targets, torch.stack(directions), steps)


def digits(steps: int) -> Task:
    torch.manual_seed(0)
    held = data.load("digits")
    inputs = torch.cat([held.train_inputs, held.test_inputs]).float()
    targets = torch.cat([held.train_targets, held.test_targets])
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    return task(f"64-32-10, {len(inputs):,} digits", model, inputs, targets, steps)


def fashion(steps: int) -> Task:
    torch.manual_seed(0)
    held = data.load("fashion-mnist", folder=os.environ["UNSTICK_DATA"])
    inputs = held.train_inputs[:1000].reshape(-1, 1, 28, 28).float()
    model = nn.Sequential(
        *(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(400, 10)),
    )
    return task(
        "convolutions, 1,000 of Fashion-MNIST", model, inputs, held.train_targets[:1000], steps
    )


def ours(given: Task) -> Callable[[], Tensor]:
    problem = unstick.Problem(given.model, (given.inputs, given.targets), LOSS, dtype=torch.float32)
    return lambda: problem.values_along(problem.parameters(), given.directions, given.coordinates)


def plain(
    given: Task, batches: list[tuple[Tensor, Tensor]] | DataLoader[tuple[Tensor, ...]]
) -> Callable[[], Tensor]:
    """Set the parameters, add up the batches."""
    model = copy.deepcopy(given.model)
    origin = nn.utils.parameters_to_vector(model.parameters()).detach()

    def plane() -> Tensor:
        losses: list[float] = []
        with torch.no_grad():
            for at in given.coordinates:
                nn.utils.vector_to_parameters(origin + at @ given.directions, model.parameters())
                total = 0.0
                for inputs, targets in batches:
                    total += len(targets) * LOSS(model(inputs), targets).item()
                losses.append(total / len(given.targets))
        return torch.tensor(losses, dtype=torch.float64)

    return plane


def loss_landscapes(given: Task) -> Callable[[], Tensor]:
    """Its planar interpolation, the core of all its planes, to the ends of both directions."""
    from loss_landscapes import planar_interpolation
    from loss_landscapes.metrics import Loss

    theta = nn.utils.parameters_to_vector(given.model.parameters()).detach()
    ends: list[nn.Module] = []
    for direction in given.directions:
        end = copy.deepcopy(given.model)
        nn.utils.vector_to_parameters(theta + given.steps * direction, end.parameters())
        ends.append(end)
    start = copy.deepcopy(given.model)
    metric = Loss(LOSS, given.inputs, given.targets)
    return lambda: torch.from_numpy(
        planar_interpolation(start, *ends, metric, steps=given.steps, deepcopy_model=True)
    ).flatten()


def race(given: Task, rounds: int, console: Console) -> None:
    """Everybody in turn, and the table."""
    whole = [(given.inputs, given.targets)]
    loader = DataLoader(TensorDataset(given.inputs, given.targets), batch_size=BATCH)
    contestants = {
        "unstick": ours(given),
        "plain loop, one tensor": plain(given, whole),
        f"plain loop, DataLoader of {BATCH}": plain(given, loader),
    }
    if importlib.util.find_spec("loss_landscapes") is not None:
        contestants["loss-landscapes"] = loss_landscapes(given)
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    losses: dict[str, Tensor] = {}
    for _ in range(rounds):
        for name, plane in contestants.items():
            begin = time.perf_counter()
            losses[name] = plane()
            seconds[name].append(time.perf_counter() - begin)
    table = Table(title=f"{given.name}: {given.steps} by {given.steps} losses")
    for heading in ("", "seconds", "from … to", "first", "of ours", "apart from ours"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, took in seconds.items():
        ratio = statistics.median(took) / statistics.median(seconds["unstick"])
        mine, theirs = losses["unstick"], losses[name]
        if name == "loss-landscapes":
            theirs, mine = _common(theirs, mine, given.steps)
        apart = float(((theirs - mine) / mine).abs().max())
        table.add_row(
            name,
            f"{statistics.median(took):.3g}",
            f"{min(took):.3g} … {max(took):.3g}",
            f"{took[0]:.3g}",
            f"{ratio:.1f}",
            f"{apart:.1e}",
        )
    console.print(table)


def _common(theirs: Tensor, mine: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """The losses at points that both visit: its even rows are one step on, its odd rows in place, in order."""
    theirs, mine = theirs.view(steps, steps), mine.view(steps, steps)
    return theirs[::2, :-1], mine[::2, 1:]


def main() -> None:
    """Parse, race."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=51, help="points along each direction (51)")
    parser.add_argument("--rounds", type=int, default=5, help="of which medians are printed (5)")
    parser.add_argument("--only", choices=("digits", "fashion"), help="one of the workloads")
    asked = parser.parse_args()
    torch.set_num_threads(2)
    console = Console(width=110)
    if importlib.util.find_spec("loss_landscapes") is None:
        console.print(
            "loss-landscapes is not installed: pip install --no-deps -r benchmarks/peers.txt"
        )
    if asked.only != "fashion":
        race(digits(asked.steps), asked.rounds, console)
    if asked.only != "digits" and "UNSTICK_DATA" not in os.environ:
        console.print("Fashion-MNIST is skipped: name its folder in UNSTICK_DATA")
    elif asked.only != "digits":
        race(fashion(asked.steps), asked.rounds, console)


if __name__ == "__main__":
    main()
