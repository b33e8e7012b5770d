"""Both ends of the Hessian's spectrum beside the real peers, in one process and one run.

Everybody is judged by the true residual ‖Hv − λv‖/|λ| of one reference operator in float64 that shares no code with
any contestant, and timed in plain gradients. Peers get settings tuned on the problem itself, by a search that is not
timed; this package gets its defaults.

    python benchmarks/curvature.py [A|B|product|dense|warm|resnet|gpt2|all ...]

A, B     time to the top five at 1e-3 and λmin at 1e-2, and the picture benchmarks/out/curvature.html
product  one Hessian product in gradients
dense    the whole Hessian of a small network beside torch.func.hessian
warm     a later checkpoint, from the vectors of an earlier one
resnet, gpt2    the same as A for networks of a size for a GPU

A, B, warm and most of product need the folder of MNIST in the environment variable UNSTICK_DATA.
"""

import argparse
import dataclasses
import importlib.util
import os
import sys
import warnings
from pathlib import Path

import torch
from rich.console import Console
from workloads import Workload, digits_network, mnist_convolutional, mnist_tanh

__all__ = ["main"]

SECTIONS = ("A", "B", "product", "dense", "warm", "resnet", "gpt2")
PEERS = ("hessian_eigenthings", "curvlinops", "pyhessian")
MNIST = {"A": mnist_tanh, "B": mnist_convolutional}


def main() -> None:
    """Parse, run the sections, draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--seeds", type=int, default=5, help="random starts (5)")
    parser.add_argument("--device", default="cpu", help="such as cuda (cpu)")
    parser.add_argument("--only", nargs="+", default=[], help="contestants, by parts of names")
    parser.add_argument("--no-curves", action="store_true", help="no picture")
    asked = parser.parse_args()
    sections = asked.sections or ["all"]
    if unknown := set(sections) - {*SECTIONS, "all"}:
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    missing = [name for name in PEERS if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(
            f"not installed: {', '.join(missing)}; `pip install --no-deps -r benchmarks/peers.txt`"
        )
    run(SECTIONS if "all" in sections else sections, asked)


def run(sections: "list[str] | tuple[str, ...]", asked: argparse.Namespace) -> None:
    """The sections in order."""
    # Only now: these import the peers.
    from dense import dense
    from large import LARGE
    from pictures import draw
    from products import batched_products, single_products, warm_start
    from race import Point, race

    # The peers' own, on every run; it would hide the tables.
    warnings.filterwarnings("ignore", message=r"Using backward\(\) with create_graph=True")
    console = Console(width=None if sys.stdout.isatty() else 150)
    device = torch.device(asked.device)
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    console.print(f"torch {torch.__version__}, {kind}, {torch.get_num_threads()} threads")
    has_mnist = bool(os.environ.get("UNSTICK_DATA"))
    if not has_mnist and {"A", "B", "warm", "product"} & set(sections):
        console.print("A and B are skipped: UNSTICK_DATA names no folder with MNIST")
    points: list[Point] = []

    def compete(workload: Workload) -> None:
        points.extend(
            race(
                workload.name,
                workload.model,
                workload.batches,
                seeds=asked.seeds,
                curves=not asked.no_curves,
                only=asked.only,
                console=console,
            )
        )

    mnist = {name: make for name, make in MNIST.items() if has_mnist}
    for section in sections:
        if section in mnist:
            compete(_moved(mnist[section](), device))
        elif section == "product":
            for make in mnist.values():
                single_products(_moved(make(), device), console)
            batched_products(_moved(digits_network(64, 32, 10, samples=64), device), console)
        elif section == "dense":
            dense(console)
        elif section == "warm":
            for make in mnist.values():
                warm_start(_moved(make(), device), asked.seeds, console)
        elif section in LARGE and device.type != "cuda":
            console.print(f"{section} is skipped: it is for GPUs; use --device cuda")
        elif section in LARGE and importlib.util.find_spec("transformers") is None:
            console.print(f"{section} is skipped: it needs transformers, which is not installed")
        elif section in LARGE:
            compete(LARGE[section](device))
    if points:
        for line in draw(points, Path(__file__).parent / "out"):
            console.print(line)


def _moved(workload: Workload, device: torch.device) -> Workload:
    return dataclasses.replace(
        workload,
        model=workload.model.to(device),
        later=workload.later.to(device),
        batches=[(inputs.to(device), targets.to(device)) for inputs, targets in workload.batches],
    )


if __name__ == "__main__":
    main()
