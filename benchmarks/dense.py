"""The whole Hessian of 64-24-10 on digits, in float64: time, peak memory and agreement.

Each way runs in a process of its own: ``python dense.py WAY FILE`` writes its matrix to FILE and prints what it took.
"""

import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from workloads import Workload, digits_network

import unstick
from unstick.spectrum.operator import assemble

__all__ = ["dense"]

REPEATS = 3


def dense(console: Console) -> None:
    """Print the ways beside one another."""
    console.rule("64-24-10 on digits: the whole Hessian in float64, on the CPU")
    table = Table()
    for heading in ("", "seconds", "peak memory", "largest difference from the first"):
        table.add_column(heading, justify="left" if not heading else "right")
    with tempfile.TemporaryDirectory() as folder:
        first: Tensor | None = None
        for way in WAYS:
            file = Path(folder) / "matrix.pt"
            command = [sys.executable, __file__, way, str(file)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603 - this file
            took = json.loads(done.stdout.splitlines()[-1])
            matrix = torch.load(file)
            first = matrix if first is None else first
            assert first is not None
            gap = float((matrix - first).abs().max())
            table.add_row(
                way,
                f"{took['seconds']:.2f}",
                f"{took['megabytes']:.0f} MB" if took["megabytes"] >= 0 else "unknown here",
                f"{gap:.0e} (largest entry {float(first.abs().max()):.2g})",
            )
            console.print(f"  {way}: {took['seconds']:.2f} s", style="dim", highlight=False)
    console.print(table)


def _ours(workload: Workload) -> Tensor:
    problem = unstick.Problem(workload.model, workload.batches, nn.CrossEntropyLoss())
    return assemble(problem.hessian())


def _flat_loss(workload: Workload) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """The loss as a function of one flat vector, and that vector."""
    named = dict(workload.model.named_parameters())
    sizes = [p.numel() for p in named.values()]
    ((inputs, targets),) = workload.batches

    def loss(theta: Tensor) -> Tensor:
        parts = zip(named.items(), theta.split(sizes), strict=True)
        state = {name: part.reshape(p.shape) for (name, p), part in parts}
        return nn.functional.cross_entropy(
            torch.func.functional_call(workload.model, state, inputs), targets
        )

    return loss, torch.cat([p.detach().reshape(-1) for p in named.values()])


def _torch_func(workload: Workload) -> Tensor:
    loss, theta = _flat_loss(workload)
    return torch.func.hessian(loss)(theta)


def _torch_func_in_chunks(workload: Workload) -> Tensor:
    loss, theta = _flat_loss(workload)
    columns = cast("Any", torch.func.jacrev)  # its type knows no chunk_size
    return columns(torch.func.jacrev(loss), chunk_size=64)(theta)


WAYS: dict[str, Callable[[Workload], Tensor]] = {
    "unstick": _ours,
    "torch.func.hessian": _torch_func,
    "torch.func, 64 columns at once": _torch_func_in_chunks,
}


def _wide(workload: Workload) -> Workload:
    batches = [(inputs.double(), targets) for inputs, targets in workload.batches]
    return Workload(workload.name, workload.model.double(), workload.later, batches)


def _resident(key: str) -> float:
    """VmRSS or VmHWM of this process in MB; negative infinity where the system does not tell."""
    status = Path("/proc/self/status")
    found = re.search(rf"{key}:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) / 1024 if found else -float("inf")


def main() -> None:
    """Compute one way in this process."""
    way, file = WAYS[sys.argv[1]], sys.argv[2]
    workload = _wide(digits_network(64, 24, 10))
    way(_wide(digits_network(64, 4, 10, samples=32, updates=1)))  # imports and warm-up
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")  # sets the peak back to what is resident now
    before = _resident("VmRSS")
    took: list[float] = []
    matrix = torch.empty(0)
    megabytes = 0.0
    for _ in range(REPEATS):
        begin = time.perf_counter()
        matrix = way(workload)
        took.append(time.perf_counter() - begin)
        megabytes = megabytes or _resident("VmHWM") - before  # of the first run
    torch.save(matrix.detach(), file)
    megabytes = megabytes if megabytes == megabytes else -1.0
    print(json.dumps({"seconds": statistics.median(took), "megabytes": megabytes}))


if __name__ == "__main__":
    main()
