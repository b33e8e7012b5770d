"""``unstick convexity``: a proof that a problem is not convex, or how hard none was found."""

from pathlib import Path

import click

import unstick
from unstick.cli import options
from unstick.cli.answers import deliver
from unstick.cli.progress import expected, watching
from unstick.cli.targets import load_run

__all__ = ["convexity"]


@click.command()
@options.target
@options.checkpoint
@options.data_dir
@options.parameters
@click.option("--thorough", is_flag=True, help="Go on after the first violation.")
@options.budget(1000)
@options.seed
@options.html()
@options.png
@options.as_json
@options.quiet
def convexity(
    target: str,
    checkpoint: Path | None,
    data_dir: Path | None,
    parameters: tuple[str, ...],
    thorough: bool,
    budget: int,
    seed: int,
    html: Path | None,
    png: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Look for a violation of convexity in TARGET: one is a proof, none found is no proof."""
    problem = load_run(target, checkpoint=checkpoint, data_dir=data_dir).problem
    if parameters:
        problem = problem.restrict(parameters)
    with watching(expected(problem, budget), as_json=as_json, quiet=quiet) as progress:
        found = unstick.convexity(
            problem, thorough=thorough, budget=budget, seed=seed, progress=progress
        )
    deliver(found, found.outcome, as_json=as_json, html=html, png=png)
