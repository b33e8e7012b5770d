"""``unstick spectrum``: the most negative and the largest curvatures, and the layers they belong to."""

from pathlib import Path

import click

import unstick
from unstick.cli import options
from unstick.cli.answers import deliver
from unstick.cli.progress import expected, watching
from unstick.cli.targets import load_run

__all__ = ["spectrum"]

COUNT = click.IntRange(min=0)


@click.command()
@options.target
@options.checkpoint
@options.data_dir
@click.option(
    "--lowest", default=1, show_default=True, type=COUNT, help="How many of the lowest eigenvalues."
)
@click.option(
    "--highest",
    default=5,
    show_default=True,
    type=COUNT,
    help="How many of the highest eigenvalues.",
)
@options.parameters
@click.option(
    "--by-layer",
    is_flag=True,
    help="Instead, the lowest and the highest eigenvalue of each layer's own block of the Hessian.",
)
@options.max_basis
@options.basis_on
@options.budget(200)
@options.seed
@options.plan
@options.html()
@options.as_json
@options.quiet
def spectrum(
    target: str,
    checkpoint: Path | None,
    data_dir: Path | None,
    lowest: int,
    highest: int,
    parameters: tuple[str, ...],
    by_layer: bool,
    max_basis: int | None,
    basis_on: str,
    budget: int,
    seed: int,
    plan: bool,
    html: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Both ends of the Hessian spectrum of TARGET, and the layers that their eigenvectors lie in."""
    problem = load_run(target, checkpoint=checkpoint, data_dir=data_dir).problem
    only, kept = parameters or None, options.storage(basis_on)
    with watching(expected(problem, budget), as_json=as_json, quiet=quiet or plan) as progress:
        if plan:
            found = unstick.plan_curvature(
                problem,
                lowest=lowest,
                highest=highest,
                parameters=only,
                max_basis=max_basis,
                storage=kept,
                budget=budget,
            )
        elif by_layer:
            found = unstick.curvature_by_layer(
                problem,
                budget=budget,
                seed=seed,
                parameters=only,
                max_basis=max_basis,
                storage=kept,
                progress=progress,
            )
        else:
            found = unstick.layered_ends(
                problem,
                lowest=lowest,
                highest=highest,
                budget=budget,
                seed=seed,
                parameters=only,
                max_basis=max_basis,
                storage=kept,
                progress=progress,
            )
    deliver(found, found.outcome, as_json=as_json, html=html)
