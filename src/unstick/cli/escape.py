"""``unstick escape``: move a stuck model off its critical point, and prove that it got lower."""

from pathlib import Path

import click

import unstick
from unstick.cli import options
from unstick.cli.answers import deliver
from unstick.cli.checkpoints import check_free, save_checkpoint
from unstick.cli.progress import expected, speaks, watching
from unstick.cli.targets import load_run
from unstick.errors import UnstickError

__all__ = ["escape"]


@click.command()
@options.target
@options.checkpoint
@options.data_dir
@click.option(
    "--save",
    type=click.Path(path_type=Path),
    help="Write the moved model's state dict to this new .pt, .pth or .safetensors file.",
)
@options.budget(200)
@options.seed
@options.plan
@options.html()
@options.as_json
@options.quiet
def escape(
    target: str,
    checkpoint: Path | None,
    data_dir: Path | None,
    save: Path | None,
    budget: int,
    seed: int,
    plan: bool,
    html: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Move the model of TARGET along negative curvature to a lower loss.

    The loss is measured before and after. Without --save the move is only shown.
    """
    if save is not None:
        check_free(save)
    run = load_run(target, checkpoint=checkpoint, data_dir=data_dir)
    if plan:
        told = unstick.plan_verdict(run.problem, budget=budget)
        deliver(told, told.outcome, as_json=as_json, html=html)
        return
    with watching(expected(run.problem, budget), as_json=as_json, quiet=quiet) as progress:
        moved = unstick.escape(run.problem, budget=budget, seed=seed, progress=progress)
    if save is not None and moved.moved and speaks():
        save_checkpoint(run.problem.model, save)
        click.echo(f"The moved model is in {save}.", err=True)
    deliver(moved, moved.outcome, as_json=as_json, html=html)
    if save is not None and not moved.moved:
        raise UnstickError(f"{save} was not written: the model did not move")
