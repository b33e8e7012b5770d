"""What many processes pass to each other and keep, counted on two of them; and what that makes for models far larger.

Two processes with gloo run both ends of the spectrum of one perceptron: its samples shared out, then its parameters
sharded by FSDP2. Every collective that torch sends is seen and its bytes are counted. ``--write`` puts the tables into
docs/processes.md.
"""

import itertools
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

import unstick
from unstick.spectrum.bounds import a_priori_margin

PAGE = Path(__file__).parents[1] / "docs" / "processes.md"
BEGIN, END = "<!-- from benchmarks/scaling.py -->", "<!-- end -->"
PROCESSES = 2
WIDTHS = (64, 256, 256, 256, 10)
SAMPLES = 1000
MARGIN, FAILURE = 0.01, 1e-6
COLUMNS = 64
LARGE = ((10**9, 8), (10**9, 64), (10**11, 1024), (10**11, 4096))


class Counted(TorchDispatchMode):
    """Bytes that this process sends in collectives: of S bytes over R processes, (R − 1)/R·S where each holds a part in
    the end, or did at the beginning, and twice that where all hold the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        if name.startswith("c10d."):
            sizes = [leaf.nbytes for leaf in pytree.tree_leaves(args) if isinstance(leaf, Tensor)]
            part = (PROCESSES - 1) / PROCESSES
            if "allreduce" in name:
                self.sent["numbers" if max(sizes) < 4096 else "vectors"] += 2 * part * max(sizes)
            elif "allgather_base" in name:
                self.sent["gathered"] += part * max(sizes)
            elif "reduce_scatter_base" in name:
                self.sent["scattered"] += part * max(sizes)
            else:
                self.sent["said"] += max(sizes, default=0)
        return func(*args, **(kwargs or {}))


def perceptron() -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(WIDTHS):
        layers += [nn.Linear(before, after), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def measure(*, sharded: bool) -> dict[str, float]:
    """One run, and one product and one gradient beside it."""
    from torch.distributed.fsdp import fully_shard

    model = perceptron()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(SAMPLES, WIDTHS[0], generator=generator)
    y = torch.randint(0, WIDTHS[-1], (SAMPLES,), generator=generator)
    if sharded:
        for layer in model:
            if isinstance(layer, nn.Linear):
                fully_shard(layer)
        fully_shard(model)
    problem = unstick.Problem(model, (x, y), nn.CrossEntropyLoss(), dtype=torch.float32)
    operator = problem.hessian()
    v = torch.ones(problem.layout.n)
    operator.matvec(v)  # what the first one sets up
    before = problem.spent
    with Counted() as counted:
        operator.matvec(v)
    price = (problem.spent - before).gradients

    def seconds(work: Any) -> float:
        times = []
        for _ in range(5):
            begin = time.perf_counter()
            work()
            times.append(time.perf_counter() - begin)
        return min(times)

    ratio = seconds(lambda: operator.matvec(v)) / seconds(problem.gradient)
    before = problem.spent
    with Counted() as all_of_it:
        ends = unstick.curvature_ends(problem, lowest=1, highest=1)
    gradients = (problem.spent - before).gradients
    numbers = counted.sent["numbers"] + counted.sent["said"]
    every_number = all_of_it.sent["numbers"] + all_of_it.sent["said"]
    return {
        "n": problem.n,
        "here": problem.layout.n,
        "vectors": counted.sent["vectors"],
        "gathered": counted.sent["gathered"],
        "scattered": counted.sent["scattered"],
        "numbers": numbers,
        "price": price,
        "ratio": ratio,
        "products": ends.products,
        "gradients": gradients,
        "beside": max(0.0, every_number / ends.products - numbers),
    }


def worker(folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    found = [measure(sharded=sharded) for sharded in (False, True)]
    if dist.get_rank() == 0:
        torch.save(found, folder / "found.pt")
    dist.destroy_process_group()


def start() -> list[dict[str, float]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    with tempfile.TemporaryDirectory() as folder:
        running = []
        for rank in range(PROCESSES):
            given = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(PROCESSES)}
            given |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
            command = [sys.executable, __file__, "--worker", folder]
            running.append(subprocess.Popen(command, env={**os.environ, **given}))  # noqa: S603
        assert [process.wait() for process in running] == [0] * PROCESSES
        return torch.load(Path(folder) / "found.pt", weights_only=True)


def steps(n: int) -> int:
    """Fewest Lanczos steps after which the bound before any product tells both ends to MARGIN of the spectrum's range."""
    k = 1
    while a_priori_margin(n, steps=k, starts=1, failure=FAILURE / 2) > MARGIN:
        k += 1
    return k


def amount(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError


def tables() -> str:
    shared, sharded = start()
    rows = [
        (
            "gradients a product, by the price list",
            f"{shared['price']:.3g}",
            f"{sharded['price']:.3g}",
        ),
        (
            "time of a product over that of a gradient",
            f"{shared['ratio']:.1f}",
            f"{sharded['ratio']:.1f}",
        ),
        (
            "entries of a vector held by a process",
            f"{shared['here']:,.0f}",
            f"{sharded['here']:,.0f}",
        ),
        ("a product: vectors summed", amount(shared["vectors"]), amount(sharded["vectors"])),
        ("a product: parameters gathered", amount(shared["gathered"]), amount(sharded["gathered"])),
        (
            "a product: gradients scattered",
            amount(shared["scattered"]),
            amount(sharded["scattered"]),
        ),
        ("a product: single numbers", amount(shared["numbers"]), amount(sharded["numbers"])),
        (
            "inner products, for each product",
            amount(shared["beside"]),
            amount(sharded["beside"]),
        ),
        (
            "products until both ends had converged",
            f"{shared['products']:.0f}",
            f"{sharded['products']:.0f}",
        ),
        ("gradients for both ends", f"{shared['gradients']:.0f}", f"{sharded['gradients']:.0f}"),
    ]
    n = sharded["n"]
    whole = 4.0 * n * (PROCESSES - 1) / PROCESSES
    gathers, scatters = sharded["gathered"] / whole, sharded["scattered"] / whole
    sums = shared["vectors"] / (2 * whole)
    text = [
        f"**Measured**, with {PROCESSES} processes, gloo and float32, on a perceptron of {n:,.0f} parameters and "
        f"{SAMPLES:,} samples; bytes are what one process sends, counted from torch's own collectives.",
        "",
        "| | samples shared | parameters sharded (FSDP2) |",
        "|---|---|---|",
        *(f"| {what} | {one} | {two} |" for what, one, two in rows),
        "",
        f"So a product sums {sums:.2g} vector where samples are shared. Where parameters are sharded it gathers all of "
        f"them {gathers:.2g} times (forward and backward, of two gradients) and scatters {scatters:.2g} gradients.",
        "",
        "**Arithmetic** from these counts, nothing of it was run: with n parameters in float32 over R processes, a vector "
        "takes 4n/R bytes in each, a basis of m columns m times that, and one process sends "
        f"{gathers + scatters:.2g}·4n·(R − 1)/R bytes for a product. Products are counted by the bound that holds before "
        f"any product is known: so many Lanczos steps from a random start find both ends to {MARGIN:.0%} of the range "
        f"between them, except with probability {FAILURE:g}. It grows with ln n only; the perceptron above took fewer. "
        f"The bound holds without a restart, so for a basis of as many columns; with {COLUMNS}, the default, the search "
        "restarts and takes more products.",
        "",
        f"| parameters | processes | a vector | basis of {COLUMNS} columns | products by the bound | basis of so many columns | "
        "sent for a product | gradients for both ends |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for large, processes in LARGE:
        k = steps(large)
        vector = 4.0 * large / processes
        sent = (gathers + scatters) * 4.0 * large * (processes - 1) / processes
        text.append(
            f"| {large:,} | {processes:,} | {amount(vector)} | {amount(COLUMNS * vector)} | {k} | {amount(k * vector)} | "
            f"{amount(sent)} | {2 * k + 2} |"
        )
    text += [
        "",
        "Vector and basis are for each process. The basis may lie in the CPU's memory or in a file "
        '(`storage=unstick.Storage("disk")`); vectors and gradients may not. Sums of inner products send two rows of '
        "coefficients a product, which is nothing beside the rest.",
    ]
    return "\n".join(text)


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        worker(Path(sys.argv[2]))
        return
    found = tables()
    print(found)
    if sys.argv[1:] == ["--write"]:
        before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
        after = rest.split(END)[1]
        PAGE.write_text(
            f"{before}{BEGIN}\n\n{found}\n\n{END}{after}", encoding="utf-8", newline="\n"
        )


if __name__ == "__main__":
    main()
