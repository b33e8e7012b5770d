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
@click.option(
    "--history",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The losses of the run: .jsonl, .csv or .parquet with a column loss; instead of the target's own.",
)
@click.option(
    "--trials/--no-trials",
    default=True,
    show_default=True,
    help="Restart where the point leads nowhere, to tell a floor of the model from a local minimum.",
)
@options.budget(500)
@options.seed
@options.plan
@options.html()
@options.as_json
@options.quiet
@click.option(
    "--fail-on-stall",
    is_flag=True,
    help="Exit with 3 if something holds the training: any cause but progressing, model-floor and undecided.",
)
@click.pass_context
def diagnose(
    context: click.Context,
    target: str,
    checkpoint: Path | None,
    data_dir: Path | None,
    history: Path | None,
    trials: bool,
    budget: int,
    seed: int,
    plan: bool,
    html: Path | None,
    as_json: bool,
    quiet: bool,
    fail_on_stall: bool,
) -> None:
    """Why training is stuck at TARGET, with the proof.

    A TARGET that returns an unstick.Run with the optimizer, the batch size and the history of losses tells more: copies of
    the run are trained on, unchanged and with one setting changed each. The model is left as it was. Pictures of the landscape are made for --html only and come on top of --budget.
    """
    run = load_run(target, checkpoint=checkpoint, data_dir=data_dir)
    if plan:
        told = unstick.plan_verdict(run.problem, budget=budget)
        deliver(told, told.outcome, as_json=as_json, html=html)
        return
    with watching(expected(run.problem, budget), as_json=as_json, quiet=quiet) as progress:
        found = unstick.diagnose(
            run.problem,
            run.optimizer,
            batch_size=run.batch_size,
            history=run.history if history is None else unstick.RunTrace.read(history),
            scheduler=run.scheduler,
            clip_norm=run.clip_norm,
            trials=trials,
            budget=budget,
            seed=seed,
            pictures=html is not None,
            progress=progress,
        )
    deliver(found, found.outcome, as_json=as_json, html=html)
    context.exit(3 if fail_on_stall and found.stalled else 0)
