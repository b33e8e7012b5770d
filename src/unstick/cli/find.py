"""``unstick find``: a critical point near the parameters, or many, and which kind each is."""

from pathlib import Path
from typing import Any

import click

import unstick
from unstick.cli import options
from unstick.cli.answers import deliver
from unstick.cli.checkpoints import check_free, save_checkpoint
from unstick.cli.progress import speaks, watching
from unstick.cli.targets import load_run
from unstick.errors import UnstickError

__all__ = ["find"]

METHODS = ("auto", "newton-mr", "levenberg-marquardt", "gradient-norm")


@click.command()
@options.target
@options.checkpoint
@options.data_dir
@click.option(
    "--method",
    type=click.Choice(METHODS),
    default="auto",
    show_default=True,
    help="auto: Levenberg-Marquardt with the exact Hessian where that is cheap, else Newton-MR.",
)
@click.option(
    "--starts",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    help="Searches; one starts at the parameters themselves.",
)
@click.option(
    "--train",
    "updates",
    type=click.IntRange(min=1),
    help="Start from points along a training of a copy for so many updates, uniformly in loss.",
)
@click.option(
    "--noise",
    default=0.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Standard deviation of a nudge of every parameter; with --train of every other start.",
)
@click.option("--steps", type=click.IntRange(min=1), help="Of each search, at most.")
@click.option(
    "--store",
    type=click.Path(path_type=Path),
    help="Keep finished searches in this file, and go on from it.",
)
@click.option(
    "--save",
    type=click.Path(path_type=Path),
    help="Write the model at the found point (one start) to this new .pt, .pth or .safetensors file.",
)
@click.option(
    "--budget", type=click.IntRange(min=1), help="Most work to spend, in full-data gradients."
)
@options.seed
@options.html()
@options.png
@options.as_json
@options.quiet
def find(
    target: str,
    checkpoint: Path | None,
    data_dir: Path | None,
    method: str,
    starts: int,
    updates: int | None,
    noise: float,
    steps: int | None,
    store: Path | None,
    save: Path | None,
    budget: int | None,
    seed: int,
    html: Path | None,
    png: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Find critical points of TARGET: where the gradient is zero, minimum or saddle alike.

    A point at which the gradient merely stopped shrinking is told as what it is: gradient-flat, or neither.
    """
    many = starts > 1 or updates is not None or noise > 0 or store is not None
    if save is not None:
        if many:
            raise UnstickError("--save is for one search from the parameters themselves")
        check_free(save)
    run = load_run(target, checkpoint=checkpoint, data_dir=data_dir)
    how: dict[str, Any] = {"method": method, "steps": steps, "budget": budget, "seed": seed}
    with watching(None, as_json=as_json, quiet=quiet) as progress:
        if many:
            found = unstick.search_critical_points(
                run,
                starts=starts,
                updates=updates,
                noise=noise,
                store=store,
                progress=progress,
                **how,
            )
            outcome = found.outcome
        else:
            found = unstick.find_critical_point(
                run.problem, apply=save is not None, progress=progress, **how
            )
            outcome = found.ended
    if save is not None and speaks():
        save_checkpoint(run.problem.model, save)
        click.echo(f"The model at the found point is in {save}.", err=True)
    deliver(found, outcome, as_json=as_json, html=html, png=png)
