"""Both ends of one Hessian by every contestant: time to the wanted residuals, and residuals against time."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from contestants import Contestant, everybody
from reference import Batches, Reference, Ruler, Timed, Verdict
from rich.console import Console
from rich.table import Table
from torch import nn
from tuning import Settings

__all__ = ["Point", "race"]

OURS = "unstick"


@dataclass(frozen=True)
class Point:
    """One run in the picture: what it took and how exact it was."""

    workload: str
    contestant: str
    gradients: float
    high: float  # largest residual of the top five
    low: float  # residual of λmin; nan: not reported


@dataclass(frozen=True)
class Run:
    """One timed run from one start."""

    construction: Timed
    solving: Timed
    products: int
    verdict: Verdict
    settings: Settings


def race(
    name: str,
    model: nn.Module,
    batches: Batches,
    *,
    seeds: int,
    curves: bool,
    only: Sequence[str],
    console: Console,
) -> list[Point]:
    """Time every contestant from every start, print the table, and return the points of the picture."""
    console.rule(f"{name}: top five to 1e-3 and λmin to 1e-2, true residuals")
    reference = Reference(model, batches)
    high, low = reference.extremes()
    listed = ", ".join(f"{value:.4g}" for value in high.tolist())
    console.print(
        f"{reference.n:,} parameters; eigenvalues by the reference: {listed} … {low[0]:.4g}"
    )
    ruler = Ruler(model, batches)
    chosen = [c for c in everybody(model, batches) if not only or _named(c, only)]
    runs: dict[str, list[Run]] = {c.name: [] for c in chosen}
    for seed in range(seeds):  # all from one start after another, so that a busy minute hits all
        for contestant in chosen:
            run = _run(contestant, seed, contestant.tune(seed, reference), reference, ruler)
            runs[contestant.name].append(run)
            console.print(
                f"  seed {seed}, {contestant.name}: {run.solving.gradients:.0f} gradients, {run.products} products, "
                f"residuals {run.verdict.high:.1e} and {run.verdict.low:.1e}"
                f"{', another eigenvalue' if run.verdict.missed else ''}; {_told(run.settings)}",
                style="dim",
                highlight=False,
            )
    console.print(_table(runs))
    console.print(ruler.told())
    if not curves:
        return []
    return [p for c in chosen for p in _curve(name, c, runs[c.name][0], reference, ruler, console)]


def _run(
    contestant: Contestant, seed: int, settings: Settings, reference: Reference, ruler: Ruler
) -> Run:
    made, construction = ruler.time(contestant.construct)
    answer, solving = ruler.time(lambda: contestant.solve(made, seed, settings))
    return Run(construction, solving, answer.products, reference.judge(answer), settings)


def _curve(
    workload: str,
    contestant: Contestant,
    finished: Run,
    reference: Reference,
    ruler: Ruler,
    console: Console,
) -> list[Point]:
    points: list[Point] = []
    seen: set[int] = set()
    for settings in contestant.ladder(finished.settings):
        run = _run(contestant, 0, settings, reference, ruler)
        if run.products in seen:  # the same answer
            continue
        seen.add(run.products)
        point = Point(
            workload, contestant.name, run.solving.gradients, run.verdict.high, run.verdict.low
        )
        points.append(point)
        console.print(
            f"  curve, {point.contestant}: {point.gradients:.0f} gradients, residuals {point.high:.1e} and {point.low:.1e}",
            style="dim",
            highlight=False,
        )
    return points


def _table(runs: dict[str, list[Run]]) -> Table:
    table = Table()
    for heading in ("", "construction", "both ends", "from … to", "of the fastest peer"):
        table.add_column(heading, justify="left" if not heading else "right")
    for heading in ("products", "worst: top five", "worst: λmin", "reached"):
        table.add_column(heading, justify="right")
    peers = [
        _median(of)
        for name, of in runs.items()
        if name != OURS and all(run.verdict.reached() and _has_low(run) for run in of)
    ]
    for name, of in runs.items():
        took = [run.solving.gradients for run in of]
        construction = statistics.median(run.construction.gradients for run in of)
        table.add_row(
            name if _has_low(of[0]) else f"{name} (top five only)",
            f"{construction:.1f} gradients",
            f"{_median(of):.0f} gradients",
            f"{min(took):.0f} … {max(took):.0f}",
            f"{_median(of) / min(peers):.2f}" if peers else "no peer reached",
            f"{statistics.median(run.products for run in of):g}",
            f"{max(run.verdict.high for run in of):.1e}",
            f"{max(run.verdict.low for run in of):.1e}" if _has_low(of[0]) else "cannot",
            f"{sum(run.verdict.reached() for run in of)} of {len(of)}",
        )
    return table


def _median(runs: Sequence[Run]) -> float:
    return statistics.median(run.solving.gradients for run in runs)


def _has_low(run: Run) -> bool:
    return run.verdict.low == run.verdict.low  # not nan


def _named(contestant: Contestant, only: Sequence[str]) -> bool:
    return any(part.lower() in contestant.name.lower() for part in only)


def _told(settings: Settings) -> str:
    runs = settings.get("runs", [settings])
    return "; ".join(
        ", ".join(f"{key} {value}" for key, value in run.items() if value is not None)
        for run in runs
    )
