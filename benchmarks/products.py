"""What one Hessian product costs in gradients, and what a warm start saves."""

import statistics
from collections.abc import Callable

import torch
from contestants import Contestant, Unstick, everybody
from reference import HIGHEST, LOWEST, Pairs, Reference, Ruler
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from workloads import Workload

import unstick
from unstick.spectrum.ends import Ends, ends
from unstick.spectrum.ends import Pairs as FoundPairs

__all__ = ["batched_products", "single_products", "warm_start"]

PRODUCTS = 40  # over which the set-up is counted
COLUMNS = (1, 8, 16, 32, 64)


def single_products(workload: Workload, console: Console) -> None:
    """Print what a product with one vector costs each contestant, on its own and with its set-up."""
    console.rule(f"{workload.name}: one Hessian product")
    reference = Reference(workload.model, workload.batches)
    ruler = Ruler(workload.model, workload.batches)
    vectors = torch.randn(PRODUCTS, reference.n, generator=torch.Generator().manual_seed(0))
    vectors = vectors.to(reference.device)
    expected = reference.products(vectors[0].unsqueeze(1))[:, 0]
    table = Table()
    for heading in ("", "construction", "a product", f"with set-up, over {PRODUCTS}", "error"):
        table.add_column(heading, justify="left" if not heading else "right")
    for contestant in everybody(workload.model, workload.batches):
        made, construction = ruler.time(contestant.construct)

        def several(c: Contestant = contestant, m: object = made) -> Callable[[Tensor], Tensor]:
            times = c.multiply(m)
            for v in vectors:
                times(v)
            return times

        times, with_setup = ruler.time(several)
        alone = [_some(ruler, times, vectors[:5]) for _ in range(5)]
        error = torch.linalg.vector_norm(times(vectors[0]).double() - expected)
        table.add_row(
            contestant.name,
            f"{construction.gradients:.1f} gradients",
            f"{statistics.median(alone):.2f} gradients",
            f"{with_setup.gradients / PRODUCTS:.2f} gradients",
            f"{float(error / torch.linalg.vector_norm(expected)):.0e}",
        )
        if isinstance(contestant, Unstick):
            console.print(made.notes[-1], style="dim", highlight=False)
    console.print(table)
    console.print(ruler.told())


def batched_products(workload: Workload, console: Console, repeats: int = 20) -> None:
    """Print what a product costs by the vector where many are computed at once."""
    console.rule(f"{workload.name}: Hessian products at once, gradients a vector")
    reference = Reference(workload.model, workload.batches)
    ruler = Ruler(workload.model, workload.batches)
    draw = torch.Generator().manual_seed(0)
    V = torch.randn(reference.n, max(COLUMNS), generator=draw).to(reference.device)
    expected = reference.products(V)
    table = Table()
    for heading in ("", *(f"{k} columns" if k > 1 else "1 vector" for k in COLUMNS), "error"):
        table.add_column(heading, justify="left" if not heading else "right")
    for contestant in everybody(workload.model, workload.batches):
        made = contestant.construct()
        times, name = contestant.multiply(made), contestant.name
        together = contestant.columns
        if isinstance(contestant, Unstick):
            name = f"{name} (in {str(made.dtype).removeprefix('torch.')})"

        def multiply(
            W: Tensor, times: Callable[[Tensor], Tensor] = times, together: bool = together
        ) -> Tensor:
            return times(W) if together else torch.stack([times(w) for w in W.T], dim=1)

        cells: list[str] = []
        for k in COLUMNS:
            W = V[:, :k].contiguous()
            multiply(W)  # set up and warm

            def repeat(W: Tensor = W, multiply: Callable[[Tensor], Tensor] = multiply) -> None:
                for _ in range(repeats):
                    multiply(W)

            took = statistics.median(ruler.time(repeat)[1].gradients for _ in range(5))
            cells.append(f"{took / (repeats * k):.2f}")
        error = torch.linalg.vector_norm(multiply(V).double() - expected)
        relative = float(error / torch.linalg.vector_norm(expected))
        table.add_row(name, *cells, f"{relative:.0e}")
    console.print(table)
    console.print(ruler.told())


def warm_start(workload: Workload, seeds: int, console: Console) -> None:
    """Print the products that a later checkpoint needs from the vectors of an earlier one, and from none."""
    console.rule(f"{workload.name}: 50 updates later, both ends to the same residuals")
    reference = Reference(workload.later, workload.batches)
    table = Table()
    for heading in ("", "products", "from … to", "worst: top five", "worst: λmin", "outcomes"):
        table.add_column(heading, justify="left" if not heading else "right")
    starts: dict[str, list[Ends]] = {"cold": [], "warm": []}
    for seed in range(seeds):
        before = _ends(workload.model, workload, seed)
        vectors = torch.cat([before.lowest.vectors, before.highest.vectors], dim=1)
        starts["cold"].append(_ends(workload.later, workload, seed))
        starts["warm"].append(_ends(workload.later, workload, seed, vectors))
        cold, warm = (starts[way][-1].products for way in ("cold", "warm"))
        console.print(f"  seed {seed}: cold {cold} products, warm {warm}", style="dim")
    for way, found in starts.items():
        products = [each.products for each in found]
        high = [float(reference.residuals(_pairs(each.highest)).max()) for each in found]
        low = [float(reference.residuals(_pairs(each.lowest)).max()) for each in found]
        table.add_row(
            way,
            f"{statistics.median(products):g}",
            f"{min(products)} … {max(products)}",
            f"{max(high):.1e}",
            f"{max(low):.1e}",
            ", ".join(sorted({each.outcome for each in found})),
        )
    console.print(table)
    saved = [c.products / w.products for c, w in zip(starts["cold"], starts["warm"], strict=True)]
    console.print(
        f"a cold start needs {statistics.median(saved):.2f} times the products of a warm one"
    )


def _some(ruler: Ruler, times: Callable[[Tensor], Tensor], vectors: Tensor) -> float:
    """Gradients a product."""

    def work() -> None:
        for v in vectors:
            times(v)

    return ruler.time(work)[1].gradients / len(vectors)


def _ends(model: nn.Module, workload: Workload, seed: int, start: Tensor | None = None) -> Ends:
    problem = unstick.Problem(model, workload.batches, nn.CrossEntropyLoss())
    return ends(
        problem.hessian(),
        generator=torch.Generator().manual_seed(seed),
        lowest=LOWEST,
        highest=HIGHEST,
        block=1,
        start=start,
    )


def _pairs(found: FoundPairs) -> Pairs:
    return Pairs(found.values, found.vectors)
