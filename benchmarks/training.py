"""What an update costs: a plain PyTorch loop, torch's fused optimizer, Lightning, our loop, and our populations.

Digits, 64-32-10, two threads, batches drawn anew each epoch. Every way does the same updates; the ways take turns, round
after round, so that a busy moment of the machine hits all of them. Printed are medians and ratios within one run.

    python benchmarks/training.py                 # all, a few minutes
    python benchmarks/training.py --rounds 3      # quicker and noisier
"""

import argparse
import importlib.util
import logging
import statistics
import time
import warnings
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import unstick
from unstick.training import Recipe, train, train_population, vary

SAMPLES = 1437
LOSS = nn.CrossEntropyLoss()
RATES = {"sgd": 0.05, "adam": 1e-3}
TORCH = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
POPULATIONS = {1: (32, 128), 32: (32, 128)}
UPDATES = 1437  # of one model in a round
TOGETHER = {1: 300, 32: 180}  # of a population in a round, its recording left out


def network(seed: int) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def plain(
    data: tuple[Tensor, Tensor], optimizer: str, batch: int, updates: int, *, fused: bool
) -> float:
    """The loop that everybody writes, with data in memory. Seconds an update."""
    inputs, targets = data
    model = network(0)
    moving = TORCH[optimizer](model.parameters(), lr=RATES[optimizer], fused=fused or None)
    losses: list[float] = []
    begin = time.perf_counter()
    while len(losses) < updates:
        order = torch.randperm(len(inputs))
        for start in range(0, len(inputs), batch):
            rows = order[start : start + batch]
            moving.zero_grad()
            loss = LOSS(model(inputs[rows]), targets[rows])
            loss.backward()
            moving.step()
            losses.append(loss.item())
            if len(losses) == updates:
                break
    return (time.perf_counter() - begin) / updates


def ours(
    data: tuple[Tensor, Tensor], optimizer: str, batch: int, updates: int, *, norms: bool
) -> float:
    recipe = Recipe(
        optimizer=optimizer, lr=RATES[optimizer], batch_size=batch, updates=updates, norms=norms
    )
    begin = time.perf_counter()
    train(network(0), data, LOSS, recipe)
    return (time.perf_counter() - begin) / updates


def together(
    data: tuple[Tensor, Tensor], optimizer: str, batch: int, members: int
) -> tuple[float, float]:
    """Seconds of an update over the members, and seconds of everything around the updates."""
    updates = TOGETHER[batch]
    recipe = Recipe(optimizer=optimizer, lr=RATES[optimizer], batch_size=batch, updates=updates)
    begin = time.perf_counter()
    told = train_population(
        [network(k) for k in range(members)], data, LOSS, vary(recipe, seed=range(members))
    )
    whole = time.perf_counter() - begin
    seconds = [s for s in told.members[0].trace.seconds if s is not None]
    usual = 10 * statistics.median(seconds)  # an update that records a new shape takes far longer
    updating = [s for s in seconds if s < usual]
    return statistics.mean(updating), whole - sum(updating) * members


def lightning(data: tuple[Tensor, Tensor], optimizer: str, batch: int, updates: int) -> float:
    """Lightning's Trainer with everything optional off. Seconds an update, its start left out."""
    import lightning as pl

    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = network(0)
            self.begin = 0.0

        def on_train_batch_start(self, *_: object) -> None:
            self.begin = self.begin or time.perf_counter()

        def training_step(self, batch: tuple[Tensor, Tensor], _index: int) -> Tensor:
            inputs, targets = batch
            return LOSS(self.model(inputs), targets)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return TORCH[optimizer](self.parameters(), lr=RATES[optimizer])

    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(*data), batch_size=batch, shuffle=True
    )
    trainer = pl.Trainer(
        max_steps=updates,
        max_epochs=-1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = Module()
    trainer.fit(module, loader)
    return (time.perf_counter() - module.begin) / updates


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each way (7)")
    parser.add_argument("--threads", type=int, default=2, help="(2)")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    warnings.filterwarnings("ignore")
    console = Console(width=None if Console().is_terminal else 120)
    digits = unstick.data.load("digits").standardized()
    data = (digits.train_inputs, digits.train_targets)
    console.print(f"torch {torch.__version__}, {asked.threads} threads, {asked.rounds} rounds")
    peer = importlib.util.find_spec("lightning") is not None
    if not peer:
        console.print("lightning is not installed: left out")
    for optimizer in RATES:
        for batch in POPULATIONS:
            measure(optimizer, batch, data, asked.rounds, console, peer=peer)


def measure(
    optimizer: str,
    batch: int,
    data: tuple[Tensor, Tensor],
    rounds: int,
    console: Console,
    *,
    peer: bool,
) -> None:
    updates = UPDATES
    ways: dict[str, Callable[[], float]] = {
        "plain loop": lambda: plain(data, optimizer, batch, updates, fused=False),
        "plain loop, fused optimizer": lambda: plain(data, optimizer, batch, updates, fused=True),
        "unstick, one model": lambda: ours(data, optimizer, batch, updates, norms=False),
        "unstick, one model, norms": lambda: ours(data, optimizer, batch, updates, norms=True),
    }
    if peer:
        ways["Lightning"] = lambda: lightning(data, optimizer, batch, updates)
    around: dict[str, float] = {}
    for members in POPULATIONS[batch]:
        name = f"unstick, {members} models"

        def population(members: int = members, name: str = name) -> float:
            seconds, around[name] = together(data, optimizer, batch, members)
            return seconds

        ways[name] = population
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            seconds[name].append(way())
    reference = seconds["plain loop"]
    table = Table(title=f"{optimizer}, batches of {batch}: an update of one model")
    for heading in ("", "µs", "time : plain loop", "throughput : plain loop", "set-up"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, taken in seconds.items():
        ratio = statistics.median(t / r for t, r in zip(taken, reference, strict=True))
        setup = f"{around[name]:.2f} s" if name in around else ""
        table.add_row(
            name,
            f"{1e6 * statistics.median(taken):.1f}",
            f"{ratio:.3f}",
            f"{1 / ratio:.1f}",
            setup,
        )
    console.print(table)


if __name__ == "__main__":
    main()
