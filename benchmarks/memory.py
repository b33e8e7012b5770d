"""Whether Hessian products stay within the memory they were given: ``python benchmarks/memory.py``.

A fresh process for every model and budget makes a problem whose graphs would take far more, and multiplies. What is
reported is the growth of the process's peak over what it held when the data were frozen, as the kernel counts it (Linux).
The second column is the probe that chooses how to multiply, the third the products, the last the measured
size of the kept graphs over what was predicted.
"""

import ctypes
import gc
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from unstick import Problem

MEBIBYTE = 2**20
BUDGETS = (64, 128, 256)


def convolutional() -> tuple[nn.Module, tuple[int, ...]]:
    """Three convolutions on images of 32 x 32."""
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 32, 3, padding=1), nn.Tanh(), nn.AdaptiveAvgPool2d(4)),
        *(nn.Flatten(), nn.Linear(512, 10)),
    ), (3, 32, 32)


def perceptron() -> tuple[nn.Module, tuple[int, ...]]:
    """Eight hidden layers of 256."""
    layers: list[nn.Module] = []
    for _ in range(8):
        layers += [nn.Linear(256, 256), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(256, 10)), (256,)


def normalized() -> tuple[nn.Module, tuple[int, ...]]:
    """Convolutions with batch normalization and GELU."""
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.GELU()),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.GELU()),
        *(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(512, 10)),
    ), (3, 32, 32)


def transformer() -> tuple[nn.Module, tuple[int, ...]]:
    """Two encoder layers on 64 tokens."""
    layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return nn.Sequential(encoder, nn.Flatten(), nn.Linear(64 * 64, 10)), (64, 64)


MODELS: dict[str, Callable[[], tuple[nn.Module, tuple[int, ...]]]] = {
    "convolutional": convolutional,
    "perceptron": perceptron,
    "normalized": normalized,
    "transformer": transformer,
}
SAMPLES = {"convolutional": 2048, "perceptron": 16384, "normalized": 1024, "transformer": 1024}


def measure(name: str, budget: int, samples: int) -> dict[str, float]:
    """The growth of this process's peak in MiB, with a budget in MiB."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model, shape = MODELS[name]()
    warm = Problem(model, (torch.randn(2, *shape), torch.zeros(2).long()), nn.CrossEntropyLoss())
    warm.hessian().matvec(torch.ones(warm.n))  # the first use of a library takes memory too
    data = torch.randn(samples, *shape), torch.randint(0, 10, (samples,))
    problem = Problem(
        model, data, nn.CrossEntropyLoss(), memory=budget * MEBIBYTE, dtype=torch.float32
    )
    v = torch.randn(problem.n)
    start = _settled()
    operator = problem.hessian(mode="kept")
    probe = _peak() - start
    _settled()
    for _ in range(3):
        operator.matvec(v)
    products = _peak() - start
    graphs = operator.graphs
    return {
        "needed": graphs.kept_bytes / MEBIBYTE / max(1, sum(graphs.kept)) * len(graphs.kept),
        "kept": float(sum(graphs.kept)),
        "batches": float(len(graphs.kept)),
        "planned": graphs.peak_bytes / MEBIBYTE,
        "probe": probe,
        "products": products,
    }


def _settled() -> float:
    """MiB held now, after all that is free has gone back; the peak starts anew."""
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status("VmRSS:")


def _peak() -> float:
    return _status("VmHWM:")


def _status(key: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def main() -> None:
    """Print a line for each model and budget."""
    head = ("model", "budget", "all graphs", "kept", "planned", "probe", "products", "of budget")
    print("".join(f"{title:>14}" for title in head))
    for name in MODELS:
        for budget in BUDGETS:
            done = subprocess.run(  # noqa: S603 - this file
                [sys.executable, __file__, name, str(budget), str(SAMPLES[name])],
                capture_output=True,
                text=True,
                check=True,
            )
            print(done.stdout.rstrip(), flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 4:
        name, budget, samples = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
        found = measure(name, budget, samples)
        kept = f"{found['kept']:.0f} of {found['batches']:.0f}"
        shown = [f"{found[key]:.0f}" for key in ("planned", "probe", "products")]
        of = f"{found['products'] / budget:.2f}"
        row = [name, str(budget), f"{found['needed']:.0f}", kept, *shown, of]
        print("".join(f"{cell:>14}" for cell in row))
    else:
        main()
