"""What one Hessian product costs in gradients, and what a warm start saves."""

import statistics
from collections.abc import Callable

import torch
from contestants import Contestant, Unstick, everybody
from reference import HIGHEST, LOWEST, WANTED_HIGH, WANTED_LOW, Pairs, Reference, Ruler
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from workloads import Workload

import unstick
from unstick.spectrum.ends import Ends
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
    """Print the products that a search needs from the vectors of an earlier one, and from none."""
    console.rule(f"{workload.name}: from the vectors found before")
    table = Table()
    for heading in ("", "cold", "warm", "warm : cold", "worst residual : allowed", "outcomes"):
        table.add_column(heading, justify="left" if not heading else "right")
    before = [_ends(workload, workload.model, seed) for seed in range(seeds)]
    later, both = "50 updates later", (LOWEST, HIGHEST)
    for name, model, wanted, scale in (
        ("same point, a tenth of the residuals", workload.model, both, 0.1),
        (f"{later}, both ends", workload.later, both, 1.0),
        (f"{later}, the top five alone", workload.later, (0, HIGHEST), 1.0),
    ):
        reference = Reference(model, workload.batches)
        cold, warm = [], []
        for seed, known in enumerate(before):
            start = _vectors(known, *wanted)
            cold.append(_ends(workload, model, seed, wanted, scale))
            warm.append(_ends(workload, model, seed, wanted, scale, start))
            console.print(
                f"  {name}, seed {seed}: cold {cold[-1].products} products, warm {warm[-1].products}",
                style="dim",
            )
        worst = [
            max(
                float(reference.residuals(_pairs(pairs)).max()) / (scale * allowed)
                for pairs, allowed in ((each.lowest, WANTED_LOW), (each.highest, WANTED_HIGH))
                if len(pairs.values)
            )
            for each in warm
        ]
        table.add_row(
            name,
            *(f"{statistics.median(each.products for each in found):g}" for found in (cold, warm)),
            f"{statistics.median(w.products / c.products for c, w in zip(cold, warm, strict=True)):.2f}",
            f"{max(worst):.2f}",
            ", ".join(sorted({each.outcome for each in cold + warm})),
        )
        if wanted == both and model is workload.later:
            kept = torch.linalg.vector_norm(_vectors(known).T @ _vectors(cold[-1]), dim=0).tolist()
            console.print(
                f"of the later eigenvectors the earlier ones hold: λmin {kept[0]:.3f}, "
                f"top five {min(kept[1:]):.3f} to {max(kept[1:]):.3f} of the length"
            )
    console.print(table)


def _some(ruler: Ruler, times: Callable[[Tensor], Tensor], vectors: Tensor) -> float:
    """Gradients a product."""

    def work() -> None:
        for v in vectors:
            times(v)

    return ruler.time(work)[1].gradients / len(vectors)


def _ends(
    workload: Workload,
    model: nn.Module,
    seed: int,
    wanted: tuple[int, int] = (LOWEST, HIGHEST),
    scale: float = 1.0,
    start: Tensor | None = None,
) -> Ends:
    problem = unstick.Problem(model, workload.batches, nn.CrossEntropyLoss())
    return unstick.curvature_ends(
        problem,
        lowest=wanted[0],
        highest=wanted[1],
        tolerance=(scale * WANTED_LOW, scale * WANTED_HIGH),
        budget=1e4,
        seed=seed,
        start=start,
    )


def _vectors(found: Ends, lowest: int = LOWEST, highest: int = HIGHEST) -> Tensor:
    """The outermost eigenvectors, lowest first."""
    return torch.cat([found.lowest.vectors[:, :lowest], found.highest.vectors[:, :highest]], dim=1)


def _pairs(found: FoundPairs) -> Pairs:
    return Pairs(found.values, found.vectors)
