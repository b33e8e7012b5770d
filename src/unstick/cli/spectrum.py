"""``unstick spectrum``: the most negative and the largest curvatures."""

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
@options.budget(200)
@options.seed
@options.html()
@options.as_json
@options.quiet
def spectrum(
    target: str,
    checkpoint: Path | None,
    data_dir: Path | None,
    lowest: int,
    highest: int,
    budget: int,
    seed: int,
    html: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Both ends of the Hessian spectrum of TARGET."""
    run = load_run(target, checkpoint=checkpoint, data_dir=data_dir)
    with watching(expected(run.problem, budget), as_json=as_json, quiet=quiet) as progress:
        ends = unstick.curvature_ends(
            run.problem, lowest=lowest, highest=highest, budget=budget, seed=seed, progress=progress
        )
    deliver(ends, ends.outcome, as_json=as_json, html=html)
