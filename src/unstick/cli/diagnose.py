"""``unstick diagnose``: why a training is stuck, with the proof."""

from pathlib import Path

import click

import unstick
from unstick.cli import options
from unstick.cli.answers import deliver
from unstick.cli.progress import expected, watching
from unstick.cli.targets import load_run

__all__ = ["diagnose"]


@click.command()
@options.target
@options.checkpoint
@options.data_dir
@options.budget(500)
@options.seed
@options.plan
@options.html()
@options.as_json
@options.quiet
@click.option(
    "--fail-on-stall",
    is_flag=True,
    help="Exit with 3 if the model is at a critical point of any kind.",
)
@click.pass_context
def diagnose(
    context: click.Context,
    target: str,
    checkpoint: Path | None,
    data_dir: Path | None,
    budget: int,
    seed: int,
    plan: bool,
    html: Path | None,
    as_json: bool,
    quiet: bool,
    fail_on_stall: bool,
) -> None:
    """Why training is stuck at TARGET, with the proof.

    The model is left as it was. Pictures of the landscape are made for --html only and come on top of --budget.
    """
    run = load_run(target, checkpoint=checkpoint, data_dir=data_dir)
    if plan:
        told = unstick.plan_verdict(run.problem, budget=budget)
        deliver(told, told.outcome, as_json=as_json, html=html)
        return
    with watching(expected(run.problem, budget), as_json=as_json, quiet=quiet) as progress:
        found = unstick.diagnose(
            run.problem, budget=budget, seed=seed, pictures=html is not None, progress=progress
        )
    deliver(found, found.outcome, as_json=as_json, html=html)
    moving = (unstick.Kind.NOT_CRITICAL, unstick.Kind.UNDECIDED)
    context.exit(3 if fail_on_stall and found.point.kind not in moving else 0)
