"""``unstick landscape``: the loss over a plane through the parameters, between checkpoints, or along a training."""

from pathlib import Path
from typing import Any

import click

import unstick
from unstick.cli import options
from unstick.cli.answers import deliver
from unstick.cli.checkpoints import read_state_dict
from unstick.cli.progress import watching
from unstick.cli.targets import load_run
from unstick.errors import UnstickError

__all__ = ["landscape"]


@click.command()
@options.target
@options.checkpoint
@options.data_dir
@click.option(
    "--along",
    type=click.Choice(["random", "eigenvectors", "gradient", "training"]),
    default="random",
    show_default=True,
    help="Two filter-normalized random directions; the eigenvectors of the lowest and the highest eigenvalue; −g against the "
    "lowest eigenvector; or the plane of a training's two principal components.",
)
@click.option(
    "--between",
    nargs=2,
    type=click.Path(path_type=Path),
    help="Instead, the straight line between two checkpoints.",
)
@click.option(
    "--buffers",
    type=click.Choice(["travel", "recompute", "keep"]),
    help="What becomes of batch normalization's statistics on that line.  [default: travel]",
)
@click.option(
    "--train",
    "updates",
    default=500,
    show_default=True,
    type=click.IntRange(min=2),
    help="Updates of the training of a copy, with --along training.",
)
@click.option(
    "--points", default=51, show_default=True, type=click.IntRange(min=3), help="Of each side."
)
@click.option(
    "--reach",
    type=click.FloatRange(min=0, min_open=True),
    help="Distance to each side, in parameter space.  [default: the parameters' own size, or as far as the loss visibly changes]",
)
@click.option("--accuracy", is_flag=True, help="Measure accuracy too.")
@click.option(
    "--gradient-norm", is_flag=True, help="Measure the gradient's norm too; four times the work."
)
@click.option(
    "--sharpness", is_flag=True, help="Measure λ max, Keskar's φ and adaptive sharpness too."
)
@click.option(
    "--rescale",
    is_flag=True,
    help="Write the same function in other ways (two layers of ReLU units rescaled), and measure again.",
)
@click.option(
    "--store",
    type=click.Path(path_type=Path),
    help="Keep finished rows in this file, and go on from it.",
)
@options.budget(200)
@options.seed
@options.html()
@options.png
@options.as_json
@options.quiet
def landscape(
    target: str,
    checkpoint: Path | None,
    data_dir: Path | None,
    along: Any,  # click holds it to the choices
    between: tuple[Path, Path] | None,
    buffers: Any,
    updates: int,
    points: int,
    reach: float | None,
    accuracy: bool,
    gradient_norm: bool,
    sharpness: bool,
    rescale: bool,
    store: Path | None,
    budget: int,
    seed: int,
    html: Path | None,
    png: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """The loss of TARGET over a plane through its parameters, to look at."""
    if (between or along == "training") and (sharpness or rescale):
        raise UnstickError("--sharpness and --rescale are for planes around the parameters")
    run = load_run(target, checkpoint=checkpoint, data_dir=data_dir)
    problem = run.problem
    asked = {"accuracy": accuracy, "gradient norm": gradient_norm}
    measures = ("loss", *(name for name, wanted in asked.items() if wanted))
    with watching(None, as_json=as_json, quiet=quiet) as progress:
        if between:
            first, second = (read_state_dict(path) for path in between)
            found = unstick.interpolate(
                problem,
                first,
                second,
                points=points,
                buffers=buffers,
                measures=measures,
                progress=progress,
            )
        elif along == "training":
            way = unstick.trajectory(run, updates=updates, seed=seed, progress=progress)
            found = unstick.trajectory_plane(
                problem,
                way.thetas,
                points=points,
                measures=measures,
                store=store,
                progress=progress,
            )
        else:
            found = unstick.survey(
                problem,
                along=along,
                points=points,
                reach=reach,
                measures=measures,
                sharp=sharpness,
                rewrite=rescale,
                seed=seed,
                budget=budget,
                store=store,
                progress=progress,
            )
    deliver(found, found.outcome, as_json=as_json, html=html, png=png)
